//! Mistakes in pipeline files are refused before anything runs, where they are.

use insta::assert_snapshot;

use crate::toy::{LOOP, Toy};

/// Runs a pipeline that is refused, and returns the message.
fn refused(pipeline: &str) -> String {
    let toy = Toy::new(pipeline);
    let (code, text) = toy.text(&["run", "p.yaml"]);
    assert_eq!(code, 2, "{text}");
    assert!(toy.ran().is_empty(), "nothing runs");
    text
}

fn changed(from: &str, to: &str) -> String {
    assert!(LOOP.contains(from));
    LOOP.replace(from, to)
}

#[test]
fn unknown_parameter() {
    assert_snapshot!(refused(&changed("{samples: 4}", "{sampels: 4}")), @r"
    error: p.yaml:9:38: unknown key `sampels` in `round.sample.with`: stage `sample` has no such parameter
       |
     9 |   sample: {uses: ./sample.sh, with: {sampels: 4}}
       |                                      ^
       = did you mean `samples`?
    ");
}

#[test]
fn wrong_type_and_value() {
    assert_snapshot!(refused(&changed("{samples: 4}", "{samples: four, temperature: [1]}")), @r"
    error: p.yaml:9:47: `round.sample.with.samples` must be an integer, but is a text
       |
     9 |   sample: {uses: ./sample.sh, with: {samples: four, temperature: [1]}}
       |                                               ^

    p.yaml:9:66: `round.sample.with.temperature` must be a number, but is a list
       |
     9 |   sample: {uses: ./sample.sh, with: {samples: four, temperature: [1]}}
       |                                                                  ^
    ");
}

#[test]
fn duplicate_key() {
    assert_snapshot!(refused(&changed("rounds: 3", "rounds: 3\nseed: 18")), @r"
    error: p.yaml:4:1: duplicate key `seed`
       |
     4 | seed: 18
       | ^
       = it is first set in line 2; remove one
    ");
    assert_snapshot!(refused(&changed("{samples: 4}", "{samples: 4, note: a, samples: 5}")), @r"
    error: p.yaml:9:59: duplicate key `samples`
       |
     9 |   sample: {uses: ./sample.sh, with: {samples: 4, note: a, samples: 5}}
       |                                                           ^
       = it is first set in line 9; remove one
    ");
}

#[test]
fn cycle() {
    let circle = changed(
        "rank: {uses: ./rank.sh}",
        "rank: {uses: ./rank.sh, inputs: {numbers: check.numbers}}",
    );
    let circle = circle.replace("steered: sample.numbers", "steered: check2.numbers");
    let circle = format!(
        "{circle}  check2: {{uses: ./check.sh, inputs: {{base: base-test.numbers, steered: check.numbers}}}}\n"
    );
    assert_snapshot!(refused(&circle), @r"
    error: p.yaml:12:72: stages wait for each other: check2 -> check -> check2
        |
     12 |   check: {uses: ./check.sh, inputs: {base: base-test.numbers, steered: check2.numbers}}
        |                                                                        ^
       = use `previous.STAGE.ROLE` for what the round before made
    ");
    assert_snapshot!(refused(&changed("steered: sample.numbers", "steered: check.numbers")), @r"
    error: p.yaml:12:72: stages wait for each other: check -> check
        |
     12 |   check: {uses: ./check.sh, inputs: {base: base-test.numbers, steered: check.numbers}}
        |                                                                        ^
       = use `previous.STAGE.ROLE` for what the round before made
    ");
}

#[test]
fn missing_input() {
    assert_snapshot!(refused(&changed("  sample: {uses: ./sample.sh, with: {samples: 4}}\n", "")), @r"
    error: p.yaml:9:3: `rank` needs an input `numbers` (numbers@1), and nothing gives it
       |
     9 |   rank: {uses: ./rank.sh}
       |   ^
       = `check` gives it, but comes later in the file

    p.yaml:11:72: no stage is named `sample`
        |
     11 |   check: {uses: ./check.sh, inputs: {base: base-test.numbers, steered: sample.numbers}}
        |                                                                        ^
       = known here: base-test, rank, fit, check
    ");
    assert_snapshot!(refused(&changed("train: train.txt, ", "")), @r"
    error: p.yaml:9:3: `sample` needs an input `prompts` (text@1), and nothing gives it
       |
     9 |   sample: {uses: ./sample.sh, with: {samples: 4}}
       |   ^
       = add `train` under `prompts:` at the top
    ");
    assert_snapshot!(refused(&changed("steered: sample.numbers", "steered: previous.sample.numbers")), @r"
    error: p.yaml:12:63: `check` requires `steered`, but round 1 has no round before it
        |
     12 |   check: {uses: ./check.sh, inputs: {base: base-test.numbers, steered: previous.sample.numbers}}
        |                                                               ^
       = `previous.…` can feed only inputs that may be left out
    ");
}

#[test]
fn unknown_references() {
    assert_snapshot!(refused(&changed("base: base-test.numbers", "base: base-tset.numbers")), @r"
    error: p.yaml:12:44: no stage is named `base-tset`
        |
     12 |   check: {uses: ./check.sh, inputs: {base: base-tset.numbers, steered: sample.numbers}}
        |                                            ^
       = did you mean `base-test`?
    ");
    assert_snapshot!(refused(&changed("base: base-test.numbers", "base: base-test.number")), @r"
    error: p.yaml:12:44: `base-test` has no output `number`
        |
     12 |   check: {uses: ./check.sh, inputs: {base: base-test.number, steered: sample.numbers}}
        |                                            ^
       = did you mean `numbers`?
    ");
    assert_snapshot!(refused(&changed("prompts: prompts.eval", "prompts: prompts.evl")), @r"
    error: p.yaml:7:52: the pipeline has no prompts `evl`
       |
     7 |   base-test: {uses: ./sample.sh, inputs: {prompts: prompts.evl}, with: {samples: 2}}
       |                                                    ^
       = did you mean `eval`?
    ");
    assert_snapshot!(refused(&changed("inputs: {base:", "inputs: {bsae:")), @r"
    error: p.yaml:12:38: `check` has no input `bsae`
        |
     12 |   check: {uses: ./check.sh, inputs: {bsae: base-test.numbers, steered: sample.numbers}}
        |                                      ^
       = did you mean `base`?

    p.yaml:12:3: `check` needs an input `base` (numbers@1), and nothing gives it
        |
     12 |   check: {uses: ./check.sh, inputs: {bsae: base-test.numbers, steered: sample.numbers}}
        |   ^
       = add a stage that gives it before this one, or name a file under `inputs`
    ");
    assert_snapshot!(refused(&changed("base: base-test.numbers", "base: rank.ranking")), @r"
    error: p.yaml:12:44: `check` takes numbers@1 as `base`, but rank.ranking is ranks@1
        |
     12 |   check: {uses: ./check.sh, inputs: {base: rank.ranking, steered: sample.numbers}}
        |                                            ^
    ");
    assert_snapshot!(refused(&changed("prompts: prompts.eval", "prompts: prompts.eval, steering: fit.accepted")), @r"
    error: p.yaml:7:76: `base-test` runs once, so it cannot use what a round makes
       |
     7 |   base-test: {uses: ./sample.sh, inputs: {prompts: prompts.eval, steering: fit.accepted}, with: {samples: 2}}
       |                                                                            ^
       = move it to `round:`
    ");
}

#[test]
fn unknown_program() {
    assert_snapshot!(refused(&changed("./rank.sh", "./rnak.sh")), @r"
    error: p.yaml:10:16: ./rnak.sh does not exist
        |
     10 |   rank: {uses: ./rnak.sh}
        |                ^
       = looked in WORKSPACE
    ");
    let text = refused("round:\n  sampel:\n");
    assert!(text.starts_with("error: p.yaml:2:3: no stage `sampel`: neither `sims-sampel` nor `sampel` is beside `sims` or on PATH"), "{text}");
    assert_snapshot!(refused(&changed("./rank.sh", "./eval.txt")), @r"
    error: p.yaml:10:16: ./eval.txt is not an executable file
        |
     10 |   rank: {uses: ./eval.txt}
        |                ^
       = make it one: chmod +x ./eval.txt
    ");
    assert_snapshot!(refused("round:\n  a: {uses: /bin/echo}\n"), @r"
    error: p.yaml:2:13: `/bin/echo` is not a stage: `describe` did not print a description: expected value at line 1 column 1
       |
     2 |   a: {uses: /bin/echo}
       |             ^
    ");
}

#[test]
fn the_same_role_twice_has_to_be_told_apart() {
    let two = changed(
        "  rank:",
        "  check: {uses: ./check.sh, inputs: {base: base-test.numbers, steered: sample.numbers}}\n  rank:",
    );
    let two = two.replace(
        "  check: {uses: ./check.sh, inputs: {base: base-test.numbers, steered: sample.numbers}}\n",
        "",
    );
    let two = two.replace("  rank:", "  check: {uses: ./check.sh, inputs: {base: sample.numbers, steered: sample.numbers}}\n  rank:");
    assert_snapshot!(refused(&two), @r"
    error: p.yaml:11:3: the input `numbers` of `rank` could be `sample.numbers` or `check.numbers`
        |
     11 |   rank: {uses: ./rank.sh}
        |   ^
       = say which under `inputs`
    ");
}

#[test]
fn overlays_point_into_the_right_file() {
    let toy = Toy::new(LOOP);
    toy.write(
        "over.yaml",
        "extends: p.yaml\nround:\n  sample: {with: {samples: 1.5}}\n",
    );
    let (code, text) = toy.text(&["run", "over.yaml"]);
    assert_eq!(code, 2);
    assert_snapshot!(text, @r"
    error: over.yaml:3:28: `round.sample.with.samples` must be an integer, but is a number
       |
     3 |   sample: {with: {samples: 1.5}}
       |                            ^
    ");
    toy.write("p.yaml", &changed("{samples: 4}", "{note: 7}"));
    let (_, text) = toy.text(&["run", "over.yaml"]);
    assert!(text.contains("p.yaml:9:"), "{text}");
}

#[test]
fn inputs_of_the_wrong_kind() {
    let toy = Toy::new(LOOP);
    std::fs::remove_file(toy.path().join("model/config.json")).unwrap();
    let (code, text) = toy.text(&["run", "p.yaml"]);
    assert_eq!(code, 2);
    assert_snapshot!(text, @r"
    error: p.yaml:4:8: model is not a model folder: it has no config.json
       |
     4 | model: model
       |        ^
    ");
}

#[test]
fn missing_pipeline_file() {
    let toy = Toy::new(LOOP);
    assert_snapshot!(toy.text(&["run", "gone.yaml"]).1, @"error: no pipeline file at gone.yaml");
}
