//! How well a judge knows the truth: its judgments held against gold scores.

use std::collections::{BTreeMap, HashMap};

use sims_artifact::tables::{JudgmentRow, ResponseRow};
use sims_stats::{Bootstrap, Interval};

use crate::gold::Gold;
use crate::policies::{ScoredResponse, ScoringError, Tasks};

/// Gold scores closer than this are equal.
const EQUAL: f64 = 1e-9;

/// A figure with its interval over prompts.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
pub struct Estimate {
    /// The figure.
    pub value: f64,
    /// Lower end of its 95 % interval.
    pub ci_low: f64,
    /// Upper end of its 95 % interval.
    pub ci_high: f64,
    /// Pairs that it rests on.
    pub pairs: u64,
    /// Prompts that it rests on.
    pub prompts: u64,
}

/// What a judge is worth. A figure is absent when no pair says anything about it.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize)]
pub struct JudgeQuality {
    /// Share of pairs with different gold that both orders together put right.
    pub agreement: Option<Estimate>,
    /// The same of single judgments, one order each.
    pub agreement_one_order: Option<Estimate>,
    /// Agreement on pairs that differ in content alone.
    pub agreement_content_only: Option<Estimate>,
    /// Agreement on pairs that differ in format alone.
    pub agreement_format_only: Option<Estimate>,
    /// Agreement on pairs that differ in padding and manners alone.
    pub agreement_manners_only: Option<Estimate>,
    /// Agreement on each prompt's best against its worst response by mean win probability.
    pub agreement_best_worst: Option<Estimate>,
    /// Mean gold score of that best response less that of the worst.
    pub gold_gap_best_worst: Option<Estimate>,
    /// Share of pairs whose verdict changes when the order does.
    pub flip_rate: Option<Estimate>,
    /// Mean probability of the response shown first, less one half.
    pub position_bias: Option<Estimate>,
    /// Share of equal-gold pairs of different length in which the longer one is preferred.
    pub length_preference: Option<Estimate>,
    /// Mean absolute log-odds of both orders together.
    pub margin: Option<Estimate>,
    /// Mean probability that the judge puts on its verdict tokens.
    pub coverage: Option<Estimate>,
    /// Judgments without a verdict, left out above.
    pub invalid: u64,
}

/// Why a judge's quality cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum JudgeQualityError {
    /// A judgment speaks of a response that is not in the responses.
    #[error(
        "a judgment of prompt {prompt_id} speaks of response {response_id}, which is not among the responses"
    )]
    UnknownResponse {
        /// The prompt.
        prompt_id: String,
        /// The response.
        response_id: String,
    },
    /// A response could not be scored.
    #[error(transparent)]
    Scoring(#[from] ScoringError),
}

/// Two responses and what the judge said of them, log-odds that the first (`a`) is better.
struct Pair<'a> {
    a: &'a ScoredResponse,
    b: &'a ScoredResponse,
    shown_first: Option<f64>,
    shown_second: Option<f64>,
}

impl Pair<'_> {
    fn log_odds(&self) -> Option<f64> {
        Some(self.shown_first? + self.shown_second?)
    }

    fn gold_lead(&self) -> f64 {
        self.a.gold.score - self.b.gold.score
    }

    /// 1 if the sign of `log_odds` is that of the gold lead, one half for a tie; absent at equal gold.
    fn agrees(&self, log_odds: f64) -> Option<f64> {
        let lead = self.gold_lead();
        (lead.abs() > EQUAL).then(|| {
            if log_odds == 0.0 {
                0.5
            } else {
                f64::from(u8::from((log_odds > 0.0) == (lead > 0.0)))
            }
        })
    }

    /// Says whether all components are equal but those chosen, which differ.
    fn differs_only_in(&self, chosen: [bool; 4]) -> bool {
        let (a, b) = (self.a.gold.components(), self.b.gold.components());
        let equal = |i: usize| (a[i] - b[i]).abs() < EQUAL;
        (0..4).all(|i| chosen[i] || equal(i)) && (0..4).any(|i| chosen[i] && !equal(i))
    }
}

/// Measures a judge on the pairs that it judged.
///
/// # Errors
/// When a judgment's response or a response's prompt is missing.
pub fn judge_quality(
    tasks: &Tasks,
    responses: &[ResponseRow],
    judgments: &[JudgmentRow],
    bootstrap: &Bootstrap,
) -> Result<JudgeQuality, JudgeQualityError> {
    let mut scored = HashMap::new();
    for response in responses {
        scored.insert(response.response_id.as_str(), tasks.score(response)?);
    }
    let pairs = pair_up(judgments, &scored)?;
    let estimate = |values: Vec<(&str, f64)>| estimate(&values, bootstrap);
    let of_pairs = |value: &dyn Fn(&Pair) -> Option<f64>| {
        let values = pairs
            .iter()
            .filter_map(|(key, pair)| Some((key.0, value(pair)?)))
            .collect();
        estimate(values)
    };
    let agreement_in = |chosen: [bool; 4]| {
        of_pairs(&|p| {
            p.differs_only_in(chosen)
                .then(|| p.agrees(p.log_odds()?))
                .flatten()
        })
    };
    let one_order = pairs
        .iter()
        .flat_map(|(key, p)| [p.shown_first, p.shown_second].map(|d| Some((key.0, p.agrees(d?)?))))
        .flatten()
        .collect();
    let best_worst = best_and_worst(judgments, &scored);
    let valid = || judgments.iter().filter(|j| is_valid(j));
    Ok(JudgeQuality {
        agreement: of_pairs(&|p| p.agrees(p.log_odds()?)),
        agreement_one_order: estimate(one_order),
        agreement_content_only: agreement_in([true, false, false, false]),
        agreement_format_only: agreement_in([false, true, false, false]),
        agreement_manners_only: agreement_in([false, false, true, true]),
        agreement_best_worst: estimate(
            best_worst
                .iter()
                .filter(|(_, best, worst)| (best.score - worst.score).abs() > EQUAL)
                .map(|(prompt, best, worst)| {
                    (*prompt, f64::from(u8::from(best.score > worst.score)))
                })
                .collect(),
        ),
        gold_gap_best_worst: estimate(
            best_worst
                .iter()
                .map(|(prompt, best, worst)| (*prompt, best.score - worst.score))
                .collect(),
        ),
        flip_rate: of_pairs(&|p| {
            Some(f64::from(u8::from(
                (p.shown_first? > 0.0) != (p.shown_second? > 0.0),
            )))
        }),
        position_bias: estimate(
            valid()
                .map(|j| {
                    (
                        j.prompt_id.as_str(),
                        if j.order == "ab" { j.p_a } else { 1.0 - j.p_a } - 0.5,
                    )
                })
                .collect(),
        ),
        length_preference: of_pairs(&|p| {
            let longer = p.a.length as f64 - p.b.length as f64;
            (p.gold_lead().abs() <= EQUAL && longer != 0.0)
                .then(|| Some(f64::from(u8::from((p.log_odds()? > 0.0) == (longer > 0.0)))))
                .flatten()
        }),
        margin: of_pairs(&|p| Some(p.log_odds()?.abs() / 2.0)),
        coverage: estimate(
            valid()
                .map(|j| (j.prompt_id.as_str(), j.coverage))
                .collect(),
        ),
        invalid: (judgments.len() - valid().count()) as u64,
    })
}

fn is_valid(judgment: &JudgmentRow) -> bool {
    judgment.verdict != "invalid" && judgment.raw.is_finite()
}

type PairKey<'a> = (&'a str, &'a str, &'a str);

fn pair_up<'a>(
    judgments: &'a [JudgmentRow],
    scored: &'a HashMap<&str, ScoredResponse>,
) -> Result<BTreeMap<PairKey<'a>, Pair<'a>>, JudgeQualityError> {
    let find = |prompt_id: &str, response_id: &str| {
        scored
            .get(response_id)
            .ok_or_else(|| JudgeQualityError::UnknownResponse {
                prompt_id: prompt_id.to_owned(),
                response_id: response_id.to_owned(),
            })
    };
    let mut pairs = BTreeMap::new();
    for judgment in judgments.iter().filter(|j| is_valid(j)) {
        let JudgmentRow {
            prompt_id,
            response_a,
            response_b,
            order,
            raw,
            ..
        } = judgment;
        let (a, b) = (find(prompt_id, response_a)?, find(prompt_id, response_b)?);
        let pair = pairs
            .entry((prompt_id.as_str(), response_a.as_str(), response_b.as_str()))
            .or_insert(Pair {
                a,
                b,
                shown_first: None,
                shown_second: None,
            });
        if order == "ab" {
            pair.shown_first = Some(*raw);
        } else {
            pair.shown_second = Some(*raw);
        }
    }
    Ok(pairs)
}

/// Finds each prompt's best and worst response by mean win probability.
fn best_and_worst<'a>(
    judgments: &'a [JudgmentRow],
    scored: &'a HashMap<&str, ScoredResponse>,
) -> Vec<(&'a str, Gold, Gold)> {
    let mut wins: BTreeMap<&str, BTreeMap<&str, (f64, u32)>> = BTreeMap::new();
    for j in judgments.iter().filter(|j| is_valid(j)) {
        let prompt = wins.entry(&j.prompt_id).or_default();
        for (response, p) in [(&j.response_a, j.p_a), (&j.response_b, 1.0 - j.p_a)] {
            let entry = prompt.entry(response).or_default();
            entry.0 += p;
            entry.1 += 1;
        }
    }
    let by_mean = |x: &(&&str, &(f64, u32)), y: &(&&str, &(f64, u32))| {
        (x.1.0 / f64::from(x.1.1)).total_cmp(&(y.1.0 / f64::from(y.1.1)))
    };
    wins.into_iter()
        .filter_map(|(prompt, responses)| {
            let best = responses.iter().max_by(by_mean)?.0;
            let worst = responses.iter().min_by(by_mean)?.0;
            Some((prompt, scored.get(*best)?.gold, scored.get(*worst)?.gold))
        })
        .collect()
}

/// Estimates the mean of values, resampling whole prompts.
fn estimate(values: &[(&str, f64)], bootstrap: &Bootstrap) -> Option<Estimate> {
    let mut prompts: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for (prompt, value) in values {
        let entry = prompts.entry(prompt).or_default();
        entry.0 += value;
        entry.1 += 1.0;
    }
    let (sums, counts): (Vec<f64>, Vec<f64>) = prompts.into_values().unzip();
    let Interval {
        estimate,
        low,
        high,
    } = bootstrap.ratio_of_means(&sums, &counts).ok()?;
    Some(Estimate {
        value: estimate,
        ci_low: low,
        ci_high: high,
        pairs: values.len() as u64,
        prompts: sums.len() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;
    use sims_artifact::tables::{Message, PromptRow};

    fn response(prompt: &PromptRow, index: u32, text: &str) -> ResponseRow {
        ResponseRow {
            prompt_id: prompt.prompt_id.clone(),
            response_id: format!("r{index}"),
            round: 1,
            sample_index: index,
            policy: "base".to_owned(),
            text: text.to_owned(),
            token_ids: vec![],
            prompt_tokens: 6,
            finish_reason: "stop".to_owned(),
            logprob_sum: -1.0,
            seed: 0,
        }
    }

    fn judgment(prompt: &PromptRow, a: u32, b: u32, order: &str, raw: f64) -> JudgmentRow {
        JudgmentRow {
            prompt_id: prompt.prompt_id.clone(),
            response_a: format!("r{a}"),
            response_b: format!("r{b}"),
            order: order.to_owned(),
            judge: "self".to_owned(),
            p_a: 1.0 / (1.0 + (-raw).exp()),
            verdict: if raw.is_nan() { "invalid" } else { "a" }.to_owned(),
            raw,
            coverage: 1.0,
        }
    }

    #[test]
    fn figures_are_what_a_hand_count_gives() {
        let prompt = PromptRow::new(vec![Message::user("add : 4 5")], "eval", "test");
        let tasks = Tasks::read(World::default_world(), std::slice::from_ref(&prompt))
            .expect("of the world");
        // Gold: r0 1.0, r1 0.85 (curt), r2 0.35 (curt and wrong), r3 0.85 but shorter than none.
        let responses = [
            (0, "sure : 9 enjoy ."),
            (1, "9"),
            (2, "8"),
            (3, "well now 9 sure : enjoy ."),
        ]
        .map(|(i, text)| response(&prompt, i, text));
        let judgments = [
            judgment(&prompt, 0, 1, "ab", 2.0),
            judgment(&prompt, 0, 1, "ba", 1.0),
            judgment(&prompt, 1, 2, "ab", 0.5),
            judgment(&prompt, 1, 2, "ba", -1.0),
            judgment(&prompt, 0, 2, "ab", f64::NAN),
            judgment(&prompt, 0, 2, "ba", 1.0),
        ];
        let quality = judge_quality(&tasks, &responses, &judgments, &Bootstrap::seeded(0))
            .expect("all known");
        let value = |e: Option<Estimate>| e.expect("measured").value;
        assert_eq!(value(quality.agreement), 0.5);
        assert_eq!(value(quality.agreement_one_order), 4.0 / 5.0);
        assert_eq!(value(quality.agreement_content_only), 0.0);
        assert_eq!(value(quality.agreement_manners_only), 1.0);
        assert_eq!(quality.agreement_format_only, None);
        assert_eq!(value(quality.flip_rate), 0.5);
        assert_eq!(value(quality.margin), (1.5 + 0.25) / 2.0);
        assert_eq!(quality.invalid, 1);
        assert_eq!(value(quality.agreement_best_worst), 1.0);
    }

    #[test]
    fn unknown_responses_are_refused() {
        let prompt = PromptRow::new(vec![Message::user("add : 4 5")], "eval", "test");
        let tasks = Tasks::read(World::default_world(), std::slice::from_ref(&prompt))
            .expect("of the world");
        let judgments = [judgment(&prompt, 0, 1, "ab", 2.0)];
        assert!(judge_quality(&tasks, &[], &judgments, &Bootstrap::seeded(0)).is_err());
    }
}
