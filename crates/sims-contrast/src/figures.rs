//! Figures of a selection.

use sims_artifact::tables::PairRow;

use crate::DropCounts;

/// Figures of a selection.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Prompts with responses.
    pub prompts: usize,
    /// Pairs of this round that passed every filter.
    pub fresh: usize,
    /// Prompts that one of these pairs comes from.
    pub prompts_with_pair: usize,
    /// How many pairs each filter dropped.
    pub dropped: DropCounts,
    /// Share of responses that say what a better one says.
    pub duplicate_share: f64,
    /// Median margin of this round's pairs; 0 for the control.
    pub median_margin: f64,
    /// Median of margin over noise limit of this round's pairs; `None` without noise.
    pub median_margin_over_noise: Option<f64>,
    /// Mean of log chosen length over rejected length, of the selected pairs.
    pub mean_log_length_ratio: f64,
    /// Share of selected pairs that are of this round.
    pub fresh_share: f64,
    /// Mean age of the selected pairs. Unit: rounds.
    pub mean_age: f64,
    /// Prompts of this round that a pair of an earlier round in the bank has, too.
    pub repeated_prompts: usize,
}

impl Figures {
    /// Fills in what is about the selected pairs (at least one).
    pub(crate) fn describe(&mut self, pairs: &[PairRow], round: u32) {
        let count = pairs.len().max(1) as f64;
        let ages = pairs
            .iter()
            .map(|pair| f64::from(round - pair.origin_round));
        self.mean_age = ages.sum::<f64>() / count;
        let fresh = pairs
            .iter()
            .filter(|pair| pair.origin_round == round)
            .count();
        self.fresh_share = fresh as f64 / count;
        let ratios = pairs
            .iter()
            .map(|pair| log_length_ratio(&pair.chosen_token_ids, &pair.rejected_token_ids));
        self.mean_log_length_ratio = ratios.sum::<f64>() / count;
    }
}

/// Log of one length over the other; an empty response counts as one token.
pub(crate) fn log_length_ratio(chosen: &[u32], rejected: &[u32]) -> f64 {
    (chosen.len().max(1) as f64 / rejected.len().max(1) as f64).ln()
}

/// Median; 0 for nothing.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        n if n % 2 == 1 => values[n / 2],
        n => 0.5 * (values[n / 2 - 1] + values[n / 2]),
    }
}
