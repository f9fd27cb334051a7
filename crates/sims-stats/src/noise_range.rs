//! Best minus worst of K scores that are nothing but noise.
//!
//! The highest of K scores always beats the lowest, even when the judge knows nothing. These two
//! figures, in units of the noise's standard deviation, say by how much: a margin counts only when
//! it is larger.

use crate::normal::{bisect, normal_cdf, normal_density};
use crate::quadrature::simpson;

/// Integration range: the normal density is below 1e-35 outside.
const REACH: f64 = 12.5;
/// Simpson intervals; the result is exact to about 1e-12 for every K up to a few thousand.
const STEPS: u32 = 1000;

/// Returns the expected range of `count` independent standard normal variables.
///
/// c_K of the noise floor: 2.06, 2.33, 2.85, 3.08 and 3.53 for K = 4, 5, 8, 10 and 16. Zero for
/// fewer than two variables.
#[must_use]
pub fn expected_noise_range(count: usize) -> f64 {
    if count < 2 {
        return 0.0;
    }
    let power = count as f64;
    // The range is the integral of P(min <= x < max) over x (Tippett 1925).
    over_the_line(|x| 1.0 - normal_cdf(x).powf(power) - normal_cdf(-x).powf(power))
}

/// Returns the level below which the range of `count` standard normal variables stays with
/// probability `probability`.
///
/// q_K of the noise floor with probability 0.95: 3.63, 3.86, 4.29, 4.47 and 4.85 for K = 4, 5, 8,
/// 10 and 16. It is the studentised range with infinite degrees of freedom. Zero for fewer than two
/// variables.
#[must_use]
pub fn noise_range_quantile(count: usize, probability: f64) -> f64 {
    if count < 2 {
        return 0.0;
    }
    bisect(0.0, 2.0 * REACH, |range| {
        range_cdf(count, range) < probability
    })
}

/// Probability that the range of `count` standard normal variables is at most `range`.
fn range_cdf(count: usize, range: f64) -> f64 {
    let others = count as f64 - 1.0;
    // x is the smallest of them; the others lie within `range` above it.
    count as f64
        * over_the_line(|x| {
            normal_density(x)
                * (normal_cdf(x + range) - normal_cdf(x))
                    .max(0.0)
                    .powf(others)
        })
}

/// Integrates over the whole line, as far as the normal density reaches.
fn over_the_line(f: impl Fn(f64) -> f64) -> f64 {
    simpson(-REACH, REACH, STEPS, f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expected_ranges_match_the_control_chart_constants() {
        // d2 of Shewhart charts; 2 / sqrt(pi) for two variables.
        for (count, expected) in [
            (2, 2.0 / std::f64::consts::PI.sqrt()),
            (4, 2.058_75),
            (5, 2.325_93),
            (8, 2.847_20),
            (10, 3.077_51),
            (16, 3.531_98),
        ] {
            let got = expected_noise_range(count);
            assert!((got - expected).abs() < 6e-6, "{count}: {got}");
        }
    }

    #[test]
    fn quantiles_match_the_studentised_range() {
        // Upper 5 % of the studentised range, infinite degrees of freedom (scipy, see reference.py).
        for (count, expected) in [(2, 2.771_8), (4, 3.633_2), (5, 3.857_7), (10, 4.474_1)] {
            let got = noise_range_quantile(count, 0.95);
            assert!((got - expected).abs() < 1e-4, "{count}: {got}");
        }
    }

    #[test]
    fn one_score_has_no_range() {
        assert_eq!(expected_noise_range(1), 0.0);
        assert_eq!(noise_range_quantile(1, 0.95), 0.0);
    }
}
