//! From logits to a verdict.

use sims_artifact::tables::{JudgmentRow, ResponseRow};
use sims_model::score::NextToken;
use sims_model::{JudgeTemplate, Tokenizer};
use sims_stats::win_rate::logistic;

use crate::JudgeError;

/// Log-odds up to which the judge has no preference. Unit: nats.
pub(crate) const TIE: f64 = 1e-6;

/// The tokens that begin a verdict for the response shown first, and for the one shown second.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdicts {
    ids: Vec<u32>,
    first: usize,
}

impl Verdicts {
    /// Finds the template's verdict words among the tokens of a vocabulary.
    ///
    /// # Errors
    /// [`ModelError::Template`](sims_model::ModelError::Template) when one side has no single token or
    /// both share one; [`JudgeError::UnknownVerdict`] when a word becomes a token that is not it.
    pub fn find(tokenizer: &Tokenizer, template: &JudgeTemplate) -> Result<Self, JudgeError> {
        let tokens = template.verdict_tokens(tokenizer)?;
        for (words, ids) in [
            (&template.verdict_a, &tokens.a),
            (&template.verdict_b, &tokens.b),
        ] {
            for &id in ids {
                let token = tokenizer.token(id).unwrap_or_default();
                if !words.iter().any(|word| word.trim() == bare(&token)) {
                    let word = words.first().map_or("", |word| word.trim()).to_owned();
                    return Err(JudgeError::UnknownVerdict { word, token });
                }
            }
        }
        Ok(Self {
            first: tokens.a.len(),
            ids: [tokens.a, tokens.b].concat(),
        })
    }

    /// Returns the ids, those of the first response before those of the second.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Reads the preference from the logits of [`ids`](Self::ids) after a transcript.
    pub(crate) fn read(&self, next: &NextToken) -> Preference {
        let (first, second) = next.logits.split_at(self.first);
        let (first, second) = (log_sum_exp(first), log_sum_exp(second));
        let both = first.max(second) + (-(first - second).abs()).exp().ln_1p();
        Preference {
            logit: first - second,
            // Rounding may lift a sum of all probability above one.
            coverage: (both - f64::from(next.log_normaliser)).exp().min(1.0),
        }
    }
}

/// Returns a token as a word: byte-level and SentencePiece vocabularies write the space before it so.
pub(crate) fn bare(token: &str) -> &str {
    token.trim_start_matches(['\u{120}', '\u{2581}', ' '])
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits
        .iter()
        .map(|&logit| f64::from(logit - largest).exp())
        .sum();
    f64::from(largest) + sum.ln()
}

/// What the judge made of two responses in one order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preference {
    /// Log-odds that the response shown first is the better one. Unit: nats.
    pub logit: f64,
    /// Probability that the judge gave to the verdict tokens together.
    pub coverage: f64,
}

/// Two responses judged in both orders.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BothOrders {
    /// Judged with `a` first.
    pub ab: Preference,
    /// Judged with `b` first.
    pub ba: Preference,
}

impl BothOrders {
    /// Reads pairs from what was said of their comparisons, `ab` before `ba`.
    pub fn of(preferences: &[Preference]) -> impl Iterator<Item = Self> + '_ {
        let both = |orders: &[Preference]| Self {
            ab: orders[0],
            ba: orders[1],
        };
        preferences.chunks_exact(2).map(both)
    }

    /// Returns the preference for `a` without position bias: `(D_ab - D_ba) / 2`. Unit: nats.
    pub fn preference(&self) -> f64 {
        (self.ab.logit - self.ba.logit) / 2.0
    }

    /// Returns the preference for whatever is shown first: `(D_ab + D_ba) / 2`. Unit: nats.
    pub fn position_bias(&self) -> f64 {
        (self.ab.logit + self.ba.logit) / 2.0
    }

    /// Returns whether swapping the order keeps the same slot preferred.
    pub fn flips(&self) -> bool {
        self.ab.logit * self.ba.logit > 0.0
    }

    /// Returns whether the judge answered the question in both orders.
    pub fn is_valid(&self, min_coverage: f64) -> bool {
        self.ab.coverage >= min_coverage && self.ba.coverage >= min_coverage
    }

    /// Returns the two rows of the judgments table.
    ///
    /// Equal texts are a tie whatever the judge says: its log-odds are position bias alone, and stay
    /// in `raw` so that the bias can be measured.
    pub fn rows(
        &self,
        a: &ResponseRow,
        b: &ResponseRow,
        judge: &str,
        min_coverage: f64,
    ) -> [JudgmentRow; 2] {
        let row = |order: &str, raw: f64, coverage: f64| JudgmentRow {
            prompt_id: a.prompt_id.clone(),
            response_a: a.response_id.clone(),
            response_b: b.response_id.clone(),
            order: order.to_owned(),
            judge: judge.to_owned(),
            p_a: logistic(raw),
            verdict: verdict(raw, coverage >= min_coverage, a.text == b.text).to_owned(),
            raw,
            coverage,
        };
        [
            row("ab", self.ab.logit, self.ab.coverage),
            row("ba", -self.ba.logit, self.ba.coverage),
        ]
    }
}

fn verdict(raw: f64, valid: bool, equal_texts: bool) -> &'static str {
    if !valid {
        "invalid"
    } else if equal_texts || raw.abs() <= TIE {
        "tie"
    } else if raw > 0.0 {
        "a"
    } else {
        "b"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preference(logit: f64) -> Preference {
        Preference {
            logit,
            coverage: 0.9,
        }
    }

    fn response(id: &str, text: &str) -> ResponseRow {
        ResponseRow {
            prompt_id: "p".into(),
            response_id: id.into(),
            round: 1,
            sample_index: 0,
            policy: "base".into(),
            text: text.into(),
            token_ids: vec![],
            prompt_tokens: 1,
            finish_reason: "stop".into(),
            logprob_sum: 0.0,
            seed: 0,
        }
    }

    #[test]
    fn swapping_the_names_negates_the_preference_exactly() {
        let (ab, ba) = (preference(0.7), preference(-1.3));
        let forth = BothOrders { ab, ba };
        let back = BothOrders { ab: ba, ba: ab };
        assert_eq!(forth.preference(), -back.preference());
        assert_eq!(forth.position_bias(), back.position_bias());
        assert_eq!(forth.preference(), 1.0);
    }

    #[test]
    fn probabilities_are_of_a_in_either_order() {
        let judged = BothOrders {
            ab: preference(2.0),
            ba: preference(-2.0),
        };
        let [ab, ba] = judged.rows(&response("a", "x"), &response("b", "y"), "judge", 0.5);
        assert_eq!((ab.order.as_str(), ba.order.as_str()), ("ab", "ba"));
        assert_eq!((ab.raw, ba.raw), (2.0, 2.0));
        assert_eq!((ab.verdict.as_str(), ba.verdict.as_str()), ("a", "a"));
        assert!((ab.p_a - 0.880_797).abs() < 1e-6 && ab.p_a == ba.p_a);
    }

    #[test]
    fn low_coverage_is_invalid_and_no_preference_or_equal_texts_are_ties() {
        let judge = |logit, coverage, texts: (&str, &str)| {
            let one = Preference { logit, coverage };
            let [row, _] = BothOrders { ab: one, ba: one }.rows(
                &response("a", texts.0),
                &response("b", texts.1),
                "judge",
                0.5,
            );
            (row.verdict, row.raw)
        };
        assert_eq!(judge(3.0, 0.4, ("x", "y")), ("invalid".to_owned(), 3.0));
        assert_eq!(judge(0.0, 0.9, ("x", "y")), ("tie".to_owned(), 0.0));
        assert_eq!(judge(3.0, 0.9, ("x", "x")), ("tie".to_owned(), 3.0));
        assert_eq!(judge(-3.0, 0.9, ("x", "y")), ("b".to_owned(), -3.0));
    }

    #[test]
    fn verdict_tokens_add_up_and_coverage_is_their_share() {
        let tokens = Verdicts {
            ids: vec![1, 2, 3],
            first: 2,
        };
        // Probabilities 0.2 and 0.3 for the first, 0.25 for the second, of a normaliser of 2.
        let logits = [0.4_f32.ln(), 0.6_f32.ln(), 0.5_f32.ln()];
        let read = tokens.read(&NextToken {
            logits: logits.to_vec(),
            log_normaliser: 2.0_f32.ln(),
        });
        assert!((read.logit - 2.0_f64.ln()).abs() < 1e-6);
        assert!((read.coverage - 0.75).abs() < 1e-6);
    }
}
