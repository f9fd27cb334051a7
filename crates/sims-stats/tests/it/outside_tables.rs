//! The statistics tables in `../shared/eval-cases/stats`, where they are present.

use std::path::Path;

use serde_json::Value;
use sims_stats::agreement::cohen_kappa_of_table;
use sims_stats::correlation::{pearson, spearman};
use sims_stats::mcnemar::{Discordance, TestResult};
use sims_stats::permutation::sign_flip_p_value;
use sims_stats::proportion::{sign_test, wilson};
use sims_stats::student_t::{mean_interval, student_t_cdf, student_t_quantile};
use sims_stats::{Bootstrap, StatsError};

use crate::{close, number, numbers};

/// The tables, or `None` with a notice.
fn tables() -> Option<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/eval-cases/stats/reference.json");
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(serde_json::from_str(&text).expect("the tables are JSON")),
        Err(error) => {
            eprintln!("skipped: {}: {error}", path.display());
            None
        }
    }
}

#[test]
fn kappa_and_its_standard_error() -> Result<(), StatsError> {
    let Some(tables) = tables() else {
        return Ok(());
    };
    for case in tables["cohen_kappa"].as_array().expect("an array") {
        let rows = case["table"].as_array().expect("a table");
        let table: Vec<Vec<u64>> = rows
            .iter()
            .map(|row| numbers(row).into_iter().map(|count| count as u64).collect())
            .collect();
        let kappa = cohen_kappa_of_table(&table)?;
        let expected = &case["statsmodels"];
        close(kappa.kappa, number(expected, "kappa"), 1e-9);
        close(kappa.standard_error, number(expected, "std_kappa"), 1e-9);
    }
    Ok(())
}

#[test]
fn proportions() -> Result<(), StatsError> {
    let Some(tables) = tables() else {
        return Ok(());
    };
    for case in tables["proportion"].as_array().expect("an array") {
        let got = wilson(number(case, "successes"), number(case, "n") as u64, 0.95)?;
        let expected = numbers(&case["wilson"]);
        close(got.low, expected[0], 1e-9);
        close(got.high, expected[1], 1e-9);
        let p = sign_test(number(case, "successes") as u64, number(case, "n") as u64)?;
        close(p, number(case, "sign_test_p"), 1e-9);
    }
    Ok(())
}

#[test]
fn mcnemar() -> Result<(), StatsError> {
    let Some(tables) = tables() else {
        return Ok(());
    };
    for case in tables["mcnemar"].as_array().expect("an array") {
        let counts = Discordance {
            first_only: numbers(&case["table"][0])[1] as u64,
            second_only: numbers(&case["table"][1])[0] as u64,
        };
        agrees(counts.exact(), &case["exact"]);
        for (key, corrected) in [("chi2", false), ("chi2_corrected", true)] {
            match case.get(key) {
                Some(expected) => agrees(counts.chi_square(corrected)?, expected),
                None => assert_eq!(counts.chi_square(corrected), Err(StatsError::NoDiscordance)),
            }
        }
    }
    Ok(())
}

/// Asserts that a test gives the table's statistic and p-value.
fn agrees(got: TestResult, expected: &Value) {
    close(got.statistic, number(expected, "statistic"), 1e-9);
    close(got.p_value, number(expected, "pvalue"), 1e-9);
}

/// Wins and losses against a coin are the exact McNemar test.
#[test]
fn sign_tests() {
    let Some(tables) = tables() else {
        return;
    };
    for case in tables["proportion"].as_array().expect("an array") {
        let successes = number(case, "successes") as u64;
        let counts = Discordance {
            first_only: successes,
            second_only: number(case, "n") as u64 - successes,
        };
        close(counts.exact().p_value, number(case, "sign_test_p"), 1e-9);
    }
}

/// The paired comparison has its standard error and t-test, which the t interval is made of.
#[test]
fn student_t_on_paired_differences() -> Result<(), StatsError> {
    let Some(tables) = tables() else {
        return Ok(());
    };
    let case = &tables["paired"];
    let (a, b) = (numbers(&case["a"]), numbers(&case["b"]));
    let differences: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
    let degrees = (differences.len() - 1) as f64;
    let interval = mean_interval(&differences, 0.95)?;
    let reach = student_t_quantile(0.975, degrees)? * number(case, "sem_difference");
    close(interval.high - interval.estimate, reach, 1e-9);
    let p = 2.0 * student_t_cdf(-number(case, "t"), degrees)?;
    close(p, number(case, "t_pvalue"), 1e-9);
    Ok(())
}

#[test]
fn paired_comparison() -> Result<(), StatsError> {
    let Some(tables) = tables() else {
        return Ok(());
    };
    let case = &tables["paired"];
    let (a, b) = (numbers(&case["a"]), numbers(&case["b"]));
    let difference = Bootstrap::seeded(9).mean_difference(&b, &a)?;
    let sign = number(case, "mean_difference") / difference.estimate;
    close(sign.abs(), 1.0, 1e-6);
    let expected = numbers(&case["bootstrap_percentile"]);
    let (low, high) = if sign > 0.0 {
        (difference.low, difference.high)
    } else {
        (-difference.high, -difference.low)
    };
    // The tables' own Monte-Carlo tolerance.
    close(low, expected[0], 0.0015);
    close(high, expected[1], 0.0015);
    let differences: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
    // The table's value has Monte-Carlo error of its own (scipy with 100,000 resamples: 0.1635).
    let p = sign_flip_p_value(&differences, 100_000, 5)?;
    close(p, number(case, "sign_flip_permutation_p"), 0.01);
    Ok(())
}

#[test]
fn correlations() -> Result<(), StatsError> {
    let Some(tables) = tables() else {
        return Ok(());
    };
    let case = &tables["correlation"];
    let (x, y) = (numbers(&case["x"]), numbers(&case["y"]));
    close(pearson(&x, &y)?, number(case, "pearson"), 1e-9);
    close(spearman(&x, &y)?, number(case, "spearman"), 1e-9);
    Ok(())
}
