//! Self-BLEU, refusals and adherence to a format, as they leave the stage.

use std::fs;

use sims_artifact::tables::{ConstraintRow, MetricRow, ScoreRow};
use sims_artifact::{read_table, write_table};
use sims_testkit::random_model::{RandomModel, prompts, refused, succeeded, summary};

use crate::{Bench, PROMPTS};

fn constraint(prompt: usize, kind: &str, value: &str) -> ConstraintRow {
    ConstraintRow {
        prompt_id: prompts(PROMPTS)[prompt].prompt_id.clone(),
        kind: kind.to_owned(),
        value: value.to_owned(),
    }
}

#[test]
fn draws_are_compared_and_constraints_measured_where_they_are_given() {
    let bench = Bench::new(&RandomModel::default());
    bench.push("s.safetensors", 2, 9, 1000.0);
    let table = bench.path("constraints.parquet");
    let rows = [
        constraint(3, "words", "..1000"),
        constraint(3, "uppercase", ""),
        constraint(5, "words", "1.."),
    ];
    write_table(&table, &rows).unwrap();
    let given = [
        "--gate",
        "none",
        "--draws",
        "3",
        "--constraints",
        table.to_str().unwrap(),
    ];
    succeeded(&bench.run("out", "s.safetensors", &given));
    // The steered model says one token over and over, so its draws are alike.
    let figure = |name: &str| bench.metric("out", name);
    assert!(figure("self_bleu").value > 0.9);
    assert!(figure("base_self_bleu").value < 0.2);
    let difference = figure("self_bleu_difference");
    assert_eq!(
        (difference.baseline.as_str(), difference.n),
        ("base", PROMPTS as u64)
    );
    assert!(difference.ci_low.unwrap() <= difference.value);
    let expected = figure("self_bleu").value - figure("base_self_bleu").value;
    assert!((difference.value - expected).abs() < 1e-12);
    for name in [
        "refusal_rate",
        "base_refusal_rate",
        "refusal_rate_difference",
    ] {
        assert_eq!(figure(name).value, 0.0, "{name}");
    }
    // Words of the random model are small, so of three constraints one is never kept.
    let (all, each) = (
        figure("base_format_adherence"),
        figure("base_constraint_adherence"),
    );
    assert_eq!((all.n, all.value), (2, 0.5));
    assert_eq!((each.n, each.value), (2, 0.75));
    assert_eq!(figure("format_adherence_difference").n, 2);

    let scores: Vec<ScoreRow> = read_table(&bench.path("out").join("scores.parquet")).unwrap();
    let of = |metric: &str| scores.iter().filter(|row| row.metric == metric).count();
    assert_eq!(
        (of("self_bleu"), of("refusal")),
        (2 * 3 * PROMPTS, 2 * 3 * PROMPTS)
    );
    assert_eq!(
        (of("format_adherence"), of("constraint_adherence")),
        (2 * 3 * 2, 2 * 3 * 2)
    );

    // Without constraints, and with one draw, there is nothing to say.
    succeeded(&bench.run(
        "plain",
        "s.safetensors",
        &["--gate", "none", "--draws", "1"],
    ));
    let rows: Vec<MetricRow> = read_table(&bench.path("plain").join("metrics.parquet")).unwrap();
    let named = |part: &str| rows.iter().any(|row| row.metric.contains(part));
    assert!(!named("self_bleu") && !named("adherence") && named("refusal_rate"));
}

#[test]
fn constraints_of_other_prompts_are_warned_of_and_nonsense_is_refused() {
    let bench = Bench::new(&RandomModel::default());
    bench.push("s.safetensors", 1, 9, 0.01);
    let lines = bench.path("constraints.jsonl");
    let given = [
        "--gate",
        "none",
        "--draws",
        "2",
        "--constraints",
        lines.to_str().unwrap(),
    ];
    fs::write(
        &lines,
        "{\"prompt\": \"somewhere else\", \"kind\": \"json\"}\n",
    )
    .unwrap();
    succeeded(&bench.run("out", "s.safetensors", &given));
    let warnings = summary(&bench.path("out"))["warnings"].to_string();
    assert!(
        warnings.contains("no row of constraints is about one of the prompts"),
        "{warnings}"
    );

    fs::write(
        &lines,
        "{\"prompt\": \"x\", \"kind\": \"words\", \"value\": \"few\"}\n",
    )
    .unwrap();
    let message = refused(
        &bench.run("bad", "s.safetensors", &given),
        &bench.path("bad"),
    );
    let expected = "constraints.jsonl, row 0 (from 0): kind words: `few` is no number of them";
    assert!(message.contains(expected), "{message}");
}
