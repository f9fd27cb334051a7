//! Where context and continuation part, in tokens.
//!
//! The rules are those of `loglikelihood`, `_encode_pair` and `tok_encode` in lm-evaluation-harness 0.4.13.

use sims_model::{ModelError, Tokenizer};

use crate::prompt::is_space;

/// Turns contexts and continuations into tokens.
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    /// The text and the id of the token that documents begin with.
    start: Option<(&'a str, u32)>,
    max_length: usize,
}

/// A context and what is scored after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// Both, at most one token more than the model's context.
    pub tokens: Vec<u32>,
    /// Index of the first token that is scored, at least 1.
    pub start: usize,
    /// How many tokens of the context were cut off on the left.
    pub cut: usize,
}

/// Why a pair of texts has nothing to score, or nothing to score it after.
#[derive(Debug, thiserror::Error)]
pub enum PairError {
    /// The context is empty, and no token can stand for it.
    #[error("the context is empty")]
    NoDocumentStart,
    /// The context has no tokens although it has characters.
    #[error(
        "its context becomes no tokens at all; give it a word, or leave it empty for the token that documents begin with"
    )]
    NoContext,
    /// All of the continuation's characters are in tokens of the context.
    #[error(
        "no token of it lies behind the context's; put a delimiter between them, or a choice of more characters"
    )]
    NoContinuation,
    /// The continuation alone fills the model's context.
    #[error("its {tokens} tokens do not fit the context of {limit}; shorten it")]
    TooLong {
        /// Tokens of the continuation.
        tokens: usize,
        /// The most that fit.
        limit: usize,
    },
    /// The tokenizer failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl<'a> Encoder<'a> {
    /// Makes an encoder for a model that takes `max_length` tokens.
    pub fn new(tokenizer: &'a Tokenizer, max_length: usize) -> Self {
        let text = tokenizer.document_start();
        Self {
            tokenizer,
            start: text.and_then(|text| Some((text, tokenizer.token_id(text)?))),
            max_length,
        }
    }

    /// Returns the tokens of `context` and `continuation`, parted as the harness parts them.
    ///
    /// White space at the end of the context belongs to the continuation. The context's tokens are those that it has
    /// by itself; the continuation's are those of both texts together, less as many as the context has.
    ///
    /// # Errors
    /// [`PairError`].
    pub fn pair(&self, context: &str, continuation: &str) -> Result<Encoded, PairError> {
        if context.is_empty() {
            return self.continuation(continuation);
        }
        let trimmed = context.trim_end_matches(is_space);
        let context_tokens = self.document(trimmed)?;
        let all = self.document(&format!("{context}{continuation}"))?;
        let scored = all.get(context_tokens.len()..).unwrap_or_default();
        self.join(context_tokens, scored)
    }

    /// Returns the tokens of a continuation after the token that documents begin with.
    fn continuation(&self, continuation: &str) -> Result<Encoded, PairError> {
        let (_, start) = self.start.ok_or(PairError::NoDocumentStart)?;
        let tokens = self.tokenizer.encode(continuation)?;
        match tokens.strip_prefix(&[start]) {
            Some(rest) => self.join(vec![start], rest),
            None => self.join(vec![start], &tokens),
        }
    }

    /// Returns the tokens of a text with what the tokenizer puts around a document, unless the text begins so already.
    fn document(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        match self.start {
            Some((start, _)) if text.starts_with(start) => self.tokenizer.encode(text),
            _ => self.tokenizer.encode_document(text),
        }
    }

    /// Puts the scored tokens behind the context's, of which only those stay that fit.
    fn join(&self, mut tokens: Vec<u32>, scored: &[u32]) -> Result<Encoded, PairError> {
        if tokens.is_empty() {
            return Err(PairError::NoContext);
        }
        if scored.is_empty() {
            return Err(PairError::NoContinuation);
        }
        if scored.len() > self.max_length {
            return Err(PairError::TooLong {
                tokens: scored.len(),
                limit: self.max_length,
            });
        }
        // The last token is scored but not run.
        let cut = (tokens.len() + scored.len()).saturating_sub(self.max_length + 1);
        tokens.drain(..cut);
        let start = tokens.len();
        tokens.extend_from_slice(scored);
        Ok(Encoded { tokens, start, cut })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::json;

    use super::*;

    /// Writes a tokenizer of words and of the letters `a`, `b`, with merged `ab`.
    fn tokenizer(folder: &Path, config: &serde_json::Value) -> Tokenizer {
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true}],
            "pre_tokenizer": null, "decoder": null,
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
            "model": {"type": "BPE", "vocab": {"<s>": 0, " ": 1, "a": 2, "b": 3, "ab": 4}, "merges": ["a b"],
                "unk_token": null, "dropout": null, "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false},
        });
        std::fs::write(folder.join("tokenizer.json"), file.to_string()).expect("writable");
        std::fs::write(folder.join("tokenizer_config.json"), config.to_string()).expect("writable");
        Tokenizer::open(folder).expect("a tokenizer")
    }

    fn with_encoder(max_length: usize, check: impl Fn(&Encoder<'_>)) {
        let folder = tempfile::tempdir().expect("temporary folders can be made");
        let tokenizer = tokenizer(folder.path(), &json!({"bos_token": "<s>"}));
        check(&Encoder::new(&tokenizer, max_length));
    }

    fn encoded(tokens: &[u32], start: usize, cut: usize) -> Encoded {
        Encoded {
            tokens: tokens.to_vec(),
            start,
            cut,
        }
    }

    #[test]
    fn white_space_at_the_end_of_the_context_is_scored() {
        with_encoder(100, |encoder| {
            let plain = encoder.pair("b", " a").expect("valid");
            assert_eq!(plain, encoded(&[0, 3, 1, 2], 2, 0));
            assert_eq!(encoder.pair("b ", "a").expect("valid"), plain);
        });
    }

    #[test]
    fn a_token_across_the_border_counts_for_the_context() {
        with_encoder(100, |encoder| {
            // `a` alone is token 2; together they are `ab`, ` `, `a`, of which the first is as many as the context's.
            let pair = encoder.pair("a", "b a").expect("valid");
            assert_eq!(pair, encoded(&[0, 2, 1, 2], 2, 0));
            assert!(matches!(
                encoder.pair("a", "b"),
                Err(PairError::NoContinuation)
            ));
        });
    }

    #[test]
    fn a_document_begins_once() {
        with_encoder(100, |encoder| {
            assert_eq!(
                encoder.pair("<s>b", "a").expect("valid"),
                encoded(&[0, 3, 2], 2, 0)
            );
            assert_eq!(
                encoder.pair("", " a").expect("valid"),
                encoded(&[0, 1, 2], 1, 0)
            );
            assert_eq!(
                encoder.pair("", "<s>a").expect("valid"),
                encoded(&[0, 2], 1, 0)
            );
            assert_eq!(
                encoder.pair("  ", "a").expect("valid"),
                encoded(&[0, 1, 1, 2], 1, 0)
            );
        });
    }

    #[test]
    fn without_a_start_an_empty_context_is_refused() {
        let folder = tempfile::tempdir().expect("temporary folders can be made");
        let tokenizer = tokenizer(folder.path(), &json!({}));
        let encoder = Encoder::new(&tokenizer, 10);
        assert!(matches!(
            encoder.pair("", "a"),
            Err(PairError::NoDocumentStart)
        ));
        // An end of text stands in where there is no beginning.
        let named = json!({"bos_token": null, "eos_token": {"content": "<s>"}});
        let tokenizer = self::tokenizer(folder.path(), &named);
        let encoder = Encoder::new(&tokenizer, 10);
        assert_eq!(
            encoder.pair("", "a").expect("valid"),
            encoded(&[0, 2], 1, 0)
        );
    }

    #[test]
    fn what_does_not_fit_is_cut_on_the_left() {
        with_encoder(3, |encoder| {
            // Of five tokens four stay, of which three are run.
            assert_eq!(
                encoder.pair("bb", "aa").expect("valid"),
                encoded(&[3, 3, 2, 2], 2, 1)
            );
            assert_eq!(
                encoder.pair("bb", "aaa").expect("valid"),
                encoded(&[3, 2, 2, 2], 1, 2)
            );
            assert!(matches!(
                encoder.pair("b", "aaaa"),
                Err(PairError::TooLong {
                    tokens: 4,
                    limit: 3
                })
            ));
        });
    }
}
