//! Runs that are stopped, killed, or not alone.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};

use crate::toy::{LOOP, STAGES, Toy, counts, wait_for};

/// Starts a run whose stage `fit` sleeps, and waits until it does.
fn run_until_fit_sleeps(toy: &Toy) -> Child {
    let marker = toy.path().join("asleep");
    let child = toy
        .sims(&["run", "p.yaml", "--json"])
        .env("TOY_FIT", format!("sleep={}", marker.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for(&marker);
    child
}

fn signal(child: &Child, signal: i32) {
    let process = i32::try_from(child.id()).unwrap();
    // SAFETY: `kill` takes plain numbers; the process is our child and was not waited for.
    assert_eq!(unsafe { libc::kill(process, signal) }, 0);
}

/// Waits until no process of the workspace's stages is left.
fn no_stage_runs(toy: &Toy) {
    let script = toy.path().join("fit.sh").display().to_string();
    let runs = || {
        std::fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| {
                let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&command).contains(&script)
            })
    };
    let start = std::time::Instant::now();
    while runs() {
        assert!(
            start.elapsed().as_secs() < 20,
            "the stage outlives the runner"
        );
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn a_killed_run_goes_on_where_it_was() {
    let whole = Toy::new(LOOP);
    whole.run();
    let toy = Toy::new(LOOP);
    let mut child = run_until_fit_sleeps(&toy);
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    no_stage_runs(&toy);
    assert_eq!(toy.fsck().0, 0);
    assert_eq!(
        toy.run(),
        (STAGES - 3, 3, 0),
        "base-test, sample and rank of round 1 were done"
    );
    assert_eq!(toy.views("toy"), whole.views("toy"));
    let debris = std::fs::read_dir(toy.path().join(".sims/tmp"))
        .unwrap()
        .count();
    assert_eq!(debris, 0, "the next run clears what the killed one left");
}

#[test]
fn runs_killed_at_any_moment_leave_a_sound_store() {
    let whole = Toy::new(LOOP);
    whole.run();
    let toy = Toy::new(LOOP);
    // The moments spread over a run of a second or so; which step each one meets is left to chance.
    for step in 1..=12 {
        let mut child = toy
            .sims(&["run", "p.yaml"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(step * 17));
        child.kill().unwrap();
        child.wait().unwrap();
        if toy.path().join(".sims").is_dir() {
            let (code, report) = toy.fsck();
            assert_eq!(code, 0, "{report}");
        }
    }
    let (executed, cached, failed) = toy.run();
    assert_eq!((executed + cached, failed), (STAGES, 0));
    assert_eq!(toy.views("toy"), whole.views("toy"));
}

#[test]
fn ctrl_c_stops_the_stage_and_says_how_to_go_on() {
    for name in [libc::SIGINT, libc::SIGTERM] {
        let toy = Toy::new(LOOP);
        let child = run_until_fit_sleeps(&toy);
        signal(&child, name);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130));
        let text = toy.nameless(&output);
        assert!(
            text.contains(
                "interrupted: 3 of 13 stages are done and kept; the same command goes on from there"
            ),
            "{text}"
        );
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(counts(&report), (3, 0, 0));
        no_stage_runs(&toy);
        assert_eq!(toy.fsck().0, 0);
        assert_eq!(toy.run(), (STAGES - 3, 3, 0));
    }
}

#[test]
fn a_run_under_nohup_survives_a_hang_up() {
    let toy = Toy::new(LOOP);
    let gate = toy.path().join("gate");
    let script = "trap '' HUP; exec \"$SIMS\" run p.yaml --rounds 1 --json";
    let child = std::process::Command::new("sh")
        .args(["-c", script])
        .current_dir(toy.path())
        .env("SIMS", env!("CARGO_BIN_EXE_sims"))
        .env("TOY_FIT", format!("wait={}", gate.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for(&toy.path().join("runs/toy/logs/round-1/fit.log"));
    signal(&child, libc::SIGHUP);
    std::fs::write(&gate, "").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{:?}", output.status);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(counts(&report), (5, 0, 0));
}

#[test]
fn two_runs_at_once_compute_everything_once() {
    let toy = Toy::new(LOOP);
    let gate = toy.path().join("gate");
    let children: Vec<Child> = (0..2)
        .map(|_| {
            toy.sims(&["run", "p.yaml", "--json"])
                .env("TOY_SAMPLE", format!("wait={}", gate.display()))
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    // Both are under way: one computes the first stage, the other waits for its lease.
    wait_for(&toy.path().join("ran.log"));
    std::fs::write(&gate, "").unwrap();
    let mut executed = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", toy.nameless(&output));
        let (ran, cached, failed) = counts(&serde_json::from_slice(&output.stdout).unwrap());
        assert_eq!((ran + cached, failed), (STAGES, 0));
        executed += ran;
    }
    assert_eq!(executed, STAGES);
    assert_eq!(toy.ran().len() as u64, STAGES, "each stage ran once");
    assert_eq!(toy.fsck().0, 0);
}

#[test]
fn status_sees_a_stage_that_another_process_computes() {
    let toy = Toy::new(LOOP);
    let mut child = run_until_fit_sleeps(&toy);
    let status = toy.json(&["status", "p.yaml"]);
    let states: Vec<&str> = status
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| stage["state"].as_str().unwrap())
        .collect();
    assert_eq!(
        states[..6],
        ["done", "done", "done", "running", "ready", "waiting"]
    );
    child.kill().unwrap();
    child.wait().unwrap();
}
