//! Ranks a whole round.

use sims_artifact::tables::{JudgmentRow, RankingRow, ResponseRow};
use sims_stats::{StatsError, correlation::spearman, win_rate::logistic};

use crate::coin;
use crate::matrix::{MatrixError, PromptComparisons, collect};
use crate::noise::NoiseFloor;
use crate::place::places;
use crate::score::{RankMethod, Score, Scorer};

/// Why a round cannot be ranked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RankError {
    /// The judgments do not fit the responses or each other.
    #[error(transparent)]
    Matrix(#[from] MatrixError),
    /// Judgments are there, but no pair was judged validly in both orders.
    #[error(
        "no pair was judged in both orders with a valid verdict ({judgments} judgments, {invalid} \
         invalid); the judge does not answer its question: look at its template and at `coverage`"
    )]
    NothingJudged {
        /// Number of judgments.
        judgments: usize,
        /// How many of them are invalid.
        invalid: usize,
    },
    /// The scores of a prompt could not be fitted.
    #[error(
        "prompt {prompt_id}: {source}; judge with a schedule that connects all responses, or try the method \
         `mean-win`, which needs no such chain"
    )]
    Score {
        /// The prompt.
        prompt_id: String,
        /// What failed.
        source: StatsError,
    },
    /// There are no responses.
    #[error("there are no responses to rank")]
    NoResponses,
}

/// What the comparisons say about the judge.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Diagnostics {
    /// Prompts with at least one response.
    pub prompts: usize,
    /// Prompts with a single response, which cannot be compared.
    pub single_response: usize,
    /// Responses in prompts of several that have no valid comparison.
    pub unjudged: usize,
    /// Pairs judged validly in both orders.
    pub pairs: usize,
    /// Pairs of which only one order is valid.
    pub half_judged: usize,
    /// Judgments with the verdict `invalid`.
    pub invalid: usize,
    /// Prompts in which all responses tie.
    pub all_tied: usize,
    /// Prompts whose judged responses met unequal numbers of others.
    pub uneven: usize,
    /// Share of pairs whose verdict stays on the same slot when the order is swapped.
    pub flip_rate: f64,
    /// Mean log-odds in favour of the response shown first. Unit: nats.
    pub position_bias: f64,
    /// Mean probability of the response shown first, less one half.
    pub position_bias_probability: f64,
    /// Share of fully judged triples that are cyclic.
    pub cycle_rate: f64,
    /// Noise of a score from order inconsistency.
    pub noise_sigma: f64,
    /// Mean of best score minus worst score over prompts.
    pub mean_range: f64,
    /// Mean rank correlation of score and length in tokens within a prompt, where defined.
    pub length_correlation: Option<f64>,
}

/// A ranked round.
#[derive(Debug, Clone, PartialEq)]
pub struct Ranked {
    /// One row a response: prompts in the order of the responses, best response first.
    pub rows: Vec<RankingRow>,
    /// What the comparisons say about the judge.
    pub diagnostics: Diagnostics,
}

/// Ranks the responses to every prompt.
///
/// A response without a valid comparison keeps a row: last, with the method's neutral score and
/// zero comparisons. `seed` is for the coin of [`RankMethod::Random`](crate::RankMethod::Random)
/// alone, which reads no judgment. `progress` is called with the number of prompts done.
///
/// # Errors
/// Judgments that do not fit, nothing judged at all, or (methods that
/// [connect](RankMethod::connects)) a prompt whose responses comparisons do not connect.
pub fn rank(
    responses: &[ResponseRow],
    judgments: &[JudgmentRow],
    scorer: &Scorer,
    seed: u64,
    progress: &mut dyn FnMut(usize),
) -> Result<Ranked, RankError> {
    if responses.is_empty() {
        return Err(RankError::NoResponses);
    }
    let round = collect(responses, judgments)?;
    let mut diagnostics = judge_diagnostics(&round.prompts);
    diagnostics.invalid = round.invalid;
    if !judgments.is_empty() && diagnostics.pairs == 0 {
        return Err(RankError::NothingJudged {
            judgments: judgments.len(),
            invalid: round.invalid,
        });
    }

    let mut floor = NoiseFloor::default();
    let mut scored = Vec::with_capacity(round.prompts.len());
    for prompt in &round.prompts {
        let failed = |source| RankError::Score {
            prompt_id: prompt.prompt_id.to_owned(),
            source,
        };
        scored.push(if scorer.method == RankMethod::Random {
            coin::scores(prompt, seed)
        } else {
            scorer.scores(&prompt.matrix).map_err(failed)?
        });
        let halves = scorer.scores_by_order(&prompt.matrix, diagnostics.position_bias);
        floor.add(&halves.map_err(failed)?);
        progress(scored.len());
    }
    diagnostics.noise_sigma = floor.sigma();

    let mut rows = Vec::with_capacity(responses.len());
    for (prompt, scores) in round.prompts.iter().zip(&scored) {
        let ranked = prompt_rows(prompt, scores, scorer, diagnostics.noise_sigma);
        diagnostics.all_tied += usize::from(ranked.len() > 1 && ranked.iter().all(|row| row.tie));
        if ranked.len() > 1 {
            diagnostics.unjudged += ranked.iter().filter(|row| row.comparisons == 0).count();
        }
        rows.extend(ranked);
    }
    diagnostics.mean_range = mean(scored.iter().filter_map(|scores| range(scores))).unwrap_or(0.0);
    diagnostics.length_correlation = mean(
        round
            .prompts
            .iter()
            .zip(&scored)
            .filter_map(|(prompt, scores)| length_correlation(prompt, scores)),
    );
    Ok(Ranked { rows, diagnostics })
}

/// Reads off the judge's habits, which do not depend on the method.
fn judge_diagnostics(prompts: &[PromptComparisons]) -> Diagnostics {
    let mut diagnostics = Diagnostics {
        prompts: prompts.len(),
        ..Diagnostics::default()
    };
    let (mut flips, mut cyclic, mut triples) = (0, 0, 0);
    let mut first_logits = Vec::new();
    for prompt in prompts {
        let matrix = &prompt.matrix;
        diagnostics.single_response += usize::from(matrix.size() == 1);
        diagnostics.half_judged += matrix.half_judged();
        diagnostics.pairs += matrix.pairs().count();
        let mut met = (0..matrix.size())
            .map(|i| matrix.opponents(i).count())
            .filter(|&met| met > 0);
        let first = met.next();
        diagnostics.uneven += usize::from(met.any(|met| Some(met) != first));
        flips += matrix.flips();
        let (cyclic_here, triples_here) = matrix.cycles();
        cyclic += cyclic_here;
        triples += triples_here;
        for (i, j) in matrix.pairs() {
            first_logits.extend(matrix.logit(i, j));
            first_logits.extend(matrix.logit(j, i));
        }
    }
    diagnostics.flip_rate = share(flips, diagnostics.pairs);
    diagnostics.cycle_rate = share(cyclic, triples);
    diagnostics.position_bias = mean(first_logits.iter().copied()).unwrap_or(0.0);
    diagnostics.position_bias_probability =
        mean(first_logits.iter().map(|&logit| logistic(logit) - 0.5)).unwrap_or(0.0);
    diagnostics
}

/// The rows of one prompt, best first.
fn prompt_rows(
    prompt: &PromptComparisons,
    scores: &[Option<Score>],
    scorer: &Scorer,
    noise_sigma: f64,
) -> Vec<RankingRow> {
    let values: Vec<Option<f64>> = scores
        .iter()
        .map(|score| score.as_ref().map(|score| score.value))
        .collect();
    let position_bias = prompt.matrix.position_bias().unwrap_or(0.0);
    let mut rows: Vec<RankingRow> = places(&values)
        .into_iter()
        .enumerate()
        .map(|(index, place)| RankingRow {
            prompt_id: prompt.prompt_id.to_owned(),
            response_id: prompt.responses[index].response_id.clone(),
            score: values[index].unwrap_or(scorer.neutral()),
            score_se: scores[index].and_then(|score| score.standard_error),
            rank: place.rank,
            comparisons: 2 * prompt.matrix.opponents(index).count() as u32,
            win_probability: scorer.win_probability(&prompt.matrix, index).unwrap_or(0.5),
            position_bias,
            tie: place.tie,
            noise_sigma,
        })
        .collect();
    rows.sort_by_key(|row| row.rank);
    rows
}

/// Best score minus worst, over the scored responses.
fn range(scores: &[Option<Score>]) -> Option<f64> {
    let values = || scores.iter().flatten().map(|score| score.value);
    Some(values().reduce(f64::max)? - values().reduce(f64::min)?)
}

fn length_correlation(prompt: &PromptComparisons, scores: &[Option<Score>]) -> Option<f64> {
    let (values, lengths): (Vec<f64>, Vec<f64>) = scores
        .iter()
        .zip(&prompt.responses)
        .filter_map(|(score, response)| {
            Some((score.as_ref()?.value, response.token_ids.len() as f64))
        })
        .unzip();
    spearman(&values, &lengths).ok()
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0usize), |(sum, count), value| {
        (sum + value, count + 1)
    });
    (count > 0).then(|| sum / count as f64)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn rank(
        responses: &[ResponseRow],
        judgments: &[JudgmentRow],
        scorer: &Scorer,
    ) -> Result<Ranked, RankError> {
        super::rank(responses, judgments, scorer, 0, &mut |_| ())
    }

    /// Response `index` to a prompt.
    pub(crate) fn response(prompt_id: &str, index: u32) -> ResponseRow {
        ResponseRow {
            prompt_id: prompt_id.into(),
            response_id: format!("{prompt_id}-{index}"),
            round: 1,
            sample_index: index,
            policy: "base".into(),
            text: format!("answer {index}"),
            token_ids: (0..index + 3).collect(),
            prompt_tokens: 5,
            finish_reason: "stop".into(),
            logprob_sum: -1.0,
            seed: 1,
        }
    }

    /// The judge finds response `a` better than `b` by `raw` nats.
    pub(crate) fn judgment(prompt_id: &str, a: u32, b: u32, order: &str, raw: f64) -> JudgmentRow {
        JudgmentRow {
            prompt_id: prompt_id.into(),
            response_a: format!("{prompt_id}-{a}"),
            response_b: format!("{prompt_id}-{b}"),
            order: order.into(),
            judge: "stub".into(),
            p_a: logistic(raw),
            verdict: if raw >= 0.0 { "a" } else { "b" }.into(),
            raw,
            coverage: 1.0,
        }
    }

    /// All pairs of `quality.len()` responses, judged by the difference of their quality, with
    /// `bias` for the one shown first.
    pub(crate) fn judged(prompt_id: &str, quality: &[f64], bias: f64) -> Vec<JudgmentRow> {
        let mut rows = Vec::new();
        for a in 0..quality.len() {
            for b in a + 1..quality.len() {
                let gap = quality[a] - quality[b];
                rows.push(judgment(prompt_id, a as u32, b as u32, "ab", gap + bias));
                rows.push(judgment(prompt_id, a as u32, b as u32, "ba", gap - bias));
            }
        }
        rows
    }

    pub(crate) fn responses(prompt_id: &str, count: u32) -> Vec<ResponseRow> {
        (0..count).map(|index| response(prompt_id, index)).collect()
    }

    fn scorer(method: RankMethod) -> Scorer {
        Scorer {
            method,
            tau: 1.0,
            ridge: 0.1,
        }
    }

    const METHODS: [RankMethod; 7] = [
        RankMethod::MeanWin,
        RankMethod::MeanLogit,
        RankMethod::BradleyTerry,
        RankMethod::Copeland,
        RankMethod::LeastSquares,
        RankMethod::MeanWinCompleted,
        RankMethod::WinprobSppo,
    ];

    #[test]
    fn every_method_finds_the_order_through_position_bias() {
        let quality = [0.5, 3.0, -1.0, 1.0];
        for method in METHODS {
            let judgments = judged("p", &quality, 0.7);
            let ranked = rank(&responses("p", 4), &judgments, &scorer(method)).expect("valid");
            let order: Vec<&str> = ranked
                .rows
                .iter()
                .map(|row| row.response_id.as_str())
                .collect();
            assert_eq!(order, ["p-1", "p-3", "p-0", "p-2"], "{method}");
            assert!((ranked.diagnostics.position_bias - 0.7).abs() < 1e-12);
            assert!(
                ranked
                    .rows
                    .iter()
                    .all(|row| row.comparisons == 6 && !row.tie)
            );
            assert_eq!(ranked.diagnostics.cycle_rate, 0.0);
        }
    }

    #[test]
    fn a_judge_without_preference_ties_everyone() {
        for method in METHODS {
            let judgments = judged("p", &[0.0; 5], 3.0);
            let ranked = rank(&responses("p", 5), &judgments, &scorer(method)).expect("valid");
            assert!(ranked.rows.iter().all(|row| row.tie), "{method}");
            assert_eq!(ranked.diagnostics.flip_rate, 1.0);
            assert_eq!(ranked.diagnostics.all_tied, 1);
            let ids: Vec<&str> = ranked
                .rows
                .iter()
                .map(|row| row.response_id.as_str())
                .collect();
            assert_eq!(ids, ["p-0", "p-1", "p-2", "p-3", "p-4"]);
        }
    }

    #[test]
    fn one_response_is_first_without_comparisons() {
        for method in METHODS {
            let ranked = rank(&responses("p", 1), &[], &scorer(method)).expect("valid");
            let row = &ranked.rows[0];
            assert_eq!((row.rank, row.comparisons, row.tie), (1, 0, false));
            assert_eq!(ranked.diagnostics.single_response, 1);
        }
    }

    #[test]
    fn an_unconnected_prompt_is_named() {
        let mut judgments = judged("good", &[1.0, 0.0], 0.0);
        judgments.extend(judged("bad", &[1.0, 0.0], 0.0));
        let mut all = responses("good", 2);
        all.extend(responses("bad", 4));
        let error = rank(&all, &judgments, &scorer(RankMethod::BradleyTerry))
            .expect_err("responses 2 and 3 met nobody")
            .to_string();
        assert!(
            error.contains("prompt bad: ") && error.contains("mean-win"),
            "{error}"
        );
        let ranked = rank(&all, &judgments, &scorer(RankMethod::MeanWin)).expect("no chain needed");
        assert_eq!(ranked.diagnostics.unjudged, 2);
        assert_eq!(ranked.rows[5].comparisons, 0);
    }

    #[test]
    fn the_coin_reads_no_judgment_and_has_a_seed() {
        let order = |judgments: &[JudgmentRow], seed| {
            let scorer = scorer(RankMethod::Random);
            let ranked = super::rank(&responses("p", 8), judgments, &scorer, seed, &mut |_| ());
            let rows = ranked.expect("valid").rows;
            rows.iter()
                .map(|row| row.response_id.clone())
                .collect::<Vec<_>>()
        };
        let quality: Vec<f64> = (0..8).map(f64::from).collect();
        let judged = judged("p", &quality, 0.0);
        assert_eq!(order(&judged, 1), order(&[], 1));
        assert_ne!(order(&judged, 1), order(&judged, 2));
    }

    #[test]
    fn unequal_designs_are_counted() {
        let mut judgments = judged("even", &[1.0, 0.0, -1.0], 0.0);
        judgments.extend(judged("uneven", &[1.0, 0.0, -1.0], 0.0));
        judgments.truncate(judgments.len() - 2);
        let mut all = responses("even", 3);
        all.extend(responses("uneven", 3));
        let ranked = rank(&all, &judgments, &scorer(RankMethod::MeanWinCompleted));
        assert_eq!(ranked.expect("connected").diagnostics.uneven, 1);
    }

    #[test]
    fn invalid_comparisons_leave_the_others_as_they_are() {
        let quality = [1.0, 0.0, -1.0];
        let mut judgments = judged("p", &quality, 0.0);
        // The judge never answers about the first two, in one order.
        judgments[0].verdict = "invalid".into();
        judgments[0].raw = 0.0;
        let ranked = rank(&responses("p", 3), &judgments, &scorer(RankMethod::MeanWin));
        let ranked = ranked.expect("valid");
        let best = &ranked.rows[0];
        // Only the comparison with the third counts: sigma(2), not diluted by a zero.
        assert_eq!(best.response_id, "p-0");
        assert!((best.score - logistic(2.0)).abs() < 1e-12);
        assert_eq!(best.comparisons, 2);
        assert_eq!(
            (ranked.diagnostics.invalid, ranked.diagnostics.half_judged),
            (1, 1)
        );
    }

    #[test]
    fn all_invalid_is_an_error() {
        let mut judgments = judged("p", &[1.0, 0.0], 0.0);
        judgments
            .iter_mut()
            .for_each(|judgment| judgment.verdict = "invalid".into());
        let error = rank(&responses("p", 2), &judgments, &scorer(RankMethod::MeanWin));
        assert_eq!(
            error.expect_err("nothing is left"),
            RankError::NothingJudged {
                judgments: 2,
                invalid: 2
            }
        );
        let none = rank(&[], &[], &scorer(RankMethod::MeanWin));
        assert_eq!(none, Err(RankError::NoResponses));
    }

    #[test]
    fn order_of_the_judgments_does_not_matter() {
        let mut all = responses("p", 6);
        all.extend(responses("q", 6));
        let mut judgments = judged("p", &[0.3, 1.0, -2.0, 0.4, 0.0, 0.9], 0.2);
        judgments.extend(judged("q", &[1.3, 1.0, 2.0, 0.5, 0.1, 0.9], -0.1));
        for method in METHODS {
            let forwards = rank(&all, &judgments, &scorer(method)).expect("valid");
            let mut shuffled = judgments.clone();
            sims_stats::random::Stream::new(3, 0).shuffle(&mut shuffled);
            let again = rank(&all, &shuffled, &scorer(method)).expect("valid");
            assert_eq!(forwards, again, "{method}");
        }
    }

    #[test]
    fn length_correlation_is_seen() {
        // Response i has i + 3 tokens and quality -i.
        let judgments = judged("p", &[0.0, -1.0, -2.0, -3.0], 0.0);
        let ranked = rank(&responses("p", 4), &judgments, &scorer(RankMethod::MeanWin));
        let correlation = ranked.expect("valid").diagnostics.length_correlation;
        assert!((correlation.expect("both vary") + 1.0).abs() < 1e-12);
    }
}
