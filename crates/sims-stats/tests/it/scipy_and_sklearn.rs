//! Small tables evaluated by scipy and scikit-learn.

use serde_json::Value;
use sims_stats::agreement::cohen_kappa;
use sims_stats::bradley_terry::{self, Comparison};
use sims_stats::correlation::{pearson, spearman};
use sims_stats::logistic::{self, Penalty, Rows};
use sims_stats::noise_range::noise_range_quantile;
use sims_stats::permutation::sign_flip_p_value;
use sims_stats::proportion::wilson;
use sims_stats::roc::auroc;
use sims_stats::{Bootstrap, StatsError};

use crate::{close, number, numbers};

fn cases(key: &str) -> Vec<Value> {
    let reference: Value =
        serde_json::from_str(include_str!("reference.json")).expect("reference.json is JSON");
    reference[key]
        .as_array()
        .expect("an array of cases")
        .clone()
}

fn labels(value: &Value) -> Vec<usize> {
    numbers(value)
        .into_iter()
        .map(|label| label as usize)
        .collect()
}

#[test]
fn correlations_match_scipy() -> Result<(), StatsError> {
    for case in cases("correlation") {
        let (x, y) = (numbers(&case["x"]), numbers(&case["y"]));
        close(spearman(&x, &y)?, number(&case, "spearman"), 1e-12);
        close(pearson(&x, &y)?, number(&case, "pearson"), 1e-12);
    }
    Ok(())
}

#[test]
fn kappa_matches_sklearn() -> Result<(), StatsError> {
    for case in cases("kappa") {
        let classes = number(&case, "classes") as usize;
        let kappa = cohen_kappa(&labels(&case["left"]), &labels(&case["right"]), classes)?;
        close(kappa.kappa, number(&case, "kappa"), 1e-12);
    }
    Ok(())
}

#[test]
fn auroc_matches_sklearn_and_its_interval_brents_root() -> Result<(), StatsError> {
    for case in cases("auroc") {
        let area = auroc(
            &numbers(&case["positives"]),
            &numbers(&case["negatives"]),
            0.95,
        )?;
        close(area.estimate, number(&case, "auroc"), 1e-12);
        let interval = numbers(&case["interval"]);
        close(area.low, interval[0], 1e-9);
        close(area.high, interval[1], 1e-9);
    }
    Ok(())
}

#[test]
fn wilson_matches_scipy() -> Result<(), StatsError> {
    for case in cases("proportion") {
        let n = number(&case, "n") as u64;
        let got = wilson(number(&case, "successes"), n, number(&case, "confidence"))?;
        let interval = numbers(&case["interval"]);
        close(got.low, interval[0], 1e-12);
        close(got.high, interval[1], 1e-12);
    }
    Ok(())
}

#[test]
fn bradley_terry_matches_a_general_optimiser() -> Result<(), StatsError> {
    for case in cases("bradley_terry") {
        let comparisons: Vec<Comparison> = case["comparisons"]
            .as_array()
            .expect("an array")
            .iter()
            .map(|row| {
                let row = numbers(row);
                Comparison {
                    first: row[0] as usize,
                    second: row[1] as usize,
                    p_first: row[2],
                    weight: 1.0,
                }
            })
            .collect();
        let items = number(&case, "items") as usize;
        let fit = bradley_terry::fit(items, &comparisons, number(&case, "ridge"))?;
        // BFGS with numerical gradients stops at about 1e-6.
        for (got, expected) in fit.scores.iter().zip(numbers(&case["scores"])) {
            close(*got, expected, 1e-5);
        }
        let errors = numbers(&case["standard_errors"]);
        for (got, expected) in fit.standard_errors.iter().zip(errors) {
            close(*got, expected, 1e-5);
        }
    }
    Ok(())
}

#[test]
fn bootstrap_and_sign_flips_match_scipy_within_monte_carlo_error() -> Result<(), StatsError> {
    for case in cases("bootstrap") {
        let values = numbers(&case["values"]);
        let got = Bootstrap::seeded(1).mean(&values)?;
        let expected = numbers(&case["interval"]);
        // Standard error of a 2.5 % percentile of 10,000 draws: 0.027 of the bootstrap's own.
        let tolerance = 0.1 * number(&case, "standard_error");
        close(got.low, expected[0], tolerance);
        close(got.high, expected[1], tolerance);

        let shift = number(&case, "sign_flip_shift");
        let shifted: Vec<f64> = values.iter().map(|value| value - shift).collect();
        let p = sign_flip_p_value(&shifted, 10_000, 2)?;
        close(p, number(&case, "sign_flip_p"), 0.015);
    }
    Ok(())
}

#[test]
fn noise_range_matches_the_studentised_range() {
    for case in cases("noise_range") {
        let got = noise_range_quantile(number(&case, "count") as usize, 0.95);
        close(got, number(&case, "quantile_95"), 1e-6);
    }
}

#[test]
fn logistic_regressions_match_sklearn_and_scipy() -> Result<(), StatsError> {
    let reference: Value =
        serde_json::from_str(include_str!("logistic.json")).expect("logistic.json is JSON");
    for case in reference["cases"].as_array().expect("an array of cases") {
        let strength = number(case, "strength");
        for (key, penalty) in [
            ("none", Penalty::None),
            ("ridge", Penalty::Ridge(strength)),
            ("lasso", Penalty::Lasso(strength)),
        ] {
            let rows = Rows {
                features: &numbers(&case["features"]),
                columns: number(case, "columns") as usize,
                targets: &numbers(&case["targets"]),
                weights: &numbers(&case["weights"]),
            };
            let found = logistic::fit(&rows, penalty)?.coefficients;
            for (got, expected) in found.iter().zip(numbers(&case[key])) {
                // As far as their solvers go.
                close(*got, expected, 1e-6);
            }
        }
    }
    Ok(())
}
