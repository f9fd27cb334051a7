//! GGUF files against transformers with the same unpacked weights; `make_gguf.py` made them with llama.cpp's tools.

use std::fs;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use sims_model::decoder::Kernels;
use sims_model::ops::InstructionSet;
use sims_model::{
    ChatMessage, Config, Decoder, Device, Dtype, GenerationConfig, Hook, LanguageModel,
    LoadOptions, ModelError, Result, Segment, Tensor, Tokenizer,
};

use crate::fixtures::{CaptureAll, Rows, assert_close, logits};

/// What f32 sums in another order may move a logit by.
const TOLERANCE: f32 = 1e-4;

/// Every file; the format that it is mostly stored in is in its name.
const NAMES: [&str; 17] = [
    "gemma2-q4_1",
    "gemma3-q4_0",
    "granite-q5_0",
    "llama-biases-f16",
    "llama-linear-rope-f32",
    "llama-llama3-rope-q4_0",
    "llama-q4_k_m",
    "llama-spm-q8_0",
    "mixtral-q5_0",
    "olmo2-q5_1",
    "phi3-f16",
    "phi3-longrope-q4_0",
    "qwen2-q5_0",
    "qwen2-yarn-bf16",
    "qwen3-mixed",
    "qwen3-moe-q4_0",
    "smollm3-q4_1",
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/gguf")
}

fn file(name: &str) -> PathBuf {
    folder().join(format!("{name}.gguf"))
}

fn load(path: &Path, dtype: Dtype, kernels: Kernels) -> Result<Decoder> {
    Decoder::load(path, &[Device::Cpu], dtype, kernels)
}

fn decoder(name: &str, kernels: Kernels) -> Decoder {
    load(&file(name), Dtype::F32, kernels).unwrap()
}

/// What transformers computed.
struct References(Vec<u8>);

impl References {
    fn open(name: &str) -> Self {
        Self(fs::read(folder().join(format!("{name}.safetensors"))).unwrap())
    }

    fn rows(&self, name: &str) -> Option<Rows> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(name).ok()?;
        let bytes = tensor.data().as_chunks().0;
        let values: Vec<f32> = bytes.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let width = *tensor.shape().last().unwrap();
        Some(values.chunks(width).map(<[f32]>::to_vec).collect())
    }

    fn prompt(&self, i: usize) -> Vec<u32> {
        let file = SafeTensors::deserialize(&self.0).unwrap();
        let tensor = file.tensor(&format!("prompt.{i}")).unwrap();
        let bytes = tensor.data().as_chunks().0;
        bytes
            .iter()
            .map(|b| u32::try_from(i64::from_le_bytes(*b)).unwrap())
            .collect()
    }

    fn prompts(&self) -> Vec<Vec<u32>> {
        (0..3).map(|i| self.prompt(i)).collect()
    }
}

#[test]
fn logits_match_transformers_with_the_unpacked_weights() {
    for name in NAMES {
        let references = References::open(name);
        for kernels in [Kernels::Fastest, Kernels::Candle] {
            let decoder = decoder(name, kernels);
            for i in 0..3 {
                let what = format!("{name}, prompt {i}, {kernels:?}");
                let mut capture = CaptureAll::default();
                let found = logits(&decoder, &[references.prompt(i)], Some(&mut capture));
                let expected = references.rows(&format!("logits.{i}")).unwrap();
                assert_close(&found, &expected, TOLERANCE, &what);
                if let Some(expected) = references.rows(&format!("blocks.{i}")) {
                    assert_close(&capture.blocks.concat(), &expected, TOLERANCE, &what);
                }
            }
        }
    }
}

#[test]
fn batches_threads_and_instruction_sets_do_not_change_a_bit() {
    let one = rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build()
        .unwrap();
    let three = rayon::ThreadPoolBuilder::new()
        .num_threads(3)
        .build()
        .unwrap();
    for name in ["llama-q4_k_m", "qwen3-mixed", "mixtral-q5_0", "phi3-f16"] {
        let prompts = References::open(name).prompts();
        let widest = decoder(name, Kernels::Fastest);
        let alone: Rows = prompts
            .iter()
            .flat_map(|prompt| logits(&widest, std::slice::from_ref(prompt), None))
            .collect();
        for set in InstructionSet::available() {
            let decoder = decoder(name, Kernels::Cpu(set));
            for pool in [&one, &three] {
                let together = pool.install(|| logits(&decoder, &prompts, None));
                assert!(together == alone, "{name}, {}", set.name());
            }
        }
    }
}

/// Adds a constant to the residual stream after one block.
struct Push(usize);

impl Hook for Push {
    fn wants(&self, layer: usize) -> bool {
        layer == self.0
    }

    fn on_block(
        &mut self,
        _layer: usize,
        _segments: &[Segment],
        hidden: &Tensor,
    ) -> Result<Option<Tensor>> {
        Ok(Some((hidden + 0.5)?))
    }
}

#[test]
fn a_quantised_model_is_steered_as_any_other() {
    for name in ["qwen2-q5_0", "gemma2-q4_1"] {
        let prompts = References::open(name).prompts();
        let [fast, plain] = [Kernels::Fastest, Kernels::Candle].map(|kernels| {
            let decoder = decoder(name, kernels);
            (
                logits(&decoder, &prompts, None),
                logits(&decoder, &prompts, Some(&mut Push(1))),
            )
        });
        assert_close(&fast.1, &plain.1, TOLERANCE, name);
        let moved = fast
            .0
            .iter()
            .zip(&fast.1)
            .all(|(base, pushed)| base != pushed);
        assert!(moved, "{name}");
    }
}

#[test]
fn quantised_weights_stay_as_they_are_stored() {
    // All matrices of the file are blocks; what is left are norms and the header.
    for (name, bits) in [
        ("llama-q4_k_m", 5.6),
        ("qwen3-mixed", 5.2),
        ("qwen2-q5_0", 6.0),
    ] {
        let decoder = decoder(name, Kernels::Fastest);
        let stored = decoder.weight_bytes().unwrap();
        let size = usize::try_from(fs::metadata(file(name)).unwrap().len()).unwrap();
        assert!(stored < size, "{name}: {stored} bytes of a file of {size}");
        let per_weight = 8.0 * stored as f64 / decoder.config().parameters() as f64;
        assert!(per_weight < bits, "{name}: {per_weight} bits a weight");
    }
}

#[test]
fn bf16_rounds_what_is_stored_as_floats() {
    let prompts = References::open("qwen2-yarn-bf16").prompts();
    let [f32, bf16] = [Dtype::F32, Dtype::Bf16].map(|dtype| {
        let decoder = load(&file("qwen2-yarn-bf16"), dtype, Kernels::Fastest).unwrap();
        logits(&decoder, &prompts, None)
    });
    // Only the norms, which are stored in f32, change.
    assert_close(&f32, &bf16, 0.2, "bf16");
    let quantised = [Dtype::F32, Dtype::Bf16].map(|dtype| {
        let decoder = load(&file("qwen3-mixed"), dtype, Kernels::Fastest).unwrap();
        decoder.weight_bytes().unwrap()
    });
    assert_eq!(quantised[0], quantised[1]);
}

#[derive(serde::Deserialize)]
struct Encoded {
    text: String,
    ids: Vec<u32>,
    document: Vec<u32>,
    decoded: String,
}

#[test]
fn texts_are_the_tokens_of_the_original_tokenizer() {
    let known = fs::read_to_string(folder().join("tokenizers.json")).unwrap();
    let known: std::collections::BTreeMap<String, Vec<Encoded>> =
        serde_json::from_str(&known).unwrap();
    assert_eq!(known.len(), 2);
    for (name, texts) in known {
        let tokenizer = Tokenizer::open(&file(&name)).unwrap();
        for expected in texts {
            let what = format!("{name}: {:?}", expected.text);
            assert_eq!(
                tokenizer.encode(&expected.text).unwrap(),
                expected.ids,
                "{what}"
            );
            let document = tokenizer.encode_document(&expected.text).unwrap();
            assert_eq!(document, expected.document, "{what}");
            assert_eq!(
                tokenizer.decode(&expected.ids).unwrap(),
                expected.decoded,
                "{what}"
            );
        }
    }
}

#[test]
fn a_file_is_a_whole_language_model() {
    let path = file("llama-q4_k_m");
    let model = LanguageModel::load(&path, &LoadOptions::default()).unwrap();
    assert_eq!(model.directory(), path);
    let prompt = model
        .chat_template()
        .unwrap()
        .render(&[ChatMessage::new("user", "Hi")], true)
        .unwrap();
    let expected = "<|begin_of_text|><|start|>user\nHi<|eot_id|><|start|>assistant\n";
    assert_eq!(prompt, expected);
    let end = model.tokenizer().token_id("<|eot_id|>").unwrap();
    assert_eq!(model.generation_config().eos_token_ids, [end]);
    assert_eq!(
        GenerationConfig::open(&path, model.decoder().config()).unwrap(),
        *model.generation_config()
    );
    assert!(model.judge_template().is_none());
    let specials = ["<|begin_of_text|>", "<|eot_id|>", "<|start|>"];
    assert_eq!(model.tokenizer().special_tokens(), specials);
    assert!(Config::open(&path).unwrap().tie_word_embeddings);
}

/// Returns what is said of a damaged copy of a file.
#[track_caller]
fn refusal(name: &str, damage: impl FnOnce(&mut Vec<u8>)) -> ModelError {
    let mut bytes = fs::read(file(name)).unwrap();
    damage(&mut bytes);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    load(&path, Dtype::F32, Kernels::Fastest)
        .err()
        .expect("refused")
}

/// Returns where `text` first is in the file.
fn find(bytes: &[u8], text: &str) -> usize {
    let found = bytes
        .windows(text.len())
        .position(|window| window == text.as_bytes());
    found.unwrap()
}

#[test]
fn a_damaged_file_is_refused_with_what_is_wrong() {
    let name = "qwen2-q5_0";
    let error = refusal(name, |bytes| bytes[0] = b'g');
    assert!(matches!(&error, ModelError::GgufFile { .. }), "{error:?}");
    let error = refusal(name, |bytes| bytes.truncate(300)).to_string();
    assert!(
        error.ends_with("is not a complete GGUF file: it ends within the header"),
        "{error}"
    );
    let error = refusal(name, |bytes| bytes.truncate(bytes.len() - 100)).to_string();
    assert!(
        error.ends_with("ends beyond the end of the file; is the file cut off?"),
        "{error}"
    );

    let tensor = "blk.1.ffn_down.weight";
    let format_of = |bytes: &[u8]| find(bytes, tensor) + tensor.len() + 4 + 2 * 8;
    let error = refusal(name, |bytes| {
        let at = format_of(bytes);
        bytes[at] = 20;
    });
    let text = error.to_string();
    assert!(
        text.contains("tensor blk.1.ffn_down.weight is stored as type 20 (IQ4_NL); F32"),
        "{text}"
    );
    let error = refusal(name, |bytes| {
        let at = format_of(bytes);
        bytes[at] = 12; // Q4_K
    });
    let text = error.to_string();
    assert!(
        text.contains("has rows of 64, which Q4_K does not store"),
        "{text}"
    );
    let error = refusal(name, |bytes| {
        let at = find(bytes, tensor) + tensor.len() + 4;
        bytes[at] = 96;
    });
    assert!(
        matches!(&error, ModelError::TensorShape { tensor: found, .. } if found == tensor),
        "{error:?}"
    );
    let error = refusal(name, |bytes| {
        let at = find(bytes, tensor);
        bytes[at] = b'x';
    });
    assert!(
        matches!(&error, ModelError::MissingTensor { tensor: found, .. } if found == tensor),
        "{error:?}"
    );
    let error = refusal("olmo2-q5_1", |bytes| {
        let tail = bytes.len() - 2000;
        bytes[tail..].fill(0xff);
    });
    assert!(
        error.to_string().contains("is NaN or infinite at element "),
        "{error}"
    );

    let error = refusal(name, |bytes| {
        let at = find(bytes, "qwen2");
        bytes[at..at + 5].copy_from_slice(b"mamba");
    });
    let text = error.to_string();
    assert!(
        text.contains("general.architecture: `mamba` is not one of gemma2, "),
        "{text}"
    );
    let error = refusal(name, |bytes| {
        let at = find(bytes, "rope.freq_base");
        bytes[at..at + 14].copy_from_slice(b"rope.frxq_base");
    });
    let text = error.to_string();
    assert!(
        text.contains("qwen2.rope.frxq_base: is not known"),
        "{text}"
    );
}

#[test]
fn a_file_that_is_not_there_or_not_read_is_named() {
    let error = load(
        Path::new("/nowhere/model.gguf"),
        Dtype::F32,
        Kernels::Fastest,
    );
    assert_eq!(
        error.err().unwrap().to_string(),
        "cannot read /nowhere/model.gguf"
    );
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weights.bin");
    fs::write(&path, "no model").unwrap();
    let error = load(&path, Dtype::F32, Kernels::Fastest)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.ends_with("it does not start with the letters GGUF"),
        "{error}"
    );
}

#[test]
fn a_tokenizer_that_is_not_known_is_named() {
    let refused = |from: &str, to: &str| {
        let mut bytes = fs::read(file("llama-q4_k_m")).unwrap();
        let at = find(&bytes, from);
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.gguf");
        fs::write(&path, bytes).unwrap();
        Tokenizer::open(&path).err().unwrap().to_string()
    };
    let error = refused("llama-bpe", "llama-xyz");
    assert!(
        error.contains("tokenizer.ggml.pre: `llama-xyz` is not one of command-r, "),
        "{error}"
    );
    let error = refused("gpt2", "bert");
    assert!(
        error.contains("tokenizer.ggml.model: `bert` is not one of gpt2, llama"),
        "{error}"
    );
}
