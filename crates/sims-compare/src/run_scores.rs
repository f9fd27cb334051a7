//! One figure a prompt, from the tables of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sims_artifact::tables::{DecisionRow, ScoreRow};
use sims_artifact::{ArtifactError, read_table};
use sims_stats::StatsError;

/// Short names of the metrics that most comparisons are about.
const ALIASES: [(&str, &str); 2] = [("gold", "gold_win"), ("judged", "self_judge_win")];
/// The policy that no steering touched.
const BASE: &str = "base";

/// Why runs could not be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// A table could not be read.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The figures do not make a statistic.
    #[error(transparent)]
    Statistics(#[from] StatsError),
    /// The folder has no rounds.
    #[error("{run} has no folder `round-N`; give the folder of a run, such as runs/quickstart")]
    NotARun {
        /// The folder.
        run: PathBuf,
    },
    /// No round's candidate was accepted.
    #[error(
        "{run}: no round was accepted; give --round last to compare what was kept, or --round N"
    )]
    NothingAccepted {
        /// The run's folder.
        run: PathBuf,
    },
    /// The round has no scores of that metric.
    #[error("{round} has no scores of `{metric}`; there are {found}")]
    NoMetric {
        /// The round's folder.
        round: PathBuf,
        /// The metric asked for.
        metric: String,
        /// The metrics there are.
        found: String,
    },
    /// Several steered policies have scores.
    #[error(
        "{path} has scores of `{metric}` for several policies ({policies}); give another metric"
    )]
    SeveralPolicies {
        /// The table.
        path: PathBuf,
        /// The metric.
        metric: String,
        /// The policies.
        policies: String,
    },
    /// Two runs were measured on different prompts.
    #[error("{first} and {second} have no prompt in common, so that nothing can be paired")]
    NothingInCommon {
        /// The first run.
        first: String,
        /// The other run.
        second: String,
    },
}

/// Which round of a run is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhichRound {
    /// The last whose candidate was accepted.
    Accepted,
    /// The last that has the metric, accepted or not: of what the guard kept, where that is what was measured.
    /// A pipeline without rounds is read from `once`, which counts as round 0.
    Last,
    /// One, from 1.
    Number(u32),
}

impl std::str::FromStr for WhichRound {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "accepted" => Ok(Self::Accepted),
            "last" => Ok(Self::Last),
            number => number
                .parse()
                .map(Self::Number)
                .map_err(|_| "give accepted, last or a round's number".to_owned()),
        }
    }
}

/// The scores of one run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunScores {
    /// The run's folder as given.
    pub run: String,
    /// The round, from 1.
    pub round: u32,
    /// The metric by its full name.
    pub metric: String,
    /// The figure of each prompt, the mean over its draws.
    pub by_prompt: BTreeMap<String, f64>,
}

impl RunScores {
    /// Reads the scores of `metric` (`gold`, `judged` or a name from `scores.parquet`) of the steered policy.
    ///
    /// # Errors
    /// If the folder is no run, no round was accepted, or no table has the metric.
    pub fn read(run: &Path, round: WhichRound, metric: &str) -> Result<Self, CompareError> {
        let alias = ALIASES.iter().find(|(name, _)| *name == metric);
        let metric = alias.map_or(metric, |(_, name)| name);
        let rounds = match round {
            WhichRound::Accepted => vec![last_accepted(run)?],
            WhichRound::Last => rounds_from_the_last(run)?,
            WhichRound::Number(round) => vec![round],
        };
        let mut found = BTreeSet::new();
        for &round in &rounds {
            for path in tables(&folder_of(run, round))? {
                let rows: Vec<ScoreRow> = read_table(&path)?;
                if rows.iter().any(|row| row.metric == metric) {
                    return Ok(Self {
                        run: run.display().to_string(),
                        round,
                        metric: metric.to_owned(),
                        by_prompt: steered(&path, &rows, metric)?,
                    });
                }
                found.extend(rows.into_iter().map(|row| row.metric));
            }
        }
        Err(CompareError::NoMetric {
            round: match rounds[..] {
                [round] => folder_of(run, round),
                _ => run.to_owned(),
            },
            metric: metric.to_owned(),
            found: Vec::from_iter(found).join(", "),
        })
    }
}

fn folder_of(run: &Path, round: u32) -> PathBuf {
    match round {
        0 => run.join("once"),
        round => run.join(format!("round-{round}")),
    }
}

/// Returns the rounds of a run, the last first; those of a run without any are `once`, which is 0.
fn rounds_from_the_last(run: &Path) -> Result<Vec<u32>, CompareError> {
    let names = entries(run)?;
    let number = |path: &PathBuf| match path.file_name()?.to_str()? {
        "once" => Some(0),
        name => name.strip_prefix("round-")?.parse().ok(),
    };
    let mut rounds: Vec<u32> = names.iter().filter_map(number).collect();
    if rounds.iter().any(|round| *round > 0) {
        rounds.retain(|round| *round > 0);
    }
    if rounds.is_empty() {
        return Err(CompareError::NotARun {
            run: run.to_owned(),
        });
    }
    rounds.sort_unstable_by(|l, r| r.cmp(l));
    Ok(rounds)
}

/// Returns the last round with a gate that let the candidate through for good.
fn last_accepted(run: &Path) -> Result<u32, CompareError> {
    for round in rounds_from_the_last(run)? {
        let path = folder_of(run, round).join("decision.parquet");
        // A round that is still running has decided nothing.
        if path.is_file() {
            let decisions: Vec<DecisionRow> = read_table(&path)?;
            if decisions.iter().any(|row| row.action == "accept") {
                return Ok(round);
            }
        }
    }
    Err(CompareError::NothingAccepted {
        run: run.to_owned(),
    })
}

/// Returns the round's own scores, then those of its named nodes.
fn tables(round: &Path) -> Result<Vec<PathBuf>, CompareError> {
    let mut tables = vec![round.join("scores.parquet")];
    tables.extend(
        entries(round)?
            .iter()
            .map(|path| path.join("scores.parquet")),
    );
    tables.retain(|path| path.is_file());
    Ok(tables)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, CompareError> {
    let failed = |error| ArtifactError::io("read", folder, error);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        found.push(entry.map_err(failed)?.path());
    }
    found.sort();
    Ok(found)
}

/// Averages the steered policy's draws; where nothing was steered, those of the base model.
fn steered(
    path: &Path,
    rows: &[ScoreRow],
    metric: &str,
) -> Result<BTreeMap<String, f64>, CompareError> {
    let mut policies: BTreeSet<&str> = rows
        .iter()
        .filter(|row| row.metric == metric)
        .map(|row| row.policy.as_str())
        .collect();
    if policies.len() > 1 {
        policies.remove(BASE);
    }
    if policies.len() > 1 {
        return Err(CompareError::SeveralPolicies {
            path: path.to_owned(),
            metric: metric.to_owned(),
            policies: Vec::from_iter(policies).join(", "),
        });
    }
    let mut sums: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for row in rows {
        if row.metric == metric && policies.contains(row.policy.as_str()) {
            let (sum, draws) = sums.entry(row.prompt_id.clone()).or_default();
            *sum += row.value;
            *draws += 1.0;
        }
    }
    let means = sums.into_iter();
    Ok(means.map(|(id, (sum, draws))| (id, sum / draws)).collect())
}
