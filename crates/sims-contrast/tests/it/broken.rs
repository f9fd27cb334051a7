//! Tables that are cut short, of another kind, or without anything to choose between.

use std::fs;
use std::path::Path;

use sims_artifact::tables::{PairRow, PromptRow, RankingRow, ResponseRow, ScoreRow};
use sims_artifact::{read_table, write_table};

use super::{Files, LENIENT, error_text};

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
    fn refuses(&self, more: &[&str], expected: &[&str]) {
        let output = self.run("bad", &[&LENIENT[..], more].concat());
        let message = error_text(&output);
        assert_eq!(output.status.code(), Some(2), "{message}");
        for part in expected {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
        let left = fs::read_dir(self.path("bad")).expect("the folder is there");
        assert_eq!(left.count(), 0, "{message}");
    }

    /// Keeps the responses and their ranking that `keep` takes by sample index and prompt number.
    fn keep_responses(&self, keep: impl Fn(u32, usize) -> bool) {
        let rows: Vec<ResponseRow> = read_table(&self.path("responses.parquet")).expect("a table");
        let kept: Vec<ResponseRow> = rows
            .into_iter()
            .enumerate()
            .filter(|(number, row)| keep(row.sample_index, number / 3))
            .map(|(_, row)| row)
            .collect();
        self.set_responses(&kept);
    }
}

#[test]
fn tables_that_cannot_be_read_are_refused_by_name() {
    let files = Files::new(3);
    let bank = files.path("bank.parquet");
    write_table::<PairRow>(&bank, &[]).expect("written");
    let more = ["--bank", bank.to_str().expect("UTF-8")];
    for role in ["prompts", "responses", "ranking", "judgments", "bank"] {
        let path = files.path(&format!("{role}.parquet"));
        let whole = fs::read(&path).expect("written");
        cut(&path);
        let expected = format!("{role}.parquet is not a readable Parquet file");
        files.refuses(&more, &[&expected]);
        replace(&path);
        let expected = format!("{role}.parquet holds `scores@1`, but");
        files.refuses(&more, &[&expected]);
        fs::write(&path, whole).expect("written");
    }
    let output = files.run("good", &[&LENIENT[..], &more].concat());
    assert!(output.status.success(), "{}", error_text(&output));
}

#[test]
fn prompts_must_be_there_and_each_of_them_once() {
    let files = Files::new(3);
    let path = files.path("prompts.parquet");
    let prompts: Vec<PromptRow> = read_table(&path).expect("a table");
    write_table::<PromptRow>(&path, &[]).expect("written");
    files.refuses(&[], &["prompts.parquet has no rows"]);
    let twice = [&prompts[..], &prompts[2..]].concat();
    write_table(&path, &twice).expect("written");
    let expected = format!("holds prompt {} more than once", prompts[2].prompt_id);
    files.refuses(&[], &["prompts.parquet", &expected]);
    write_table(&path, &prompts).expect("written");
    files.set_responses(&[]);
    let expected = ["responses.parquet", "there are no responses"];
    files.refuses(&[], &expected);
}

#[test]
fn a_single_response_gives_no_pair() {
    let files = Files::new(3);
    files.keep_responses(|index, prompt| index == 0 || prompt > 0);
    let output = files.run("out", &LENIENT);
    assert!(output.status.success(), "{}", error_text(&output));
    assert_eq!(files.pairs("out/pairs.parquet").len(), 2);
    let summary = fs::read_to_string(files.path("out/summary.json")).expect("a summary");
    assert!(
        summary.contains("1 of 3 prompts have a single response and give no pair"),
        "{summary}"
    );

    files.keep_responses(|index, _| index == 0);
    for strategy in ["prompt-ranking", "contrast-sampling", "random"] {
        files.refuses(
            &["--strategy", strategy],
            &[
                "3 single-response",
                "sample at least two responses a prompt",
            ],
        );
    }
}

#[test]
fn a_judge_without_preference_gives_no_pair() {
    let files = Files::new(3);
    let path = files.path("ranking.parquet");
    let mut ranking: Vec<RankingRow> = read_table(&path).expect("a table");
    for row in &mut ranking {
        (row.score, row.rank, row.tie) = (0.5, 1, true);
    }
    write_table(&path, &ranking).expect("written");
    files.refuses(
        &[],
        &["3 tie", "the judge has no preference: use another judge"],
    );
}

#[test]
fn progress_counts_prompts() {
    let files = Files::new(3);
    let output = files.run("out", &LENIENT);
    assert!(!error_text(&output).contains("progress"));
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sims-contrast"));
    for role in ["prompts", "responses", "ranking", "judgments"] {
        command
            .arg(format!("--{role}"))
            .arg(files.path(&format!("{role}.parquet")));
    }
    command.arg("--out").arg(files.path("out")).args(LENIENT);
    let output = command.args(["--progress", "json"]).output();
    let events = error_text(&output.expect("the binary was built"));
    let last = events.lines().last().expect("an event");
    let expected = r#"{"event":"progress","label":"contrast","done":3,"total":3}"#;
    assert_eq!(last, expected, "{events}");
}
