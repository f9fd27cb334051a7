//! Scores that length and markdown do not move.
//!
//! A logistic model explains who wins by who plays and by the difference in style; what it says about
//! who plays is the controlled score. All models are fitted together, as upstream does, and share the
//! coefficients of style.

use std::f64::consts::LN_10;
use std::path::Path;

use serde::Serialize;
use sims_stats::bootstrap::quantile;
use sims_stats::logistic::{self, Penalty, Rows};
use sims_stats::{Bootstrap, StatsError, win_rate::logistic as sigmoid};

use super::Version;
use super::battles::Battles;
use super::score::SEED;
use super::style_counts::{Counts, StyleCounts};
use crate::ScoreError;

/// What is controlled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Control {
    /// The number of tokens.
    Length,
    /// Headers, list items and bold spans.
    Markdown,
}

/// Names of the counts, in their order.
const NAMES: [&str; 4] = ["tokens", "headers", "lists", "bold"];

/// A model's score with its style held equal. Per cent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StyleScore {
    /// The score.
    pub score: f64,
    /// Lower end of its interval.
    pub ci_low: f64,
    /// Upper end of its interval.
    pub ci_high: f64,
}

/// The controlled scores of all models.
#[derive(Debug, Clone, PartialEq)]
pub struct StyleControl {
    /// One a model, in their order.
    pub scores: Vec<StyleScore>,
    /// Coefficients of the standardised differences in style, by name.
    pub coefficients: Vec<(&'static str, f64)>,
}

/// Groups of equal rows of all models, and their differences in style.
struct Table {
    version: Version,
    models: usize,
    features: Vec<f64>,
    columns: usize,
    targets: Vec<f64>,
    rows: Vec<u32>,
}

impl StyleControl {
    /// Fits the scores of `models` against `baseline`, with intervals from `resamples` resamples.
    ///
    /// v0.1 has a ridge penalty of scikit-learn's default strength and reports the fit; v2.0 has none
    /// and reports the median of the resamples. Both are solved to the exact optimum by Newton's method,
    /// where upstream runs L-BFGS for a while.
    ///
    /// # Errors
    /// A question without counts, a style that never differs, models that a style tells apart for sure.
    pub fn fit(
        models: &[Battles],
        baseline: &str,
        counts: &StyleCounts,
        controls: &[Control],
        version: Version,
        resamples: usize,
    ) -> Result<Self, ScoreError> {
        let chosen: Vec<usize> = (0..NAMES.len())
            .filter(|&index| {
                let control = if index == 0 {
                    Control::Length
                } else {
                    Control::Markdown
                };
                controls.contains(&control)
            })
            .collect();
        let table = Table::new(models, baseline, counts, &chosen, version)?;
        let failed = ScoreError::statistics(&models[0].path);
        let fit = table.fit(&table.rows).map_err(&failed)?;
        let method = Bootstrap {
            resamples,
            confidence: version.confidence(),
            seed: SEED,
        };
        let owners: Vec<usize> = (0..table.rows.len())
            .flat_map(|group| std::iter::repeat_n(group, table.rows[group] as usize))
            .collect();
        let replicates = method
            .replicates(owners.len(), |drawn| {
                let mut rows = vec![0; table.rows.len()];
                drawn
                    .iter()
                    .for_each(|&row| rows[owners[row as usize]] += 1);
                Ok(table.log_odds(&table.fit(&rows)?))
            })
            .and_then(|replicates| replicates.into_iter().collect::<Result<Vec<_>, _>>())
            .map_err(&failed)?;
        let tail = 0.5 * (1.0 - method.confidence);
        let scores = table
            .log_odds(&fit)
            .into_iter()
            .enumerate()
            .map(|(model, fitted)| {
                let mut drawn: Vec<f64> = replicates.iter().map(|odds| odds[model]).collect();
                drawn.sort_by(f64::total_cmp);
                let at = |probability| 100.0 * sigmoid(quantile(&drawn, probability));
                StyleScore {
                    score: match version {
                        Version::V01 => 100.0 * sigmoid(fitted),
                        Version::V20 => at(0.5),
                    },
                    ci_low: at(tail),
                    ci_high: at(1.0 - tail),
                }
            })
            .collect();
        let style = &fit[fit.len() - chosen.len()..];
        Ok(Self {
            scores,
            coefficients: chosen
                .iter()
                .map(|&i| NAMES[i])
                .zip(style.iter().copied())
                .collect(),
        })
    }
}

impl Table {
    fn new(
        models: &[Battles],
        baseline: &str,
        counts: &StyleCounts,
        chosen: &[usize],
        version: Version,
    ) -> Result<Self, ScoreError> {
        let (mut differences, mut players) = (Vec::new(), Vec::new());
        let (mut targets, mut rows) = (Vec::new(), Vec::new());
        for (player, model) in models.iter().enumerate() {
            for battle in &model.rows {
                let question = &battle.question;
                let pair = counts
                    .of(baseline, &model.model, question, models.len() == 1)
                    .ok_or_else(|| {
                        ScoreError::file(
                            &model.path,
                            format!(
                                "the style files have no counts for the answers of {baseline} and {} to question {question}",
                                model.model
                            ),
                        )
                    })?;
                let all = difference(pair, version);
                differences.extend(chosen.iter().map(|&index| all[index]));
                players.push(player);
                rows.push(battle.rows);
                targets.push(match version {
                    Version::V01 => 1.0 - battle.share,
                    Version::V20 => battle.share,
                });
            }
        }
        standardise(&mut differences, &rows, chosen, version, &models[0].path)?;
        let mut features = Vec::new();
        for (style, &player) in differences.chunks_exact(chosen.len()).zip(&players) {
            let place = |column| f64::from(u8::from(column == player));
            match version {
                Version::V01 => {
                    features.push(LN_10);
                    features.extend((0..models.len()).map(|column| -LN_10 * place(column)));
                }
                Version::V20 => features.extend((0..models.len()).map(place)),
            }
            features.extend(style);
        }
        Ok(Self {
            version,
            models: models.len(),
            columns: features.len() / rows.len(),
            features,
            targets,
            rows,
        })
    }

    /// Fits the coefficients, each group counting for so many rows.
    fn fit(&self, rows: &[u32]) -> Result<Vec<f64>, StatsError> {
        // v0.1 has every row twice, a tie as a win and a loss.
        let (copies, penalty) = match self.version {
            Version::V01 => (2.0, Penalty::Ridge(1.0)),
            Version::V20 => (1.0, Penalty::None),
        };
        let weights: Vec<f64> = rows.iter().map(|&rows| copies * f64::from(rows)).collect();
        let rows = Rows {
            features: &self.features,
            columns: self.columns,
            targets: &self.targets,
            weights: &weights,
        };
        Ok(logistic::fit(&rows, penalty)?.coefficients)
    }

    /// Returns each model's log-odds of beating the baseline.
    fn log_odds(&self, coefficients: &[f64]) -> Vec<f64> {
        match self.version {
            Version::V01 => coefficients[1..=self.models]
                .iter()
                .map(|model| LN_10 * (model - coefficients[0]))
                .collect(),
            Version::V20 => coefficients[..self.models].to_vec(),
        }
    }
}

/// Returns how two answers differ: the baseline's from the model's in v0.1, the other way in v2.0.
fn difference([baseline, model]: [Counts; 2], version: Version) -> [f64; 4] {
    std::array::from_fn(|index| match (version, index) {
        (Version::V01, _) => {
            (baseline[index] - model[index]) / (baseline[index] + model[index] + 1.0)
        }
        // Two empty answers are equally long.
        (Version::V20, 0) => (model[0] - baseline[0]) / (model[0] + baseline[0]).max(1.0),
        (Version::V20, _) => {
            let density = |counts: Counts| counts[index] / (counts[0] + 1.0);
            let (left, right) = (density(model), density(baseline));
            (left - right) / (left + right + 1.0)
        }
    })
}

/// Centres each difference and divides it by its standard deviation over all rows.
fn standardise(
    differences: &mut [f64],
    rows: &[u32],
    chosen: &[usize],
    version: Version,
    path: &Path,
) -> Result<(), ScoreError> {
    let n: f64 = rows.iter().map(|&rows| f64::from(rows)).sum();
    let columns = chosen.len();
    for (column, &name) in chosen.iter().enumerate() {
        let sum = |values: &[f64], of: &dyn Fn(f64) -> f64| -> f64 {
            let column = values.iter().skip(column).step_by(columns);
            column
                .zip(rows)
                .map(|(v, &rows)| of(*v) * f64::from(rows))
                .sum()
        };
        let mean = sum(differences, &|value| value) / n;
        let squares = sum(differences, &|value| (value - mean).powi(2));
        let deviation = match version {
            Version::V01 => (squares / n).sqrt(),
            Version::V20 => (squares / (n - 1.0)).sqrt(),
        };
        if !deviation.is_normal() {
            return Err(ScoreError::file(
                path,
                format!(
                    "the answers never differ in {}, so it cannot be controlled for; choose with --control",
                    NAMES[name]
                ),
            ));
        }
        for value in differences.iter_mut().skip(column).step_by(columns) {
            *value = (*value - mean) / deviation;
        }
    }
    Ok(())
}
