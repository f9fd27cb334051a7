//! Holding a run against figures that were recorded before: none may have fallen below its interval.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::ReportError;
use crate::metrics::{Figure, is_meant};

/// A figure as `sims report --json` writes it.
#[derive(Debug, Clone, Deserialize)]
struct Recorded {
    round: u32,
    node: String,
    metric: String,
    ci_low: Option<f64>,
    ci_high: Option<f64>,
    baseline: String,
}

/// A recorded interval, and the figure of a run beside it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Check {
    /// The round, from 1; 0 for figures outside any round.
    pub round: u32,
    /// The pipeline node that measured it.
    pub node: String,
    /// What was measured.
    pub metric: String,
    /// The policy it is compared with.
    pub baseline: String,
    /// The figure of the run; none when the run does not have it.
    pub value: Option<f64>,
    /// Lower end of the recorded interval.
    pub ci_low: f64,
    /// Upper end of the recorded interval.
    pub ci_high: Option<f64>,
    /// Whether the figure is there and not below the interval.
    pub passed: bool,
}

/// Holds `figures` against those in the file `recorded` whose metric is meant by `metric`, as [`is_meant`] says.
///
/// A metric of which less is better cannot be held so: a fall is then no loss.
///
/// # Errors
/// If the file is no report in JSON, is one of several runs, or has no such figure with an interval.
pub fn checks(
    figures: &[Figure],
    recorded: &Path,
    metric: &str,
) -> Result<Vec<Check>, ReportError> {
    let refuse = |message: String| ReportError::Recorded {
        path: recorded.to_owned(),
        message,
    };
    let bytes = std::fs::read(recorded).map_err(|source| ReportError::Io {
        path: recorded.to_owned(),
        source,
    })?;
    let all: Vec<Recorded> = serde_json::from_slice(&bytes).map_err(|e| refuse(e.to_string()))?;
    let names: Vec<&str> = all.iter().map(|row| row.metric.as_str()).collect();
    let mut checks: Vec<Check> = Vec::new();
    for row in all
        .iter()
        .filter(|row| is_meant(&row.metric, metric, &names))
    {
        let Some(ci_low) = row.ci_low else { continue };
        let same = |figure: &&Figure| {
            (figure.round, &figure.node, &figure.metric, &figure.baseline)
                == (row.round, &row.node, &row.metric, &row.baseline)
        };
        let value = figures.iter().find(same).map(|figure| figure.value);
        let check = Check {
            round: row.round,
            node: row.node.clone(),
            metric: row.metric.clone(),
            baseline: row.baseline.clone(),
            value,
            ci_low,
            ci_high: row.ci_high,
            // Not a number is not above anything.
            passed: value.is_some_and(|value| value >= ci_low),
        };
        let twice = checks.iter().any(|other| {
            (other.round, &other.node, &other.metric, &other.baseline)
                == (check.round, &check.node, &check.metric, &check.baseline)
        });
        if twice {
            return Err(refuse(format!(
                "round {} has {} twice: record one run",
                row.round, row.metric
            )));
        }
        checks.push(check);
    }
    if checks.is_empty() {
        return Err(refuse(format!("no figure `{metric}` with an interval")));
    }
    Ok(checks)
}

impl Check {
    /// Says how the figure stands to the interval, in a line.
    pub fn in_words(&self) -> String {
        let Self {
            round,
            node,
            metric,
            ci_low,
            ..
        } = self;
        let interval = match self.ci_high {
            Some(high) => format!("[{ci_low:.3}, {high:.3}]"),
            None => format!("[{ci_low:.3}, …]"),
        };
        let of = format!("{metric} of round {round} ({node})");
        match self.value {
            None => format!("{of} is missing; recorded was {interval}"),
            Some(value) if self.passed => {
                format!("{of} is {value:.3}, not below the recorded {interval}")
            }
            Some(value) => format!("{of} is {value:.3}, below the recorded {interval}"),
        }
    }
}
