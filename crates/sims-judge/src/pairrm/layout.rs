//! The token ids of a comparison: request and answers one after another, each after its marker.

use std::path::Path;

use sims_model::{Result, Tokenizer};

use super::config::PairRmConfig;
use super::refused;
use crate::comparison::Comparison;
use crate::{JudgeError, Sanitiser};

/// What a request and the two answers start with; the head reads the states there.
const MARKERS: [&str; 3] = ["<|source|>", "<|candidate1|>", "<|candidate2|>"];
/// What the tokenizer puts around a text.
const AROUND: [&str; 2] = ["[CLS]", "[SEP]"];
/// Most tokens of a request, its marker and what is around it included.
const SOURCE_MAX_LENGTH: usize = 1224;
/// Most tokens of a comparison: what the request leaves is shared by the answers.
const MAX_LENGTH: usize = 2048;

/// Lays out comparisons as LLM-Blender does.
pub(super) struct Layout {
    tokenizer: Tokenizer,
    sanitiser: Sanitiser,
    /// The id of `[SEP]`.
    separator: u32,
}

/// A comparison in tokens.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Transcript {
    pub(super) ids: Vec<u32>,
    /// Where the markers of request, first and second answer stand.
    pub(super) marked: [usize; 3],
    /// Whether a text was longer than its limit and lost its end.
    pub(super) is_cut: bool,
}

impl Layout {
    /// Opens the tokenizer in `folder`.
    ///
    /// # Errors
    /// A tokenizer that is absent or malformed, that lacks a marker or has it at another id than the config, or that
    /// does not put `[CLS]` and `[SEP]` around a text.
    pub(super) fn open(
        folder: &Path,
        config: &PairRmConfig,
    ) -> std::result::Result<Self, JudgeError> {
        let tokenizer = Tokenizer::open(folder)?;
        tokenizer.check_vocabulary(config.vocab_size)?;
        let refused = |message: String| refused(&folder.join("tokenizer.json"), message);
        let id = |token: &str| {
            tokenizer
                .token_id(token)
                .ok_or_else(|| refused(format!("it has no token `{token}`")))
        };
        let around = [id(AROUND[0])?, id(AROUND[1])?];
        for (marker, configured) in MARKERS.into_iter().zip(config.markers()) {
            let marker_id = id(marker)?;
            if let Some(configured) = configured.filter(|&configured| configured != marker_id) {
                return Err(refused(format!(
                    "`{marker}` is token {marker_id}, but config.json says {configured}"
                )));
            }
            if tokenizer.encode_document(marker)? != [around[0], marker_id, around[1]] {
                return Err(refused(format!(
                    "it does not turn `{marker}` into {}, the marker and {}",
                    AROUND[0], AROUND[1]
                )));
            }
        }
        // A marker within a text would be taken for the real one; LLM-Blender itself takes out [SEP] alone.
        let structure = MARKERS.into_iter().chain([AROUND[1]]).map(str::to_owned);
        Ok(Self {
            sanitiser: Sanitiser::new(structure),
            separator: around[1],
            tokenizer,
        })
    }

    /// Lays out one comparison.
    ///
    /// # Errors
    /// What the tokenizer returns.
    pub(super) fn transcript(&self, comparison: &Comparison<'_>) -> Result<Transcript> {
        let mut transcript = Transcript {
            ids: Vec::new(),
            marked: [0; 3],
            is_cut: false,
        };
        let texts = [
            comparison.request,
            comparison.first.text,
            comparison.second.text,
        ];
        let mut limit = SOURCE_MAX_LENGTH;
        for (place, (marker, text)) in MARKERS.into_iter().zip(texts).enumerate() {
            let text = format!("{marker}{}", self.sanitiser.clean(text));
            let mut ids = self.tokenizer.encode_document(&text)?;
            if ids.len() > limit {
                ids.truncate(limit - 1);
                ids.push(self.separator);
                transcript.is_cut = true;
            }
            // After `[CLS]`.
            transcript.marked[place] = transcript.ids.len() + 1;
            transcript.ids.extend(ids);
            if place == 0 {
                limit = (MAX_LENGTH - transcript.ids.len()) / 2;
            }
        }
        Ok(transcript)
    }
}
