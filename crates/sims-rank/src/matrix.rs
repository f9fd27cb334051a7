//! The comparison matrix of one prompt.

use std::collections::HashMap;

use sims_artifact::tables::{JudgmentRow, ResponseRow};

/// Log-odds of all comparisons among the responses to one prompt.
///
/// `D[i, j]` is the judge's log-odds, with response `i` shown first, that `i` is the better one.
/// Entries that were never judged, or judged invalid, are missing: never zero. A pair counts only
/// when both of its orders are there, because a single one cannot be told from position bias.
#[derive(Debug, Clone, PartialEq)]
pub struct ComparisonMatrix {
    size: usize,
    /// `[size, size]`, row = the response shown first. Unit: nats.
    logits: Vec<Option<f64>>,
}

impl ComparisonMatrix {
    /// Makes a matrix without comparisons for `size` responses.
    #[must_use]
    pub fn new(size: usize) -> Self {
        Self {
            size,
            logits: vec![None; size * size],
        }
    }

    /// Returns the number of responses.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// Returns `D[first, second]`, if it was judged.
    #[must_use]
    pub fn logit(&self, first: usize, second: usize) -> Option<f64> {
        self.logits[first * self.size + second]
    }

    /// Sets `D[first, second]` and returns what was there before.
    pub fn set(&mut self, first: usize, second: usize, logit: f64) -> Option<f64> {
        self.logits[first * self.size + second].replace(logit)
    }

    /// Returns the preference `A[i, j] = (D[i, j] − D[j, i]) / 2`, free of position bias.
    ///
    /// Exactly antisymmetric. `None` unless both orders were judged.
    #[must_use]
    pub fn preference(&self, i: usize, j: usize) -> Option<f64> {
        Some(0.5 * (self.logit(i, j)? - self.logit(j, i)?))
    }

    /// Returns the pairs `i < j` judged in both orders.
    pub fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        (0..self.size)
            .flat_map(move |i| (i + 1..self.size).map(move |j| (i, j)))
            .filter(|&(i, j)| self.preference(i, j).is_some())
    }

    /// Returns the responses that `i` met in both orders.
    pub fn opponents(&self, i: usize) -> impl Iterator<Item = usize> + '_ {
        (0..self.size).filter(move |&j| j != i && self.preference(i, j).is_some())
    }

    /// Whether every pair was judged in both orders.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.pairs().count() == self.size * self.size.saturating_sub(1) / 2
    }

    /// Returns the number of pairs of which only one order was judged.
    #[must_use]
    pub fn half_judged(&self) -> usize {
        let judged = |i, j| self.logit(i, j).is_some();
        (0..self.size)
            .flat_map(|i| (i + 1..self.size).map(move |j| (i, j)))
            .filter(|&(i, j)| judged(i, j) != judged(j, i))
            .count()
    }

    /// Returns the mean log-odds in favour of the response shown first; `None` without pairs.
    #[must_use]
    pub fn position_bias(&self) -> Option<f64> {
        let biases: Vec<f64> = self
            .pairs()
            .filter_map(|(i, j)| Some(0.5 * (self.logit(i, j)? + self.logit(j, i)?)))
            .collect();
        (!biases.is_empty()).then(|| biases.iter().sum::<f64>() / biases.len() as f64)
    }

    /// Returns the number of pairs whose verdict stays on the same slot when the order is swapped.
    #[must_use]
    pub fn flips(&self) -> usize {
        self.pairs()
            .filter(|&(i, j)| match (self.logit(i, j), self.logit(j, i)) {
                (Some(there), Some(back)) => there * back > 0.0,
                _ => false,
            })
            .count()
    }

    /// Returns the number of cyclic triples and of all triples whose three pairs were judged.
    ///
    /// A triple with a pair without preference is not cyclic.
    #[must_use]
    pub fn cycles(&self) -> (usize, usize) {
        let (mut cyclic, mut triples) = (0, 0);
        for (i, j) in self.pairs() {
            for k in j + 1..self.size {
                let (Some(ij), Some(jk), Some(ki)) = (
                    self.preference(i, j),
                    self.preference(j, k),
                    self.preference(k, i),
                ) else {
                    continue;
                };
                triples += 1;
                let all_above = ij > 0.0 && jk > 0.0 && ki > 0.0;
                let all_below = ij < 0.0 && jk < 0.0 && ki < 0.0;
                cyclic += usize::from(all_above || all_below);
            }
        }
        (cyclic, triples)
    }
}

/// Why judgments do not fit the responses.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum MatrixError {
    /// A judgment names a response that is not there, or of another prompt.
    #[error(
        "judgment {row} compares response {response_id}, which is not among the responses to \
         prompt {prompt_id}; judgments and responses must come from the same round"
    )]
    UnknownResponse {
        /// Row of the judgment, from 0.
        row: usize,
        /// The prompt it names.
        prompt_id: String,
        /// The response it names.
        response_id: String,
    },
    /// A judgment compares a response with itself.
    #[error("judgment {row} compares response {response_id} with itself")]
    SameResponse {
        /// Row of the judgment, from 0.
        row: usize,
        /// The response.
        response_id: String,
    },
    /// A field holds a word that the schema does not know.
    #[error("judgment {row}: {column} is `{value}`, not one of {expected}")]
    UnknownWord {
        /// Row of the judgment, from 0.
        row: usize,
        /// The column.
        column: &'static str,
        /// What it holds.
        value: String,
        /// What it may hold.
        expected: &'static str,
    },
    /// A valid judgment without a usable number.
    #[error("judgment {row}: raw is {value}, not a finite number, although the verdict is valid")]
    NonFinite {
        /// Row of the judgment, from 0.
        row: usize,
        /// The value.
        value: f64,
    },
    /// The same pair was judged twice in the same order.
    #[error(
        "judgment {row} repeats the order `{order}` of a pair of prompt {prompt_id} that an \
         earlier row holds"
    )]
    Repeated {
        /// Row of the judgment, from 0.
        row: usize,
        /// The prompt.
        prompt_id: String,
        /// The order.
        order: String,
    },
    /// Two judges in one table.
    #[error(
        "the judgments come from two judges, `{first}` and `{second}`, whose log-odds cannot be \
         mixed; keep the rows of one"
    )]
    SeveralJudges {
        /// Judge of the first row.
        first: String,
        /// The other one.
        second: String,
    },
    /// Two responses share an id.
    #[error("response {response_id} appears twice among the responses")]
    RepeatedResponse {
        /// The id.
        response_id: String,
    },
}

/// The responses to one prompt with their comparisons.
#[derive(Debug, Clone)]
pub struct PromptComparisons<'a> {
    /// The prompt.
    pub prompt_id: &'a str,
    /// Its responses, in the order of the table.
    pub responses: Vec<&'a ResponseRow>,
    /// Comparisons among them; indices are places in `responses`.
    pub matrix: ComparisonMatrix,
}

/// All comparisons of a round.
#[derive(Debug, Clone)]
pub struct RoundComparisons<'a> {
    /// Prompts in the order in which the responses first name them.
    pub prompts: Vec<PromptComparisons<'a>>,
    /// Judgments with the verdict `invalid`.
    pub invalid: usize,
}

/// Sorts judgments into one matrix a prompt.
///
/// # Errors
/// Judgments that do not fit the responses or each other.
pub fn collect<'a>(
    responses: &'a [ResponseRow],
    judgments: &[JudgmentRow],
) -> Result<RoundComparisons<'a>, MatrixError> {
    let mut prompts: Vec<PromptComparisons<'a>> = Vec::new();
    let mut prompt_of: HashMap<&str, usize> = HashMap::new();
    let mut place_of: HashMap<&str, (usize, usize)> = HashMap::new();
    for response in responses {
        let prompt = *prompt_of.entry(&response.prompt_id).or_insert_with(|| {
            prompts.push(PromptComparisons {
                prompt_id: &response.prompt_id,
                responses: Vec::new(),
                matrix: ComparisonMatrix::new(0),
            });
            prompts.len() - 1
        });
        let place = (prompt, prompts[prompt].responses.len());
        if place_of.insert(&response.response_id, place).is_some() {
            return Err(MatrixError::RepeatedResponse {
                response_id: response.response_id.clone(),
            });
        }
        prompts[prompt].responses.push(response);
    }
    for prompt in &mut prompts {
        prompt.matrix = ComparisonMatrix::new(prompt.responses.len());
    }

    let mut invalid = 0;
    for (row, judgment) in judgments.iter().enumerate() {
        if judgment.judge != judgments[0].judge {
            return Err(MatrixError::SeveralJudges {
                first: judgments[0].judge.clone(),
                second: judgment.judge.clone(),
            });
        }
        let find = |response_id: &String| {
            place_of
                .get(response_id.as_str())
                .filter(|(prompt, _)| prompts[*prompt].prompt_id == judgment.prompt_id)
                .copied()
                .ok_or_else(|| MatrixError::UnknownResponse {
                    row,
                    prompt_id: judgment.prompt_id.clone(),
                    response_id: response_id.clone(),
                })
        };
        let (prompt, a) = find(&judgment.response_a)?;
        let (_, b) = find(&judgment.response_b)?;
        if a == b {
            return Err(MatrixError::SameResponse {
                row,
                response_id: judgment.response_a.clone(),
            });
        }
        match entry_of(row, judgment, a, b)? {
            None => invalid += 1,
            Some((first, second, logit)) => {
                if prompts[prompt].matrix.set(first, second, logit).is_some() {
                    return Err(MatrixError::Repeated {
                        row,
                        prompt_id: judgment.prompt_id.clone(),
                        order: judgment.order.clone(),
                    });
                }
            }
        }
    }
    Ok(RoundComparisons { prompts, invalid })
}

/// Returns which entry of the matrix a judgment sets, and to what; `None` if it is invalid.
fn entry_of(
    row: usize,
    judgment: &JudgmentRow,
    a: usize,
    b: usize,
) -> Result<Option<(usize, usize, f64)>, MatrixError> {
    let unknown = |column, value: &str, expected| MatrixError::UnknownWord {
        row,
        column,
        value: value.to_owned(),
        expected,
    };
    let a_first = match judgment.order.as_str() {
        "ab" => true,
        "ba" => false,
        order => return Err(unknown("order", order, "ab, ba")),
    };
    match judgment.verdict.as_str() {
        "invalid" => return Ok(None),
        "a" | "b" | "tie" => {}
        verdict => return Err(unknown("verdict", verdict, "a, b, tie, invalid")),
    }
    if !judgment.raw.is_finite() {
        return Err(MatrixError::NonFinite {
            row,
            value: judgment.raw,
        });
    }
    Ok(Some(if a_first {
        (a, b, judgment.raw)
    } else {
        (b, a, -judgment.raw)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rank::tests::{judgment, response};

    /// A matrix from its rows; NaN stands for missing.
    pub(crate) fn matrix(rows: &[&[f64]]) -> ComparisonMatrix {
        let mut matrix = ComparisonMatrix::new(rows.len());
        for (i, row) in rows.iter().enumerate() {
            for (j, &logit) in row.iter().enumerate() {
                if i != j && !logit.is_nan() {
                    matrix.set(i, j, logit);
                }
            }
        }
        matrix
    }

    #[test]
    fn a_position_biased_judge_has_no_preference() {
        // T22: the judge says 3 for whatever it sees first.
        let biased = matrix(&[&[0.0, 3.0, 3.0], &[3.0, 0.0, 3.0], &[3.0, 3.0, 0.0]]);
        assert!(
            biased
                .pairs()
                .all(|(i, j)| biased.preference(i, j) == Some(0.0))
        );
        assert_eq!(biased.position_bias(), Some(3.0));
        assert_eq!(biased.flips(), 3);
        assert_eq!(biased.cycles(), (0, 1));
    }

    #[test]
    fn preferences_are_exactly_antisymmetric() {
        let odd = matrix(&[&[0.0, 0.1, -7.3], &[0.7, 0.0, 1e-9], &[0.3, 2.2, 0.0]]);
        for (i, j) in odd.pairs() {
            let there = odd.preference(i, j).expect("judged");
            assert_eq!(odd.preference(j, i), Some(-there));
        }
    }

    #[test]
    fn identical_texts_have_no_preference() {
        // T23: the judge sees the same two prompts, so both orders give the same number.
        assert_eq!(
            matrix(&[&[0.0, 0.37], &[0.37, 0.0]]).preference(0, 1),
            Some(0.0)
        );
    }

    #[test]
    fn one_order_alone_is_no_pair() {
        let half = matrix(&[&[0.0, 2.0, 1.0], &[f64::NAN, 0.0, 1.0], &[-1.0, 0.5, 0.0]]);
        assert_eq!(half.preference(0, 1), None);
        assert_eq!(half.pairs().collect::<Vec<_>>(), [(0, 2), (1, 2)]);
        assert_eq!(half.half_judged(), 1);
        assert!(!half.is_complete());
        assert_eq!(half.opponents(0).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn a_three_cycle_is_found() {
        let cycle = matrix(&[&[0.0, 1.0, -1.0], &[-1.0, 0.0, 1.0], &[1.0, -1.0, 0.0]]);
        assert_eq!(cycle.cycles(), (1, 1));
        let chain = matrix(&[&[0.0, 1.0, 1.0], &[-1.0, 0.0, 1.0], &[-1.0, -1.0, 0.0]]);
        assert_eq!(chain.cycles(), (0, 1));
    }

    #[test]
    fn judgments_land_in_the_slot_that_was_shown_first() {
        let responses = [response("p", 0), response("p", 1)];
        let judgments = [
            judgment("p", 0, 1, "ab", 2.0),
            judgment("p", 0, 1, "ba", 1.5),
        ];
        let round = collect(&responses, &judgments).expect("consistent");
        let matrix = &round.prompts[0].matrix;
        // "ba" showed response 1 first and found response 0 better by 1.5.
        assert_eq!(
            (matrix.logit(0, 1), matrix.logit(1, 0)),
            (Some(2.0), Some(-1.5))
        );
        assert_eq!(matrix.preference(0, 1), Some(1.75));
    }

    #[test]
    fn invalid_judgments_are_missing() {
        let responses = [response("p", 0), response("p", 1)];
        let mut judgments = [
            judgment("p", 0, 1, "ab", 2.0),
            judgment("p", 0, 1, "ba", 2.0),
        ];
        judgments[1].verdict = "invalid".into();
        judgments[1].raw = f64::NAN;
        let round = collect(&responses, &judgments).expect("consistent");
        assert_eq!(round.invalid, 1);
        assert_eq!(round.prompts[0].matrix.preference(0, 1), None);
        assert_eq!(round.prompts[0].matrix.half_judged(), 1);
    }

    #[test]
    fn prompts_keep_their_order() {
        let responses = [response("q", 0), response("p", 0), response("q", 1)];
        let round = collect(&responses, &[]).expect("consistent");
        let ids: Vec<_> = round
            .prompts
            .iter()
            .map(|prompt| prompt.prompt_id)
            .collect();
        assert_eq!(ids, ["q", "p"]);
        assert_eq!(round.prompts[0].responses.len(), 2);
    }

    #[test]
    fn judgments_that_do_not_fit_are_refused_with_their_row() {
        let responses = [response("p", 0), response("p", 1), response("q", 0)];
        let good = judgment("p", 0, 1, "ab", 1.0);
        let error = |bad: JudgmentRow| {
            collect(&responses, &[good.clone(), bad])
                .expect_err("must be refused")
                .to_string()
        };
        assert!(error(judgment("p", 0, 7, "ab", 1.0)).contains("judgment 1 compares response p-7"));
        assert!(error(judgment("q", 0, 1, "ab", 1.0)).contains("not among the responses"));
        assert!(error(judgment("p", 0, 0, "ab", 1.0)).contains("with itself"));
        assert!(error(judgment("p", 0, 1, "xy", 1.0)).contains("order is `xy`"));
        assert!(error(judgment("p", 0, 1, "ba", f64::NAN)).contains("raw is NaN"));
        assert!(error(good.clone()).contains("repeats the order `ab`"));
        let other = JudgmentRow {
            judge: "other".into(),
            ..judgment("p", 0, 1, "ba", 1.0)
        };
        assert!(error(other).contains("two judges"));
        let strange = JudgmentRow {
            verdict: "c".into(),
            ..judgment("p", 0, 1, "ba", 1.0)
        };
        assert!(error(strange).contains("verdict is `c`"));
        assert!(collect(&[response("p", 0), response("p", 0)], &[]).is_err());
    }
}
