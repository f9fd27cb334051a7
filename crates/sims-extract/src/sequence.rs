//! From a contrast pair to the sequences that are teacher-forced and the positions that are read.
//!
//! Prompt and response keep the token ids that were sampled. Where something follows the response (`end`,
//! `reask`), it is what the model's own chat template writes after an assistant's answer, tokenised from there:
//! the text of an answer is never tokenised again.

use crate::ExtractError;
use crate::rows::{comparable, draw};
use sims_artifact::tables::{Message, PairRow, PromptRow};
use sims_model::{ChatMessage, LanguageModel, ModelError};
use sims_sample::prompt_tokens;
use std::collections::HashMap;
use std::fmt;

/// Stands for the assistant's answer while the template is asked what comes after one: a private-use character
/// on either side, so that no template and no prompt contains it by chance.
const ANSWER: &str = "\u{E000}answer\u{E000}";

/// Which positions are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PositionSet {
    /// The response's tokens, the same index in both responses.
    Response,
    /// The positions that produce the response's tokens: each one earlier.
    ///
    /// Between the two responses of a pair these differ from `response` in the last position of an unfinished
    /// one only, since the first, the prompt's last token, is the same state in both.
    Predictive,
    /// The end-of-turn token after the response.
    End,
    /// The last token of the same prompt asked again after the response.
    Reask,
    /// The prompt's tokens but the last, of which the mean is kept: what a steering's condition reads.
    Prompt,
}

impl fmt::Display for PositionSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Response => "response",
            Self::Predictive => "predictive",
            Self::End => "end",
            Self::Reask => "reask",
            Self::Prompt => "prompt",
        })
    }
}

/// One sequence to run and the positions to read of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedSequence {
    /// Token ids: prompt, response and, for `end` and `reask`, what follows.
    pub tokens: Vec<u32>,
    /// Positions to read, ascending.
    pub positions: Vec<usize>,
    /// First position that the steering edits: the last token of the prompt, as in generation.
    ///
    /// The response is thus edited as it was when it was sampled. Under `end` and `reask` the edit goes on to the end:
    /// the state that is read stands where the next answer would start, which generation edits too.
    pub edit_from: usize,
    /// Whether the mean of the positions is kept in place of each.
    pub is_pooled: bool,
}

/// A contrast pair, ready to run: as many positions in either sequence. For `prompt` both are the prompt itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedPair {
    /// The pair's id.
    pub pair_id: String,
    /// The prompt's id.
    pub prompt_id: String,
    /// Length of the prompt, in tokens.
    pub prompt_tokens: usize,
    /// The better response.
    pub chosen: PlannedSequence,
    /// The worse one.
    pub rejected: PlannedSequence,
}

impl PlannedPair {
    /// Returns the number of rows that the pair gives.
    pub fn rows(&self) -> usize {
        let positions = self.chosen.positions.len();
        if self.chosen.is_pooled {
            positions.min(1)
        } else {
            positions
        }
    }

    /// Returns whether both sequences are the same, and with them every state.
    pub fn is_identical(&self) -> bool {
        self.chosen.tokens == self.rejected.tokens
    }
}

/// Plans the sequences of pairs; encodes each prompt once.
pub struct Planner<'a> {
    model: &'a LanguageModel,
    prompts: HashMap<&'a str, &'a PromptRow>,
    positions: PositionSet,
    rows_per_pair: usize,
    seed: u64,
}

/// A prompt's tokens, and what the template writes after an answer to it.
struct EncodedPrompt {
    tokens: Vec<u32>,
    continuation: Vec<u32>,
}

impl<'a> Planner<'a> {
    /// Prepares to plan pairs of the given prompts.
    ///
    /// `rows_per_pair` bounds the rows of `response` and `predictive`; the others have one row a pair.
    pub fn new(
        model: &'a LanguageModel,
        prompts: &'a [PromptRow],
        positions: PositionSet,
        rows_per_pair: usize,
        seed: u64,
    ) -> Self {
        let prompts = prompts
            .iter()
            .map(|row| (row.prompt_id.as_str(), row))
            .collect();
        Self {
            model,
            prompts,
            positions,
            rows_per_pair,
            seed,
        }
    }

    /// Plans the prompts alone, in order, each in the place of a pair of its own name; a prompt of one token has no row.
    ///
    /// # Errors
    /// [`ExtractError::NoPairs`] without prompts, [`ExtractError::NoRows`] if none has a row, and for the first prompt
    /// at fault what encoding says, or a prompt beyond the model's context.
    pub fn plan_prompts(&self, prompts: &[&PromptRow]) -> Result<Vec<PlannedPair>, ExtractError> {
        if prompts.is_empty() {
            return Err(ExtractError::NoPairs);
        }
        let mut planned = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let tokens = self.encode(prompt)?.tokens;
            let last = tokens.len().saturating_sub(1);
            let sequence = PlannedSequence {
                positions: (0..last).collect(),
                edit_from: last,
                is_pooled: true,
                tokens,
            };
            let pair = PlannedPair {
                pair_id: prompt.prompt_id.clone(),
                prompt_id: prompt.prompt_id.clone(),
                prompt_tokens: sequence.tokens.len(),
                chosen: sequence.clone(),
                rejected: sequence,
            };
            self.check_length(&pair)?;
            planned.push(pair);
        }
        if planned.iter().all(|pair| pair.rows() == 0) {
            return Err(ExtractError::NoRows {
                pairs: prompts.len(),
            });
        }
        Ok(planned)
    }

    /// Plans every pair, in order; pairs without a comparable position have no rows.
    ///
    /// # Errors
    /// [`ExtractError::NoPairs`]; [`ExtractError::NoRows`] if no pair has a row, [`ExtractError::Identical`] if no
    /// pair has two different responses; and for the first pair at fault an unknown prompt, an empty response, an unknown token id, or a sequence beyond the model's context.
    pub fn plan(&self, pairs: &[PairRow]) -> Result<Vec<PlannedPair>, ExtractError> {
        if pairs.is_empty() {
            return Err(ExtractError::NoPairs);
        }
        let mut encoded: HashMap<&str, EncodedPrompt> = HashMap::new();
        let mut planned = Vec::with_capacity(pairs.len());
        for pair in pairs {
            if !encoded.contains_key(pair.prompt_id.as_str()) {
                encoded.insert(&pair.prompt_id, self.encode(self.prompt_of(pair)?)?);
            }
            planned.push(self.plan_pair(pair, &encoded[pair.prompt_id.as_str()])?);
        }
        if planned.iter().all(|pair| pair.rows() == 0) {
            return Err(ExtractError::NoRows { pairs: pairs.len() });
        }
        if planned.iter().all(PlannedPair::is_identical) {
            return Err(ExtractError::Identical { pairs: pairs.len() });
        }
        Ok(planned)
    }

    /// Returns the prompt that a pair answers.
    ///
    /// # Errors
    /// [`ExtractError::UnknownPrompt`].
    pub fn prompt_of(&self, pair: &PairRow) -> Result<&'a PromptRow, ExtractError> {
        let known = self.prompts.get(pair.prompt_id.as_str()).copied();
        known.ok_or_else(|| ExtractError::UnknownPrompt {
            pair_id: pair.pair_id.clone(),
            prompt_id: pair.prompt_id.clone(),
        })
    }

    fn encode(&self, prompt: &PromptRow) -> Result<EncodedPrompt, ExtractError> {
        let prompt_id = &prompt.prompt_id;
        let refused = |source: ModelError| ExtractError::Encode {
            prompt_id: prompt_id.clone(),
            source: Box::new(source),
        };
        let tokens = prompt_tokens(self.model, &prompt.messages).map_err(refused)?;
        let continuation = match self.positions {
            PositionSet::Response | PositionSet::Predictive | PositionSet::Prompt => Vec::new(),
            PositionSet::End | PositionSet::Reask => {
                let asked_again = prompt
                    .messages
                    .iter()
                    .rfind(|message| message.role == "user");
                let asked_again = asked_again.ok_or_else(|| ExtractError::NoUserMessage {
                    prompt_id: prompt_id.clone(),
                })?;
                let text = text_after_answer(self.model, &prompt.messages, asked_again)
                    .map_err(refused)?
                    .ok_or(ExtractError::AnswerNotShown)?;
                self.model.tokenizer().encode(&text).map_err(refused)?
            }
        };
        let wanted = matches!(self.positions, PositionSet::End | PositionSet::Reask);
        if wanted && continuation.is_empty() {
            return Err(ExtractError::AnswerNotShown);
        }
        Ok(EncodedPrompt {
            tokens,
            continuation,
        })
    }

    fn plan_pair(
        &self,
        pair: &PairRow,
        prompt: &EncodedPrompt,
    ) -> Result<PlannedPair, ExtractError> {
        let chosen = self.content(pair, "chosen", &pair.chosen_token_ids)?;
        let rejected = self.content(pair, "rejected", &pair.rejected_token_ids)?;
        let drawn = match self.positions {
            PositionSet::Response => self.draw(pair, chosen, rejected, prompt.tokens.len()),
            // The state one token earlier produces the token; it has read the same tokens as the state of a
            // `response` row that is not the last.
            PositionSet::Predictive => self.draw(
                pair,
                &pair.chosen_token_ids[..pair.chosen_token_ids.len() - 1],
                &pair.rejected_token_ids[..pair.rejected_token_ids.len() - 1],
                prompt.tokens.len(),
            ),
            PositionSet::End | PositionSet::Reask | PositionSet::Prompt => Vec::new(),
        };
        let sequence = |content: &[u32], sampled: &[u32]| {
            let mut tokens = prompt.tokens.clone();
            let positions = match self.positions {
                PositionSet::Response | PositionSet::Predictive => {
                    tokens.extend_from_slice(sampled);
                    drawn.clone()
                }
                PositionSet::End => {
                    tokens.extend_from_slice(content);
                    tokens.extend_from_slice(self.end_of_turn(&prompt.continuation));
                    vec![tokens.len() - 1]
                }
                PositionSet::Reask | PositionSet::Prompt => {
                    tokens.extend_from_slice(content);
                    tokens.extend_from_slice(&prompt.continuation);
                    vec![tokens.len() - 1]
                }
            };
            let edit_from = prompt.tokens.len().saturating_sub(1);
            PlannedSequence {
                tokens,
                positions,
                edit_from,
                is_pooled: false,
            }
        };
        let planned = PlannedPair {
            pair_id: pair.pair_id.clone(),
            prompt_id: pair.prompt_id.clone(),
            prompt_tokens: prompt.tokens.len(),
            chosen: sequence(chosen, &pair.chosen_token_ids),
            rejected: sequence(rejected, &pair.rejected_token_ids),
        };
        self.check_length(&planned)?;
        Ok(planned)
    }

    /// Returns the response without the token that ended it, after checking its ids.
    fn content<'r>(
        &self,
        pair: &PairRow,
        class: &'static str,
        sampled: &'r [u32],
    ) -> Result<&'r [u32], ExtractError> {
        let vocab_size = self.model.decoder().config().vocab_size;
        if let Some(&token_id) = sampled.iter().find(|&&id| id as usize >= vocab_size) {
            return Err(ExtractError::UnknownToken {
                pair_id: pair.pair_id.clone(),
                class,
                token_id,
                vocab_size,
            });
        }
        let stop_tokens = &self.model.generation_config().eos_token_ids;
        let content = match sampled.split_last() {
            Some((last, content)) if stop_tokens.contains(last) => content,
            _ => sampled,
        };
        if content.is_empty() {
            return Err(ExtractError::EmptyResponse {
                pair_id: pair.pair_id.clone(),
                class,
            });
        }
        Ok(content)
    }

    /// Returns what ends an answer: the continuation up to its first stop token, or its first token.
    fn end_of_turn<'c>(&self, continuation: &'c [u32]) -> &'c [u32] {
        let stop_tokens = &self.model.generation_config().eos_token_ids;
        let end = continuation
            .iter()
            .position(|token| stop_tokens.contains(token));
        &continuation[..=end.unwrap_or(0)]
    }

    /// Draws positions of the sequence, shared by both responses.
    fn draw(&self, pair: &PairRow, chosen: &[u32], rejected: &[u32], start: usize) -> Vec<usize> {
        draw(
            comparable(chosen, rejected),
            self.rows_per_pair,
            self.seed,
            &pair.pair_id,
        )
        .into_iter()
        .map(|index| start + index)
        .collect()
    }

    fn check_length(&self, pair: &PlannedPair) -> Result<(), ExtractError> {
        let context = self.model.decoder().config().max_position_embeddings;
        for (class, sequence) in [("chosen", &pair.chosen), ("rejected", &pair.rejected)] {
            if sequence.tokens.len() > context {
                return Err(ExtractError::TooLong {
                    pair_id: pair.pair_id.clone(),
                    prompt_id: pair.prompt_id.clone(),
                    class,
                    positions: self.positions,
                    tokens: sequence.tokens.len(),
                    context,
                });
            }
        }
        Ok(())
    }
}

/// Returns what the chat template writes after an answer to `messages`, when `asked_again` comes next: the end of
/// the assistant's turn, the user's turn, and the header of the next answer. None if the answer is not shown once.
fn text_after_answer(
    model: &LanguageModel,
    messages: &[Message],
    asked_again: &Message,
) -> Result<Option<String>, ModelError> {
    let chat: Vec<ChatMessage> = messages
        .iter()
        .chain([&Message::assistant(ANSWER), asked_again])
        .map(|message| ChatMessage {
            role: message.role.clone(),
            content: message.content.clone(),
        })
        .collect();
    let text = model.chat_template()?.render(&chat, true)?;
    let mut parts = text.split(ANSWER).skip(1);
    Ok(match (parts.next(), parts.next()) {
        (Some(after), None) => Some(after.to_owned()),
        _ => None,
    })
}
