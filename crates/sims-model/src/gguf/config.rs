//! The settings of a GGUF file as the keys of a Hugging Face `config.json`.

use serde_json::{Map, Value as Json, json};

use super::names::Architecture;
use super::{GgufFile, Value};
use crate::{Config, Result};

/// The settings that are read for every architecture, or mean nothing to the forward pass.
///
/// Another one may change what is computed, and is refused unless the architecture reads it.
const SETTINGS: [&str; 21] = [
    "vocab_size",
    "context_length",
    "embedding_length",
    "block_count",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "tensor_data_layout",
];

/// Settings that are accepted at the value that changes nothing.
const NEUTRAL: [(&str, Value); 10] = [
    ("attention.causal", Value::Bool(true)),
    ("expert_count", Value::Integer(0)),
    ("expert_used_count", Value::Integer(0)),
    ("expert_shared_count", Value::Integer(0)),
    ("expert_gating_func", Value::Integer(1)), // softmax
    ("expert_weights_norm", Value::Bool(true)),
    ("rope.scaling.finetuned", Value::Bool(true)),
    ("rope.scaling.yarn_ext_factor", Value::Float(1.0)),
    ("use_parallel_residual", Value::Bool(false)),
    ("pooling_type", Value::Integer(0)),
];

impl Architecture {
    /// Returns the settings that the architecture reads beside those of all.
    fn settings(self) -> &'static [&'static str] {
        match self {
            Self::Llama => &[
                "attention.sliding_window",
                "expert_count",
                "expert_used_count",
            ],
            Self::Qwen3Moe => &[
                "expert_count",
                "expert_used_count",
                "expert_feed_forward_length",
            ],
            Self::Gemma2 => &[
                "attention.sliding_window",
                "attn_logit_softcapping",
                "final_logit_softcapping",
            ],
            Self::Gemma3 => &[
                "attention.sliding_window",
                "attention.sliding_window_pattern",
                "final_logit_softcapping",
                "rope.freq_base_swa",
            ],
            Self::Granite => &[
                "attention.scale",
                "embedding_scale",
                "residual_scale",
                "logit_scale",
            ],
            Self::Phi3 => &["attention.sliding_window"],
            Self::Olmo2 | Self::Qwen2 | Self::Qwen3 | Self::SmolLm3 => &[],
        }
    }
}

impl GgufFile {
    /// Returns the architecture.
    ///
    /// # Errors
    /// As [`config_keys`](Self::config_keys).
    pub fn config(&self) -> Result<Config> {
        let mut config = Config::from_keys(&self.config_keys()?, &self.path)?;
        // Conversion has added it.
        config.norm_adds_one = false;
        Ok(config)
    }

    /// Returns the settings with the keys of `config.json`.
    ///
    /// # Errors
    /// [`ModelError::Config`](crate::ModelError::Config) with the key that is absent or not computed by this
    /// decoder, and [`ModelError::GgufTensor`](crate::ModelError::GgufTensor) for a tensor of settings.
    pub fn config_keys(&self) -> Result<Map<String, Json>> {
        self.refuse_unknown_settings()?;
        let mut keys = Map::new();
        let mut put = |key: &str, value: Json| drop(keys.insert(key.to_owned(), value));

        let vocab_size = self.header.tensors.get("token_embd.weight");
        put(
            "vocab_size",
            vocab_size
                .and_then(|info| info.shape.first().copied())
                .into(),
        );
        let heads = self.uniform("attention.head_count")?;
        for (key, value) in [
            ("hidden_size", self.setting_count("embedding_length")?),
            ("num_hidden_layers", self.setting_count("block_count")?),
            ("intermediate_size", self.uniform("feed_forward_length")?),
            ("num_attention_heads", heads),
            (
                "num_key_value_heads",
                self.uniform("attention.head_count_kv")?.or(heads),
            ),
            (
                "max_position_embeddings",
                self.setting_count("context_length")?,
            ),
        ] {
            let missing = || self.refuse(&self.key(setting_of(key)), "is missing");
            put(key, value.ok_or_else(missing)?.into());
        }
        let head_dim = self.head_dim()?;
        put("head_dim", head_dim.into());
        let turned = self.setting_count("rope.dimension_count")?;
        let turned = turned.unwrap_or(head_dim);
        put(
            "rms_norm_eps",
            self.setting_number("attention.layer_norm_rms_epsilon")?
                .into(),
        );
        put(
            "rope_theta",
            self.setting_number("rope.freq_base")?
                .unwrap_or(10_000.0)
                .into(),
        );
        put("rope_scaling", self.rope_scaling(turned)?);
        if turned != head_dim {
            put(
                "partial_rotary_factor",
                (turned as f64 / head_dim as f64).into(),
            );
        }
        let has = |tensor: &str| self.header.tensors.contains_key(tensor);
        put("tie_word_embeddings", (!has("output.weight")).into());
        put("eos_token_id", self.end_tokens()?.into());

        self.put_family(&mut keys, head_dim)?;
        Ok(keys)
    }

    /// Adds what the architectures differ in.
    fn put_family(&self, keys: &mut Map<String, Json>, head_dim: usize) -> Result<()> {
        let has = |tensor: &str| self.header.tensors.contains_key(tensor);
        // A switch that a family does not have is not given, be it off.
        let mut put = |key: &str, value: Json| {
            if !matches!(value, Json::Null | Json::Bool(false)) {
                keys.insert(key.to_owned(), value);
            }
        };
        let window = self.setting_count("attention.sliding_window")?;
        let window = window.filter(|&window| window > 0);
        let blocks = self.setting_count("block_count")?.unwrap_or(0);
        let attention_bias = has("blk.0.attn_q.bias");
        match self.architecture {
            Architecture::Llama => {
                let experts = self.setting_count("expert_count")?.unwrap_or(0);
                if experts > 0 {
                    put("model_type", "mixtral".into());
                    put("num_local_experts", experts.into());
                    let used = self.setting_count("expert_used_count")?;
                    put("num_experts_per_tok", used.into());
                    put("sliding_window", window.into());
                } else if window.is_some() {
                    put("model_type", "mistral".into());
                    put("sliding_window", window.into());
                } else {
                    put("model_type", "llama".into());
                    put("attention_bias", attention_bias.into());
                    put("mlp_bias", has("blk.0.ffn_gate.bias").into());
                }
            }
            Architecture::Qwen2 => put("model_type", "qwen2".into()),
            Architecture::Qwen3 => {
                put("model_type", "qwen3".into());
                put("attention_bias", attention_bias.into());
            }
            Architecture::Qwen3Moe => {
                put("model_type", "qwen3_moe".into());
                put("attention_bias", attention_bias.into());
                put("num_experts", self.setting_count("expert_count")?.into());
                let used = self.setting_count("expert_used_count")?;
                put("num_experts_per_tok", used.into());
                let width = self.setting_count("expert_feed_forward_length")?;
                put("moe_intermediate_size", width.into());
                // Files do not say so; llama.cpp computes no other.
                put("norm_topk_prob", true.into());
                let dense = |block: &usize| has(&format!("blk.{block}.ffn_gate.weight"));
                let dense: Vec<usize> = (0..blocks).filter(dense).collect();
                put("mlp_only_layers", dense.into());
            }
            Architecture::Gemma2 => {
                put("model_type", "gemma2".into());
                for key in ["attn_logit_softcapping", "final_logit_softcapping"] {
                    put(key, self.setting_number(key)?.into());
                }
                put("sliding_window", window.into());
                put(
                    "query_pre_attn_scalar",
                    self.query_scalar(head_dim, blocks == 46)?,
                );
            }
            Architecture::Gemma3 => {
                put("model_type", "gemma3_text".into());
                let cap = "final_logit_softcapping";
                put(cap, self.setting_number(cap)?.into());
                let local = self.setting_number("rope.freq_base_swa")?;
                put("rope_local_base_freq", local.unwrap_or(10_000.0).into());
                put("sliding_window", window.into());
                put(
                    "query_pre_attn_scalar",
                    self.query_scalar(head_dim, blocks == 62)?,
                );
                put("layer_types", self.layer_types(blocks, window.map(|_| 6))?);
            }
            Architecture::Granite => {
                put("model_type", "granite".into());
                put("attention_bias", attention_bias.into());
                put("mlp_bias", has("blk.0.ffn_gate.bias").into());
                for (key, setting) in [
                    ("attention_multiplier", "attention.scale"),
                    ("embedding_multiplier", "embedding_scale"),
                    ("residual_multiplier", "residual_scale"),
                    ("logits_scaling", "logit_scale"),
                ] {
                    put(key, self.setting_number(setting)?.into());
                }
            }
            Architecture::Olmo2 => {
                put("model_type", "olmo2".into());
                put("attention_bias", attention_bias.into());
            }
            Architecture::Phi3 => {
                put("model_type", "phi3".into());
                put("sliding_window", window.into());
            }
            Architecture::SmolLm3 => {
                put("model_type", "smollm3".into());
                put("attention_bias", attention_bias.into());
                put("mlp_bias", has("blk.0.ffn_gate.bias").into());
            }
        }
        Ok(())
    }

    /// Returns Gemma's `query_pre_attn_scalar`, which files do not hold: a head's width, but in the models of 27
    /// billion parameters what the residual stream has for each head.
    fn query_scalar(&self, head_dim: usize, largest: bool) -> Result<Json> {
        let hidden = self.setting_count("embedding_length")?.unwrap_or(0);
        let heads = self.uniform("attention.head_count")?.unwrap_or(1).max(1);
        Ok(if largest { hidden / heads } else { head_dim }.into())
    }

    /// Returns `layer_types`: every layer but each `every`th attends within a window, or as the file says.
    fn layer_types(&self, blocks: usize, every: Option<usize>) -> Result<Json> {
        let key = self.key("attention.sliding_window_pattern");
        let slides: Vec<bool> = match (self.get(&key), every) {
            (_, None) => vec![false; blocks],
            (Some(Value::Array(slides)), _) if slides.len() == blocks => slides
                .iter()
                .map(|slides| !matches!(slides, Value::Bool(false) | Value::Integer(0)))
                .collect(),
            (Some(Value::Array(_)), _) => {
                let message = format!("has no entry for each of the {blocks} blocks");
                return Err(self.refuse(&key, message));
            }
            (_, Some(every)) => {
                let every = self.optional_count(&key)?.unwrap_or(every);
                (1..=blocks)
                    .map(|block| every > 0 && block % every != 0)
                    .collect()
            }
        };
        let kind = |slides| {
            if slides {
                "sliding_attention"
            } else {
                "full_attention"
            }
        };
        Ok(slides.into_iter().map(kind).collect())
    }

    /// Returns the metadata's key of a setting of the architecture.
    fn key(&self, setting: &str) -> String {
        format!("{}.{setting}", self.architecture.name())
    }

    fn setting_count(&self, setting: &str) -> Result<Option<usize>> {
        self.optional_count(&self.key(setting))
    }

    fn setting_number(&self, setting: &str) -> Result<Option<f64>> {
        self.optional_number(&self.key(setting))
    }

    /// Returns a count that may be given once or for each block.
    fn uniform(&self, setting: &str) -> Result<Option<usize>> {
        let key = self.key(setting);
        let Some(Value::Array(values)) = self.get(&key) else {
            return self.optional_count(&key);
        };
        match &values[..] {
            [Value::Integer(first), rest @ ..] if rest.iter().all(|value| *value == values[0]) => {
                let count = usize::try_from(*first).map(Some);
                count.map_err(|_| self.refuse(&key, format!("{first} is not a count")))
            }
            _ => Err(self.refuse(&key, "differs between blocks, which is not computed")),
        }
    }

    /// Returns the width of one head.
    pub(crate) fn head_dim(&self) -> Result<usize> {
        let (key, value) = ("attention.key_length", "attention.value_length");
        let head_dim = match self.setting_count(key)? {
            Some(head_dim) => head_dim,
            None => {
                let hidden = self.setting_count("embedding_length")?.unwrap_or(0);
                hidden / self.uniform("attention.head_count")?.unwrap_or(1).max(1)
            }
        };
        match self.setting_count(value)? {
            Some(other) if other != head_dim => Err(self.refuse(
                &self.key(value),
                format!("{other} differs from the keys' {head_dim}, which is not computed"),
            )),
            _ => Ok(head_dim),
        }
    }

    /// Returns `rope_scaling`; `turned` are the dimensions of a head that are turned.
    fn rope_scaling(&self, turned: usize) -> Result<Json> {
        let kind = self.optional_text(&self.key("rope.scaling.type"))?;
        let factor = match self.setting_number("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.setting_number("rope.scale_linear")?,
        };
        let original = self.setting_count("rope.scaling.original_context_length")?;
        let attention_factor = self.setting_number("rope.scaling.attn_factor")?;
        let factors = |tensor: &str| -> Result<Option<Vec<f32>>> {
            let factors = self.vector(tensor)?;
            match factors {
                Some(factors)
                    if factors.len() != turned / 2
                        || factors.iter().any(|&factor| factor <= 0.0) =>
                {
                    let message =
                        format!("is not a factor above 0 for each of {} pairs", turned / 2);
                    Err(self.refuse_tensor(tensor, message))
                }
                factors => Ok(factors),
            }
        };
        if let Some(factors) = factors("rope_freqs.weight")? {
            if !matches!(kind, None | Some("none")) {
                return Err(self.refuse(
                    &self.key("rope.scaling.type"),
                    "is given beside the tensor rope_freqs.weight; one of them may be",
                ));
            }
            // Llama 3's rule, already applied to each wavelength: as LongRoPE's factors within its context.
            return Ok(json!({
                "rope_type": "longrope",
                "short_factor": factors,
                "original_max_position_embeddings": self.setting_count("context_length")?,
                "attention_factor": 1.0,
            }));
        }
        if let Some(short) = factors("rope_factors_short.weight")? {
            return Ok(json!({
                "rope_type": "longrope",
                "short_factor": short,
                "long_factor": factors("rope_factors_long.weight")?,
                "original_max_position_embeddings": original,
                "attention_factor": attention_factor,
            }));
        }
        Ok(match kind {
            Some("none") => Json::Null,
            None | Some("linear") if factor.is_none_or(|factor| factor == 1.0) => Json::Null,
            None | Some("linear") => json!({"rope_type": "linear", "factor": factor}),
            // The config says whether it computes this kind.
            Some(kind) => json!({
                "rope_type": kind,
                "factor": factor,
                "original_max_position_embeddings": original,
                "attention_factor": self.setting_number("rope.scaling.yarn_attn_factor")?,
                "beta_fast": self.setting_number("rope.scaling.yarn_beta_fast")?,
                "beta_slow": self.setting_number("rope.scaling.yarn_beta_slow")?,
            }),
        })
    }

    /// Refuses settings of the architecture that are not known: a switch is never ignored.
    fn refuse_unknown_settings(&self) -> Result<()> {
        let prefix = self.key("");
        for (key, value) in &self.header.metadata {
            let Some(setting) = key.strip_prefix(&prefix) else {
                continue;
            };
            if SETTINGS.contains(&setting) || self.architecture.settings().contains(&setting) {
                continue;
            }
            match NEUTRAL.iter().find(|(neutral, _)| *neutral == setting) {
                Some((_, neutral)) if neutral == value => {}
                Some(_) => return Err(self.refuse(key, "has a value that is not computed")),
                None => {
                    let message = "is not known, and may change what the model computes";
                    return Err(self.refuse(key, message));
                }
            }
        }
        Ok(())
    }
}

/// Returns the setting that a required key of `config.json` is read from.
fn setting_of(key: &str) -> &'static str {
    match key {
        "hidden_size" => "embedding_length",
        "num_hidden_layers" => "block_count",
        "intermediate_size" => "feed_forward_length",
        "max_position_embeddings" => "context_length",
        _ => "attention.head_count",
    }
}
