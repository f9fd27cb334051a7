//! Judges whose preferences are known: controls for whatever ranks by a judge or guards against one.

use crate::JudgeError;
use crate::comparison::{Answer, Comparison, Judged, PairJudge, Progress, report};
use crate::verdict::Preference;

/// Log-odds for the slot that [`PlantedFirst`] takes. Unit: nats.
const FIRST: f64 = 5.0;

/// Prefers the longer answer by fixed log-odds per token, and knows nothing else.
pub struct PlantedLength {
    weight: f64,
    id: String,
}

impl PlantedLength {
    /// Makes a judge that gives `weight` nats a token; below zero it prefers the shorter answer.
    pub fn new(weight: f64) -> Self {
        Self {
            weight,
            id: format!("planted-length/{weight}"),
        }
    }
}

impl PairJudge for PlantedLength {
    fn id(&self) -> &str {
        &self.id
    }

    fn compare(
        &self,
        comparisons: &[Comparison<'_>],
        progress: Progress<'_>,
    ) -> Result<Judged, JudgeError> {
        let preferences = comparisons.iter().map(|comparison| {
            Ok(Preference {
                logit: self.weight * longer_by(comparison)?,
                coverage: 1.0,
            })
        });
        let preferences = preferences.collect::<Result<_, JudgeError>>()?;
        report(progress, comparisons.len())?;
        Ok(Judged::free(preferences))
    }
}

/// Always says that the answer shown first is the better one: a judge that has collapsed.
pub struct PlantedFirst;

impl PairJudge for PlantedFirst {
    fn id(&self) -> &str {
        "planted-first"
    }

    fn compare(
        &self,
        comparisons: &[Comparison<'_>],
        progress: Progress<'_>,
    ) -> Result<Judged, JudgeError> {
        report(progress, comparisons.len())?;
        let first = Preference {
            logit: FIRST,
            coverage: 1.0,
        };
        Ok(Judged::free(vec![first; comparisons.len()]))
    }
}

/// What is added to a judge's log-odds. Both in nats.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Bias {
    /// For the answer that is shown first.
    pub first: f64,
    /// For the longer answer, a token.
    pub length: f64,
}

/// A judge with biases that it did not have.
pub struct Biased<'a> {
    judge: Box<dyn PairJudge + 'a>,
    bias: Bias,
    id: String,
}

impl<'a> Biased<'a> {
    /// Adds `bias` to the log-odds of `judge`.
    pub fn new(judge: Box<dyn PairJudge + 'a>, bias: Bias) -> Self {
        let mut id = judge.id().to_owned();
        for (name, nats) in [("first-bias", bias.first), ("length-bias", bias.length)] {
            if nats != 0.0 {
                id.push_str(&format!("/{name}/{nats}"));
            }
        }
        Self { judge, bias, id }
    }
}

impl PairJudge for Biased<'_> {
    fn id(&self) -> &str {
        &self.id
    }

    fn compare(
        &self,
        comparisons: &[Comparison<'_>],
        progress: Progress<'_>,
    ) -> Result<Judged, JudgeError> {
        let mut judged = self.judge.compare(comparisons, progress)?;
        for (preference, comparison) in judged.preferences.iter_mut().zip(comparisons) {
            preference.logit += self.bias.first;
            if self.bias.length != 0.0 {
                preference.logit += self.bias.length * longer_by(comparison)?;
            }
        }
        Ok(judged)
    }

    fn reads_texts(&self) -> bool {
        self.judge.reads_texts()
    }

    fn knows(&self, comparison: &Comparison<'_>) -> bool {
        self.judge.knows(comparison)
    }
}

/// Returns by how many tokens the first answer is longer.
fn longer_by(comparison: &Comparison<'_>) -> Result<f64, JudgeError> {
    let length = |answer: &Answer<'_>| {
        if answer.length == 0 && !answer.text.trim().is_empty() {
            return Err(JudgeError::NoLength {
                response_id: answer.response_id.to_owned(),
            });
        }
        Ok(answer.length as f64)
    };
    Ok(length(&comparison.first)? - length(&comparison.second)?)
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;

    fn comparison<'a>(first: &'a str, second: &'a str) -> Comparison<'a> {
        Comparison {
            prompt_id: "p",
            request: "",
            first: Answer::made("a", first),
            second: Answer::made("b", second),
        }
    }

    fn logits(judge: &dyn PairJudge, comparisons: &[Comparison<'_>]) -> Vec<f64> {
        let judged = judge.compare(comparisons, &mut |_| ControlFlow::Continue(()));
        let preferences = judged.expect("lengths are known").preferences;
        preferences
            .iter()
            .map(|preference| preference.logit)
            .collect()
    }

    #[test]
    fn each_token_counts_its_weight_in_either_order() {
        let forth = comparison("w w w w", "w");
        let both = [forth, forth.swapped()];
        assert_eq!(logits(&PlantedLength::new(0.25), &both), [0.75, -0.75]);
        assert_eq!(logits(&PlantedLength::new(-1.0), &both), [-3.0, 3.0]);
    }

    #[test]
    fn the_first_slot_wins_whatever_is_in_it() {
        let forth = comparison("w w w w", "w");
        assert_eq!(logits(&PlantedFirst, &[forth, forth.swapped()]), [FIRST; 2]);
    }

    #[test]
    fn a_bias_is_added_to_what_the_judge_says() {
        let bias = Bias {
            first: 1.0,
            length: 0.5,
        };
        let biased = Biased::new(Box::new(PlantedFirst), bias);
        let forth = comparison("w w w w", "w");
        assert_eq!(
            logits(&biased, &[forth, forth.swapped()]),
            [FIRST + 2.5, FIRST - 0.5]
        );
        assert_eq!(biased.id(), "planted-first/first-bias/1/length-bias/0.5");
    }

    #[test]
    fn a_text_without_tokens_is_refused_by_name() {
        let mut comparison = comparison("w w", "w");
        comparison.second.length = 0;
        let judge = PlantedLength::new(1.0);
        let error = judge.compare(&[comparison], &mut |_| ControlFlow::Continue(()));
        let message = error.unwrap_err().to_string();
        assert!(
            message.contains("response b has a text but no token_ids"),
            "{message}"
        );
    }
}
