//! What differs between two runs: settings, what was read, what came out, and figures with their intervals.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;
use sims_artifact::store::Store;
use sims_artifact::tables::MetricRow;
use sims_artifact::{Digest, read_table};

use crate::PipelineError;
use crate::explain::{Difference, differ};
use crate::run_record::{RunRecord, StageRecord};

/// The differences between two runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RunDifference {
    /// The stages of either run, by round and name.
    pub stages: Vec<StageDifference>,
    /// The figures that both have and that differ.
    pub figures: Vec<FigureDifference>,
}

/// One stage in two runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StageDifference {
    /// The stage and its round: `round-2/fit`.
    pub name: PathBuf,
    /// How they compare.
    pub comparison: Comparison,
    /// The fields of the action documents that differ; those of inputs that stages made are left out.
    pub fields: Vec<Difference>,
    /// The outputs whose bytes differ, by role.
    pub outputs: Vec<String>,
}

/// How a stage of one run compares with that of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Comparison {
    /// It is the same action.
    Same,
    /// It was set otherwise, or read other files.
    Changed,
    /// It differs only because stages before it do.
    Follows,
    /// Only the first run has it.
    OnlyFirst,
    /// Only the second run has it.
    OnlySecond,
}

/// A figure in two runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FigureDifference {
    /// The stage and round whose metrics hold it.
    pub stage: PathBuf,
    /// The figure, and what it is compared with in its run.
    pub metric: String,
    /// The policy that it is compared with; empty where it stands alone.
    pub baseline: String,
    /// Value, lower and upper end of its interval, in the first run.
    pub first: (f64, Option<f64>, Option<f64>),
    /// The same in the second run.
    pub second: (f64, Option<f64>, Option<f64>),
}

impl FigureDifference {
    /// Tells whether both have intervals, and these do not meet.
    pub fn is_apart(&self) -> bool {
        match (self.first, self.second) {
            ((_, Some(low), Some(high)), (_, Some(other_low), Some(other_high))) => {
                high < other_low || other_high < low
            }
            _ => false,
        }
    }
}

/// Compares the runs whose views lie in two folders (`runs/<pipeline>`), each with its store.
///
/// # Errors
/// [`PipelineError::Usage`] for a folder without a run; if a table or the store cannot be read.
pub fn run_difference(
    first: (&Path, &Store),
    second: (&Path, &Store),
) -> Result<RunDifference, PipelineError> {
    let records = [load(first.0)?, load(second.0)?];
    let names: BTreeSet<&PathBuf> = records
        .iter()
        .flat_map(|record| record.stages.keys())
        .collect();
    let mut stages = Vec::new();
    let mut figures = Vec::new();
    for name in names {
        let both = (records[0].stages.get(name), records[1].stages.get(name));
        let (one, other) = match both {
            (Some(one), Some(other)) => (one, other),
            (one, _) => {
                stages.push(StageDifference {
                    name: name.clone(),
                    comparison: match one {
                        Some(_) => Comparison::OnlyFirst,
                        None => Comparison::OnlySecond,
                    },
                    fields: Vec::new(),
                    outputs: Vec::new(),
                });
                continue;
            }
        };
        stages.push(stage_difference(name, (one, first.1), (other, second.1))?);
        let metrics = [(first.0, one), (second.0, other)];
        figures.extend(figure_differences(name, metrics)?);
    }
    Ok(RunDifference { stages, figures })
}

fn load(folder: &Path) -> Result<RunRecord, PipelineError> {
    if folder.join("run.json").is_file() {
        let mut record = RunRecord::load(folder);
        // A stage without views belongs to a longer run before this one, or is to run again.
        record.stages.retain(|_, stage| !stage.views.is_empty());
        return Ok(record);
    }
    Err(PipelineError::Usage(format!(
        "{} holds no run: name a folder such as runs/quickstart, which `sims run` fills",
        folder.display()
    )))
}

fn stage_difference(
    name: &Path,
    (one, first): (&StageRecord, &Store),
    (other, second): (&StageRecord, &Store),
) -> Result<StageDifference, PipelineError> {
    let mut difference = StageDifference {
        name: name.to_owned(),
        comparison: Comparison::Same,
        fields: Vec::new(),
        outputs: Vec::new(),
    };
    if one.key == other.key {
        return Ok(difference);
    }
    // Without documents only the outputs can be compared.
    let documents = (
        first.action_document(&one.key)?,
        second.action_document(&other.key)?,
    );
    if let (Some(mut before), Some(mut after)) = documents {
        name_sources(&mut before, &one.sources);
        name_sources(&mut after, &other.sources);
        differ("", Some(&before), Some(&after), &mut difference.fields);
    }
    // The same bytes under another name are no difference, and what stages made follows from them.
    let is_of_no_account = |field: &Difference| {
        let is_input = field.field.starts_with("inputs.") && field.field.ends_with(".digest");
        let digest = |value: &Option<Value>| {
            let text = value.as_ref().and_then(Value::as_str);
            text.map(|text| (digest_in(text).to_owned(), text.contains('(')))
        };
        match (digest(&field.before), digest(&field.after)) {
            (Some((before, is_named)), Some((after, is_also_named))) => {
                is_input && (before == after || !(is_named || is_also_named))
            }
            _ => false,
        }
    };
    difference.fields.retain(|field| !is_of_no_account(field));
    difference.comparison = match difference.fields.is_empty() {
        true => Comparison::Follows,
        false => Comparison::Changed,
    };
    let results = (
        first.action_result(&one.key)?,
        second.action_result(&other.key)?,
    );
    if let (Some(before), Some(after)) = results {
        let roles: BTreeSet<&String> = before.outputs.keys().chain(after.outputs.keys()).collect();
        let digest = |outputs: &BTreeMap<String, sims_artifact::store::ActionOutput>,
                      role: &str| {
            outputs.get(role).map(|output| output.digest)
        };
        difference.outputs = roles
            .into_iter()
            .filter(|role| digest(&before.outputs, role) != digest(&after.outputs, role))
            .cloned()
            .collect();
    }
    Ok(difference)
}

/// Returns the first digits of the digest in a text that [`name_sources`] may have put a path before.
fn digest_in(text: &str) -> &str {
    let digest = text.rsplit_once('(').map_or(text, |(_, digest)| digest);
    &digest[..digest.len().min(12)]
}

/// Puts the paths of files from outside beside their digests, so that these are told from what stages made.
fn name_sources(document: &mut Value, sources: &BTreeMap<PathBuf, Digest>) {
    let names: BTreeMap<String, String> = sources
        .iter()
        .map(|(path, digest)| (digest.to_string(), path.display().to_string()))
        .collect();
    let inputs = document["inputs"].as_object_mut().into_iter().flatten();
    for input in inputs.filter_map(|(_, here)| here.as_array_mut()).flatten() {
        let digest = input["digest"].as_str().unwrap_or_default();
        if let Some(path) = names.get(digest) {
            let text = format!("{path} ({})", &digest[..12]);
            input["digest"] = Value::from(text);
        }
    }
}

/// Compares the metrics that a stage of both runs made.
fn figure_differences(
    stage: &Path,
    both: [(&Path, &StageRecord); 2],
) -> Result<Vec<FigureDifference>, PipelineError> {
    let mut tables = Vec::new();
    for (folder, record) in both {
        let is_metrics = |path: &&PathBuf| {
            path.file_name()
                .is_some_and(|name| name == "metrics.parquet")
        };
        let Some(view) = record.views.keys().find(is_metrics) else {
            return Ok(Vec::new());
        };
        let path = folder.join(view);
        // The view of a stage that has to run again is gone.
        if !path.exists() {
            return Ok(Vec::new());
        }
        tables.push(read_table::<MetricRow>(&path)?);
    }
    let figure = |row: &MetricRow| (row.value, row.ci_low, row.ci_high);
    let mut differences = Vec::new();
    for row in &tables[0] {
        // Policies are named by digests, which differ whenever anything does: only the place counts.
        let other = tables[1].iter().find(|other| other.metric == row.metric);
        if let Some(other) = other.filter(|other| figure(other) != figure(row)) {
            differences.push(FigureDifference {
                stage: stage.to_owned(),
                metric: row.metric.clone(),
                baseline: row.baseline.clone(),
                first: figure(row),
                second: figure(other),
            });
        }
    }
    Ok(differences)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use sims_artifact::write_table;

    /// A figure's name, its value and its interval.
    type Figure<'a> = (&'a str, f64, Option<(f64, f64)>);

    /// Makes the folder of a run whose only stage measured the given figures.
    fn run_with(folder: &Path, key: &str, figures: &[Figure<'_>]) {
        let rows: Vec<MetricRow> = figures
            .iter()
            .map(|(metric, value, interval)| MetricRow {
                metric: (*metric).to_owned(),
                value: *value,
                ci_low: interval.map(|(low, _)| low),
                ci_high: interval.map(|(_, high)| high),
                n: 10,
                method: "mean".to_owned(),
                baseline: String::new(),
            })
            .collect();
        std::fs::create_dir_all(folder.join("round-1")).unwrap();
        write_table(&folder.join("round-1/metrics.parquet"), &rows).unwrap();
        let record = json!({"format": 1, "stages": {"round-1/gold": {
            "key": key.repeat(64), "outcome": "executed", "seconds": 1.0,
            "views": {"round-1/metrics.parquet": "0".repeat(64)},
        }}});
        std::fs::write(folder.join("run.json"), record.to_string()).unwrap();
    }

    #[test]
    fn figures_that_differ_are_set_side_by_side() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
        run_with(
            &one,
            "a",
            &[
                ("wins", 0.5, Some((0.4, 0.6))),
                ("length", 20.0, None),
                ("loops", 0.1, Some((0.0, 0.2))),
            ],
        );
        run_with(
            &other,
            "b",
            &[
                ("wins", 0.7, Some((0.65, 0.75))),
                ("length", 20.0, None),
                ("loops", 0.2, Some((0.1, 0.3))),
            ],
        );
        let store = Store::open(&folder.path().join("store")).unwrap();
        let found = run_difference((&one, &store), (&other, &store)).unwrap();
        let names: Vec<&str> = found.figures.iter().map(|f| f.metric.as_str()).collect();
        assert_eq!(names, ["wins", "loops"]);
        assert!(found.figures[0].is_apart() && !found.figures[1].is_apart());
        assert_eq!(found.figures[0].second, (0.7, Some(0.65), Some(0.75)));
        // Without documents nothing says what was set otherwise.
        assert_eq!(found.stages[0].comparison, Comparison::Follows);
    }
}
