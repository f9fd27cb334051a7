//! An adapter as the candidate: its weights answer for the candidate alone.

use crate::Bench;
use sims_artifact::tables::MetricRow;
use sims_artifact::{Digest, ModelManifest, read_table};
use sims_model::Config;
use sims_steering::{AdapterFile, FineTuning, initial_adapter};
use sims_testkit::random_model::{self, RandomModel, refused, succeeded};
use std::process::Output;

/// Saves an adapter whose B is `scale` everywhere.
fn adapter(bench: &Bench, name: &str, model: Digest, scale: f32) -> String {
    let config = Config::open(&bench.model).unwrap();
    let targets = vec!["o_proj".to_owned()];
    let mut adapter = initial_adapter(&config, &targets, 2, 4.0, 1).unwrap();
    for change in adapter.modules.values_mut() {
        change.b.fill(scale);
    }
    let file = AdapterFile {
        model,
        method: "lora-dpo".to_owned(),
        targets,
        adapter,
        fit: FineTuning {
            beta: 0.1,
            learning_rate: 0.001,
            seed: 1,
            labels: "ranked".to_owned(),
            pairs: 40,
            fit_prompts: 32,
            held_out_prompts: 8,
            epochs: 1,
            best_epoch: 1,
            held_out_loss: 0.5,
            held_out_accuracy: 1.0,
        },
    };
    let path = bench.path(name);
    file.save(&path).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Runs the stage without a steering.
fn run(bench: &Bench, out: &str, arguments: &[&str]) -> Output {
    let prompts = bench.path("prompts.parquet");
    let mut all = vec![
        "--prompts",
        prompts.to_str().unwrap(),
        "--min-coverage",
        "0",
    ];
    all.extend([
        "--max-new-tokens",
        "10",
        "--loop-window",
        "6",
        "--resamples",
        "500",
    ]);
    all.extend(["--neutral", prompts.to_str().unwrap()]);
    all.extend(arguments);
    let program = env!("CARGO_BIN_EXE_sims-steer-eval");
    random_model::run(program, &bench.model, &bench.path(out), &all)
}

fn digest(bench: &Bench) -> Digest {
    ModelManifest::of_dir(&bench.model).unwrap().digest
}

#[test]
fn the_adapted_model_is_measured_against_the_base() {
    let bench = Bench::new(&RandomModel::default());
    let none = adapter(&bench, "none.safetensors", digest(&bench), 0.0);
    let some = adapter(&bench, "some.safetensors", digest(&bench), 0.3);
    bench.push("s.safetensors", 1, 9, 0.2);
    let steering = bench.path("s.safetensors");
    let steering = steering.to_str().unwrap();
    succeeded(&run(
        &bench,
        "none",
        &["--adapter", &none, "--gate", "none"],
    ));
    succeeded(&run(
        &bench,
        "some",
        &["--adapter", &some, "--gate", "none"],
    ));
    succeeded(&run(
        &bench,
        "steered",
        &["--steering", steering, "--gate", "none"],
    ));
    let incumbent = [
        "--adapter",
        &some[..],
        "--gate",
        "none",
        "--incumbent",
        steering,
    ];
    succeeded(&run(&bench, "incumbent", &incumbent));

    let texts = |out: &str, is_of: &dyn Fn(&str) -> bool| -> Vec<String> {
        let rows = bench.responses(out).into_iter();
        let own = rows.filter(|row| is_of(&row.policy));
        own.map(|row| row.text).collect()
    };
    let is_base = |policy: &str| policy == "base";
    let is_candidate = |policy: &str| policy != "base";
    // The base's answers are those of the weights as they are, the candidate's those of the merged ones.
    assert_eq!(texts("some", &is_base), texts("steered", &is_base));
    assert_ne!(texts("some", &is_candidate), texts("none", &is_candidate));
    assert!(
        bench
            .responses("some")
            .iter()
            .all(|row| { row.policy == "base" || row.policy.starts_with("adapted-") })
    );
    let drift = |out: &str| bench.metric(out, "neutral_kl_per_token").value;
    assert_eq!(drift("none"), 0.0);
    assert!(drift("some") > 0.0);
    assert!(bench.accepted("some").is_identity());
    // An incumbent answers with the base's weights, so that fine-tuning and steering are compared head to head.
    let metrics: Vec<MetricRow> =
        read_table(&bench.path("incumbent").join("metrics.parquet")).unwrap();
    let head_to_head = metrics
        .iter()
        .find(|row| row.metric == "self_judge_win_rate" && row.baseline == "incumbent");
    assert!(head_to_head.is_some(), "{metrics:?}");
}

#[test]
fn candidates_that_cannot_be_measured_are_refused() {
    let bench = Bench::new(&RandomModel::default());
    let some = adapter(&bench, "some.safetensors", digest(&bench), 0.3);
    let foreign = adapter(
        &bench,
        "foreign.safetensors",
        Digest::of_bytes(b"other"),
        0.3,
    );
    for (out, arguments, part) in [
        ("nothing", &["--gate", "none"][..], "there is no candidate"),
        ("gate", &["--adapter", &some[..]][..], "give gate none"),
        (
            "foreign",
            &["--adapter", &foreign[..], "--gate", "none"][..],
            "the adapter was trained on",
        ),
    ] {
        let message = refused(&run(&bench, out, arguments), &bench.path(out));
        assert!(message.contains(part), "{message}");
    }
}
