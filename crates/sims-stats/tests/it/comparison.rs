//! Tests, power, equivalence and seeds as scipy and statsmodels compute them.

use serde_json::Value;
use sims_stats::equivalence::{Verdict, by_bootstrap, two_one_sided_tests};
use sims_stats::mcnemar::{Discordance, TestResult};
use sims_stats::permutation::holm;
use sims_stats::power::{Design, power_of_flips, power_of_mean};
use sims_stats::seeds::over_seeds;
use sims_stats::student_t::{student_t_cdf, student_t_quantile};
use sims_stats::{Bootstrap, StatsError};

use crate::{close, number, numbers};

fn cases(key: &str) -> Vec<Value> {
    let reference: Value =
        serde_json::from_str(include_str!("comparison.json")).expect("comparison.json is JSON");
    reference[key]
        .as_array()
        .expect("an array of cases")
        .clone()
}

#[test]
fn mcnemar_matches_statsmodels() -> Result<(), StatsError> {
    let agrees = |got: TestResult, expected: &Value| {
        let expected = numbers(expected);
        close(got.statistic, expected[0], 1e-12);
        close(got.p_value, expected[1], 1e-11);
    };
    for case in cases("mcnemar") {
        let counts = Discordance {
            first_only: number(&case, "first_only") as u64,
            second_only: number(&case, "second_only") as u64,
        };
        agrees(counts.exact(), &case["exact"]);
        agrees(counts.chi_square(false)?, &case["chi_square"]);
        agrees(counts.chi_square(true)?, &case["corrected"]);
    }
    Ok(())
}

#[test]
fn holm_matches_statsmodels() -> Result<(), StatsError> {
    for case in cases("holm") {
        for (got, expected) in holm(&numbers(&case["p"]))?
            .into_iter()
            .zip(numbers(&case["holm"]))
        {
            close(got, expected, 1e-12);
        }
    }
    Ok(())
}

#[test]
fn student_t_matches_scipy() -> Result<(), StatsError> {
    for case in cases("student_t") {
        let (p, degrees) = (number(&case, "p"), number(&case, "degrees"));
        let expected = number(&case, "quantile");
        let got = student_t_quantile(p, degrees)?;
        close(got, expected, 1e-9 * (1.0 + expected.abs()));
        close(student_t_cdf(expected, degrees)?, p, 1e-11);
    }
    Ok(())
}

#[test]
fn two_one_sided_tests_match_statsmodels() -> Result<(), StatsError> {
    for case in cases("tost") {
        let differences = numbers(&case["differences"]);
        let margin = number(&case, "margin");
        let tests = two_one_sided_tests(&differences, margin, 0.05)?;
        close(tests.p_value, number(&case, "p_value"), 1e-10);
        close(tests.p_lower, number(&case, "p_lower"), 1e-10);
        close(tests.p_upper, number(&case, "p_upper"), 1e-10);
        let (interval, expected) = (tests.outcome.difference, numbers(&case["interval_90"]));
        close(interval.low, expected[0], 1e-10);
        close(interval.high, expected[1], 1e-10);
        let equivalent = tests.outcome.verdict == Verdict::Equivalent;
        assert_eq!(equivalent, number(&case, "p_value") < 0.05);

        // The bootstrap's interval is narrower by sqrt((n - 1) / n) and by normal instead of t.
        let resampled = by_bootstrap(&differences, margin, 0.05, Bootstrap::seeded(4))?.difference;
        let width = expected[1] - expected[0];
        close(resampled.low, expected[0], 0.12 * width);
        close(resampled.high, expected[1], 0.12 * width);
    }
    Ok(())
}

#[test]
fn seeds_match_scipy() -> Result<(), StatsError> {
    for case in cases("seeds") {
        let over = over_seeds(&numbers(&case["figures"]), 0.95)?;
        let expected = numbers(&case["interval"]);
        close(over.mean.estimate, number(&case, "mean"), 1e-12);
        close(over.mean.low, expected[0], 1e-10);
        close(over.mean.high, expected[1], 1e-10);
        close(
            over.between_seeds,
            number(&case, "standard_deviation"),
            1e-12,
        );
    }
    Ok(())
}

#[test]
fn power_of_a_paired_t_test_matches_statsmodels() -> Result<(), StatsError> {
    for case in cases("mean_power") {
        let (effect, prompts) = (number(&case, "effect"), number(&case, "prompts") as u64);
        let got = power_of_mean(effect * 0.3, 0.3, prompts, number(&case, "alpha"))?;
        close(got, number(&case, "power"), 1e-8);
    }
    for case in cases("mean_prompts") {
        let design = Design {
            alpha: number(&case, "alpha"),
            power: number(&case, "power"),
        };
        let effect = number(&case, "effect");
        let needed = number(&case, "prompts").ceil() as u64;
        assert_eq!(design.prompts_for_mean(effect, 1.0)?, needed);
        assert!(design.detectable_mean(needed, 1.0)? <= effect);
        assert!(design.detectable_mean(needed - 1, 1.0)? > effect);
    }
    Ok(())
}

#[test]
fn power_of_mcnemar_matches_connor_and_all_outcomes_summed() -> Result<(), StatsError> {
    for case in cases("flips") {
        let (difference, discordance) = (number(&case, "difference"), number(&case, "discordance"));
        let alpha = number(&case, "alpha");
        let design = Design {
            alpha,
            power: number(&case, "power"),
        };
        let needed = number(&case, "prompts").ceil() as u64;
        assert_eq!(design.prompts_for_flips(difference, discordance)?, needed);
        // A normal approximation: what the test truly does there lies within 1.5 points.
        let promised = power_of_flips(difference, discordance, needed, alpha)?;
        close(promised, number(&case, "true_power"), 0.015);
    }
    Ok(())
}
