//! Where the metric tables of a run lie: `metrics`, and what the judge says of itself, `reliability`.

use std::path::{Path, PathBuf};

use crate::ReportError;

/// One metrics table of a run.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MetricsFile {
    /// The round, from 1; 0 for nodes that run once.
    pub round: u32,
    /// The pipeline node that wrote it.
    pub node: String,
    /// The file.
    pub path: PathBuf,
}

/// Finds every `metrics.parquet` and `reliability.parquet` below `run`, ordered by round and node.
///
/// # Errors
/// If a folder cannot be read, or there is none.
pub fn metrics_files(run: &Path, pipeline: &str) -> Result<Vec<MetricsFile>, ReportError> {
    let mut files = Vec::new();
    if run.is_dir() {
        for (name, folder) in entries(run)? {
            let round = match name.strip_prefix("round-") {
                Some(number) => number.parse().ok(),
                None => (name == "once").then_some(0),
            };
            if let Some(round) = round {
                collect(round, &folder, &mut files)?;
            }
        }
    }
    if files.is_empty() {
        return Err(ReportError::NothingFinished {
            path: run.to_owned(),
            pipeline: pipeline.to_owned(),
        });
    }
    files.sort();
    Ok(files)
}

/// Tables of metrics@1 by file name, each with the stage whose table has no folder of its own.
const TABLES: [(&str, &str); 2] = [
    ("reliability.parquet", "judge"),
    ("metrics.parquet", "steer-eval"),
];

/// Adds the tables of the round's own stages (`metrics.parquet`) and those of named nodes (`NODE/metrics.parquet`).
fn collect(round: u32, folder: &Path, files: &mut Vec<MetricsFile>) -> Result<(), ReportError> {
    let mut add = |node: &str, path: PathBuf| {
        if path.is_file() {
            files.push(MetricsFile {
                round,
                node: node.to_owned(),
                path,
            });
        }
    };
    let nodes = entries(folder)?;
    for (table, stage) in TABLES {
        add(stage, folder.join(table));
        for (node, path) in &nodes {
            if path.is_dir() {
                add(node, path.join(table));
            }
        }
    }
    Ok(())
}

/// Returns the rounds that have a folder, by number.
///
/// # Errors
/// If the folder cannot be read.
pub fn rounds(run: &Path) -> Result<Vec<(u32, PathBuf)>, ReportError> {
    let mut rounds: Vec<(u32, PathBuf)> = entries(run)?
        .into_iter()
        .filter(|(_, path)| path.is_dir())
        .filter_map(|(name, path)| Some((name.strip_prefix("round-")?.parse().ok()?, path)))
        .collect();
    rounds.sort();
    Ok(rounds)
}

/// Returns the nodes of a round that have a folder of their own.
///
/// # Errors
/// If the folder cannot be read.
pub fn nodes(round: &Path) -> Result<Vec<String>, ReportError> {
    let folders = entries(round)?
        .into_iter()
        .filter(|(_, path)| path.is_dir());
    Ok(folders
        .map(|(name, _)| name)
        .filter(|name| name != "summaries")
        .collect())
}

/// Returns what lies in a folder, by name.
///
/// # Errors
/// If the folder cannot be read.
pub(crate) fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, ReportError> {
    let failed = |source| ReportError::Io {
        path: folder.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if let Ok(name) = entry.file_name().into_string() {
            found.push((name, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_judges_reliability_is_found_beside_the_metrics() {
        let run = tempfile::tempdir().expect("temporary folders can be made");
        for file in [
            "round-1/metrics.parquet",
            "round-1/reliability.parquet",
            "round-1/gold/metrics.parquet",
            "round-1/second/reliability.parquet",
            "round-1/judgments.parquet",
            "once/test/metrics.parquet",
            "notes/metrics.parquet",
        ] {
            let path = run.path().join(file);
            let folder = path.parent().expect("it lies in a folder");
            std::fs::create_dir_all(folder).expect("the folder is writable");
            std::fs::File::create(path).expect("the folder is writable");
        }
        let found: Vec<(u32, String)> = metrics_files(run.path(), "q")
            .expect("some are there")
            .into_iter()
            .map(|file| (file.round, file.node))
            .collect();
        let expected = [
            (0, "test"),
            (1, "gold"),
            (1, "judge"),
            (1, "second"),
            (1, "steer-eval"),
        ];
        assert_eq!(
            found,
            expected.map(|(round, node)| (round, node.to_owned()))
        );
    }
}
