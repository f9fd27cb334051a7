//! The settings of a GGUF file as the keys of a Hugging Face `config.json`.

use serde_json::{Map, Value as Json, json};

use super::names::Architecture;
use super::{GgufFile, Value};
use crate::Result;

/// The settings that are read or mean nothing to the forward pass; another one may change what is computed.
const SETTINGS: [&str; 26] = [
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
    "attention.sliding_window",
    "attention.causal",
    "expert_count",
    "expert_used_count",
    "pooling_type",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_log_multiplier",
    "tensor_data_layout",
    "use_parallel_residual",
];

impl GgufFile {
    /// Returns the settings with the keys of `config.json`.
    ///
    /// # Errors
    /// [`ModelError::Config`](crate::ModelError::Config) with the key that is absent or not computed by this
    /// decoder, and [`ModelError::GgufTensor`](crate::ModelError::GgufTensor) for a tensor of settings.
    pub fn config_json(&self) -> Result<Map<String, Json>> {
        self.refuse_unknown_settings()?;
        let mut keys = Map::new();
        let mut put = |key: &str, value: Json| drop(keys.insert(key.to_owned(), value));
        put("model_type", self.architecture.name().into());

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
        put("rope_scaling", self.rope_scaling()?);
        if let Some(turned) = self.setting_count("rope.dimension_count")?
            && turned != head_dim
        {
            put(
                "partial_rotary_factor",
                (turned as f64 / head_dim as f64).into(),
            );
        }
        let has = |tensor: &str| self.header.tensors.contains_key(tensor);
        put("tie_word_embeddings", (!has("output.weight")).into());
        put("eos_token_id", self.end_tokens()?.into());

        let window = self.setting_count("attention.sliding_window")?;
        let window = window.filter(|&window| window > 0);
        match self.architecture {
            Architecture::Llama => {
                put("attention_bias", has("blk.0.attn_q.bias").into());
                put("mlp_bias", has("blk.0.ffn_gate.bias").into());
                if let Some(window) = window {
                    put("model_type", "mistral".into());
                    put("sliding_window", window.into());
                }
            }
            Architecture::Qwen2 => {
                put("use_sliding_window", window.is_some().into());
                put("sliding_window", window.into());
            }
            Architecture::Qwen3 => {
                put("attention_bias", has("blk.0.attn_q.bias").into());
                put("use_sliding_window", window.is_some().into());
                put("sliding_window", window.into());
            }
        }
        Ok(keys)
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

    /// Returns `rope_scaling`.
    fn rope_scaling(&self) -> Result<Json> {
        let kind = self.optional_text(&self.key("rope.scaling.type"))?;
        let factor = match self.setting_number("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => self.setting_number("rope.scale_linear")?,
        };
        let frequencies = self.vector("rope_freqs.weight")?;
        if let Some(factors) = frequencies {
            if !matches!(kind, None | Some("none")) {
                return Err(self.refuse(
                    &self.key("rope.scaling.type"),
                    "is given beside the tensor rope_freqs.weight; one of them may be",
                ));
            }
            return Ok(json!({"rope_type": "frequency_factors", "factors": factors}));
        }
        let original = self.setting_count("rope.scaling.original_context_length")?;
        Ok(match kind {
            Some("none") => Json::Null,
            None | Some("linear") if factor.is_none_or(|factor| factor == 1.0) => Json::Null,
            None | Some("linear") => json!({"rope_type": "linear", "factor": factor}),
            // The config says whether it computes this kind.
            Some(kind) => json!({
                "rope_type": kind,
                "factor": factor,
                "original_max_position_embeddings": original,
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
            if !SETTINGS.contains(&setting) {
                return Err(
                    self.refuse(key, "is not known, and may change what the model computes")
                );
            }
            let computed = match setting {
                "attention.causal" => *value == Value::Bool(true),
                "expert_count" | "expert_used_count" => *value == Value::Integer(0),
                "use_parallel_residual" => *value == Value::Bool(false),
                _ => true,
            };
            if !computed {
                return Err(self.refuse(key, "has a value that is not computed"));
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
