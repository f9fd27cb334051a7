//! Command lines of stages: what the runner runs, and what a person can paste into a shell.

use std::path::{Path, PathBuf};

use crate::parameters::flag_value;
use crate::plan::{InstanceFeed, InstanceName, Plan};
use crate::programs::ProgramSearch;

/// A command that does by hand what the runner does for one stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedCommand {
    /// The stage and its round.
    pub name: InstanceName,
    /// The line, quoted for a POSIX shell.
    pub line: String,
}

/// Returns the arguments of a stage, `--out` last; the device is named where the bytes depend on it.
pub(crate) fn arguments(
    plan: &Plan,
    index: usize,
    inputs: &[(String, Vec<PathBuf>)],
    execution: &[String],
    out: &Path,
) -> Vec<String> {
    let mut arguments = Vec::new();
    for (role, paths) in inputs {
        for path in paths {
            arguments.push(format!("--{role}"));
            arguments.push(path.display().to_string());
        }
    }
    for (name, value) in plan.set_parameters(index) {
        arguments.push(format!("--{name}"));
        arguments.push(flag_value(&value));
    }
    let numerics = &plan.program(index).description.numerics;
    if plan.device != "auto" && !numerics.is_empty() {
        arguments.extend(["--device".to_owned(), plan.device.clone()]);
    }
    arguments.extend_from_slice(execution);
    arguments.push("--out".to_owned());
    arguments.push(out.display().to_string());
    arguments
}

impl Plan {
    /// Returns one command a stage, in an order in which they can be run by hand.
    ///
    /// Each writes into a folder below `out` and reads from what those before wrote there. Paths
    /// are shown from `current`, and programs by name where `search` finds them on `PATH`.
    pub fn commands(
        &self,
        search: &ProgramSearch,
        out: &Path,
        current: &Path,
    ) -> Vec<PlannedCommand> {
        let by_hand = |instance: usize, role: &str| {
            let extension = self.program(instance).description.outputs[role].extension();
            let folder = out.join(self.name(instance).path());
            folder.join(format!("{role}.{extension}"))
        };
        (0..self.len())
            .map(|index| PlannedCommand {
                name: self.name(index),
                line: self.command_line(index, search, out, current, &by_hand),
            })
            .collect()
    }

    /// Returns the command that runs one stage by hand; `input` says where the outputs of others are.
    pub(crate) fn command_line(
        &self,
        index: usize,
        search: &ProgramSearch,
        out: &Path,
        current: &Path,
        input: &dyn Fn(usize, &str) -> PathBuf,
    ) -> String {
        let inputs: Vec<(String, Vec<PathBuf>)> = self.instances[index]
            .inputs
            .iter()
            .map(|(role, feeds)| {
                let paths = feeds.iter().map(|feed| match feed {
                    InstanceFeed::External(file) => shown(&file.path, current),
                    InstanceFeed::Output { instance, role } => {
                        shown(&input(*instance, role), current)
                    }
                });
                (role.clone(), paths.collect())
            })
            .collect();
        let program = shown_program(&self.program(index).path, search, current);
        let out = shown(&out.join(self.name(index).path()), current);
        let arguments = arguments(self, index, &inputs, &[], &out);
        let words = std::iter::once(program).chain(arguments);
        words
            .map(|word| shell_word(&word))
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// Shortens a path below `current`.
fn shown(path: &Path, current: &Path) -> PathBuf {
    path.strip_prefix(current).unwrap_or(path).to_owned()
}

fn shown_program(path: &Path, search: &ProgramSearch, current: &Path) -> String {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let on_path = search
        .path
        .iter()
        .map(|folder| folder.join(&name))
        .find(|found| found.exists());
    if on_path.as_deref() == Some(path) {
        return name;
    }
    let short = shown(path, current);
    if short.components().count() == 1 {
        return format!("./{}", short.display());
    }
    short.display().to_string()
}

/// Quotes a word for a POSIX shell when it needs it.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_when_they_must_be() {
        assert_eq!(shell_word("data/x.parquet"), "data/x.parquet");
        assert_eq!(shell_word(""), "''");
        assert_eq!(shell_word("it's $1"), "'it'\\''s $1'");
    }
}
