//! Why a comparison could not be made.

use sims_model::ModelError;

/// A model, template or request that cannot be judged with.
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// The template asked for does not exist.
    #[error(
        "there is no judge template `{template}`; choose auto, ab-1 or the model's own ({own})"
    )]
    UnknownTemplate {
        /// The name asked for.
        template: String,
        /// The version of the model's own template.
        own: String,
    },
    /// A verdict word is unknown to the tokenizer, which has one token for all it does not know.
    #[error(
        "the model's tokenizer does not know the verdict `{word}`: it becomes the token `{token}`"
    )]
    UnknownVerdict {
        /// The verdict word.
        word: String,
        /// The token that it becomes.
        token: String,
    },
    /// The request leaves no room for two answers.
    #[error(
        "prompt {prompt_id}: the judge's prompt has {tokens} tokens before any answer; the model's context is {context}"
    )]
    RequestTooLong {
        /// The prompt.
        prompt_id: String,
        /// Length of the judge's prompt with empty answers.
        tokens: usize,
        /// The model's context.
        context: usize,
    },
    /// The model, its tokenizer or its templates failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}
