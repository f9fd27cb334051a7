//! The gold checker is out of the loop's reach: no crate of the loop depends on it, and no stage
//! of the loop reads what it writes.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Crates whose code decides what the loop does.
const LOOP: [&str; 11] = [
    "sims-sample",
    "sims-judge",
    "sims-rank",
    "sims-contrast",
    "sims-extract",
    "sims-fit",
    "sims-train",
    "sims-dpo",
    "sims-steer-eval",
    "sims-pipeline",
    "sims",
];

fn dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(sims_testkit::repository())
        .output()
        .expect("cargo runs tests, so it can be started");
    assert!(
        output.status.success(),
        "{}",
        sims_testkit::text_of(&output)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let packages = metadata["packages"]
        .as_array()
        .expect("metadata has packages");
    packages
        .iter()
        .map(|package| {
            let names = package["dependencies"].as_array().into_iter().flatten();
            // Development dependencies build tests only; they are no way into a stage.
            let normal = names.filter(|d| d["kind"].is_null());
            let names = normal.map(|d| d["name"].as_str().unwrap_or_default().to_owned());
            (
                package["name"].as_str().unwrap_or_default().to_owned(),
                names.collect(),
            )
        })
        .collect()
}

fn reach(dependencies: &BTreeMap<String, Vec<String>>, from: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut open = vec![from.to_owned()];
    while let Some(name) = open.pop() {
        if seen.insert(name.clone()) {
            open.extend(dependencies.get(&name).into_iter().flatten().cloned());
        }
    }
    seen
}

#[test]
fn no_crate_of_the_loop_reaches_the_gold_checker() {
    let dependencies = dependencies();
    for name in LOOP {
        assert!(
            dependencies.contains_key(name),
            "{name} is gone: mend this list"
        );
        assert!(
            !reach(&dependencies, name).contains("toyworld"),
            "{name} reaches toyworld"
        );
    }
    // The search does find such a path where there is one.
    assert!(reach(&dependencies, "toyworld").contains("sims-model"));
}

#[test]
fn the_runner_and_the_data_stages_do_not_reach_candle() {
    let dependencies = dependencies();
    for name in [
        "sims",
        "sims-pipeline",
        "sims-stage",
        "sims-artifact",
        "sims-stats",
        "sims-rank",
        "sims-contrast",
    ] {
        assert!(
            !reach(&dependencies, name).contains("candle-core"),
            "{name} reaches candle"
        );
    }
}

#[test]
fn polars_is_in_the_report_only() {
    for (name, direct) in dependencies() {
        assert_eq!(
            direct.iter().any(|d| d == "polars"),
            name == "sims-report",
            "{name}"
        );
    }
}

#[test]
fn no_stage_reads_what_the_gold_checker_writes() {
    let workspace = sims_testkit::Workspace::new();
    let pipelines = sims_testkit::repository().join("pipelines");
    for name in [
        "quickstart.yaml",
        "hard.yaml",
        "ablations/one-shot-best.yaml",
    ] {
        let path = pipelines.join(name);
        let path = path.to_str().expect("the repository's path is text");
        let commands = workspace.json(&["plan", path, "--commands"]);
        let commands: Vec<(&str, Vec<&str>)> = commands
            .as_array()
            .expect("an array of commands")
            .iter()
            .map(|command| {
                let words: Vec<&str> = command["command"]
                    .as_str()
                    .unwrap_or_default()
                    .split(' ')
                    .collect();
                (command["stage"].as_str().unwrap_or_default(), words)
            })
            .collect();
        let folder = |words: &[&str]| {
            let out = words.iter().position(|word| *word == "--out");
            out.map(|place| words[place + 1].to_owned())
                .expect("every stage has --out")
        };
        let (gold, others): (Vec<_>, Vec<_>) = commands
            .iter()
            .partition(|(_, words)| words[0].contains("toyworld-"));
        assert!(!gold.is_empty(), "{name} measures against gold");
        for (_, gold) in &gold {
            let written = format!("{}/", folder(gold));
            for (stage, words) in &others {
                let reads = words.iter().find(|word| word.starts_with(&written));
                assert!(reads.is_none(), "{stage} of {name} reads {reads:?}");
            }
        }
    }
}
