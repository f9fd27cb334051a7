//! Percentile bootstrap over prompts.
//!
//! The unit that is resampled is whatever one value (or one index) stands for: one prompt, with
//! both sides of a comparison inside it. That makes the interval a paired one.

use rayon::prelude::*;

use crate::error::{finite, within_unit};
use crate::{StatsError, random::Stream};

/// An estimate and the two ends of its interval.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Interval {
    /// The statistic of the data themselves.
    pub estimate: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// How to resample.
///
/// A one-sided bound at 95 % is the lower end of a two-sided interval with `confidence` 0.90.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bootstrap {
    /// Number of resamples.
    pub resamples: usize,
    /// Two-sided coverage, within `(0, 1)`.
    pub confidence: f64,
    /// Seed of the draws.
    pub seed: u64,
}

impl Default for Bootstrap {
    /// 10,000 resamples, 95 %, seed 0.
    fn default() -> Self {
        Self {
            resamples: 10_000,
            confidence: 0.95,
            seed: 0,
        }
    }
}

impl Bootstrap {
    /// Returns the default with this seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self {
            seed,
            ..Self::default()
        }
    }

    /// Returns the same resampling for a one-sided bound with this coverage.
    #[must_use]
    pub fn one_sided(self, confidence: f64) -> Self {
        Self {
            confidence: 2.0 * confidence - 1.0,
            ..self
        }
    }

    /// Estimates the mean of `values`, one value a prompt.
    ///
    /// The result does not depend on the order of the values, to the last bit.
    ///
    /// # Errors
    /// Empty or non-finite values, no resamples, a confidence outside `(0, 1)`.
    pub fn mean(&self, values: &[f64]) -> Result<Interval, StatsError> {
        finite("bootstrap of a mean", values)?;
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len() as f64;
        self.statistic(sorted.len(), |indices| {
            indices
                .iter()
                .map(|&index| sorted[index as usize])
                .sum::<f64>()
                / n
        })
    }

    /// Estimates the mean of `left[i] - right[i]`, one pair a prompt.
    ///
    /// # Errors
    /// As [`Bootstrap::mean`], and different lengths.
    pub fn mean_difference(&self, left: &[f64], right: &[f64]) -> Result<Interval, StatsError> {
        same_length("bootstrap of a difference", left, right)?;
        let differences: Vec<f64> = left.iter().zip(right).map(|(l, r)| l - r).collect();
        self.mean(&differences)
    }

    /// Estimates the mean of `numerator` divided by the mean of `denominator`, paired by prompt.
    ///
    /// The result does not depend on the order of the pairs, to the last bit.
    ///
    /// # Errors
    /// As [`Bootstrap::mean`], different lengths, and a resample whose denominator is zero.
    pub fn ratio_of_means(
        &self,
        numerator: &[f64],
        denominator: &[f64],
    ) -> Result<Interval, StatsError> {
        same_length("bootstrap of a ratio", numerator, denominator)?;
        finite("bootstrap of a ratio", numerator)?;
        finite("bootstrap of a ratio", denominator)?;
        let mut pairs: Vec<(f64, f64)> = numerator
            .iter()
            .copied()
            .zip(denominator.iter().copied())
            .collect();
        pairs.sort_by(|l, r| l.0.total_cmp(&r.0).then(l.1.total_cmp(&r.1)));
        self.statistic(pairs.len(), |indices| {
            let (top, bottom) = indices.iter().fold((0.0, 0.0), |(top, bottom), &index| {
                let pair = pairs[index as usize];
                (top + pair.0, bottom + pair.1)
            });
            top / bottom
        })
    }

    /// Estimates any statistic of `n` prompts.
    ///
    /// `statistic` gets indices below `n`, with repeats; the estimate is its value for `0..n`. Give
    /// prompts in a fixed order (by id), because the draws are tied to the index. A statistic that
    /// counts distinct things (distinct-n) shrinks when prompts repeat: bootstrap such figures per
    /// prompt instead.
    ///
    /// # Errors
    /// `n` of zero, no resamples, a confidence outside `(0, 1)`, a value that is not finite.
    pub fn statistic(
        &self,
        n: usize,
        statistic: impl Fn(&[u32]) -> f64 + Sync,
    ) -> Result<Interval, StatsError> {
        self.check(n)?;
        let all: Vec<u32> = (0..n as u32).collect();
        let estimate = statistic(&all);
        finite("bootstrap statistic", &[estimate])?;
        let mut replicates: Vec<f64> = (0..self.resamples)
            .into_par_iter()
            .map_init(
                || vec![0u32; n],
                |indices, resample| {
                    draw(indices, Stream::new(self.seed, resample as u64));
                    statistic(indices)
                },
            )
            .collect();
        finite("bootstrap resample", &replicates)?;
        replicates.sort_by(f64::total_cmp);
        let tail = 0.5 * (1.0 - self.confidence);
        Ok(Interval {
            estimate,
            low: quantile(&replicates, tail),
            high: quantile(&replicates, 1.0 - tail),
        })
    }

    fn check(&self, n: usize) -> Result<(), StatsError> {
        if n == 0 {
            return Err(StatsError::Empty { what: "bootstrap" });
        }
        if n > u32::MAX as usize {
            return Err(StatsError::OutOfRange {
                what: "number of values to resample",
                value: n as f64,
                expected: "below 2^32",
            });
        }
        if self.resamples == 0 {
            return Err(StatsError::OutOfRange {
                what: "number of resamples",
                value: 0.0,
                expected: "at least 1",
            });
        }
        within_unit("confidence", self.confidence)?;
        Ok(())
    }
}

/// Fills `indices` with uniform draws below its length, two from each 64 random bits.
///
/// Multiply and shift on 32 bits: the bias is at most `n / 2^32`.
fn draw(indices: &mut [u32], mut stream: Stream) {
    let n = indices.len() as u64;
    for pair in indices.chunks_mut(2) {
        let bits = stream.next_u64();
        pair[0] = (((bits >> 32) * n) >> 32) as u32;
        if let Some(second) = pair.get_mut(1) {
            *second = (((bits & 0xFFFF_FFFF) * n) >> 32) as u32;
        }
    }
}

/// Returns the `probability` quantile of ascending values, linear between neighbours.
///
/// The definition numpy and scipy use by default (Hyndman and Fan's type 7). `sorted` must not be
/// empty.
#[must_use]
pub fn quantile(sorted: &[f64], probability: f64) -> f64 {
    let place = probability.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let below = place.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (place - below as f64) * (sorted[above] - sorted[below])
}

fn same_length(what: &'static str, left: &[f64], right: &[f64]) -> Result<(), StatsError> {
    if left.len() == right.len() {
        return Ok(());
    }
    Err(StatsError::Lengths {
        what,
        left: left.len(),
        right: right.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// n draws of a coin that shows 1 with probability p.
    fn coins(seed: u64, repeat: u64, n: usize, p: f64) -> Vec<f64> {
        let mut stream = Stream::new(seed, repeat);
        (0..n)
            .map(|_| f64::from(u8::from(stream.next_f64() < p)))
            .collect()
    }

    #[test]
    fn constant_values_have_a_point_interval() {
        let interval = Bootstrap::default().mean(&[0.5; 200]).expect("valid input");
        assert_eq!(
            (interval.estimate, interval.low, interval.high),
            (0.5, 0.5, 0.5)
        );
    }

    #[test]
    fn coverage_is_nominal_and_the_gain_gate_is_calibrated() {
        // 1,000 resamples instead of 10,000: the percentile's own noise is below a fifth of the
        // interval's half-width, and 400 repeats take a second.
        let (mut covered, mut accepted, mut refused) = (0, 0, 0);
        for repeat in 0..400 {
            let method = Bootstrap {
                resamples: 1000,
                confidence: 0.95,
                seed: repeat,
            };
            let better = coins(11, repeat, 500, 0.6);
            let interval = method.mean(&better).expect("valid input");
            covered += u32::from(interval.low <= 0.6 && 0.6 <= interval.high);
            let gate = method.one_sided(0.95);
            accepted += u32::from(gate.mean(&better).expect("valid input").low > 0.5);
            let neutral = coins(12, repeat, 500, 0.5);
            refused += u32::from(gate.mean(&neutral).expect("valid input").low <= 0.5);
        }
        assert!((372..=388).contains(&covered), "covered {covered} of 400");
        assert!(accepted >= 390, "accepted {accepted} of 400");
        assert!(refused >= 368, "refused {refused} of 400");
    }

    #[test]
    fn order_of_the_prompts_does_not_matter() {
        let values: Vec<f64> = (0..101).map(|i| f64::from(i).sin()).collect();
        let other: Vec<f64> = (0..101).map(|i| 2.0 + f64::from(i).cos()).collect();
        let backwards = |values: &[f64]| values.iter().rev().copied().collect::<Vec<_>>();
        let method = Bootstrap::seeded(3);
        assert_eq!(method.mean(&values), method.mean(&backwards(&values)));
        assert_eq!(
            method.ratio_of_means(&values, &other),
            method.ratio_of_means(&backwards(&values), &backwards(&other))
        );
    }

    #[test]
    fn threads_do_not_matter() {
        let values: Vec<f64> = (0..333).map(|i| f64::from(i % 17)).collect();
        let with = |threads| {
            rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .expect("a small pool")
                .install(|| Bootstrap::seeded(1).mean(&values))
        };
        assert_eq!(with(1), with(3));
    }

    #[test]
    fn half_width_matches_the_normal_theory() {
        let values = coins(5, 0, 805, 0.6);
        let interval = Bootstrap::default().mean(&values).expect("valid input");
        let p = interval.estimate;
        let half_width = 1.96 * (p * (1.0 - p) / 805.0).sqrt();
        assert!(((interval.high - interval.low) / 2.0 - half_width).abs() < 0.0015);
    }

    #[test]
    fn ratio_of_a_side_with_itself_is_one() {
        let values: Vec<f64> = (1..50).map(f64::from).collect();
        let interval = Bootstrap::default().ratio_of_means(&values, &values);
        let interval = interval.expect("valid input");
        assert_eq!(
            (interval.low, interval.estimate, interval.high),
            (1.0, 1.0, 1.0)
        );
    }

    #[test]
    fn bad_input_is_refused() {
        let method = Bootstrap::default();
        assert!(matches!(method.mean(&[]), Err(StatsError::Empty { .. })));
        assert!(matches!(
            method.mean(&[1.0, f64::NAN]),
            Err(StatsError::NonFinite { index: 1, .. })
        ));
        assert!(matches!(
            method.mean_difference(&[1.0], &[1.0, 2.0]),
            Err(StatsError::Lengths {
                left: 1,
                right: 2,
                ..
            })
        ));
        let silly = Bootstrap {
            confidence: 1.0,
            ..method
        };
        assert!(matches!(
            silly.mean(&[1.0]),
            Err(StatsError::OutOfRange { .. })
        ));
        assert!(matches!(
            method.ratio_of_means(&[1.0, 1.0], &[0.0, 1.0]),
            Err(StatsError::NonFinite { .. })
        ));
    }

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.5), 2.0);
        assert_eq!(quantile(&[1.0, 2.0, 4.0], 0.75), 3.0);
        assert_eq!(quantile(&[7.0], 0.3), 7.0);
    }
}
