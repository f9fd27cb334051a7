//! The runner killed at every step by which it changes the file system, and a disk that is full from each step on.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::{AtomicUsize, Ordering};

use sims_testkit::faults::{Fault, FaultShim, each_step};

use crate::toy::Toy;

/// Returns the views of a run that nothing disturbed, and what the runner does at each step.
fn undisturbed(shim: &FaultShim) -> (BTreeMap<String, Vec<u8>>, Vec<String>) {
    let toy = Toy::with_pieces();
    let steps = shim.steps(&mut toy.sims(&["run", "p.yaml"]), "sims");
    let views = toy.views("toy");
    assert_eq!(views.len(), 3);
    (views, steps)
}

/// After whatever happened: the store is clean, and the next run completes with the same bytes.
fn recovers(toy: &Toy, expected: &BTreeMap<String, Vec<u8>>, what: &str) {
    if toy.path().join(".sims/format").exists() {
        let (code, report) = toy.fsck();
        assert_eq!(code, 0, "{what}: {report}");
    }
    let output = toy.sims(&["run", "p.yaml"]).output().unwrap();
    assert!(output.status.success(), "{what}: {}", toy.nameless(&output));
    assert_eq!(&toy.views("toy"), expected, "{what}");
    let (code, report) = toy.fsck();
    assert_eq!(code, 0, "{what}: {report}");
    let debris = || {
        std::fs::read_dir(toy.path().join(".sims/tmp"))
            .unwrap()
            .count()
    };
    if debris() > 0 {
        // The run was all but over, so that the second one had nothing to write: the next writer clears up.
        toy.json(&["run", "p.yaml", "--seed", "18"]);
        assert_eq!(debris(), 0, "{what}: debris is left");
    }
}

#[test]
fn a_runner_killed_at_any_step_loses_nothing() {
    let shim = FaultShim::build();
    let (expected, steps) = undisturbed(&shim);
    assert!(steps.len() > 50, "{steps:?}");
    let killed = AtomicUsize::new(0);
    each_step(steps.len(), |step| {
        let toy = Toy::with_pieces();
        let mut command = toy.sims(&["run", "p.yaml"]);
        shim.inject(&mut command, "sims", Fault::Kill, step);
        let output = command.output().unwrap();
        let what = format!("killed at step {step}, {}", steps[step - 1]);
        match output.status.signal() {
            Some(libc::SIGKILL) => _ = killed.fetch_add(1, Ordering::Relaxed),
            // Two runs may differ by a step or two in what they find cached.
            _ => assert!(output.status.success(), "{what}: {}", toy.nameless(&output)),
        }
        recovers(&toy, &expected, &what);
    });
    assert!(killed.into_inner() + 5 >= steps.len());
}

#[test]
fn a_disk_that_fills_up_at_any_step_is_named_and_loses_nothing() {
    let shim = FaultShim::build();
    let (expected, steps) = undisturbed(&shim);
    each_step(steps.len(), |step| {
        let toy = Toy::with_pieces();
        let mut command = toy.sims(&["run", "p.yaml"]);
        shim.inject(&mut command, "sims", Fault::FullDisk, step);
        let output = command.output().unwrap();
        let text = toy.nameless(&output);
        let what = format!("full at step {step}, {}", steps[step - 1]);
        match output.status.code() {
            // What can be forgotten (caches) may fail to be written.
            Some(0) => assert_eq!(toy.views("toy"), expected, "{what}: {text}"),
            Some(1) => assert!(text.contains("No space left on device"), "{what}: {text}"),
            other => panic!("{what}: {other:?} {text}"),
        }
        recovers(&toy, &expected, &what);
    });
}
