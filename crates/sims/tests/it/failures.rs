//! Stages that fail, lie, or run out of disk.

use insta::assert_snapshot;
use sims_artifact::tables::{Message, PromptRow};
use sims_artifact::write_table;

use crate::toy::{LOOP, STAGES, Toy, counts};

fn fails_with(knob: &str) -> (Toy, String) {
    let toy = Toy::new(LOOP);
    let output = toy
        .sims(&["run", "p.yaml"])
        .env("TOY_RANK", knob)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = toy.nameless(&output);
    let failure = text.split_once("error: ").expect("there is an error").1;
    let failure = failure
        .lines()
        .filter(|line| !line.contains("failed, "))
        .collect::<Vec<_>>()
        .join("\n");
    (toy, failure)
}

#[test]
fn a_failing_stage_shows_its_last_words_and_what_to_do() {
    let (toy, failure) = fails_with("exit=2");
    assert_snapshot!(failure, @r"
    round-1/rank failed: exit code 2: wrong usage or bad input
      | working hard
      | rank: row 3 of the table is empty
      by hand: ./rank.sh --numbers runs/toy/round-1/numbers.parquet --out runs/toy/by-hand/round-1/rank
      log: runs/toy/logs/round-1/rank.log
      mend what the stage complains about in the pipeline file or its data, and run again
    ");
    let log = std::fs::read_to_string(toy.path().join("runs/toy/logs/round-1/rank.log")).unwrap();
    assert!(log.contains("warning: this is a toy"), "{log}");
    let status = toy.json(&["status", "p.yaml"]);
    let rank = status
        .as_array()
        .unwrap()
        .iter()
        .find(|stage| stage["stage"] == "rank")
        .unwrap();
    assert_eq!(rank["state"], "failed");
    // The stage is mended: what was finished is kept.
    assert_eq!(toy.run(), (STAGES - 2, 2, 0));
}

#[test]
fn a_stage_that_hangs_is_stopped_when_asked_for() {
    let toy = Toy::new(LOOP);
    let output = toy
        .sims(&["run", "p.yaml", "--hang-after", "0.4s"])
        .env(
            "TOY_RANK",
            format!("sleep={}", toy.path().join("began").display()),
        )
        .output()
        .unwrap();
    let text = toy.nameless(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("round-1/rank failed: nothing was heard of it for 0.4 s, and it was stopped"),
        "{text}"
    );
    assert!(text.contains("a longer --hang-after"), "{text}");
    assert_eq!(toy.fsck().0, 0);
    assert_eq!(toy.run(), (STAGES - 2, 2, 0));
    let (code, text) = toy.text(&["run", "p.yaml", "--hang-after", "soon"]);
    assert_eq!(
        (code, text.contains("such as 90s, 30m, 2h or 1d")),
        (2, true),
        "{text}"
    );
}

#[test]
fn a_killed_stage_is_named_with_the_likely_reason() {
    let (toy, failure) = fails_with("killed");
    assert_snapshot!(failure, @r"
    round-1/rank failed: killed (SIGKILL), most often because the machine ran out of memory
      | working hard
      by hand: ./rank.sh --numbers runs/toy/round-1/numbers.parquet --out runs/toy/by-hand/round-1/rank
      log: runs/toy/logs/round-1/rank.log
      run again with a smaller --batch-size or fewer --threads, or free memory
    ");
    assert_eq!(toy.fsck().0, 0);
    assert_eq!(toy.run(), (STAGES - 2, 2, 0));
}

#[test]
fn success_without_output_is_a_failure() {
    let (toy, failure) = fails_with("silent");
    assert_snapshot!(failure, @r"
    round-1/rank failed: exit code 0, but it wrote neither ranking.parquet nor ranking.safetensors
      | working hard
      by hand: ./rank.sh --numbers runs/toy/round-1/numbers.parquet --out runs/toy/by-hand/round-1/rank
      log: runs/toy/logs/round-1/rank.log
      this is a fault of the stage: it must write every output that it describes
    ");
    assert_eq!(toy.run(), (STAGES - 2, 2, 0));
}

#[test]
fn a_torn_output_is_a_failure() {
    let toy = Toy::new(LOOP);
    let output = toy
        .sims(&["run", "p.yaml"])
        .env("TOY_FIT", "torn")
        .output()
        .unwrap();
    let text = toy.nameless(&output);
    assert!(
        text.contains("its output `accepted` is not usable"),
        "{text}"
    );
    assert_eq!(toy.fsck().0, 0);
    assert_eq!(toy.run(), (STAGES - 3, 3, 0));
}

#[test]
fn an_output_of_the_wrong_kind_is_a_failure() {
    let toy = Toy::new("round:\n  a: {uses: ./a.sh}\n");
    let prompts = [PromptRow::new(
        vec![Message::user("hello")],
        "train",
        "test",
    )];
    write_table(&toy.path().join("prompts.parquet"), &prompts).unwrap();
    let description = r#"{"stage": "a", "behaviour": 1, "inputs": {}, "outputs": {"scores": {"schema": "scores@1"}}, "params": {}}"#;
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = describe ]; then echo '{description}'; exit; fi\n\
         while [ $# -gt 0 ]; do [ \"$1\" = --out ] && out=$2; shift; done\ncp prompts.parquet \"$out/scores.parquet\"\n"
    );
    crate::toy::make_executable(&toy.write("a.sh", &script));
    let (code, text) = toy.text(&["run", "p.yaml"]);
    assert_eq!(code, 1);
    assert!(
        text.contains(
            "its output `scores` is not usable: it holds prompts@1, but scores@1 was declared"
        ),
        "{text}"
    );
    std::fs::copy(toy.path().join("prompts.parquet"), toy.path().join("whole")).unwrap();
    let bytes = std::fs::read(toy.path().join("whole")).unwrap();
    std::fs::write(
        toy.path().join("prompts.parquet"),
        &bytes[..bytes.len() / 2],
    )
    .unwrap();
    let (_, text) = toy.text(&["run", "p.yaml"]);
    assert!(text.contains("is not a readable Parquet file"), "{text}");
}

#[test]
fn a_busy_stage_is_tried_again() {
    let toy = Toy::new(LOOP);
    let marker = toy.path().join("was-busy");
    let output = toy
        .sims(&["run", "p.yaml", "--rounds", "1", "--json"])
        .env("TOY_RANK", format!("once-busy={}", marker.display()))
        .output()
        .unwrap();
    let text = toy.nameless(&output);
    assert!(
        text.contains("round-1/rank: a passing failure; trying again in 1 s"),
        "{text}"
    );
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(counts(&report), (5, 0, 0));
    assert_eq!(
        toy.ran()
            .iter()
            .filter(|name| *name == "rank 1" || *name == "rank -")
            .count(),
        2
    );
}

#[test]
fn an_input_that_changes_under_the_stage_is_noticed() {
    let toy = Toy::new(LOOP);
    let path = toy.path().join("train.txt");
    let output = toy
        .sims(&["run", "p.yaml"])
        .env("TOY_SAMPLE", format!("touch-input={}", path.display()))
        .output()
        .unwrap();
    let text = toy.nameless(&output);
    assert!(
        text.contains("train.txt changed while the stage was reading it"),
        "{text}"
    );
    assert_eq!(toy.run().2, 0);
}

/// A disk of 96 kB: the run stops with a message, the store is sound, and elsewhere it goes on.
#[test]
fn a_full_disk_is_named_and_loses_nothing() {
    let toy = Toy::new(LOOP);
    let script = "mkdir disk && mount -t tmpfs -o size=96k tmpfs disk || exit 77\n\
                  \"$SIMS\" run p.yaml --store disk/store --runs disk/runs; echo \"exit $?\"\n\
                  \"$SIMS\" fsck --store disk/store; echo \"fsck $?\"\n";
    let output = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .env("SIMS", env!("CARGO_BIN_EXE_sims"))
        .current_dir(toy.path())
        .output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        eprintln!("skipped: mounting a small disk needs more rights than this user has");
        return;
    };
    let text = toy.nameless(&output);
    assert!(text.contains("exit 1"), "{text}");
    assert!(
        text.contains("the disk is full; free some space and run again")
            || text.contains("is full"),
        "{text}"
    );
    assert!(text.contains("fsck 0"), "{text}");
    assert_eq!(toy.run(), (STAGES, 0, 0));
}

#[test]
fn a_read_only_store_still_answers() {
    let toy = Toy::new(LOOP);
    toy.run();
    let script = "mount --bind .sims .sims && mount -o remount,ro,bind .sims || exit 77\n\
                  \"$SIMS\" run p.yaml --json; echo \"exit $?\"\n\
                  sed -i 's/samples: 4/samples: 5/' p.yaml\n\"$SIMS\" run p.yaml; echo \"exit $?\"\n";
    let output = std::process::Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .env("SIMS", env!("CARGO_BIN_EXE_sims"))
        .current_dir(toy.path())
        .output();
    let Some(output) = output.ok().filter(|output| output.status.success()) else {
        eprintln!("skipped: mounting read-only needs more rights than this user has");
        return;
    };
    let text = toy.nameless(&output);
    assert!(
        text.contains("\"cached\":13") && text.contains("exit 0"),
        "{text}"
    );
    assert!(
        text.contains("error: cannot create") && text.contains("Read-only"),
        "{text}"
    );
}
