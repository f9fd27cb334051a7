//! What pipeline files mean, and how mistakes in them are shown.

use insta::assert_snapshot;

use super::*;

fn load(text: &str) -> Result<Pipeline, String> {
    load_all(text, None).map(|mut all| {
        assert_eq!(all.len(), 1);
        all.remove(0)
    })
}

fn load_all(text: &str, seed: Option<u64>) -> Result<Vec<Pipeline>, String> {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    std::fs::create_dir_all(root.join("pipelines")).unwrap();
    std::fs::create_dir_all(root.join("data/tiny")).unwrap();
    for name in ["data/train.parquet", "data/eval.parquet"] {
        std::fs::write(root.join(name), "").unwrap();
    }
    let path = root.join("pipelines/p.yaml");
    std::fs::write(&path, text).unwrap();
    Pipeline::load(&path, seed, root, AbsentFiles::Refuse).map_err(|error| {
        error
            .to_string()
            .replace(&format!("{}/", root.display()), "")
            .replace(&root.display().to_string(), "WORKSPACE")
    })
}

const TOP: &str =
    "model: data/tiny\nprompts: {train: data/train.parquet, eval: data/eval.parquet}\n";

#[test]
fn the_quickstart_reads_as_meant() {
    let pipeline = load(&format!(
        "{TOP}seed: 17\nrounds: 3\nonce:\n  base-test: {{uses: sample, inputs: {{prompts: prompts.eval}}, with: {{samples: 4}}}}\n\
         round:\n  sample: {{samples: 10}}\n  rank:\n  gold: {{uses: toyworld-gold, inputs: {{responses: [sample.responses, previous.sample.responses], model: none}}}}\n\
         stages:\n  other: {{uses: ./x.py, repeat: once}}\n"
    ))
    .unwrap();
    assert_eq!(
        (pipeline.name.as_str(), pipeline.seed, pipeline.rounds),
        ("p", 17, 3)
    );
    assert!(pipeline.model.unwrap().path.ends_with("data/tiny"));
    let names: Vec<_> = pipeline
        .nodes
        .iter()
        .map(|node| {
            (
                node.name.as_str(),
                node.uses.as_str(),
                node.repeat,
                node.wired_by_role,
            )
        })
        .collect();
    assert_eq!(
        names,
        [
            ("base-test", "sample", Repeat::Once, true),
            ("sample", "sample", Repeat::EachRound, true),
            ("rank", "rank", Repeat::EachRound, true),
            ("gold", "toyworld-gold", Repeat::EachRound, true),
            ("other", "./x.py", Repeat::Once, false),
        ]
    );
    let gold = &pipeline.nodes[3];
    assert_eq!(gold.inputs[0].sources.len(), 2);
    assert_eq!(gold.inputs[1].sources.len(), 0);
}

#[test]
fn a_workspace_is_above_pipelines_or_the_files_own_folder() {
    assert_eq!(
        workspace_of(Path::new("/w/pipelines/a/b.yaml")),
        Path::new("/w")
    );
    assert_eq!(workspace_of(Path::new("/w/b.yaml")), Path::new("/w"));
}

#[test]
fn unknown_keys_are_shown_all_at_once_with_the_nearest() {
    assert_snapshot!(load(&format!("{TOP}sede: 17\nround:\n  sample: {{with: {{}}, input: {{}}}}\n  rank: {{uses: rank, tau: 1}}\n")).unwrap_err(), @r"
    pipelines/p.yaml:3:1: unknown key `sede`
       |
     3 | sede: 17
       | ^
       = did you mean `seed`?

    pipelines/p.yaml:5:22: unknown key `input` in `round.sample`
       |
     5 |   sample: {with: {}, input: {}}
       |                      ^
       = did you mean `inputs`?

    pipelines/p.yaml:6:22: unknown key `tau` in `round.rank`
       |
     6 |   rank: {uses: rank, tau: 1}
       |                      ^
       = parameters go under `round.rank.with`
    ");
}

#[test]
fn wrong_types_are_shown() {
    assert_snapshot!(load("seed: -1\nrounds: 2.5\nmodel: [a]\nprompts: x\nround: {sample: 5}\nname: a/b\n").unwrap_err(), @r"
    pipelines/p.yaml:6:7: `name` names a folder: letters, digits, `-`, `_` and `.`, not `a/b`
       |
     6 | name: a/b
       |       ^

    pipelines/p.yaml:1:7: `seed` must be an integer from 0, but is -1
       |
     1 | seed: -1
       |       ^

    pipelines/p.yaml:2:9: `rounds` must be an integer from 0, but is 2.5
       |
     2 | rounds: 2.5
       |         ^

    pipelines/p.yaml:3:8: `model` must be a text, but is a list
       |
     3 | model: [a]
       |        ^

    pipelines/p.yaml:4:10: `prompts` must be a mapping, but is a text
       |
     4 | prompts: x
       |          ^

    pipelines/p.yaml:5:17: `round.sample` must be a mapping, but is an integer
       |
     5 | round: {sample: 5}
       |                 ^
    ");
}

#[test]
fn missing_files_are_shown() {
    assert_snapshot!(load("model: data/tinny\nround:\n  gold: {inputs: {responses: ./gone.parquet}}\n").unwrap_err(), @r"
    pipelines/p.yaml:1:8: `model`: data/tinny does not exist
       |
     1 | model: data/tinny
       |        ^
       = looked in WORKSPACE

    pipelines/p.yaml:3:30: ./gone.parquet does not exist
       |
     3 |   gold: {inputs: {responses: ./gone.parquet}}
       |                              ^
       = looked in WORKSPACE
    ");
}

#[test]
fn stages_cannot_share_a_name_or_take_a_reserved_one() {
    assert_snapshot!(load(&format!("{TOP}once:\n  sample:\nround:\n  sample:\n  previous:\n")).unwrap_err(), @r"
    pipelines/p.yaml:7:3: a stage cannot be named `previous`: inputs use this word
       |
     7 |   previous:
       |   ^

    pipelines/p.yaml:6:3: two stages are named `sample`
       |
     6 |   sample:
       |   ^
       = the first is at pipelines/p.yaml:4:3
    ");
}

#[test]
fn references_are_complete() {
    assert_snapshot!(load(&format!("{TOP}round:\n  judge: {{inputs: {{responses: previous.sample}}}}\n")).unwrap_err(), @r"
    pipelines/p.yaml:4:31: `round.judge.inputs.responses`: `previous.sample` is not complete
       |
     4 |   judge: {inputs: {responses: previous.sample}}
       |                               ^
       = write `model`, `prompts.SPLIT`, `STAGE.ROLE`, `previous.STAGE.ROLE`, `none`, or a path with a `/`
    ");
    assert_snapshot!(load(&format!("{TOP}round:\n  judge: {{inputs: {{responses: 7}}}}\n")).unwrap_err(), @r"
    pipelines/p.yaml:4:31: `round.judge.inputs.responses` must be a text, but is an integer
       |
     4 |   judge: {inputs: {responses: 7}}
       |                               ^
    ");
}

#[test]
fn a_pipeline_has_stages() {
    assert_snapshot!(load(TOP).unwrap_err(), @r"
    pipelines/p.yaml:1:1: the pipeline has no stages
       |
     1 | model: data/tiny
       | ^
       = add `round:` with at least one stage
    ");
}

/// The names of the runs that a file stands for.
fn names(text: &str, seed: Option<u64>) -> Vec<String> {
    let all = load_all(text, seed).unwrap();
    all.into_iter().map(|pipeline| pipeline.name).collect()
}

const VARIED: &str = "name: grid\nround:\n  fit: {with: {step: 1, operator: hpr}}\nvary:\n  \
                      round.fit.step: [0.1, 2]\n  operator: {as-is: {}, act: {round: {fit: {operator: act}}}}\n";

#[test]
fn a_file_that_varies_stands_for_every_combination() {
    assert_eq!(
        names(VARIED, None),
        [
            "grid-0.1-as-is",
            "grid-0.1-act",
            "grid-2-as-is",
            "grid-2-act"
        ]
    );
    let all = load_all(VARIED, None).unwrap();
    let params: Vec<_> = all
        .iter()
        .map(|pipeline| {
            pipeline.nodes[0]
                .params
                .get("step")
                .unwrap()
                .value
                .to_json()
        })
        .collect();
    assert_eq!(
        params,
        [0.1.into(), 0.1.into(), 2.into(), serde_json::json!(2)]
    );
    let operators: Vec<_> = all
        .iter()
        .map(|pipeline| {
            pipeline.nodes[0]
                .params
                .get("operator")
                .unwrap()
                .value
                .to_json()
        })
        .collect();
    assert_eq!(operators, ["hpr", "act", "hpr", "act"]);
    let choices = [("step", "2"), ("operator", "act")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(all[3].choices, choices);
}

#[test]
fn seeds_make_a_run_each_and_a_given_seed_replaces_them() {
    let text = format!("{VARIED}seed: 17\nseeds: [1, 3]\n");
    let all = load_all(&text, None).unwrap();
    assert_eq!(all.len(), 8);
    assert_eq!(
        (all[1].name.as_str(), all[1].family.as_str(), all[1].seed),
        ("grid-0.1-as-is-seed-3", "grid-0.1-as-is", 3)
    );
    assert_eq!(
        names(&text, Some(9))[..2],
        ["grid-0.1-as-is-seed-9", "grid-0.1-act-seed-9"]
    );
    assert_eq!(
        names("name: one\nround: {rank: }\nseeds: [4]\n", None),
        ["one-seed-4"]
    );
}

#[test]
fn mistakes_in_what_varies_are_shown_where_they_are() {
    let refused = |text: &str| load_all(&format!("round: {{rank: }}\n{text}"), None).unwrap_err();
    assert_snapshot!(refused("vary: {round.rank.tau: [a/b]}\n"), @r"
    pipelines/p.yaml:2:25: `vary.round.rank.tau`: the choice `a/b` names a folder: letters, digits, `-`, `_` and `.`
       |
     2 | vary: {round.rank.tau: [a/b]}
       |                         ^
    ");
    for (text, part) in [
        (
            "vary: {round.rank.tau: [[1]]}\n",
            "name other values: write a mapping of choices",
        ),
        (
            "vary: {round.rank.tau: [1, 1]}\n",
            "`vary.round.rank.tau` has `1` twice",
        ),
        (
            "vary: {round.rank.tau: []}\n",
            "`vary.round.rank.tau` has no choices",
        ),
        (
            "vary: {round.rank.tau: 3}\n",
            "a list of values or a mapping of choices, but is an integer",
        ),
        ("vary: {x: {a: {name: b}}}\n", "a choice cannot set `name`"),
        ("vary: {x: {a: {ronud: {}}}}\n", "unknown key `ronud`"),
        (
            "vary: {x: {a: {}, a-b: {}}, y: {b-c: {}, c: {}}}\n",
            "two runs named `p-a-b-c`",
        ),
        ("seeds: [1, 1]\n", "`seeds` has 1 twice"),
        ("seeds: []\n", "`seeds` has no seed"),
        ("seeds: 3\n", "`seeds` must be a list of integers"),
    ] {
        let message = refused(text);
        assert!(message.contains(part), "{text}{message}");
    }
}

#[test]
fn resources_are_those_of_the_file_changed_by_the_stage_in_either_form() {
    let pipeline = load(
        "resources: {cpus: 4, memory: 1G}\nround:\n  sample: {samples: 10, resources: {memory: 2G, parts: 3}}\n  \
         rank: {uses: rank, with: {tau: 1}, resources: {cpus: 1}}\n  fit:\n",
    )
    .unwrap();
    let asked: Vec<_> = pipeline
        .nodes
        .iter()
        .map(|node| (node.resources.cpus, node.resources.memory_mib))
        .collect();
    assert_eq!(
        asked,
        [
            (Some(4), Some(2048)),
            (Some(1), Some(1024)),
            (Some(4), Some(1024))
        ]
    );
    assert_eq!(
        pipeline.nodes[0].params.keys().collect::<Vec<_>>(),
        ["samples"],
        "resources are no parameter"
    );
    assert!(pipeline.nodes[0].parts_at.is_some() && pipeline.nodes[1].parts_at.is_none());
    assert_snapshot!(load("round:\n  sample: {resources: {memori: 2G}}\n").unwrap_err(), @r"
    pipelines/p.yaml:2:24: unknown key `memori` in `round.sample.resources`
       |
     2 |   sample: {resources: {memori: 2G}}
       |                        ^
       = did you mean `memory`?
    ");
}
