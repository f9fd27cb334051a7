//! What `config.json` says of the encoder and its head.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::refused;
use crate::JudgeError;

/// The sizes of a DeBERTa-v3 encoder and of PairRM's head.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct PairRmConfig {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    pub(super) intermediate_size: usize,
    pub(super) layer_norm_eps: f32,
    /// Buckets that distances to one side are sorted into.
    pub(super) position_buckets: usize,
    max_position_embeddings: usize,
    max_relative_positions: Option<i64>,
    /// Scores that the head gives an answer; their mean counts.
    pub(super) n_tasks: usize,
    source_prefix_id: Option<u32>,
    cand1_prefix_id: Option<u32>,
    cand2_prefix_id: Option<u32>,
}

impl PairRmConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// [`JudgeError::PairRm`] for a file that is absent or malformed, and for an encoder of another kind.
    pub(super) fn read(path: &Path) -> Result<Self, JudgeError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| refused(path, format!("cannot be read: {error}")))?;
        let malformed = |error: serde_json::Error| refused(path, error.to_string());
        let keys: Value = serde_json::from_str(&text).map_err(malformed)?;
        if let Some(message) = other_kind(&keys) {
            return Err(refused(path, message));
        }
        let config: Self = serde_json::from_value(keys.clone()).map_err(malformed)?;
        config
            .check(&keys)
            .map_or(Ok(config), |message| Err(refused(path, message)))
    }

    /// Returns the width of one attention head.
    pub(super) fn head_size(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    /// Returns the distance from which on all are in the last bucket.
    pub(super) fn max_distance(&self) -> usize {
        let given = self.max_relative_positions.unwrap_or(-1);
        usize::try_from(given)
            .ok()
            .filter(|&given| given > 0)
            .unwrap_or(self.max_position_embeddings)
    }

    /// Returns the ids that the file gives the markers of the request and the two answers.
    pub(super) fn markers(&self) -> [Option<u32>; 3] {
        [
            self.source_prefix_id,
            self.cand1_prefix_id,
            self.cand2_prefix_id,
        ]
    }

    /// Returns what is wrong with the sizes, if anything.
    fn check(&self, keys: &Value) -> Option<String> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("n_tasks", self.n_tasks),
        ];
        if let Some((key, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Some(format!("{key} is 0"));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Some(format!(
                "hidden_size is {}, not a multiple of num_attention_heads, {}",
                self.hidden_size, self.num_attention_heads
            ));
        }
        let middle = self.position_buckets / 2;
        if middle < 2 || self.max_distance() < middle + 2 {
            return Some(format!(
                "position_buckets is {}, but distances up to {} must fall into at least 4 and at most twice as many",
                self.position_buckets,
                self.max_distance()
            ));
        }
        let derived = [
            ("embedding_size", self.hidden_size),
            ("attention_head_size", self.head_size()),
        ];
        derived.into_iter().find_map(|(key, size)| {
            let given = keys.get(key).filter(|given| **given != json!(size))?;
            Some(format!("{key} is {given}; only {size} is computed"))
        })
    }
}

/// Returns what in the file describes another encoder than that of DeBERTa-v3, if anything does.
fn other_kind(keys: &Value) -> Option<String> {
    let fixed = [
        ("model_type", json!("deberta-v2")),
        ("hidden_act", json!("gelu")),
        ("norm_rel_ebd", json!("layer_norm")),
        ("position_biased_input", json!(false)),
        ("relative_attention", json!(true)),
        ("share_att_key", json!(true)),
        ("type_vocab_size", json!(0)),
    ];
    for (key, wanted) in fixed {
        let given = keys.get(key).unwrap_or(&Value::Null);
        if *given != wanted {
            return Some(format!("{key} is {given}, but PairRM's is {wanted}"));
        }
    }
    let mut kinds: Vec<&str> = match keys.get("pos_att_type") {
        Some(Value::String(kinds)) => kinds.split('|').map(str::trim).collect(),
        Some(Value::Array(kinds)) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    kinds.sort_unstable();
    if kinds != ["c2p", "p2c"] {
        return Some("pos_att_type is not p2c|c2p".to_owned());
    }
    let kernel = keys
        .get("conv_kernel_size")
        .filter(|size| **size != json!(0));
    kernel.map(|size| format!("conv_kernel_size is {size}, but PairRM has no convolution"))
}
