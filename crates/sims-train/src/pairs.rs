//! Pairs to learn from and pairs held out, split by prompt.

use crate::params::Labels;
use sims_extract::sequence::PlannedPair;
use sims_steering::paired_states::shuffled_labels;
use sims_steering::preference::Preference;
use sims_steering::{FitError, PromptSplit};
use std::collections::BTreeMap;

/// Pairs, split by prompt.
pub struct SplitPairs {
    /// To learn from.
    pub fit: Vec<Preference>,
    /// Held out.
    pub held_out: Vec<Preference>,
    /// By held-out pair: the number of its prompt.
    pub held_out_prompts: Vec<u32>,
    /// Numbers of prompts: to learn from, held out.
    pub prompts: (usize, usize),
}

impl SplitPairs {
    /// Splits the pairs; which prompts are held out depends on their ids and the seed alone.
    ///
    /// Pairs of two identical responses are left out: nothing can prefer one to the other.
    ///
    /// # Errors
    /// [`FitError::TooFewPrompts`].
    pub fn new(
        planned: &[PlannedPair],
        labels: Labels,
        held_out: f64,
        seed: u64,
    ) -> Result<Self, FitError> {
        let planned: Vec<&PlannedPair> =
            planned.iter().filter(|pair| !pair.is_identical()).collect();
        let exchanged = match labels {
            Labels::Ranked => vec![false; planned.len()],
            Labels::Shuffled => {
                let ids = planned.iter().map(|pair| pair.pair_id.as_str());
                shuffled_labels(ids, seed, "labels")
            }
        };
        let mut numbers: BTreeMap<&str, u32> = BTreeMap::new();
        let mut prompt_ids = Vec::new();
        let mut prompts = Vec::with_capacity(planned.len());
        for pair in &planned {
            let number = *numbers.entry(&pair.prompt_id).or_insert_with(|| {
                prompt_ids.push(pair.prompt_id.as_str());
                prompt_ids.len() as u32 - 1
            });
            prompts.push(number);
        }
        let split = PromptSplit::new(&prompt_ids, held_out, seed)?;
        let (fit, held_out) = split.rows(&prompts);
        let preferences = |rows: &[usize]| {
            rows.iter()
                .map(|&row| preference(planned[row], exchanged[row]))
                .collect()
        };
        Ok(Self {
            fit: preferences(&fit),
            held_out: preferences(&held_out),
            held_out_prompts: held_out.iter().map(|&row| prompts[row]).collect(),
            prompts: split.counts(),
        })
    }
}

/// Takes a planned pair's prompt and responses, exchanged for the control.
fn preference(pair: &PlannedPair, exchanged: bool) -> Preference {
    let response = |tokens: &[u32]| tokens[pair.prompt_tokens..].to_vec();
    let mut responses = [
        response(&pair.chosen.tokens),
        response(&pair.rejected.tokens),
    ];
    if exchanged {
        responses.reverse();
    }
    let [chosen, rejected] = responses;
    Preference {
        pair_id: pair.pair_id.clone(),
        prompt: pair.chosen.tokens[..pair.prompt_tokens].to_vec(),
        chosen,
        rejected,
    }
}
