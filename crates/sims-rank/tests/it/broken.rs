//! Tables that are cut short or of another kind, and responses that are all the same.

use std::fs;
use std::path::Path;
use std::process::Command;

use sims_artifact::tables::{JudgmentRow, ResponseRow, ScoreRow};
use sims_artifact::{read_table, write_table};

use super::{Files, error_text, judgment, response, two_prompts};

/// Keeps the first half of a file.
fn cut(path: &Path) {
    let bytes = fs::read(path).expect("written");
    fs::write(path, &bytes[..bytes.len() / 2]).expect("written");
}

/// Puts a table of another kind in a file's place.
fn replace(path: &Path) {
    write_table::<ScoreRow>(path, &[]).expect("written");
}

impl Files {
    /// Asserts that the files as they are get refused in these words, and that nothing is left.
    fn refuses(&self, expected: &str) {
        let output = self.rank(&[]);
        let message = error_text(&output);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(message.contains(expected), "{message}");
        let left = fs::read_dir(self.path("out")).expect("the folder is there");
        assert_eq!(left.count(), 0, "{message}");
    }
}

#[test]
fn tables_that_cannot_be_read_are_refused_by_name() {
    let files = two_prompts();
    assert!(files.rank(&[]).status.success());
    for file in ["responses.parquet", "judgments.parquet"] {
        let path = files.path(file);
        let whole = fs::read(&path).expect("written");
        cut(&path);
        files.refuses(&format!("{file} is not a readable Parquet file"));
        replace(&path);
        files.refuses(&format!("{file} holds `scores@1`, but"));
        fs::write(&path, whole).expect("written");
    }
    write_table::<ResponseRow>(&files.path("responses.parquet"), &[]).expect("written");
    files.refuses("there are no responses to rank");
}

#[test]
fn identical_responses_all_tie() {
    // Between equal texts only the slot can decide: what one order says the other takes back.
    let mut judgments: Vec<JudgmentRow> = Vec::new();
    for prompt in ["p", "q"] {
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            for (order, raw) in [("ab", 0.7), ("ba", -0.7)] {
                judgments.push(JudgmentRow {
                    response_a: format!("{prompt}-{a}"),
                    response_b: format!("{prompt}-{b}"),
                    ..judgment(prompt, order, raw)
                });
            }
        }
    }
    let responses: Vec<ResponseRow> = ["p", "q"]
        .iter()
        .flat_map(|prompt| (0..3).map(|index| response(prompt, index)))
        .collect();
    let files = Files::new(&responses, &judgments);
    for method in [
        "mean-win",
        "mean-logit",
        "bradley-terry",
        "copeland",
        "least-squares",
        "mean-win-completed",
        "winprob-sppo",
    ] {
        let output = files.rank(&["--method", method]);
        assert!(output.status.success(), "{method}: {}", error_text(&output));
        let ranking = files.ranking();
        assert!(ranking.iter().all(|row| row.tie), "{method}: {ranking:?}");
        assert_eq!(files.summary()["counts"]["all_tied_prompts"], 2.0);
        let warnings = files.summary()["warnings"].to_string();
        assert!(
            warnings.contains("all responses of every prompt tie"),
            "{method}: {warnings}"
        );
        let best: Vec<ResponseRow> = read_table(&files.path("out/best.parquet")).expect("a table");
        assert_eq!(best.len(), 2, "{method}");
    }
}

#[test]
fn progress_counts_prompts() {
    let files = two_prompts();
    let output = Command::new(env!("CARGO_BIN_EXE_sims-rank"))
        .arg("--responses")
        .arg(files.path("responses.parquet"))
        .arg("--judgments")
        .arg(files.path("judgments.parquet"))
        .arg("--out")
        .arg(files.path("out"))
        .args(["--progress", "json"])
        .output();
    let events = error_text(&output.expect("the binary was built"));
    let last = events.lines().last().expect("an event");
    let expected = r#"{"event":"progress","label":"rank","done":2,"total":2}"#;
    assert_eq!(last, expected, "{events}");
}
