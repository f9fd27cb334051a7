//! Why a comparison could not be made.

use std::path::PathBuf;

use sims_artifact::ArtifactError;
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
        "prompt {prompt_id}: the judge's prompt has {tokens} tokens before any answer; the model's context is {context}; \
         leave the prompt out, or use a shorter template"
    )]
    RequestTooLong {
        /// The prompt.
        prompt_id: String,
        /// Length of the judge's prompt with empty answers.
        tokens: usize,
        /// The model's context.
        context: usize,
    },
    /// Nobody annotated a comparison.
    #[error(
        "prompt {prompt_id}: the annotations say nothing of response {first} against {second}, nor of {others} other \
         comparisons; annotate them, or leave them out with --missing skip"
    )]
    NotAnnotated {
        /// The prompt.
        prompt_id: String,
        /// The response shown first.
        first: String,
        /// The response shown second.
        second: String,
        /// How many more comparisons have no annotation.
        others: usize,
    },
    /// A bias for length is asked for, and a response has a text but no tokens.
    #[error(
        "response {response_id} has a text but no token_ids, so its length in tokens is unknown; \
         tokenize the responses, or leave length-bias, length-bias-growth and planted-length out"
    )]
    NoLength {
        /// The response.
        response_id: String,
    },
    /// A row of the annotations that means nothing.
    #[error("{}, row {row} (from 0): {message}", file.display())]
    Annotation {
        /// The file.
        file: PathBuf,
        /// The row, from 0.
        row: usize,
        /// What is wrong with it.
        message: String,
    },
    /// The server will not answer, however often it is asked.
    #[error("prompt {prompt_id}: {message}")]
    Refused {
        /// The prompt of the comparison that was asked about.
        prompt_id: String,
        /// What the server said, without the key.
        message: String,
    },
    /// The server did not answer, and may later.
    #[error(
        "prompt {prompt_id}: no answer after {attempts} attempts: {message}; run it again later, \
         answers so far are kept"
    )]
    Unanswered {
        /// The prompt of the comparison that was asked about.
        prompt_id: String,
        /// How often it was asked.
        attempts: u32,
        /// What went wrong last, without the key.
        message: String,
    },
    /// The tokens that a run may spend are spent.
    #[error(
        "{spent} of the {budget} tokens of token-budget are spent and too few are left for a comparison; \
         {answered} of {asked} answers are kept in {}: run it again to go on from there", cache.display()
    )]
    Budget {
        /// Tokens spent.
        spent: u64,
        /// Tokens allowed.
        budget: u64,
        /// Comparisons whose answer is known.
        answered: usize,
        /// Comparisons in all.
        asked: usize,
        /// The folder that keeps answers.
        cache: PathBuf,
    },
    /// The folder of PairRM holds something else.
    #[error("{}: {message}; judge `pairrm` reads a folder in the layout of llm-blender/PairRM-hf", path.display())]
    PairRm {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A judge computed no number.
    #[error(
        "prompt {prompt_id}: the log-odds of response {first} against {second} are {value}; are the judge's weights whole?"
    )]
    NoLogOdds {
        /// The prompt.
        prompt_id: String,
        /// The response shown first.
        first: String,
        /// The response shown second.
        second: String,
        /// NaN or an infinity.
        value: f64,
    },
    /// Parameters or inputs that do not go together.
    #[error("{0}")]
    Setting(String),
    /// A table could not be read.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The model, its tokenizer or its templates failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl JudgeError {
    /// Returns whether the request, not the machine, has to change.
    pub fn is_bad_input(&self) -> bool {
        !matches!(self, Self::Model(_) | Self::Unanswered { .. })
    }

    /// Returns whether the same request may succeed later.
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Unanswered { .. })
    }
}
