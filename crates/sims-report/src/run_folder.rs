//! Where the metric tables of a run lie.

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

/// Finds every `metrics.parquet` below `run`, ordered by round and node.
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

/// Adds the table of the round's own stage (`metrics.parquet`) and those of named nodes (`NODE/metrics.parquet`).
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
    add("steer-eval", folder.join("metrics.parquet"));
    for (node, path) in entries(folder)? {
        if path.is_dir() {
            add(&node, path.join("metrics.parquet"));
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, ReportError> {
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
