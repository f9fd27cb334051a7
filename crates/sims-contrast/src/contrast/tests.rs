//! Whole rounds.

use sims_stats::split::held_out_by_group;

use super::*;
use crate::fixtures::Round;
use crate::{MarginRule, PairPolicy};

fn contrast(tables: &Tables, params: &ContrastParams) -> Result<Contrast, ContrastError> {
    super::contrast(tables, params, &mut |_| ())
}

/// Thresholds that let clean fixtures through.
fn lenient(strategy: Strategy) -> ContrastParams {
    ContrastParams {
        strategy,
        margin: MarginRule::None,
        length_balance: LengthBalance::Off,
        min_pairs: 1,
        ..ContrastParams::default()
    }
}

/// `count` prompts with four responses each; the best is the third, by a margin that grows.
fn prompts(prefix: &str, count: usize) -> Round {
    let names: Vec<String> = (0..count)
        .map(|prompt| format!("{prefix}{prompt:03}"))
        .collect();
    let qualities: Vec<Vec<f64>> = (0..count)
        .map(|prompt| vec![0.1, 0.0, 0.5 + prompt as f64, 0.2])
        .collect();
    let all: Vec<(&str, &[f64])> = names
        .iter()
        .map(String::as_str)
        .zip(qualities.iter().map(Vec::as_slice))
        .collect();
    Round::new(&all)
}

fn reasons(contrast: &Contrast) -> Vec<&str> {
    contrast
        .dropped
        .iter()
        .map(|row| row.reason.as_str())
        .collect()
}

#[test]
fn prompt_ranking_takes_best_against_worst_of_every_prompt() {
    let round = prompts("p", 3);
    let got = contrast(&round.tables(&[]), &lenient(Strategy::PromptRanking)).expect("pairs");
    let sides: Vec<_> = got
        .pairs
        .iter()
        .map(|pair| (pair.chosen_id.as_str(), pair.rejected_id.as_str()))
        .collect();
    assert_eq!(
        sides,
        [
            ("p000-2", "p000-1"),
            ("p001-2", "p001-1"),
            ("p002-2", "p002-1")
        ]
    );
    assert!(got.dropped.is_empty() && got.bank.is_empty());
    assert_eq!(got.pairs[1].margin, 1.5);
    assert_eq!(got.pairs[0].judge, "stub");
    let z: f64 = got.pairs.iter().map(|pair| pair.z).sum();
    assert!(z.abs() < 1e-9);
    assert_eq!(got.figures.fresh_share, 1.0);
}

#[test]
fn several_pairs_of_a_prompt_count_once_in_the_yield() {
    let round = prompts("p", 4);
    let params = ContrastParams {
        pairs: PairPolicy::Top2,
        min_yield: 1.0,
        ..lenient(Strategy::PromptRanking)
    };
    let got = contrast(&round.tables(&[]), &params).expect("pairs");
    assert_eq!((got.figures.fresh, got.figures.prompts_with_pair), (16, 4));
    let weight: f64 = got.pairs.iter().map(|pair| pair.weight).sum();
    assert!((weight - 4.0).abs() < 1e-12);
    assert_eq!(got.pairs[1].chosen_id, "p000-2");
}

#[test]
fn widest_goes_on_where_best_and_worst_do_not_fit() {
    let mut round = prompts("p", 2);
    // The best of the first prompt is three times as long as all others.
    round.set_tokens(2, &(50_000..50_060).collect::<Vec<u32>>());
    let params = lenient(Strategy::PromptRanking);
    let extreme = contrast(&round.tables(&[]), &params).expect("one pair");
    assert_eq!(
        (extreme.pairs.len(), reasons(&extreme)),
        (1, vec!["length"])
    );
    let widest = ContrastParams {
        pairs: PairPolicy::Widest,
        ..params
    };
    let got = contrast(&round.tables(&[]), &widest).expect("two pairs");
    let sides: Vec<_> = got
        .pairs
        .iter()
        .map(|pair| (pair.chosen_id.as_str(), pair.rejected_id.as_str()))
        .collect();
    assert_eq!(sides, [("p000-3", "p000-1"), ("p001-2", "p001-1")]);
    assert_eq!(reasons(&got), ["length"; 3]);
}

#[test]
fn every_dropped_pair_has_its_reason() {
    let mut round = prompts("p", 4);
    // Best of prompt 0 is broken; worst of prompt 1 was cut off, best of prompt 2 was cut off.
    round.set_text(2, "broken \u{FFFD} answer");
    round.responses[4 + 1].finish_reason = "length".into();
    round.responses[8 + 2].finish_reason = "length".into();
    let got = contrast(&round.tables(&[]), &lenient(Strategy::PromptRanking)).expect("pairs");
    assert_eq!(reasons(&got), ["markup", "truncated"]);
    let chosen: Vec<_> = got
        .pairs
        .iter()
        .map(|pair| pair.chosen_id.as_str())
        .collect();
    assert_eq!(chosen, ["p000-3", "p001-2", "p002-3", "p003-2"]);
    assert_eq!(got.figures.dropped.to_string(), "1 markup, 1 truncated");
    assert_eq!(got.dropped[0].chosen_id, "p000-2");
}

#[test]
fn identical_responses_are_duplicates_and_then_nothing_is_left() {
    let mut round = prompts("p", 2);
    (0..8).for_each(|response| round.set_text(response, "the very same answer"));
    let error = contrast(&round.tables(&[]), &lenient(Strategy::PromptRanking));
    let message = error.expect_err("nothing is left").to_string();
    assert_eq!(
        message,
        "contrast failure: no contrast pair is left of 2 prompts. Dropped: 6 duplicate. Most went \
         as `duplicate`: sample at a higher temperature, or raise `max-jaccard`"
    );
}

#[test]
fn a_judge_without_preference_leaves_nothing() {
    let round = Round::new(&[("p", &[0.5; 4]), ("q", &[0.5; 4])]);
    let error = contrast(&round.tables(&[]), &lenient(Strategy::PromptRanking));
    assert!(error.expect_err("ties").to_string().contains("2 tie"));
    // The control does not care.
    let control = contrast(&round.tables(&[]), &lenient(Strategy::Random)).expect("pairs");
    assert_eq!(control.pairs.len(), 2);
}

#[test]
fn single_responses_give_a_message() {
    let round = Round::new(&[("p", &[0.5]), ("q", &[0.5])]);
    for strategy in [
        Strategy::PromptRanking,
        Strategy::ContrastSampling,
        Strategy::Random,
    ] {
        let error = contrast(&round.tables(&[]), &lenient(strategy)).expect_err("no pairs");
        let message = error.to_string();
        assert!(message.contains("2 single-response") && message.contains("at least two"));
    }
    assert_eq!(
        contrast(&Round::new(&[]).tables(&[]), &ContrastParams::default()),
        Err(ContrastError::NoResponses)
    );
}

#[test]
fn low_yield_is_a_failure() {
    let mut round = prompts("p", 10);
    (4..40).for_each(|response| round.set_text(response, "the very same answer"));
    let params = lenient(Strategy::PromptRanking);
    let message = contrast(&round.tables(&[]), &params)
        .expect_err("one of ten")
        .to_string();
    assert!(
        message.contains("1 of 10 prompts gave a pair (10.0 %)"),
        "{message}"
    );
    let content = ContrastParams {
        min_yield: 0.1,
        ..params
    };
    assert_eq!(
        contrast(&round.tables(&[]), &content)
            .expect("enough")
            .pairs
            .len(),
        1
    );
}

#[test]
fn the_noise_floor_is_the_default() {
    let mut round = prompts("p", 10);
    let sigma = 1.0;
    round
        .ranking
        .iter_mut()
        .for_each(|row| row.noise_sigma = sigma);
    let params = ContrastParams {
        margin: MarginRule::NoiseFloor,
        ..lenient(Strategy::PromptRanking)
    };
    let got = contrast(&round.tables(&[]), &params).expect("pairs");
    // Margins are 0.5 + prompt; the limit for four responses is 3.63.
    assert_eq!(got.pairs.len(), 6);
    assert_eq!(got.figures.dropped.of(Reason::Margin), 4);
    assert!(
        got.figures
            .median_margin_over_noise
            .expect("there is noise")
            > 1.0
    );
}

#[test]
fn length_balance_ends_balanced_or_fails() {
    let mut round = prompts("p", 12);
    for prompt in 0..12 {
        // Chosen twice as long in eight prompts, half as long in four.
        let (longer, shorter) = if prompt < 8 { (2, 1) } else { (1, 2) };
        let base = 1000 * prompt as u32;
        round.set_tokens(4 * prompt + longer, &(base..base + 40).collect::<Vec<_>>());
        round.set_tokens(
            4 * prompt + shorter,
            &(base + 500..base + 520).collect::<Vec<_>>(),
        );
    }
    let params = ContrastParams {
        length_balance: LengthBalance::Drop,
        ..lenient(Strategy::PromptRanking)
    };
    let got = contrast(&round.tables(&[]), &params).expect("pairs");
    assert_eq!(got.figures.dropped.of(Reason::LengthBalance), 4);
    assert!(got.figures.mean_log_length_ratio.abs() <= 0.05);
    // Margins grow with the prompt, so the first of the long ones went.
    assert_eq!(got.pairs[0].prompt_id, "p004");
    let z: f64 = got.pairs.iter().map(|pair| pair.z).sum();
    assert!(z.abs() < 1e-9);

    assert!(got.pairs.iter().all(|pair| pair.weight == 1.0));

    // Only the long ones: nothing can balance them.
    round.responses.truncate(32);
    let error = contrast(&round.tables(&[]), &params).expect_err("one-sided");
    assert!(error.to_string().contains("8 length-balance"), "{error}");
}

#[test]
fn contrast_sampling_keeps_a_bank_over_rounds() {
    let params = |round| ContrastParams {
        round,
        ..lenient(Strategy::ContrastSampling)
    };
    let mut bank = Vec::new();
    for round in 1..=5 {
        let tables = prompts(&format!("r{round}-"), 20);
        let got = contrast(&tables.tables(&bank), &params(round)).expect("pairs");
        let fresh = got
            .pairs
            .iter()
            .filter(|pair| pair.origin_round == round)
            .count();
        assert!(2 * fresh >= got.pairs.len());
        assert!(got.pairs.iter().all(|pair| got.bank.contains(pair)));
        assert!(got.bank.iter().all(|pair| round - pair.origin_round <= 3));
        let expected = if round == 5 {
            vec!["bank-age"; 20]
        } else {
            vec![]
        };
        assert_eq!(reasons(&got), expected);
        if round == 1 {
            // The half with the larger margins, clearest first.
            assert_eq!(got.pairs.len(), 10);
            assert_eq!(got.pairs[0].prompt_id, "r1-019");
            assert_eq!(got.figures.mean_age, 0.0);
        } else {
            assert!(got.figures.mean_age > 0.0);
        }
        bank = got.bank;
    }
    assert_eq!(bank.len(), 80);
}

#[test]
fn contrast_sampling_needs_enough_pairs() {
    let round = prompts("p", 20);
    let params = ContrastParams {
        min_pairs: 32,
        ..lenient(Strategy::ContrastSampling)
    };
    let message = contrast(&round.tables(&[]), &params)
        .expect_err("ten pairs")
        .to_string();
    assert!(
        message.contains("selected 10 pairs (20 of this round"),
        "{message}"
    );
}

#[test]
fn a_bank_from_the_future_is_refused() {
    let round = prompts("p", 3);
    let later = ContrastParams {
        round: 4,
        ..lenient(Strategy::ContrastSampling)
    };
    let bank = contrast(&round.tables(&[]), &later).expect("pairs").bank;
    let earlier = ContrastParams { round: 2, ..later };
    let error = contrast(&round.tables(&bank), &earlier).expect_err("the bank is ahead");
    assert!(matches!(
        error,
        ContrastError::BankAhead {
            origin_round: 4,
            round: 2,
            ..
        }
    ));
}

#[test]
fn shards_that_share_a_prompt_are_noticed() {
    let params = |round| ContrastParams {
        round,
        ..lenient(Strategy::ContrastSampling)
    };
    let first = contrast(&prompts("p", 6).tables(&[]), &params(1)).expect("pairs");
    assert_eq!(first.figures.repeated_prompts, 0);
    let disjoint = contrast(&prompts("q", 6).tables(&first.bank), &params(2)).expect("pairs");
    assert_eq!(disjoint.figures.repeated_prompts, 0);
    let again = contrast(&prompts("p", 6).tables(&first.bank), &params(2)).expect("pairs");
    assert_eq!(again.figures.repeated_prompts, 6);
}

#[test]
fn no_prompt_is_in_both_halves_of_a_fit() {
    // T42, with several pairs of a prompt in the bank's selection.
    let params = |round| ContrastParams {
        round,
        ..lenient(Strategy::ContrastSampling)
    };
    let first = contrast(&prompts("p", 30).tables(&[]), &params(1)).expect("pairs");
    let mut better = prompts("p", 30);
    better
        .ranking
        .iter_mut()
        .for_each(|row| row.response_id.push('x'));
    better
        .responses
        .iter_mut()
        .for_each(|row| row.response_id.push('x'));
    let second = contrast(&better.tables(&first.bank), &params(2)).expect("pairs");
    let ids: Vec<&str> = second
        .pairs
        .iter()
        .map(|pair| pair.prompt_id.as_str())
        .collect();
    let held_out = held_out_by_group(&ids, 0.2, 1);
    let side = |held: bool| -> HashSet<&str> {
        ids.iter()
            .zip(&held_out)
            .filter(|(_, h)| **h == held)
            .map(|(id, _)| *id)
            .collect()
    };
    assert!(
        ids.len() > side(true).len() + side(false).len(),
        "no prompt has two pairs"
    );
    assert!(side(true).is_disjoint(&side(false)));
}

#[test]
fn the_control_gives_the_same_pairs_whatever_the_ranking() {
    let round = prompts("p", 50);
    let params = lenient(Strategy::Random);
    let with = contrast(&round.tables(&[]), &params).expect("pairs");
    let mut blind = round.tables(&[]);
    (blind.ranking, blind.judgments) = (&[], &[]);
    assert_eq!(contrast(&blind, &params).expect("pairs"), with);
    assert!(
        with.pairs
            .iter()
            .all(|pair| pair.margin == 0.0 && pair.z == 0.0)
    );
    assert!(
        with.pairs
            .iter()
            .all(|pair| pair.chosen_id != pair.rejected_id)
    );
    let best = with
        .pairs
        .iter()
        .filter(|pair| pair.chosen_id.ends_with("-2"))
        .count();
    assert!(
        (3..25).contains(&best),
        "{best} of 50 chose the best of four"
    );
}

#[test]
fn order_of_the_judgments_and_of_a_prompts_responses_does_not_matter() {
    let round = prompts("p", 20);
    for strategy in [
        Strategy::PromptRanking,
        Strategy::ContrastSampling,
        Strategy::Random,
    ] {
        let params = lenient(strategy);
        let expected = contrast(&round.tables(&[]), &params).expect("pairs");
        let mut other = round.clone();
        other.responses.chunks_mut(4).for_each(<[_]>::reverse);
        other.ranking.reverse();
        other.judgments.reverse();
        assert_eq!(
            contrast(&other.tables(&[]), &params).expect("pairs"),
            expected
        );
    }
}

#[test]
fn the_median_can_be_the_reference() {
    let round = Round::new(&[("p", &[1.0, 0.9, 0.0]), ("q", &[1.0, 0.1, 0.0])]);
    let params = ContrastParams {
        reference: MarginReference::Median,
        ..lenient(Strategy::PromptRanking)
    };
    let got = contrast(&round.tables(&[]), &params).expect("pairs");
    assert_eq!((got.pairs[0].margin, got.pairs[1].margin), (1.0, 1.0));
    assert!((got.pairs[0].z + 1.0).abs() < 1e-9 && (got.pairs[1].z - 1.0).abs() < 1e-9);
}

#[test]
fn short_answers_of_a_small_world_pass_with_its_thresholds() {
    // Twelve-token answers that share their beginning: the defaults drop all of them.
    let mut round = prompts("p", 20);
    for prompt in 0..20 {
        for (index, end) in [3, 4, 5, 6].into_iter().enumerate() {
            let base = 100 * prompt as u32;
            let mut tokens: Vec<u32> = (base..base + 6).collect();
            tokens.extend((0..end).map(|token| base + 50 + 8 * index as u32 + token));
            round.set_tokens(4 * prompt + index, &tokens);
        }
    }
    let defaults = ContrastParams {
        margin: MarginRule::None,
        ..ContrastParams::default()
    };
    let error = contrast(&round.tables(&[]), &defaults).expect_err("too short");
    assert!(error.to_string().contains("20 prefix"), "{error}");
    let small = ContrastParams {
        min_content_tokens: 1,
        min_visible_characters: 1,
        min_unshared: 0,
        length_ratio: 0.0,
        both_orders: false,
        truncated: crate::TruncatedRule::Drop,
        ..lenient(Strategy::PromptRanking)
    };
    assert_eq!(
        contrast(&round.tables(&[]), &small)
            .expect("pairs")
            .pairs
            .len(),
        20
    );
}
