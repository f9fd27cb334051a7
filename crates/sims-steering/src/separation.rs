//! How well states tell chosen from rejected: areas under the ROC curve and accuracies, with intervals.
//!
//! Rows of one prompt are not independent. They are averaged first, so every interval counts prompts.

use crate::FitError;
use crate::paired_states::PairedStates;
use crate::real::Real;
use sims_stats::{Interval, StatsError, proportion, roc};
use std::collections::BTreeMap;

/// Coverage of every interval.
const CONFIDENCE: f64 = 0.95;

/// Scores of both classes along a direction, with the prompt of each row.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    chosen: Vec<f64>,
    rejected: Vec<f64>,
    prompts: Vec<u32>,
}

impl Scores {
    /// Takes scores of both classes, and the number of each row's prompt; all of one length.
    pub fn new(chosen: Vec<f64>, rejected: Vec<f64>, prompts: Vec<u32>) -> Self {
        Self {
            chosen,
            rejected,
            prompts,
        }
    }

    /// Projects the given rows of both classes onto a direction, `[hidden]`.
    ///
    /// # Errors
    /// [`FitError::Model`] for states on a device that fails.
    pub fn along<T: Real>(
        direction: &[T],
        states: &PairedStates<'_>,
        rows: &[usize],
    ) -> Result<Self, FitError> {
        let prompts = rows.iter().map(|&row| states.prompt(row)).collect();
        if let Some(device) = states.device() {
            let direction: Vec<f64> = direction.iter().map(|x| x.to_f64()).collect();
            let along = states.projected(device, &direction)?;
            let [chosen, rejected] =
                along.map(|along| rows.iter().map(|&row| along[row]).collect());
            return Ok(Self::new(chosen, rejected, prompts));
        }
        let project = |state: &[f32]| -> f64 {
            state
                .iter()
                .zip(direction)
                .map(|(&a, v)| f64::from(a) * v.to_f64())
                .sum()
        };
        Ok(Self {
            chosen: rows
                .iter()
                .map(|&row| project(states.chosen(row)))
                .collect(),
            rejected: rows
                .iter()
                .map(|&row| project(states.rejected(row)))
                .collect(),
            prompts,
        })
    }

    /// Returns the area under the ROC curve: the chance that one prompt's mean chosen score exceeds
    /// another's mean rejected score, ties half.
    ///
    /// # Errors
    /// Without rows, or with a score that is not finite.
    pub fn auroc(&self) -> Result<Interval, StatsError> {
        let chosen: Vec<f64> = self.by_prompt(|row| self.chosen[row]);
        let rejected: Vec<f64> = self.by_prompt(|row| self.rejected[row]);
        roc::auroc(&chosen, &rejected, CONFIDENCE)
    }

    /// Returns the share of rows whose chosen state scores above its own rejected one.
    ///
    /// # Errors
    /// Without rows.
    pub fn pair_accuracy(&self) -> Result<Interval, StatsError> {
        share(&self.by_prompt(|row| right_side(self.chosen[row] - self.rejected[row])))
    }

    /// Returns the share of states on the right side of zero, both classes.
    ///
    /// # Errors
    /// Without rows.
    pub fn accuracy(&self) -> Result<Interval, StatsError> {
        share(&self.by_prompt(|row| {
            (right_side(self.chosen[row]) + right_side(-self.rejected[row])) / 2.0
        }))
    }

    /// Returns the number of prompts.
    pub fn prompts(&self) -> usize {
        self.by_prompt(|_| 0.0).len()
    }

    /// Averages a figure of the rows within each prompt.
    fn by_prompt(&self, figure: impl Fn(usize) -> f64) -> Vec<f64> {
        let mut sums: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
        for (row, &prompt) in self.prompts.iter().enumerate() {
            let entry = sums.entry(prompt).or_default();
            entry.0 += figure(row);
            entry.1 += 1.0;
        }
        sums.values().map(|(sum, rows)| sum / rows).collect()
    }
}

fn share(by_prompt: &[f64]) -> Result<Interval, StatsError> {
    proportion::wilson(by_prompt.iter().sum(), by_prompt.len() as u64, CONFIDENCE)
}

fn right_side(x: f64) -> f64 {
    if x > 0.0 {
        1.0
    } else if x < 0.0 {
        0.0
    } else {
        0.5
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(chosen: &[f64], rejected: &[f64], prompts: &[u32]) -> Scores {
        Scores {
            chosen: chosen.to_vec(),
            rejected: rejected.to_vec(),
            prompts: prompts.to_vec(),
        }
    }

    #[test]
    fn area_counts_prompts_not_rows() {
        let auroc = scores(&[2.0, 3.0, 1.0], &[1.0, 0.0, 2.5], &[0, 1, 2])
            .auroc()
            .unwrap();
        // 2 > 1, 2 > 0; 3 > all; 1 = 1, 1 > 0.
        assert!((auroc.estimate - 6.5 / 9.0).abs() < 1e-12);
        let repeated = scores(&[2.0, 4.0, 0.0], &[1.0, 1.0, 1.0], &[0, 0, 1]);
        assert_eq!(repeated.prompts(), 2);
        assert_eq!(repeated.auroc().unwrap().estimate, 0.5);
    }

    #[test]
    fn perfect_separation_keeps_a_width() {
        let auroc = scores(&[1.0; 20], &[0.0; 20], &(0..20).collect::<Vec<_>>())
            .auroc()
            .unwrap();
        assert_eq!(auroc.estimate, 1.0);
        assert!(auroc.low > 0.7 && auroc.low < 0.99, "{auroc:?}");
    }

    #[test]
    fn accuracies_average_by_prompt() {
        let scores = scores(
            &[1.0, -1.0, 2.0, 0.0],
            &[-1.0, 0.5, 1.0, 0.0],
            &[0, 0, 1, 2],
        );
        let pairs = scores.pair_accuracy().unwrap();
        assert!((pairs.estimate - (0.5 + 1.0 + 0.5) / 3.0).abs() < 1e-12);
        let states = scores.accuracy().unwrap();
        assert!((states.estimate - (0.5 + 0.5 + 0.5) / 3.0).abs() < 1e-12);
    }

    #[test]
    fn no_rows_are_an_error() {
        assert!(scores(&[], &[], &[]).auroc().is_err());
    }
}
