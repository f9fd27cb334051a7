//! Every stage of the loop killed at every step by which it changes the file system, and a disk full from each step on.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use sims_testkit::faults::{Fault, FaultShim, each_step};
use sims_testkit::{Workspace, text_of};

use crate::by_hand::{ByHand, outputs, stages};
use crate::{LOOP_STAGES, small_pipeline};

/// One round with less to compute: what counts here is how often a file system is changed, not what is in the files.
const FEW: &str = "rounds: 1
round:
  sample: {samples: 3, max-new-tokens: 24, shard-size: 48}
  judge: {meets: 2, controls: 0}
  steer-eval: {inputs: {neutral: none}}
";

/// One thread takes its steps in one order.
const THREADS: usize = 1;

fn loop_stages(workspace: &Workspace) -> Vec<ByHand> {
    stages(workspace, &small_pipeline(workspace, FEW), &LOOP_STAGES)
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
        .command(workspace, out, THREADS)
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
    for stage in loop_stages(&workspace) {
        let name = &stage.program;
        // Later stages read what this one writes where the plan says.
        let whole = workspace.path().join(&stage.out);
        let output = stage.command(&workspace, &whole, THREADS).output();
        let output = output.expect("the stage starts");
        assert!(output.status.success(), "{name}: {}", text_of(&output));
        let expected = outputs(&whole);
        let counted = workspace.path().join(format!("{name}-0"));
        let steps = shim.steps(&mut stage.command(&workspace, &counted, THREADS), name);
        assert!(
            !expected.is_empty() && steps.len() > 10,
            "{name}: {steps:?}"
        );
        let killed = AtomicUsize::new(0);
        each_step(steps.len(), |step| {
            let out = workspace.path().join(format!("{name}-{step}"));
            let mut command = stage.command(&workspace, &out, THREADS);
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
