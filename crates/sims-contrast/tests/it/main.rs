//! The `sims-contrast` binary on small tables.

mod broken;
mod real_text;

use std::path::PathBuf;
use std::process::{Command, Output};

use sims_artifact::tables::{
    DroppedRow, JudgmentRow, Message, PairRow, PromptRow, RankingRow, ResponseRow, response_id,
};
use sims_artifact::{read_table, write_table};

/// Flags that let short, unbalanced answers through.
const LENIENT: [&str; 6] = [
    "--margin",
    "none",
    "--length-balance",
    "off",
    "--min-pairs",
    "1",
];

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    /// `count` prompts with three responses each; the second is the best.
    fn new(count: usize) -> Self {
        let files = Self {
            folder: tempfile::tempdir().expect("a temporary folder"),
        };
        let (mut prompts, mut responses, mut ranking) = (Vec::new(), Vec::new(), Vec::new());
        for prompt in 0..count as u32 {
            let row = PromptRow::new(
                vec![Message::user(format!("question {prompt}"))],
                "train",
                "test",
            );
            for index in 0..3 {
                let response = response(&row.prompt_id, prompt, index);
                ranking.push(rank(&response, [2, 1, 3][index as usize]));
                responses.push(response);
            }
            prompts.push(row);
        }
        write_table(&files.path("prompts.parquet"), &prompts).expect("written");
        write_table(&files.path("ranking.parquet"), &ranking).expect("written");
        let judgments = [judgment(&responses[0], &responses[1])];
        write_table(&files.path("judgments.parquet"), &judgments).expect("written");
        files.set_responses(&responses);
        files
    }

    fn set_responses(&self, responses: &[ResponseRow]) {
        write_table(&self.path("responses.parquet"), responses).expect("written");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, out: &str, more: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sims-contrast"));
        for role in ["prompts", "responses", "ranking", "judgments"] {
            command
                .arg(format!("--{role}"))
                .arg(self.path(&format!("{role}.parquet")));
        }
        command
            .arg("--out")
            .arg(self.path(out))
            .args(["--progress", "none"])
            .args(more);
        command.output().expect("the binary was built")
    }

    fn pairs(&self, file: &str) -> Vec<PairRow> {
        read_table(&self.path(file)).expect("a table of pairs")
    }
}

fn response(prompt_id: &str, prompt: u32, index: u32) -> ResponseRow {
    let start = 1000 * prompt + 100 * index;
    let token_ids: Vec<u32> = (start..start + 15).chain([2]).collect();
    ResponseRow {
        prompt_id: prompt_id.into(),
        response_id: response_id(prompt_id, "base", index, &token_ids),
        round: 1,
        sample_index: index,
        policy: "base".into(),
        text: format!("answer {index} to question {prompt}"),
        token_ids,
        prompt_tokens: 3,
        finish_reason: "stop".into(),
        logprob_sum: -1.0,
        seed: 0,
    }
}

fn rank(response: &ResponseRow, rank: u32) -> RankingRow {
    RankingRow {
        prompt_id: response.prompt_id.clone(),
        response_id: response.response_id.clone(),
        score: 1.0 - 0.25 * f64::from(rank),
        score_se: None,
        rank,
        comparisons: 4,
        win_probability: 0.5,
        position_bias: 0.0,
        tie: false,
        noise_sigma: 0.1,
    }
}

fn judgment(a: &ResponseRow, b: &ResponseRow) -> JudgmentRow {
    JudgmentRow {
        prompt_id: a.prompt_id.clone(),
        response_a: a.response_id.clone(),
        response_b: b.response_id.clone(),
        order: "ab".into(),
        judge: "stub".into(),
        p_a: 0.4,
        verdict: "b".into(),
        raw: -0.4,
        coverage: 1.0,
    }
}

fn error_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn prompt_ranking_writes_pairs_dropped_and_an_empty_bank() {
    let files = Files::new(4);
    let output = files.run("out", &LENIENT);
    assert!(output.status.success(), "{}", error_text(&output));
    let pairs = files.pairs("out/pairs.parquet");
    assert_eq!(pairs.len(), 4);
    assert_eq!(pairs[0].chosen, "answer 1 to question 0");
    assert_eq!(pairs[0].rejected, "answer 2 to question 0");
    assert_eq!(pairs[0].judge, "stub");
    assert!(files.pairs("out/bank.parquet").is_empty());
    let dropped: Vec<DroppedRow> = read_table(&files.path("out/dropped.parquet")).expect("a table");
    assert!(dropped.is_empty());
    let summary = std::fs::read(files.path("out/summary.json")).expect("a summary");
    let summary: serde_json::Value = serde_json::from_slice(&summary).expect("JSON");
    assert_eq!(summary["counts"]["yield"], 1.0);
}

#[test]
fn the_bank_goes_from_round_to_round() {
    let files = Files::new(8);
    let sampling = |out: &str, round: &str, bank: Option<&str>| {
        let mut flags = LENIENT.to_vec();
        flags.extend(["--strategy", "contrast-sampling", "--round", round]);
        let bank = bank.map(|bank| files.path(bank).display().to_string());
        if let Some(bank) = &bank {
            flags.extend(["--bank", bank]);
        }
        let output = files.run(out, &flags);
        assert!(output.status.success(), "{}", error_text(&output));
    };
    sampling("one", "1", None);
    assert_eq!(files.pairs("one/bank.parquet").len(), 8);
    sampling("two", "2", Some("one/bank.parquet"));
    // The same prompts again: the newer score stays.
    let bank = files.pairs("two/bank.parquet");
    assert_eq!(bank.len(), 8);
    assert!(bank.iter().all(|pair| pair.origin_round == 2));
    let summary = std::fs::read_to_string(files.path("two/summary.json")).expect("a summary");
    assert!(summary.contains("shards should be disjoint"), "{summary}");
}

#[test]
fn the_same_input_gives_the_same_bytes_and_the_seed_matters_to_the_control() {
    let files = Files::new(10);
    let bytes = |out: &str, seed: &str| {
        let mut flags = LENIENT.to_vec();
        flags.extend(["--strategy", "random", "--seed", seed]);
        let output = files.run(out, &flags);
        assert!(output.status.success(), "{}", error_text(&output));
        std::fs::read(files.path(out).join("pairs.parquet")).expect("pairs")
    };
    assert_eq!(bytes("a", "1"), bytes("b", "1"));
    assert_ne!(bytes("a", "1"), bytes("c", "2"));
}

#[test]
fn identical_responses_exit_with_two_and_say_what_to_change() {
    let files = Files::new(3);
    let mut responses: Vec<ResponseRow> =
        read_table(&files.path("responses.parquet")).expect("a table");
    responses
        .iter_mut()
        .for_each(|response| response.text = "always the same".into());
    files.set_responses(&responses);
    let output = files.run("out", &LENIENT);
    assert_eq!(output.status.code(), Some(2));
    let message = error_text(&output);
    assert!(
        message.contains("no contrast pair is left of 3 prompts"),
        "{message}"
    );
    assert!(
        message.contains("6 duplicate") && message.contains("`max-jaccard`"),
        "{message}"
    );
    assert!(!files.path("out/pairs.parquet").exists());
    assert!(!files.path("out/summary.json").exists());
}

#[test]
fn bad_input_exits_with_two_and_names_the_file() {
    let files = Files::new(3);
    let whole = std::fs::read(files.path("ranking.parquet")).expect("written");
    std::fs::write(files.path("ranking.parquet"), &whole[..whole.len() / 2]).expect("written");
    let output = files.run("out", &LENIENT);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        error_text(&output).contains("ranking.parquet"),
        "{}",
        error_text(&output)
    );

    write_table::<RankingRow>(&files.path("ranking.parquet"), &[]).expect("written");
    let output = files.run("out", &LENIENT);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        error_text(&output).contains("not in the ranking"),
        "{}",
        error_text(&output)
    );

    let output = files.run("out", &["--max-jaccard", "2"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        error_text(&output).contains("max-jaccard is 2"),
        "{}",
        error_text(&output)
    );
}

#[test]
fn describe_prints_json() {
    let output = Command::new(env!("CARGO_BIN_EXE_sims-contrast"))
        .arg("describe")
        .output();
    let output = output.expect("the binary was built");
    let description: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(description["stage"], "contrast");
    assert_eq!(description["inputs"]["bank"]["required"], false);
    assert_eq!(description["outputs"]["bank"]["schema"], "pairs@1");
    assert_eq!(description["params"]["properties"]["n-fit"]["default"], 512);
}
