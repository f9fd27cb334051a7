//! Equivalence: showing that a difference, if there is one, is too small to matter.
//!
//! "Not significant" is no evidence of "no side effect": a small sample never shows anything. Here the
//! burden is reversed. The margin says what would matter, and the data have to exclude it.

use crate::error::{positive, within_unit};
use crate::student_t::{Moments, cdf};
use crate::{Bootstrap, Interval, StatsError};

/// What the data say about a margin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The interval lies inside the margin: no difference that matters.
    Equivalent,
    /// The interval lies outside the margin on one side: a difference that matters.
    Different,
    /// The interval crosses an end of the margin: too few data to say.
    Undecided,
}

/// The outcome of an equivalence test.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Equivalence {
    /// The mean difference with its interval of coverage `1 - 2 alpha`.
    pub difference: Interval,
    /// Half-width of what does not matter, in the differences' unit.
    pub margin: f64,
    /// What follows at the level `alpha`.
    pub verdict: Verdict,
}

/// The outcome of two one-sided t-tests.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct OneSidedTests {
    /// p-value of "the mean is at most minus the margin".
    pub p_lower: f64,
    /// p-value of "the mean is at least the margin".
    pub p_upper: f64,
    /// The larger of the two: p-value of "there is a difference that matters".
    pub p_value: f64,
    /// Interval and verdict, by the t distribution.
    pub outcome: Equivalence,
}

/// Tests by two one-sided t-tests that the mean of paired differences lies within `±margin`
/// (Schuirmann 1987).
///
/// Equal to asking whether the `1 - 2 alpha` interval lies inside the margin. `alpha`: the chance of
/// declaring equivalence when the true mean is at the margin.
///
/// # Errors
/// Fewer than two differences, one that is not finite, a margin not above 0, `alpha` outside `(0, 0.5)`.
pub fn two_one_sided_tests(
    differences: &[f64],
    margin: f64,
    alpha: f64,
) -> Result<OneSidedTests, StatsError> {
    positive("equivalence margin", margin)?;
    let confidence = coverage(alpha)?;
    let moments = Moments::of("equivalence test", differences)?;
    let error = moments.standard_error();
    // Without any spread the division gives an infinity of the right sign, but for a mean at an end.
    let p_beyond = |distance: f64| match distance {
        0.0 => 0.5,
        _ => cdf(distance / error, moments.degrees()),
    };
    let (p_lower, p_upper) = (
        p_beyond(-margin - moments.mean),
        p_beyond(moments.mean - margin),
    );
    Ok(OneSidedTests {
        p_lower,
        p_upper,
        p_value: p_lower.max(p_upper),
        outcome: judged(moments.interval(confidence)?, margin),
    })
}

/// Tests by the paired bootstrap that the mean difference lies within `±margin`: its interval of
/// coverage `1 - 2 alpha` lies inside.
///
/// `bootstrap` says how to resample; its confidence is replaced.
///
/// # Errors
/// No differences, one that is not finite, a margin not above 0, `alpha` outside `(0, 0.5)`, no resamples.
pub fn by_bootstrap(
    differences: &[f64],
    margin: f64,
    alpha: f64,
    bootstrap: Bootstrap,
) -> Result<Equivalence, StatsError> {
    positive("equivalence margin", margin)?;
    let method = Bootstrap {
        confidence: coverage(alpha)?,
        ..bootstrap
    };
    Ok(judged(method.mean(differences)?, margin))
}

fn coverage(alpha: f64) -> Result<f64, StatsError> {
    within_unit("twice the level alpha of an equivalence test", 2.0 * alpha)
        .map(|both_tails| 1.0 - both_tails)
}

fn judged(difference: Interval, margin: f64) -> Equivalence {
    let Interval { low, high, .. } = difference;
    let verdict = if -margin < low && high < margin {
        Verdict::Equivalent
    } else if margin < low || high < -margin {
        Verdict::Different
    } else {
        Verdict::Undecided
    };
    Equivalence {
        difference,
        margin,
        verdict,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn noise(repeat: u64, n: usize, mean: f64) -> Vec<f64> {
        let mut stream = Stream::new(31, repeat);
        (0..n).map(|_| mean + stream.next_f64() - 0.5).collect()
    }

    fn verdicts(differences: &[f64], margin: f64) -> [Verdict; 2] {
        let quick = Bootstrap {
            resamples: 1000,
            ..Bootstrap::default()
        };
        [
            two_one_sided_tests(differences, margin, 0.05)
                .expect("valid input")
                .outcome
                .verdict,
            by_bootstrap(differences, margin, 0.05, quick)
                .expect("valid input")
                .verdict,
        ]
    }

    #[test]
    fn the_three_verdicts() {
        // Standard error of 400 uniform numbers: 0.0144.
        assert_eq!(verdicts(&noise(0, 400, 0.0), 0.1), [Verdict::Equivalent; 2]);
        assert_eq!(verdicts(&noise(1, 400, 0.3), 0.1), [Verdict::Different; 2]);
        assert_eq!(verdicts(&noise(2, 400, -0.3), 0.1), [Verdict::Different; 2]);
        assert_eq!(verdicts(&noise(3, 10, 0.0), 0.1), [Verdict::Undecided; 2]);
    }

    #[test]
    fn p_value_and_interval_say_the_same() {
        for repeat in 0..50 {
            let tests = two_one_sided_tests(&noise(repeat, 30, 0.0), 0.1, 0.05);
            let tests = tests.expect("valid input");
            let equivalent = tests.outcome.verdict == Verdict::Equivalent;
            assert_eq!(equivalent, tests.p_value < 0.05, "{tests:?}");
        }
    }

    #[test]
    fn a_mean_at_the_margin_passes_in_one_case_of_twenty() {
        let passed = (0..1000)
            .filter(|&repeat| verdicts_t(&noise(repeat, 60, 0.1)) == Verdict::Equivalent)
            .count();
        // Binomial(1000, 0.05): 50 with standard deviation 6.9.
        assert!((29..=71).contains(&passed), "{passed}");
    }

    fn verdicts_t(differences: &[f64]) -> Verdict {
        let tests = two_one_sided_tests(differences, 0.1, 0.05).expect("valid input");
        tests.outcome.verdict
    }

    #[test]
    fn differences_without_spread_are_certain() {
        let p = |value: f64| {
            let tests = two_one_sided_tests(&[value; 5], 0.1, 0.05).expect("valid input");
            (tests.p_value, tests.outcome.verdict)
        };
        assert_eq!(p(0.0), (0.0, Verdict::Equivalent));
        assert_eq!(p(0.1), (0.5, Verdict::Undecided));
        assert_eq!(p(0.2), (1.0, Verdict::Different));
    }

    #[test]
    fn bad_input_is_refused() {
        let message = |values: &[f64], margin, alpha| {
            let error = two_one_sided_tests(values, margin, alpha).expect_err("bad");
            let other = by_bootstrap(values, margin, alpha, Bootstrap::default());
            assert!(other.is_err() || values.len() == 1);
            error.to_string()
        };
        for margin in [0.0, -0.1, f64::NAN, f64::INFINITY] {
            let message = message(&[0.0, 0.1], margin, 0.05);
            assert!(message.starts_with("equivalence margin is"), "{message}");
        }
        assert!(message(&[0.0, 0.1], 0.1, 0.5).contains("alpha"));
        assert!(message(&[], 0.1, 0.05).contains("no values"));
        assert!(message(&[0.1], 0.1, 0.05).contains("at least 2 needed"));
        assert!(message(&[0.1, f64::NAN], 0.1, 0.05).contains("not a finite number"));
    }
}
