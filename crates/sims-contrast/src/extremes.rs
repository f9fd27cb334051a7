//! The best and the worst response that may form a pair.

use crate::candidate::Candidate;
use crate::{ContrastParams, Reason, Strategy, TruncatedRule};

/// Two candidates by their place, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pick {
    /// Place of the chosen response.
    pub chosen: usize,
    /// Place of the rejected response.
    pub rejected: usize,
}

/// A search for the outermost pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Search {
    /// The pair, if two usable responses are left.
    pub found: Option<Pick>,
    /// The pairs that would have come first, each with what is wrong with one of its sides.
    pub dropped: Vec<(Pick, Reason)>,
}

/// Finds the outermost pair of usable candidates (given best first).
///
/// Starts with best and worst. As long as one side is flagged, the pair is dropped with that flag
/// and the side replaced by its neighbour; where both are, the earlier filter decides.
#[must_use]
pub fn search(
    candidates: &[Candidate],
    flags: &[Option<Reason>],
    params: &ContrastParams,
) -> Search {
    let mut dropped = Vec::new();
    let mut left: Vec<usize> = (0..candidates.len()).collect();
    while let [chosen, .., rejected] = left[..] {
        let pick = Pick { chosen, rejected };
        let Some((side, reason)) = problem(pick, candidates, flags, params) else {
            return Search {
                found: Some(pick),
                dropped,
            };
        };
        dropped.push((pick, reason));
        left.retain(|&place| place != side);
    }
    Search {
        found: None,
        dropped,
    }
}

/// Returns the side that cannot stay and why.
///
/// The control holds both sides to one rule: a side that alone may loop or be cut off would tell
/// the fit which one is worse, and random pairs would steer away from loops.
pub(crate) fn problem(
    pick: Pick,
    candidates: &[Candidate],
    flags: &[Option<Reason>],
    params: &ContrastParams,
) -> Option<(usize, Reason)> {
    let control = params.strategy == Strategy::Random;
    let degenerate_negatives = params.degenerate_negatives && !control;
    let chosen = flags[pick.chosen].map(|reason| (pick.chosen, reason));
    let rejected = flags[pick.rejected]
        .filter(|reason| !(degenerate_negatives && reason.is_degenerate()))
        .map(|reason| (pick.rejected, reason));
    let flagged = [chosen, rejected]
        .into_iter()
        .flatten()
        .min_by_key(|&(_, reason)| reason);
    if flagged.is_some() {
        return flagged;
    }
    if params.truncated != TruncatedRule::NeverChosen {
        return None;
    }
    let cut = |place: usize| candidates[place].is_truncated();
    match (cut(pick.chosen), cut(pick.rejected)) {
        (true, false) => Some((pick.chosen, Reason::Truncated)),
        (false, true) if control => Some((pick.rejected, Reason::Truncated)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::candidate::gather;
    use crate::fixtures::Round;

    fn searched(flags: &[Option<Reason>], cut: &[usize], params: &ContrastParams) -> Search {
        let qualities: Vec<f64> = (0..flags.len()).map(|place| -(place as f64)).collect();
        let mut round = Round::new(&[("p", &qualities)]);
        for &place in cut {
            round.responses[place].finish_reason = "length".into();
        }
        let params_for_gather = ContrastParams::default();
        let groups = gather(
            &round.prompts,
            &round.responses,
            &round.ranking,
            &params_for_gather,
        );
        search(&groups.expect("consistent")[0].candidates, flags, params)
    }

    fn pick(chosen: usize, rejected: usize) -> Pick {
        Pick { chosen, rejected }
    }

    #[test]
    fn best_and_worst_when_nothing_is_wrong() {
        let search = searched(&[None; 4], &[], &ContrastParams::default());
        assert_eq!(search.found, Some(pick(0, 3)));
        assert!(search.dropped.is_empty());
    }

    #[test]
    fn flagged_sides_make_room_for_their_neighbours() {
        let flags = [
            Some(Reason::Loop),
            None,
            Some(Reason::Markup),
            None,
            Some(Reason::Empty),
        ];
        let search = searched(&flags, &[], &ContrastParams::default());
        assert_eq!(search.found, Some(pick(1, 3)));
        // The earlier filter first; the flagged one in the middle never mattered.
        let expected = [(pick(0, 4), Reason::Empty), (pick(0, 3), Reason::Loop)];
        assert_eq!(search.dropped, expected);
    }

    #[test]
    fn nothing_is_found_when_one_is_left() {
        let flags = [None, Some(Reason::Duplicate), Some(Reason::Duplicate)];
        let search = searched(&flags, &[], &ContrastParams::default());
        assert_eq!(search.found, None);
        assert_eq!(search.dropped.len(), 2);
        assert_eq!(
            searched(&[None], &[], &ContrastParams::default()).found,
            None
        );
        assert_eq!(
            super::search(&[], &[], &ContrastParams::default()).found,
            None
        );
    }

    #[test]
    fn truncated_is_never_chosen_against_finished() {
        let params = ContrastParams::default();
        let search = searched(&[None; 3], &[0], &params);
        assert_eq!(search.found, Some(pick(1, 2)));
        assert_eq!(search.dropped, [(pick(0, 2), Reason::Truncated)]);
        assert_eq!(searched(&[None; 3], &[2], &params).found, Some(pick(0, 2)));
        assert_eq!(
            searched(&[None; 3], &[0, 2], &params).found,
            Some(pick(0, 2))
        );
        let keep = ContrastParams {
            truncated: TruncatedRule::Keep,
            ..params
        };
        assert_eq!(searched(&[None; 3], &[0], &keep).found, Some(pick(0, 2)));
    }

    #[test]
    fn degenerate_responses_may_be_rejected_when_asked() {
        let flags = [Some(Reason::Repeat), None, Some(Reason::Loop)];
        let params = ContrastParams {
            degenerate_negatives: true,
            ..ContrastParams::default()
        };
        let search = searched(&flags, &[], &params);
        assert_eq!(search.found, Some(pick(1, 2)));
        assert_eq!(search.dropped, [(pick(0, 2), Reason::Repeat)]);
        assert_eq!(
            searched(&flags, &[], &ContrastParams::default()).found,
            None
        );
    }

    #[test]
    fn the_control_holds_both_sides_to_one_rule() {
        let params = ContrastParams {
            strategy: Strategy::Random,
            degenerate_negatives: true,
            ..ContrastParams::default()
        };
        for place in [0, 2] {
            let mut flags = [None; 3];
            flags[place] = Some(Reason::Loop);
            let Pick { chosen, rejected } = searched(&flags, &[], &params).found.expect("two left");
            assert!(chosen != place && rejected != place);
            let cut = searched(&[None; 3], &[place], &params)
                .found
                .expect("two left");
            assert!(cut.chosen != place && cut.rejected != place);
        }
    }
}
