//! What `config.json` says about the architecture, in both of its generations.
//!
//! Transformers 4 writes `rope_theta`, `rope_scaling` and `torch_dtype`, transformers 5 writes
//! `rope_parameters` and `dtype`. Both are read. [`Config`] says what the one decoder does differently for each
//! family; `families` maps a family's keys to it. A key that nothing reads is refused by name: a switch is never
//! ignored.

mod families;
mod reader;
mod rotary;
mod weight_names;

use std::fs;
use std::path::Path;

use serde_json::{Map, Value};

use crate::gguf::{GgufFile, is_gguf};
use crate::rope::RopeConfig;
use crate::{ModelError, Result};
use reader::Reader;

pub use families::known_families;
pub use weight_names::{ExpertNames, WeightNames};

/// The gate of the MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
    /// The Gaussian error linear unit with its tangent approximation.
    GeluTanh,
}

/// What the norm of queries and keys runs over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// Each head by itself; the weight is `[head_dim]`.
    Head,
    /// All heads together; the weights are `[query_size]` and `[key_value_size]`.
    AllHeads,
}

/// A mixture of experts in place of the MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertsConfig {
    /// The number of experts of a layer.
    pub count: usize,
    /// How many of them each row goes through.
    pub per_token: usize,
    /// The width of one expert.
    pub intermediate_size: usize,
    /// Whether the weights of the chosen experts are scaled to add up to 1.
    pub normalised: bool,
}

/// What differs from layer to layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerConfig {
    /// How many positions a row attends at most, itself included; none for all of them.
    pub window: Option<usize>,
    /// Which of [`Config::ropes`] turns queries and keys; none where they are not turned.
    pub rope: Option<usize>,
    /// Whether the layer has experts.
    pub sparse: bool,
}

/// The architecture of a decoder; fields keep their Hugging Face names where they have one.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The family's name, as `llama`.
    pub model_type: String,
    /// The number of token embeddings.
    pub vocab_size: usize,
    /// The width of the residual stream.
    pub hidden_size: usize,
    /// The width of the gated MLP.
    pub intermediate_size: usize,
    /// The number of blocks.
    pub num_hidden_layers: usize,
    /// The number of query heads.
    pub num_attention_heads: usize,
    /// The number of key and value heads, a divisor of the query heads.
    pub num_key_value_heads: usize,
    /// The width of one head, even.
    pub head_dim: usize,
    /// The longest sequence; longer ones are refused.
    pub max_position_embeddings: usize,
    /// What RMSNorm adds to the mean square.
    pub rms_norm_eps: f32,
    /// Whether norms multiply by 1 plus their weight.
    pub norm_adds_one: bool,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the output projection of attention has a bias.
    pub o_bias: bool,
    /// Whether the three projections of the MLP have biases.
    pub mlp_bias: bool,
    /// The norm of queries and keys, before they are turned.
    pub qk_norm: Option<QkNorm>,
    /// The gate of the MLP.
    pub hidden_act: Activation,
    /// What scores are multiplied by before the softmax.
    pub attention_scale: f32,
    /// The bound `c` of scores, which become `c · tanh(score / c)`.
    pub attn_logit_softcapping: Option<f32>,
    /// The bound of logits, likewise.
    pub final_logit_softcapping: Option<f32>,
    /// What embeddings are multiplied by.
    pub embedding_multiplier: f32,
    /// What the outputs of attention and of the MLP are multiplied by before they are added.
    pub residual_multiplier: f32,
    /// What logits are divided by.
    pub logits_scaling: f32,
    /// The rotary embeddings that layers refer to.
    pub ropes: Vec<RopeConfig>,
    /// One entry a block.
    pub layers: Vec<LayerConfig>,
    /// The experts of the layers that have them.
    pub experts: Option<ExpertsConfig>,
    /// Whether the head is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// The end-of-text tokens that `config.json` names; `generation_config.json` goes before them.
    pub eos_token_ids: Vec<u32>,
    /// What the family calls its tensors.
    pub names: &'static WeightNames,
}

impl Config {
    /// Reads `config.json` in `directory`, or the settings of a GGUF file.
    ///
    /// # Errors
    /// [`ModelError::MissingFile`], [`ModelError::Json`], or [`ModelError::Config`] with the key that
    /// is absent, contradictory or not computed by this decoder.
    pub fn open(directory: &Path) -> Result<Self> {
        if is_gguf(directory) {
            return GgufFile::open(directory)?.config();
        }
        let path = directory.join("config.json");
        let needed_for = "a model is a Hugging Face directory with a config.json";
        let text = read_text(&path, needed_for)?;
        Self::parse(&text, &path)
    }

    /// Reads the text of a `config.json`; `path` is what errors name.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn parse(text: &str, path: &Path) -> Result<Self> {
        let keys = serde_json::from_str(text).map_err(|source| ModelError::Json {
            path: path.into(),
            source,
        })?;
        Self::from_keys(&keys, path)
    }

    /// Reads the keys of a `config.json`; `path` is what errors name.
    ///
    /// # Errors
    /// [`ModelError::Config`], as [`open`](Self::open).
    pub fn from_keys(keys: &Map<String, Value>, path: &Path) -> Result<Self> {
        let mut config = families::read(&Reader::new(path, keys))?;
        config.eos_token_ids = token_ids(keys, "eos_token_id", path)?;
        Ok(config)
    }

    /// Returns the width of all query heads together.
    pub fn query_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Returns the width of all key heads together, which is that of all value heads.
    pub fn key_value_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Returns the widths of the norms' weights of queries and of keys.
    pub fn qk_norm_sizes(&self) -> Option<(usize, usize)> {
        self.qk_norm.map(|norm| match norm {
            QkNorm::Head => (self.head_dim, self.head_dim),
            QkNorm::AllHeads => (self.query_size(), self.key_value_size()),
        })
    }

    /// Returns the number of parameters, tied ones once.
    pub fn parameters(&self) -> usize {
        let layers = self.layers.iter().map(|layer| self.layer_parameters(layer));
        let embeddings = if self.tie_word_embeddings { 1 } else { 2 };
        embeddings * self.vocab_size * self.hidden_size + layers.sum::<usize>() + self.hidden_size
    }

    fn layer_parameters(&self, layer: &LayerConfig) -> usize {
        let (hidden, query, kv) = (self.hidden_size, self.query_size(), self.key_value_size());
        let biases = usize::from(self.qkv_bias) * (query + 2 * kv)
            + usize::from(self.o_bias) * hidden
            + usize::from(self.mlp_bias) * (2 * self.intermediate_size + hidden);
        let (query_norm, key_norm) = self.qk_norm_sizes().unwrap_or((0, 0));
        let norms = self.names.norms() * hidden + query_norm + key_norm;
        let mlp = match self.experts.filter(|_| layer.sparse) {
            Some(experts) => experts.count * (hidden + 3 * hidden * experts.intermediate_size),
            None => 3 * hidden * self.intermediate_size,
        };
        norms + hidden * (query + 2 * kv) + query * hidden + mlp + biases
    }
}

/// Reads a text file of a model directory.
pub(crate) fn read_text(path: &Path, needed_for: &'static str) -> Result<String> {
    fs::read_to_string(path).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => ModelError::MissingFile {
            path: path.into(),
            needed_for,
        },
        _ => ModelError::Io {
            path: path.into(),
            source,
        },
    })
}

/// Reads one id, a list of ids, or null, as `eos_token_id` is written.
pub(crate) fn token_ids(keys: &Map<String, Value>, key: &str, path: &Path) -> Result<Vec<u32>> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = match keys.get(key) {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(values)) => values.iter().map(id).collect(),
        Some(value) => id(value).map(|id| vec![id]),
    };
    let message = "is neither a token id nor a list of them".to_owned();
    ids.ok_or_else(|| ModelError::Config {
        path: path.into(),
        key: key.to_owned(),
        message,
    })
}

#[cfg(test)]
mod tests;
