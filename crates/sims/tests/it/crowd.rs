//! Hundreds of processes on one store.

use std::collections::BTreeMap;
use std::process::{Child, Stdio};

use crate::toy::{LOOP, STAGES, Toy, counts};

/// Pipelines that differ in their rounds and share what runs once and their inputs.
const PIPELINES: usize = 4;

fn pipeline(toy: &Toy, number: usize) -> String {
    let text = LOOP
        .replace("name: toy", &format!("name: crowd-{number}"))
        .replace(
            "with: {samples: 4}",
            &format!("with: {{samples: {}}}", 4 + number),
        );
    let file = format!("crowd-{number}.yaml");
    toy.write(&file, &text);
    file
}

/// Starts a run in a folder of views of its own, where its number is from 0.
fn start(toy: &Toy, file: &str, number: usize) -> Child {
    toy.sims(&["run", file, "--json", "--runs", &format!("runs-{number}")])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Returns the targets of the views of every run, by pipeline and path: blobs, whose names are their digests.
fn shown(toy: &Toy, processes: usize) -> BTreeMap<String, BTreeMap<String, usize>> {
    let mut shown: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for number in 0..processes {
        let name = format!("crowd-{}", number % PIPELINES);
        let root = toy.path().join(format!("runs-{number}")).join(&name);
        for round in 1..=3 {
            for view in ["numbers", "ranking", "accepted"] {
                let extension = if view == "accepted" {
                    "safetensors"
                } else {
                    "parquet"
                };
                let path = root.join(format!("round-{round}/{view}.{extension}"));
                let blob = path.canonicalize().unwrap();
                let digest = blob.file_name().unwrap().to_string_lossy().into_owned();
                let targets = shown.entry(format!("{name} {round} {view}")).or_default();
                *targets.entry(digest).or_default() += 1;
            }
        }
    }
    shown
}

#[test]
fn hundreds_of_processes_do_each_action_once_and_lose_nothing() {
    const PROCESSES: usize = 240;
    let toy = Toy::new(LOOP);
    let files: Vec<String> = (0..PIPELINES)
        .map(|number| pipeline(&toy, number))
        .collect();
    let children: Vec<Child> = (0..PROCESSES)
        .map(|number| start(&toy, &files[number % PIPELINES], number))
        .collect();
    let mut executed = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", toy.nameless(&output));
        let (ran, cached, failed) = counts(&serde_json::from_slice(&output.stdout).unwrap());
        assert_eq!((ran + cached, failed), (STAGES, 0));
        executed += ran;
    }
    // What runs once is the same in all pipelines.
    let distinct = PIPELINES as u64 * (STAGES - 1) + 1;
    assert_eq!(executed, distinct);
    assert_eq!(toy.ran().len() as u64, distinct, "each action ran once");
    assert!(
        shown(&toy, PROCESSES)
            .values()
            .all(|targets| targets.len() == 1)
    );
    let (code, report) = toy.fsck();
    assert_eq!(code, 0, "{report}");
}

#[test]
fn a_crowd_of_which_many_are_killed_leaves_a_sound_store() {
    const PROCESSES: usize = 60;
    let toy = Toy::new(LOOP);
    let files: Vec<String> = (0..PIPELINES)
        .map(|number| pipeline(&toy, number))
        .collect();
    let mut children: Vec<Child> = (0..PROCESSES)
        .map(|number| start(&toy, &files[number % PIPELINES], number))
        .collect();
    // Every third is killed as soon as one before it has ended, wherever it is then.
    for (number, child) in children.iter_mut().enumerate() {
        if number % 3 == 2 {
            child.kill().unwrap();
        }
        let status = child.wait().unwrap();
        assert!(number % 3 == 2 || status.success());
    }
    let (code, report) = toy.fsck();
    assert_eq!(code, 0, "{report}");
    for (number, file) in files.iter().enumerate() {
        let output = start(&toy, file, number).wait_with_output().unwrap();
        let (ran, cached, failed) = counts(&serde_json::from_slice(&output.stdout).unwrap());
        assert_eq!(
            (ran, cached, failed),
            (0, STAGES, 0),
            "survivors did everything"
        );
    }
    let everyone = shown(&toy, PIPELINES);
    assert!(everyone.values().all(|targets| targets.len() == 1));
    let debris = std::fs::read_dir(toy.path().join(".sims/tmp"))
        .unwrap()
        .count();
    assert_eq!(debris, 0, "the last one cleared up");
}
