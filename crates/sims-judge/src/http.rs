//! A judge behind an OpenAI-compatible chat completions interface.
//!
//! Each answer is kept on disk as it arrives, so a run that was killed, or that stopped at its budget,
//! asks only what is missing. At temperature 0 a server still need not answer alike twice: what makes a
//! run repeatable is the cache.

mod answer;
mod cache;
mod client;
mod pace;
mod settings;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::Duration;

use serde_json::{Value, json};
use sims_artifact::Digest;
use sims_model::{JudgeTemplate, ModelError};

use self::answer::Answered;
use self::cache::Cache;
use self::client::Client;
use self::pace::Budget;
use crate::comparison::{Comparison, Judged, PairJudge, Progress, report};
use crate::{JudgeError, Sanitiser};

pub use self::client::{ApiKey, Patience};
pub use self::settings::HttpSettings;

/// Longest answer asked for: a letter, with room for what models put around it. Unit: tokens.
const MAX_TOKENS: u32 = 8;
/// How often the run looks whether it was interrupted.
const LOOK: Duration = Duration::from_millis(100);

/// Compares answers by asking a server for a letter.
///
/// Where it gives log-probabilities, the log-odds are read from them; else they are 1 for the letter.
pub struct HttpJudge {
    settings: HttpSettings,
    template: JudgeTemplate,
    sanitiser: Sanitiser,
    client: Client,
    cache: Cache,
    budget: Budget,
    id: String,
}

/// A question that is yet to be asked, and who waits for it.
struct Question {
    body: Value,
    key: Digest,
    prompt_id: String,
    waiting: Vec<usize>,
}

/// Which answer to a question is meant: the one to judge by, or another for comparison.
#[derive(Debug, Clone, Copy)]
enum Asking {
    First,
    Again,
}

impl HttpJudge {
    /// Makes a judge; nothing is sent yet.
    ///
    /// # Errors
    /// [`JudgeError::Setting`] for an address that is none or a cache folder that cannot be written.
    pub fn new(settings: HttpSettings) -> Result<Self, JudgeError> {
        if !(settings.base_url.starts_with("http://") || settings.base_url.starts_with("https://"))
        {
            return Err(JudgeError::Setting(format!(
                "`{}` is no address of a server; write base-url as https://HOST/v1",
                settings.base_url
            )));
        }
        let template = JudgeTemplate::ab_1();
        Ok(Self {
            client: Client::new(&settings),
            cache: Cache::open(&settings.cache)?,
            budget: Budget::new(settings.token_budget),
            sanitiser: Sanitiser::of_template(&template),
            id: format!("http/{}/{}", settings.model, template.version),
            template,
            settings,
        })
    }

    /// Returns the body of the request for a comparison.
    fn body(&self, comparison: &Comparison<'_>) -> Result<Value, JudgeError> {
        let [request, first, second] = [
            comparison.request,
            comparison.first.text,
            comparison.second.text,
        ]
        .map(|text| self.sanitiser.clean(text));
        let messages = self.template.render(&request, &first, &second)?;
        Ok(json!({
            "model": self.settings.model,
            "messages": messages,
            "temperature": 0,
            "max_tokens": MAX_TOKENS,
            "logprobs": true,
            "top_logprobs": 20,
        }))
    }

    /// Sorts the comparisons into those whose answer is kept and the questions that are left; equal ones
    /// are asked once. Also returns the tokens that the kept answers cost.
    fn questions(
        &self,
        asking: Asking,
        comparisons: &[Comparison<'_>],
        answers: &mut [Option<Answered>],
    ) -> Result<(Vec<Question>, u64), JudgeError> {
        let mut questions: Vec<Question> = Vec::new();
        let mut places: HashMap<Digest, usize> = HashMap::new();
        let mut kept: HashMap<Digest, Answered> = HashMap::new();
        for (index, comparison) in comparisons.iter().enumerate() {
            let body = self.body(comparison)?;
            let document =
                json!([self.id, self.settings.base_url, asking as u32, body]).to_string();
            let key = Digest::derived("sims judge http answer 1", document.as_bytes());
            if let Some(&place) = places.get(&key) {
                questions[place].waiting.push(index);
            } else if let Some(answer) = self.cache.get(&key) {
                answers[index] = Some(answer);
                kept.insert(key, answer);
            } else {
                places.insert(key, questions.len());
                questions.push(Question {
                    body,
                    key,
                    prompt_id: comparison.prompt_id.to_owned(),
                    waiting: vec![index],
                });
            }
        }
        let tokens = kept.values().map(Answered::tokens).sum();
        Ok((questions, tokens))
    }

    /// Asks one question after another until none is left or the run stops.
    fn work(
        &self,
        questions: &[Question],
        next: &AtomicUsize,
        stop: &AtomicBool,
        sender: &Sender<(usize, Result<Answered, JudgeError>)>,
    ) {
        while !stop.load(Ordering::Relaxed) {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(question) = questions.get(index) else {
                break;
            };
            let answer = self.ask(question, stop);
            let failed = answer.is_err();
            if sender.send((index, answer)).is_err() || failed {
                // Whoever stops for this comes after it in the channel.
                stop.store(true, Ordering::Relaxed);
            }
        }
    }

    fn ask(&self, question: &Question, stop: &AtomicBool) -> Result<Answered, JudgeError> {
        let text = question.body.to_string();
        let reserved = self.budget.reserve(&text, MAX_TOKENS)?;
        let answer = self.client.ask(&text, &question.prompt_id, stop);
        let spent = answer.as_ref().map_or(0, Answered::tokens);
        self.budget.settle(reserved, spent);
        let answer = answer?;
        self.cache.put(&question.key, &answer)?;
        Ok(answer)
    }
}

impl HttpJudge {
    fn compare_as(
        &self,
        asking: Asking,
        comparisons: &[Comparison<'_>],
        progress: Progress<'_>,
    ) -> Result<Judged, JudgeError> {
        let mut answers: Vec<Option<Answered>> = vec![None; comparisons.len()];
        let (questions, kept) = self.questions(asking, comparisons, &mut answers)?;
        let mut done = answers.iter().flatten().count();
        report(progress, done)?;
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let (sender, receiver) = channel();
        let mut failed = None;
        std::thread::scope(|scope| {
            for _ in 0..self.settings.concurrency.min(questions.len()) {
                let sender = sender.clone();
                let (questions, next, stop) = (&questions, &next, &stop);
                scope.spawn(move || self.work(questions, next, stop, &sender));
            }
            drop(sender);
            loop {
                match receiver.recv_timeout(LOOK) {
                    Ok((index, Ok(answer))) => {
                        done += questions[index].waiting.len();
                        for &waiting in &questions[index].waiting {
                            answers[waiting] = Some(answer);
                        }
                    }
                    Ok((_, Err(error))) => {
                        failed.get_or_insert(error);
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break,
                }
                if let Err(error) = report(progress, done) {
                    failed.get_or_insert(error);
                }
                if failed.is_some() {
                    stop.store(true, Ordering::Relaxed);
                }
            }
        });
        match failed {
            None => {}
            Some(JudgeError::Budget { spent, budget, .. }) => {
                return Err(JudgeError::Budget {
                    spent,
                    budget,
                    answered: done,
                    asked: comparisons.len(),
                    cache: self.settings.cache.clone(),
                });
            }
            Some(error) => return Err(error),
        }
        let asked = questions
            .iter()
            .filter_map(|question| answers[*question.waiting.first()?]);
        let api_tokens = kept + asked.map(|answer| answer.tokens()).sum::<u64>();
        let preferences = answers.iter().flatten().map(Answered::preference).collect();
        Ok(Judged {
            api_tokens,
            ..Judged::free(preferences)
        })
    }
}

impl PairJudge for HttpJudge {
    fn id(&self) -> &str {
        &self.id
    }

    fn compare(
        &self,
        comparisons: &[Comparison<'_>],
        progress: Progress<'_>,
    ) -> Result<Judged, JudgeError> {
        self.compare_as(Asking::First, comparisons, progress)
    }

    fn compare_again(
        &self,
        comparisons: &[Comparison<'_>],
        progress: Progress<'_>,
    ) -> Result<Judged, JudgeError> {
        self.compare_as(Asking::Again, comparisons, progress)
    }
}

/// What a stopped worker returns; whoever stopped it knows why.
fn stopped() -> JudgeError {
    ModelError::Interrupted.into()
}
