//! Mean win probabilities where some pairs were never compared.
//!
//! A mean over the opponents met depends on who they were: whoever met the strong ones looks weak.
//! So the pairs not compared are filled in from a least-squares fit ([`least_squares`]) to those
//! that were, and the mean runs over all opponents. With every pair compared nothing is filled in.

use crate::StatsError;
use crate::least_squares::{self, Fit, Preference};
use crate::win_rate::logistic;

/// Variance of a preference about the difference of scores that is assumed before any residual is
/// seen, and counts as one. Unit: nats squared.
const PRIOR_VARIANCE: f64 = 0.25;

/// All preferences among the items, some of them filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    fit: Fit,
    tau: f64,
    /// `[items, items]`, antisymmetric. Unit: nats.
    logits: Vec<f64>,
    /// `[items, items]`: whether the pair was compared; the diagonal counts as compared.
    known: Vec<bool>,
    /// Variance of a preference about the difference of scores.
    variance: f64,
}

impl Completion {
    /// Fills in what is missing; `tau`: log-odds that count as one nat, above zero.
    ///
    /// # Errors
    /// As [`least_squares::fit`].
    pub fn of(
        items: usize,
        preferences: &[Preference],
        tau: f64,
        ridge: f64,
    ) -> Result<Self, StatsError> {
        let fit = least_squares::fit(items, preferences, ridge)?;
        let mut logits = vec![0.0; items * items];
        let mut known = vec![false; items * items];
        for i in 0..items {
            known[i * items + i] = true;
            for j in 0..items {
                logits[i * items + j] = fit.scores[i] - fit.scores[j];
            }
        }
        for p in preferences {
            let (there, back) = (p.first * items + p.second, p.second * items + p.first);
            (logits[there], logits[back]) = (p.by, -p.by);
            (known[there], known[back]) = (true, true);
        }
        let variance =
            (PRIOR_VARIANCE + fit.residual_squares) / (1.0 + fit.degrees_of_freedom as f64);
        Ok(Self {
            fit,
            tau,
            logits,
            known,
            variance,
        })
    }

    fn items(&self) -> usize {
        self.fit.scores.len()
    }

    fn is_known(&self, i: usize, j: usize) -> bool {
        self.known[i * self.items() + j]
    }

    /// The pairs `i < j` that were never compared.
    pub fn missing(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let items = self.items();
        (0..items)
            .flat_map(move |i| (i + 1..items).map(move |j| (i, j)))
            .filter(|&(i, j)| !self.is_known(i, j))
    }

    /// Returns the mean probability that item `i` beats the others; ½ if it is alone.
    #[must_use]
    pub fn win_probability(&self, i: usize) -> f64 {
        let items = self.items();
        let wins = (0..items)
            .filter(|&j| j != i)
            .map(|j| logistic(self.logits[i * items + j] / self.tau));
        match items {
            1 => 0.5,
            _ => wins.sum::<f64>() / (items - 1) as f64,
        }
    }

    /// Returns the standard error of [`win_probability`](Self::win_probability) that comes from the
    /// pairs not compared; 0 where all were.
    #[must_use]
    pub fn standard_error(&self, i: usize) -> f64 {
        self.contrast_error(&[(i, 1.0)])
    }

    /// Returns the standard error of the difference of two items' win probabilities.
    #[must_use]
    pub fn gap_error(&self, left: usize, right: usize) -> f64 {
        self.contrast_error(&[(left, 1.0), (right, -1.0)])
    }

    /// Returns by how much knowing a missing pair would reduce the variance of either item's win
    /// probability, the other pairs as they are.
    #[must_use]
    pub fn worth(&self, i: usize, j: usize) -> f64 {
        let spread = self.variance * (1.0 + self.fit.gap_variance(i, j));
        self.slope(i, j).powi(2) * spread
    }

    /// Derivative of a term of the mean win probability by its log-odds.
    fn slope(&self, i: usize, j: usize) -> f64 {
        let p = logistic(self.logits[i * self.items() + j] / self.tau);
        p * (1.0 - p) / (self.tau * (self.items() - 1) as f64)
    }

    /// Standard error of `Σ weight · win_probability(item)`, by the delta method.
    fn contrast_error(&self, weights: &[(usize, f64)]) -> f64 {
        let items = self.items();
        // By missing pair, and by score.
        let mut of_pair = vec![0.0; items * items];
        let mut of_score = vec![0.0; items];
        for &(i, weight) in weights {
            for j in (0..items).filter(|&j| !self.is_known(i, j)) {
                let slope = weight * self.slope(i, j);
                let sign = if i < j { 1.0 } else { -1.0 };
                of_pair[i.min(j) * items + i.max(j)] += sign * slope;
                of_score[i] += slope;
                of_score[j] -= slope;
            }
        }
        let own: f64 = of_pair.iter().map(|slope| slope * slope).sum();
        let mut shared = 0.0;
        for (i, left) in of_score.iter().enumerate() {
            for (j, right) in of_score.iter().enumerate() {
                shared += left * right * self.fit.covariance(i, j);
            }
        }
        (self.variance * (own + shared).max(0.0)).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn normal(stream: &mut Stream) -> f64 {
        let radius = (-2.0 * (1.0 - stream.next_f64()).ln()).sqrt();
        radius * (std::f64::consts::TAU * stream.next_f64()).cos()
    }

    /// Preferences among items of these scores, with noise of this deviation.
    fn preferences(
        scores: &[f64],
        deviation: f64,
        stream: &mut Stream,
        keep: impl Fn(usize, usize) -> bool,
    ) -> (Vec<Preference>, Vec<Preference>) {
        let (mut all, mut kept) = (Vec::new(), Vec::new());
        for first in 0..scores.len() {
            for second in first + 1..scores.len() {
                let by = scores[first] - scores[second] + deviation * normal(stream);
                let preference = Preference { first, second, by };
                all.push(preference);
                if keep(first, second) {
                    kept.push(preference);
                }
            }
        }
        (all, kept)
    }

    #[test]
    fn with_every_pair_it_is_the_mean_win_probability() {
        let all = [
            Preference {
                first: 0,
                second: 1,
                by: 2.0,
            },
            Preference {
                first: 0,
                second: 2,
                by: -1.0,
            },
            Preference {
                first: 1,
                second: 2,
                by: 0.5,
            },
        ];
        let completion = Completion::of(3, &all, 2.0, 0.0).expect("connected");
        let expected = 0.5 * (logistic(1.0) + logistic(-0.5));
        assert!((completion.win_probability(0) - expected).abs() < 1e-15);
        assert_eq!(completion.standard_error(0), 0.0);
        assert_eq!(completion.missing().count(), 0);
    }

    #[test]
    fn without_noise_a_chain_says_what_all_pairs_say() {
        let scores = [0.3, -1.0, 2.0, 0.9, -0.2];
        let mut stream = Stream::new(1, 0);
        let (all, chain) = preferences(&scores, 0.0, &mut stream, |i, j| j == i + 1);
        let full = Completion::of(5, &all, 1.0, 0.0).expect("connected");
        let partial = Completion::of(5, &chain, 1.0, 0.0).expect("connected");
        for item in 0..5 {
            let gap = full.win_probability(item) - partial.win_probability(item);
            assert!(gap.abs() < 1e-12, "{gap}");
            assert!(partial.standard_error(item) > 0.0);
        }
        assert_eq!(partial.missing().count(), 6);
    }

    #[test]
    fn intervals_cover_what_all_pairs_say() {
        // Noise of the assumed deviation; half of the pairs of eight items.
        let (mut covered, mut gaps_covered) = (0, 0);
        let draws = 2000;
        for draw in 0..draws {
            let mut stream = Stream::new(7, draw);
            let scores: Vec<f64> = (0..8).map(|_| 1.5 * normal(&mut stream)).collect();
            let (all, kept) = preferences(&scores, 0.5, &mut stream, |i, j| {
                j == i + 1 || (i * 5 + j) % 3 == 0
            });
            let full = Completion::of(8, &all, 1.0, 0.0).expect("connected");
            let partial = Completion::of(8, &kept, 1.0, 0.0).expect("connected");
            let error = |item| full.win_probability(item) - partial.win_probability(item);
            covered += usize::from(error(2).abs() <= 1.96 * partial.standard_error(2));
            let gap = (error(2) - error(5)).abs();
            gaps_covered += usize::from(gap <= 1.96 * partial.gap_error(2, 5));
        }
        for count in [covered, gaps_covered] {
            let share = count as f64 / draws as f64;
            // Below 0.95, since each variance is estimated from a few residuals.
            assert!((0.88..0.97).contains(&share), "{share}");
        }
    }

    #[test]
    fn a_single_item_is_neutral() {
        let alone = Completion::of(1, &[], 1.0, 0.0).expect("one item is connected");
        assert_eq!(alone.win_probability(0), 0.5);
        assert_eq!(alone.standard_error(0), 0.0);
    }
}
