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
