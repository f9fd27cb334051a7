//! The control of the ranking: a coin in the place of the judge.

use sims_stats::random::{Stream, key_of};

use crate::Score;
use crate::matrix::PromptComparisons;

/// Returns a score for each response, uniform within 0 to 1 and a function of the seed and the
/// response's id alone.
pub(crate) fn scores(prompt: &PromptComparisons<'_>, seed: u64) -> Vec<Option<Score>> {
    let toss = |response_id: &str| {
        let mut stream = Stream::new(seed, key_of(&format!("coin|{response_id}")));
        stream.next_f64()
    };
    prompt
        .responses
        .iter()
        .map(|response| {
            Some(Score {
                value: toss(&response.response_id),
                standard_error: None,
            })
        })
        .collect()
}
