//! Where results come from, what differs between runs, and whether they can be made again.

use serde_json::{Value, json};

use crate::toy::{LOOP, STAGES, Toy};

/// Runs the loop once more under another name, with `from` in its file replaced by `to`.
fn other_run(toy: &Toy, from: &str, to: &str) {
    let text = LOOP.replace("name: toy", "name: other").replace(from, to);
    assert_ne!(text, LOOP);
    toy.write("other.yaml", &text);
    toy.json(&["run", "other.yaml"]);
}

#[test]
fn an_artifact_is_traced_to_files_from_outside() {
    let toy = Toy::new(LOOP);
    toy.run();
    let lineage = toy.json(&["lineage", "runs/toy/round-2/accepted.safetensors"]);
    let steps = lineage["steps"].as_array().unwrap();
    let names: Vec<&str> = steps
        .iter()
        .map(|step| step["name"].as_str().unwrap())
        .collect();
    assert_eq!(lineage["role"], "accepted");
    assert_eq!(names[0], "round-2/fit");
    for name in [
        "round-2/rank",
        "round-2/sample",
        "round-1/fit",
        "round-1/sample",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    // Nothing of later rounds, of other stages, and nothing twice.
    assert_eq!(names.len(), 6, "{names:?}");
    let sample = steps
        .iter()
        .find(|step| step["name"] == "round-1/sample")
        .unwrap();
    assert_eq!(
        (&sample["seed"], &sample["params"]["samples"]),
        (&json!(17), &json!(4))
    );
    let origins: Vec<&Value> = sample["inputs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| &i["origin"])
        .collect();
    assert_eq!(
        origins,
        [&json!({"file": "model"}), &json!({"file": "train.txt"})]
    );

    let (code, text) = toy.text(&["lineage", "runs/toy/round-1/ranking.parquet", "--params"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("ranking of round-1/rank"), "{text}");
    assert!(text.contains("← numbers (numbers@1, "), "{text}");
    assert!(
        text.contains("temperature: 0.9") && text.contains("train.txt"),
        "{text}"
    );
}

#[test]
fn a_copy_is_traced_through_the_store_and_a_stranger_is_none() {
    let toy = Toy::new(LOOP);
    toy.run();
    std::fs::copy(toy.blob("round-1/ranking.parquet"), toy.path().join("copy")).unwrap();
    let lineage = toy.json(&["lineage", "copy"]);
    let steps = lineage["steps"].as_array().unwrap();
    assert_eq!(steps.len(), 2);
    assert_eq!(
        (&steps[0]["stage"], &steps[0]["name"]),
        (&json!("rank"), &Value::Null)
    );
    assert_eq!(steps[1]["inputs"][0]["origin"], "outside");

    let (code, text) = toy.text(&["lineage", "train.txt"]);
    assert_eq!(code, 2);
    assert!(text.contains("no action in .sims made train.txt"), "{text}");
    let (code, text) = toy.text(&["lineage", "nowhere"]);
    assert_eq!(
        (code, text.contains("no file at nowhere")),
        (2, true),
        "{text}"
    );
}

#[test]
fn runs_are_compared_by_what_decided_them() {
    let toy = Toy::new(LOOP);
    toy.run();
    other_run(
        &toy,
        "fit: {uses: ./fit.sh}",
        "fit: {uses: ./fit.sh, with: {step: 0.25}}",
    );
    let difference = toy.json(&["diff", "toy", "runs/other"]);
    let of = |name: &str| {
        let stages = difference["stages"].as_array().unwrap();
        stages
            .iter()
            .find(|stage| stage["name"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(of("round-1/sample")["comparison"], "same");
    let fit = of("round-1/fit");
    assert_eq!(fit["comparison"], "changed");
    assert_eq!(
        fit["fields"],
        json!([{"field": "params.step", "before": 0.5, "after": 0.25}])
    );
    assert_eq!(fit["outputs"], json!(["accepted", "notes"]));
    assert_eq!(of("round-2/sample")["comparison"], "follows");
    assert_eq!(of("round-2/sample")["fields"], json!([]));

    let (code, text) = toy.text(&["diff", "toy", "other"]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("round-3/fit\n  params.step: 0.5 -> 0.25"),
        "{text}"
    );
    assert!(!text.contains("round-3/sample"), "{text}");
    let (code, text) = toy.text(&["diff", "toy", "none"]);
    assert_eq!(
        (code, text.contains("no run at none or runs/none")),
        (2, true),
        "{text}"
    );
}

#[test]
fn another_file_is_named_and_stages_of_one_run_alone_are_told() {
    let toy = Toy::new(LOOP);
    toy.run();
    toy.write("more.txt", "more prompts");
    other_run(&toy, "train: train.txt", "train: more.txt");
    let (_, text) = toy.text(&["diff", "toy", "other"]);
    assert!(
        text.contains("round-1/sample\n  inputs.prompts[0].digest: \"train.txt ("),
        "{text}"
    );
    assert!(text.contains("-> \"more.txt ("), "{text}");

    other_run(&toy, "rounds: 3", "rounds: 2");
    let (_, text) = toy.text(&["diff", "toy", "other"]);
    assert!(
        text.contains("round-3/fit: only in the first run"),
        "{text}"
    );
    assert!(text.starts_with("9 stages are the same"), "{text}");
}

#[test]
fn the_graph_is_shown_as_text_and_as_a_picture() {
    let toy = Toy::new(LOOP);
    let (code, text) = toy.text(&["dag", "p.yaml"]);
    assert_eq!(code, 0);
    assert!(text.starts_with("once\n  base-test (sample)\n"), "{text}");
    assert!(
        text.contains("├ base ← base-test.numbers\n  └ steered ← sample.numbers"),
        "{text}"
    );
    assert!(text.contains("← previous.fit.accepted"), "{text}");
    let (code, text) = toy.text(&["dag", "p.yaml", "--svg", "p.svg"]);
    assert_eq!(code, 0, "{text}");
    let svg = std::fs::read_to_string(toy.path().join("p.svg")).unwrap();
    assert_eq!(svg.matches("<rect").count(), 5);
    assert!(svg.contains("stroke-dasharray"));
    assert!(
        svg.contains("<title>check: base ← base-test.numbers</title>"),
        "{svg}"
    );
}

#[test]
fn logs_are_found_by_stage() {
    let toy = Toy::new(LOOP);
    let (code, text) = toy.text(&["logs", "p.yaml"]);
    assert_eq!((code, text.contains("no logs")), (0, true), "{text}");
    toy.run();
    let (_, text) = toy.text(&["logs", "p.yaml", "round-2/fit"]);
    assert_eq!(text.matches("working hard").count(), 1, "{text}");
    let (_, text) = toy.text(&["logs", "p.yaml", "fit", "--paths"]);
    assert_eq!(text.lines().count(), 3, "{text}");
    assert_eq!(toy.text(&["logs", "p.yaml", "nothing"]).0, 2);
}

#[test]
fn finished_actions_are_computed_again_and_compared() {
    let toy = Toy::new(LOOP);
    toy.run();
    toy.ran();
    let before = toy.views("toy");
    let all = toy.json(&["verify", "p.yaml", "--sample", "0"]);
    assert_eq!(all.as_array().unwrap().len() as u64, STAGES);
    assert!(
        all.as_array()
            .unwrap()
            .iter()
            .all(|one| one["verdict"] == "same")
    );
    assert_eq!(toy.ran().len() as u64, STAGES);

    let some = toy.json(&["verify", "p.yaml", "--sample", "4"]);
    assert_eq!(some, toy.json(&["verify", "p.yaml", "--sample", "4"]));
    assert_ne!(
        some,
        toy.json(&["verify", "p.yaml", "--sample", "4", "--draw", "1"])
    );

    // A stage that makes other bytes is found out, and one that fails is told.
    let mut command = toy.sims(&["verify", "p.yaml", "--sample", "0"]);
    let output = command
        .env("TOY_CHECK", "cut=1")
        .env("TOY_RANK", "exit=1")
        .output()
        .unwrap();
    let text = toy.nameless(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("toy/round-1/check: other bytes in numbers"),
        "{text}"
    );
    assert!(text.contains("round-1/rank failed: exit code 1"), "{text}");
    assert!(text.contains("toy: 7 of 13 computed once more"), "{text}");
    assert_eq!(toy.views("toy"), before);
    assert_eq!(toy.run(), (0, STAGES, 0));
    assert_eq!(toy.fsck().0, 0);
}

#[test]
fn a_lock_says_what_is_not_as_it_was() {
    let toy = Toy::new(LOOP);
    let (code, text) = toy.text(&["repro-lock", "p.yaml"]);
    assert_eq!(
        (code, text.contains("only a finished run can be locked")),
        (2, true),
        "{text}"
    );
    toy.run();
    let (code, lock) = toy.text(&["repro-lock", "p.yaml"]);
    assert_eq!(code, 0);
    let parsed: Value = serde_json::from_str(&lock).unwrap();
    assert_eq!(parsed["sources"].as_object().unwrap().len(), 3);
    assert_eq!(parsed["stages"].as_object().unwrap().len() as u64, STAGES);
    toy.write("lock.json", &lock);
    let (code, text) = toy.text(&["repro-lock", "p.yaml", "--check", "lock.json"]);
    assert_eq!(
        (code, text.contains("all 13 stages are as locked")),
        (0, true),
        "{text}"
    );

    // Another machine, on which nothing ran yet.
    let other = Toy::new(LOOP);
    other.write("lock.json", &lock);
    let (code, text) = other.text(&["repro-lock", "p.yaml", "--check", "lock.json"]);
    assert_eq!(
        (code, text.contains("13 are yet to run")),
        (0, true),
        "{text}"
    );
    other.run();
    let (code, text) = other.text(&["repro-lock", "p.yaml", "--check", "lock.json"]);
    assert_eq!(
        (code, text.contains("all 13 stages are as locked")),
        (0, true),
        "{text}"
    );
    other.write("train.txt", "changed");
    let (code, text) = other.text(&["repro-lock", "p.yaml", "--check", "lock.json"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("source train.txt: locked "), "{text}");
    assert!(text.contains("round-1/sample: key: locked "), "{text}");
    other.write("lock.json", "{}");
    let (code, text) = other.text(&["repro-lock", "p.yaml", "--check", "lock.json"]);
    assert_eq!(
        (code, text.contains("lock.json is no lock")),
        (2, true),
        "{text}"
    );
}
