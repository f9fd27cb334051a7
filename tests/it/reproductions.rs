//! The paper's pipelines, whole, on random-weight models of the two architectures: files, stages and wiring.

use std::path::Path;

use serde_json::Value;
use sims_artifact::tables::{PromptRow, ResponseRow};
use sims_artifact::{read_table, write_table};
use sims_testkit::random_model::{RandomModel, prompts};
use sims_testkit::{Workspace, repository};

/// What differs from the real run: the model, the prompts, and every size. Answers of random words are no text, so that
/// the filters for real text are off.
const SMALL: &str = "
extends: REPOSITORY/pipelines/PIPELINE.yaml
name: small
model: model
prompts: {train: p/train.parquet, dev: p/dev.parquet, alpaca: p/alpaca.parquet, arena: p/arena.parquet, neutral: p/neutral.parquet}
once:
  alpaca-base: {with: {max-new-tokens: 12}}
  arena-base: {with: {max-new-tokens: 12}}
round:
  sample: {samples: 4, shard-size: 110, max-new-tokens: 12}
  judge: {meets: 3, controls: 0, min-coverage: 0}
  contrast:
    min-content-tokens: 1
    min-visible-characters: 1
    max-jaccard: 1.0
    max-pair-jaccard: 1.0
    min-unshared: 0
    length-ratio: 0
    length-balance: \"off\"
    same-script: false
    truncated: keep
    degenerate-negatives: true
    margin: none
    both-orders: false
    min-yield: 0
  fit: {allow-low-signal: true, top-k: 2}
  steer-eval: {with: {draws: 1, shard-size: 24, max-new-tokens: 12, resamples: 200, min-coverage: 0}}
  guard: {on-signal: observe}
  alpaca: {with: {max-new-tokens: 12}}
  arena: {with: {max-new-tokens: 12}}
";

/// Runs `pipeline` with one of its methods and returns the run's answers to the benchmark, by round from 0.
fn answers(pipeline: &str, method: &str, model_type: &str) -> Vec<Vec<ResponseRow>> {
    let workspace = Workspace::new();
    random_model(workspace.path(), model_type);
    let all = prompts(400);
    let folder = workspace.path().join("p");
    std::fs::create_dir(&folder).expect("the workspace is empty");
    let mut rest = all.as_slice();
    for (name, count) in [
        ("train", 330),
        ("dev", 24),
        ("alpaca", 10),
        ("arena", 6),
        ("neutral", 12),
    ] {
        let (rows, more): (&[PromptRow], _) = rest.split_at(count);
        rest = more;
        write_table(&folder.join(format!("{name}.parquet")), rows).expect("the folder is writable");
    }
    let text = SMALL
        .replace("REPOSITORY", &repository().display().to_string())
        .replace("PIPELINE", pipeline);
    let file = workspace.pipeline("small", &text);
    let file = file.to_str().expect("temporary paths are text");
    let choice = format!("method={method}");
    let report = workspace.json(&["run", file, "--only", &choice]);
    assert_eq!(report["failed"], 0, "{report}");

    let run = workspace.path().join(format!("runs/small-{method}"));
    let folders = [
        "once/alpaca-base",
        "round-1/alpaca",
        "round-2/alpaca",
        "round-3/alpaca",
    ];
    let read = |name| read_table(&run.join(name).join("responses.parquet"));
    folders
        .map(read)
        .into_iter()
        .map(|rows| rows.expect("every round answers the benchmark"))
        .collect()
}

/// Writes a random Llama, or the same weights as a Mistral.
fn random_model(folder: &Path, model_type: &str) {
    let model = RandomModel::default().write(folder);
    let path = model.join("config.json");
    let text = std::fs::read_to_string(&path).expect("the model has a config");
    let mut config: Value = serde_json::from_str(&text).expect("it is JSON");
    if model_type == "mistral" {
        config["model_type"] = "mistral".into();
        config["architectures"] = serde_json::json!(["MistralForCausalLM"]);
        config["sliding_window"] = Value::Null;
    }
    std::fs::write(&path, config.to_string()).expect("the folder is writable");
}

fn holds(rounds: &[Vec<ResponseRow>]) {
    assert_eq!(rounds.len(), 4);
    for rows in rounds {
        assert_eq!(rows.len(), 10);
        assert!(rows.iter().all(|row| row.sample_index == 0));
    }
    assert!(rounds[0].iter().all(|row| row.policy == "base"));
}

#[test]
fn the_papers_method_runs_on_a_llama() {
    holds(&answers("llama3-8b", "paper", "llama"));
}

#[test]
fn the_rotation_at_the_re_asked_prompt_runs_on_a_mistral() {
    holds(&answers("mistral-7b", "reask", "mistral"));
}
