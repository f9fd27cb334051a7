//! What runs cost, in the report and as planned: held against what the stages counted.

use std::path::Path;

use serde_json::Value;
use sims_testkit::Workspace;

use crate::{LOOP_STAGES, small_pipeline};

fn summary(workspace: &Workspace, run: &str, stage: &str) -> Value {
    let (round, node) = stage.split_once('/').expect("ROUND/NODE");
    let path = format!("runs/{run}/{round}/summaries/{node}.json");
    let text = std::fs::read_to_string(workspace.path().join(path)).expect("the stage has run");
    serde_json::from_str(&text).expect("summaries are JSON")
}

fn count(summary: &Value, name: &str) -> f64 {
    summary["counts"][name]
        .as_f64()
        .unwrap_or_else(|| panic!("{} counts {name}", summary["stage"]))
}

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are text")
}

/// Samples six answers to each prompt and keeps the best by the judge.
const BEST: &str = "
name: best
rounds: 1
model: data/tiny
prompts: {eval: data/toyworld/eval.parquet}
once:
  base-eval: {uses: sample, inputs: {prompts: prompts.eval}, with: {samples: 1, shard-size: 16, shard: 1, round: 0}}
  candidates: {uses: sample, inputs: {prompts: prompts.eval}, with: {samples: 6, shard-size: 16, shard: 1, round: 0, seed: 5}}
  compared: {uses: judge, inputs: {prompts: prompts.eval, responses: candidates.responses}}
  ranked: {uses: rank, inputs: {judgments: compared.judgments, responses: candidates.responses}}
  gold: {uses: toyworld-gold, inputs: {prompts: prompts.eval, responses: ranked.best, base-responses: base-eval.responses}}
";

#[test]
fn costs_are_those_of_the_first_computation_and_gains_pay_for_what_made_them() {
    let workspace = Workspace::new();
    let first = small_pipeline(&workspace, "");
    workspace.json(&["run", text(&first)]);
    let again = workspace.pipeline("again", "extends: small.yaml\nname: again\n");
    let run = workspace.json(&["run", text(&again)]);
    assert_eq!(run["executed"], 0, "{run}");
    let best = workspace.pipeline("best", BEST);
    workspace.json(&["run", text(&best)]);

    let costs = |pipelines: &[&Path], more: &[&str]| {
        let pipelines = pipelines.iter().map(|pipeline| text(pipeline));
        let arguments = ["report"].into_iter().chain(pipelines).chain(["--cost"]);
        let arguments: Vec<&str> = arguments.chain(more.iter().copied()).collect();
        workspace.json(&arguments)
    };
    let of_run = |costs: &Value, run: &str| -> Vec<Value> {
        let rows = costs["cost"].as_array().expect("an array").iter();
        let rows = rows.filter(|row| row["run"] == run).cloned();
        rows.map(|mut row| {
            row["run"] = Value::Null;
            row
        })
        .collect()
    };
    let both = costs(&[&first, &again], &[]);
    let rows = of_run(&both, "small");
    assert!(!rows.is_empty());
    assert_eq!(rows, of_run(&both, "again"));
    assert!(rows.iter().all(|row| row["money"].is_null()));

    // Hours are those of the threads that worked, and money is their price.
    let priced = costs(&[&first], &["--price-per-core-hour", "3600"]);
    for row in of_run(&priced, "small") {
        let node = row["node"].as_str().expect("a name");
        let name = format!("round-{}/{node}", row["round"]).replace("round-0", "once");
        let stage = summary(&workspace, "small", &name);
        let seconds = number(&stage["seconds"]) * number(&stage["threads"]);
        assert!((number(&row["core_hours"]) * 3600.0 - seconds).abs() < 1e-9 * seconds);
        assert!((number(&row["money"]) - seconds).abs() < 1e-9 * seconds);
        assert_eq!(row["gpu_hours"], 0.0);
    }

    // Round 2 is made by all of both rounds that led to it; nothing that only measures counts.
    let all = costs(&[&first, &best], &["--answers", "100"]);
    let gains = all["gain"].as_array().expect("an array");
    let gain = |run: &str, round: u32| {
        let found = gains
            .iter()
            .find(|gain| gain["run"] == run && gain["round"] == round && gain["node"] == "gold");
        found.unwrap_or_else(|| panic!("{run} has a gain in round {round}: {gains:?}"))
    };
    let core_hours = |run: &str, stages: &[String]| -> f64 {
        let hours = stages.iter().map(|stage| {
            let stage = summary(&workspace, run, stage);
            number(&stage["seconds"]) * number(&stage["threads"]) / 3600.0
        });
        hours.sum()
    };
    for rounds in 1..=2 {
        let stages = (1..=rounds)
            .flat_map(|round| LOOP_STAGES.map(|stage| format!("round-{round}/{stage}")));
        let expected = core_hours("small", &stages.collect::<Vec<_>>());
        let gain = gain("small", rounds);
        assert!(
            (number(&gain["making_core_hours"]) - expected).abs() < 1e-9,
            "{gain}"
        );
        assert_eq!(gain["hours_per_answer"], 0.0);
        let rate = number(&gain["points"]) / number(&gain["hours"]);
        assert!((number(&gain["points_per_hour"]) - rate).abs() < 1e-6 * rate.abs());
    }

    // Best of six makes nothing and pays with every answer: all samples and comparisons, but one plain sample.
    let stages = ["candidates", "compared", "ranked"].map(|stage| format!("once/{stage}"));
    let plain = core_hours("best", &["once/base-eval".to_owned()]) / 16.0;
    let expected = core_hours("best", &stages) / 16.0 - plain;
    let gain = gain("best", 0);
    assert_eq!(gain["making_core_hours"], 0.0);
    assert!((number(&gain["hours_per_answer"]) - expected).abs() < 1e-12);
    assert!((number(&gain["hours"]) - 100.0 * expected).abs() < 1e-9);
}

#[test]
fn the_plan_counts_tokens_as_the_stages_do() {
    let workspace = Workspace::new();
    let pipeline = small_pipeline(&workspace, "rounds: 1\n");
    workspace.json(&["run", text(&pipeline)]);
    let sampled = summary(&workspace, "small", "round-1/sample");
    let length = count(&sampled, "new_tokens") / count(&sampled, "responses_rows");
    let planned = |tokens: &str| {
        let plan = workspace.json(&[
            "plan",
            text(&pipeline),
            "--on",
            "h100",
            "--response-tokens",
            tokens,
        ]);
        move |stage: &str| {
            let stages = plan.as_array().expect("an array").iter();
            let mut found = stages.filter(|planned| planned["stage"] == stage);
            found.next().cloned().expect("the stage is planned")
        }
    };
    let (as_long, longest) = (planned(&length.to_string()), planned("1000000"));

    // Prompts are read once each, whatever is answered: the number is exact.
    for (stage, name) in [
        ("sample", "round-1/sample"),
        ("base-eval", "once/base-eval"),
    ] {
        let counted = summary(&workspace, "small", name);
        assert_eq!(
            number(&as_long(stage)["tokens_read"]),
            count(&counted, "prompt_tokens_computed"),
            "{stage}"
        );
        // Answers end at the latest where max-new-tokens ends them.
        let most = 40.0 * count(&counted, "responses_rows");
        assert_eq!(number(&longest(stage)["tokens_written"]), most);
        assert!(count(&counted, "new_tokens") <= most);
    }
    let flops = number(&as_long("sample")["flops"]) / count(&sampled, "estimated_flops");
    assert!((flops - 1.0).abs() < 1e-9, "{flops}");

    // What is read of answers is an estimate. Equal answers and equal beginnings are read once, of which this small
    // vocabulary has more than real text, so the judge's is above; the pairs' and the steered answers are not as long
    // as the mean.
    for (stage, counts) in [
        ("judge", &["tokens_computed"][..]),
        ("extract", &["tokens_computed"]),
        (
            "test",
            &[
                "prompt_tokens_computed",
                "neutral_tokens_computed",
                "judge_tokens_computed",
            ],
        ),
    ] {
        let counted = summary(&workspace, "small", &format!("round-1/{stage}"));
        let counted: f64 = counts.iter().map(|name| count(&counted, name)).sum();
        let ratio = number(&as_long(stage)["tokens_read"]) / counted;
        eprintln!("{stage}: planned {ratio:.3} of what was counted");
        assert!((0.9..1.2).contains(&ratio), "{stage}: {ratio}");
    }
}

#[test]
fn an_estimate_needs_the_config_alone_and_says_what_else_it_lacks() {
    let workspace = Workspace::new();
    let folder = workspace.path().join("models/large");
    std::fs::create_dir_all(&folder).expect("the workspace is writable");
    let config = serde_json::json!({
        "model_type": "llama", "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 8192, "rope_theta": 500_000.0, "tie_word_embeddings": false
    });
    let config_file = folder.join("config.json");
    let pipeline = workspace.pipeline(
        "large",
        "name: large\nrounds: 2\nmodel: models/large\nprompts: {train: absent.parquet}\nround:\n  \
         sample: {samples: 10, max-new-tokens: 256, dtype: bf16, shard-size: 100}\n  judge: {dtype: bf16}\n",
    );
    let estimate = |more: &[&str]| {
        let arguments = ["plan", text(&pipeline), "--on", "h200"];
        let arguments: Vec<&str> = arguments.into_iter().chain(more.iter().copied()).collect();
        let output = workspace
            .sims(&arguments)
            .output()
            .expect("sims can be started");
        (output.status.code(), sims_testkit::text_of(&output))
    };
    let (code, said) = estimate(&[]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("--assume train=COUNTxTOKENS"), "{said}");
    let (code, said) = estimate(&["--assume", "train=200x150"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("config.json"), "{said}");
    std::fs::write(&config_file, config.to_string()).expect("the folder is writable");
    let (code, said) = estimate(&["--assume", "train=200x150", "--price-per-gpu-hour", "2"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("no run has confirmed") && said.contains("money"),
        "{said}"
    );

    let arguments = [
        "plan",
        text(&pipeline),
        "--on",
        "h200",
        "--assume",
        "train=200x150",
    ];
    let priced = [&arguments[..], &["--price-per-gpu-hour", "2"]].concat();
    let stages = workspace.json(&priced);
    let sample = &stages[0];
    assert_eq!(number(&sample["tokens_read"]), 100.0 * 150.0);
    assert_eq!(number(&sample["tokens_written"]), 100.0 * 10.0 * 256.0);
    // 8.03 billion parameters, two operations each.
    let flops = 2.0 * 8_030_261_248.0 * (15_000.0 + 256_000.0);
    assert!((number(&sample["flops"]) / flops - 1.0).abs() < 1e-9);
    assert_eq!(sample["fits"], true);
    assert!((number(&sample["money"]) - 2.0 * number(&sample["gpu_hours"])).abs() < 1e-12);
}
