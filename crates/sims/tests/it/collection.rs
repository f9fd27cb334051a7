//! `sims gc` and `sims pin`: what runs need stays, whatever else happens to the store.

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use sims_artifact::store::{ActionKey, ActionResult, Store};

use crate::toy::{LOOP, STAGES, Toy, counts};

/// [`LOOP`] with another parameter for its first stage, so that everything in the rounds changes.
fn other(samples: u32) -> String {
    LOOP.replace(
        "with: {samples: 4}",
        &format!("with: {{samples: {samples}}}"),
    )
}

fn gc(toy: &Toy, arguments: &[&str]) -> Value {
    let all = [&["gc", "--older-than", "0s"], arguments].concat();
    toy.json(&all)
}

fn moved(report: &Value) -> u64 {
    report["moved"]["files"].as_u64().unwrap()
}

fn assert_sound(toy: &Toy) {
    let (code, report) = toy.fsck();
    assert_eq!(code, 0, "{report}");
}

#[test]
fn what_no_run_needs_goes_and_comes_back_when_asked_for() {
    let toy = Toy::new(LOOP);
    toy.run();
    assert_eq!(moved(&gc(&toy, &[])), 0);
    toy.write("p.yaml", &other(5));
    toy.run();
    let views = toy.views("toy");
    let young = toy.json(&["gc"]);
    assert_eq!(moved(&young), 0);
    assert!(young["young"]["files"].as_u64().unwrap() > 0, "{young}");
    let foretold = gc(&toy, &["--dry-run"]);
    let report = gc(&toy, &[]);
    assert!(moved(&report) > 0);
    assert_eq!(foretold["moved"], report["moved"]);
    assert_sound(&toy);
    assert_eq!(toy.run(), (0, STAGES, 0), "the pipeline as it is");
    assert_eq!(toy.views("toy"), views);
    toy.write("p.yaml", LOOP);
    assert_eq!(toy.run(), (0, STAGES, 0), "from the trash");
    toy.write("p.yaml", &other(5));
    toy.run();
    let report = gc(&toy, &["--empty-trash"]);
    assert!(moved(&report) > 0);
    assert_eq!(report["deleted"], report["moved"]);
    toy.write("p.yaml", LOOP);
    assert_eq!(
        toy.run(),
        (STAGES - 1, 1, 0),
        "gone for good but for base-test"
    );
    assert_sound(&toy);
}

#[test]
fn explain_still_knows_what_changed() {
    let toy = Toy::new(LOOP);
    toy.run();
    toy.write("p.yaml", &other(5));
    toy.run();
    gc(&toy, &["--empty-trash"]);
    let (_, text) = toy.text(&["explain", "round-1/sample", "--pipeline", "p.yaml"]);
    assert!(text.contains("params.samples: 4 -> 5"), "{text}");
}

#[test]
fn a_failed_change_costs_nothing_that_was_there() {
    let toy = Toy::new(LOOP);
    toy.run();
    toy.write("p.yaml", &other(5));
    let output = toy
        .sims(&["run", "p.yaml"])
        .env("TOY_SAMPLE", "exit=2")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    gc(&toy, &["--empty-trash"]);
    toy.write("p.yaml", LOOP);
    assert_eq!(toy.run(), (0, STAGES, 0));
}

#[test]
fn runs_count_wherever_their_folders_are_until_they_are_deleted() {
    let toy = Toy::new(LOOP);
    let elsewhere = [
        "run",
        "p.yaml",
        "--rounds",
        "1",
        "--store",
        "s/t",
        "--runs",
        "deep/views",
    ];
    toy.json(&elsewhere);
    let collect = ["--store", "s/t"];
    assert_eq!(moved(&gc(&toy, &collect)), 0);
    std::fs::remove_dir_all(toy.path().join("deep/views/toy")).unwrap();
    let (code, text) = toy.text(&["gc", "--older-than", "0s", "--store", "s/t"]);
    assert_eq!(code, 2);
    assert!(
        text.contains("no run is known that uses s/t: run a pipeline"),
        "{text}"
    );
    let all = [
        "gc",
        "--older-than",
        "0s",
        "--without-runs",
        "--store",
        "s/t",
    ];
    let (code, text) = toy.text(&all);
    assert_eq!(code, 0);
    assert!(text.contains("deep/views/toy is gone"), "{text}");
    assert!(
        Store::open(&toy.path().join("s/t"))
            .unwrap()
            .action_keys()
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        counts(&toy.json(&elsewhere)),
        (0, 5, 0),
        "back from the trash"
    );
}

#[test]
fn runs_beside_the_store_count_without_being_registered() {
    let toy = Toy::new(LOOP);
    toy.run();
    for note in std::fs::read_dir(toy.path().join(".sims/roots")).unwrap() {
        std::fs::remove_file(note.unwrap().path()).unwrap();
    }
    assert_eq!(moved(&gc(&toy, &[])), 0);
}

#[test]
fn a_record_that_cannot_be_read_stops_the_collection() {
    let toy = Toy::new(LOOP);
    toy.run();
    toy.write("runs/toy/run.json", "{\"format\": 1");
    let (code, text) = toy.text(&["gc", "--older-than", "0s"]);
    assert_eq!(code, 2);
    assert!(
        text.contains("runs/toy/run.json: EOF while parsing"),
        "{text}"
    );
    assert!(text.contains("run its pipeline again"), "{text}");
    assert_eq!(toy.run(), (0, STAGES, 0));
    assert_eq!(moved(&gc(&toy, &[])), 0);
}

#[test]
fn what_is_pinned_stays() {
    let toy = Toy::new(LOOP);
    toy.run();
    let views = toy.views("toy");
    let (code, text) = toy.text(&["pin", "toy", "--name", "first"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(
        text,
        "first is pinned in .sims; `sims pin --remove first` lets it go\n"
    );
    assert_eq!(toy.json(&["pin"]), json!(["first"]));
    std::fs::remove_dir_all(toy.path().join("runs")).unwrap();
    assert_eq!(moved(&gc(&toy, &["--empty-trash"])), 0);
    assert_eq!(toy.run(), (0, STAGES, 0));
    assert_eq!(toy.views("toy"), views);
    let (code, text) = toy.text(&["pin", "--remove", "frist"]);
    assert_eq!(
        (code, text.as_str()),
        (2, "error: no pin is named `frist`; there are first\n")
    );
    assert_eq!(toy.text(&["pin", "toy", "--name", "../x"]).0, 2);
    toy.json(&["pin", "--remove", "first"]);
    toy.write("p.yaml", &other(5));
    toy.run();
    assert!(moved(&gc(&toy, &[])) > 0);
}

#[test]
fn collections_beside_runs_take_nothing_from_them() {
    let toy = Toy::new(LOOP);
    // Every run changes its pipeline, so that there is always something to collect; two pipelines
    // compute the same actions, so that each finds what the other made, or what gc is about to move.
    let names = ["a", "b"];
    let done = AtomicBool::new(false);
    let mut collected = 0;
    std::thread::scope(|scope| {
        let runs: Vec<_> = names
            .iter()
            .map(|name| {
                let toy = &toy;
                scope.spawn(move || {
                    for turn in 0..8 {
                        let text =
                            other(3 + turn % 2).replace("name: toy", &format!("name: {name}"));
                        let file = format!("{name}.yaml");
                        toy.write(&file, &text);
                        let output = toy.sims(&["run", &file, "--json"]).output().unwrap();
                        assert!(output.status.success(), "{}", toy.nameless(&output));
                        let report = serde_json::from_slice(&output.stdout).unwrap();
                        let (executed, cached, failed) = counts(&report);
                        assert_eq!((executed + cached, failed), (STAGES, 0));
                        let warnings = toy.nameless(&output);
                        assert!(!warnings.contains("computed again"), "{warnings}");
                    }
                })
            })
            .collect();
        let (toy, done) = (&toy, &done);
        let collector = scope.spawn(move || {
            let mut collected = 0;
            while !done.load(Ordering::Relaxed) {
                let all = ["gc", "--older-than", "0s", "--without-runs", "--json"];
                let output = toy.sims(&all).output().unwrap();
                // Before the first run began, there is no store.
                if output.status.success() {
                    collected += moved(&serde_json::from_slice(&output.stdout).unwrap());
                }
            }
            collected
        });
        let ended: Vec<_> = runs
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .collect();
        done.store(true, Ordering::Relaxed);
        collected = collector.join().unwrap();
        ended.into_iter().for_each(|run| run.unwrap());
    });
    assert!(collected > 0);
    assert_sound(&toy);
    for name in names {
        let report = toy.json(&["run", &format!("{name}.yaml")]);
        assert_eq!(counts(&report), (0, STAGES, 0));
    }
    gc(&toy, &["--empty-trash"]);
    assert_sound(&toy);
}

/// Publishes actions that no run needs, so that a collection takes a while.
fn fill(toy: &Toy, actions: usize) {
    let store = Store::open(&toy.path().join(".sims")).unwrap();
    let scratch = store.scratch().unwrap();
    for number in 0..actions {
        let file = scratch.path().join("file");
        std::fs::write(&file, format!("blob {number}")).unwrap();
        let blob = store.add_file(&file).unwrap();
        let document = json!({"made-up": number});
        let result = ActionResult {
            key: ActionKey::of_document(&document),
            outputs: std::collections::BTreeMap::new(),
            summary: Some(blob),
            seconds: 0.0,
            stop: None,
            chunks: Vec::new(),
            chunk: None,
        };
        store.publish_action(&document, &result).unwrap();
    }
}

fn start_gc(toy: &Toy) -> Child {
    toy.sims(&["gc", "--older-than", "0s", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries
        .flat_map(|entry| match entry.unwrap().path() {
            path if path.is_dir() => files(&path),
            path => vec![path],
        })
        .collect()
}

#[test]
fn a_collection_killed_at_any_moment_leaves_a_sound_store() {
    let toy = Toy::new(LOOP);
    toy.run();
    fill(&toy, 400);
    let needed = gc(&toy, &["--dry-run"])["kept"].clone();
    for step in 0..10 {
        let mut child = start_gc(&toy);
        std::thread::sleep(std::time::Duration::from_millis(5 + step * 8));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_sound(&toy);
    }
    assert_eq!(gc(&toy, &["--empty-trash"])["kept"], needed);
    assert_eq!(files(&toy.path().join(".sims/trash")).len(), 0);
    assert_sound(&toy);
    assert_eq!(toy.run(), (0, STAGES, 0));
}

#[test]
fn of_two_collections_at_once_one_waits() {
    let toy = Toy::new(LOOP);
    toy.run();
    fill(&toy, 100);
    let children = [start_gc(&toy), start_gc(&toy)];
    let reports = children.map(|child| {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    });
    let total: u64 = reports.iter().map(moved).sum();
    assert_eq!(total, 300, "each file was moved once");
    assert_sound(&toy);
    assert_eq!(toy.run(), (0, STAGES, 0));
}
