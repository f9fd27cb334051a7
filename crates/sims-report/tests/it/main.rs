//! The `sims-report` binary on folders of runs.

mod whole_run;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use sims_artifact::tables::{MetricRow, ScoreRow};
use sims_artifact::write_table;
use tempfile::TempDir;

/// A run of one round with one figure.
struct Run {
    folder: TempDir,
}

impl Run {
    fn new() -> Self {
        let run = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(run.folder.path().join("round-1")).unwrap();
        let row = MetricRow {
            metric: "self_judge_win_rate".to_owned(),
            value: 0.625,
            ci_low: Some(0.5),
            ci_high: Some(0.75),
            n: 40,
            method: "paired-bootstrap".to_owned(),
            baseline: "base".to_owned(),
        };
        write_table(&run.metrics(), &[row]).unwrap();
        run
    }

    fn metrics(&self) -> PathBuf {
        self.folder.path().join("round-1/metrics.parquet")
    }

    fn report(&self) -> Output {
        Command::new(env!("CARGO_BIN_EXE_sims-report"))
            .arg(self.folder.path())
            .output()
            .unwrap()
    }

    /// Asserts that the report is refused in these words and prints no figure.
    fn refuses(&self, expected: &[&str]) {
        let output = self.report();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{message}");
        for part in expected {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn figures_are_shown_by_round() {
    let output = Run::new().report();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success());
    assert!(text.contains("0.625 [0.500, 0.750]"), "{text}");
}

#[test]
fn a_damaged_table_is_refused_by_name() {
    let run = Run::new();
    let bytes = fs::read(run.metrics()).unwrap();
    for keep in [0, bytes.len() / 2, bytes.len() - 1] {
        fs::write(run.metrics(), &bytes[..keep]).unwrap();
        let expected = ["round-1/metrics.parquet is not a readable", "sims fsck"];
        run.refuses(&expected);
    }
    write_table::<ScoreRow>(&run.metrics(), &[]).unwrap();
    let expected = ["round-1/metrics.parquet holds `scores@1`, but `metrics@1`"];
    run.refuses(&expected);
}

#[test]
fn a_run_without_a_finished_round_says_how_to_get_one() {
    let run = Run::new();
    fs::remove_file(run.metrics()).unwrap();
    let expected = ["no metrics of any finished round", "sims run"];
    run.refuses(&expected);
}

/// Holds the run against a recorded interval and returns exit code, output and messages.
fn held_against(run: &Run, recorded: &str) -> (i32, String, String) {
    let baseline = run.folder.path().join("baseline.json");
    fs::write(&baseline, recorded).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_sims-report"))
        .arg(run.folder.path())
        .args(["--metric", "win_rate", "--against"])
        .arg(&baseline)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().unwrap();
    (code, text(&output.stdout), text(&output.stderr))
}

/// Returns a recorded figure of the round with this lower end.
fn figure(round: u32, metric: &str, low: &str) -> String {
    format!(
        r#"{{"round": {round}, "node": "steer-eval", "metric": "{metric}", "value": 0.7, "ci_low": {low},
            "ci_high": 0.75, "n": 40, "method": "paired-bootstrap", "baseline": "base"}}"#
    )
}

#[test]
fn a_figure_below_its_recorded_interval_is_named_with_both() {
    let run = Run::new();
    let shown = run.report();
    assert!(shown.status.success());
    let (code, out, _) = held_against(
        &run,
        &format!("[{}]", figure(1, "self_judge_win_rate", "0.625")),
    );
    assert_eq!(code, 0, "the lower end itself is no fall");
    assert!(
        out.contains("is 0.625, not below the recorded [0.625, 0.750]"),
        "{out}"
    );
    let recorded = [
        figure(1, "self_judge_win_rate", "0.626"),
        figure(2, "self_judge_win_rate", "0.5"),
        figure(1, "loop_rate", "0.9"),
    ];
    let (code, out, err) = held_against(&run, &format!("[{}]", recorded.join(",")));
    assert_eq!((code, out.as_str()), (1, ""));
    for expected in [
        "error: self_judge_win_rate of round 1 (steer-eval) is 0.625, below the recorded [0.626, 0.750] in ",
        "error: self_judge_win_rate of round 2 (steer-eval) is missing; recorded was [0.500, 0.750] in ",
    ] {
        assert!(err.contains(expected), "{err}");
    }
    assert!(!err.contains("loop_rate"), "{err}");
}

#[test]
fn what_is_no_record_of_one_run_is_refused() {
    let run = Run::new();
    let one = figure(1, "self_judge_win_rate", "0.5");
    for (recorded, expected) in [
        ("{", "cannot be compared with"),
        ("[]", "no figure `win_rate` with an interval"),
        (
            &format!("[{}]", figure(1, "loop_rate", "0.5")),
            "no figure `win_rate`",
        ),
        (
            &format!("[{}]", figure(1, "win_rate", "null")),
            "with an interval",
        ),
        (&format!("[{one}, {one}]"), "twice: record one run"),
    ] {
        let (code, _, err) = held_against(&run, recorded);
        assert_eq!(code, 2, "{err}");
        assert!(err.contains(expected), "{err}");
    }
}
