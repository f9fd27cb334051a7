//! Stages by hand: the commands that `sims plan --commands` prints, run without the runner.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use sims_testkit::{Workspace, program};

/// A stage with everything that it reads, as `sims plan --commands` prints it.
pub(crate) struct ByHand {
    pub(crate) program: String,
    arguments: Vec<String>,
    /// The folder that later stages read its outputs from, relative to the workspace.
    pub(crate) out: PathBuf,
}

impl ByHand {
    /// Returns the command that writes into `out`, on so many threads.
    pub(crate) fn command(&self, workspace: &Workspace, out: &Path, threads: usize) -> Command {
        let mut command = Command::new(program(&self.program));
        command.args(&self.arguments).arg("--out").arg(out);
        command.current_dir(workspace.path()).env("NO_COLOR", "1");
        command.args(["--threads", &threads.to_string()]);
        command
    }
}

/// Returns the commands of `names`, stages of the pipeline's first round, in their order.
pub(crate) fn stages(workspace: &Workspace, pipeline: &Path, names: &[&str]) -> Vec<ByHand> {
    let pipeline = pipeline.to_str().expect("temporary paths are text");
    let planned = workspace.json(&["plan", pipeline, "--commands"]);
    let planned = planned.as_array().expect("one entry a stage");
    let of = |name: &&str| {
        let entry = planned
            .iter()
            .find(|entry| entry["round"] == 1 && entry["stage"] == *name)
            .unwrap_or_else(|| panic!("{name} is planned"));
        let line = entry["command"].as_str().expect("a command is a text");
        let mut words: Vec<String> = words(line);
        let out = words.iter().position(|word| word == "--out");
        let out = out.expect("a stage writes somewhere");
        let out = words.drain(out..out + 2).nth(1).map(PathBuf::from);
        let program = Path::new(&words.remove(0)).file_name().map(PathBuf::from);
        ByHand {
            program: program.expect("a path").display().to_string(),
            arguments: words,
            out: out.expect("a folder follows"),
        }
    };
    names.iter().map(of).collect()
}

/// Splits a shell line as `plan` writes it: words, some of them in single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quoted, mut any) = (false, false);
    for c in line.chars() {
        match c {
            '\'' => (quoted, any) = (!quoted, true),
            ' ' if !quoted => {
                if any {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            c => {
                word.push(c);
                any = true;
            }
        }
    }
    if any {
        words.push(word);
    }
    words
}

/// Returns what a stage wrote under the names of outputs, the summary left out: it varies from run to run.
pub(crate) fn outputs(out: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(out).into_iter().flatten().flatten();
    entries
        .map(|entry| {
            (
                entry.file_name().to_string_lossy().into_owned(),
                entry.path(),
            )
        })
        .filter(|(name, _)| !name.starts_with('.') && !name.ends_with(".json"))
        .map(|(name, path)| (name, std::fs::read(path).expect("outputs can be read")))
        .collect()
}
