//! What can be wrong with the pairs, the prompts or the layers asked for.

use crate::PositionSet;
use sims_model::ModelError;

/// An extraction that cannot be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExtractError {
    /// The pairs table has no rows.
    #[error("there are no contrast pairs to extract states for")]
    NoPairs,
    /// A pair names a prompt that is not in the prompts table.
    #[error("pair {pair_id}: its prompt {prompt_id} is not in the prompts table")]
    UnknownPrompt {
        /// The pair.
        pair_id: String,
        /// The prompt it names.
        prompt_id: String,
    },
    /// A response has no tokens beside the one that ends it.
    #[error("pair {pair_id}: the {class} response is empty")]
    EmptyResponse {
        /// The pair.
        pair_id: String,
        /// `chosen` or `rejected`.
        class: &'static str,
    },
    /// A response holds an id that the model has no embedding for.
    #[error(
        "pair {pair_id}: the {class} response has token id {token_id}, but the model's vocabulary has {vocab_size}; \
         the responses were sampled from another model"
    )]
    UnknownToken {
        /// The pair.
        pair_id: String,
        /// `chosen` or `rejected`.
        class: &'static str,
        /// The token id.
        token_id: u32,
        /// The model's vocabulary size.
        vocab_size: usize,
    },
    /// A sequence does not fit the model.
    #[error(
        "pair {pair_id}: prompt {prompt_id} with its {class} response takes {tokens} tokens at positions \
         `{positions}`, but the model's context is {context}"
    )]
    TooLong {
        /// The pair.
        pair_id: String,
        /// The prompt.
        prompt_id: String,
        /// `chosen` or `rejected`.
        class: &'static str,
        /// The position set.
        positions: PositionSet,
        /// Length of the sequence, in tokens.
        tokens: usize,
        /// The model's context, in tokens.
        context: usize,
    },
    /// No pair has a position to read.
    #[error(
        "none of the {pairs} pairs has a position to read: every response is a prefix of the other one"
    )]
    NoRows {
        /// How many pairs there are.
        pairs: usize,
    },
    /// Every pair holds one response twice.
    #[error(
        "the chosen and rejected responses of all {pairs} pairs are identical, so their states carry no contrast; \
         sample at a higher temperature and let `contrast` drop duplicates"
    )]
    Identical {
        /// How many pairs there are.
        pairs: usize,
    },
    /// A layer whose output cannot be steered.
    #[error(
        "layer {layer} cannot be extracted: steerable layers of this model are 0 to {last}, since the output of \
         the last of its {num_hidden_layers} blocks goes straight into the final norm"
    )]
    Layer {
        /// The layer.
        layer: usize,
        /// The last layer that can be.
        last: usize,
        /// Number of the model's blocks.
        num_hidden_layers: usize,
    },
    /// A model without a layer to steer.
    #[error("the model has one block, whose output cannot be steered")]
    OneBlock,
    /// A layer asked for twice.
    #[error("layer {layer} is asked for twice")]
    RepeatedLayer {
        /// The layer.
        layer: usize,
    },
    /// The prompt of a pair cannot be templated, or the answered prompt cannot be asked again.
    #[error("prompt {prompt_id} cannot be encoded")]
    Encode {
        /// The prompt.
        prompt_id: String,
        /// The cause.
        #[source]
        source: Box<ModelError>,
    },
    /// The prompt has no message of the user that could be asked again.
    #[error("prompt {prompt_id} has no user message to ask again")]
    NoUserMessage {
        /// The prompt.
        prompt_id: String,
    },
    /// The chat template does not show an assistant's answer.
    #[error(
        "the chat template drops or repeats the assistant's answer, so nothing can be asked after it; \
         use the positions `response` or `predictive`"
    )]
    AnswerNotShown,
    /// A state came out NaN or infinite.
    #[error("pair {pair_id}: the {class} state at layer {layer} is NaN or infinite")]
    NonFinite {
        /// The pair.
        pair_id: String,
        /// `chosen` or `rejected`.
        class: &'static str,
        /// The layer.
        layer: usize,
    },
}
