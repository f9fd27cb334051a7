//! The loop as a user runs it: real stages, the built-in model, a real store.

mod by_hand;
mod chunks;
mod closed_loop;
mod cost;
mod faults;
mod interruption;
mod isolation;
mod loop_runs;
mod position_bias;
mod reproductions;
mod safeguards;

use std::path::PathBuf;

use sims_testkit::Workspace;

/// The stages of a round, in their order.
const LOOP_STAGES: [&str; 8] = [
    "sample",
    "judge",
    "rank",
    "contrast",
    "extract",
    "fit",
    "steer-eval",
    "guard",
];

/// The quickstart pipeline, cut down to seconds: few prompts, few samples, one draw.
const SMALL: &str = "
extends: REPOSITORY/pipelines/quickstart.yaml
name: small
rounds: 2
once:
  base-eval: {with: {samples: 1, shard-size: 16, shard: 1}}
  base-eval-again: {with: {samples: 1, shard-size: 16, shard: 1}}
  base-unseen: {with: {samples: 1, shard-size: 16, shard: 1}}
round:
  sample: {samples: 6, shard-size: 64}
  fit: {allow-low-signal: true}
  steer-eval: {with: {draws: 1, shard-size: 16, gate: none, resamples: 200}}
  test: {with: {draws: 1, shard-size: 16, resamples: 200}}
  test-unseen: {with: {draws: 1, shard-size: 16, resamples: 200}}
";

/// Writes the small pipeline into `workspace`, with `changes` merged over it.
fn small_pipeline(workspace: &Workspace, changes: &str) -> PathBuf {
    let repository = sims_testkit::repository();
    let small = SMALL.replace("REPOSITORY", &repository.display().to_string());
    workspace.pipeline("small-base", &small);
    workspace.pipeline(
        "small",
        &format!("extends: small-base.yaml\nname: small\n{changes}"),
    )
}

/// Returns the content of every published view of the run, by path, summaries and logs left out.
fn artifacts(workspace: &Workspace) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    let root = workspace.path().join("runs/small");
    let mut found = std::collections::BTreeMap::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("the run has views") {
            let path = entry.expect("views can be listed").path();
            let extension = path.extension().and_then(|e| e.to_str());
            if path.is_dir() {
                folders.push(path);
            } else if matches!(extension, Some("parquet" | "safetensors")) {
                let name = path.strip_prefix(&root).expect("it lies below").to_owned();
                found.insert(name, std::fs::read(&path).expect("views can be read"));
            }
        }
    }
    found
}
