//! The scores against other implementations, published numbers and bad input.
//!
//! The JSON files come from the scripts beside them (CPython's `random` and `re`, NumPy, scikit-learn). The
//! published numbers lie in `../shared/eval-cases` beside the repository; without them those tests are
//! skipped with a notice.

mod alpaca;
mod annotate;
mod arena;
mod bad_input;
mod judge_server;
mod judged;
mod outputs;
mod published_alpaca;
mod published_arena;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Returns a folder of `../shared/eval-cases`, or none with a notice.
fn cases(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/eval-cases")
        .join(name);
    if path.is_dir() {
        return Some(path);
    }
    eprintln!("skipped: {} is not here", path.display());
    None
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("the file is JSON")
}

fn index(folder: &Path) -> Value {
    json(&std::fs::read_to_string(folder.join("index.json")).expect("an index"))
}

/// The number at a key.
#[track_caller]
fn number(value: &Value, key: &str) -> f64 {
    value[key]
        .as_f64()
        .unwrap_or_else(|| panic!("{key} is no number in {value}"))
}

fn numbers(value: &Value) -> Vec<f64> {
    let array = value.as_array().expect("an array of numbers");
    array
        .iter()
        .map(|v| v.as_f64().expect("a number"))
        .collect()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().expect("a text")
}

/// Asserts that two numbers differ by at most `tolerance`.
#[track_caller]
fn close(got: f64, expected: f64, tolerance: f64) {
    assert!(
        (got - expected).abs() <= tolerance,
        "got {got}, expected {expected} ± {tolerance}"
    );
}

/// Runs `sims-score ARGUMENTS`.
fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sims-score"))
        .args(arguments)
        .output()
        .expect("the program starts")
}

/// Runs `sims-score ARGUMENTS`, which must succeed, and returns the JSON it printed and its notes.
#[track_caller]
fn scored(arguments: &[&str]) -> (Value, String) {
    let output = run(arguments);
    let notes = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {notes}");
    (json(&String::from_utf8_lossy(&output.stdout)), notes)
}

/// Runs `sims-score ARGUMENTS`, which must fail for bad input, and returns what it said.
#[track_caller]
fn refused(arguments: &[&str]) -> String {
    let output = run(arguments);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
    assert!(output.stdout.is_empty());
    message
}
