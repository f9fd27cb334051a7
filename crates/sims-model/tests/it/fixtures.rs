//! The checkpoints in `tests/fixtures`, with what transformers computes on them; `make.py` there made them.

use std::fs;
use std::path::PathBuf;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as StoredDtype, TensorView};
use sims_model::decoder::Kernels;
use sims_model::{Batch, Decoder, Device, Dtype, Hook, KvCache, Result, Segment, Tensor};

/// Every checkpoint; what each is for is in its name and in `make.py`.
pub(crate) const NAMES: [&str; 31] = [
    "gemma2",
    "gemma3-multimodal",
    "gemma3-text",
    "gemma3-text-v4",
    "granite",
    "llama-biases-head-dim",
    "llama-gqa-untied",
    "llama-linear-rope",
    "llama-linear-rope-sharded",
    "llama-llama3-rope",
    "llama-llama3-rope-v4",
    "llama-mha-tied",
    "mistral",
    "mistral-window",
    "mixtral",
    "mixtral-window",
    "olmo2",
    "phi3",
    "phi3-longrope",
    "phi3-longrope-v4",
    "phi3-window",
    "qwen2",
    "qwen2-window",
    "qwen2-window-v5",
    "qwen2-yarn",
    "qwen3",
    "qwen3-moe",
    "qwen3-moe-unnormed",
    "qwen3-window",
    "qwen3-yarn",
    "smollm3",
];

/// The number of prompts of a checkpoint.
pub(crate) const PROMPTS: usize = 4;

/// Rows of numbers, one a token.
pub(crate) type Rows = Vec<Vec<f32>>;

/// A checkpoint and its references.
pub(crate) struct Fixture {
    pub(crate) directory: PathBuf,
    references: Vec<u8>,
}

impl Fixture {
    pub(crate) fn open(name: &str) -> Self {
        let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("tests/fixtures")
            .join(name);
        let references = fs::read(directory.join("reference.safetensors")).unwrap();
        Self {
            directory,
            references,
        }
    }

    pub(crate) fn decoder(&self, dtype: Dtype, kernels: Kernels) -> Decoder {
        Decoder::load(&self.directory, &[Device::Cpu], dtype, kernels).unwrap()
    }

    /// Returns the rows of a two-dimensional reference, if there is one of this name.
    pub(crate) fn rows(&self, name: &str) -> Option<Rows> {
        let file = SafeTensors::deserialize(&self.references).unwrap();
        let tensor = file.tensor(name).ok()?;
        let values: Vec<f32> = tensor
            .data()
            .as_chunks()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect();
        let width = *tensor.shape().last().unwrap();
        Some(values.chunks(width).map(<[f32]>::to_vec).collect())
    }

    /// Returns a reference of token ids.
    pub(crate) fn tokens(&self, name: &str) -> Vec<u32> {
        let file = SafeTensors::deserialize(&self.references).unwrap();
        let tensor = file.tensor(name).unwrap();
        tensor
            .data()
            .as_chunks()
            .0
            .iter()
            .map(|bytes| u32::try_from(i64::from_le_bytes(*bytes)).unwrap())
            .collect()
    }

    pub(crate) fn prompts(&self) -> Vec<Vec<u32>> {
        (0..PROMPTS)
            .map(|i| self.tokens(&format!("prompt.{i}")))
            .collect()
    }
}

/// Every block's output, as a hook sees it.
#[derive(Default)]
pub(crate) struct CaptureAll {
    /// One element a layer, `[rows, hidden]`.
    pub(crate) blocks: Vec<Rows>,
}

impl Hook for CaptureAll {
    fn wants(&self, _layer: usize) -> bool {
        true
    }

    fn on_block(
        &mut self,
        layer: usize,
        _segments: &[Segment],
        hidden: &Tensor,
    ) -> Result<Option<Tensor>> {
        assert_eq!(layer, self.blocks.len());
        self.blocks.push(hidden.to_vec2()?);
        Ok(None)
    }
}

/// Puts whole sequences into one batch, each in slots of its own.
pub(crate) fn batch_of(sequences: &[Vec<u32>]) -> Batch {
    let mut batch = Batch::default();
    for tokens in sequences {
        let slot = batch.tokens.len();
        batch.push(tokens, vec![], slot, 0);
    }
    batch
}

/// Returns the logits of every token of the sequences, run in one batch.
pub(crate) fn logits(
    decoder: &Decoder,
    sequences: &[Vec<u32>],
    hook: Option<&mut dyn Hook>,
) -> Rows {
    let batch = batch_of(sequences);
    let mut cache = KvCache::new(decoder, batch.tokens.len());
    run(decoder, &batch, &mut cache, hook)
}

/// Returns the logits of every row of the batch.
pub(crate) fn run(
    decoder: &Decoder,
    batch: &Batch,
    cache: &mut KvCache,
    hook: Option<&mut dyn Hook>,
) -> Rows {
    let hidden = decoder.forward(batch, cache, hook).unwrap();
    decoder.logits(&hidden).unwrap().to_vec2().unwrap()
}

/// Asserts that two lots of rows differ nowhere by more than `tolerance` and a hundred-thousandth of the value, as
/// numpy's `allclose` does: the reference is in f32 too.
#[track_caller]
pub(crate) fn assert_close(found: &[Vec<f32>], expected: &[Vec<f32>], tolerance: f32, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: rows");
    for (row, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.len(), expected.len(), "{what}: columns");
        for (column, (found, expected)) in found.iter().zip(expected).enumerate() {
            assert!(
                (found - expected).abs() <= tolerance + 1e-5 * expected.abs(),
                "{what}, row {row}, column {column}: {found}, not {expected}"
            );
        }
    }
}

/// Makes a random decoder of one block, which takes 8 MB: more than a thread keeps in its cache.
pub(crate) fn wide_decoder() -> Decoder {
    let (vocab, hidden, kv, ffn) = (61, 512, 256, 832);
    let directory = tempfile::tempdir().unwrap();
    let config = serde_json::json!({
        "model_type": "llama", "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": ffn,
        "num_hidden_layers": 1, "num_attention_heads": 16, "num_key_value_heads": 8,
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
    });
    fs::write(directory.path().join("config.json"), config.to_string()).unwrap();
    let shapes = [
        ("model.embed_tokens", vec![vocab, hidden]),
        ("model.norm", vec![hidden]),
        ("model.layers.0.input_layernorm", vec![hidden]),
        ("model.layers.0.self_attn.q_proj", vec![hidden, hidden]),
        ("model.layers.0.self_attn.k_proj", vec![kv, hidden]),
        ("model.layers.0.self_attn.v_proj", vec![kv, hidden]),
        ("model.layers.0.self_attn.o_proj", vec![hidden, hidden]),
        ("model.layers.0.post_attention_layernorm", vec![hidden]),
        ("model.layers.0.mlp.gate_proj", vec![ffn, hidden]),
        ("model.layers.0.mlp.up_proj", vec![ffn, hidden]),
        ("model.layers.0.mlp.down_proj", vec![hidden, ffn]),
    ];
    let mut state = 1u32;
    let mut value = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 * 0.1 - 0.1
    };
    let tensors = shapes.map(|(name, shape)| {
        let bytes: Vec<u8> = (0..shape.iter().product())
            .flat_map(|_| value().to_le_bytes())
            .collect();
        (format!("{name}.weight"), shape, bytes)
    });
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (
            name,
            TensorView::new(StoredDtype::F32, shape.clone(), bytes).unwrap(),
        )
    });
    safetensors::serialize_to_file(views, None, &directory.path().join("model.safetensors"))
        .unwrap();
    Decoder::load(
        directory.path(),
        &[Device::Cpu],
        Dtype::F32,
        Kernels::Fastest,
    )
    .unwrap()
}
