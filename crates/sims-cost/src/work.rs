//! Amounts of work: tokens read and written, and the tables that stages hand on.

use crate::card::Dtype;

/// What a stage has a model do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Work {
    /// The type of the weights.
    pub dtype: Dtype,
    /// Tokens read: prompts, comparisons, teacher forcing, each shared beginning once.
    pub read: f64,
    /// Of those read, tokens with a backward pass.
    pub learned: f64,
    /// Tokens written.
    pub written: f64,
    /// Responses written in the largest draw.
    pub sequences: f64,
    /// Tokens written, each times the tokens that it attends to.
    pub attended: f64,
    /// Longest sequence that is read without being continued.
    pub longest_read: f64,
    /// Longest sequence that is written, its prompt included.
    pub longest_written: f64,
}

impl Work {
    /// No work.
    pub fn none(dtype: Dtype) -> Self {
        Self {
            dtype,
            read: 0.0,
            learned: 0.0,
            written: 0.0,
            sequences: 0.0,
            attended: 0.0,
            longest_read: 0.0,
            longest_written: 0.0,
        }
    }

    /// Adds reading of `tokens` in sequences of up to `longest`.
    pub fn read(&mut self, tokens: f64, longest: f64) {
        self.read += tokens;
        self.longest_read = self.longest_read.max(longest);
    }

    /// Adds a draw of `draws` responses of `response` tokens to each of `prompts` prompts of `prompt` tokens, which are
    /// read once each.
    pub fn draw(&mut self, prompts: f64, prompt: f64, draws: f64, response: f64) {
        let sequences = prompts * draws;
        self.read(prompts * prompt, 0.0);
        self.longest_written = self.longest_written.max(prompt + response);
        self.written += sequences * response;
        self.attended += sequences * response * (prompt + response / 2.0);
        self.sequences = self.sequences.max(sequences);
    }

    /// Returns the floating point operations, as the stages count them: two for each parameter and token, and four for
    /// a token's backward pass. Attention is left out: a few per cent at the lengths of answers.
    pub fn flops(&self, parameters: f64) -> f64 {
        2.0 * parameters * (self.read + self.written + 2.0 * self.learned)
    }
}

/// A table of prompts, responses or pairs on its way between stages, in means.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Table {
    /// Prompts.
    pub prompts: f64,
    /// A prompt as the judge reads it. Unit: tokens.
    pub request: f64,
    /// A prompt as the model answers it. Unit: tokens.
    pub templated: f64,
    /// Responses or pairs for each prompt.
    pub per_prompt: f64,
    /// A response. Unit: tokens.
    pub response: f64,
}
