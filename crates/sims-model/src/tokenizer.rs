//! Text to token ids and back, by the model's `tokenizer.json`.

use crate::{ModelError, Result};

/// The model's tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
}

impl Tokenizer {
    /// Returns the token ids of `text`, with no special tokens added: a chat template writes its own.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when the tokenizer fails on the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        let encoding = self
            .inner
            .encode(text, false)
            .map_err(|error| ModelError::Tokenizer {
                message: error.to_string(),
            })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Returns the text of `token_ids`, leaving special tokens out.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when the tokenizer fails on the ids.
    pub fn decode(&self, token_ids: &[u32]) -> Result<String> {
        self.inner
            .decode(token_ids, true)
            .map_err(|error| ModelError::Tokenizer {
                message: error.to_string(),
            })
    }

    /// Returns the id of `token` as a whole vocabulary entry.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }
}
