//! Asks a judge for its preferences: the annotator `weighted_alpaca_eval_gpt4_turbo`.
//!
//! A question shows the judge an instruction and two outputs, named `m` and `M`, and asks for one token. Its
//! log-probabilities are the [`preference`]; which output is shown first, the instruction decides ([`is_switched`]).

use std::collections::{HashMap, HashSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Value, json};
use sims_artifact::Digest;
use sims_endpoint::{Endpoint, ask_all};

use super::kept_answers::{Answer, KeptAnswers};
use super::order::is_switched;
use super::outputs::{ModelOutput, paired};
use super::preference::{FIRST, SECOND, preference};
use super::template::Template;
use crate::ScoreError;

/// Characters of an instruction that a message quotes.
const QUOTED: usize = 60;
/// The preference between equal outputs.
pub(super) const DRAW: f64 = 1.5;

/// The judge and how it is asked.
#[derive(Debug)]
pub struct Annotator {
    /// The server.
    pub endpoint: Endpoint,
    /// The judge's name there.
    pub model: String,
    /// The question.
    pub template: Template,
    /// Requests under way at a time, at least one.
    pub concurrency: usize,
    /// Whether an answer that names neither output gives a row without a preference, as in the official program.
    pub allow_missing: bool,
}

/// A verdict in the official form.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OfficialAnnotation {
    /// What was asked.
    pub instruction: String,
    /// The baseline's output.
    pub output_1: String,
    /// The baseline.
    pub generator_1: String,
    /// Where the instruction comes from.
    pub dataset: String,
    /// The model's output.
    pub output_2: String,
    /// The model.
    pub generator_2: String,
    /// The judge's name at its server.
    pub annotator: String,
    /// From 1 (the baseline's output) to 2 (the model's), 1.5 for equal ones; none where the judge named neither.
    pub preference: Option<f64>,
    /// The judge's answer as the server sent it; null for equal outputs, which it is not asked about.
    pub raw_completion: Value,
}

impl OfficialAnnotation {
    /// Makes the verdict on the outputs of the baseline and of the model.
    pub(super) fn new(
        (baseline, model): (&ModelOutput, &ModelOutput),
        annotator: String,
        preference: Option<f64>,
        raw_completion: Value,
    ) -> Self {
        Self {
            instruction: baseline.instruction.clone(),
            output_1: baseline.output.clone(),
            generator_1: baseline.generator.clone(),
            dataset: baseline.dataset.clone(),
            output_2: model.output.clone(),
            generator_2: model.generator.clone(),
            annotator,
            preference,
            raw_completion,
        }
    }
}

/// Tokens as a server counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tokens {
    /// Of the questions.
    pub prompt: u64,
    /// Of the answers.
    pub completion: u64,
}

impl Tokens {
    fn add(&mut self, answer: &Answer) {
        self.prompt += answer.prompt_tokens;
        self.completion += answer.completion_tokens;
    }
}

/// How far an annotation is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Questions to ask in this run.
    pub missing: usize,
    /// Those answered so far.
    pub answered: usize,
    /// Questions whose answer was kept by an earlier run.
    pub kept: usize,
    /// What this run's answers took.
    pub tokens: Tokens,
}

/// What came of asking.
#[derive(Debug)]
pub struct Annotated {
    /// Verdicts in the order of the baseline's outputs.
    pub rows: Vec<OfficialAnnotation>,
    /// Instructions of the baseline that the model did not answer.
    pub unanswered: usize,
    /// How many questions were asked, and what they took.
    pub progress: Progress,
}

/// Two outputs for one instruction.
struct Pair<'a> {
    baseline: &'a ModelOutput,
    model: &'a ModelOutput,
    /// None where the outputs are equal: a draw, which the official program does not ask about either.
    question: Option<Question>,
}

/// What is sent, and the name under which its answer is kept.
struct Question {
    switched: bool,
    body: String,
    key: String,
}

impl Annotator {
    /// Asks about every instruction that both answered, in the order of `baseline`; there may be none.
    ///
    /// `kept` is the file of answers: those that are in it are not asked for, those that arrive are appended. `report`
    /// is called as answers arrive and ten times a second; it can stop the run.
    ///
    /// # Errors
    /// A judge that refuses, gives no log-probabilities or names neither output, a run that was stopped, a file of answers
    /// that cannot be read or written. What arrived until then is kept.
    pub fn annotate(
        &self,
        baseline: &[ModelOutput],
        model: &[ModelOutput],
        kept: &Path,
        report: &mut dyn FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Annotated, ScoreError> {
        let pairs = self.pairs(baseline, model);
        if pairs.is_empty() {
            return Ok(Annotated {
                rows: Vec::new(),
                unanswered: baseline.len(),
                progress: Progress::default(),
            });
        }
        let (mut file, mut answers) = KeptAnswers::open(kept)?;
        // An answer that names neither output is asked for again, unless it may stand.
        answers.retain(|_, answer| self.check(answer).is_ok());
        let questions: Vec<(&Pair<'_>, &Question)> = pairs
            .iter()
            .filter_map(|pair| Some((pair, pair.question.as_ref()?)))
            .collect();
        let mut known: HashSet<String> = answers.keys().cloned().collect();
        let mut missing = questions.clone();
        missing.retain(|(_, question)| known.insert(question.key.clone()));
        let mut progress = Progress {
            missing: missing.len(),
            kept: questions.len() - missing.len(),
            ..Progress::default()
        };
        let interrupted = |progress: Progress| ScoreError::Interrupted {
            answered: progress.kept + progress.answered,
            asked: questions.len(),
            kept: kept.to_owned(),
        };
        if report(progress).is_break() {
            return Err(interrupted(progress));
        }
        let ask = |index: usize, stop: &_| {
            let (pair, question) = missing[index];
            let answer = self.endpoint.ask(&question.body, stop, Answer::read);
            let answer = answer.map_err(|reason| ScoreError::Unanswered {
                instruction: start_of(pair),
                reason,
                kept: kept.to_owned(),
            })?;
            self.check(&answer)
                .map_err(|message| ScoreError::NoVerdict {
                    instruction: start_of(pair),
                    message,
                    kept: kept.to_owned(),
                })?;
            Ok(answer)
        };
        let asked = ask_all(missing.len(), self.concurrency, ask, |heard| {
            if let Some((index, answer)) = heard {
                let key = &missing[index].1.key;
                file.keep(key, &answer)?;
                progress.answered += 1;
                progress.tokens.add(&answer);
                answers.insert(key.clone(), answer);
            }
            match report(progress) {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => Err(interrupted(progress)),
            }
        });
        asked.map_err(|error| match error {
            // Answers that were under way have arrived since.
            ScoreError::Interrupted { .. } => interrupted(progress),
            error => error,
        })?;
        Ok(Annotated {
            rows: pairs.iter().map(|pair| self.row(pair, &answers)).collect(),
            unanswered: baseline.len() - pairs.len(),
            progress,
        })
    }

    fn pairs<'a>(&self, baseline: &'a [ModelOutput], model: &'a [ModelOutput]) -> Vec<Pair<'a>> {
        paired(baseline, model)
            .into_iter()
            .map(|(baseline, model)| {
                let differ = baseline.output != model.output;
                Pair {
                    baseline,
                    model,
                    question: differ.then(|| self.question(baseline, model)),
                }
            })
            .collect()
    }

    fn question(&self, baseline: &ModelOutput, model: &ModelOutput) -> Question {
        let switched = is_switched(&baseline.instruction);
        let mut shown = [baseline.output.as_str(), model.output.as_str()];
        if switched {
            shown.reverse();
        }
        // As upstream's configuration has it; only the log-probabilities count, not what is sampled.
        let body = json!({
            "model": self.model,
            "messages": self.template.render(&baseline.instruction, shown),
            "max_tokens": 1,
            "temperature": 1,
            "logprobs": true,
            "top_logprobs": 5,
        })
        .to_string();
        let document = json!([self.endpoint.url(), body]).to_string();
        let key = Digest::derived("sims score annotation 1", document.as_bytes());
        Question {
            switched,
            body,
            key: key.to_string(),
        }
    }

    /// Returns what is wrong with an answer.
    fn check(&self, answer: &Answer) -> Result<(), String> {
        let Some(top) = answer.top_logprobs() else {
            return Err(
                "the server gives no log-probabilities, which the preference is made of; \
                 ask a model and a server that support logprobs and top_logprobs"
                    .to_owned(),
            );
        };
        if self.allow_missing || top.iter().any(|(token, _)| [FIRST, SECOND].contains(token)) {
            return Ok(());
        }
        let said: Vec<String> = top
            .iter()
            .map(|(token, logprob)| format!("`{}` {:.3}", token.escape_debug(), logprob.exp()))
            .collect();
        Err(format!(
            "neither `{FIRST}` nor `{SECOND}` is among the judge's likeliest tokens ({}); does the template ask for \
             one of them and nothing else? --allow-missing writes such rows without a preference",
            said.join(", ")
        ))
    }

    fn row(&self, pair: &Pair<'_>, answers: &HashMap<String, Answer>) -> OfficialAnnotation {
        let (preference, raw_completion) = match &pair.question {
            None => (Some(DRAW), Value::Null),
            Some(question) => {
                let answer = &answers[&question.key];
                let top = answer.top_logprobs().unwrap_or_default();
                (preference(top, question.switched), answer.choice.clone())
            }
        };
        let annotator = self.model.clone();
        OfficialAnnotation::new(
            (pair.baseline, pair.model),
            annotator,
            preference,
            raw_completion,
        )
    }
}

/// Returns the file that keeps the answers of `annotations`.
#[must_use]
pub fn kept_beside(annotations: &Path) -> PathBuf {
    annotations.with_extension("answers.jsonl")
}

fn start_of(pair: &Pair<'_>) -> String {
    let instruction = &pair.baseline.instruction;
    let mut start: String = instruction.chars().take(QUOTED).collect();
    if start.len() < instruction.len() {
        start.push('…');
    }
    start
}
