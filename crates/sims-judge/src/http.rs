//! A judge behind an OpenAI-compatible chat completions interface.
//!
//! Each answer is kept on disk as it arrives, so a run that was killed, or that stopped at its budget,
//! asks only what is missing. At temperature 0 a server still need not answer alike twice: what makes a
//! run repeatable is the cache.

mod answer;
mod budget;
mod cache;
mod settings;

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;

use serde_json::{Value, json};
use sims_artifact::Digest;
use sims_endpoint::{Endpoint, EndpointError, Pace, SettingNames, ask_all};
use sims_model::{JudgeTemplate, ModelError};

use self::answer::Answered;
use self::budget::Budget;
use self::cache::Cache;
use crate::comparison::{Comparison, Judged, PairJudge, Progress, report};
use crate::{JudgeError, Sanitiser};

pub use self::settings::HttpSettings;
pub use sims_endpoint::{ApiKey, Patience};

/// Longest answer asked for: a letter, with room for what models put around it. Unit: tokens.
const MAX_TOKENS: u32 = 8;

/// Compares answers by asking a server for a letter.
///
/// Where it gives log-probabilities, the log-odds are read from them; else they are 1 for the letter.
pub struct HttpJudge {
    settings: HttpSettings,
    template: JudgeTemplate,
    sanitiser: Sanitiser,
    endpoint: Endpoint,
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
        let names = SettingNames {
            key: "OPENAI_API_KEY".to_owned(),
            address: "base-url",
            model: "judge-model",
        };
        let endpoint = Endpoint::new(
            &settings.base_url,
            settings.key.clone(),
            settings.patience,
            Pace::new(settings.requests_per_minute),
            names,
        )
        .map_err(|error| JudgeError::Setting(error.to_string()))?;
        let template = JudgeTemplate::ab_1();
        Ok(Self {
            endpoint,
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

    fn ask(&self, question: &Question, stop: &AtomicBool) -> Result<Answered, JudgeError> {
        let text = question.body.to_string();
        let reserved = self.budget.reserve(&text, MAX_TOKENS)?;
        let answer = self.endpoint.ask(&text, stop, Answered::read);
        let spent = answer.as_ref().map_or(0, Answered::tokens);
        self.budget.settle(reserved, spent);
        let answer = answer.map_err(|error| judge_error(error, &question.prompt_id))?;
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
        let asked = ask_all(
            questions.len(),
            self.settings.concurrency,
            |index, stop| self.ask(&questions[index], stop),
            |heard| {
                if let Some((index, answer)) = heard {
                    done += questions[index].waiting.len();
                    for &waiting in &questions[index].waiting {
                        answers[waiting] = Some(answer);
                    }
                }
                report(progress, done)
            },
        );
        match asked {
            Ok(()) => {}
            Err(JudgeError::Budget { spent, budget, .. }) => {
                return Err(JudgeError::Budget {
                    spent,
                    budget,
                    answered: done,
                    asked: comparisons.len(),
                    cache: self.settings.cache.clone(),
                });
            }
            Err(error) => return Err(error),
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

/// Says of which prompt there is no answer.
fn judge_error(error: EndpointError, prompt_id: &str) -> JudgeError {
    let prompt_id = prompt_id.to_owned();
    match error {
        EndpointError::Address { .. } => JudgeError::Setting(error.to_string()),
        EndpointError::Refused { message } => JudgeError::Refused { prompt_id, message },
        EndpointError::Unanswered { attempts, message } => JudgeError::Unanswered {
            prompt_id,
            attempts,
            message,
        },
        // Whoever stopped the run knows why, and is heard first.
        EndpointError::Stopped => ModelError::Interrupted.into(),
    }
}
