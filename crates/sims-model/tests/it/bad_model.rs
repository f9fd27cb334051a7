//! Model directories with something wrong: each is refused with the file and the key or tensor at fault.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as StoredDtype, TensorView};
use serde_json::{Value, json};
use sims_model::decoder::Kernels;
use sims_model::{Decoder, Device, Dtype, LanguageModel, LoadOptions, ModelError};

use crate::fixtures::Fixture;

/// A copy of a checkpoint that a test may spoil.
struct Copy {
    directory: tempfile::TempDir,
}

/// Tensors by name: type, shape, bytes.
type Tensors = BTreeMap<String, (StoredDtype, Vec<usize>, Vec<u8>)>;

impl Copy {
    fn of(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(Fixture::open(name).directory).unwrap() {
            let entry = entry.unwrap();
            if entry.file_name() != "reference.safetensors" {
                fs::copy(entry.path(), directory.path().join(entry.file_name())).unwrap();
            }
        }
        Self { directory }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    fn edit_config(&self, edit: impl FnOnce(&mut Value)) {
        let path = self.path("config.json");
        let mut config = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        edit(&mut config);
        fs::write(path, config.to_string()).unwrap();
    }

    fn edit_tensors(&self, edit: impl FnOnce(&mut Tensors)) {
        let path = self.path("model.safetensors");
        let bytes = fs::read(&path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors: Tensors = file
            .tensors()
            .into_iter()
            .map(|(name, view)| {
                (
                    name,
                    (view.dtype(), view.shape().to_vec(), view.data().to_vec()),
                )
            })
            .collect();
        edit(&mut tensors);
        let views = tensors.iter().map(|(name, (dtype, shape, data))| {
            (name, TensorView::new(*dtype, shape.clone(), data).unwrap())
        });
        safetensors::serialize_to_file(views, None, &path).unwrap();
    }

    /// Returns how loading fails, with the directory's own path left out of the message.
    fn refusal(&self) -> (ModelError, String) {
        let loaded = Decoder::load(
            self.directory.path(),
            &[Device::Cpu],
            Dtype::F32,
            Kernels::Fastest,
        );
        let error = loaded.err().expect("refused");
        let message = self.without_path(&error);
        (error, message)
    }

    fn without_path(&self, error: &ModelError) -> String {
        error
            .to_string()
            .replace(&format!("{}/", self.directory.path().display()), "")
    }

    fn write_tokenizer(&self, words: usize) {
        let vocabulary: serde_json::Map<_, _> = (0..words)
            .map(|i| (format!("w{i}"), Value::from(i)))
            .collect();
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "w0"}
        });
        fs::write(self.path("tokenizer.json"), tokenizer.to_string()).unwrap();
    }

    fn load(&self) -> Result<LanguageModel, ModelError> {
        LanguageModel::load(self.directory.path(), &LoadOptions::default())
    }
}

#[test]
fn truncated_weights_are_refused() {
    let copy = Copy::of("llama-mha-tied");
    let path = copy.path("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    for length in [bytes.len() - 1, bytes.len() / 2, 100, 4, 0] {
        fs::write(&path, &bytes[..length]).unwrap();
        let (error, message) = copy.refusal();
        assert!(
            matches!(error, ModelError::WeightFile { .. }),
            "{length} bytes: {error:?}"
        );
        assert_eq!(
            message,
            "model.safetensors is not a complete safetensors file"
        );
    }
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    for (name, value, shown) in [
        ("llama-mha-tied", f32::NAN, "NaN"),
        ("llama-gqa-untied", f32::INFINITY, "inf"),
    ] {
        let copy = Copy::of(name);
        copy.edit_tensors(|tensors| {
            let (_, _, data) = tensors
                .get_mut("model.layers.1.mlp.up_proj.weight")
                .unwrap();
            data[4 * 17..4 * 18].copy_from_slice(&value.to_le_bytes());
        });
        let (error, message) = copy.refusal();
        assert!(matches!(
            error,
            ModelError::NonFiniteWeight { element: 17, .. }
        ));
        let tensor = "model.layers.1.mlp.up_proj.weight";
        assert_eq!(
            message,
            format!("model.safetensors: tensor {tensor} has the value {shown} at element 17")
        );
    }
}

#[test]
fn missing_extra_misshapen_and_unreadable_tensors_are_refused() {
    const NAME: &str = "model.layers.2.self_attn.k_proj.weight";
    let edited = |edit: fn(&mut Tensors)| {
        let copy = Copy::of("llama-mha-tied");
        copy.edit_tensors(edit);
        copy.refusal().1
    };
    assert_eq!(
        edited(|tensors| drop(tensors.remove(NAME))),
        format!("model.safetensors: tensor {NAME} is missing")
    );
    assert_eq!(
        edited(|tensors| drop(tensors.insert(
            "model.layers.3.mlp.bias".into(),
            (StoredDtype::F32, vec![1], vec![0; 4])
        ))),
        "model.safetensors: tensor model.layers.3.mlp.bias has no place in a model of this config"
    );
    assert_eq!(
        edited(|tensors| tensors.get_mut(NAME).unwrap().1 = vec![24, 96]),
        format!("model.safetensors: tensor {NAME} has shape [24, 96], the config implies [48, 48]")
    );
    assert_eq!(
        edited(|tensors| tensors.get_mut(NAME).unwrap().0 = StoredDtype::I32),
        format!("model.safetensors: tensor {NAME} is stored as I32; F32, F16 and BF16 are read")
    );
}

#[test]
fn a_tied_head_that_differs_from_the_embedding_is_refused() {
    let copy = Copy::of("llama-gqa-untied");
    copy.edit_config(|config| config["tie_word_embeddings"] = true.into());
    assert!(matches!(copy.refusal().0, ModelError::UntiedHead { .. }));
}

#[test]
fn a_shard_or_file_that_is_not_there_is_named() {
    let copy = Copy::of("llama-linear-rope-sharded");
    fs::remove_file(copy.path("model-00002-of-00006.safetensors")).unwrap();
    let message = copy.refusal().1;
    assert_eq!(
        message,
        "model-00002-of-00006.safetensors is missing: the index names it as a weight file"
    );

    let copy = Copy::of("llama-linear-rope-sharded");
    fs::copy(
        copy.path("model-00001-of-00006.safetensors"),
        copy.path("model-00002-of-00006.safetensors"),
    )
    .unwrap();
    assert!(matches!(copy.refusal().0, ModelError::ExtraTensor { .. }));

    let copy = Copy::of("llama-mha-tied");
    fs::remove_file(copy.path("model.safetensors")).unwrap();
    assert!(
        copy.refusal()
            .1
            .starts_with("model.safetensors is missing: ")
    );
    fs::remove_file(copy.path("config.json")).unwrap();
    assert!(copy.refusal().1.starts_with("config.json is missing: "));
}

#[test]
fn unknown_families_and_rope_types_are_refused_with_the_known_ones() {
    let copy = Copy::of("llama-llama3-rope");
    copy.edit_config(|config| config["rope_parameters"]["rope_type"] = "dynamic".into());
    let expected = "config.json: rope_parameters.rope_type: `dynamic` is not one of default, linear, llama3, yarn, \
                    longrope";
    assert_eq!(copy.refusal().1, expected);
    let known: Vec<_> = sims_model::config::known_families().collect();
    copy.edit_config(|config| config["model_type"] = "gpt2".into());
    assert_eq!(
        copy.refusal().1,
        format!(
            "config.json: model_type: `gpt2` is not one of {}",
            known.join(", ")
        )
    );
    fs::write(copy.path("config.json"), "{").unwrap();
    assert_eq!(copy.refusal().1, "config.json is not valid");
}

#[test]
fn a_tokenizer_that_is_missing_broken_or_too_large_is_refused() {
    let copy = Copy::of("llama-mha-tied");
    let refusal = |copy: &Copy| copy.without_path(&copy.load().err().expect("refused"));
    assert_eq!(
        refusal(&copy),
        "tokenizer.json is missing: it turns text into tokens"
    );
    fs::write(copy.path("tokenizer.json"), "{}").unwrap();
    assert!(refusal(&copy).starts_with("tokenizer: tokenizer.json: "));
    copy.write_tokenizer(152);
    assert_eq!(
        refusal(&copy),
        "tokenizer.json knows 152 tokens, but the model's vocab_size is 151"
    );
    copy.write_tokenizer(20);
    write(
        &copy.path("generation_config.json"),
        &json!({"eos_token_id": 20}),
    );
    assert!(refusal(&copy).starts_with("tokenizer: tokenizer.json has no token 20, which"));
}

#[test]
fn a_whole_directory_loads_with_what_its_files_say() {
    let copy = Copy::of("llama-mha-tied");
    copy.write_tokenizer(151);
    let model = copy.load().expect("loaded");
    assert_eq!(
        model.tokenizer().encode("w3 w150 other").unwrap(),
        [3, 150, 0]
    );
    assert_eq!(model.tokenizer().decode(&[3, 150]).unwrap(), "w3 w150");
    assert!(model.chat_template().is_err() && model.judge_template().is_none());
    assert!(model.generation_config().eos_token_ids.is_empty());

    write(
        &copy.path("generation_config.json"),
        &json!({"eos_token_id": [4, 5]}),
    );
    write(
        &copy.path("tokenizer_config.json"),
        &json!({"chat_template": "{{ messages[0].content }} w9"}),
    );
    let judge = json!({
        "version": "t-1", "messages": [{"role": "user", "content": "{{ request }} {{ first }} {{ second }}"}],
        "assistant_prefix": "", "verdict_a": ["w7", "w1 w2"], "verdict_b": ["w8"]
    });
    write(&copy.path("judge_template.json"), &judge);
    let model = copy.load().expect("loaded");
    assert_eq!(model.generation_config().eos_token_ids, [4, 5]);
    let judge = model.judge_template().expect("there");
    let prompt = judge
        .prompt(Some(model.chat_template().unwrap()), "w1", "w2", "w3")
        .unwrap();
    assert_eq!(prompt, "w1 w2 w3 w9");
    let verdicts = judge.verdict_tokens(model.tokenizer()).unwrap();
    assert_eq!((verdicts.a, verdicts.b), (vec![7], vec![8]));

    fs::write(
        copy.path("tokenizer_config.json"),
        r#"{"chat_template": "{% for %}"}"#,
    )
    .unwrap();
    assert!(matches!(
        copy.load().err().expect("refused"),
        ModelError::Template {
            template: "chat",
            ..
        }
    ));
}

fn write(path: &Path, value: &Value) {
    fs::write(path, value.to_string()).unwrap();
}
