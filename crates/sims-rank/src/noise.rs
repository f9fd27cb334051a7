//! The noise floor of scores.

use crate::Score;

/// Pools the order inconsistency of many prompts into one standard deviation of a score.
///
/// Each prompt brings two scores a response, from the comparisons in one order and in the other.
/// Where they differ, after each is centred within its prompt, the judge was inconsistent. That is
/// only one source of error, so the floor is a lower bound.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct NoiseFloor {
    squares: f64,
    responses: usize,
}

impl NoiseFloor {
    /// Adds one prompt's pair of scores. Prompts with fewer than two scored responses say nothing.
    pub fn add(&mut self, by_order: &[Vec<Option<Score>>; 2]) {
        let differences: Vec<f64> = by_order[0]
            .iter()
            .zip(&by_order[1])
            .filter_map(|(first, second)| Some(first.as_ref()?.value - second.as_ref()?.value))
            .collect();
        let count = differences.len();
        if count < 2 {
            return;
        }
        let mean = differences.iter().sum::<f64>() / count as f64;
        let squares: f64 = differences.iter().map(|value| (value - mean).powi(2)).sum();
        // Centring takes one of K degrees of freedom.
        self.squares += squares * count as f64 / (count - 1) as f64;
        self.responses += count;
    }

    /// Returns the standard deviation of a score; 0 if nothing was added.
    ///
    /// The score is the mean of its two halves, so its variance is a quarter of the variance of
    /// their difference.
    #[must_use]
    pub fn sigma(&self) -> f64 {
        if self.responses == 0 {
            return 0.0;
        }
        (0.25 * self.squares / self.responses as f64).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use sims_stats::noise_range::{expected_noise_range, noise_range_quantile};
    use sims_stats::random::Stream;

    use super::*;

    fn normal(stream: &mut Stream) -> f64 {
        let radius = (-2.0 * (1.0 - stream.next_f64()).ln()).sqrt();
        radius * (std::f64::consts::TAU * stream.next_f64()).cos()
    }

    fn scores(values: &[f64]) -> Vec<Option<Score>> {
        values
            .iter()
            .map(|&value| {
                Some(Score {
                    value,
                    standard_error: None,
                })
            })
            .collect()
    }

    #[test]
    fn pure_noise_has_the_expected_floor_and_margins() {
        // T28: both halves independent N(0, 1), so the score's deviation is 1 / sqrt(2).
        let (prompts, count) = (2000, 10);
        let mut floor = NoiseFloor::default();
        let mut margins = Vec::new();
        for prompt in 0..prompts {
            let mut stream = Stream::new(8, prompt);
            let mut draw = || {
                (0..count)
                    .map(|_| normal(&mut stream))
                    .collect::<Vec<f64>>()
            };
            let (first, second) = (draw(), draw());
            let means: Vec<f64> = first
                .iter()
                .zip(&second)
                .map(|(l, r)| 0.5 * (l + r))
                .collect();
            let high = means.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let low = means.iter().copied().fold(f64::INFINITY, f64::min);
            margins.push(high - low);
            floor.add(&[scores(&first), scores(&second)]);
        }
        let sigma = floor.sigma();
        assert!((sigma - 0.707).abs() < 0.02, "{sigma}");
        let mean = margins.iter().sum::<f64>() / margins.len() as f64 / sigma;
        assert!((mean - 3.08).abs() < 0.05, "{mean}");
        assert!((expected_noise_range(count) - 3.08).abs() < 0.01);
        let limit = noise_range_quantile(count, 0.95) * sigma;
        let above = margins.iter().filter(|&&margin| margin > limit).count();
        let share = above as f64 / margins.len() as f64;
        assert!((share - 0.05).abs() < 0.015, "{share}");
    }

    #[test]
    fn a_constant_shift_between_orders_is_no_noise() {
        let mut floor = NoiseFloor::default();
        floor.add(&[scores(&[1.0, 2.0, 3.0]), scores(&[2.0, 3.0, 4.0])]);
        assert_eq!(floor.sigma(), 0.0);
    }

    #[test]
    fn nothing_scored_is_no_noise() {
        let mut floor = NoiseFloor::default();
        floor.add(&[scores(&[1.0]), scores(&[5.0])]);
        floor.add(&[vec![None, None], vec![None, None]]);
        assert_eq!(floor.sigma(), 0.0);
    }
}
