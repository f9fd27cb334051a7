//! What is wrong with a single response.

use sims_stats::diversity::repetition;
use sims_stats::shingles::jaccard;

use crate::candidate::{Candidate, PromptCandidates};
use crate::text_quality::{
    compression, control_share, dominant_script, has_markup, names_a_language, normalised,
    visible_characters,
};
use crate::{ContrastParams, Reason, TruncatedRule};

/// Returns for each candidate the first filter that it fails, if any.
#[must_use]
pub fn flags(group: &PromptCandidates, params: &ContrastParams) -> Vec<Option<Reason>> {
    let request = group.request();
    let mut flags: Vec<Option<Reason>> = group
        .candidates
        .iter()
        .map(|candidate| alone(candidate, &request, params))
        .collect();
    flag_duplicates(&group.candidates, &mut flags, params);
    if params.truncated == TruncatedRule::Drop {
        for (flag, candidate) in flags.iter_mut().zip(&group.candidates) {
            if flag.is_none() && candidate.is_truncated() {
                *flag = Some(Reason::Truncated);
            }
        }
    }
    flags
}

/// The filters that need no other response.
fn alone(candidate: &Candidate, request: &str, params: &ContrastParams) -> Option<Reason> {
    let content = candidate.content();
    let text = candidate.response.text.as_str();
    let is_empty = content.len() < params.min_content_tokens as usize
        || visible_characters(text) < params.min_visible_characters as usize;
    let is_marked =
        has_markup(text, &params.markers.0) || control_share(text) > params.max_control_share;
    let repeats = (content.len() >= params.rep4_min_tokens as usize
        && repetition(content, 4) > params.max_rep4)
        || (text.len() >= params.compression_min_bytes as usize
            && compression(text) < params.min_compression);
    if !candidate.judged {
        Some(Reason::Unjudged)
    } else if is_empty {
        Some(Reason::Empty)
    } else if is_marked {
        Some(Reason::Markup)
    } else if params.loop_rule().find(content).is_some() {
        Some(Reason::Loop)
    } else if repeats {
        Some(Reason::Repeat)
    } else if params.same_script && is_in_another_script(text, request) {
        Some(Reason::Script)
    } else {
        None
    }
}

fn is_in_another_script(text: &str, request: &str) -> bool {
    match (dominant_script(text), dominant_script(request)) {
        (Some(ours), Some(theirs)) => ours != theirs && !names_a_language(request),
        _ => false,
    }
}

/// Flags responses that say what a better, unflagged one says.
fn flag_duplicates(
    candidates: &[Candidate],
    flags: &mut [Option<Reason>],
    params: &ContrastParams,
) {
    let texts: Vec<String> = candidates
        .iter()
        .map(|candidate| normalised(&candidate.response.text))
        .collect();
    for later in 1..candidates.len() {
        if flags[later].is_some() {
            continue;
        }
        let is_duplicate = (0..later)
            .filter(|&earlier| flags[earlier].is_none())
            .any(|earlier| {
                let (left, right) = (candidates[earlier].content(), candidates[later].content());
                texts[earlier] == texts[later]
                    || jaccard(left, right, params.shingle as usize) > params.max_jaccard
            });
        if is_duplicate {
            flags[later] = Some(Reason::Duplicate);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::candidate::gather;
    use crate::fixtures::{Round, numbered, words};

    /// Flags of one prompt's responses, best first, after `change`.
    fn flagged(change: impl FnOnce(&mut Round), params: &ContrastParams) -> Vec<Option<Reason>> {
        let mut round = Round::new(&[("p", &[3.0, 2.0, 1.0])]);
        change(&mut round);
        let groups = gather(&round.prompts, &round.responses, &round.ranking, params);
        flags(&groups.expect("consistent")[0], params)
    }

    /// The flag of the middle response after `change`.
    fn flag(change: impl FnOnce(&mut Round)) -> Option<Reason> {
        flagged(change, &ContrastParams::default())[1]
    }

    #[test]
    fn ordinary_responses_pass() {
        assert_eq!(flagged(|_| {}, &ContrastParams::default()), [None; 3]);
    }

    #[test]
    fn empty() {
        // Three content tokens and an end token; then four.
        assert_eq!(flag(|r| r.set_tokens(1, &[1, 2, 3])), Some(Reason::Empty));
        assert_eq!(flag(|r| r.set_tokens(1, &[1, 2, 3, 4])), None);
        assert_eq!(
            flag(|r| r.set_text(1, "a b c d e f g h i")),
            Some(Reason::Empty)
        );
        assert_eq!(flag(|r| r.set_text(1, "a b c d e f g h i j")), None);
    }

    #[test]
    fn markup() {
        assert_eq!(
            flag(|r| r.set_text(1, "an ordinary answer <|im_end|>")),
            Some(Reason::Markup)
        );
        assert_eq!(
            flag(|r| r.set_text(1, "an ordinary answer \u{1}\u{1}")),
            Some(Reason::Markup)
        );
        assert_eq!(flag(|r| r.set_text(1, "an answer <b>!</b>")), None);
    }

    #[test]
    fn loops() {
        let cycle = |period: u32, length: usize| (100..100 + period).cycle().take(length);
        for (period, length) in [(2, 40), (64, 300)] {
            let tokens: Vec<u32> = cycle(period, length).collect();
            assert_eq!(
                flag(|r| r.set_tokens(1, &tokens)),
                Some(Reason::Loop),
                "{period}"
            );
        }
        assert_eq!(flag(|r| r.set_tokens(1, &[7; 12])), Some(Reason::Loop));
        assert_eq!(flag(|r| r.set_tokens(1, &numbered(12))), None);
    }

    #[test]
    fn repetition_of_phrases() {
        // Ten four-token phrases, shuffled, five times: no loop, but few distinct 4-grams inside.
        let phrase = |start: u32| [start, start + 1, start + 2, start + 3, start + 4, start + 5];
        let starts = [10, 30, 20, 30, 10, 20, 20, 10, 30, 10, 30, 20, 30, 20, 10];
        let tokens: Vec<u32> = starts.iter().flat_map(|&start| phrase(start)).collect();
        assert_eq!(flag(|r| r.set_tokens(1, &tokens)), Some(Reason::Repeat));
        let plain: Vec<u32> = (0..90).collect();
        assert_eq!(flag(|r| r.set_tokens(1, &plain)), None);
        let dull = "all work and no play ".repeat(30);
        assert_eq!(flag(|r| r.set_text(1, &dull)), Some(Reason::Repeat));
        assert_eq!(flag(|r| r.set_text(1, &words(80))), None);
    }

    #[test]
    fn script() {
        let russian = "это ответ на другом языке";
        assert_eq!(flag(|r| r.set_text(1, russian)), Some(Reason::Script));
        assert_eq!(flag(|r| r.set_text(1, "1234567890 + 12")), None);
        let asked = |r: &mut Round| {
            r.prompts[0].messages[0].content = "say it in Russian".into();
            r.set_text(1, russian);
        };
        assert_eq!(flag(asked), None);
        let lax = ContrastParams {
            same_script: false,
            ..ContrastParams::default()
        };
        assert_eq!(flagged(|r| r.set_text(1, russian), &lax)[1], None);
    }

    #[test]
    fn duplicates_keep_the_better_one() {
        let same = |r: &mut Round| {
            r.set_text(1, "The same answer");
            r.set_text(2, "the same  answer");
        };
        let params = ContrastParams::default();
        assert_eq!(
            flagged(same, &params),
            [None, None, Some(Reason::Duplicate)]
        );
        // 25 of 27 shingles common; then 8 of 44.
        let near: Vec<u32> = (0..30).collect();
        let overlap = |last: std::ops::Range<u32>| {
            let near = near.clone();
            move |r: &mut Round| {
                r.set_tokens(0, &near);
                r.set_tokens(1, &last.collect::<Vec<_>>());
            }
        };
        assert_eq!(flagged(overlap(1..31), &params)[1], Some(Reason::Duplicate));
        assert_eq!(flagged(overlap(18..48), &params)[1], None);
    }

    #[test]
    fn a_flagged_response_makes_no_duplicates() {
        let both_broken = |r: &mut Round| {
            r.set_text(0, "broken \u{FFFD} text");
            r.set_text(1, "broken \u{FFFD} text");
        };
        let params = ContrastParams::default();
        let expected = [Some(Reason::Markup), Some(Reason::Markup), None];
        assert_eq!(flagged(both_broken, &params), expected);
    }

    #[test]
    fn all_identical_leaves_one() {
        let same = |r: &mut Round| (0..3).for_each(|i| r.set_text(i, "the very same answer"));
        let flags = flagged(same, &ContrastParams::default());
        assert_eq!(
            flags,
            [None, Some(Reason::Duplicate), Some(Reason::Duplicate)]
        );
    }

    #[test]
    fn truncated_ones_are_flagged_only_when_all_of_them_go() {
        let cut = |r: &mut Round| r.responses[1].finish_reason = "length".into();
        assert_eq!(flag(cut), None);
        let strict = ContrastParams {
            truncated: TruncatedRule::Drop,
            ..ContrastParams::default()
        };
        assert_eq!(flagged(cut, &strict)[1], Some(Reason::Truncated));
    }

    #[test]
    fn unjudged() {
        let mute = |r: &mut Round| r.ranking[1].comparisons = 0;
        assert_eq!(flag(mute), Some(Reason::Unjudged));
    }
}
