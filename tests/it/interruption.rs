//! Killing a run at any stage, and running two at once.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};

use sims_testkit::Workspace;

use crate::{artifacts, small_pipeline};

const STAGES: [&str; 7] = [
    "sample",
    "judge",
    "rank",
    "contrast",
    "extract",
    "fit",
    "steer-eval",
];

/// Starts `sims run` in a process group of its own.
fn start(workspace: &Workspace, pipeline: &str) -> Child {
    workspace
        .sims(&["run", pipeline])
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sims can be started")
}

fn signal_group(child: &Child, signal: i32) {
    let group = libc::pid_t::try_from(child.id()).expect("process ids fit");
    // SAFETY: kill takes two integers and touches no memory of ours.
    #[expect(
        unsafe_code,
        reason = "the standard library sends no signals to groups"
    )]
    unsafe {
        libc::kill(-group, signal);
    }
}

/// Reads the run's log until a line says that `stage` runs in round 1, then waits until its process is at work.
fn wait_for(child: &mut Child, stage: &str, workspace: &Workspace) -> bool {
    let stderr = child.stderr.take().expect("stderr is piped");
    let wanted = format!("round-1/{stage}");
    let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
    if !lines.any(|line| line.contains(&wanted)) {
        return false;
    }
    // A stage makes its folder once it has read its command line; a short one may be through with it already.
    let patience = std::time::Instant::now();
    while !at_work(workspace) && patience.elapsed().as_secs() < 5 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    true
}

/// Tells whether some stage's process has a folder of unfinished outputs.
fn at_work(workspace: &Workspace) -> bool {
    let entries =
        |folder: &std::path::Path| std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries(&workspace.path().join(".sims/tmp")).any(|scratch| {
        entries(&scratch.path().join("out"))
            .any(|entry| entry.file_name().to_string_lossy().starts_with(".partial-"))
    })
}

fn undisturbed() -> std::collections::BTreeMap<std::path::PathBuf, Vec<u8>> {
    let workspace = Workspace::new();
    let pipeline = small_pipeline(&workspace, "rounds: 1\n");
    workspace.json(&["run", pipeline.to_str().expect("temporary paths are text")]);
    artifacts(&workspace)
}

fn interrupted_by(signal: i32) {
    let expected = undisturbed();
    for stage in STAGES {
        let workspace = Workspace::new();
        let pipeline = small_pipeline(&workspace, "rounds: 1\n");
        let pipeline = pipeline.to_str().expect("temporary paths are text");
        let mut child = start(&workspace, pipeline);
        assert!(
            wait_for(&mut child, stage, &workspace),
            "the run never came to {stage}"
        );
        signal_group(&child, signal);
        let status = child.wait().expect("the child is ours");
        if signal == libc::SIGINT {
            assert_eq!(status.code(), Some(130), "interrupted in {stage}");
        }

        let fsck = workspace.json(&["fsck"]);
        assert_eq!(
            fsck["bad"].as_array().map(Vec::len),
            Some(0),
            "after a kill in {stage}"
        );
        workspace.json(&["run", pipeline]);
        assert!(
            artifacts(&workspace) == expected,
            "a kill in {stage} changed a result"
        );
    }
}

#[test]
fn a_killed_run_resumes_to_the_same_bytes() {
    interrupted_by(libc::SIGKILL);
}

#[test]
fn an_interrupted_run_resumes_to_the_same_bytes() {
    interrupted_by(libc::SIGINT);
}

#[test]
fn two_runs_at_once_compute_every_stage_once() {
    let workspace = Workspace::new();
    let pipeline = small_pipeline(&workspace, "rounds: 1\n");
    let pipeline = pipeline.to_str().expect("temporary paths are text");
    let children: Vec<Child> = (0..2)
        .map(|_| {
            let mut command = workspace.sims(&["run", pipeline, "--json"]);
            command
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("sims can be started")
        })
        .collect();
    let mut executed = 0;
    let mut total = 0;
    for child in children {
        let output = child.wait_with_output().expect("the child is ours");
        let result: serde_json::Value =
            serde_json::from_slice(&output.stdout).expect("sims prints JSON");
        assert_eq!(result["failed"], 0);
        executed += result["executed"].as_u64().expect("a count");
        total = executed
            .max(result["executed"].as_u64().unwrap_or(0) + result["cached"].as_u64().unwrap_or(0));
    }
    let plan = workspace.json(&["status", pipeline]);
    assert_eq!(
        executed,
        plan.as_array().expect("an array of stages").len() as u64
    );
    assert_eq!(executed, total);
}

/// A store on a file system of 256 kB: the run stops with a message, and goes on elsewhere.
#[test]
fn a_full_disk_is_named_and_loses_nothing() {
    let workspace = Workspace::new();
    let mount = workspace.path().join("small-disk");
    std::fs::create_dir(&mount).expect("the workspace is writable");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "tmpfs"])
        .arg(&mount)
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        eprintln!("skipped: mounting a tmpfs needs more rights than this user has");
        return;
    }
    let pipeline = small_pipeline(&workspace, "rounds: 1\n");
    let pipeline = pipeline.to_str().expect("temporary paths are text");
    let run = |store: &std::path::Path| {
        workspace
            .sims(&["run", pipeline, "--store"])
            .arg(store)
            .output()
            .expect("sims can be started")
    };
    let output = run(&mount.join("store"));
    let message = sims_testkit::text_of(&output);
    let fsck = workspace
        .sims(&["fsck", "--store"])
        .arg(mount.join("store"))
        .output()
        .expect("sims can be started");
    std::process::Command::new("umount")
        .arg("-l")
        .arg(&mount)
        .status()
        .expect("umount is there");
    assert!(!output.status.success());
    assert!(
        message.contains("full") || message.contains("No space"),
        "{message}"
    );
    assert!(fsck.status.success(), "{}", sims_testkit::text_of(&fsck));
    assert!(run(&workspace.path().join(".sims")).status.success());
}
