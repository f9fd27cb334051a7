//! Runs the base and the steered model over all choices, every shared prefix once.

use std::ops::ControlFlow;

use sims_artifact::tables::ChoicesRow;
use sims_model::score::{ScoreLimits, ScoreRequest, TokenCount, TokenScore, response_scores};
use sims_model::{Hook, LanguageModel};

use crate::encode::{Encoded, Encoder, PairError};
use crate::prompt::{Prompt, Prompter};
use crate::tasks::Task;
use crate::{ChoicesError, EditRange};

/// Questions that are run together: their examples are then computed once, and progress is seen between chunks.
const CHUNK: usize = 256;

/// What a policy thinks of one choice.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChoiceScore {
    /// Summed log-probability of delimiter and choice. Unit: nats.
    pub loglikelihood: f64,
    /// Whether every token of them is the most probable one.
    pub is_greedy: bool,
    /// Tokens scored.
    pub tokens: usize,
    /// Tokens of the context that were cut off on the left.
    pub cut: usize,
    /// The same log-probability without a context, where it was asked for. Unit: nats.
    pub unconditional: Option<f64>,
}

/// What the policies think of a task's choices, question by question.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskScores {
    /// The model as it is.
    pub base: Vec<Vec<ChoiceScore>>,
    /// The steered model, where there is a steering.
    pub steered: Option<Vec<Vec<ChoiceScore>>>,
}

/// How choices are scored.
pub struct Evaluator<'a> {
    /// The model.
    pub model: &'a LanguageModel,
    /// Makes the text before each choice.
    pub prompter: Prompter<'a>,
    /// Finds the tokens to score.
    pub encoder: Encoder<'a>,
    /// Whether choices are scored without a context as well.
    pub unconditional: bool,
    /// Which positions a steering edits.
    pub edit: EditRange,
    /// How much runs at once; changes no result.
    pub limits: ScoreLimits,
}

/// A steering as it is evaluated.
pub enum Steered<'h> {
    /// There is none.
    Absent,
    /// One that changes nothing: the steered model is the base.
    Idle,
    /// One that edits.
    By(&'h mut dyn Hook),
}

impl Evaluator<'_> {
    /// Returns the scores of a task's questions, and what they cost.
    ///
    /// Base and steered model run in one pass: up to the first position that is edited they share their states.
    /// `progress` is called with the number of questions done, and may stop the run.
    ///
    /// # Errors
    /// A question that cannot be put, a choice without a token to score, and whatever the model returns.
    pub fn score(
        &self,
        task: &Task,
        steered: &mut Steered<'_>,
        progress: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> Result<(TaskScores, TokenCount), ChoicesError> {
        let mut scores = TaskScores {
            base: Vec::new(),
            steered: match steered {
                Steered::Absent => None,
                _ => Some(Vec::new()),
            },
        };
        let mut cost = TokenCount::default();
        for questions in task.questions.chunks(CHUNK) {
            let done = scores.base.len();
            let mut report = |count: TokenCount| {
                progress(done + questions.len() * count.computed / count.unique.max(1))
            };
            cost.add(self.score_chunk(task, questions, steered, &mut scores, &mut report)?);
        }
        Ok((scores, cost))
    }

    fn score_chunk(
        &self,
        task: &Task,
        questions: &[ChoicesRow],
        steered: &mut Steered<'_>,
        scores: &mut TaskScores,
        progress: &mut dyn FnMut(TokenCount) -> ControlFlow<()>,
    ) -> Result<TokenCount, ChoicesError> {
        let mut pairs = Vec::new();
        for question in questions {
            let prompt = self.prompter.prompt(task, question)?;
            self.encode(question, &prompt, &mut pairs)?;
        }
        let requests = |edits: bool| {
            pairs.iter().map(move |pair: &Encoded| ScoreRequest {
                tokens: &pair.tokens,
                response_start: pair.start,
                edit_from: match self.edit {
                    _ if !edits => usize::MAX,
                    EditRange::Answer => pair.start - 1,
                    EditRange::All => 0,
                },
            })
        };
        let (hook, all): (Option<&mut dyn Hook>, Vec<ScoreRequest<'_>>) = match steered {
            Steered::By(hook) => (
                Some(&mut **hook),
                requests(false).chain(requests(true)).collect(),
            ),
            _ => (None, requests(false).collect()),
        };
        let (tokens, cost) =
            response_scores(self.model.decoder(), &all, &self.limits, hook, progress)?;
        let base = self.gather(questions, &pairs, &tokens[..pairs.len()]);
        if let Some(scores) = &mut scores.steered {
            scores.extend(match tokens.get(pairs.len()..) {
                Some(tokens) if !tokens.is_empty() => self.gather(questions, &pairs, tokens),
                _ => base.clone(),
            });
        }
        scores.base.extend(base);
        Ok(cost)
    }

    /// Appends the tokens of every choice of a question, then those without a context if they are asked for.
    fn encode(
        &self,
        question: &ChoicesRow,
        prompt: &Prompt,
        pairs: &mut Vec<Encoded>,
    ) -> Result<(), ChoicesError> {
        let conditional = prompt.continuations.iter().enumerate();
        let conditional = conditional.map(|(index, text)| (index, prompt.context(index), text));
        let unconditional = prompt.unconditional.iter().enumerate();
        let unconditional = unconditional
            .map(|(index, text)| (index, "", text))
            .filter(|_| self.unconditional);
        for (choice, context, continuation) in conditional.chain(unconditional) {
            let pair = self.encoder.pair(context, continuation);
            pairs.push(pair.map_err(|error| refuse(question, choice, error))?);
        }
        Ok(())
    }

    /// Sums token scores, laid out as [`encode`](Self::encode) does, choice by choice.
    fn gather(
        &self,
        questions: &[ChoicesRow],
        pairs: &[Encoded],
        tokens: &[Vec<TokenScore>],
    ) -> Vec<Vec<ChoiceScore>> {
        let sum = |tokens: &[TokenScore]| tokens.iter().map(|t| f64::from(t.logprob)).sum::<f64>();
        let mut next = 0;
        let mut scores = Vec::with_capacity(questions.len());
        for question in questions {
            let count = question.choices.len();
            let first = next;
            next += if self.unconditional { 2 * count } else { count };
            let score = |choice: usize| ChoiceScore {
                loglikelihood: sum(&tokens[first + choice]),
                is_greedy: tokens[first + choice].iter().all(|token| token.is_greedy),
                tokens: tokens[first + choice].len(),
                cut: pairs[first + choice].cut,
                unconditional: self
                    .unconditional
                    .then(|| sum(&tokens[first + count + choice])),
            };
            scores.push((0..count).map(score).collect());
        }
        scores
    }
}

fn refuse(question: &ChoicesRow, choice: usize, error: PairError) -> ChoicesError {
    let (task, doc_id) = (question.task.clone(), question.doc_id.clone());
    match error {
        PairError::Model(error) => error.into(),
        PairError::NoDocumentStart => ChoicesError::NoDocumentStart { task, doc_id },
        error => ChoicesError::Choice {
            task,
            doc_id,
            choice,
            message: error.to_string(),
        },
    }
}
