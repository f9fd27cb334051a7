//! The statistics against other implementations.
//!
//! `reference.json` and `logistic.json` come from the scripts beside them (numpy, scipy, scikit-learn), `comparison.json`
//! from `comparison.py` (numpy, scipy, statsmodels), `bleu.json` from `bleu.py` (nltk). The outside tables are
//! used where they lie beside the repository and skipped with a notice elsewhere.

mod bleu;
mod comparison;
mod noise_floor;
mod outside_tables;
mod scipy_and_sklearn;

use serde_json::Value;

/// The numbers in a JSON array.
fn numbers(value: &Value) -> Vec<f64> {
    let array = value.as_array().expect("an array of numbers");
    array
        .iter()
        .map(|entry| entry.as_f64().expect("a number"))
        .collect()
}

/// The number at a key.
fn number(value: &Value, key: &str) -> f64 {
    value[key]
        .as_f64()
        .unwrap_or_else(|| panic!("{key} is no number"))
}

/// Asserts that two numbers differ by at most `tolerance`.
#[track_caller]
fn close(got: f64, expected: f64, tolerance: f64) {
    assert!(
        (got - expected).abs() <= tolerance,
        "got {got}, expected {expected} ± {tolerance}"
    );
}
