//! What is wrong with a pair, although both of its responses are fine.

use sims_stats::shingles::jaccard;

use crate::candidate::{Candidate, Verdicts};
use crate::{ContrastParams, MarginRule, Reason, Strategy};

/// Scores closer than this, relative to one plus their size, are equal.
const TIE_TOLERANCE: f64 = 1e-6;

/// Returns the first filter that the pair fails, if any.
///
/// `noise_limit` is the margin that best minus worst of pure noise exceeds once in twenty prompts.
/// Filters on scores do not apply to the control.
#[must_use]
pub fn flag(
    chosen: &Candidate,
    rejected: &Candidate,
    verdicts: &Verdicts,
    noise_limit: f64,
    params: &ContrastParams,
) -> Option<Reason> {
    if params.strategy != Strategy::Random {
        let by_score = flag_score(chosen, rejected, verdicts, noise_limit, params);
        if by_score.is_some() {
            return by_score;
        }
    }
    let (left, right) = (chosen.content(), rejected.content());
    let shorter = left.len().min(right.len());
    let longer = left.len().max(right.len());
    let shared = left.iter().zip(right).take_while(|(l, r)| l == r).count();
    if jaccard(left, right, params.shingle as usize) > params.max_pair_jaccard {
        Some(Reason::Similar)
    } else if shorter - shared < params.min_unshared as usize {
        Some(Reason::Prefix)
    } else if params.length_ratio > 0.0 && longer as f64 > params.length_ratio * shorter as f64 {
        Some(Reason::Length)
    } else {
        None
    }
}

fn flag_score(
    chosen: &Candidate,
    rejected: &Candidate,
    verdicts: &Verdicts,
    noise_limit: f64,
    params: &ContrastParams,
) -> Option<Reason> {
    let margin = chosen.score - rejected.score;
    if margin <= TIE_TOLERANCE * (1.0 + chosen.score.abs()) {
        return Some(Reason::Tie);
    }
    let limit = match params.margin {
        MarginRule::NoiseFloor => noise_limit.max(params.min_margin),
        MarginRule::Positive => params.min_margin,
        MarginRule::None => 0.0,
    };
    if margin <= limit {
        return Some(Reason::Margin);
    }
    let (chosen, rejected) = (&chosen.response.response_id, &rejected.response.response_id);
    if params.both_orders && verdicts.wins_both_orders(chosen, rejected) == Some(false) {
        return Some(Reason::Order);
    }
    None
}

#[cfg(test)]
mod tests {
    use sims_artifact::tables::JudgmentRow;

    use super::*;
    use crate::candidate::gather;
    use crate::fixtures::{Round, judgment};

    /// The flag of a pair with these scores and content tokens.
    fn flagged(
        scores: [f64; 2],
        tokens: [&[u32]; 2],
        judgments: &[JudgmentRow],
        params: &ContrastParams,
    ) -> Option<Reason> {
        let mut round = Round::new(&[("p", &scores)]);
        round.set_tokens(0, tokens[0]);
        round.set_tokens(1, tokens[1]);
        let groups = gather(&round.prompts, &round.responses, &round.ranking, params);
        let groups = groups.expect("consistent");
        // The control's order is random; find the sides by index.
        let find = |index| {
            let candidates = groups[0].candidates.iter();
            candidates
                .into_iter()
                .find(|c| c.response.sample_index == index)
                .expect("two responses")
        };
        flag(find(0), find(1), &Verdicts::of(judgments), 0.5, params)
    }

    fn tokens(range: std::ops::Range<u32>) -> Vec<u32> {
        range.collect()
    }

    fn by_score(scores: [f64; 2], params: &ContrastParams) -> Option<Reason> {
        flagged(scores, [&tokens(0..20), &tokens(50..70)], &[], params)
    }

    #[test]
    fn margin() {
        let params = ContrastParams::default();
        assert_eq!(by_score([0.8, 0.4], &params), Some(Reason::Margin));
        assert_eq!(by_score([0.9, 0.3], &params), None);
        let strict = ContrastParams {
            min_margin: 0.7,
            ..params.clone()
        };
        assert_eq!(by_score([0.9, 0.3], &strict), Some(Reason::Margin));
        let positive = ContrastParams {
            margin: MarginRule::Positive,
            ..params.clone()
        };
        assert_eq!(by_score([0.8, 0.4], &positive), None);
        let none = ContrastParams {
            margin: MarginRule::None,
            ..strict
        };
        assert_eq!(by_score([0.8, 0.4], &none), None);
    }

    #[test]
    fn equal_scores_are_a_tie_whatever_the_margin_rule() {
        for margin in [
            MarginRule::NoiseFloor,
            MarginRule::Positive,
            MarginRule::None,
        ] {
            let params = ContrastParams {
                margin,
                ..ContrastParams::default()
            };
            assert_eq!(by_score([0.5, 0.5], &params), Some(Reason::Tie));
        }
    }

    #[test]
    fn order() {
        let params = ContrastParams::default();
        let check = |ba: f64, params: &ContrastParams| {
            let met = [
                judgment("p-0", "p-1", "ab", 2.0),
                judgment("p-0", "p-1", "ba", ba),
            ];
            flagged([2.0, 0.0], [&tokens(0..20), &tokens(50..70)], &met, params)
        };
        assert_eq!(check(-0.1, &params), Some(Reason::Order));
        assert_eq!(check(0.1, &params), None);
        let lax = ContrastParams {
            both_orders: false,
            ..params
        };
        assert_eq!(check(-0.1, &lax), None);
    }

    #[test]
    fn similar() {
        let params = ContrastParams::default();
        // Of 35 shingles each, 30 are common to both: 30 / 40.
        let check = |start| {
            flagged(
                [2.0, 0.0],
                [&tokens(0..39), &tokens(start..start + 39)],
                &[],
                &params,
            )
        };
        assert_eq!(check(5), Some(Reason::Similar));
        assert_eq!(check(10), None);
    }

    #[test]
    fn prefix() {
        let params = ContrastParams::default();
        let check = |shared: u32| {
            let other: Vec<u32> = (0..shared).chain(900..915 - shared).collect();
            flagged([2.0, 0.0], [&tokens(0..15), &other], &[], &params)
        };
        assert_eq!(check(8), Some(Reason::Prefix));
        assert_eq!(check(7), None);
        // A response that is the beginning of the other has nothing of its own.
        let contained = flagged([2.0, 0.0], [&tokens(0..40), &tokens(0..20)], &[], &params);
        assert_eq!(contained, Some(Reason::Prefix));
    }

    #[test]
    fn length() {
        let params = ContrastParams::default();
        let check = |n: u32, params: &ContrastParams| {
            flagged(
                [2.0, 0.0],
                [&tokens(0..10), &tokens(100..100 + n)],
                &[],
                params,
            )
        };
        assert_eq!(check(26, &params), Some(Reason::Length));
        assert_eq!(check(25, &params), None);
        let any = ContrastParams {
            length_ratio: 0.0,
            ..params
        };
        assert_eq!(check(26, &any), None);
    }

    #[test]
    fn the_control_is_not_held_to_scores() {
        let params = ContrastParams {
            strategy: Strategy::Random,
            ..ContrastParams::default()
        };
        let lost = [
            judgment("p-0", "p-1", "ab", -2.0),
            judgment("p-0", "p-1", "ba", -2.0),
        ];
        let apart = [&tokens(0..20)[..], &tokens(50..70)[..]];
        assert_eq!(flagged([0.0, 0.0], apart, &lost, &params), None);
        let alike = [&tokens(0..20)[..], &tokens(0..20)[..]];
        assert_eq!(
            flagged([0.0, 0.0], alike, &lost, &params),
            Some(Reason::Similar)
        );
    }
}
