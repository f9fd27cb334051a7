//! Typed access to `config.json` that remembers which keys were read.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::{ModelError, Result};

/// The largest count that is believed: sizes beyond it overflow before they meet a tensor's shape.
const MOST: u64 = i32::MAX as u64;

/// Keys that say nothing about what a forward pass computes.
const WITHOUT_EFFECT: [&str; 64] = [
    "_attn_implementation_autoset",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "auto_map",
    "begin_suppress_tokens",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "embd_pdrop",
    "eos_token_id",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "is_llama_config",
    "label2id",
    "length_penalty",
    "max_length",
    "min_length",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "output_scores",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "pruned_heads",
    "remove_invalid_values",
    "repetition_penalty",
    "resid_pdrop",
    "return_dict",
    "return_dict_in_generate",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "sep_token_id",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers.js_config",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
];

/// Switches of other models that some checkpoints carry at their neutral value.
const NEUTRAL: [(&str, Value); 9] = [
    ("add_cross_attention", Value::Bool(false)),
    ("cross_attention_hidden_size", Value::Null),
    ("is_decoder", Value::Bool(false)),
    ("is_encoder_decoder", Value::Bool(false)),
    ("lm_head_bias", Value::Bool(false)),
    ("rope_interleaved", Value::Bool(false)),
    ("tie_encoder_decoder", Value::Bool(false)),
    ("use_bfloat16", Value::Bool(false)),
    ("use_mrope", Value::Bool(false)),
];

/// One level of `config.json`, with the names that its errors need.
pub(super) struct Reader<'a> {
    path: &'a Path,
    prefix: String,
    keys: &'a Map<String, Value>,
    read: RefCell<BTreeSet<&'a str>>,
}

impl<'a> Reader<'a> {
    /// Makes a reader of the outermost level; `path` is what errors name.
    pub(super) fn new(path: &'a Path, keys: &'a Map<String, Value>) -> Self {
        Self {
            path,
            prefix: String::new(),
            keys,
            read: RefCell::default(),
        }
    }

    /// Returns the error for a key's value.
    pub(super) fn refuse(&self, key: &str, message: impl Into<String>) -> ModelError {
        ModelError::Config {
            path: PathBuf::from(self.path),
            key: format!("{}{key}", self.prefix),
            message: message.into(),
        }
    }

    /// Refuses a key that nothing has read: it may change the result, and would be ignored.
    pub(super) fn refuse_unread(&self, family: &str) -> Result<()> {
        let read = self.read.borrow();
        for (key, value) in self.keys {
            let known = read.contains(key.as_str())
                || value.is_null()
                || WITHOUT_EFFECT.contains(&key.as_str())
                || NEUTRAL.contains(&(key.as_str(), value.clone()));
            if !known {
                let message = format!(
                    "{value} is a switch that is not computed for the {family} family; null, or no such key, is accepted"
                );
                return Err(self.refuse(key, message));
            }
        }
        Ok(())
    }

    /// Marks keys as known that have no effect where they stand.
    pub(super) fn pass_over(&self, keys: &[&'static str]) {
        self.read.borrow_mut().extend(keys);
    }

    /// Returns whether the key is there, be it null.
    pub(super) fn contains(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// Returns the key's value unless it is absent or null.
    pub(super) fn get(&self, key: &str) -> Option<&'a Value> {
        let (key, value) = self.keys.get_key_value(key)?;
        self.read.borrow_mut().insert(key);
        Some(value).filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, key: &str) -> Result<&'a str> {
        let value = self
            .get(key)
            .ok_or_else(|| self.refuse(key, "is missing"))?;
        value
            .as_str()
            .ok_or_else(|| self.refuse(key, format!("{value} is not a text")))
    }

    pub(super) fn optional_count(&self, key: &str) -> Result<Option<usize>> {
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

    /// Returns the count, or the default of the model's class where it has one.
    pub(super) fn count(&self, key: &str, default: Option<usize>) -> Result<usize> {
        self.optional_count(key)?
            .or(default)
            .ok_or_else(|| self.refuse(key, "is missing"))
    }

    pub(super) fn optional_positive(&self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        match value.as_f64() {
            None => Err(self.refuse(key, format!("{value} is not a number"))),
            Some(number) if number <= 0.0 => {
                Err(self.refuse(key, format!("{number} is not above 0")))
            }
            number => Ok(number),
        }
    }

    pub(super) fn positive(&self, key: &str) -> Result<f64> {
        self.optional_positive(key)?
            .ok_or_else(|| self.refuse(key, "is missing"))
    }

    pub(super) fn optional_switch(&self, key: &str) -> Result<Option<bool>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        value
            .as_bool()
            .map(Some)
            .ok_or_else(|| self.refuse(key, format!("{value} is neither true nor false")))
    }

    /// Returns the switch, off where it is absent.
    pub(super) fn switch(&self, key: &str) -> Result<bool> {
        Ok(self.optional_switch(key)?.unwrap_or(false))
    }

    /// Returns a list of whole numbers.
    pub(super) fn whole_numbers(&self, key: &str) -> Result<Option<Vec<usize>>> {
        let number = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
        self.list(key, "whole numbers", number)
    }

    /// Returns a list of numbers above 0.
    pub(super) fn positives(&self, key: &str) -> Result<Option<Vec<f64>>> {
        let number = |value: &Value| value.as_f64().filter(|number| *number > 0.0);
        self.list(key, "numbers above 0", number)
    }

    fn list<T>(
        &self,
        key: &str,
        of: &str,
        element: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let list = value
            .as_array()
            .and_then(|values| values.iter().map(element).collect());
        let list: Option<Vec<T>> = list;
        list.map(Some)
            .ok_or_else(|| self.refuse(key, format!("is not a list of {of}")))
    }

    /// Returns the level below the key.
    pub(super) fn level(&self, key: &str) -> Result<Option<Reader<'a>>> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let keys = value
            .as_object()
            .ok_or_else(|| self.refuse(key, format!("{value} is not an object")))?;
        Ok(Some(Reader {
            path: self.path,
            prefix: format!("{}{key}.", self.prefix),
            keys,
            read: RefCell::default(),
        }))
    }

    /// Returns whether the level has levels of its own.
    pub(super) fn is_nested(&self) -> bool {
        self.keys.values().any(Value::is_object)
    }

    /// Returns whether the level has no keys.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}
