//! Which prompts are worth all samples: those whose pilot answers the judge could tell apart.
//!
//! A pilot answers every prompt a few times and ranks the answers. A prompt's promise is the margin of its best over
//! its worst answer, in units of what best minus worst of as many answers of pure noise exceeds once in twenty times.
//! The noise of a score is one for the whole pilot, so it drops out of the order.

use sims_artifact::tables::{PromptRow, RankingRow};
use sims_stats::noise_range::noise_range_quantile;
use std::collections::{BTreeMap, BTreeSet};

/// Share of prompts in which best minus worst of pure noise stays below the unit of promise.
const NOISE_CONFIDENCE: f64 = 0.95;

/// Why prompts cannot be prioritised.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PriorityError {
    /// A share that keeps nothing, or more than all.
    #[error("pilot-share is {0}; it must be above 0 and at most 1")]
    Share(f64),
    /// A prompt that the pilot did not answer.
    #[error(
        "prompt {prompt_id} is not in the pilot's ranking; sample the pilot from the same prompts, with the same shard"
    )]
    NotPiloted {
        /// The prompt.
        prompt_id: String,
    },
}

/// Keeps the `share` of the prompts (rounded up) that promise most, in their order; of two equal ones the one with
/// the smaller id.
///
/// # Errors
/// [`PriorityError`].
pub fn prioritised(
    prompts: Vec<PromptRow>,
    pilot: &[RankingRow],
    share: f64,
) -> Result<Vec<PromptRow>, PriorityError> {
    if !(share > 0.0 && share <= 1.0) {
        return Err(PriorityError::Share(share));
    }
    let promises = promises(pilot);
    let mut order: Vec<(f64, &str)> = Vec::with_capacity(prompts.len());
    for prompt in &prompts {
        let promise = promises.get(prompt.prompt_id.as_str());
        let promise = promise.ok_or_else(|| PriorityError::NotPiloted {
            prompt_id: prompt.prompt_id.clone(),
        })?;
        order.push((*promise, &prompt.prompt_id));
    }
    order.sort_by(|left, right| right.0.total_cmp(&left.0).then(left.1.cmp(right.1)));
    order.truncate((share * prompts.len() as f64).ceil() as usize);
    let kept: BTreeSet<String> = order.into_iter().map(|(_, id)| id.to_owned()).collect();
    Ok(prompts
        .into_iter()
        .filter(|prompt| kept.contains(&prompt.prompt_id))
        .collect())
}

/// Returns the promise of every prompt in the pilot; 0 with fewer than two judged answers.
fn promises(pilot: &[RankingRow]) -> BTreeMap<&str, f64> {
    let mut scores: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for row in pilot {
        let of_prompt = scores.entry(&row.prompt_id).or_default();
        if row.comparisons > 0 {
            of_prompt.push(row.score);
        }
    }
    let mut quantiles: BTreeMap<usize, f64> = BTreeMap::new();
    let mut promise = |scores: Vec<f64>| {
        if scores.len() < 2 {
            return 0.0;
        }
        let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let worst = scores.iter().copied().fold(f64::INFINITY, f64::min);
        let quantile = quantiles
            .entry(scores.len())
            .or_insert_with(|| noise_range_quantile(scores.len(), NOISE_CONFIDENCE));
        (best - worst) / *quantile
    };
    scores
        .into_iter()
        .map(|(prompt_id, scores)| (prompt_id, promise(scores)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sims_artifact::tables::Message;

    fn prompts(count: usize) -> Vec<PromptRow> {
        let prompt = |number| PromptRow {
            prompt_id: format!("p{number}"),
            messages: vec![Message::user(format!("question {number}"))],
            split: "train".to_owned(),
            source: "test".to_owned(),
        };
        (0..count).map(prompt).collect()
    }

    fn ranked(prompt: usize, scores: &[f64]) -> Vec<RankingRow> {
        let row = |(rank, &score): (usize, &f64)| RankingRow {
            prompt_id: format!("p{prompt}"),
            response_id: format!("p{prompt}-{rank}"),
            score,
            score_se: None,
            rank: rank as u32 + 1,
            comparisons: 6,
            win_probability: 0.5,
            position_bias: 0.0,
            tie: false,
            noise_sigma: 0.1,
        };
        scores.iter().enumerate().map(row).collect()
    }

    fn kept(pilot: &[Vec<RankingRow>], share: f64) -> Vec<String> {
        let kept = prioritised(prompts(pilot.len()), &pilot.concat(), share).unwrap();
        kept.into_iter().map(|prompt| prompt.prompt_id).collect()
    }

    #[test]
    fn the_widest_margins_are_kept_in_the_order_of_the_table() {
        let pilot = [
            ranked(0, &[0.9, 0.5, 0.4, 0.1]),
            ranked(1, &[0.6, 0.5, 0.5, 0.4]),
            ranked(2, &[0.8, 0.5, 0.4, 0.3]),
            ranked(3, &[0.95, 0.4, 0.3, 0.05]),
            ranked(4, &[0.6, 0.5, 0.5, 0.4]),
        ];
        assert_eq!(kept(&pilot, 0.4), ["p0", "p3"]);
        // Three and a bit are four; the two last are equal.
        assert_eq!(kept(&pilot, 0.7), ["p0", "p1", "p2", "p3"]);
        assert_eq!(kept(&pilot, 1.0).len(), 5);
    }

    #[test]
    fn margins_count_by_what_noise_gives_as_many_answers() {
        // Best minus worst of eight answers of noise is wider than that of two.
        let pilot = [
            ranked(0, &[0.8, 0.3]),
            ranked(1, &[0.85, 0.5, 0.5, 0.5, 0.5, 0.5, 0.4, 0.3]),
        ];
        assert_eq!(kept(&pilot, 0.5), ["p0"]);
    }

    #[test]
    fn unjudged_answers_promise_nothing() {
        let mut unjudged = ranked(0, &[0.9, 0.1]);
        unjudged[1].comparisons = 0;
        assert_eq!(kept(&[unjudged, ranked(1, &[0.51, 0.5])], 0.5), ["p1"]);
    }

    #[test]
    fn bad_shares_and_other_prompts_are_refused() {
        let pilot = ranked(0, &[0.9, 0.1]);
        for share in [0.0, 1.5, f64::NAN] {
            let error = prioritised(prompts(1), &pilot, share).unwrap_err();
            assert!(error.to_string().starts_with("pilot-share is"), "{error}");
        }
        let error = prioritised(prompts(2), &pilot, 0.5).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("prompt p1 is not in the pilot"),
            "{error}"
        );
    }
}
