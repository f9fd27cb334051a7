//! The `toyworld-gold` binary on small tables.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sims_artifact::tables::{Message, MetricRow, PromptRow, ResponseRow, ScoreRow};
use sims_artifact::{read_table, write_table};
use tempfile::TempDir;

struct Files {
    folder: TempDir,
    prompts: Vec<PromptRow>,
}

impl Files {
    /// Two prompts, each answered by the base and by a steered policy.
    fn new() -> Self {
        let prompts = ["add : 4 5", "add : 2 3"].map(prompt).to_vec();
        let files = Self {
            folder: tempfile::tempdir().unwrap(),
            prompts,
        };
        write_table(&files.path("prompts.parquet"), &files.prompts).unwrap();
        files.set_responses(&["base", "steered-1"]);
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn set_responses(&self, policies: &[&str]) {
        let rows: Vec<ResponseRow> = policies
            .iter()
            .flat_map(|policy| self.prompts.iter().map(|prompt| response(prompt, policy)))
            .collect();
        for file in ["responses.parquet", "base-responses.parquet"] {
            write_table(&self.path(file), &rows).unwrap();
        }
    }

    fn run(&self, more: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_toyworld-gold"))
            .arg("--prompts")
            .arg(self.path("prompts.parquet"))
            .arg("--responses")
            .arg(self.path("responses.parquet"))
            .arg("--out")
            .arg(self.path("out"))
            .args(["--progress", "json"])
            .args(more)
            .output()
            .unwrap()
    }

    /// Asserts that the files as they are get refused in these words, and that nothing is left.
    fn refuses(&self, more: &[&str], expected: &[&str]) {
        let output = self.run(more);
        let message = error_text(&output);
        assert_eq!(output.status.code(), Some(2), "{message}");
        for part in expected {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
        let left = fs::read_dir(self.path("out")).unwrap();
        assert_eq!(left.count(), 0, "{message}");
    }
}

fn prompt(text: &str) -> PromptRow {
    PromptRow::new(vec![Message::user(text)], "eval", "test")
}

fn response(prompt: &PromptRow, policy: &str) -> ResponseRow {
    ResponseRow {
        prompt_id: prompt.prompt_id.clone(),
        response_id: format!("{policy}-{}", prompt.prompt_id),
        round: 1,
        sample_index: 0,
        policy: policy.to_owned(),
        text: if policy == "base" {
            "9"
        } else {
            "sure : 9 enjoy ."
        }
        .to_owned(),
        token_ids: vec![],
        prompt_tokens: 6,
        finish_reason: "stop".to_owned(),
        logprob_sum: -1.0,
        seed: 0,
    }
}

fn error_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Keeps the first half of a file.
fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

#[test]
fn policies_are_compared_prompt_by_prompt() {
    let files = Files::new();
    let output = files.run(&[]);
    let events = error_text(&output);
    assert!(output.status.success(), "{events}");
    let expected = r#"{"event":"progress","label":"score","done":2,"total":2}"#;
    assert!(events.lines().any(|line| line == expected), "{events}");
    let metrics: Vec<MetricRow> = read_table(&files.path("out/metrics.parquet")).unwrap();
    let find = |metric: &str| metrics.iter().find(|row| row.metric == metric).unwrap();
    let win = find("gold_win_rate");
    assert_eq!((win.n, win.baseline.as_str()), (2, "base"));
    // 4 + 5 is 9, 2 + 3 is not.
    assert_eq!(find("base_gold_right").value, 0.5);
}

#[test]
fn the_order_of_the_response_rows_does_not_matter() {
    let files = Files::new();
    let bytes = || {
        let output = files.run(&[]);
        assert!(output.status.success(), "{}", error_text(&output));
        ["metrics", "scores"]
            .map(|name| fs::read(files.path(&format!("out/{name}.parquet"))))
            .map(Result::unwrap)
    };
    let forth = bytes();
    let path = files.path("responses.parquet");
    let mut rows: Vec<ResponseRow> = read_table(&path).unwrap();
    rows.reverse();
    write_table(&path, &rows).unwrap();
    assert_eq!(forth, bytes());
}

#[test]
fn tables_that_cannot_be_read_are_refused_by_name() {
    let files = Files::new();
    let base = files.path("base-responses.parquet");
    let more = ["--base-responses", base.to_str().unwrap()];
    for name in ["prompts", "responses", "base-responses"] {
        let path = files.path(&format!("{name}.parquet"));
        let whole = fs::read(&path).unwrap();
        cut(&path);
        let expected = format!("{name}.parquet is not a readable Parquet file");
        files.refuses(&more, &[&expected]);
        write_table::<ScoreRow>(&path, &[]).unwrap();
        let expected = format!("{name}.parquet holds `scores@1`, but");
        files.refuses(&more, &[&expected]);
        fs::write(&path, whole).unwrap();
    }
}

#[test]
fn prompts_must_be_there_once_and_of_this_world() {
    let files = Files::new();
    let path = files.path("prompts.parquet");
    write_table::<PromptRow>(&path, &[]).unwrap();
    files.refuses(&[], &["prompts.parquet has no rows"]);
    let twice = [&files.prompts[..], &files.prompts[..1]].concat();
    write_table(&path, &twice).unwrap();
    let expected = format!("holds prompt {} more than once", twice[0].prompt_id);
    files.refuses(&[], &[&expected]);

    let foreign = prompt("tell me a story");
    let expected = format!("prompt {} is not of the world `default`", foreign.prompt_id);
    write_table(&path, &[files.prompts[0].clone(), foreign]).unwrap();
    files.refuses(&[], &[&expected, "tell me a story"]);

    write_table(&path, &files.prompts[..1]).unwrap();
    let expected = format!(
        "answers prompt {}, which is not among the prompts",
        files.prompts[1].prompt_id
    );
    files.refuses(&[], &[&expected]);
}

#[test]
fn there_must_be_a_policy_beside_the_baseline() {
    let files = Files::new();
    files.set_responses(&["base"]);
    let expected = ["no policy beside `base`", "--base-responses"];
    files.refuses(&[], &expected);
    files.set_responses(&["steered-1"]);
    let expected = ["no responses of a policy `base` to compare with"];
    files.refuses(&[], &expected);
    files.set_responses(&[]);
    files.refuses(&[], &expected);
}
