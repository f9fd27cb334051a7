//! AlpacaEval with a judge of this project: outputs to tables, `sims-judge`, judgments to annotations.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use sims_testkit::program;

use crate::{json as parsed, refused, run};

/// Writes outputs of a generator; returns the file's path.
fn outputs(folder: &Path, name: &str, outputs: &[(&str, &str)]) -> String {
    let rows: Vec<Value> = outputs
        .iter()
        .map(|(instruction, output)| {
            json!({"instruction": instruction, "output": output, "generator": name, "dataset": "koala"})
        })
        .collect();
    let path = folder.join(format!("{name}.json"));
    fs::write(&path, Value::from(rows).to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Every text counts 0.1 nats a byte: the preference is known to the last digit.
#[test]
fn judgments_of_any_judge_become_annotations() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let asked = [
        ("one?", "short"),
        ("two?", "a longer answer"),
        ("three?", "the same"),
        ("four?", "x"),
    ];
    let baseline = outputs(folder.path(), "base", &asked);
    let answered = [
        ("three?", "the same"),
        ("two?", "brief"),
        ("one?", "rather long"),
        ("other?", "y"),
    ];
    let model = outputs(folder.path(), "model", &answered);
    let both = ["--outputs", &model, "--baseline-outputs", &baseline];
    let tables = path("tables");
    let output = run(&[&["alpaca-tables"], &both[..], &["--out", &tables]].concat());
    assert!(output.status.success(), "{output:?}");
    let note = String::from_utf8(output.stderr).unwrap();
    assert!(
        note.contains("1 of the baseline's 4 instructions have no output"),
        "{note}"
    );

    let judged = Command::new(program("sims-judge"))
        .args([
            "--judge",
            "planted-length",
            "--length-weight",
            "0.1",
            "--controls",
            "0",
        ])
        .args(["--prompts", &format!("{tables}/prompts.parquet")])
        .args(["--responses", &format!("{tables}/responses.parquet")])
        .args(["--out", &path("judged")])
        .output()
        .unwrap();
    assert!(judged.status.success(), "{judged:?}");
    let judgments = path("judged/judgments.parquet");
    let annotations = path("annotations.json");
    let arguments = [
        &["alpaca-judged"],
        &both[..],
        &["--judgments", &judgments, "--out", &annotations],
    ];
    let output = run(&arguments.concat());
    assert!(output.status.success(), "{output:?}");
    let rows = parsed(&fs::read_to_string(&annotations).unwrap());
    let rows = rows.as_array().unwrap();
    let asked: Vec<&str> = rows
        .iter()
        .map(|row| row["instruction"].as_str().unwrap())
        .collect();
    assert_eq!(asked, ["one?", "two?", "three?"]);
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    for (row, expected) in rows
        .iter()
        .zip([1.0 + sigmoid(0.6), 1.0 + sigmoid(-1.0), 1.5])
    {
        let found = row["preference"].as_f64().unwrap();
        assert!((found - expected).abs() < 1e-12, "{row}: {expected}");
    }
    assert_eq!(rows[0]["annotator"], "planted-length/0.1");
    assert_eq!(
        (&rows[0]["generator_1"], &rows[0]["generator_2"]),
        (&json!("base"), &json!("model"))
    );

    // Other outputs have other ids.
    let other = outputs(folder.path(), "model", &[("one?", "another text")]);
    let arguments = [
        "alpaca-judged",
        "--outputs",
        &other,
        "--baseline-outputs",
        &baseline,
    ];
    let message = refused(
        &[
            &arguments[..],
            &["--judgments", &judgments, "--out", &annotations],
        ]
        .concat(),
    );
    assert!(
        message.contains("`one?`: the table has no judgment of these outputs"),
        "{message}"
    );
}

#[test]
fn an_instruction_that_comes_twice_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let twice = [("one?", "a"), ("one?", "b")];
    let baseline = outputs(folder.path(), "base", &twice);
    let model = outputs(folder.path(), "model", &twice);
    let out = folder.path().join("tables").to_str().unwrap().to_owned();
    let arguments = [
        "alpaca-tables",
        "--outputs",
        &model,
        "--baseline-outputs",
        &baseline,
        "--out",
        &out,
    ];
    let message = refused(&arguments);
    assert!(
        message.contains("base.json: the instruction `one?` comes twice"),
        "{message}"
    );
}
