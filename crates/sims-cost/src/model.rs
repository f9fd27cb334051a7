//! What a model takes, and how long prompts are in its tokens, as `sims-model size --json` prints it.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::card::Dtype;

/// What a model takes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct ModelSize {
    /// Distinct weights.
    pub parameters: f64,
    /// Weights that one token meets.
    pub active_parameters: f64,
    /// Blocks.
    pub layers: f64,
    /// Longest sequence, in tokens.
    pub context: f64,
    /// Bytes on a GPU, by the type of the weights.
    pub footprints: BTreeMap<String, Footprint>,
    /// Whether tokens were counted, not guessed.
    pub counted: bool,
    /// Tokens of the judge's prompt: before the request, before the first answer, before the second, after it.
    pub judge: [f64; 4],
    /// The prompts that were measured, by file.
    pub prompts: BTreeMap<String, Vec<PromptLength>>,
}

/// Bytes by what they grow with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
pub struct Footprint {
    /// The weights.
    pub weights: f64,
    /// The keys and values of one position, at all layers.
    pub kv_slot: f64,
    /// The intermediate results of one row.
    pub row: f64,
    /// The logits of one row.
    pub logits_row: f64,
}

/// How long a prompt is. Unit: tokens.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct PromptLength {
    /// The prompt's id.
    pub id: String,
    /// Its split.
    pub split: String,
    /// As the judge reads it.
    pub request: f64,
    /// As the model answers it.
    pub templated: f64,
}

impl ModelSize {
    /// Returns what it takes with weights of a type.
    pub fn footprint(&self, dtype: Dtype) -> Footprint {
        self.footprints
            .get(dtype.name())
            .copied()
            .unwrap_or_default()
    }
}

/// Makes up `count` prompts of `tokens` tokens, of which the chat template is a dozen.
pub fn assumed_prompts(count: u32, tokens: f64) -> Vec<PromptLength> {
    let prompt = |number: u32| PromptLength {
        id: format!("{number:010}"),
        split: String::new(),
        request: (tokens - 12.0).max(1.0),
        templated: tokens,
    };
    (0..count).map(prompt).collect()
}
