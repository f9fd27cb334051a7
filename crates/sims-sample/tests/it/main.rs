//! The sample stage as a program, on a model with random weights.

mod adapter;
mod broken;
mod pilot;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sims_artifact::tables::{Message, PromptRow, ResponseRow};
use sims_artifact::{Digest, ModelManifest, read_table, write_table};
use sims_steering::{Additive, Edit, Operator, Steering};
use sims_testkit::random_model::{
    self, HIDDEN, LAYERS, RandomModel, prompts, refused, succeeded, summary,
};
use tempfile::TempDir;

struct Bench {
    folder: TempDir,
    model: PathBuf,
    prompts: PathBuf,
}

impl Bench {
    fn new(model: &RandomModel, rows: &[PromptRow]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = model.write(folder.path());
        let prompts = folder.path().join("prompts.parquet");
        write_table(&prompts, rows).unwrap();
        Self {
            folder,
            model,
            prompts,
        }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, out: &str, arguments: &[&str]) -> Output {
        let prompts = self.prompts.to_str().unwrap();
        let mut all = vec!["--prompts", prompts];
        all.extend(arguments);
        random_model::run(
            env!("CARGO_BIN_EXE_sims-sample"),
            &self.model,
            &self.out(out),
            &all,
        )
    }

    fn responses(&self, out: &str) -> Vec<ResponseRow> {
        read_table(&self.out(out).join("responses.parquet")).unwrap()
    }

    fn bytes(&self, out: &str) -> Vec<u8> {
        fs::read(self.out(out).join("responses.parquet")).unwrap()
    }

    fn steering(&self, name: &str, length: f32) -> String {
        let path = self.out(name);
        steering(&self.model, length).save(&path).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

fn steering(model: &Path, length: f32) -> Steering {
    let digest = ModelManifest::of_dir(model).unwrap().digest;
    let mut steering = Steering::identity(digest, HIDDEN, LAYERS);
    let vector = (0..HIDDEN).map(|i| length * (i as f32).sin()).collect();
    let edit = Edit::new(Operator::Additive(Additive::new(vector).unwrap()));
    steering.push(1, edit).unwrap();
    steering
}

/// The CPU stands in for each device.
#[test]
fn parts_on_several_devices_join_to_what_one_device_writes() {
    let bench = Bench::new(&RandomModel::default(), &prompts(7));
    let run = |out: &str, device: &str, temperature: &str| {
        Command::new(env!("CARGO_BIN_EXE_sims-sample"))
            .args([Path::new("--model"), &bench.model])
            .args([Path::new("--prompts"), &bench.prompts])
            .args([Path::new("--out"), &bench.out(out)])
            .args(["--device", device, "--temperature", temperature])
            .args(["--samples", "3", "--max-new-tokens", "6", "--seed", "5"])
            .output()
            .unwrap()
    };
    succeeded(&run("one", "cpu", "0.9"));
    for devices in ["cpu+cpu", "cpu+cpu+cpu"] {
        succeeded(&run(devices, devices, "0.9"));
        assert_eq!(bench.bytes(devices), bench.bytes("one"), "{devices}");
        let counts = |out: &str| summary(&bench.out(out))["counts"].clone();
        assert_eq!(
            counts(devices)["responses_rows"],
            counts("one")["responses_rows"]
        );
        assert_eq!(counts(devices)["new_tokens"], counts("one")["new_tokens"]);
        let left: Vec<_> = fs::read_dir(bench.out(devices)).unwrap().collect();
        assert_eq!(
            left.len(),
            2,
            "responses and summary, and nothing of the parts"
        );
    }
    // What is wrong with a part is told, with its kind.
    let output = run("bad", "cpu+cpu", "-1");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the part on cpu failed"));
}

#[test]
fn every_prompt_gets_its_samples_in_order() {
    let bench = Bench::new(&RandomModel::default(), &prompts(7));
    succeeded(&bench.run("out", &["--samples", "3", "--max-new-tokens", "8"]));
    let rows = bench.responses("out");
    assert_eq!(rows.len(), 21);
    let order: Vec<(&str, u32)> = rows
        .iter()
        .map(|row| (row.prompt_id.as_str(), row.sample_index))
        .collect();
    assert!(order.is_sorted());
    for row in &rows {
        assert_eq!((row.policy.as_str(), row.round), ("base", 1));
        assert_eq!(
            row.finish_reason == "stop",
            row.token_ids.last() == Some(&1)
        );
        assert!(row.token_ids.len() <= 8 && !row.text.contains("<|end|>"));
        assert!(row.logprob_sum < 0.0);
    }
    // Seven prompt tokens each, computed once for three samples.
    assert_eq!(rows[0].prompt_tokens, 7);
    assert_eq!(
        summary(&bench.out("out"))["counts"]["prompt_tokens_computed"],
        49.0
    );
}

#[test]
fn batch_size_and_threads_change_no_byte() {
    let bench = Bench::new(&RandomModel::default(), &prompts(9));
    let steering = bench.steering("s.safetensors", 0.3);
    let common = [
        "--samples",
        "4",
        "--max-new-tokens",
        "12",
        "--steering",
        &steering,
    ];
    for (out, extra) in [
        ("a", ["--batch-size", "1", "--threads", "1"]),
        ("b", ["--batch-size", "3", "--threads", "2"]),
        ("c", ["--batch-size", "8", "--threads", "3"]),
    ] {
        succeeded(&bench.run(out, &[&common[..], &extra[..]].concat()));
    }
    assert_eq!(bench.bytes("a"), bench.bytes("b"));
    assert_eq!(bench.bytes("a"), bench.bytes("c"));
}

#[test]
fn a_response_does_not_depend_on_the_prompts_beside_it() {
    let bench = Bench::new(&RandomModel::default(), &prompts(8));
    succeeded(&bench.run("all", &["--samples", "2", "--round", "2"]));
    succeeded(&bench.run(
        "shard",
        &["--samples", "2", "--round", "2", "--shard-size", "3"],
    ));
    let all = bench.responses("all");
    // The second shard of three prompts, two samples each.
    assert_eq!(bench.responses("shard"), all[6..12]);
    succeeded(&bench.run("one", &["--samples", "2", "--round", "1"]));
    assert_ne!(bench.responses("one")[0].seed, all[0].seed);
}

#[test]
fn a_shard_beyond_the_prompts_is_refused_with_the_numbers() {
    let bench = Bench::new(&RandomModel::default(), &prompts(8));
    let message = refused(
        &bench.run("out", &["--shard-size", "3", "--round", "3"]),
        &bench.out("out"),
    );
    assert!(
        message.contains("rows 7 to 9, but there are 8 prompts"),
        "{message}"
    );
}

#[test]
fn steering_names_the_policy_and_none_at_all_is_the_base() {
    let bench = Bench::new(&RandomModel::default(), &prompts(4));
    let pushed = bench.steering("pushed.safetensors", 2.0);
    let idle = bench.out("idle.safetensors");
    steering(&bench.model, 2.0)
        .scaled(0.0)
        .unwrap()
        .save(&idle)
        .unwrap();
    succeeded(&bench.run("base", &["--samples", "2"]));
    succeeded(&bench.run(
        "idle",
        &["--samples", "2", "--steering", idle.to_str().unwrap()],
    ));
    succeeded(&bench.run("pushed", &["--samples", "2", "--steering", &pushed]));
    assert_eq!(bench.bytes("base"), bench.bytes("idle"));
    let rows = bench.responses("pushed");
    let digest = Digest::of_file(Path::new(&pushed)).unwrap().short(12);
    assert!(
        rows.iter()
            .all(|row| row.policy == format!("steered-{digest}"))
    );
    let tokens =
        |rows: &[ResponseRow]| rows.iter().map(|r| r.token_ids.clone()).collect::<Vec<_>>();
    assert_ne!(tokens(&rows), tokens(&bench.responses("base")));
}

#[test]
fn a_steering_of_another_model_is_refused() {
    let bench = Bench::new(&RandomModel::default(), &prompts(2));
    let path = bench.out("other.safetensors");
    let other = Steering::identity(Digest::of_bytes(b"other"), HIDDEN, LAYERS);
    other.save(&path).unwrap();
    let run = bench.run("out", &["--steering", path.to_str().unwrap()]);
    assert!(refused(&run, &bench.out("out")).contains("fitted to the model with digest"));
}

#[test]
fn prompts_that_cannot_be_answered_are_refused_by_name() {
    let long = PromptRow::new(vec![Message::user("w9 ".repeat(40))], "train", "test");
    let model = RandomModel {
        context: 64,
        ..RandomModel::default()
    };
    let bench = Bench::new(&model, std::slice::from_ref(&long));
    let message = refused(
        &bench.run("out", &["--max-new-tokens", "30"]),
        &bench.out("out"),
    );
    let expected = format!(
        "prompt {} has 43 tokens; with 30 new tokens that exceeds the model's context of 64",
        long.prompt_id
    );
    assert!(message.contains(&expected), "{message}");

    let empty = Bench::new(&model, &[]);
    let message = refused(&empty.run("out", &[]), &empty.out("out"));
    assert!(
        message.contains("the prompts table has no rows"),
        "{message}"
    );
    let message = refused(&bench.run("out", &["--samples", "0"]), &bench.out("out"));
    assert!(message.contains("samples is 0"), "{message}");
    let message = refused(
        &bench.run("out", &["--max-new-tokens", "8", "--top-p", "0"]),
        &bench.out("out"),
    );
    assert!(message.contains("top-p"), "{message}");
}

#[test]
fn broken_files_are_refused_by_name() {
    let bench = Bench::new(
        &RandomModel {
            broken_weight: Some(f32::NAN),
            ..RandomModel::default()
        },
        &prompts(2),
    );
    let message = refused(&bench.run("out", &[]), &bench.out("out"));
    assert!(
        message.contains("model.layers.1.mlp.up_proj.weight"),
        "{message}"
    );

    let bench = Bench::new(&RandomModel::default(), &prompts(200));
    let bytes = fs::read(&bench.prompts).unwrap();
    fs::write(&bench.prompts, &bytes[..bytes.len() / 2]).unwrap();
    let message = refused(&bench.run("out", &[]), &bench.out("out"));
    assert!(message.contains("prompts.parquet"), "{message}");

    fs::remove_file(bench.model.join("tokenizer.json")).unwrap();
    write_table(&bench.prompts, &prompts(2)).unwrap();
    let message = refused(&bench.run("out", &[]), &bench.out("out"));
    assert!(message.contains("tokenizer.json"), "{message}");
}

#[test]
fn an_interrupt_leaves_nothing() {
    let bench = Bench::new(&RandomModel::default(), &prompts(2000));
    let prompts = bench.prompts.to_str().unwrap();
    let arguments = [
        "--prompts",
        prompts,
        "--samples",
        "50",
        "--max-new-tokens",
        "200",
    ];
    let program = env!("CARGO_BIN_EXE_sims-sample");
    random_model::interrupted(program, &bench.model, &bench.out("out"), &arguments);
}
