//! Files and settings that choices cannot be scored with.

use std::path::Path;

use sims_artifact::tables::ScoreRow;
use sims_artifact::write_table;
use sims_testkit::random_model::{RandomModel, refused, run};

use super::reference;

/// Runs the stage on a file of these lines, which must be refused, and returns the message.
fn message(model: &Path, lines: &str, more: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let tasks = folder.path().join("tasks.jsonl");
    std::fs::write(&tasks, lines).unwrap();
    refusal(model, &tasks, &folder.path().join("out"), more)
}

fn refusal(model: &Path, tasks: &Path, out: &Path, more: &[&str]) -> String {
    let mut all = vec!["--tasks", tasks.to_str().unwrap()];
    all.extend(more);
    let output = run(env!("CARGO_BIN_EXE_sims-choices"), model, out, &all);
    let message = refused(&output, out);
    assert_eq!(std::fs::read_dir(out).unwrap().count(), 0);
    message
}

const ROW: &str =
    r#"{"task": "t", "doc_id": "d", "context": "Q", "choices": ["a", "b"], "gold": 0}"#;

#[test]
fn broken_rows_are_named() {
    let model = reference("model");
    for (from, to, expected) in [
        (
            r#"["a", "b"]"#,
            "[]",
            "task `t`, test row `d`: it has no choices",
        ),
        (
            r#""gold": 0"#,
            r#""gold": 2"#,
            "task `t`, test row `d`: gold is 2",
        ),
        (
            r#""gold""#,
            r#""glod""#,
            "tasks.jsonl, line 1: unknown field `glod`",
        ),
        ("{", "[", "tasks.jsonl, line 1"),
    ] {
        let message = message(&model, &ROW.replacen(from, to, 1), &[]);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn what_has_nothing_to_score_is_named() {
    let model = reference("model");
    let merged = ROW
        .replace("\"Q\"", "\"because of i\"")
        .replace(r#"["a", "b"]"#, r#"["x", "t"]"#);
    let merged = merged.replace("\"gold\"", "\"target_delimiter\": \"\", \"gold\"");
    let found = message(&model, &merged, &[]);
    assert!(
        found.contains("task `t`, row `d`, choice 1: no token of it lies behind"),
        "{found}"
    );
    let long = ROW.replace("\"b\"", &format!("\"{}\"", "Z".repeat(200)));
    let found = message(&model, &long, &[]);
    assert!(
        found.contains("choice 1: its 201 tokens do not fit the context of 160"),
        "{found}"
    );
}

#[test]
fn an_empty_context_needs_a_token_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    // This model's tokenizer names neither a beginning nor an end of text.
    let model = RandomModel::default().write(folder.path());
    let row = ROW
        .replace("\"Q\"", "\"\"")
        .replace(r#"["a", "b"]"#, r#"["A", "B"]"#);
    let found = message(&model, &row, &[]);
    assert!(
        found.contains("task `t`, row `d` has an empty context"),
        "{found}"
    );
}

#[test]
fn settings_that_do_not_fit_are_named() {
    let model = reference("model");
    for (more, expected) in [
        (
            &["--shots", "1"][..],
            "task `t` has 0 rows with the split `fewshot`",
        ),
        (&["--multiturn", "true"], "multiturn: only a chat has turns"),
        (
            &["--max-length", "161"],
            "max-length: 161 is beyond the model's context of 160",
        ),
        (&["--resamples", "0"], "resamples: give 1 or more"),
    ] {
        let found = message(&model, ROW, more);
        assert!(found.contains(expected), "{found}");
    }
}

#[test]
fn files_of_another_kind_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let tasks = folder.path().join("scores.parquet");
    write_table::<ScoreRow>(&tasks, &[]).unwrap();
    let model = reference("model");
    let found = refusal(&model, &tasks, &folder.path().join("out"), &[]);
    assert!(
        found.contains("holds `scores@1`, but `choices@1` is needed"),
        "{found}"
    );
    let steering = tasks.to_str().unwrap();
    let found = message(&model, ROW, &["--steering", steering]);
    assert!(found.contains("scores.parquet"), "{found}");
}
