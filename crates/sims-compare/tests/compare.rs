//! The `sims-compare` binary on folders of runs.

use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use sims_artifact::tables::{DecisionRow, ScoreRow};
use sims_artifact::write_table;
use tempfile::TempDir;

struct Runs(TempDir);

impl Runs {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn round(&self, run: &str, round: u32) -> PathBuf {
        self.0.path().join(run).join(format!("round-{round}"))
    }

    /// Writes a round: whether it was accepted, and the gold score of each prompt from number `first` on.
    fn with(self, run: &str, round: u32, accepted: bool, first: usize, values: &[f64]) -> Self {
        let action = if accepted { "accept" } else { "roll-back" };
        let decision = DecisionRow {
            attempt: 1,
            part: "all".to_owned(),
            layers: vec![3],
            strength: 1.0,
            gate: "gain".to_owned(),
            value: 0.6,
            ci_low: None,
            ci_high: None,
            limit: 0.5,
            passed: accepted,
            action: action.to_owned(),
        };
        write_table(
            &self.round(run, round).join("decision.parquet"),
            &[decision],
        )
        .unwrap();
        let rows: Vec<ScoreRow> = values
            .iter()
            .enumerate()
            .flat_map(|(index, &value)| {
                // Two draws around the value, and a base policy that must not be read.
                [
                    ("steered-1", 0, value - 0.1),
                    ("steered-1", 1, value + 0.1),
                    ("base", 0, 9.0),
                ]
                .map(|(policy, draw, value)| ScoreRow {
                    prompt_id: format!("prompt-{}", first + index),
                    policy: policy.to_owned(),
                    draw: Some(draw),
                    metric: "gold_win".to_owned(),
                    value,
                })
            })
            .collect();
        write_table(&self.round(run, round).join("gold/scores.parquet"), &rows).unwrap();
        self
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_sims-compare"))
            .args(arguments)
            .current_dir(self.0.path())
            .output()
            .unwrap()
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["--json"]].concat());
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{message}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

/// Values around `mean` that repeat every seven prompts.
fn values(n: usize, mean: f64) -> Vec<f64> {
    (0..n).map(|i| mean + 0.05 * (i * i % 7) as f64).collect()
}

#[test]
fn better_same_and_corrected() {
    let noisy: Vec<f64> = values(210, 0.5).iter().rev().copied().collect();
    let runs = Runs::new()
        .with("a", 1, true, 0, &values(200, 0.5))
        .with("b", 1, true, 0, &noisy[..200])
        .with("c", 1, true, 10, &values(200, 0.6));
    let found = runs.json(&["a", "b", "c"]);
    let (same, better) = (&found[0], &found[1]);
    assert_eq!(
        (&same["prompts"], &same["unpaired"]),
        (&200.into(), &0.into())
    );
    assert_eq!(same["equivalence"]["outcome"]["verdict"], "equivalent");
    assert_eq!(
        (&better["prompts"], &better["unpaired"]),
        (&190.into(), &20.into())
    );
    assert_eq!(better["equivalence"]["outcome"]["verdict"], "different");
    let figure = |row: &Value, key: &str| row[key].as_f64().unwrap();
    assert!((figure(better, "mean") - figure(better, "baseline_mean") - 0.1).abs() < 0.01);
    let p = figure(better, "p_value");
    assert!(
        (figure(better, "p_value_holm") - 2.0 * p).abs() < 1e-12,
        "{found}"
    );
    assert!(figure(same, "prompts_needed") > 10.0);
    let text = String::from_utf8(runs.run(&["a", "c"]).stdout).unwrap();
    assert!(
        text.contains("c round 1 against a round 1: gold_win on 190 prompts"),
        "{text}"
    );
    assert!(
        text.contains("20 prompts of one run only are left out"),
        "{text}"
    );
    assert!(text.contains("within 0.0200? no"), "{text}");
}

#[test]
fn the_last_accepted_round_is_read_unless_one_is_named() {
    let runs = Runs::new()
        .with("a", 1, true, 0, &values(20, 0.5))
        .with("a", 2, true, 0, &values(20, 0.7))
        .with("a", 10, false, 0, &values(20, 0.9));
    assert_eq!(runs.json(&["a", "a"])[0]["round"], 2);
    assert_eq!(runs.json(&["a", "a", "--round", "10"])[0]["round"], 10);
    let text = String::from_utf8(runs.run(&["a", "a"]).stdout).unwrap();
    assert!(
        text.contains("the difference is the same on every prompt"),
        "{text}"
    );
}

#[test]
fn the_last_round_may_be_one_that_was_refused_or_once() {
    let runs = Runs::new()
        .with("a", 1, true, 0, &values(20, 0.5))
        .with("a", 2, false, 0, &values(20, 0.9))
        .with("b", 1, false, 0, &values(20, 0.6));
    let once = runs.0.path().join("c/once/gold");
    std::fs::create_dir_all(&once).unwrap();
    std::fs::copy(
        runs.round("b", 1).join("gold/scores.parquet"),
        once.join("scores.parquet"),
    )
    .unwrap();
    let found = runs.json(&["a", "b", "c", "--round", "last"]);
    assert_eq!(
        (&found[0]["baseline_round"], &found[0]["round"]),
        (&2.into(), &1.into())
    );
    assert_eq!(found[1]["round"], 0);
    let text = String::from_utf8(runs.run(&["a", "b", "c", "--round", "last"]).stdout).unwrap();
    assert_eq!(text.lines().count(), 6, "{text}");
    assert!(text.contains("| c | 0 | "), "{text}");
    assert!(runs.refused(&["a", "b"]).contains("--round last"));
}

#[test]
fn what_cannot_be_compared_is_named() {
    let runs = Runs::new()
        .with("a", 1, true, 0, &values(20, 0.5))
        .with("other", 1, true, 100, &values(20, 0.5))
        .with("rolled-back", 1, false, 0, &values(20, 0.5));
    let message = runs.refused(&["a", "other"]);
    assert!(
        message.contains("a and other have no prompt in common"),
        "{message}"
    );
    let message = runs.refused(&["a", "rolled-back"]);
    assert!(
        message.contains("rolled-back: no round was accepted; give --round last"),
        "{message}"
    );
    let message = runs.refused(&["a", "a", "--metric", "judged"]);
    assert!(
        message.contains("round-1 has no scores of `self_judge_win`; there are gold_win"),
        "{message}"
    );
    let message = runs.refused(&["a", "absent"]);
    assert!(message.contains("cannot read absent"), "{message}");
    let message = runs.refused(&["a", "a/round-1"]);
    assert!(
        message.contains("a/round-1 has no folder `round-N`"),
        "{message}"
    );
    let message = runs.refused(&["a", "a", "--margin", "0"]);
    assert!(message.contains("equivalence margin is 0"), "{message}");
    assert_eq!(runs.run(&["a"]).status.code(), Some(2));
}
