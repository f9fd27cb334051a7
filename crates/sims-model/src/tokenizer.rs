//! Text to token ids and back, by the model's `tokenizer.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::config::read_text;
use crate::gguf::{GgufFile, is_gguf};
use crate::{ModelError, Result};

/// The model's tokenizer.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
    document_start: Option<String>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` in `directory`, or the tokenizer of a GGUF file.
    ///
    /// # Errors
    /// [`ModelError::MissingFile`], or [`ModelError::Tokenizer`] when the file is not a tokenizer.
    pub fn open(directory: &Path) -> Result<Self> {
        let (path, text, named) = if is_gguf(directory) {
            let file = GgufFile::open(directory)?;
            (
                directory.to_owned(),
                file.tokenizer_json()?,
                file.named_tokens()?,
            )
        } else {
            let path = directory.join("tokenizer.json");
            let text = read_text(&path, "it turns text into tokens")?;
            (path, text, named_tokens(directory)?)
        };
        let mut inner =
            tokenizers::Tokenizer::from_bytes(&text).map_err(|error| ModelError::Tokenizer {
                message: format!("{}: {error}", path.display()),
            })?;
        // A file may ask for padding or truncation; here a text is exactly its tokens.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(refused)?;
        let document_start = ["bos_token", "eos_token"]
            .iter()
            .find_map(|name| token_text(named.get(*name)?))
            .map(ToOwned::to_owned);
        Ok(Self {
            inner,
            path,
            document_start,
        })
    }

    /// Checks that the model has an embedding for every token.
    ///
    /// # Errors
    /// [`ModelError::VocabularyMismatch`].
    pub fn check_vocabulary(&self, vocab_size: usize) -> Result<()> {
        let tokenizer = self.vocab_size();
        if tokenizer > vocab_size {
            let path = self.path.clone();
            return Err(ModelError::VocabularyMismatch {
                path,
                tokenizer,
                model: vocab_size,
            });
        }
        Ok(())
    }

    /// Checks that the tokenizer has the tokens that end a response, which one of another model may lack.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] with the first that it does not know.
    pub fn check_known(&self, end_tokens: &[u32]) -> Result<()> {
        match end_tokens
            .iter()
            .find(|&&id| self.inner.id_to_token(id).is_none())
        {
            None => Ok(()),
            Some(id) => Err(ModelError::Tokenizer {
                message: format!(
                    "{} has no token {id}, which the model's configuration names as an end of text; \
                     is it another model's?",
                    self.path.display()
                ),
            }),
        }
    }

    /// Returns one more than the highest token id.
    pub fn vocab_size(&self) -> usize {
        self.inner
            .get_vocab(true)
            .values()
            .max()
            .map_or(0, |&id| id as usize + 1)
    }

    /// Returns the token ids of `text`, with no special tokens added: a chat template writes its own.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when the tokenizer fails on the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self
            .inner
            .encode_fast(text, false)
            .map_err(refused)?
            .get_ids()
            .to_vec())
    }

    /// Returns the token ids of `text` with the special tokens that the tokenizer puts around a document.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when the tokenizer fails on the text.
    pub fn encode_document(&self, text: &str) -> Result<Vec<u32>> {
        Ok(self
            .inner
            .encode_fast(text, true)
            .map_err(refused)?
            .get_ids()
            .to_vec())
    }

    /// Returns the token that documents begin with, as its text: the tokenizer's `bos_token`, or its `eos_token` where it
    /// has none; none where it names neither.
    pub fn document_start(&self) -> Option<&str> {
        self.document_start.as_deref()
    }

    /// Returns the text of `token_ids`, leaving special tokens out.
    ///
    /// # Errors
    /// [`ModelError::Tokenizer`] when the tokenizer fails on the ids.
    pub fn decode(&self, token_ids: &[u32]) -> Result<String> {
        self.inner.decode(token_ids, true).map_err(refused)
    }

    /// Returns the id of `token` as a whole vocabulary entry.
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Returns the vocabulary entry with this id.
    pub fn token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Returns the texts of the special tokens, in the order of their ids.
    pub fn special_tokens(&self) -> Vec<String> {
        let added: BTreeMap<_, _> = self.inner.get_added_tokens_decoder().into_iter().collect();
        added
            .into_values()
            .filter(|token| token.special)
            .map(|token| token.content)
            .collect()
    }
}

/// Reads the special tokens that the files beside `tokenizer.json` name.
///
/// `special_tokens_map.json` is where older repositories have what `tokenizer_config.json` does not say.
fn named_tokens(directory: &Path) -> Result<Map<String, Value>> {
    let mut named = Map::new();
    for file in ["special_tokens_map.json", "tokenizer_config.json"] {
        let path = directory.join(file);
        if path.exists() {
            let text = read_text(&path, "it names the special tokens")?;
            let keys: Map<String, Value> =
                serde_json::from_str(&text).map_err(|source| ModelError::Json { path, source })?;
            named.extend(keys.into_iter().filter(|(_, value)| !value.is_null()));
        }
    }
    Ok(named)
}

/// Returns the text of a token, which is written as such or as an object with its text and flags.
fn token_text(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}

fn refused(error: tokenizers::Error) -> ModelError {
    ModelError::Tokenizer {
        message: error.to_string(),
    }
}
