//! One figure over repeated runs: what holds whatever the seed.

use crate::student_t::Moments;
use crate::{Interval, StatsError};

/// A figure over seeds.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct OverSeeds {
    /// Mean over the seeds with its Student-t interval.
    pub mean: Interval,
    /// Standard deviation between the seeds (divisor `n - 1`), in the figure's unit.
    pub between_seeds: f64,
    /// Number of seeds.
    pub seeds: usize,
}

/// Aggregates a figure that was measured once a seed.
///
/// The interval covers what another seed changes: sampling, fitting and prompts if each seed drew its
/// own. A bootstrap over the prompts of one run does not.
///
/// # Errors
/// Fewer than two seeds, a figure that is not finite, a confidence outside `(0, 1)`.
pub fn over_seeds(figures: &[f64], confidence: f64) -> Result<OverSeeds, StatsError> {
    let moments = Moments::of("figures, one a seed", figures)?;
    Ok(OverSeeds {
        mean: moments.interval(confidence)?,
        between_seeds: moments.standard_deviation,
        seeds: figures.len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    #[test]
    fn three_seeds_by_hand() {
        // Standard deviation 0.1; t with two degrees of freedom at 97.5 % is 4.302653.
        let over = over_seeds(&[0.5, 0.6, 0.7], 0.95).expect("valid input");
        assert!((over.mean.estimate - 0.6).abs() < 1e-12);
        assert!((over.between_seeds - 0.1).abs() < 1e-12);
        let reach = 4.302_652_73 * 0.1 / 3.0f64.sqrt();
        assert!((over.mean.high - (0.6 + reach)).abs() < 1e-8);
        assert_eq!(over.seeds, 3);
    }

    #[test]
    fn coverage_is_nominal_with_five_seeds() {
        let covered = (0..2000)
            .filter(|&repeat| {
                let mut stream = Stream::new(23, repeat);
                // Sums of twelve uniform numbers are close to normal.
                let figures: Vec<f64> = (0..5)
                    .map(|_| (0..12).map(|_| stream.next_f64()).sum::<f64>() - 6.0)
                    .collect();
                let mean = over_seeds(&figures, 0.95).expect("valid input").mean;
                mean.low <= 0.0 && 0.0 <= mean.high
            })
            .count();
        // Binomial(2000, 0.95): 1900 with standard deviation 9.7.
        assert!((1866..=1934).contains(&covered), "{covered}");
    }

    #[test]
    fn one_seed_has_no_interval() {
        let error = over_seeds(&[0.5], 0.95).expect_err("one seed").to_string();
        assert_eq!(error, "figures, one a seed: 1 given, at least 2 needed");
    }
}
