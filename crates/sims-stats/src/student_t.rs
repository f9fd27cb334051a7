//! Student's t: the distribution, and the interval of a mean of few values.

use statrs::function::beta::beta_reg;

use crate::error::{finite, positive, within_unit};
use crate::normal::{bisect, normal_cdf};
use crate::{Interval, StatsError};

/// Degrees of freedom from which the normal distribution, corrected as Abramowitz and Stegun 26.7.8 do, is
/// nearer than the incomplete beta function, whose logarithms of gamma cancel.
const NORMAL_FROM: f64 = 1e5;

/// Returns the probability that a Student-t variable with `degrees` degrees of freedom is at most `t`.
///
/// # Errors
/// `degrees` not above 0, `t` NaN.
pub fn student_t_cdf(t: f64, degrees: f64) -> Result<f64, StatsError> {
    positive("degrees of freedom", degrees)?;
    if t.is_nan() {
        return Err(StatsError::OutOfRange {
            what: "t",
            value: t,
            expected: "a number",
        });
    }
    Ok(cdf(t, degrees))
}

/// Returns the `t` below which a Student-t variable falls with probability `p`.
///
/// # Errors
/// `p` outside `(0, 1)`, `degrees` not above 0.
pub fn student_t_quantile(p: f64, degrees: f64) -> Result<f64, StatsError> {
    within_unit("probability", p)?;
    positive("degrees of freedom", degrees)?;
    Ok(quantile(p, degrees))
}

/// The distribution function, for degrees of freedom above 0.
pub(crate) fn cdf(t: f64, degrees: f64) -> f64 {
    if t > 0.0 {
        return 1.0 - cdf(-t, degrees);
    }
    let square = t * t;
    if degrees > NORMAL_FROM {
        let scale = (1.0 + square / (2.0 * degrees)).sqrt();
        return normal_cdf(t * (1.0 - 0.25 / degrees) / scale);
    }
    // The smaller of the two complementary arguments keeps its digits.
    if square < degrees {
        0.5 - 0.5 * beta_reg(0.5, 0.5 * degrees, square / (degrees + square))
    } else {
        0.5 * beta_reg(0.5 * degrees, 0.5, degrees / (degrees + square))
    }
}

/// The quantile, for `p` within `(0, 1)` and degrees of freedom above 0.
pub(crate) fn quantile(p: f64, degrees: f64) -> f64 {
    // The distribution function has relative precision in its lower tail only.
    if p > 0.5 {
        return -quantile(1.0 - p, degrees);
    }
    let mut low = -1.0;
    while cdf(low, degrees) > p {
        low *= 2.0;
    }
    bisect(low, 0.0, |t| cdf(t, degrees) < p)
}

/// Mean, and the standard deviation around it (divisor `n - 1`).
pub(crate) struct Moments {
    pub(crate) mean: f64,
    pub(crate) standard_deviation: f64,
    pub(crate) n: f64,
}

impl Moments {
    /// The moments of two values or more; they do not depend on the values' order.
    pub(crate) fn of(what: &'static str, values: &[f64]) -> Result<Self, StatsError> {
        finite(what, values)?;
        if values.len() < 2 {
            return Err(StatsError::TooFew {
                what,
                found: values.len(),
                needed: 2,
            });
        }
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len() as f64;
        // Equal values have no spread, whatever the rounding of their mean.
        if sorted[0] == sorted[sorted.len() - 1] {
            return Ok(Self {
                mean: sorted[0],
                standard_deviation: 0.0,
                n,
            });
        }
        let mean = sorted.iter().sum::<f64>() / n;
        let squares: f64 = sorted.iter().map(|value| (value - mean).powi(2)).sum();
        Ok(Self {
            mean,
            standard_deviation: (squares / (n - 1.0)).sqrt(),
            n,
        })
    }

    pub(crate) fn standard_error(&self) -> f64 {
        self.standard_deviation / self.n.sqrt()
    }

    pub(crate) fn degrees(&self) -> f64 {
        self.n - 1.0
    }

    /// The interval of the mean with this two-sided coverage.
    pub(crate) fn interval(&self, confidence: f64) -> Result<Interval, StatsError> {
        within_unit("confidence", confidence)?;
        let reach = -quantile(0.5 - 0.5 * confidence, self.degrees()) * self.standard_error();
        Ok(Interval {
            estimate: self.mean,
            low: self.mean - reach,
            high: self.mean + reach,
        })
    }
}

/// Returns the mean of `values` with its Student-t interval.
///
/// For few values, such as one figure a seed, where a bootstrap would be too narrow. Assumes that the
/// values are roughly normal.
///
/// # Errors
/// Fewer than two values, a value that is not finite, a confidence outside `(0, 1)`.
pub fn mean_interval(values: &[f64], confidence: f64) -> Result<Interval, StatsError> {
    Moments::of("mean with a Student-t interval", values)?.interval(confidence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_and_two_degrees_have_closed_forms() {
        for p in [1e-9, 0.025, 0.2, 0.5, 0.9, 0.999] {
            let cauchy = (std::f64::consts::PI * (p - 0.5)).tan();
            let got = quantile(p, 1.0);
            // The tangent near its pole loses digits of p - 0.5.
            assert!((got - cauchy).abs() <= 1e-6 * (1.0 + cauchy.abs()), "{p}");
            let two = (2.0 * p - 1.0) / (2.0 * p * (1.0 - p)).sqrt();
            let got = quantile(p, 2.0);
            assert!((got - two).abs() <= 1e-9 * (1.0 + two.abs()), "{p}: {got}");
        }
    }

    #[test]
    fn many_degrees_are_the_normal_distribution() {
        let got = student_t_quantile(0.975, 1e9).expect("valid input");
        assert!((got - crate::normal_quantile(0.975)).abs() < 1e-8, "{got}");
        for t in [-6.0, -1.96, 0.3] {
            let (exact, corrected) = (cdf(t, 1e5), cdf(t, 1e5 + 1e-3));
            assert!(
                (exact / corrected - 1.0).abs() < 1e-6,
                "{t}: {exact} {corrected}"
            );
        }
        assert_eq!(cdf(f64::INFINITY, 5.0), 1.0);
        assert_eq!(cdf(f64::NEG_INFINITY, 5.0), 0.0);
    }

    #[test]
    fn equal_values_have_a_point_interval() {
        let interval = mean_interval(&[0.1; 3], 0.95).expect("valid input");
        assert_eq!((interval.low, interval.high), (0.1, 0.1));
    }

    #[test]
    fn bad_input_is_refused() {
        let message = |result: Result<Interval, StatsError>| result.expect_err("bad").to_string();
        assert!(message(mean_interval(&[0.5], 0.95)).contains("1 given, at least 2 needed"));
        assert!(message(mean_interval(&[], 0.95)).contains("no values"));
        assert!(message(mean_interval(&[0.5, f64::NAN], 0.95)).contains("value 1 is NaN"));
        assert!(message(mean_interval(&[0.5, 0.6], 95.0)).contains("confidence is 95"));
        assert!(student_t_quantile(1.0, 3.0).is_err());
        assert!(student_t_quantile(0.5, 0.0).is_err());
        assert!(student_t_cdf(f64::NAN, 3.0).is_err());
    }
}
