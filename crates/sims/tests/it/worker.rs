//! `sims work`: one stage of a plan, as a job of a cluster computes it.

use std::process::Stdio;

use insta::assert_snapshot;

use crate::toy::{LOOP, STAGES, Toy, wait_for};

#[test]
fn workers_one_by_one_make_what_a_run_makes() {
    let whole = Toy::new(LOOP);
    whole.run();
    let toy = Toy::new(LOOP);
    let mut stages = vec!["once/base-test".to_owned()];
    for round in 1..=3 {
        stages
            .extend(["sample", "rank", "fit", "check"].map(|name| format!("round-{round}/{name}")));
    }
    for stage in &stages {
        let report = toy.json(&["work", "p.yaml", "--stage", stage]);
        assert_eq!(report["outcome"], "executed");
    }
    assert_eq!(
        toy.json(&["work", "p.yaml", "--stage", "round-2/fit"])["outcome"],
        "cached"
    );
    assert!(
        !toy.path().join("runs/toy/round-1").exists(),
        "views are for `sims run`"
    );
    assert_eq!(toy.run(), (0, STAGES, 0));
    assert_eq!(toy.views("toy"), whole.views("toy"));
}

#[test]
fn a_worker_refuses_what_it_cannot_or_should_not_compute() {
    let toy = Toy::new(LOOP);
    let told = |arguments: &[&str]| {
        let all = [&["work", "p.yaml", "--stage"], arguments].concat();
        let (code, text) = toy.text(&all);
        assert_eq!(code, 2, "{text}");
        text
    };
    assert_snapshot!(told(&["round-1/rank"]), @"error: round-1/rank needs round-1/sample, which has no result in the store at .sims: run that first");
    assert_snapshot!(told(&["round-1/smaple"]), @"error: the plan has no `round-1/smaple`; did you mean `round-1/sample`?");
    assert_snapshot!(told(&["round-1/sample", "--part", "1/2"]), @"error: round-1/sample does not work in chunks, so that it has no parts");
    assert_snapshot!(told(&["round-1/sample", "--recipe", &"0".repeat(64)]), @"error: round-1/sample is no longer what was submitted: the pipeline, a program or an input changed since; the same `sims run` submits it anew");
    assert!(
        told(&["round-1/sample", "--part", "3/2"])
            .contains("give a part and their number, such as 2/8")
    );
    assert!(toy.ran().is_empty());
}

#[test]
fn a_stage_that_fails_is_told_in_the_report_as_well() {
    let toy = Toy::new(LOOP);
    let arguments = [
        "work",
        "p.yaml",
        "--stage",
        "round-1/sample",
        "--report",
        "jobs/report.json",
    ];
    let output = toy
        .sims(&arguments)
        .env("TOY_SAMPLE", "exit=2")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = toy.nameless(&output);
    assert!(
        text.contains("round-1/sample failed: exit code 2"),
        "{text}"
    );
    let report = std::fs::read(toy.path().join("jobs/report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    let failure = &report["end"]["failed"];
    assert_eq!(failure["is_lasting"], true);
    assert_eq!(failure["tail"][1], "sample: row 3 of the table is empty");
    assert_eq!(report["warnings"][0], "this is a toy");
}

#[test]
fn sigterm_stops_a_worker_and_its_stage() {
    let toy = Toy::new(LOOP);
    let marker = toy.path().join("asleep");
    let mut child = toy
        .sims(&["work", "p.yaml", "--stage", "round-1/sample"])
        .env("TOY_SAMPLE", format!("sleep={}", marker.display()))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for(&marker);
    let process = i32::try_from(child.id()).unwrap();
    // SAFETY: `kill` takes plain numbers; the process is our child and was not waited for.
    assert_eq!(unsafe { libc::kill(process, libc::SIGTERM) }, 0);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(toy.fsck().0, 0);
    assert_eq!(toy.run(), (STAGES, 0, 0));
}
