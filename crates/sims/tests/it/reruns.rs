//! What runs again, and what does not.

use std::time::Instant;

use crate::toy::{LOOP, STAGES, Toy};

#[test]
fn a_second_run_does_nothing_and_quickly() {
    let toy = Toy::new(LOOP);
    assert_eq!(toy.run(), (STAGES, 0, 0));
    assert_eq!(toy.ran().len() as u64, STAGES);
    let views = toy.views("toy");
    let record = std::fs::read(toy.path().join("runs/toy/run.json")).unwrap();
    let started = Instant::now();
    assert_eq!(toy.run(), (0, STAGES, 0));
    // The target is a tenth of it; the rest is for busy test machines.
    assert!(started.elapsed().as_secs_f64() < 1.0);
    assert!(toy.ran().is_empty());
    assert_eq!(toy.views("toy"), views);
    assert_eq!(
        std::fs::read(toy.path().join("runs/toy/run.json")).unwrap(),
        record
    );
}

#[test]
fn results_are_shown_by_round_and_role() {
    let toy = Toy::new(LOOP);
    toy.run();
    let names: Vec<String> = toy.views("toy").into_keys().collect();
    let mut expected = vec!["once/base-test/numbers.parquet".to_owned()];
    for round in 1..=3 {
        for name in [
            "accepted.safetensors",
            "check/numbers.parquet",
            "notes.parquet",
            "numbers.parquet",
            "ranking.parquet",
        ] {
            // `check` bears its program's name too, but `sample` comes first.
            expected.push(format!("round-{round}/{name}"));
        }
    }
    assert_eq!(names, expected);
    let link = std::fs::read_link(toy.path().join("runs/toy/round-3/numbers.parquet")).unwrap();
    assert!(link.starts_with("../../../.sims/cas"), "{}", link.display());
    // The workspace can be moved as a whole.
    let summary = toy.path().join("runs/toy/round-2/summaries/fit.json");
    assert!(
        std::fs::read_to_string(summary)
            .unwrap()
            .contains("\"stage\": \"fit\"")
    );
}

#[test]
fn a_changed_parameter_runs_what_depends_on_it() {
    let toy = Toy::new(LOOP);
    toy.run();
    toy.ran();
    toy.write(
        "p.yaml",
        &LOOP.replace(
            "fit: {uses: ./fit.sh}",
            "fit: {uses: ./fit.sh, with: {step: 0.25}}",
        ),
    );
    // base-test, and in round 1 sample, rank and check, do not see the step.
    assert_eq!(toy.run(), (STAGES - 4, 4, 0));
    let ran = toy.ran();
    assert!(
        !ran.contains(&"sample 1".to_owned()) && ran.contains(&"sample 2".to_owned()),
        "{ran:?}"
    );
    // Everything of before is still there.
    toy.write("p.yaml", LOOP);
    assert_eq!(toy.run(), (0, STAGES, 0));
}

#[test]
fn a_number_has_one_spelling() {
    let toy = Toy::new(LOOP);
    toy.run();
    let same = LOOP.replace(
        "rank: {uses: ./rank.sh}",
        "rank: {uses: ./rank.sh, with: {tau: 1}}",
    );
    toy.write("p.yaml", &same);
    assert_eq!(
        toy.run(),
        (0, STAGES, 0),
        "1 and the default 1.0 are the same"
    );
}

#[test]
fn the_same_bytes_cut_the_rerun_short() {
    let toy = Toy::new(LOOP);
    toy.run();
    toy.ran();
    // The note is a parameter, so `sample` runs; its outputs do not depend on it.
    toy.write(
        "p.yaml",
        &LOOP.replace("samples: 4", "samples: 4, note: hello"),
    );
    assert_eq!(toy.run(), (3, STAGES - 3, 0));
    assert_eq!(toy.ran(), ["sample 1", "sample 2", "sample 3"]);
}

#[test]
fn an_edited_script_runs_again() {
    let toy = Toy::new(LOOP);
    toy.run();
    let path = toy.path().join("check.sh");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}# a remark\n")).unwrap();
    assert_eq!(toy.run(), (3, STAGES - 3, 0));
}

#[test]
fn a_touched_input_does_not_count_and_a_changed_one_does() {
    let toy = Toy::new(LOOP);
    toy.run();
    toy.write("eval.txt", "eval prompts");
    assert_eq!(toy.run(), (0, STAGES, 0), "other times, same bytes");
    toy.write("eval.txt", "other prompt");
    assert_eq!(
        toy.run(),
        (4, STAGES - 4, 0),
        "base-test and the three checks"
    );
    toy.write("model/README.md", "about");
    assert_eq!(
        toy.run(),
        (0, STAGES, 0),
        "not a file that the model consists of"
    );
    toy.write("model/model.safetensors", "other weights");
    assert!(toy.run().0 > 0);
}

#[test]
fn more_rounds_go_on_from_fewer() {
    let toy = Toy::new(LOOP);
    let rounds = |n: &str| crate::toy::counts(&toy.json(&["run", "p.yaml", "--rounds", n]));
    assert_eq!(rounds("1"), (5, 0, 0));
    assert_eq!(rounds("3"), (8, 5, 0));
    let all = toy.views("toy");
    assert_eq!(rounds("1"), (0, 5, 0));
    assert_eq!(
        toy.views("toy"),
        all,
        "later rounds still follow from round 1"
    );
}

#[test]
fn views_never_mix_two_runs() {
    let toy = Toy::new(LOOP);
    toy.run();
    let before = toy.views("toy");
    // Round 1 changes and the run stops there: what rounds 2 and 3 showed is no longer true.
    toy.write("p.yaml", &LOOP.replace("samples: 4", "samples: 5"));
    let output = toy
        .sims(&["run", "p.yaml"])
        .env("TOY_FIT", "exit=1")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let after: Vec<String> = toy.views("toy").into_keys().collect();
    assert_eq!(
        after,
        [
            "once/base-test/numbers.parquet",
            "round-1/numbers.parquet",
            "round-1/ranking.parquet"
        ]
    );
    toy.write("p.yaml", LOOP);
    assert_eq!(toy.run(), (0, STAGES, 0));
    assert_eq!(toy.views("toy"), before);
    // A stage that is dropped takes its views along; a file of the user stays.
    toy.write("runs/toy/round-1/mine.txt", "keep");
    let dropped: String = LOOP
        .lines()
        .filter(|line| !line.contains("check:"))
        .map(|line| format!("{line}\n"))
        .collect();
    toy.write("p.yaml", &dropped);
    toy.run();
    assert!(!toy.views("toy").keys().any(|name| name.contains("check")));
    assert!(toy.path().join("runs/toy/round-1/mine.txt").exists());
}

#[test]
fn jobs_and_threads_change_nothing_in_the_results() {
    let one = Toy::new(LOOP);
    one.run();
    let four = Toy::new(LOOP);
    four.json(&["run", "p.yaml", "--jobs", "4", "--threads", "1"]);
    assert_eq!(one.views("toy"), four.views("toy"));
    // Keys do not depend on where things are.
    let keys = |toy: &Toy| {
        let status = toy.json(&["status", "p.yaml"]);
        let stages = status.as_array().unwrap().iter();
        stages
            .map(|stage| stage["key"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(&one), keys(&four));
}

#[test]
fn two_pipelines_share_what_they_have_in_common() {
    let toy = Toy::new(LOOP);
    toy.run();
    toy.write(
        "other.yaml",
        "extends: p.yaml\nround: {fit: {with: {step: 0.25}}}\n",
    );
    let report = toy.json(&["run", "other.yaml"]);
    assert_eq!(crate::toy::counts(&report), (STAGES - 4, 4, 0));
    assert!(
        toy.path()
            .join("runs/other/round-1/numbers.parquet")
            .exists(),
        "named after its file"
    );
}
