//! The `sims-rank` binary on small tables.

mod broken;
mod reference;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sims_artifact::tables::{JudgmentRow, RankingRow, ResponseRow};
use sims_artifact::{read_table, write_table};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sims-rank"))
        .args(arguments)
        .args(["--progress", "none"])
        .output()
        .expect("the binary was built")
}

fn response(prompt_id: &str, index: u32) -> ResponseRow {
    ResponseRow {
        prompt_id: prompt_id.into(),
        response_id: format!("{prompt_id}-{index}"),
        round: 1,
        sample_index: index,
        policy: "base".into(),
        text: "x".into(),
        token_ids: vec![1, 2],
        prompt_tokens: 3,
        finish_reason: "stop".into(),
        logprob_sum: -1.0,
        seed: 0,
    }
}

fn judgment(prompt_id: &str, order: &str, raw: f64) -> JudgmentRow {
    JudgmentRow {
        prompt_id: prompt_id.into(),
        response_a: format!("{prompt_id}-0"),
        response_b: format!("{prompt_id}-1"),
        order: order.into(),
        judge: "stub".into(),
        p_a: 0.5,
        verdict: if raw > 0.0 { "a" } else { "b" }.into(),
        raw,
        coverage: 1.0,
    }
}

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new(responses: &[ResponseRow], judgments: &[JudgmentRow]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let files = Self { folder };
        write_table(&files.path("responses.parquet"), responses).expect("written");
        write_table(&files.path("judgments.parquet"), judgments).expect("written");
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn rank(&self, more: &[&str]) -> Output {
        let path = |name| self.path(name).display().to_string();
        let (responses, judgments, out) = (
            path("responses.parquet"),
            path("judgments.parquet"),
            path("out"),
        );
        let mut arguments = vec![
            "--responses",
            &responses,
            "--judgments",
            &judgments,
            "--out",
            &out,
        ];
        arguments.extend(more);
        run(&arguments)
    }

    fn ranking(&self) -> Vec<RankingRow> {
        read_table(&self.path("out/ranking.parquet")).expect("a ranking")
    }

    fn summary(&self) -> serde_json::Value {
        summary(&self.path("out/summary.json"))
    }
}

fn summary(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).expect("a summary")).expect("JSON")
}

fn error_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Two prompts, the second with the better response last.
fn two_prompts() -> Files {
    let responses: Vec<ResponseRow> = [("q", 0), ("q", 1), ("p", 0), ("p", 1)]
        .map(|(prompt, index)| response(prompt, index))
        .into();
    let judgments = [("q", 1.0), ("p", -2.0)].map(|(prompt, gap)| {
        [
            judgment(prompt, "ab", gap + 0.5),
            judgment(prompt, "ba", gap - 0.5),
        ]
    });
    Files::new(&responses, judgments.as_flattened())
}

#[test]
fn ranks_and_reports() {
    let files = two_prompts();
    let output = files.rank(&[]);
    assert!(output.status.success(), "{}", error_text(&output));
    let ranking = files.ranking();
    let order: Vec<(&str, u32)> = ranking
        .iter()
        .map(|row| (row.response_id.as_str(), row.rank))
        .collect();
    assert_eq!(order, [("q-0", 1), ("q-1", 2), ("p-1", 1), ("p-0", 2)]);
    assert_eq!(ranking[0].comparisons, 2);
    assert!((ranking[0].position_bias - 0.5).abs() < 1e-12);
    let summary = files.summary();
    assert_eq!(summary["counts"]["pairs"], 2.0);
    assert_eq!(summary["counts"]["flip_rate"], 0.0);
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let files = two_prompts();
    let bytes = |threads| {
        let output = files.rank(&["--threads", threads, "--method", "bradley-terry"]);
        assert!(output.status.success(), "{}", error_text(&output));
        std::fs::read(files.path("out/ranking.parquet")).expect("a ranking")
    };
    assert_eq!(bytes("1"), bytes("2"));
}

#[test]
fn a_mean_over_an_uneven_design_is_a_warning() {
    let responses = [response("p", 0), response("p", 1), response("p", 2)];
    let against = |b: u32, order| JudgmentRow {
        response_b: format!("p-{b}"),
        ..judgment("p", order, 1.0)
    };
    // The first met both others, these only the first.
    let judgments = [
        against(1, "ab"),
        against(1, "ba"),
        against(2, "ab"),
        against(2, "ba"),
    ];
    let files = Files::new(&responses, &judgments);
    let warnings = |method| {
        assert!(files.rank(&["--method", method]).status.success());
        files.summary()["warnings"].to_string()
    };
    assert!(warnings("mean-win").contains("met unequal numbers of others"));
    assert!(!warnings("mean-win-completed").contains("unequal"));
    assert!(warnings("random").contains("`both-orders`"));
}

#[test]
fn describe_prints_json() {
    let output = Command::new(env!("CARGO_BIN_EXE_sims-rank"))
        .arg("describe")
        .output();
    let output = output.expect("the binary was built");
    let description: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(description["stage"], "rank");
    assert_eq!(description["numerics"], "");
    assert_eq!(
        description["params"]["properties"]["method"]["default"],
        "mean-win"
    );
}

#[test]
fn a_single_response_is_ranked_with_a_warning() {
    let files = Files::new(&[response("p", 0)], &[]);
    let output = files.rank(&[]);
    assert!(output.status.success(), "{}", error_text(&output));
    assert_eq!(
        (files.ranking()[0].rank, files.ranking()[0].comparisons),
        (1, 0)
    );
    let warnings = files.summary()["warnings"].to_string();
    assert!(warnings.contains("single response"), "{warnings}");
}

#[test]
fn a_judge_without_preference_is_a_warning() {
    let judgments = [judgment("p", "ab", 0.5), judgment("p", "ba", -0.5)];
    let files = Files::new(&[response("p", 0), response("p", 1)], &judgments);
    assert!(files.rank(&[]).status.success());
    assert!(files.ranking().iter().all(|row| row.tie));
    assert!(
        files.summary()["warnings"]
            .to_string()
            .contains("no preference")
    );
}

#[test]
fn bad_input_exits_with_two_and_names_the_file() {
    let files = two_prompts();
    let whole = std::fs::read(files.path("judgments.parquet")).expect("written");
    std::fs::write(files.path("judgments.parquet"), &whole[..whole.len() / 2]).expect("written");
    let output = files.rank(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        error_text(&output).contains("judgments.parquet"),
        "{}",
        error_text(&output)
    );
    assert!(!files.path("out/ranking.parquet").exists());

    // The responses in the place of the judgments.
    std::fs::copy(
        files.path("responses.parquet"),
        files.path("judgments.parquet"),
    )
    .expect("copied");
    let output = files.rank(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        error_text(&output).contains("responses@1"),
        "{}",
        error_text(&output)
    );
}

#[test]
fn an_unconnected_prompt_exits_with_two_and_is_named() {
    let responses = [response("p", 0), response("p", 1), response("p", 2)];
    let files = Files::new(
        &responses,
        &[judgment("p", "ab", 1.0), judgment("p", "ba", 1.0)],
    );
    for method in ["bradley-terry", "least-squares", "mean-win-completed"] {
        let output = files.rank(&["--method", method]);
        let message = error_text(&output);
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(
            message.contains("prompt p: the comparison graph has 2 unconnected groups"),
            "{message}"
        );
    }
    assert_eq!(files.rank(&["--tau", "0"]).status.code(), Some(2));
}
