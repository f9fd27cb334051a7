//! Choices scored by the command and by the stage's program.

mod broken;
mod harness;
mod shared;
mod stage;

use std::path::{Path, PathBuf};

use serde_json::Value;
use sims_choices::ChoicesParams;
use sims_choices::command::{ChoicesArgs, run};

/// Returns a file beside the script that asked lm-evaluation-harness.
fn reference(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/reference")
        .join(name)
}

/// Writes the lines of the reference's tasks that `wanted` takes by task and document, and returns the file.
fn tasks_file(folder: &Path, wanted: impl Fn(&str, &str) -> bool) -> PathBuf {
    let text = std::fs::read_to_string(reference("tasks.jsonl")).expect("the tasks are there");
    let is_wanted = |line: &&str| {
        let row: Value = serde_json::from_str(line).expect("rows are JSON");
        let doc_id = row["doc_id"].to_string();
        wanted(row["task"].as_str().expect("a name"), &doc_id)
    };
    let lines: Vec<&str> = text.lines().filter(is_wanted).collect();
    let path = folder.join("tasks.jsonl");
    std::fs::write(&path, lines.join("\n")).expect("the folder is writable");
    path
}

/// Returns the command's arguments for scoring `tasks` on the CPU, details included.
fn arguments(tasks: PathBuf, model: PathBuf, params: ChoicesParams) -> ChoicesArgs {
    ChoicesArgs {
        tasks,
        model,
        steering: None,
        json: true,
        details: true,
        device: "cpu".to_owned(),
        threads: 0,
        batch_size: 0,
        params,
    }
}

/// Runs the command, which must succeed, and returns what it printed.
fn scored(arguments: &ChoicesArgs) -> Value {
    let mut out = Vec::new();
    run(arguments, &mut out).expect("scored");
    serde_json::from_slice(&out).expect("the command prints JSON")
}
