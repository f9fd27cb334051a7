//! Which of a prompt's usable responses form pairs, and with what weights.
//!
//! The soft contrast moves the fit toward the responses reweighted by `w⁺_k ∝ exp(η q_k)` and away from
//! `w⁻_k ∝ exp(−η q_k)`, the finite-sample form of SPPO's exponential weights (arXiv 2405.00675); its
//! mean difference is `Σ_k (w⁺_k − w⁻_k) a_k`. Responses with a surplus of `w⁺` are paired from the best
//! down with those that have a surplus of `w⁻`, so that at most K − 1 weighted pairs have exactly that sum,
//! and the chosen is the better one in each. Large η leaves the best against the worst.

use crate::candidate::Candidate;
use crate::extremes::{Pick, problem};
use crate::{ContrastParams, PairPolicy, Reason};

/// Weights below this are rounding.
const SMALLEST_WEIGHT: f64 = 1e-9;

/// Returns the pairs of a prompt to consider and their weights, heaviest first; `outermost` is among them.
///
/// `candidates` come best first; `flags` say what is wrong with each. Under `widest` the first that passes
/// the filters on pairs is meant, and they come by falling margin.
#[must_use]
pub fn picks(
    candidates: &[Candidate],
    flags: &[Option<Reason>],
    outermost: Pick,
    params: &ContrastParams,
) -> Vec<(Pick, f64)> {
    let usable = |pick: &Pick| problem(*pick, candidates, flags, params).is_none();
    let mut picks = match params.pairs {
        PairPolicy::Extreme => vec![(outermost, 1.0)],
        PairPolicy::Widest => {
            let mut pairs: Vec<Pick> = (outermost.chosen..outermost.rejected)
                .flat_map(|chosen| {
                    (chosen + 1..=outermost.rejected).map(move |rejected| Pick { chosen, rejected })
                })
                .filter(usable)
                .collect();
            let margin =
                |pick: &Pick| candidates[pick.chosen].score - candidates[pick.rejected].score;
            pairs.sort_by(|left, right| margin(right).total_cmp(&margin(left)));
            return pairs.into_iter().map(|pick| (pick, 1.0)).collect();
        }
        PairPolicy::Top2 => {
            let near = |place: &usize, fixed: usize, is_chosen: bool| {
                let pick = if is_chosen {
                    Pick {
                        chosen: *place,
                        rejected: fixed,
                    }
                } else {
                    Pick {
                        chosen: fixed,
                        rejected: *place,
                    }
                };
                pick.chosen < pick.rejected && usable(&pick)
            };
            let chosen = (outermost.chosen..outermost.rejected)
                .filter(|place| near(place, outermost.rejected, true))
                .take(2);
            let rejected: Vec<usize> = (outermost.chosen + 1..=outermost.rejected)
                .rev()
                .filter(|place| near(place, outermost.chosen, false))
                .take(2)
                .collect();
            let mut picks: Vec<Pick> = chosen
                .flat_map(|chosen| {
                    rejected
                        .iter()
                        .map(move |&rejected| Pick { chosen, rejected })
                })
                .filter(|pick| pick.chosen < pick.rejected && usable(pick))
                .collect();
            picks.dedup();
            let weight = 1.0 / picks.len() as f64;
            picks.into_iter().map(|pick| (pick, weight)).collect()
        }
        PairPolicy::Soft => {
            let places: Vec<usize> = (outermost.chosen..=outermost.rejected)
                .filter(|&place| place == outermost.rejected || flags[place].is_none())
                .collect();
            let scores: Vec<f64> = places
                .iter()
                .map(|&place| candidates[place].score)
                .collect();
            soft(&scores, params.eta)
                .into_iter()
                .map(|(chosen, rejected, weight)| {
                    let pick = Pick {
                        chosen: places[chosen],
                        rejected: places[rejected],
                    };
                    (pick, weight)
                })
                .filter(|(pick, _)| usable(pick))
                .collect()
        }
    };
    picks.sort_by(|left, right| right.1.total_cmp(&left.1));
    picks.truncate(params.max_pairs as usize);
    picks
}

/// Returns pairs of indices into `scores` (best first) with the weights of the soft contrast.
fn soft(scores: &[f64], eta: f64) -> Vec<(usize, usize, f64)> {
    let above = exponential_weights(scores, eta);
    let below = exponential_weights(scores, -eta);
    let mut surplus: Vec<f64> = above.iter().zip(&below).map(|(w, v)| w - v).collect();
    let mut pairs = Vec::new();
    // The surplus falls from the best to the worst, so supply lies before demand.
    let (mut chosen, mut rejected) = (0, scores.len().saturating_sub(1));
    while chosen < rejected {
        let weight = surplus[chosen].min(-surplus[rejected]);
        if weight > SMALLEST_WEIGHT {
            pairs.push((chosen, rejected, weight));
            surplus[chosen] -= weight;
            surplus[rejected] += weight;
        }
        if surplus[chosen] <= SMALLEST_WEIGHT {
            chosen += 1;
        } else {
            rejected -= 1;
        }
    }
    pairs
}

/// Returns `exp(eta · score)` over its sum.
fn exponential_weights(scores: &[f64], eta: f64) -> Vec<f64> {
    let largest = scores
        .iter()
        .map(|score| eta * score)
        .fold(f64::NEG_INFINITY, f64::max);
    let terms: Vec<f64> = scores
        .iter()
        .map(|score| (eta * score - largest).exp())
        .collect();
    let sum: f64 = terms.iter().sum();
    terms.into_iter().map(|term| term / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::candidate::gather;
    use crate::extremes::search;
    use crate::fixtures::Round;

    fn picked(
        scores: &[f64],
        flags: &[Option<Reason>],
        params: &ContrastParams,
    ) -> Vec<(usize, usize, f64)> {
        let round = Round::new(&[("p", scores)]);
        let groups = gather(&round.prompts, &round.responses, &round.ranking, params);
        let candidates = &groups.expect("consistent")[0].candidates;
        let outermost = search(candidates, flags, params)
            .found
            .expect("two are usable");
        let picks = picks(candidates, flags, outermost, params);
        picks
            .iter()
            .map(|(pick, weight)| (pick.chosen, pick.rejected, *weight))
            .collect()
    }

    fn with(pairs: PairPolicy, eta: f64, max_pairs: u32) -> ContrastParams {
        ContrastParams {
            pairs,
            eta,
            max_pairs,
            ..ContrastParams::default()
        }
    }

    #[test]
    fn extreme_is_the_best_against_the_worst() {
        let params = ContrastParams::default();
        assert_eq!(picked(&[0.9, 0.5, 0.1], &[None; 3], &params), [(0, 2, 1.0)]);
    }

    #[test]
    fn widest_lists_all_by_falling_margin() {
        let params = with(PairPolicy::Widest, 4.0, 1);
        assert_eq!(
            picked(&[0.9, 0.7, 0.1], &[None; 3], &params),
            [(0, 2, 1.0), (1, 2, 1.0), (0, 1, 1.0)]
        );
    }

    #[test]
    fn top2_crosses_the_two_best_with_the_two_worst() {
        let params = with(PairPolicy::Top2, 4.0, 4);
        let quarter = 0.25;
        assert_eq!(
            picked(&[0.9, 0.8, 0.5, 0.2, 0.1], &[None; 5], &params),
            [
                (0, 4, quarter),
                (0, 3, quarter),
                (1, 4, quarter),
                (1, 3, quarter)
            ]
        );
        // Flagged ones make room, and no response meets itself or a better one.
        let flags = [None, Some(Reason::Loop), None, None];
        let third = 1.0 / 3.0;
        assert_eq!(
            picked(&[0.9, 0.8, 0.5, 0.2], &flags, &params),
            [(0, 3, third), (0, 2, third), (2, 3, third)]
        );
        assert_eq!(picked(&[0.9, 0.1], &[None; 2], &params), [(0, 1, 1.0)]);
    }

    #[test]
    fn soft_pairs_sum_to_the_reweighted_samples() {
        // By hand from the formula: surplus of each response.
        let scores = [0.9, 0.7, 0.65, 0.4, 0.2, 0.1];
        for eta in [0.5, 4.0, 8.0, 40.0] {
            let pairs = picked(&scores, &[None; 6], &with(PairPolicy::Soft, eta, 100));
            assert!(pairs.len() < scores.len());
            assert!(pairs.iter().all(|&(chosen, rejected, _)| chosen < rejected));
            let total = |sign: f64| -> f64 { scores.iter().map(|q| (sign * eta * q).exp()).sum() };
            for (place, q) in scores.iter().enumerate() {
                let expected = (eta * q).exp() / total(1.0) - (-eta * q).exp() / total(-1.0);
                let got: f64 = pairs
                    .iter()
                    .map(|&(chosen, rejected, weight)| match place {
                        p if p == chosen => weight,
                        p if p == rejected => -weight,
                        _ => 0.0,
                    })
                    .sum();
                assert!(
                    (got - expected).abs() < 1e-8,
                    "eta {eta}, {place}: {got} {expected}"
                );
            }
        }
    }

    #[test]
    fn large_eta_is_the_best_against_the_worst() {
        let pairs = picked(
            &[0.9, 0.7, 0.4, 0.1],
            &[None; 4],
            &with(PairPolicy::Soft, 1e4, 4),
        );
        assert_eq!(pairs.len(), 1);
        assert_eq!((pairs[0].0, pairs[0].1), (0, 3));
        assert!((pairs[0].2 - 1.0).abs() < 1e-12);
    }

    #[test]
    fn soft_keeps_the_heaviest_and_leaves_flagged_ones_out() {
        let scores = [0.9, 0.8, 0.6, 0.3, 0.2, 0.1];
        let all = picked(&scores, &[None; 6], &with(PairPolicy::Soft, 4.0, 100));
        let two = picked(&scores, &[None; 6], &with(PairPolicy::Soft, 4.0, 2));
        assert_eq!(two, all[..2]);
        let mut flags = [None; 6];
        flags[1] = Some(Reason::Markup);
        let without = picked(&scores, &flags, &with(PairPolicy::Soft, 4.0, 100));
        assert!(
            without
                .iter()
                .all(|&(chosen, rejected, _)| chosen != 1 && rejected != 1)
        );
    }
}
