//! Questions to a frozen model: a template with answers in it, and the logits of the tokens that may follow.

use sims_model::score::{NextToken, ScoreLimits, TokenCount, next_token_logits};
use sims_model::{JudgeTemplate, LanguageModel, ModelError};

use crate::comparison::{Judged, Progress};
use crate::template::fitted;
use crate::{JudgeError, Sanitiser};

/// Fewest questions that are run together, so that progress is seen between them.
const CHUNK: usize = 512;

/// Stands for what was cut from the middle of a long answer.
const CUT: &str = " … ";

/// A request with the answers to fill into the template; where it shows one, the second is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Question<'a> {
    /// Questions about one prompt share work when they stand together.
    pub(crate) prompt_id: &'a str,
    pub(crate) request: &'a str,
    pub(crate) answers: [&'a str; 2],
}

/// A model that is asked by a template.
///
/// It runs without hooks: it never sees a steering, so its answers in different rounds are on one scale.
pub(crate) struct Questioned<'a> {
    model: &'a LanguageModel,
    template: JudgeTemplate,
    sanitiser: Sanitiser,
    /// How many answers the template shows: they share the room in the context.
    shown: usize,
    limits: ScoreLimits,
}

impl<'a> Questioned<'a> {
    /// Puts questions to `model` by a template that shows this many answers, with room for `sequences`
    /// transcripts of full length at once; 0 takes what fits the memory.
    pub(crate) fn new(
        model: &'a LanguageModel,
        template: JudgeTemplate,
        shown: usize,
        sequences: usize,
    ) -> Result<Self, JudgeError> {
        let template = fitted(template, model)?;
        let limits = match sequences {
            0 => ScoreLimits::for_decoder(model.decoder()),
            n => ScoreLimits {
                max_rows: n * model.decoder().config().max_position_embeddings,
            },
        };
        Ok(Self {
            sanitiser: Sanitiser::of(model.tokenizer(), &template),
            model,
            template,
            shown,
            limits,
        })
    }

    /// Returns the logits of `tokens` after each question, and what asking cost.
    ///
    /// `progress` is called with the number of questions answered.
    pub(crate) fn ask(
        &self,
        questions: &[Question<'_>],
        tokens: &[u32],
        progress: Progress<'_>,
    ) -> Result<(Vec<NextToken>, Judged), JudgeError> {
        let mut cost = Judged {
            batch_rows: self.limits.max_rows,
            ..Judged::default()
        };
        let mut answers = Vec::with_capacity(questions.len());
        for chunk in chunks_of_whole_prompts(questions) {
            let mut transcripts = Vec::with_capacity(chunk.len());
            for question in chunk {
                let (transcript, cut) = self.transcript(question)?;
                cost.cut += usize::from(cut);
                transcripts.push(transcript);
            }
            let before = answers.len();
            let mut report = |count: TokenCount| {
                progress(before + chunk.len() * count.computed / count.unique.max(1))
            };
            let (next, count) = next_token_logits(
                self.model.decoder(),
                &transcripts,
                tokens,
                &self.limits,
                &mut report,
            )?;
            answers.extend(next);
            cost.tokens.add(count);
        }
        // Two for each parameter and token: a multiplication and an addition.
        let parameters = self.model.decoder().config().parameters() as f64;
        cost.flops = 2.0 * parameters * cost.tokens.computed as f64;
        Ok((answers, cost))
    }

    /// Returns the tokens of a question, and whether its answers had to be cut.
    fn transcript(&self, question: &Question<'_>) -> Result<(Vec<u32>, bool), JudgeError> {
        let context = self.model.decoder().config().max_position_embeddings;
        let request = self.sanitiser.clean(question.request);
        let first = self.sanitiser.clean(question.answers[0]);
        let second = self.sanitiser.clean(question.answers[1]);
        let tokens = self.encode(&request, &first, &second)?;
        if tokens.len() <= context {
            return Ok((tokens, false));
        }
        let overhead = self.encode(&request, "", "")?.len();
        let mut budget = context.saturating_sub(overhead) / self.shown;
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
            prompt_id: question.prompt_id.to_owned(),
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

/// Cuts questions into chunks of at least [`CHUNK`], never between two of one prompt.
fn chunks_of_whole_prompts<'s, 'a>(questions: &'s [Question<'a>]) -> Vec<&'s [Question<'a>]> {
    let mut chunks = Vec::new();
    let mut start = 0;
    let mut end = 0;
    for prompt in questions.chunk_by(|a, b| a.prompt_id == b.prompt_id) {
        end += prompt.len();
        if end - start >= CHUNK {
            chunks.push(&questions[start..end]);
            start = end;
        }
    }
    if start < end {
        chunks.push(&questions[start..end]);
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_everything_and_keep_prompts_whole() {
        let ids: Vec<String> = (0..50).map(|i| format!("p{i}")).collect();
        let questions: Vec<Question> = (0..50 * 40)
            .map(|i| Question {
                prompt_id: &ids[i / 40],
                request: "",
                answers: ["", ""],
            })
            .collect();
        let chunks = chunks_of_whole_prompts(&questions);
        assert_eq!(
            chunks.iter().map(|chunk| chunk.len()).collect::<Vec<_>>(),
            [520, 520, 520, 440]
        );
        assert_eq!(chunks.concat(), questions);
        assert!(chunks_of_whole_prompts(&[]).is_empty());
    }
}
