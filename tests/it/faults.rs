//! Every stage of the loop killed at every step by which it changes the file system, and a disk full from each step on.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use sims_testkit::faults::{Fault, FaultShim, each_step};
use sims_testkit::{Workspace, program, text_of};

use crate::{LOOP_STAGES, small_pipeline};

/// One round with less to compute: what counts here is how often a file system is changed, not what is in the files.
const FEW: &str = "rounds: 1
round:
  sample: {samples: 3, max-new-tokens: 24}
  judge: {meets: 2, controls: 0}
  steer-eval: {inputs: {neutral: none}}
";

/// A stage with everything that it reads, as `sims plan --commands` prints it.
struct ByHand {
    program: String,
    arguments: Vec<String>,
    /// The folder that later stages read its outputs from, relative to the workspace.
    out: PathBuf,
}

impl ByHand {
    /// Returns the command that writes into `out`.
    fn command(&self, workspace: &Workspace, out: &Path) -> Command {
        let mut command = Command::new(program(&self.program));
        command.args(&self.arguments).arg("--out").arg(out);
        command.current_dir(workspace.path()).env("NO_COLOR", "1");
        // One thread takes its steps in one order.
        command.args(["--threads", "1"]);
        command
    }
}

/// Returns the commands of a round's stages, in their order.
fn stages(workspace: &Workspace) -> Vec<ByHand> {
    let pipeline = small_pipeline(workspace, FEW);
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
    LOOP_STAGES.iter().map(of).collect()
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
fn outputs(out: &Path) -> BTreeMap<String, Vec<u8>> {
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

/// No output is there in part, and the same command completes with the bytes of a run that nothing disturbed.
fn recovers(
    stage: &ByHand,
    workspace: &Workspace,
    out: &Path,
    expected: &BTreeMap<String, Vec<u8>>,
    what: &str,
) {
    for (name, bytes) in outputs(out) {
        assert_eq!(
            Some(&bytes),
            expected.get(&name),
            "{what}: {name} is not whole"
        );
    }
    let output = stage
        .command(workspace, out)
        .output()
        .expect("the stage starts");
    assert!(output.status.success(), "{what}: {}", text_of(&output));
    assert_eq!(&outputs(out), expected, "{what}");
    let left = std::fs::read_dir(out).expect("it wrote").flatten();
    let left: Vec<_> = left
        .filter(|entry| entry.file_name().to_string_lossy().starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{what}: {left:?} is left");
}

fn disturbed_by(fault: Fault) {
    let workspace = Workspace::new();
    let shim = FaultShim::build();
    for stage in stages(&workspace) {
        let name = &stage.program;
        // Later stages read what this one writes where the plan says.
        let whole = workspace.path().join(&stage.out);
        let output = stage.command(&workspace, &whole).output();
        let output = output.expect("the stage starts");
        assert!(output.status.success(), "{name}: {}", text_of(&output));
        let expected = outputs(&whole);
        let counted = workspace.path().join(format!("{name}-0"));
        let steps = shim.steps(&mut stage.command(&workspace, &counted), name);
        assert!(
            !expected.is_empty() && steps.len() > 10,
            "{name}: {steps:?}"
        );
        let killed = AtomicUsize::new(0);
        each_step(steps.len(), |step| {
            let out = workspace.path().join(format!("{name}-{step}"));
            let mut command = stage.command(&workspace, &out);
            shim.inject(&mut command, name, fault, step);
            let output = command.output().expect("the stage starts");
            let what = format!(
                "{name}, {fault:?} at step {step} of {}, {}",
                steps.len(),
                steps[step - 1]
            );
            let text = text_of(&output);
            match (fault, output.status.code()) {
                (Fault::Kill, None) => {
                    assert_eq!(output.status.signal(), Some(libc::SIGKILL), "{what}");
                    killed.fetch_add(1, Ordering::Relaxed);
                }
                // Two runs may differ by a step or two.
                (Fault::Kill, code) => assert_eq!(code, Some(0), "{what}: {text}"),
                (Fault::FullDisk, Some(0)) => assert_eq!(outputs(&out), expected, "{what}"),
                (Fault::FullDisk, Some(1)) => {
                    assert!(text.contains("No space left on device"), "{what}: {text}");
                }
                (Fault::FullDisk, other) => panic!("{what}: {other:?} {text}"),
            }
            // A failure that the stage saw itself leaves less to wonder about than a kill.
            if fault == Fault::Kill || step % 4 == 0 {
                recovers(&stage, &workspace, &out, &expected, &what);
            }
            // A kill at the first step leaves no folder.
            let _none = std::fs::remove_dir_all(&out);
        });
        let killed = killed.into_inner();
        assert!(fault != Fault::Kill || killed + 5 >= steps.len(), "{name}");
    }
}

#[test]
fn stages_killed_at_any_step_leave_nothing_that_looks_whole() {
    disturbed_by(Fault::Kill);
}

#[test]
fn stages_on_a_disk_that_fills_up_say_so_and_leave_nothing_that_looks_whole() {
    disturbed_by(Fault::FullDisk);
}
