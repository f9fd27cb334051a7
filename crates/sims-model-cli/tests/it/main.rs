//! The program as its users call it, on the engine's fixtures, whose references transformers made.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use safetensors::SafeTensors;
use serde_json::{Value, json};
use sims_artifact::tables::{Message, PromptRow};
use sims_artifact::{ModelManifest, TensorFile, write_table};
use sims_steering::{Additive, Edit, Operator, Steering};
use tempfile::TempDir;

/// Same bound as the engine's own comparison with transformers.
const TOLERANCE: f32 = 1e-4;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../sims-model/tests/fixtures")
        .join(name)
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sims-model"))
        .args(arguments)
        .output()
        .unwrap()
}

/// Runs a command that must succeed and print one JSON value and nothing else.
fn json_of(arguments: &[&str]) -> Value {
    let output = run(arguments);
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs a command that must fail with exit code 2 and returns its message.
fn refused(arguments: &[&str]) -> String {
    let output = run(arguments);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}");
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).unwrap()
}

/// A reference tensor: its last dimension and its values.
fn reference(directory: &Path, name: &str) -> (usize, Vec<f32>) {
    let bytes = fs::read(directory.join("reference.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(name).unwrap();
    let values = tensor
        .data()
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    (*tensor.shape().last().unwrap(), values)
}

fn reference_tokens(directory: &Path, name: &str) -> Vec<i64> {
    let bytes = fs::read(directory.join("reference.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor = file.tensor(name).unwrap();
    tensor
        .data()
        .as_chunks()
        .0
        .iter()
        .map(|bytes| i64::from_le_bytes(*bytes))
        .collect()
}

fn commas(tokens: &[i64]) -> String {
    tokens
        .iter()
        .map(i64::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

fn assert_close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let gap = found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max);
    assert!(gap < TOLERANCE, "{what}: {gap}");
}

/// A fixture's model with a word-level tokenizer (`w5` is token 5) and a chat template around it.
fn with_tokenizer(name: &str) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::copy(fixture(name).join(file), directory.path().join(file)).unwrap();
    }
    let vocab: HashMap<String, usize> = (0..151).map(|id| (format!("w{id}"), id)).collect();
    let tokenizer = json!({
        "version": "1.0", "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"},
    });
    let template = "{% for m in messages %}w1 {{ m.content }} {% endfor %}{% if add_generation_prompt %}w2{% endif %}";
    fs::write(
        directory.path().join("tokenizer.json"),
        tokenizer.to_string(),
    )
    .unwrap();
    let config = json!({"chat_template": template}).to_string();
    fs::write(directory.path().join("tokenizer_config.json"), config).unwrap();
    directory
}

#[test]
fn info_counts_what_is_there() {
    let directory = fixture("llama-mha-tied");
    let info = json_of(&["info", directory.to_str().unwrap(), "--json"]);
    assert_eq!(info["architecture"], "LlamaForCausalLM");
    assert_eq!(
        (&info["layers"], &info["hidden"], &info["heads"]),
        (&json!(3), &json!(48), &json!(4))
    );
    assert_eq!(info["dtype"], "f32");
    // Embedding, three blocks, final norm.
    let block = 4 * 48 * 48 + 3 * 48 * 88 + 2 * 48;
    assert_eq!(info["parameters"], 151 * 48 + 3 * block + 48);
    assert_eq!(
        info["bytes"].as_u64().unwrap(),
        4 * info["parameters"].as_u64().unwrap()
    );
    assert_eq!(info["weight_bytes"], info["bytes"]);
    assert!(info["planned_bytes"].as_u64() > info["weight_bytes"].as_u64());
    let halved = json_of(&[
        "info",
        directory.to_str().unwrap(),
        "--dtype",
        "bf16",
        "--json",
    ]);
    assert!(halved["weight_bytes"].as_u64() < info["weight_bytes"].as_u64());
    let slot = |info: &serde_json::Value| info["kv_bytes_per_token"].as_u64().unwrap();
    assert_eq!(2 * slot(&halved), slot(&info));
    assert_eq!(
        info["digest"],
        ModelManifest::of_dir(&directory)
            .unwrap()
            .digest
            .to_string()
    );

    let text = run(&["info", directory.to_str().unwrap()]);
    assert!(
        String::from_utf8(text.stdout)
            .unwrap()
            .contains("parameters       ")
    );
}

#[test]
fn forward_writes_what_transformers_computes() {
    for name in ["llama-gqa-untied", "qwen2", "llama-llama3-rope"] {
        let directory = fixture(name);
        let out = tempfile::tempdir().unwrap();
        let file = out.path().join("states.safetensors");
        for prompt in 0..4 {
            let tokens = reference_tokens(&directory, &format!("prompt.{prompt}"));
            let arguments = [
                "forward",
                "--model",
                directory.to_str().unwrap(),
                "--tokens",
                &commas(&tokens),
                "--out",
                file.to_str().unwrap(),
                "--json",
            ];
            let summary = json_of(&arguments);
            let states = TensorFile::open(&file).unwrap();
            let (vocab, logits) = reference(&directory, &format!("logits.{prompt}"));
            assert_eq!(states.shape("logits").unwrap(), [tokens.len(), vocab]);
            assert_close(&states.read("logits").unwrap().values, &logits, name);

            let (hidden, blocks) = reference(&directory, &format!("blocks.{prompt}"));
            for (layer, block) in blocks.chunks(tokens.len() * hidden).enumerate() {
                let found = states.read(&format!("block.{layer}")).unwrap();
                assert_eq!(found.shape, [tokens.len(), hidden]);
                assert_close(&found.values, block, name);
            }
            assert_eq!(summary["layers"], blocks.len() / (tokens.len() * hidden));
        }
    }
}

#[test]
fn generate_needs_no_tokenizer_for_token_ids() {
    let directory = fixture("llama-biases-head-dim");
    for prompt in 0..4 {
        let tokens = reference_tokens(&directory, &format!("prompt.{prompt}"));
        let (_, gaps) = reference(&directory, &format!("greedy_gaps.{prompt}"));
        let sure = gaps
            .iter()
            .position(|&gap| gap < TOLERANCE)
            .unwrap_or(gaps.len());
        let arguments = [
            "generate",
            "--model",
            directory.to_str().unwrap(),
            "--tokens",
            &commas(&tokens),
            "--max-new-tokens",
            "16",
            "--temperature",
            "0",
            "--json",
        ];
        let response = json_of(&arguments);
        let found: Vec<i64> = serde_json::from_value(response["token_ids"].clone()).unwrap();
        assert_eq!(
            found[..sure],
            reference_tokens(&directory, &format!("greedy.{prompt}"))[..sure]
        );
        assert_eq!(response["finish_reason"], "length");
        assert_eq!(response["text"], "");
    }
}

#[test]
fn a_prompt_goes_through_the_chat_template_unless_raw() {
    let model = with_tokenizer("llama-mha-tied");
    let model = model.path().to_str().unwrap();
    let sampled = |arguments: &[&str]| {
        let shared = [
            "generate",
            "--model",
            model,
            "--temperature",
            "0.8",
            "--seed",
            "3",
            "--max-new-tokens",
            "8",
        ];
        json_of(&[&shared, arguments, &["--json"]].concat())
    };
    let templated = sampled(&["--prompt", "w7 w9"]);
    let raw = sampled(&["--prompt", "w1 w7 w9 w2", "--raw"]);
    assert_eq!(templated["prompt_tokens"], 4);
    assert_eq!(raw["prompt_tokens"], 4);
    let ids: Vec<u32> = serde_json::from_value(templated["token_ids"].clone()).unwrap();
    let words: Vec<String> = ids.iter().map(|id| format!("w{id}")).collect();
    assert_eq!(templated["text"], words.join(" "));
    // The random stream belongs to the prompt's text, so only greedy answers are comparable.
    let greedy = |arguments: &[&str]| {
        let shared = ["generate", "--model", model, "--max-new-tokens", "8"];
        json_of(&[&shared, arguments, &["--json"]].concat())
    };
    let expected = greedy(&["--tokens", "1,7,9,2"]);
    assert_eq!(greedy(&["--prompt", "w7 w9"]), expected);
    assert_eq!(greedy(&["--prompt", "w1 w7 w9 w2", "--raw"]), expected);
    assert_eq!(sampled(&["--prompt", "w7 w9"]), templated);

    let text = run(&[
        "generate",
        "--model",
        model,
        "--prompt",
        "w7 w9",
        "--max-new-tokens",
        "8",
    ]);
    assert_eq!(
        String::from_utf8(text.stdout).unwrap().trim_end(),
        expected["text"].as_str().unwrap()
    );
}

#[test]
fn perplexity_is_that_of_the_reference_logits() {
    let model = with_tokenizer("llama-mha-tied");
    let directory = fixture("llama-mha-tied");
    let texts: Vec<Vec<i64>> = (1..4)
        .map(|i| reference_tokens(&directory, &format!("prompt.{i}")))
        .collect();
    let rows: Vec<PromptRow> = texts
        .iter()
        .map(|tokens| {
            let words: Vec<String> = tokens.iter().map(|id| format!("w{id}")).collect();
            PromptRow::new(vec![Message::user(words.join(" "))], "test", "fixture")
        })
        .collect();
    let table = model.path().join("neutral.parquet");
    write_table(&table, &rows).unwrap();
    let mut nats = 0.0;
    for (i, tokens) in (1..4).zip(&texts) {
        let (vocab, logits) = reference(&directory, &format!("logits.{i}"));
        for (row, &next) in logits.chunks(vocab).zip(&tokens[1..]) {
            let total: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
            nats += total.ln() - f64::from(row[next as usize]);
        }
    }
    let predicted: usize = texts.iter().map(|tokens| tokens.len() - 1).sum();
    let arguments = [
        "perplexity",
        "--model",
        model.path().to_str().unwrap(),
        "--prompts",
        table.to_str().unwrap(),
    ];
    let result = json_of(&[&arguments[..], &["--json"]].concat());
    assert_eq!(
        (&result["tokens"], &result["texts"]),
        (&json!(predicted), &json!(3))
    );
    let expected = (nats / predicted as f64).exp();
    assert!((result["perplexity"].as_f64().unwrap() / expected - 1.0).abs() < 1e-4);
    assert!(
        String::from_utf8(run(&arguments).stdout)
            .unwrap()
            .starts_with("perplexity ")
    );
}

#[test]
fn a_steering_edits_from_the_last_prompt_token_on() {
    let directory = fixture("llama-mha-tied");
    let digest = ModelManifest::of_dir(&directory).unwrap().digest;
    let out = tempfile::tempdir().unwrap();
    let file = |name: &str| out.path().join(name).to_str().unwrap().to_owned();
    let mut steering = Steering::identity(digest, 48, 3);
    let vector: Vec<f32> = (0..48).map(|i| i as f32 / 16.0).collect();
    steering
        .push(
            1,
            Edit::new(Operator::Additive(Additive::new(vector.clone()).unwrap())),
        )
        .unwrap();
    steering
        .save(Path::new(&file("steering.safetensors")))
        .unwrap();

    let model = directory.to_str().unwrap();
    let forward = |name: &str, more: &[&str]| {
        let (name, tokens) = (file(name), "5,6,7,8,9");
        json_of(
            &[
                &[
                    "forward", "--model", model, "--tokens", tokens, "--out", &name, "--json",
                ],
                more,
            ]
            .concat(),
        );
        TensorFile::open(Path::new(&name)).unwrap()
    };
    let steering = file("steering.safetensors");
    let base = forward("base.safetensors", &[]);
    let steered = forward("steered.safetensors", &["--steering", &steering]);
    let earlier = forward(
        "earlier.safetensors",
        &["--steering", &steering, "--edit-from", "2"],
    );
    let block =
        |file: &TensorFile, layer: usize| file.read(&format!("block.{layer}")).unwrap().values;
    assert_eq!(block(&base, 0), block(&steered, 0));
    for (states, first) in [(&steered, 4), (&earlier, 2)] {
        let (before, after) = (block(&base, 1), block(states, 1));
        for (position, (before, after)) in before.chunks(48).zip(after.chunks(48)).enumerate() {
            if position < first {
                assert_eq!(before, after);
            } else {
                let expected: Vec<f32> = before.iter().zip(&vector).map(|(a, b)| a + b).collect();
                assert_close(after, &expected, "edited row");
            }
        }
    }
    assert_ne!(
        base.read("logits").unwrap(),
        steered.read("logits").unwrap()
    );

    let generate = |more: &[&str]| {
        json_of(
            &[
                &[
                    "generate",
                    "--model",
                    model,
                    "--tokens",
                    "5,6,7,8,9",
                    "--json",
                ],
                more,
            ]
            .concat(),
        )
    };
    assert_ne!(generate(&[]), generate(&["--steering", &steering]));

    let other = fixture("llama-gqa-untied");
    let arguments = [
        "generate",
        "--model",
        other.to_str().unwrap(),
        "--tokens",
        "5",
        "--steering",
        &steering,
    ];
    assert!(refused(&arguments).contains(&digest.to_string()));
}

#[test]
fn bad_input_is_named_with_exit_code_2() {
    let directory = fixture("llama-mha-tied");
    let model = directory.to_str().unwrap();
    let out = tempfile::tempdir().unwrap();
    let file = out.path().join("x.safetensors");
    let file = file.to_str().unwrap();

    assert!(refused(&["info", "nowhere"]).contains("nowhere"));
    assert!(refused(&["generate", "--model", "nowhere", "--tokens", "1"]).contains("nowhere"));
    let forward = |tokens: &str| {
        refused(&[
            "forward", "--model", model, "--tokens", tokens, "--out", file,
        ])
    };
    assert!(forward("1,151").contains("token 151 is outside the model's vocabulary of 151"));
    assert!(forward("1,x").contains("--tokens"));
    assert!(
        forward(
            &"1,".repeat(128)[..]
                .trim_end_matches(',')
                .replacen('1', "1,1", 1)
        )
        .contains("129 tokens")
    );
    assert!(!Path::new(file).exists());

    assert!(refused(&["generate", "--model", model]).contains("--prompt"));
    assert!(
        refused(&[
            "generate", "--model", model, "--tokens", "1", "--prompt", "x"
        ])
        .contains("--prompt")
    );
    assert!(
        refused(&["generate", "--model", model, "--prompt", "x", "--raw"])
            .contains("has no tokenizer.json")
    );
    assert!(
        refused(&["generate", "--model", model, "--prompt", "x"]).contains("has no chat template")
    );
    assert!(
        refused(&[
            "generate", "--model", model, "--tokens", "1", "--top-p", "0"
        ])
        .contains("top-p")
    );
    let long = [
        "generate",
        "--model",
        model,
        "--tokens",
        "1",
        "--max-new-tokens",
        "128",
    ];
    assert!(refused(&long).contains("do not fit the model's context of 128"));
    assert!(
        refused(&[
            "generate", "--model", model, "--tokens", "1", "--device", "tpu"
        ])
        .contains("tpu")
    );
    assert!(
        refused(&[
            "perplexity",
            "--model",
            model,
            "--prompts",
            "nowhere.parquet"
        ])
        .contains("nowhere.parquet")
    );

    // A weight file cut in half.
    let cut = tempfile::tempdir().unwrap();
    fs::copy(
        directory.join("config.json"),
        cut.path().join("config.json"),
    )
    .unwrap();
    let weights = fs::read(directory.join("model.safetensors")).unwrap();
    fs::write(
        cut.path().join("model.safetensors"),
        &weights[..weights.len() / 2],
    )
    .unwrap();
    let cut = cut.path().to_str().unwrap();
    assert!(refused(&["info", cut]).contains("model.safetensors"));
    assert!(refused(&["generate", "--model", cut, "--tokens", "1"]).contains("model.safetensors"));
}

#[test]
fn bench_counts_the_tokens_it_makes() {
    let model = fixture("llama-mha-tied");
    let arguments = [
        "bench",
        "--model",
        model.to_str().unwrap(),
        "--batch",
        "6",
        "--samples",
        "3",
        "--prompt-tokens",
        "10",
        "--new-tokens",
        "5",
        "--threads",
        "1",
        "--json",
    ];
    let round = json_of(&arguments);
    assert_eq!(
        (&round["prompt_tokens"], &round["new_tokens"]),
        (&json!(20), &json!(30))
    );
}

/// Several steerings are added up, each at its strength.
#[test]
fn several_steerings_act_together() {
    let model = fixture("llama-mha-tied");
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let steering = file("steering.safetensors");
    additive_steering(&model, Path::new(&steering));
    let model = model.to_str().unwrap();
    let start = ["forward", "--model", model, "--tokens", "5,6,7", "--json"];
    let states = |name: &str, more: &[&str]| {
        let out = file(name);
        json_of(&[&start[..], more, &["--out", &out]].concat());
        std::fs::read(out).unwrap()
    };
    let (one, two) = (
        ["--steering", &steering],
        ["--steering", &steering, "--strength"],
    );
    let both = [&one[..], &one].concat();
    assert_eq!(
        states("both", &both),
        states("double", &[&two[..], &["2"]].concat())
    );
    assert_eq!(
        states(
            "apart",
            &[&both[..], &["--strength", "3", "--strength", "-2"]].concat()
        ),
        states("one", &one)
    );
    assert_ne!(
        states("one", &one),
        states("double", &[&two[..], &["2"]].concat())
    );
    let message = refused(
        &[
            &start[..],
            &both,
            &["--strength", "1", "--out", &file("none")],
        ]
        .concat(),
    );
    assert!(
        message.contains("2 --steering have 1 --strength"),
        "{message}"
    );
}

/// Writes a steering of a fixture of hidden size 48 and 3 layers: a vector added after layer 1.
fn additive_steering(model: &Path, file: &Path) {
    let digest = ModelManifest::of_dir(model).unwrap().digest;
    let mut steering = Steering::identity(digest, 48, 3);
    let additive = Additive::new(vec![0.5; 48]).unwrap();
    steering
        .push(1, Edit::new(Operator::Additive(additive)))
        .unwrap();
    steering.save(file).unwrap();
}

#[test]
fn bench_with_a_steering_measures_both() {
    let model = fixture("llama-gqa-untied");
    let folder = tempfile::tempdir().unwrap();
    let steering = folder.path().join("steering.safetensors");
    additive_steering(&model, &steering);
    let output = run(&[
        "bench",
        "--model",
        model.to_str().unwrap(),
        "--steering",
        steering.to_str().unwrap(),
        "--batch",
        "2",
        "--new-tokens",
        "3",
        "--rounds",
        "2",
        "--json",
    ]);
    let lines = String::from_utf8(output.stdout).unwrap();
    let engines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["engine"].clone())
        .collect();
    assert_eq!(engines, ["sims, steered", "sims", "sims", "sims, steered"]);
}

#[test]
fn bench_extract_counts_the_tokens_it_reads() {
    let model = fixture("llama-mha-tied");
    let arguments = [
        "bench-extract",
        "--model",
        model.to_str().unwrap(),
        "--layers",
        "0,1",
        "--sequences",
        "3",
        "--shortest",
        "5",
        "--longest",
        "10",
        "--json",
    ];
    let round = json_of(&arguments);
    // 37 * i mod 6 is 0, 1, 2.
    assert_eq!(
        (&round["sequences"], &round["tokens"]),
        (&json!(3), &json!(5 + 6 + 7))
    );
    let mut arguments = arguments.to_vec();
    arguments[8] = "11";
    assert!(refused(&arguments).contains("--shortest"));
}

#[test]
fn help_shows_examples() {
    let help = String::from_utf8(run(&["--help"]).stdout).unwrap();
    for command in ["info", "forward", "generate", "perplexity"] {
        assert!(help.contains(&format!("  sims-model {command} ")), "{help}");
    }
    assert!(
        String::from_utf8(run(&["--version"]).stdout)
            .unwrap()
            .starts_with("sims-model ")
    );
}
