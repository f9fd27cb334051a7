//! Gates that a run meets only under certain inputs or limits.

use sims_artifact::tables::{Message, PromptRow};
use sims_artifact::write_table;
use sims_steering::{AngleRule, Edit, Householder, Operator};

use super::{ANY_GAIN, Bench, RandomModel, head_row, refused, succeeded, summary};

impl Bench {
    /// Writes a few neutral texts and returns their path.
    fn neutral(&self) -> String {
        let text = |i: usize| {
            let content = format!("w{} ", 9 + i).repeat(30);
            PromptRow::new(vec![Message::user(content)], "neutral", "test")
        };
        let texts: Vec<PromptRow> = (0..5).map(text).collect();
        let path = self.path("neutral.parquet");
        write_table(&path, &texts).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Returns value and outcome of a gate's first reading.
    fn gate(&self, out: &str, gate: &str) -> Option<(f64, bool)> {
        let row = self.decisions(out).into_iter().find(|row| row.gate == gate);
        row.map(|row| (row.value, row.passed))
    }

    fn warnings(&self, out: &str) -> String {
        summary(&self.path(out))["warnings"].to_string()
    }
}

#[test]
fn drift_is_refused_by_its_mean_and_by_its_tail() {
    let bench = Bench::new(&RandomModel::default());
    bench.push("s.safetensors", 2, 9, 3.0);
    let neutral = bench.neutral();
    for (limit, gate) in [
        ("--max-neutral-kl", "neutral-kl"),
        ("--max-neutral-kl-p99", "neutral-kl-p99"),
    ] {
        let arguments = ["--neutral", &neutral, "--back-off", "1", limit, "0.000001"];
        succeeded(&bench.run(gate, "s.safetensors", &[&ANY_GAIN[..], &arguments].concat()));
        let (value, passed) = bench.gate(gate, gate).unwrap();
        assert!(value > 0.000_001 && !passed, "{gate} {value}");
        assert!(bench.accepted(gate).is_identity());
        assert!(!bench.warnings(gate).contains("no neutral texts"));
    }
    let arguments = ["--neutral", &neutral, "--gate", "none"];
    succeeded(&bench.run("out", "s.safetensors", &arguments));
    let p99 = bench.metric("out", "neutral_kl_p99");
    assert_eq!(p99.method, "nearest-rank");
    assert!(p99.value >= bench.metric("out", "neutral_kl_per_token").value);
    assert_eq!(bench.gate("out", "neutral-kl-p99").unwrap().0, p99.value);
}

#[test]
fn a_gate_without_neutral_texts_warns() {
    let bench = Bench::new(&RandomModel::default());
    bench.push("s.safetensors", 1, 9, 0.01);
    succeeded(&bench.run("out", "s.safetensors", &["--back-off", "1"]));
    let warnings = bench.warnings("out");
    assert!(
        warnings.contains("no neutral texts are given"),
        "{warnings}"
    );
    assert_eq!(bench.gate("out", "neutral-kl"), None);
    // Where nothing can be refused there is nothing to guard.
    succeeded(&bench.run("measured", "s.safetensors", &["--gate", "none"]));
    let warnings = bench.warnings("measured");
    assert!(!warnings.contains("no neutral texts"), "{warnings}");
}

#[test]
fn rotations_are_held_to_the_norm_and_vectors_are_not() {
    let bench = Bench::new(&RandomModel::default());
    let rule = AngleRule::Fixed { angle: 0.4 };
    let edge = std::f64::consts::FRAC_PI_2;
    let rotation = Householder::new(head_row(9), edge, rule, None, None).unwrap();
    let mut steering = bench.identity();
    steering
        .push(1, Edit::new(Operator::Householder(rotation)))
        .unwrap();
    steering.save(&bench.path("rotation.safetensors")).unwrap();
    bench.push("vector.safetensors", 1, 9, 0.3);
    for steering in ["rotation", "vector"] {
        let file = format!("{steering}.safetensors");
        succeeded(&bench.run(steering, &file, &["--gate", "none"]));
    }
    let (change, passed) = bench.gate("rotation", "norm-kept").unwrap();
    assert!(change < 1e-5 && passed, "{change}");
    let ratio = bench.metric("rotation", "edit_smallest_norm_ratio").value;
    assert!((ratio - 1.0).abs() < 1e-5, "{ratio}");
    // It did turn.
    assert!(bench.metric("rotation", "edit_mean_shift").value > 0.3);
    assert_eq!(bench.gate("vector", "norm-kept"), None);
}

#[test]
fn the_share_of_loops_can_be_limited_by_itself() {
    let bench = Bench::new(&RandomModel::default());
    bench.push("loops.safetensors", 2, 9, 1000.0);
    let arguments = ["--gate", "none", "--max-loop-share", "0.05"];
    succeeded(&bench.run("out", "loops.safetensors", &arguments));
    let (share, passed) = bench.gate("out", "loop-share").unwrap();
    assert!(share > 0.5 && !passed, "{share}");
    assert_eq!(share, bench.metric("out", "loop_rate").value);
    let wrong = bench.run("bad", "loops.safetensors", &["--max-loop-share", "1.5"]);
    assert!(refused(&wrong, &bench.path("bad")).contains("max-loop-share is 1.5"));
}

#[test]
fn the_p_value_of_a_judge_without_preference_is_one() {
    let bench = Bench::new(&RandomModel {
        head_scale: 0.0,
        ..RandomModel::default()
    });
    bench.push("s.safetensors", 1, 9, 0.01);
    succeeded(&bench.run("out", "s.safetensors", &["--gate", "none"]));
    let row = bench.metric("out", "win_rate_p_value");
    assert_eq!((row.value, row.method.as_str()), (1.0, "sign-flip"));
    assert_eq!(row.n, bench.metric("out", "self_judge_win_rate").n);
    assert_eq!(row.baseline, "base");
}
