//! Interval of a proportion.

use crate::error::within_unit;
use crate::{Interval, StatsError, normal_quantile};

/// Returns a proportion with its Wilson score interval (Wilson 1927).
///
/// `successes` may be fractional (ties counted half). The interval stays inside `[0, 1]` and has a
/// width even when every trial agrees.
///
/// # Errors
/// No trials, `successes` outside `0..=trials`, `confidence` outside `(0, 1)`.
pub fn wilson(successes: f64, trials: u64, confidence: f64) -> Result<Interval, StatsError> {
    if trials == 0 {
        return Err(StatsError::Empty { what: "proportion" });
    }
    let n = trials as f64;
    if !(0.0..=n).contains(&successes) {
        return Err(StatsError::OutOfRange {
            what: "number of successes",
            value: successes,
            expected: "between 0 and the number of trials",
        });
    }
    let z = two_sided_z(confidence)?;
    let p = successes / n;
    let shrink = 1.0 + z * z / n;
    let centre = (p + z * z / (2.0 * n)) / shrink;
    let half_width = z / shrink * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    Ok(Interval {
        estimate: p,
        low: (centre - half_width).max(0.0),
        high: (centre + half_width).min(1.0),
    })
}

/// Normal quantile of a two-sided interval.
pub(crate) fn two_sided_z(confidence: f64) -> Result<f64, StatsError> {
    within_unit("confidence", confidence).map(|level| normal_quantile(0.5 + 0.5 * level))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_example() {
        // Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662; 0 of 20 gives 0 to 0.1611.
        let interval = wilson(81.0, 263, 0.95).expect("valid input");
        assert!((interval.low - 0.2553).abs() < 5e-5);
        assert!((interval.high - 0.3662).abs() < 5e-5);
        let none = wilson(0.0, 20, 0.95).expect("valid input");
        assert_eq!(none.low, 0.0);
        assert!((none.high - 0.1611).abs() < 5e-5);
    }

    #[test]
    fn successes_and_failures_mirror_each_other() {
        let wins = wilson(30.0, 100, 0.9).expect("valid input");
        let losses = wilson(70.0, 100, 0.9).expect("valid input");
        assert!((wins.low + losses.high - 1.0).abs() < 1e-12);
    }

    #[test]
    fn impossible_counts_are_refused() {
        assert!(wilson(0.0, 0, 0.95).is_err());
        assert!(wilson(3.0, 2, 0.95).is_err());
        assert!(wilson(f64::NAN, 2, 0.95).is_err());
        assert!(wilson(1.0, 2, 1.5).is_err());
    }
}
