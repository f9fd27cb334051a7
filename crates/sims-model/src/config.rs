//! What `config.json` says about the architecture, in both of its generations.
//!
//! Transformers 4 writes `rope_theta`, `rope_scaling` and `torch_dtype`, transformers 5 writes
//! `rope_parameters` and `dtype`. Both are read. A key that changes what the model computes, and that
//! this decoder does not compute, is refused by name: a switch is never ignored.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::rope::RopeScaling;
use crate::{ModelError, Result};

/// The families that one decoder serves.
const FAMILIES: [&str; 3] = ["llama", "mistral", "qwen2"];

/// The largest count that is believed: sizes beyond it overflow before they meet a tensor's shape.
const MOST: u64 = i32::MAX as u64;

/// The architecture of a decoder; fields keep their Hugging Face names.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The family's name: `llama`, `mistral` or `qwen2`.
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
    /// The number of positions the model was made for; longer sequences are refused.
    pub max_position_embeddings: usize,
    /// What RMSNorm adds to the mean square.
    pub rms_norm_eps: f32,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the output projection of attention has a bias.
    pub o_bias: bool,
    /// Whether the three projections of the MLP have biases.
    pub mlp_bias: bool,
    /// Whether the head is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// The base of the rotary embedding's wavelengths.
    pub rope_theta: f64,
    /// What is done to the wavelengths.
    pub rope_scaling: RopeScaling,
    /// The end-of-text tokens that `config.json` names; `generation_config.json` goes before them.
    pub eos_token_ids: Vec<u32>,
}

impl Config {
    /// Reads `config.json` in `directory`.
    ///
    /// # Errors
    /// [`ModelError::MissingFile`], [`ModelError::Json`], or [`ModelError::Config`] with the key that
    /// is absent, contradictory or not computed by this decoder.
    pub fn open(directory: &Path) -> Result<Self> {
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
        let reader = Reader {
            path,
            prefix: "",
            keys: &keys,
        };
        let model_type = reader.text("model_type")?.to_owned();
        if !FAMILIES.contains(&model_type.as_str()) {
            let known = FAMILIES.join(", ");
            return Err(reader.refuse(
                "model_type",
                format!("`{model_type}` is not one of {known}"),
            ));
        }
        reader.refuse_what_is_not_computed(&model_type)?;

        let num_attention_heads = reader.count("num_attention_heads")?;
        let num_key_value_heads = match reader.optional_count("num_key_value_heads")? {
            Some(heads) => heads,
            // Only the Llama class takes an absent key for "one a query head"; the others have numbers of their own.
            None if model_type == "llama" || reader.keys.contains_key("num_key_value_heads") => {
                num_attention_heads
            }
            None => return Err(reader.refuse("num_key_value_heads", "is missing")),
        };
        let hidden_size = reader.count("hidden_size")?;
        let head_dim = reader
            .optional_count("head_dim")?
            .unwrap_or(hidden_size / num_attention_heads);
        let attention_bias = reader.switch("attention_bias")?;
        let mlp_bias = reader.switch("mlp_bias")?;
        if model_type != "llama" && (attention_bias || mlp_bias) {
            let key = if attention_bias {
                "attention_bias"
            } else {
                "mlp_bias"
            };
            return Err(reader.refuse(key, format!("the {model_type} family has no such switch")));
        }
        let (rope_theta, rope_scaling) = reader.rope()?;
        let config = Self {
            vocab_size: reader.count("vocab_size")?,
            hidden_size,
            intermediate_size: reader.count("intermediate_size")?,
            num_hidden_layers: reader.count("num_hidden_layers")?,
            num_attention_heads,
            num_key_value_heads,
            head_dim,
            max_position_embeddings: reader.count("max_position_embeddings")?,
            rms_norm_eps: reader.positive("rms_norm_eps")? as f32,
            qkv_bias: attention_bias || model_type == "qwen2",
            o_bias: attention_bias,
            mlp_bias,
            tie_word_embeddings: reader.switch("tie_word_embeddings")?,
            rope_theta,
            rope_scaling,
            eos_token_ids: token_ids(&keys, "eos_token_id", path)?,
            model_type,
        };
        config.check(&reader)?;
        Ok(config)
    }

    fn check(&self, reader: &Reader) -> Result<()> {
        if !self
            .num_attention_heads
            .is_multiple_of(self.num_key_value_heads)
        {
            let heads = self.num_attention_heads;
            let message = format!(
                "{} does not divide the {heads} attention heads",
                self.num_key_value_heads
            );
            return Err(reader.refuse("num_key_value_heads", message));
        }
        if self.head_dim == 0 || !self.head_dim.is_multiple_of(2) {
            return Err(reader.refuse(
                "head_dim",
                format!("{} is not a positive even number", self.head_dim),
            ));
        }
        if !(self.rms_norm_eps >= 0.0 && self.rms_norm_eps.is_finite()) {
            return Err(reader.refuse("rms_norm_eps", "is not a small positive number"));
        }
        Ok(())
    }

    /// Returns the width of all query heads together.
    pub fn query_size(&self) -> usize {
        self.num_attention_heads * self.head_dim
    }

    /// Returns the width of all key heads together, which is that of all value heads.
    pub fn key_value_size(&self) -> usize {
        self.num_key_value_heads * self.head_dim
    }

    /// Returns the number of parameters, tied ones once.
    pub fn parameters(&self) -> usize {
        let (hidden, ffn, query, kv) = (
            self.hidden_size,
            self.intermediate_size,
            self.query_size(),
            self.key_value_size(),
        );
        let biases = usize::from(self.qkv_bias) * (query + 2 * kv)
            + usize::from(self.o_bias) * hidden
            + usize::from(self.mlp_bias) * (2 * ffn + hidden);
        let block =
            2 * hidden + hidden * (query + 2 * kv) + query * hidden + 3 * hidden * ffn + biases;
        let embeddings = if self.tie_word_embeddings { 1 } else { 2 };
        embeddings * self.vocab_size * hidden + self.num_hidden_layers * block + hidden
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

/// One level of `config.json`, with the names that its errors need.
struct Reader<'a> {
    path: &'a Path,
    prefix: &'static str,
    keys: &'a Map<String, Value>,
}

impl<'a> Reader<'a> {
    fn refuse(&self, key: &str, message: impl Into<String>) -> ModelError {
        let key = if self.prefix.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.prefix)
        };
        ModelError::Config {
            path: PathBuf::from(self.path),
            key,
            message: message.into(),
        }
    }

    /// Returns the key's value unless it is absent or null.
    fn get(&self, key: &str) -> Option<&'a Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    fn text(&self, key: &str) -> Result<&'a str> {
        let value = self
            .get(key)
            .ok_or_else(|| self.refuse(key, "is missing"))?;
        value
            .as_str()
            .ok_or_else(|| self.refuse(key, format!("{value} is not a text")))
    }

    fn optional_count(&self, key: &str) -> Result<Option<usize>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let count = value
            .as_u64()
            .filter(|&count| (1..=MOST).contains(&count))
            .and_then(|count| usize::try_from(count).ok());
        count.map(Some).ok_or_else(|| {
            self.refuse(
                key,
                format!("{value} is not a whole number from 1 to {MOST}"),
            )
        })
    }

    fn count(&self, key: &str) -> Result<usize> {
        self.optional_count(key)?
            .ok_or_else(|| self.refuse(key, "is missing"))
    }

    fn optional_number(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        value
            .as_f64()
            .map(Some)
            .ok_or_else(|| self.refuse(key, format!("{value} is not a number")))
    }

    fn optional_positive(&self, key: &str) -> Result<Option<f64>> {
        match self.optional_number(key)? {
            Some(number) if number <= 0.0 => {
                Err(self.refuse(key, format!("{number} is not above 0")))
            }
            other => Ok(other),
        }
    }

    fn positive(&self, key: &str) -> Result<f64> {
        self.optional_positive(key)?
            .ok_or_else(|| self.refuse(key, "is missing"))
    }

    fn switch(&self, key: &str) -> Result<bool> {
        let Some(value) = self.get(key) else {
            return Ok(false);
        };
        value
            .as_bool()
            .ok_or_else(|| self.refuse(key, format!("{value} is neither true nor false")))
    }

    fn level(&self, key: &'static str) -> Result<Option<Reader<'a>>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let keys = value
            .as_object()
            .ok_or_else(|| self.refuse(key, format!("{value} is not an object")))?;
        Ok(Some(Reader {
            path: self.path,
            prefix: key,
            keys,
        }))
    }

    /// Refuses every switch that would change the result and that this decoder does not compute.
    fn refuse_what_is_not_computed(&self, model_type: &str) -> Result<()> {
        // An absent key is silu to every class of FAMILIES.
        let activation = if self.get("hidden_act").is_some() {
            self.text("hidden_act")?
        } else {
            "silu"
        };
        if activation != "silu" {
            return Err(self.refuse(
                "hidden_act",
                format!("`{activation}` is not silu, the one that is computed"),
            ));
        }
        // The qwen2 class reads the window only where `use_sliding_window` is set; an absent key is 4096 to mistral.
        let windowed = match model_type {
            "qwen2" => self.switch("use_sliding_window")?,
            "mistral" => !matches!(self.keys.get("sliding_window"), Some(Value::Null)),
            _ => self.get("sliding_window").is_some(),
        };
        if windowed {
            return Err(self.refuse(
                "sliding_window",
                "attention within a window is not computed; null is accepted",
            ));
        }
        if let Some(Value::Array(types)) = self.get("layer_types")
            && let Some(other) = types
                .iter()
                .find(|kind| kind.as_str() != Some("full_attention"))
        {
            return Err(self.refuse(
                "layer_types",
                format!("{other} is not computed; full_attention is"),
            ));
        }
        if self.get("quantization_config").is_some() {
            return Err(self.refuse("quantization_config", "quantized weights are not read"));
        }
        if self
            .optional_number("partial_rotary_factor")?
            .is_some_and(|factor| factor != 1.0)
        {
            return Err(self.refuse(
                "partial_rotary_factor",
                "only the rotation of whole heads is computed",
            ));
        }
        Ok(())
    }

    /// Reads the rotary embedding from whichever generation's keys are there.
    fn rope(&self) -> Result<(f64, RopeScaling)> {
        const DEFAULT_THETA: f64 = 10_000.0; // what every class of FAMILIES takes for an absent rope_theta
        let outer_theta = self.optional_positive("rope_theta")?;
        let level = match (self.level("rope_parameters")?, self.level("rope_scaling")?) {
            (Some(_), Some(scaling)) if !scaling.keys.is_empty() => {
                return Err(self.refuse(
                    "rope_scaling",
                    "is given beside rope_parameters; one of them may be",
                ));
            }
            (Some(parameters), _) => parameters,
            (None, Some(scaling)) => scaling,
            (None, None) => {
                return Ok((outer_theta.unwrap_or(DEFAULT_THETA), RopeScaling::Default));
            }
        };
        let inner_theta = level.optional_positive("rope_theta")?;
        if let (Some(inner), Some(outer)) = (inner_theta, outer_theta)
            && inner != outer
        {
            return Err(self.refuse(
                "rope_theta",
                format!("{outer} contradicts the {inner} of {}", level.prefix),
            ));
        }
        let theta = inner_theta.or(outer_theta).unwrap_or(DEFAULT_THETA);
        Ok((theta, level.rope_scaling(self)?))
    }

    fn rope_scaling(&self, outer: &Reader) -> Result<RopeScaling> {
        if let Some((layer, _)) = self.keys.iter().find(|(_, value)| value.is_object()) {
            return Err(self.refuse(
                layer,
                "rotary parameters that differ by layer are not computed",
            ));
        }
        if self
            .optional_number("partial_rotary_factor")?
            .is_some_and(|factor| factor != 1.0)
        {
            return Err(self.refuse(
                "partial_rotary_factor",
                "only the rotation of whole heads is computed",
            ));
        }
        let key = if self.keys.contains_key("rope_type") {
            "rope_type"
        } else {
            "type"
        };
        let kind = if self.keys.contains_key(key) {
            self.text(key)?
        } else {
            "default"
        };
        match kind {
            "default" => Ok(RopeScaling::Default),
            "linear" => Ok(RopeScaling::Linear {
                factor: self.positive("factor")?,
            }),
            "llama3" => self.llama3(outer),
            other => Err(self.refuse(
                key,
                format!("`{other}` is not one of default, linear, llama3"),
            )),
        }
    }

    fn llama3(&self, outer: &Reader) -> Result<RopeScaling> {
        let (low, high) = (
            self.positive("low_freq_factor")?,
            self.positive("high_freq_factor")?,
        );
        // Between the two, frequencies are interpolated over their difference.
        if high <= low {
            return Err(self.refuse(
                "high_freq_factor",
                format!("{high} is not above the low_freq_factor {low}"),
            ));
        }
        let original = "original_max_position_embeddings";
        let positions = match outer.optional_count(original)? {
            Some(positions) => Some(positions),
            None => self.optional_count(original)?,
        };
        Ok(RopeScaling::Llama3 {
            factor: self.positive("factor")?,
            low_freq_factor: low,
            high_freq_factor: high,
            original_max_position_embeddings: match positions {
                Some(positions) => positions,
                None => outer.count("max_position_embeddings")?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(edit: impl Fn(&mut Map<String, Value>)) -> Result<Config> {
        let mut value: Value = serde_json::json!({
            "model_type": "llama", "hidden_act": "silu", "vocab_size": 32, "hidden_size": 16,
            "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0, "torch_dtype": "float32", "eos_token_id": [1, 2]
        });
        edit(value.as_object_mut().expect("an object"));
        Config::parse(&value.to_string(), Path::new("config.json"))
    }

    fn refusal(key: &str, value: Value) -> String {
        parse(|keys| drop(keys.insert(key.to_owned(), value.clone())))
            .expect_err("refused")
            .to_string()
    }

    #[test]
    fn sizes_and_rotary_numbers_that_cannot_be_are_refused_by_key() {
        for (key, value, why) in [
            (
                "hidden_size",
                serde_json::json!(1_u64 << 40),
                "from 1 to 2147483647",
            ),
            ("rope_theta", serde_json::json!(0.0), "is not above 0"),
            ("rms_norm_eps", serde_json::json!(-1e-5), "is not above 0"),
        ] {
            let refusal = refusal(key, value);
            assert!(refusal.contains(key) && refusal.contains(why), "{refusal}");
        }
        let scaled = |factor: f64, high: f64| {
            refusal(
                "rope_scaling",
                serde_json::json!({"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0,
                    "high_freq_factor": high, "original_max_position_embeddings": 32}),
            )
        };
        assert!(scaled(0.0, 4.0).contains("factor"));
        assert!(scaled(8.0, 1.0).contains("is not above the low_freq_factor 1"));
    }

    #[test]
    fn both_generations_of_rope_keys_are_read() {
        let scaling = serde_json::json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32
        });
        let old =
            parse(|keys| drop(keys.insert("rope_scaling".into(), scaling.clone()))).expect("valid");
        let new = parse(|keys| {
            let mut parameters = scaling.clone();
            parameters["rope_theta"] = keys.remove("rope_theta").expect("there");
            keys.insert("rope_parameters".into(), parameters);
        });
        assert_eq!(old, new.expect("valid"));
        assert_eq!(old.rope_theta, 500_000.0);
        assert!(matches!(
            old.rope_scaling,
            RopeScaling::Llama3 {
                original_max_position_embeddings: 32,
                ..
            }
        ));
    }

    #[test]
    fn absent_keys_take_the_class_defaults() {
        let config = parse(|keys| {
            keys.remove("num_key_value_heads");
            keys.remove("rope_theta");
        })
        .expect("valid");
        assert_eq!(
            (
                config.num_key_value_heads,
                config.head_dim,
                config.rope_theta
            ),
            (4, 4, 10_000.0)
        );
        assert!(!config.tie_word_embeddings && !config.qkv_bias);
        assert_eq!(config.eos_token_ids, [1, 2]);
    }

    #[test]
    fn qwen2_has_biases_on_queries_keys_and_values_only() {
        let config =
            parse(|keys| drop(keys.insert("model_type".into(), "qwen2".into()))).expect("valid");
        assert!(config.qkv_bias && !config.o_bias && !config.mlp_bias);
    }

    #[test]
    fn what_is_not_computed_is_refused_by_name() {
        assert_eq!(
            refusal("model_type", "gemma".into()),
            "config.json: model_type: `gemma` is not one of llama, mistral, qwen2"
        );
        assert!(refusal("hidden_act", "gelu".into()).contains("hidden_act: `gelu`"));
        assert!(refusal("sliding_window", 512.into()).contains("sliding_window"));
        assert!(refusal("partial_rotary_factor", 0.5.into()).contains("partial_rotary_factor"));
        assert!(
            refusal("layer_types", serde_json::json!(["sliding_attention"]))
                .contains("layer_types")
        );
        assert!(
            refusal("quantization_config", serde_json::json!({})).contains("quantization_config")
        );
        assert_eq!(
            refusal(
                "rope_scaling",
                serde_json::json!({"type": "yarn", "factor": 2.0})
            ),
            "config.json: rope_scaling.type: `yarn` is not one of default, linear, llama3"
        );
        assert!(
            refusal("rope_parameters", serde_json::json!({"rope_theta": 1e4}))
                .contains("contradicts")
        );
        assert!(refusal("head_dim", 5.into()).contains("head_dim: 5"));
        assert!(refusal("num_key_value_heads", 3.into()).contains("3 does not divide the 4"));
        assert!(refusal("vocab_size", "many".into()).contains("vocab_size"));
    }

    #[test]
    fn mistral_needs_an_explicit_null_window() {
        let mistral = |window: bool| {
            parse(|keys| {
                keys.insert("model_type".into(), "mistral".into());
                if window {
                    keys.insert("sliding_window".into(), Value::Null);
                }
            })
        };
        assert!(mistral(true).is_ok());
        assert!(
            mistral(false)
                .expect_err("refused")
                .to_string()
                .contains("sliding_window")
        );
    }

    #[test]
    fn parameters_are_counted_with_tied_ones_once() {
        let untied = parse(|_| ()).expect("valid").parameters();
        let tied = parse(|keys| drop(keys.insert("tie_word_embeddings".into(), true.into())))
            .expect("valid");
        assert_eq!(untied - tied.parameters(), 32 * 16);
        // Two blocks of two norms, q 16x16, k and v 8x16, o 16x16, three of 24x16; embedding and final norm.
        assert_eq!(
            tied.parameters(),
            2 * (32 + 256 + 256 + 256 + 3 * 384) + 32 * 16 + 16
        );
    }
}
