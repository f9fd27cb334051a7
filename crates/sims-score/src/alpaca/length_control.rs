//! The length-controlled win rate, formula `length_controlled_v1`.
//!
//! A logistic model explains the preferences by the difference in length, the instruction's difficulty
//! and the model; what it predicts for outputs of equal length is the win rate.

use serde::Serialize;
use sims_stats::logistic::{self, Penalty, Rows};
use sims_stats::win_rate::logistic;

use super::folds::fold_of_rows;
use super::win_rate::{mean_and_standard_error, standard_deviation};
use super::{Annotations, Difficulties, Gamed};
use crate::ScoreError;

/// Features of a row: length, difficulty, model.
const FEATURES: usize = 3;
/// Weight of a gamed row: 0.2 for both kinds together.
const GAMED_WEIGHT: f64 = 0.1;
const FOLDS: usize = 5;
/// Probabilities are kept this far from 0 and 1 when a fold is scored.
const CLIP: f64 = 1e-15;

/// The length-controlled win rate and what it comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct LengthControl {
    /// Predicted win rate at equal lengths. Unit: per cent.
    pub win_rate: f64,
    /// Standard error over the instructions. Unit: percentage points.
    pub standard_error: f64,
    /// The regularisation that was used or chosen; none for the baseline, which needs no fit.
    pub regularization: Option<f64>,
    /// The model's coefficients.
    pub weights: Weights,
    /// Mean held-out log-likelihood at each of [`grid`]; empty where C was given.
    pub validation: Vec<f64>,
}

/// Coefficients of the logistic model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Weights {
    /// Of the squashed difference in length.
    pub tanh_std_delta_len: f64,
    /// Of the instruction's difficulty.
    pub instruction_difficulty: f64,
    /// Of being the model under test.
    pub not_gamed_baseline: f64,
}

/// Rows to fit on: gamed ones first, then the model's.
#[derive(Default)]
struct Training {
    features: Vec<f64>,
    targets: Vec<f64>,
    weights: Vec<f64>,
}

impl LengthControl {
    /// Fits the model; C is `regularization`, or chosen by cross-validation as upstream does.
    ///
    /// Difficulties go to rows by position, whatever instruction a row is about, because the published
    /// numbers were made so. The fit is the exact optimum; upstream's solver stops a little before.
    ///
    /// # Errors
    /// Fewer difficulties than rows, lengths that all differ alike, a C that is not above zero.
    pub fn fit(
        annotations: &Annotations,
        difficulties: &Difficulties,
        gamed: &Gamed,
        regularization: Option<f64>,
    ) -> Result<Self, ScoreError> {
        if annotations.is_baseline {
            return Ok(Self::of_the_baseline());
        }
        let path = &annotations.path;
        let rows = annotations.rows.len();
        if difficulties.values.len() < rows {
            return Err(ScoreError::file(
                &difficulties.path,
                format!(
                    "{} difficulties for the {rows} rows of {}; length control needs the official {}",
                    difficulties.values.len(),
                    path.display(),
                    super::DIFFICULTY_FILE
                ),
            ));
        }
        let training = Training::new(annotations, &difficulties.values, gamed)?;
        let failed = ScoreError::statistics(path);
        let (chosen, validation) = match regularization {
            Some(c) => (c, Vec::new()),
            None => training.choose().map_err(&failed)?,
        };
        let [length, difficulty, model] = training.fit(chosen).map_err(&failed)?;
        let predicted: Vec<f64> = difficulties.values[..rows]
            .iter()
            .map(|d| logistic(difficulty * d + model))
            .collect();
        let (mean, standard_error) = mean_and_standard_error(&predicted);
        Ok(Self {
            win_rate: 100.0 * mean,
            standard_error: 100.0 * standard_error,
            regularization: Some(chosen),
            weights: Weights {
                tanh_std_delta_len: length,
                instruction_difficulty: difficulty,
                not_gamed_baseline: model,
            },
            validation,
        })
    }

    /// The baseline beats itself half the time, by definition.
    fn of_the_baseline() -> Self {
        Self {
            win_rate: 50.0,
            standard_error: 0.0,
            regularization: None,
            weights: Weights {
                tanh_std_delta_len: 0.0,
                instruction_difficulty: 0.0,
                not_gamed_baseline: 0.0,
            },
            validation: Vec::new(),
        }
    }

    /// Tells whether length control moves a win rate so far that upstream warns of a failed fit.
    #[must_use]
    pub fn is_extreme(&self, plain: f64) -> bool {
        self.win_rate < (0.75 * plain).min(plain - 10.0)
            || self.win_rate > (plain + (100.0 - plain) / 4.0).max(plain + 10.0)
    }
}

/// Returns the values of C that are tried: ten, from 10⁻⁴ to 10⁴, evenly on a logarithmic scale.
#[must_use]
pub fn grid() -> [f64; 10] {
    std::array::from_fn(|step| 10.0_f64.powf(-4.0 + 8.0 * step as f64 / 9.0))
}

impl Training {
    fn new(
        annotations: &Annotations,
        difficulties: &[f64],
        gamed: &Gamed,
    ) -> Result<Self, ScoreError> {
        let differences: Vec<f64> = annotations
            .rows
            .iter()
            .map(|row| row.baseline_length - row.model_length)
            .collect();
        let spread = standard_deviation(&differences);
        if spread == 0.0 {
            return Err(ScoreError::file(
                &annotations.path,
                "all outputs differ from the baseline's by the same length, so there is nothing to control for",
            ));
        }
        let mut training = Self::default();
        for row in &gamed.rows {
            let features = [row.std_delta_len.tanh(), row.difficulty, 0.0];
            training.push(features, row.share, GAMED_WEIGHT);
        }
        for (index, row) in annotations.rows.iter().enumerate() {
            if let Some(share) = row.share {
                let length = (differences[index] / spread).tanh();
                training.push([length, difficulties[index], 1.0], share, 1.0);
            }
        }
        Ok(training)
    }

    fn push(&mut self, features: [f64; FEATURES], target: f64, weight: f64) {
        self.features.extend(features);
        self.targets.push(target);
        self.weights.push(weight);
    }

    fn features(&self, row: usize) -> [f64; FEATURES] {
        std::array::from_fn(|feature| self.features[row * FEATURES + feature])
    }

    /// Returns the first C with the best mean score over the folds, and the score of each.
    fn choose(&self) -> Result<(f64, Vec<f64>), sims_stats::StatsError> {
        let fold_of = fold_of_rows(self.targets.len(), FOLDS);
        let mut scores = vec![0.0; grid().len()];
        for fold in 0..FOLDS {
            let (mut train, mut test) = (Self::default(), Self::default());
            for (row, &its_fold) in fold_of.iter().enumerate() {
                let side = if its_fold == fold {
                    &mut test
                } else {
                    &mut train
                };
                side.push(self.features(row), self.targets[row], self.weights[row]);
            }
            for (score, c) in scores.iter_mut().zip(grid()) {
                *score += test.log_likelihood(train.fit(c)?) / FOLDS as f64;
            }
        }
        let mut best = 0;
        for (index, score) in scores.iter().enumerate() {
            if *score > scores[best] {
                best = index;
            }
        }
        Ok((grid()[best], scores))
    }

    /// Minimises `‖w‖₁` plus C times the weighted logistic loss.
    fn fit(&self, c: f64) -> Result<[f64; FEATURES], sims_stats::StatsError> {
        let rows = Rows {
            features: &self.features,
            columns: FEATURES,
            targets: &self.targets,
            weights: &self.weights,
        };
        let fit = logistic::fit(&rows, Penalty::Lasso(1.0 / c))?;
        Ok(std::array::from_fn(|feature| fit.coefficients[feature]))
    }

    /// Returns the weighted log-likelihood divided by the number of rows, not by their weight.
    fn log_likelihood(&self, coefficients: [f64; FEATURES]) -> f64 {
        let rows = self.targets.len();
        let of_row = |row: usize| {
            let z: f64 = self
                .features(row)
                .iter()
                .zip(coefficients)
                .map(|(x, w)| x * w)
                .sum();
            let q = logistic(z).clamp(CLIP, 1.0 - CLIP);
            let t = self.targets[row];
            self.weights[row] * (t * q.ln() + (1.0 - t) * (1.0 - q).ln())
        };
        (0..rows).map(of_row).sum::<f64>() / rows as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_far_change_is_extreme_on_either_side() {
        let at = |win_rate| LengthControl {
            win_rate,
            ..LengthControl::of_the_baseline()
        };
        assert!(!at(11.0).is_extreme(20.0) && at(9.9).is_extreme(20.0));
        assert!(!at(40.0).is_extreme(20.0) && at(40.1).is_extreme(20.0));
        assert!(!at(62.5).is_extreme(50.0) && at(62.6).is_extreme(50.0));
        assert!(!at(37.5).is_extreme(50.0) && at(37.4).is_extreme(50.0));
    }
}
