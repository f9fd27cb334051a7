//! The frozen model as a judge of single answers: a call an answer instead of two a pair.

use std::collections::HashMap;

use sims_artifact::Digest;
use sims_model::score::NextToken;
use sims_model::{ChatMessage, JudgeTemplate, LanguageModel, Tokenizer};

use crate::JudgeError;
use crate::comparison::{Comparison, Judged, PairJudge, Progress};
use crate::question::{Question, Questioned};
use crate::verdict::{Preference, bare};

/// The template's version.
const VERSION: &str = "rate-1";

/// The ratings: one token each ("10" often is not).
const RATINGS: std::ops::RangeInclusive<u32> = 1..=9;

/// Rates each answer by the mean of 1 to 9 under the probabilities that the model gives to these digits.
///
/// The log-odds of a comparison are the scaled difference of two ratings, so there is no position bias
/// and no intransitivity; differences finer than the model's use of the scale are lost. The coverage of
/// a comparison is the smaller one of its answers': the probability on all nine digits.
pub struct RatingJudge<'a> {
    questioned: Questioned<'a>,
    digits: Digits,
    scale: f64,
    id: String,
}

impl<'a> RatingJudge<'a> {
    /// Makes a judge of `model`, whose manifest digest is `digest`; a difference of 1 counts `scale` nats.
    ///
    /// # Errors
    /// A vocabulary in which a digit is no single token, or a chat template that refuses the prompt.
    pub fn new(
        model: &'a LanguageModel,
        digest: &Digest,
        scale: f64,
        sequences: usize,
    ) -> Result<Self, JudgeError> {
        Ok(Self {
            digits: Digits::find(model.tokenizer())?,
            questioned: Questioned::new(model, rate_1(), 1, sequences)?,
            scale,
            id: format!("rating/{VERSION}/{}/{scale}", digest.short(12)),
        })
    }
}

impl PairJudge for RatingJudge<'_> {
    fn id(&self) -> &str {
        &self.id
    }

    fn compare(
        &self,
        comparisons: &[Comparison<'_>],
        progress: Progress<'_>,
    ) -> Result<Judged, JudgeError> {
        let mut places = HashMap::new();
        let mut questions = Vec::new();
        let mut answered_by = Vec::with_capacity(comparisons.len());
        for comparison in comparisons {
            let place = |text| {
                let question = Question {
                    prompt_id: comparison.prompt_id,
                    request: comparison.request,
                    answers: [text, ""],
                };
                *places.entry((question.prompt_id, text)).or_insert_with(|| {
                    questions.push(question);
                    questions.len() - 1
                })
            };
            answered_by.push([comparison.first.text, comparison.second.text].map(place));
        }
        let share = |done: usize| comparisons.len() * done / questions.len().max(1);
        let mut report = |done: usize| progress(share(done));
        let (next, mut judged) = self
            .questioned
            .ask(&questions, &self.digits.ids, &mut report)?;
        let ratings: Vec<Rating> = next.iter().map(|next| self.digits.read(next)).collect();
        let preference = |[first, second]: [usize; 2]| Preference {
            logit: self.scale * (ratings[first].mean - ratings[second].mean),
            coverage: ratings[first].coverage.min(ratings[second].coverage),
        };
        judged.preferences = answered_by.into_iter().map(preference).collect();
        Ok(judged)
    }
}

/// Returns the built-in template; the answer goes where a comparison has its first.
fn rate_1() -> JudgeTemplate {
    let user = "Request:\n<<<\n{{ request }}\n>>>\n\nAnswer:\n<<<\n{{ first }}\n>>>\nRate how well the answer \
        serves the request from 1 (useless) to 9 (excellent). Its length carries no information. Reply with one digit.";
    JudgeTemplate {
        version: VERSION.to_owned(),
        messages: vec![ChatMessage::new("user", user)],
        assistant_prefix: "Rating:".to_owned(),
        verdict_a: RATINGS.map(|rating| rating.to_string()).collect(),
        verdict_b: Vec::new(),
    }
}

/// What the model thinks of one answer.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Rating {
    mean: f64,
    coverage: f64,
}

/// The tokens that stand for ratings.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Digits {
    ids: Vec<u32>,
    ratings: Vec<u32>,
}

impl Digits {
    /// Finds each digit, with and without a space before it, among the tokens of a vocabulary.
    fn find(tokenizer: &Tokenizer) -> Result<Self, JudgeError> {
        let mut digits = Self {
            ids: Vec::new(),
            ratings: Vec::new(),
        };
        for rating in RATINGS {
            let word = rating.to_string();
            let before = digits.ids.len();
            for text in [word.clone(), format!(" {word}")] {
                if let [id] = tokenizer.encode(&text)?[..]
                    && bare(&tokenizer.token(id).unwrap_or_default()) == word
                    && !digits.ids.contains(&id)
                {
                    digits.ids.push(id);
                    digits.ratings.push(rating);
                }
            }
            if digits.ids.len() == before {
                return Err(JudgeError::Setting(format!(
                    "judge `rating` asks for a digit from 1 to 9, and `{word}` is no single token of this model; \
                     choose judge `self`"
                )));
            }
        }
        Ok(digits)
    }

    /// Reads the mean rating from the logits of [`ids`](Self::ids).
    fn read(&self, next: &NextToken) -> Rating {
        let (mut sum, mut coverage) = (0.0, 0.0);
        // Relative to the largest of them: the digits' probabilities may all be below the smallest f64.
        let largest = next
            .logits
            .iter()
            .copied()
            .fold(f32::NEG_INFINITY, f32::max);
        for (&logit, &rating) in next.logits.iter().zip(&self.ratings) {
            let weight = f64::from(logit - largest).exp();
            sum += weight * f64::from(rating);
            coverage += weight;
        }
        let log_coverage = coverage.ln() + f64::from(largest) - f64::from(next.log_normaliser);
        Rating {
            mean: sum / coverage,
            // Rounding may lift a sum of all probability above one.
            coverage: log_coverage.exp().min(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rating_is_the_mean_over_the_digits_and_coverage_their_share() {
        let digits = Digits {
            ids: vec![4, 5, 6],
            ratings: vec![1, 1, 9],
        };
        // Probabilities 0.1, 0.2 and 0.3 of one, under a normaliser of 2.
        let logits = [0.2_f32, 0.4, 0.6].map(f32::ln).to_vec();
        let read = digits.read(&NextToken {
            logits,
            log_normaliser: 2.0_f32.ln(),
        });
        assert!((read.mean - 5.0).abs() < 1e-6, "{}", read.mean);
        assert!((read.coverage - 0.6).abs() < 1e-6, "{}", read.coverage);
    }

    #[test]
    fn digits_that_are_next_to_impossible_still_have_a_mean() {
        let digits = Digits {
            ids: vec![4, 5],
            ratings: vec![2, 4],
        };
        let read = digits.read(&NextToken {
            logits: vec![-900.0, -900.0],
            log_normaliser: 0.0,
        });
        assert_eq!(read.mean, 3.0);
        assert_eq!(read.coverage, 0.0);
    }
}
