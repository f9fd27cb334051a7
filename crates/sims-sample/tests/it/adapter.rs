//! Answers of a model with an adapter merged into its weights.

use crate::Bench;
use sims_artifact::{Digest, ModelManifest, write_table};
use sims_model::Config;
use sims_steering::{AdapterFile, FineTuning, initial_adapter};
use sims_testkit::random_model::{RandomModel, prompts, refused, succeeded};

const SHORT: [&str; 4] = ["--samples", "3", "--max-new-tokens", "6"];

/// Saves an adapter whose B is `scale` everywhere.
fn adapter(bench: &Bench, name: &str, model: Digest, scale: f32) -> String {
    let config = Config::open(&bench.model).unwrap();
    let targets = vec!["q_proj".to_owned(), "v_proj".to_owned()];
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
    let path = bench.out(name);
    file.save(&path).unwrap();
    path.to_str().unwrap().to_owned()
}

fn digest(bench: &Bench) -> Digest {
    ModelManifest::of_dir(&bench.model).unwrap().digest
}

#[test]
fn an_adapter_of_zeros_answers_as_the_base_does() {
    let bench = Bench::new(&RandomModel::default(), &prompts(7));
    for dtype in ["f32", "bf16"] {
        let common = [&SHORT[..], &["--dtype", dtype]].concat();
        let none = adapter(&bench, "none.safetensors", digest(&bench), 0.0);
        let some = adapter(&bench, "some.safetensors", digest(&bench), 0.3);
        let (base, zero, changed) = (
            format!("base-{dtype}"),
            format!("zero-{dtype}"),
            format!("changed-{dtype}"),
        );
        succeeded(&bench.run(&base, &common));
        succeeded(&bench.run(&zero, &[&common[..], &["--adapter", &none]].concat()));
        succeeded(&bench.run(&changed, &[&common[..], &["--adapter", &some]].concat()));
        // But for the policy's name, and with it the responses' ids, the tables have the same bytes.
        let mut renamed = bench.responses(&zero);
        let base_rows = bench.responses(&base);
        for (row, base) in renamed.iter_mut().zip(&base_rows) {
            assert!(row.policy.starts_with("adapted-"), "{}", row.policy);
            row.policy.clone_from(&base.policy);
            row.response_id.clone_from(&base.response_id);
        }
        write_table(&bench.out("renamed.parquet"), &renamed).unwrap();
        let bytes = std::fs::read(bench.out("renamed.parquet")).unwrap();
        assert!(bytes == bench.bytes(&base), "{dtype}");
        let texts = |out: &str| -> Vec<String> {
            let rows = bench.responses(out).into_iter();
            rows.map(|row| row.text).collect()
        };
        assert_ne!(texts(&changed), texts(&base));
    }
}

#[test]
fn a_steering_comes_on_top_of_an_adapter() {
    let bench = Bench::new(&RandomModel::default(), &prompts(5));
    let adapter = adapter(&bench, "a.safetensors", digest(&bench), 0.3);
    let steering = bench.steering("s.safetensors", 0.5);
    let run = |out: &str, more: &[&str]| succeeded(&bench.run(out, &[&SHORT[..], more].concat()));
    run("both", &["--adapter", &adapter, "--steering", &steering]);
    run("adapted", &["--adapter", &adapter]);
    run("steered", &["--steering", &steering]);
    let policy = |out: &str| bench.responses(out)[0].policy.clone();
    assert_eq!(
        policy("both"),
        format!("{}-{}", policy("adapted"), policy("steered"))
    );
    let texts = |out: &str| -> Vec<String> {
        let rows = bench.responses(out).into_iter();
        rows.map(|row| row.text).collect()
    };
    assert_ne!(texts("both"), texts("adapted"));
    assert_ne!(texts("both"), texts("steered"));
    // The CPU stands in for each device: parts join to the whole.
    run(
        "batched",
        &["--adapter", &adapter, "--batch-size", "2", "--threads", "3"],
    );
    assert_eq!(bench.bytes("batched"), bench.bytes("adapted"));
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let bench = Bench::new(&RandomModel::default(), &prompts(3));
    let other = Digest::of_bytes(b"another model");
    let path = adapter(&bench, "other.safetensors", other, 0.1);
    let message = refused(&bench.run("out", &["--adapter", &path]), &bench.out("out"));
    for part in [
        "the adapter was trained on the model with digest",
        &other.to_string()[..],
    ] {
        assert!(message.contains(part), "{message}");
    }
    let steering = bench.steering("s.safetensors", 0.5);
    let message = refused(
        &bench.run("steering", &["--adapter", &steering]),
        &bench.out("steering"),
    );
    assert!(
        message.contains("s.safetensors is not a valid adapter file"),
        "{message}"
    );
}
