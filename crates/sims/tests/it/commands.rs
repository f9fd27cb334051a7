//! `plan`, `status`, `explain`, `schema`, help, and programs of others.

use insta::assert_snapshot;
use serde_json::json;

use crate::toy::{LOOP, Toy, make_executable};

#[test]
fn the_plan_says_what_would_run() {
    let toy = Toy::new(LOOP);
    let plan = toy.json(&["plan", "p.yaml", "--rounds", "1"]);
    let states: Vec<(u64, &str, &str, bool)> = plan
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| {
            let text = |key: &str| stage[key].as_str().unwrap();
            (
                stage["round"].as_u64().unwrap(),
                text("stage"),
                text("state"),
                stage["key"].is_string(),
            )
        })
        .collect();
    assert_eq!(
        states,
        [
            (0, "base-test", "ready", true),
            (1, "sample", "ready", true),
            (1, "rank", "waiting", false),
            (1, "fit", "waiting", false),
            (1, "check", "waiting", false),
        ]
    );
    assert!(toy.ran().is_empty());
    toy.run();
    toy.write(
        "p.yaml",
        &LOOP.replace(
            "fit: {uses: ./fit.sh}",
            "fit: {uses: ./fit.sh, with: {step: 0.1}}",
        ),
    );
    let (code, text) = toy.text(&["plan", "p.yaml"]);
    assert_eq!(code, 0);
    assert!(
        text.contains("9 of 13 stages would run; those that wait do not"),
        "{text}"
    );
}

#[test]
fn planned_commands_do_by_hand_what_the_runner_does() {
    let toy = Toy::new(LOOP);
    let (code, script) = toy.text(&["plan", "p.yaml", "--rounds", "2", "--commands"]);
    assert_eq!(code, 0);
    assert_snapshot!(script, @r"
    ./sample.sh --model model --prompts eval.txt --samples 2 --seed 17 --out runs/toy/by-hand/once/base-test
    ./sample.sh --model model --prompts train.txt --samples 4 --seed 17 --round 1 --out runs/toy/by-hand/round-1/sample
    ./rank.sh --numbers runs/toy/by-hand/round-1/sample/numbers.parquet --out runs/toy/by-hand/round-1/rank
    ./fit.sh --ranking runs/toy/by-hand/round-1/rank/ranking.parquet --out runs/toy/by-hand/round-1/fit
    ./check.sh --base runs/toy/by-hand/once/base-test/numbers.parquet --steered runs/toy/by-hand/round-1/sample/numbers.parquet --out runs/toy/by-hand/round-1/check
    ./sample.sh --model model --prompts train.txt --steering runs/toy/by-hand/round-1/fit/accepted.safetensors --samples 4 --seed 17 --round 2 --out runs/toy/by-hand/round-2/sample
    ./rank.sh --numbers runs/toy/by-hand/round-2/sample/numbers.parquet --out runs/toy/by-hand/round-2/rank
    ./fit.sh --incumbent runs/toy/by-hand/round-1/fit/accepted.safetensors --ranking runs/toy/by-hand/round-2/rank/ranking.parquet --out runs/toy/by-hand/round-2/fit
    ./check.sh --base runs/toy/by-hand/once/base-test/numbers.parquet --steered runs/toy/by-hand/round-2/sample/numbers.parquet --out runs/toy/by-hand/round-2/check
    ");
    let output = std::process::Command::new("sh")
        .args(["-e", "-c", &script])
        .current_dir(toy.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", toy.nameless(&output));
    toy.json(&["run", "p.yaml", "--rounds", "2"]);
    let same = |by_hand: &str, view: &str| {
        let read = |path: String| std::fs::read(toy.path().join("runs/toy").join(path)).unwrap();
        assert_eq!(read(format!("by-hand/{by_hand}")), read(view.to_owned()));
    };
    same(
        "round-2/fit/accepted.safetensors",
        "round-2/accepted.safetensors",
    );
    same(
        "once/base-test/numbers.parquet",
        "once/base-test/numbers.parquet",
    );
}

#[test]
fn explain_names_the_fields_that_differ() {
    let toy = Toy::new(LOOP);
    let explain = |stage: &str| {
        let (code, text) = toy.text(&["explain", stage, "--pipeline", "p.yaml"]);
        assert_eq!(code, 0, "{text}");
        // Keys and digests are not what this is about.
        let mut out = String::new();
        for word in text.split_inclusive([' ', '\n', ')', ':']) {
            let bare = word
                .trim_end_matches([' ', '\n', ')', ':', '…', '"'])
                .trim_start_matches(['(', '"']);
            let is_hex = bare.len() == 12 && bare.chars().all(|c| c.is_ascii_hexdigit());
            out.push_str(&if is_hex {
                word.replace(bare, "HEX")
            } else {
                word.to_owned()
            });
        }
        out
    };
    assert_snapshot!(explain("round-1/rank"), @"round-1/rank: waits for round-1/sample; it runs unless that reproduces the same bytes");
    assert_snapshot!(explain("round-1/sample"), @r"
    round-1/sample: would run (key HEX)
      it has no earlier result in this pipeline
    ");
    toy.run();
    assert_snapshot!(explain("round-1/sample"), @"round-1/sample: would not run: its outputs are in the store (key HEX)");
    toy.write(
        "p.yaml",
        &LOOP.replace("samples: 4", "samples: 5, temperature: 1"),
    );
    assert_snapshot!(explain("round-1/sample"), @r"
    round-1/sample: would run (key HEX)
      these differ from last time (HEX):
        params.samples: 4 -> 5
        params.temperature: 0.9 -> 1.0
    ");
    toy.run();
    assert_snapshot!(explain("round-1/sample"), @r"
    round-1/sample: would not run: its outputs are in the store (key HEX)
      it last ran because these differ from HEX:
        params.samples: 4 -> 5
        params.temperature: 0.9 -> 1.0
    ");
    assert_snapshot!(explain("round-1/rank"), @r"
    round-1/rank: would not run: its outputs are in the store (key HEX)
      it last ran because these differ from HEX:
        inputs.numbers[0].digest: HEX… -> HEX…
    ");
    let (code, text) = toy.text(&["explain", "p.yaml", "smaple"]);
    assert_eq!(code, 2);
    assert_snapshot!(text, @"error: the pipeline has no stage `smaple`; did you mean `sample`?");
    let all = toy.json(&["explain", "fit", "--pipeline", "p.yaml"]);
    assert_eq!(all.as_array().unwrap().len(), 3);
    assert_eq!(
        all[0]["differences"][0]["field"],
        "inputs.ranking[0].digest"
    );
}

#[test]
fn schemas_are_printed() {
    let toy = Toy::new(LOOP);
    let (code, text) = toy.text(&["schema"]);
    assert_eq!(code, 0);
    assert!(
        text.contains("responses@1") && text.contains("steering@1"),
        "{text}"
    );
    let (_, text) = toy.text(&["schema", "responses"]);
    assert!(text.contains("finish_reason"), "{text}");
    assert_eq!(toy.json(&["schema", "pairs@1"])["id"], json!("pairs@1"));
    let (code, text) = toy.text(&["schema", "respnses"]);
    assert_eq!(code, 2);
    assert!(text.contains("did you mean `responses@1`?"), "{text}");
}

#[test]
fn other_programs_are_commands() {
    let toy = Toy::new(LOOP);
    let program = toy.write("bin/sims-greet", "#!/bin/sh\necho \"hello $*\"\nexit 7\n");
    make_executable(&program);
    let path = format!(
        "{}:{}",
        toy.path().join("bin").display(),
        std::env::var("PATH").unwrap()
    );
    let output = toy
        .sims(&["greet", "--loud", "you"])
        .env("PATH", &path)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(toy.nameless(&output), "hello --loud you\n");
    let output = toy.sims(&["gret"]).env("PATH", &path).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        toy.nameless(&output).contains("did you mean `sims greet`?"),
        "{}",
        toy.nameless(&output)
    );
}

#[test]
fn the_store_is_where_it_is_asked_to_be() {
    let toy = Toy::new(LOOP);
    toy.write("deep/pipelines/q.yaml", &LOOP.replace("name: toy\n", ""));
    // Paths that the workspace does not have are looked up from the current folder.
    toy.json(&["run", "deep/pipelines/q.yaml", "--rounds", "1"]);
    assert!(toy.path().join("deep/.sims/cas").is_dir());
    assert!(
        toy.path()
            .join("deep/runs/q/round-1/numbers.parquet")
            .exists()
    );
    let output = toy
        .sims(&["run", "p.yaml", "--rounds", "1"])
        .env("SIMS_STORE", "from-environment")
        .output()
        .unwrap();
    assert!(output.status.success());
    assert!(toy.path().join("from-environment/cas").is_dir());
    toy.json(&[
        "run", "p.yaml", "--rounds", "1", "--store", "given", "--runs", "views",
    ]);
    assert!(toy.path().join("given/cas").is_dir());
    assert!(
        toy.path()
            .join("views/toy/round-1/numbers.parquet")
            .exists()
    );
    assert_eq!(
        toy.text(&["fsck", "--store", "nowhere"]),
        (2, "error: no store at nowhere\n".to_owned())
    );
}

#[test]
fn a_compose_that_does_not_stack_leaves_extract_without_steering() {
    let toy = Toy::new("");
    let optional = json!({"schema": "steering@1", "required": false});
    toy.stage(
        "extract",
        &[("steering", optional.clone())],
        &[("states", "numbers@1")],
        &[],
    );
    toy.stage(
        "steer-eval",
        &[("states", json!({"schema": "numbers@1", "required": true}))],
        &[("accepted", "steering@1")],
        &[],
    );
    for (compose, wired) in [("stack", true), ("replace", false)] {
        toy.write(
            "p.yaml",
            &format!(
                "rounds: 2\nprompts: {{train: train.txt}}\nmodel: model\nround:\n  sample: {{uses: ./sample.sh}}\n  rank: {{uses: ./rank.sh}}\n  \
                 extract: {{uses: ./extract.sh}}\n  fit: {{uses: ./fit.sh, with: {{compose: {compose}}}}}\n  \
                 steer-eval: {{uses: ./steer-eval.sh}}\n"
            ),
        );
        // `fit` and `steer-eval` both give `accepted` here, which nobody can guess.
        let (code, text) = toy.text(&["plan", "p.yaml", "--commands"]);
        assert_eq!(code, 2, "{text}");
        toy.stage(
            "fit",
            &[("ranking", json!({"schema": "ranks@1", "required": true}))],
            &[("fitted", "steering@1")],
            &[("compose", json!("stack"))],
        );
        let (code, text) = toy.text(&["plan", "p.yaml", "--commands"]);
        assert_eq!(code, 0, "{text}");
        let second = text
            .lines()
            .find(|line| line.contains("by-hand/round-2/extract"))
            .unwrap();
        assert_eq!(
            second.contains("--steering runs/p/by-hand/round-1/steer-eval/accepted.safetensors"),
            wired,
            "{second}"
        );
        toy.stage(
            "fit",
            &[("ranking", json!({"schema": "ranks@1", "required": true}))],
            &[("accepted", "steering@1")],
            &[("compose", json!("stack"))],
        );
    }
}

#[test]
fn help_is_complete() {
    let toy = Toy::new(LOOP);
    assert_snapshot!(toy.text(&["--help"]).1, @r"
    Self-improving model steering: runs pipelines of stages and keeps what they make

    Usage: sims <COMMAND>

    Commands:
      run         Run what is not in the store yet
      plan        Show what a run would do
      status      Show the state of every stage
      explain     Say why a stage would run, or why it would not
      diff        Show what differs between two runs
      dag         Show the graph of a pipeline
      logs        Show what stages wrote when they ran
      lineage     Show where an artifact comes from
      verify      Compute a sample of finished actions once more, and compare the bytes
      repro-lock  Write down what decided a run, for another machine to check
      fsck        Check every byte in the store
      gc          Move what no run needs out of the store
      push        Put results into a remote cache
      pull        Bring what a run would need from a remote cache, and run nothing
      pin         Keep what a run made, whatever becomes of its folder
      new         Write files to start from
      work        Compute one stage of a plan, as a job of a cluster does
      argo        Write a plan as a workflow for Kubernetes
      schema      Show what the columns of an artifact mean
      help        Print this message or the help of the given subcommand(s)

    Options:
      -h, --help     Print help
      -V, --version  Print version

    Any other NAME runs the program `sims-NAME` beside `sims` or on PATH: `sims report …`, `sims model
    …`.

    Examples:
      sims run pipelines/quickstart.yaml --rounds 3
      sims plan pipelines/quickstart.yaml --commands
      sims explain sample --pipeline pipelines/quickstart.yaml
    ");
    assert_snapshot!(toy.text(&["run", "--help"]).1, @r"
    Run what is not in the store yet

    Usage: sims run [OPTIONS] <PIPELINE>

    Arguments:
      <PIPELINE>  Pipeline file

    Options:
          --store <DIR>            Folder of the store [default: $SIMS_STORE, else .sims in the
                                   pipeline's workspace]
          --runs <DIR>             Folder of the views [default: runs in the pipeline's workspace]
          --rounds <N>             Rounds to run instead of the pipeline's
          --seed <N>               Root seed instead of the pipeline's; results are shown under
                                   runs/NAME-seed-N
          --only <AXIS=CHOICE>     Of a pipeline that varies, only the runs with this choice:
                                   AXIS=CHOICE, or seed=N
          --device <DEVICE>        Where stages compute: auto, cpu, cuda or cuda:N; cuda:N,M spreads the
                                   layers, cuda:N+cuda:M the prompts [default: auto]
          --json                   Print JSON on stdout, and nothing else there
          --jobs <N>               Stages that run at the same time [default: 1]
          --threads <N>            Worker threads of each stage [default: every core, shared by the
                                   jobs]
          --batch-size <N>         Sequences that a model runs at once [default: each stage chooses]
          --chunk-size <N>         Prompts or pairs that a stage finishes at a time; what is finished
                                   survives an interruption. 0 for all [default: 128]
          --hang-after <TIME>      Stop a stage of which nothing was heard for so long, not even how far
                                   it is: 90s, 30m, 2h [default: never]
          --executor <NAME>        Where stages run: local, or slurm for jobs of the cluster that this
                                   machine submits to [default: local]
          --detach                 With --executor slurm: submit and leave; the same command without it
                                   follows the jobs
          --resubmit <N>           With --executor slurm: how often a stage's job is submitted again
                                   when it fails or gets lost [default: 2]
          --remote <URL>           Remote cache shared with other machines: s3://…, gs://…, az://…,
                                   https://… or a folder [default: $SIMS_REMOTE]
          --remote-timeout <TIME>  Give up on the remote cache when it does not answer for so long
                                   [default: 30s]
          --remote-read-only       Put nothing into the remote cache
      -h, --help                   Print help

    What is done is never done again: a run that was stopped goes on where it was, and a second run does
    nothing. Results are shown under runs/PIPELINE; a file with `vary` or `seeds` stands for several
    runs, each with a folder of its own.

    Relative paths in a pipeline file start at its workspace: the parent of the nearest folder above it
    that is named `pipelines`, else its own folder. What is not there is looked up from the current
    folder.

    With a remote cache, what it has is fetched instead of computed, and what is computed is put into
    it. Its credentials come from the environment (AWS_…, GOOGLE_…, AZURE_…). When it cannot be used,
    the run goes on without it.

    Examples:
      sims run pipelines/quickstart.yaml
      sims run pipelines/quickstart.yaml --rounds 1 --json
      sims run pipelines/sweeps/operator.yaml --only operator=act
    ");
    assert_eq!(toy.text(&["run"]).0, 2);
}

#[test]
fn a_python_script_is_a_stage() {
    let toy = Toy::new(&format!(
        "{LOOP}  count: {{uses: ./count.py, with: {{scale: 2}}}}\n"
    ));
    let script = toy.write(
        "count.py",
        r#"#!/usr/bin/env python3
import argparse, json, pathlib, sys

DESCRIPTION = {
    "stage": "count", "behaviour": 1, "numerics": "",
    "inputs": {"ranking": {"schema": "ranks@1", "required": True}},
    "outputs": {"lengths": {"schema": "lengths@1"}},
    "params": {"properties": {"scale": {"type": "integer", "default": 1}}},
}
if sys.argv[1:] == ["describe"]:
    print(json.dumps(DESCRIPTION))
    sys.exit()
parser = argparse.ArgumentParser()
parser.add_argument("--ranking", type=pathlib.Path)
parser.add_argument("--scale", type=int, default=1)
parser.add_argument("--out", type=pathlib.Path)
parser.add_argument("--progress")
a = parser.parse_args()
(a.out / "lengths.parquet").write_text(str(a.scale * len(a.ranking.read_text())))
"#,
    );
    make_executable(&script);
    toy.json(&["run", "p.yaml", "--rounds", "1"]);
    let view = toy.path().join("runs/toy/round-1/lengths.parquet");
    let ranking =
        std::fs::read_to_string(toy.path().join("runs/toy/round-1/ranking.parquet")).unwrap();
    assert_eq!(
        std::fs::read_to_string(view).unwrap(),
        (2 * ranking.len()).to_string()
    );
}
