//! T22 of the test ladder: a judge that looks at the order alone gives nothing to learn from.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use sims_artifact::tables::{
    JudgmentRow, Message, PromptRow, RankingRow, ResponseRow, response_id,
};
use sims_artifact::{read_table, write_table};
use sims_testkit::{program, text_of};

const PROMPTS: u32 = 12;
const RESPONSES: u32 = 4;
/// Log-odds with which the judge takes whatever it is shown first.
const BIAS: f64 = 3.0;

fn prompt(number: u32) -> PromptRow {
    let text = format!("Which way is it to place number {number}?");
    PromptRow::new(vec![Message::user(text)], "train", "test")
}

fn response(prompt_id: &str, index: u32) -> ResponseRow {
    let token_ids: Vec<u32> = (0..20).map(|i| 100 * index + i).collect();
    ResponseRow {
        prompt_id: prompt_id.to_owned(),
        response_id: response_id(prompt_id, "base", index, &token_ids),
        round: 1,
        sample_index: index,
        policy: "base".to_owned(),
        text: format!("Turn at corner {index}, and walk on until you see a bridge."),
        token_ids,
        prompt_tokens: 9,
        finish_reason: "stop".to_owned(),
        logprob_sum: -20.0,
        seed: 0,
    }
}

/// The verdict on `a` and `b` in one order: for whichever comes first.
fn judgment(a: &ResponseRow, b: &ResponseRow, order: &str) -> JudgmentRow {
    let for_a = if order == "ab" { BIAS } else { -BIAS };
    JudgmentRow {
        prompt_id: a.prompt_id.clone(),
        response_a: a.response_id.clone(),
        response_b: b.response_id.clone(),
        order: order.to_owned(),
        judge: "first".to_owned(),
        p_a: 1.0 / (1.0 + (-for_a).exp()),
        verdict: if for_a > 0.0 { "a" } else { "b" }.to_owned(),
        raw: for_a,
        coverage: 1.0,
    }
}

/// Writes the tables of a round into `folder`.
fn write_round(folder: &Path) {
    let prompts: Vec<PromptRow> = (0..PROMPTS).map(prompt).collect();
    let (mut responses, mut judgments) = (Vec::new(), Vec::new());
    for prompt in &prompts {
        let answers: Vec<ResponseRow> = (0..RESPONSES)
            .map(|index| response(&prompt.prompt_id, index))
            .collect();
        for (number, a) in answers.iter().enumerate() {
            for b in &answers[number + 1..] {
                judgments.extend(["ab", "ba"].map(|order| judgment(a, b, order)));
            }
        }
        responses.extend(answers);
    }
    write_table(&folder.join("prompts.parquet"), &prompts).unwrap();
    write_table(&folder.join("responses.parquet"), &responses).unwrap();
    write_table(&folder.join("judgments.parquet"), &judgments).unwrap();
}

fn run(folder: &Path, stage: &str, out: &str, arguments: &str) -> Output {
    Command::new(program(stage))
        .current_dir(folder)
        .args(["--out", out, "--progress", "none"])
        .args(arguments.split_whitespace())
        .output()
        .unwrap()
}

#[test]
fn a_judge_of_order_alone_ranks_nothing_and_gives_no_pair() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    write_round(folder);
    let tables = "--responses responses.parquet --judgments judgments.parquet";
    for method in ["mean-win", "mean-logit", "bradley-terry", "copeland"] {
        let output = run(
            folder,
            "sims-rank",
            method,
            &format!("{tables} --method {method}"),
        );
        assert!(output.status.success(), "{}", text_of(&output));
        let ranking: Vec<RankingRow> =
            read_table(&folder.join(method).join("ranking.parquet")).unwrap();
        assert_eq!(ranking.len() as u32, PROMPTS * RESPONSES);
        for row in &ranking {
            // Both orders cancel to the last bit: no preference is left, and what cancelled is the bias.
            assert_eq!(
                (row.score, row.win_probability, row.position_bias, row.tie),
                (ranking[0].score, 0.5, BIAS, true),
                "{method}: {row:?}"
            );
        }
        let summary = std::fs::read_to_string(folder.join(method).join("summary.json")).unwrap();
        let summary: Value = serde_json::from_str(&summary).unwrap();
        assert_eq!(summary["counts"]["flip_rate"], 1.0);
        assert_eq!(summary["counts"]["position_bias_nats"], BIAS);
        assert_eq!(
            summary["counts"]["all_tied_prompts"],
            f64::from(PROMPTS),
            "{method}"
        );

        // Nor is there a pair when every rule on margins is off.
        for rules in ["", "--margin none --both-orders false --min-yield 0"] {
            let output = run(
                folder,
                "sims-contrast",
                "pairs",
                &format!(
                    "{tables} --prompts prompts.parquet --ranking {method}/ranking.parquet {rules}"
                ),
            );
            let message = text_of(&output);
            assert_eq!(output.status.code(), Some(2), "{message}");
            let expected = "no contrast pair is left of 12 prompts. Dropped: 12 tie";
            assert!(message.contains(expected), "{message}");
        }
    }
}
