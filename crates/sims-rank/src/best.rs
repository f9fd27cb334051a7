//! The best response to each prompt, as a policy of its own: best-of-K sampling.

use std::collections::HashMap;

use sims_artifact::tables::{RankingRow, ResponseRow, response_id};

/// Returns the response of rank 1 to every prompt, in the order of `ranking`.
///
/// The policy is named `best-of-K` after the largest number of responses to one prompt; a response
/// gets the id that it has under that policy, as its only sample.
pub fn best_responses(responses: &[ResponseRow], ranking: &[RankingRow]) -> Vec<ResponseRow> {
    let mut per_prompt: HashMap<&str, usize> = HashMap::new();
    for row in responses {
        *per_prompt.entry(&row.prompt_id).or_default() += 1;
    }
    let policy = format!(
        "best-of-{}",
        per_prompt.values().max().copied().unwrap_or(0)
    );
    let by_id: HashMap<&str, &ResponseRow> = responses
        .iter()
        .map(|row| (row.response_id.as_str(), row))
        .collect();
    ranking
        .iter()
        .filter(|row| row.rank == 1)
        .filter_map(|row| by_id.get(row.response_id.as_str()))
        .map(|best| ResponseRow {
            response_id: response_id(&best.prompt_id, &policy, 0, &best.token_ids),
            policy: policy.clone(),
            sample_index: 0,
            ..(*best).clone()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(prompt: &str, index: u32) -> ResponseRow {
        ResponseRow {
            prompt_id: prompt.to_owned(),
            response_id: format!("{prompt}-{index}"),
            round: 1,
            sample_index: index,
            policy: "base".to_owned(),
            text: format!("answer {index}"),
            token_ids: vec![index],
            prompt_tokens: 3,
            finish_reason: "stop".to_owned(),
            logprob_sum: -1.0,
            seed: 0,
        }
    }

    fn ranked(prompt: &str, index: u32, rank: u32) -> RankingRow {
        RankingRow {
            prompt_id: prompt.to_owned(),
            response_id: format!("{prompt}-{index}"),
            score: 0.0,
            score_se: None,
            rank,
            comparisons: 2,
            win_probability: 0.5,
            position_bias: 0.0,
            tie: false,
            noise_sigma: 0.0,
        }
    }

    #[test]
    fn each_prompt_keeps_its_first_rank() {
        let responses = [response("p", 0), response("p", 1), response("q", 0)];
        let ranking = [ranked("p", 1, 1), ranked("p", 0, 2), ranked("q", 0, 1)];
        let best = best_responses(&responses, &ranking);
        let texts: Vec<&str> = best.iter().map(|row| row.text.as_str()).collect();
        assert_eq!(texts, ["answer 1", "answer 0"]);
        assert!(
            best.iter()
                .all(|row| row.policy == "best-of-2" && row.sample_index == 0)
        );
        assert_ne!(best[0].response_id, responses[1].response_id);
    }
}
