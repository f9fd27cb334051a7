//! The `reliability` table, the controls behind it, and what follows when a limit is missed.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use serde_json::Value;
use sims_artifact::tables::{JudgmentRow, MetricRow};
use sims_artifact::{read_table, write_table};
use sims_stats::agreement::cohen_kappa;
use sims_testkit::random_model::{RandomModel, refused, succeeded, summary};

use crate::{ANY_COVERAGE, Bench};

impl Bench {
    pub(crate) fn reliability(&self, out: &str) -> BTreeMap<String, MetricRow> {
        let rows: Vec<MetricRow> = read_table(&self.path(out).join("reliability.parquet")).unwrap();
        rows.into_iter()
            .map(|row| (row.metric.clone(), row))
            .collect()
    }

    fn bytes(&self, out: &str, role: &str) -> Vec<u8> {
        fs::read(self.path(out).join(format!("{role}.parquet"))).unwrap()
    }
}

fn with<'a>(arguments: &[&'a str]) -> Vec<&'a str> {
    [&ANY_COVERAGE[..], arguments].concat()
}

#[test]
fn the_stage_describes_both_outputs() {
    let output = Command::new(env!("CARGO_BIN_EXE_sims-judge"))
        .arg("describe")
        .output()
        .unwrap();
    let description: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(description["behaviour"], 4);
    assert_eq!(description["outputs"]["judgments"]["schema"], "judgments@1");
    assert_eq!(description["outputs"]["reliability"]["schema"], "metrics@1");
    let params = &description["params"]["properties"];
    assert_eq!(params["controls"]["default"], 64);
    assert_eq!(params["unreliable"]["default"], "warn");
    assert_eq!(params["max-flip-rate"]["default"], 0.4);
    assert_eq!(params["min-control-accuracy"]["default"], 0.9);
}

#[test]
fn the_table_holds_each_figure_with_its_interval() {
    let bench = Bench::new(&RandomModel::default());
    let mut responses = bench.responses(5, 6);
    responses[1].text = responses[0].text.clone();
    succeeded(&bench.run("out", &responses, &ANY_COVERAGE));
    let found = bench.reliability("out");
    let names: Vec<&str> = found.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "control_half_accuracy",
            "control_identical_max_difference",
            "control_other_prompt_accuracy",
            "control_padded_accuracy",
            "control_shuffled_accuracy",
            "flip_rate",
            "identical_share",
            "invalid_share",
            "mean_coverage",
            "order_split_reliability",
            "position_bias",
            "position_bias_share",
            "transitivity_violations",
        ]
    );
    for (name, row) in &found {
        if name == "control_identical_max_difference" {
            // Both orders are one transcript.
            assert_eq!((row.value, row.ci_low), (0.0, None));
        } else {
            let (low, high) = (row.ci_low.unwrap(), row.ci_high.unwrap());
            assert!(low <= row.value && row.value <= high, "{row:?}");
        }
        assert_eq!(row.n, 5, "{row:?}");
        assert_eq!(row.baseline, "");
    }

    // The figures are those of the judgments.
    let judgments = bench.judgments("out");
    let equal = |a: &str, b: &str| {
        let text = |id| &responses.iter().find(|r| r.response_id == id).unwrap().text;
        text(a) == text(b)
    };
    let (mut bias, mut flips, mut distinct) = (0.0, 0.0, 0.0);
    for pair in judgments.chunks(2) {
        bias += (pair[0].raw - pair[1].raw) / 2.0;
        if !equal(&pair[0].response_a, &pair[0].response_b) {
            distinct += 1.0;
            flips += f64::from(u8::from(pair[0].raw * pair[1].raw < 0.0));
        }
    }
    let pairs = judgments.len() as f64 / 2.0;
    assert!((found["position_bias"].value - bias / pairs).abs() < 1e-12);
    assert!((found["flip_rate"].value - flips / distinct).abs() < 1e-12);
    assert!((found["identical_share"].value - (pairs - distinct) / pairs).abs() < 1e-12);
    let counts = &summary(&bench.path("out"))["counts"];
    assert_eq!(counts["flip_rate"], found["flip_rate"].value);
    assert_eq!(counts["controls"], 25.0);
}

#[test]
fn controls_do_not_change_the_judgments() {
    let bench = Bench::new(&RandomModel::default());
    let responses = bench.responses(5, 4);
    for (out, controls) in [("none", "0"), ("some", "2"), ("all", "64")] {
        succeeded(&bench.run(out, &responses, &with(&["--controls", controls])));
    }
    assert_eq!(
        bench.bytes("none", "judgments"),
        bench.bytes("some", "judgments")
    );
    assert_eq!(
        bench.bytes("none", "judgments"),
        bench.bytes("all", "judgments")
    );
    let rows = |out: &str| -> Vec<(String, u64)> {
        let controls = bench.reliability(out).into_iter();
        controls
            .filter(|(metric, _)| metric.starts_with("control_"))
            .map(|(metric, row)| (metric, row.n))
            .collect()
    };
    assert!(rows("none").is_empty());
    assert_eq!(rows("some").len(), 5);
    assert!(rows("some").iter().all(|(_, n)| *n == 2));
    assert!(rows("all").iter().all(|(_, n)| *n == 5));
}

#[test]
fn the_table_depends_on_neither_batches_nor_threads_nor_the_order_of_the_rows() {
    let bench = Bench::new(&RandomModel::default());
    let mut responses = bench.responses(5, 5);
    for (out, arguments) in [
        ("a", ["--batch-size", "1", "--threads", "1"]),
        ("b", ["--batch-size", "3", "--threads", "2"]),
        ("c", ["--batch-size", "50", "--threads", "3"]),
    ] {
        succeeded(&bench.run(out, &responses, &with(&arguments)));
    }
    responses.reverse();
    succeeded(&bench.run("back", &responses, &ANY_COVERAGE));
    for out in ["b", "c", "back"] {
        for role in ["judgments", "reliability"] {
            assert_eq!(
                bench.bytes("a", role),
                bench.bytes(out, role),
                "{out} {role}"
            );
        }
    }
    succeeded(&bench.run("seed", &responses, &with(&["--seed", "1"])));
    assert_ne!(
        bench.bytes("a", "reliability"),
        bench.bytes("seed", "reliability")
    );
}

#[test]
fn a_judge_beyond_a_limit_is_named_with_the_figure_and_the_way_out() {
    let bench = Bench::new(&RandomModel::default());
    let responses = bench.responses(5, 4);
    // Random weights flip some pairs, and no control accuracy is above one.
    let strict = ["--max-flip-rate", "0", "--min-control-accuracy", "1"];
    succeeded(&bench.run("warned", &responses, &with(&strict)));
    let figures = bench.reliability("warned");
    let flip_rate = figures["flip_rate"].value;
    assert!(flip_rate > 0.0);
    let flips = format!("its flip_rate is {flip_rate:.3}, above max-flip-rate 0 ");
    let warnings = summary(&bench.path("warned"))["warnings"].to_string();
    assert!(warnings.contains("the judge is unreliable"), "{warnings}");
    assert!(warnings.contains(&flips), "{warnings}");

    let refusing = [&strict[..], &["--unreliable", "refuse"]].concat();
    let out = bench.path("refused");
    let message = refused(&bench.run("refused", &responses, &with(&refusing)), &out);
    assert!(message.contains(&flips), "{message}");
    assert!(
        message.contains(
            "judge with another model or template, move the limit, or go on with --unreliable warn"
        ),
        "{message}"
    );
    assert_eq!(fs::read_dir(out).unwrap().count(), 0);

    let lenient = [
        "--max-flip-rate",
        "1",
        "--min-control-accuracy",
        "0",
        "--unreliable",
        "refuse",
    ];
    succeeded(&bench.run("passed", &responses, &with(&lenient)));
    assert_eq!(
        bench.bytes("warned", "reliability"),
        bench.bytes("passed", "reliability")
    );
}

#[test]
fn a_judge_without_preference_passes_no_control() {
    let flat = RandomModel {
        head_scale: 0.0,
        ..RandomModel::default()
    };
    let bench = Bench::new(&flat);
    let responses = bench.responses(3, 4);
    let refusing = with(&["--unreliable", "refuse"]);
    let out = bench.path("out");
    let message = refused(&bench.run("out", &responses, &refusing), &out);
    assert!(
        message.contains("its control_other_prompt_accuracy is 0.000 over 3 controls"),
        "{message}"
    );
    // Without controls there is nothing to hold against it.
    let none = with(&["--unreliable", "refuse", "--controls", "0"]);
    succeeded(&bench.run("none", &responses, &none));
}

#[test]
fn a_limit_that_is_no_share_is_refused() {
    let bench = Bench::new(&RandomModel::default());
    let responses = bench.responses(1, 3);
    let out = bench.path("out");
    let message = refused(
        &bench.run("out", &responses, &["--max-flip-rate", "40"]),
        &out,
    );
    assert!(
        message.contains("max-flip-rate is 40, but a share is between 0 and 1"),
        "{message}"
    );
}

#[test]
fn asked_again_the_model_says_the_same_and_costs_the_same() {
    let bench = Bench::new(&RandomModel::default());
    let responses = bench.responses(5, 4);
    succeeded(&bench.run("once", &responses, &ANY_COVERAGE));
    succeeded(&bench.run("twice", &responses, &with(&["--retest", "2"])));
    assert_eq!(
        bench.bytes("once", "judgments"),
        bench.bytes("twice", "judgments")
    );
    let figures = bench.reliability("twice");
    for (metric, expected) in [("retest_agreement", 1.0), ("retest_max_difference", 0.0)] {
        let row = &figures[metric];
        assert_eq!((row.value, row.n), (expected, 2), "{metric}");
    }
    assert!(!bench.reliability("once").contains_key("retest_agreement"));
    let tokens = |out: &str| summary(&bench.path(out))["counts"]["tokens_computed"].as_f64();
    assert!(tokens("twice") > tokens("once"));
}

#[test]
fn agreement_with_a_second_judge_is_that_of_the_two_tables() {
    let bench = Bench::new(&RandomModel::default());
    let responses = bench.responses(5, 4);
    succeeded(&bench.run("first", &responses, &ANY_COVERAGE));
    let table = bench.path("first").join("judgments.parquet");
    let second = ["--second", table.to_str().unwrap()];
    succeeded(&bench.run("same", &responses, &with(&second)));
    let figures = bench.reliability("same");
    assert_eq!(figures["second_agreement"].value, 1.0);
    assert_eq!(figures["second_kappa"].value, 1.0);

    let noisy = ["--judge", "noisy", "--error-rate", "0.3"];
    succeeded(&bench.run("noisy", &responses, &with(&[&noisy[..], &second].concat())));
    let preference = |pair: &[JudgmentRow]| pair[0].raw + pair[1].raw;
    let (left, right) = (bench.judgments("first"), bench.judgments("noisy"));
    let labels = |rows: &[JudgmentRow]| -> Vec<usize> {
        let of = |pair| usize::from(preference(pair) > 0.0);
        rows.chunks(2).map(of).collect()
    };
    let expected = cohen_kappa(&labels(&right), &labels(&left), 2).unwrap();
    let figures = bench.reliability("noisy");
    assert!(expected.observed < 1.0);
    assert!((figures["second_agreement"].value - expected.observed).abs() < 1e-12);
    assert!((figures["second_kappa"].value - expected.kappa).abs() < 1e-12);

    let others = bench.path("others.parquet");
    let mut rows = left;
    rows.iter_mut().for_each(|row| row.prompt_id.push('x'));
    write_table(&others, &rows).unwrap();
    let output = bench.run(
        "bad",
        &responses,
        &with(&["--second", others.to_str().unwrap()]),
    );
    let message = refused(&output, &bench.path("bad"));
    assert!(
        message.contains("others.parquet has none of the 30 pairs"),
        "{message}"
    );
}
