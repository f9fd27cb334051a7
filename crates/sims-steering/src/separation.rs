//! How well states tell chosen from rejected: areas under the ROC curve and accuracies, with intervals.
//!
//! Rows of one prompt are not independent, so every interval counts prompts, not rows.

use crate::paired_states::PairedStates;
use crate::real::Real;
use std::collections::BTreeMap;

/// The 97.5 % quantile of the standard normal distribution.
const Z_95: f64 = 1.959_963_984_540_054;

/// A figure with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Prompts it rests on.
    pub prompts: usize,
}

/// Scores of both classes along a direction, with the prompt of each row.
#[derive(Debug, Clone, PartialEq)]
pub struct Scores {
    chosen: Vec<f64>,
    rejected: Vec<f64>,
    prompts: Vec<u32>,
}

impl Scores {
    /// Projects the given rows of both classes onto a direction, `[hidden]`.
    pub fn along<T: Real>(direction: &[T], states: &PairedStates<'_>, rows: &[usize]) -> Self {
        let project = |state: &[f32]| -> f64 {
            state.iter().zip(direction).map(|(&a, v)| f64::from(a) * v.to_f64()).sum()
        };
        Self {
            chosen: rows.iter().map(|&row| project(states.chosen(row))).collect(),
            rejected: rows.iter().map(|&row| project(states.rejected(row))).collect(),
            prompts: rows.iter().map(|&row| states.prompt(row)).collect(),
        }
    }

    /// Returns the area under the ROC curve: the chance that a chosen state scores above a rejected one.
    ///
    /// Ties count half. The interval is DeLong's with the components summed by prompt
    /// (Obuchowski 1997, "Nonparametric analysis of clustered ROC curve data").
    pub fn auroc(&self) -> Estimate {
        let count = self.chosen.len() as f64;
        let above = placements(&self.chosen, &self.rejected);
        let below = placements(&self.rejected, &self.chosen);
        let auroc = above.iter().sum::<f64>() / count;
        let mut by_prompt: BTreeMap<u32, f64> = BTreeMap::new();
        for (row, &prompt) in self.prompts.iter().enumerate() {
            // A rejected state's placement is the share of chosen states below it.
            let component = (above[row] - auroc) + (1.0 - below[row] - auroc);
            *by_prompt.entry(prompt).or_default() += component;
        }
        let prompts = by_prompt.len();
        let clusters = prompts as f64;
        let spread: f64 = by_prompt.values().map(|sum| sum * sum).sum();
        let variance = if prompts > 1 { clusters / (clusters - 1.0) * spread / (count * count) } else { 0.25 };
        let half = Z_95 * variance.sqrt();
        Estimate {
            value: auroc,
            low: (auroc - half).max(0.0),
            high: (auroc + half).min(1.0),
            prompts,
        }
    }

    /// Returns the share of rows whose chosen state scores above its own rejected one.
    pub fn pair_accuracy(&self) -> Estimate {
        self.by_prompt(|chosen, rejected| step(chosen - rejected))
    }

    /// Returns the share of states on the right side of zero, both classes.
    pub fn accuracy(&self) -> Estimate {
        self.by_prompt(|chosen, rejected| (step(chosen) + step(-rejected)) / 2.0)
    }

    /// Averages a share within each prompt and over prompts; Wilson's interval over prompts.
    fn by_prompt(&self, share: impl Fn(f64, f64) -> f64) -> Estimate {
        let mut sums: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
        for (row, &prompt) in self.prompts.iter().enumerate() {
            let entry = sums.entry(prompt).or_default();
            entry.0 += share(self.chosen[row], self.rejected[row]);
            entry.1 += 1.0;
        }
        let prompts = sums.len();
        let mean = sums.values().map(|(sum, rows)| sum / rows).sum::<f64>() / prompts.max(1) as f64;
        let (low, high) = wilson(mean, prompts);
        Estimate { value: mean, low, high, prompts }
    }
}

fn step(x: f64) -> f64 {
    if x > 0.0 {
        1.0
    } else if x < 0.0 {
        0.0
    } else {
        0.5
    }
}

/// Returns for each score the share of `others` below it, ties half.
fn placements(scores: &[f64], others: &[f64]) -> Vec<f64> {
    let mut sorted = others.to_vec();
    sorted.sort_by(f64::total_cmp);
    scores
        .iter()
        .map(|score| {
            let below = sorted.partition_point(|other| other < score);
            let not_above = sorted.partition_point(|other| other <= score);
            (below + not_above) as f64 / (2 * sorted.len()) as f64
        })
        .collect()
}

/// Wilson's 95 % interval of a share of `count` draws.
pub fn wilson(share: f64, count: usize) -> (f64, f64) {
    if count == 0 {
        return (0.0, 1.0);
    }
    let n = count as f64;
    let z2 = Z_95 * Z_95;
    let centre = (share + z2 / (2.0 * n)) / (1.0 + z2 / n);
    let half = Z_95 / (1.0 + z2 / n) * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn scores(chosen: &[f64], rejected: &[f64]) -> Scores {
        let prompts = (0..chosen.len() as u32).collect();
        Scores { chosen: chosen.to_vec(), rejected: rejected.to_vec(), prompts }
    }

    #[test]
    fn auroc_counts_ordered_pairs() {
        let auroc = scores(&[2.0, 3.0, 1.0], &[1.0, 0.0, 2.5]).auroc();
        // 2 > 1, 2 > 0; 3 > all; 1 = 1, 1 > 0.
        assert!((auroc.value - 6.5 / 9.0).abs() < 1e-12);
        assert_eq!(auroc.prompts, 3);
        let perfect = scores(&[1.0, 2.0], &[0.0, -1.0]).auroc();
        assert_eq!((perfect.value, perfect.low, perfect.high), (1.0, 1.0, 1.0));
    }

    /// The interval covers 0.5 under no difference in about 95 % of draws, with correlated rows too.
    #[test]
    fn interval_covers_chance_with_repeated_rows() {
        let mut stream = Stream::new(1, "coverage");
        let mut covered = 0;
        for _ in 0..300 {
            let (mut chosen, mut rejected, mut prompts) = (vec![], vec![], vec![]);
            for prompt in 0..50 {
                let (a, b) = (stream.normal(), stream.normal());
                for _ in 0..4 {
                    chosen.push(a + 0.1 * stream.normal());
                    rejected.push(b + 0.1 * stream.normal());
                    prompts.push(prompt);
                }
            }
            let auroc = Scores { chosen, rejected, prompts }.auroc();
            covered += usize::from(auroc.low <= 0.5 && 0.5 <= auroc.high);
        }
        assert!((270..=297).contains(&covered), "covered {covered} of 300");
    }

    #[test]
    fn accuracies_average_by_prompt() {
        let mut scores = scores(&[1.0, -1.0, 2.0, 0.0], &[-1.0, 0.5, 1.0, 0.0]);
        scores.prompts = vec![0, 0, 1, 2];
        let pairs = scores.pair_accuracy();
        assert!((pairs.value - (0.5 + 1.0 + 0.5) / 3.0).abs() < 1e-12);
        let states = scores.accuracy();
        assert!((states.value - (0.5 + 0.5 + 0.5) / 3.0).abs() < 1e-12);
    }

    #[test]
    fn wilson_matches_known_values() {
        // 8 of 10: [0.4902, 0.9433].
        let (low, high) = wilson(0.8, 10);
        assert!((low - 0.4902).abs() < 1e-4 && (high - 0.9433).abs() < 1e-4, "{low} {high}");
        assert_eq!(wilson(0.5, 0), (0.0, 1.0));
    }
}
