//! The frozen model as its own judge.

use std::ops::ControlFlow;

use sims_artifact::Digest;
use sims_model::score::{ScoreLimits, TokenCount, next_token_logits};
use sims_model::{JudgeTemplate, LanguageModel, ModelError};

use crate::template::fitted;
use crate::verdict::{Preference, Verdicts};
use crate::{JudgeError, Sanitiser};

/// Fewest comparisons that are run together, so that progress is seen between them.
const CHUNK: usize = 512;

/// Stands for what was cut from the middle of a long answer.
const CUT: &str = " … ";

/// One request with two answers, in the order in which the judge sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Comparison<'a> {
    /// The prompt's id. Comparisons of one prompt share work when they stand together.
    pub prompt_id: &'a str,
    /// The request, as [`request_text`](crate::template::request_text) puts it.
    pub request: &'a str,
    /// The answer shown first.
    pub first: &'a str,
    /// The answer shown second.
    pub second: &'a str,
}

/// What comparisons came to, and what they cost.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Judged {
    /// One entry a comparison, in their order.
    pub preferences: Vec<Preference>,
    /// Comparisons whose answers were cut to fit the context.
    pub cut: usize,
    /// Tokens computed, and tokens that a run without shared prefixes would have computed.
    pub tokens: TokenCount,
}

/// Compares answers by the logits that the model gives to the verdict tokens.
///
/// The model runs without hooks: it never sees a steering, so verdicts of different rounds are on one scale.
/// A verdict depends on its transcript alone, not on what else is compared.
pub struct SelfJudge<'a> {
    model: &'a LanguageModel,
    template: JudgeTemplate,
    verdicts: Verdicts,
    sanitiser: Sanitiser,
    id: String,
}

impl<'a> SelfJudge<'a> {
    /// Makes a judge of `model`, whose manifest digest is `digest`.
    ///
    /// # Errors
    /// A template without verdict tokens in the vocabulary, or one that the chat template refuses.
    pub fn new(
        model: &'a LanguageModel,
        digest: &Digest,
        template: JudgeTemplate,
    ) -> Result<Self, JudgeError> {
        let template = fitted(template, model)?;
        Ok(Self {
            verdicts: Verdicts::find(model.tokenizer(), &template)?,
            sanitiser: Sanitiser::of(model.tokenizer(), &template),
            id: format!("self/{}/{}", template.version, digest.short(12)),
            model,
            template,
        })
    }

    /// Returns what names the judge in artifacts: kind, template version and the start of the model's digest.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns limits with room for `sequences` transcripts of full length at once; 0 takes what fits the memory.
    pub fn limits(&self, sequences: usize) -> ScoreLimits {
        match sequences {
            0 => ScoreLimits::for_decoder(self.model.decoder()),
            n => ScoreLimits {
                max_rows: n * self.model.decoder().config().max_position_embeddings,
            },
        }
    }

    /// Judges each comparison in the order given.
    ///
    /// `progress` is called with the number of comparisons done and may stop the run.
    ///
    /// # Errors
    /// A request that does not fit the context, [`ModelError::Interrupted`], and what the model returns.
    pub fn compare(
        &self,
        comparisons: &[Comparison<'_>],
        limits: &ScoreLimits,
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<Judged, JudgeError> {
        let mut judged = Judged::default();
        for chunk in chunks_of_whole_prompts(comparisons) {
            let mut transcripts = Vec::with_capacity(chunk.len());
            for comparison in chunk {
                let (transcript, cut) = self.transcript(comparison)?;
                judged.cut += usize::from(cut);
                transcripts.push(transcript);
            }
            let before = judged.preferences.len();
            let mut report = |count: TokenCount| {
                progress(before + chunk.len() * count.computed / count.unique.max(1))
            };
            let (next, tokens) = next_token_logits(
                self.model.decoder(),
                &transcripts,
                self.verdicts.ids(),
                limits,
                &mut report,
            )?;
            judged
                .preferences
                .extend(next.iter().map(|next| self.verdicts.read(next)));
            judged.tokens.add(tokens);
        }
        Ok(judged)
    }

    /// Returns the tokens of a comparison, and whether its answers had to be cut.
    fn transcript(&self, comparison: &Comparison<'_>) -> Result<(Vec<u32>, bool), JudgeError> {
        let context = self.model.decoder().config().max_position_embeddings;
        let request = self.sanitiser.clean(comparison.request);
        let first = self.sanitiser.clean(comparison.first);
        let second = self.sanitiser.clean(comparison.second);
        let tokens = self.encode(&request, &first, &second)?;
        if tokens.len() <= context {
            return Ok((tokens, false));
        }
        let overhead = self.encode(&request, "", "")?.len();
        let mut budget = context.saturating_sub(overhead) / 2;
        while budget > 0 {
            let tokens = self.encode(
                &request,
                &self.cut(&first, budget)?,
                &self.cut(&second, budget)?,
            )?;
            if tokens.len() <= context {
                return Ok((tokens, true));
            }
            // What stands for the cut, and tokens that split at it, take some room too.
            budget = budget * 9 / 10;
        }
        Err(JudgeError::RequestTooLong {
            prompt_id: comparison.prompt_id.to_owned(),
            tokens: overhead,
            context,
        })
    }

    /// Returns the head and the tail of a text of more than `budget` tokens, half of the budget each.
    fn cut(&self, text: &str, budget: usize) -> Result<String, ModelError> {
        let tokenizer = self.model.tokenizer();
        let tokens = tokenizer.encode(text)?;
        if tokens.len() <= budget {
            return Ok(text.to_owned());
        }
        let (head, tail) = (budget.div_ceil(2), budget / 2);
        let head = tokenizer.decode(&tokens[..head])?;
        let tail = tokenizer.decode(&tokens[tokens.len() - tail..])?;
        Ok(format!("{head}{CUT}{tail}"))
    }

    /// Fills in the template and tokenises it, up to where the verdict stands.
    fn encode(&self, request: &str, first: &str, second: &str) -> Result<Vec<u32>, ModelError> {
        let chat = self.model.chat_template().ok();
        self.model
            .tokenizer()
            .encode(&self.template.prompt(chat, request, first, second)?)
    }
}

/// Cuts comparisons into chunks of at least [`CHUNK`], never between two of one prompt.
fn chunks_of_whole_prompts<'s, 'a>(comparisons: &'s [Comparison<'a>]) -> Vec<&'s [Comparison<'a>]> {
    let mut chunks = Vec::new();
    let mut start = 0;
    let mut end = 0;
    for prompt in comparisons.chunk_by(|a, b| a.prompt_id == b.prompt_id) {
        end += prompt.len();
        if end - start >= CHUNK {
            chunks.push(&comparisons[start..end]);
            start = end;
        }
    }
    if start < end {
        chunks.push(&comparisons[start..end]);
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_everything_and_keep_prompts_whole() {
        let ids: Vec<String> = (0..50).map(|i| format!("p{i}")).collect();
        let comparisons: Vec<Comparison> = (0..50 * 40)
            .map(|i| Comparison {
                prompt_id: &ids[i / 40],
                request: "",
                first: "",
                second: "",
            })
            .collect();
        let chunks = chunks_of_whole_prompts(&comparisons);
        assert_eq!(
            chunks.iter().map(|chunk| chunk.len()).collect::<Vec<_>>(),
            [520, 520, 520, 440]
        );
        assert_eq!(chunks.concat(), comparisons);
        assert!(chunks_of_whole_prompts(&[]).is_empty());
    }
}
