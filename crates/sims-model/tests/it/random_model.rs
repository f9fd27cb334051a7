//! A random Llama small enough that plain loops can check everything it does.

use std::collections::BTreeMap;
use std::fs;

use safetensors::tensor::{Dtype as StoredDtype, TensorView};
use sims_model::decoder::Kernels;
use sims_model::generate::SampleKey;
use sims_model::{Batch, Decoder, Device, Dtype, Hook, KvCache, ModelError, Segment, Tensor};

pub(crate) const VOCAB: usize = 61;
pub(crate) const HIDDEN: usize = 32;
pub(crate) const LAYERS: usize = 3;
pub(crate) const CONTEXT: usize = 128;

/// Writes the model to a folder of its own and opens it.
pub(crate) fn decoder() -> Decoder {
    decoder_with_context(CONTEXT)
}

/// As [`decoder`], for sequences of up to `context` tokens.
pub(crate) fn decoder_with_context(context: usize) -> Decoder {
    let directory = tempfile::tempdir().unwrap();
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": 48,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": context,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": true,
    });
    fs::write(directory.path().join("config.json"), config.to_string()).unwrap();

    let mut shapes = BTreeMap::from([
        ("model.embed_tokens.weight".to_owned(), vec![VOCAB, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ]);
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("input_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.k_proj", vec![HIDDEN / 2, HIDDEN]),
            ("self_attn.v_proj", vec![HIDDEN / 2, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("mlp.gate_proj", vec![48, HIDDEN]),
            ("mlp.up_proj", vec![48, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, 48]),
        ] {
            shapes.insert(format!("model.layers.{layer}.{name}.weight"), shape);
        }
    }
    let tensors: BTreeMap<String, (Vec<usize>, Vec<u8>)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let key = SampleKey::new(1, 0, &name, 0);
            let is_norm = shape.len() == 1;
            let value = |i: usize| {
                let uniform = key.uniform(i as u64) as f32 - 0.5;
                if is_norm { 1.0 + uniform } else { uniform }
            };
            let bytes = (0..shape.iter().product())
                .flat_map(|i| value(i).to_le_bytes())
                .collect();
            (name, (shape, bytes))
        })
        .collect();
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        (
            name,
            TensorView::new(StoredDtype::F32, shape.clone(), bytes).unwrap(),
        )
    });
    let file = directory.path().join("model.safetensors");
    safetensors::serialize_to_file(views, None, &file).unwrap();
    Decoder::load(
        directory.path(),
        &[Device::Cpu],
        Dtype::F32,
        Kernels::Fastest,
    )
    .unwrap()
}

/// Made-up tokens, different for each `stream`.
pub(crate) fn tokens(stream: u32, length: usize) -> Vec<u32> {
    let key = SampleKey::new(2, 0, "tokens", stream);
    (0..length)
        .map(|i| (key.uniform(i as u64) * VOCAB as f64) as u32)
        .collect()
}

/// Logits `[vocab]` of every position of one sequence, run by itself in one pass.
pub(crate) fn plain_logits(
    decoder: &Decoder,
    tokens: &[u32],
    edit_from: usize,
    hook: Option<&mut dyn Hook>,
) -> Vec<Vec<f32>> {
    let mut batch = Batch::default();
    batch.push(tokens, Vec::new(), 0, edit_from);
    let mut cache = KvCache::new(decoder, tokens.len());
    let hidden = decoder.forward(&batch, &mut cache, hook).unwrap();
    decoder.logits(&hidden).unwrap().to_vec2().unwrap()
}

/// Log-probabilities of a row of logits, by the definition and in f64.
pub(crate) fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f64 = logits
        .iter()
        .map(|&logit| f64::from(logit - max).exp())
        .sum();
    logits
        .iter()
        .map(|&logit| f64::from(logit - max) - total.ln())
        .collect()
}

/// Adds a vector to the output of one block wherever editing is allowed, as a steering does.
pub(crate) struct Push {
    pub(crate) layer: usize,
    pub(crate) by: f32,
}

impl Hook for Push {
    fn wants(&self, layer: usize) -> bool {
        layer == self.layer
    }

    fn on_block(
        &mut self,
        _layer: usize,
        segments: &[Segment],
        hidden: &Tensor,
    ) -> Result<Option<Tensor>, ModelError> {
        let mut values: Vec<Vec<f32>> = hidden.to_vec2()?;
        for row in segments.iter().flat_map(Segment::edit_rows) {
            for (i, value) in values[row].iter_mut().enumerate() {
                *value += self.by * (1.0 + i as f32).sin();
            }
        }
        Ok(Some(Tensor::new(values, hidden.device())?))
    }
}
