//! Why a comparison could not be made.

use std::path::PathBuf;

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
    /// None of the verdict words is one token.
    #[error(
        "the model's vocabulary has no single token for a verdict for the response shown {side} (`{words}`)"
    )]
    NoVerdictToken {
        /// `first` or `second`.
        side: &'static str,
        /// The words looked for.
        words: String,
    },
    /// One token stands for both verdicts.
    #[error("token {token} begins a verdict for either response, so no verdict can be read")]
    SharedVerdictToken {
        /// The token's id.
        token: u32,
    },
    /// The tokenizer's file does not say which tokens are special.
    #[error("cannot read the special tokens of {path}: {message}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
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
