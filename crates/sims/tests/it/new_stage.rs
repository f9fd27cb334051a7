//! `sims new stage`: what it writes runs as it is.

use crate::toy::{LOOP, STAGES, Toy, counts};

/// [`LOOP`] with a stage of the name that the shell template reads from.
fn steered() -> String {
    LOOP.replace("fit: {uses: ./fit.sh}", "steer-eval: {uses: ./fit.sh}")
}

#[test]
fn the_shell_stage_runs_at_once() {
    let toy = Toy::new(&steered());
    let new = [
        "new",
        "stage",
        "size-limit",
        "--language",
        "shell",
        "--extends",
        "p.yaml",
    ];
    let (code, text) = toy.text(&new);
    assert_eq!(code, 0, "{text}");
    insta::assert_snapshot!(text, @r"
    size_limit.sh
    size-limit.yaml
    next:
      ./size_limit.sh --help
      sims run ./size-limit.yaml --rounds 1
      ./size_limit.sh --steering runs/size-limit/round-1/accepted.safetensors --out try   # the same by hand
    then change ./size_limit.sh: when its text has changed, the next run computes it again
    ");
    let report = toy.json(&["run", "size-limit.yaml"]);
    let by_hand =
        "./size_limit.sh --steering runs/size-limit/round-1/accepted.safetensors --out try";
    let output = std::process::Command::new("sh")
        .args(["-c", by_hand])
        .current_dir(toy.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", toy.nameless(&output));
    assert_eq!(counts(&report), (STAGES + 3, 0, 0));
    let view =
        |file: &str| std::fs::read(toy.path().join("runs/size-limit/round-2").join(file)).unwrap();
    assert_eq!(
        view("size-limit-steering.safetensors"),
        view("accepted.safetensors")
    );
    let summary: serde_json::Value =
        serde_json::from_slice(&view("summaries/size-limit.json")).unwrap();
    assert_eq!(summary["counts"]["bytes"], 128);
    let (code, text) = toy.text(&["run", "size-limit.yaml"]);
    assert_eq!(code, 0);
    assert!(
        text.contains("nothing to do: 16 stages are up to date"),
        "{text}"
    );
}

#[test]
fn the_shell_stage_keeps_to_the_protocol() {
    let toy = Toy::new(&steered());
    toy.text(&[
        "new",
        "stage",
        "limit",
        "--language",
        "shell",
        "--extends",
        "p.yaml",
        "--out",
        "own/stages",
    ]);
    toy.write("small.safetensors", "bytes");
    toy.write("large.safetensors", &"x".repeat(1001));
    let stage = |arguments: &[&str]| {
        let output = std::process::Command::new(toy.path().join("own/stages/limit.sh"))
            .args(arguments)
            .current_dir(toy.path())
            .output()
            .unwrap();
        (output.status.code().unwrap(), toy.nameless(&output))
    };
    let by_hand = |file: &str| {
        stage(&[
            "--steering",
            file,
            "--max-kilobytes",
            "1",
            "--out",
            "out",
            "--progress",
            "json",
        ])
    };
    let (code, text) = by_hand("large.safetensors");
    assert_eq!(code, 2);
    insta::assert_snapshot!(text, @"error: large.safetensors has 1001 bytes, more than 1 kB; fit fewer layers, or raise max-kilobytes");
    assert!(!toy.path().join("out").exists());
    let (code, text) = by_hand("small.safetensors");
    assert_eq!(code, 0);
    insta::assert_snapshot!(text, @r#"
    {"event": "progress", "label": "files", "done": 0, "total": 1}
    {"event": "progress", "label": "files", "done": 1, "total": 1}
    "#);
    assert_eq!(
        std::fs::read_dir(toy.path().join("out")).unwrap().count(),
        2
    );
    assert_eq!(by_hand("absent.safetensors").0, 2);
    assert_eq!(stage(&["--speed", "9"]).0, 2);
    assert_eq!(stage(&["--out"]).0, 2);
    let (code, text) = stage(&["--help"]);
    assert_eq!(code, 0);
    assert!(
        text.contains("  limit.sh --steering steering.safetensors"),
        "{text}"
    );
    assert!(!text.contains("set -eu"), "{text}");
}

#[test]
fn stages_are_written_where_they_are_found() {
    let toy = Toy::new(&steered());
    toy.write("pipelines/base.yaml", &steered());
    let (code, text) = toy.text(&[
        "new",
        "stage",
        "a-b",
        "--language",
        "shell",
        "--extends",
        "pipelines/base.yaml",
        "--out",
        "pipelines/my own",
    ]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("'pipelines/my own/a_b.sh' --help"), "{text}");
    let overlay = std::fs::read_to_string(toy.path().join("pipelines/my own/a-b.yaml")).unwrap();
    insta::assert_snapshot!(overlay, @r#"
    # base.yaml, and the stage `a-b` in every round.
    extends: ../base.yaml
    name: a-b
    round:
      a-b:
        uses: "./pipelines/my own/a_b.sh"
        inputs: {steering: steer-eval.accepted}
        with: {max-kilobytes: 4096}
    "#);
    let report = toy.json(&["run", "pipelines/my own/a-b.yaml", "--rounds", "1"]);
    assert_eq!(counts(&report), (6, 0, 0));
}

#[test]
fn nothing_is_overwritten() {
    let toy = Toy::new(&steered());
    let new = ["new", "stage", "mine", "--extends", "p.yaml"];
    assert_eq!(toy.text(&new).0, 0);
    let (code, text) = toy.text(&new);
    assert_eq!(code, 2);
    assert_eq!(
        text,
        "error: mine.py is there already; choose another name, or another folder with --out\n"
    );
    std::fs::remove_file(toy.path().join("mine.py")).unwrap();
    let (code, text) = toy.text(&new);
    assert_eq!(code, 2);
    assert!(
        text.starts_with("error: mine.yaml is there already"),
        "{text}"
    );
    assert!(!toy.path().join("mine.py").exists());
}

#[test]
fn wrong_names_and_pipelines_are_refused() {
    let toy = Toy::new(&steered());
    let (code, text) = toy.text(&["new", "stage", "Mine", "--extends", "p.yaml"]);
    assert_eq!(code, 2);
    assert!(
        text.contains("give small letters, digits and dashes"),
        "{text}"
    );
    let (code, text) = toy.text(&["new", "stage", "mine"]);
    assert_eq!(
        (code, text.as_str()),
        (
            2,
            "error: no pipelines/quickstart.yaml here: name the pipeline that gets the stage with --extends\n"
        )
    );
    assert_eq!(
        toy.text(&["new", "stage", "mine", "--extends", "q.yaml"]).0,
        2
    );
}
