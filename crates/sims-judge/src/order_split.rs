//! Whether the two halves of the comparisons, one a slot, rank the responses alike.

use std::collections::BTreeMap;

use sims_stats::correlation::spearman;

use crate::reliability::JudgedPair;
use crate::verdict::BothOrders;

/// Returns how well the comparisons that show a response first and those that show it second agree
/// on the order of a prompt's responses: 1 for fully, 0 for not more than chance.
///
/// Each response has two mean log-odds, one a slot; position bias shifts all responses alike and
/// drops out of their rank correlation. The halves share comparisons: what one gives to the first
/// response in one half it takes from the second in the other, so between K responses pure noise
/// correlates by 1 / (K - 1) instead of 0. That is taken off as Cohen's kappa takes off chance; with
/// two responses nothing is left to measure. Equal ranks in all responses leave it undefined.
pub(crate) fn order_split(pairs: &[JudgedPair<'_>], min_coverage: f64) -> Option<f64> {
    #[derive(Default)]
    struct Slots {
        first: f64,
        second: f64,
        met: f64,
    }
    let mut slots: BTreeMap<&str, Slots> = BTreeMap::new();
    for pair in pairs {
        let BothOrders { ab, ba } = pair.orders;
        if !pair.orders.is_valid(min_coverage) {
            continue;
        }
        for (response, shown_first, shown_second) in
            [(pair.a, ab.logit, -ba.logit), (pair.b, ba.logit, -ab.logit)]
        {
            let slots = slots.entry(response).or_default();
            slots.first += shown_first;
            slots.second += shown_second;
            slots.met += 1.0;
        }
    }
    if slots.len() < 3 {
        return None;
    }
    let mean = |sum: fn(&Slots) -> f64| -> Vec<f64> {
        slots.values().map(|slots| sum(slots) / slots.met).collect()
    };
    let correlation = spearman(&mean(|slots| slots.first), &mean(|slots| slots.second)).ok()?;
    let chance = 1.0 / (slots.len() - 1) as f64;
    Some((correlation - chance) / (1.0 - chance))
}

/// Returns the reliability of the mean of two halves that correlate by `r` (Spearman 1910, Brown 1910).
///
/// The formula is meant for positive correlations and falls below -1 for others; those are mirrored.
pub(crate) fn spearman_brown(r: f64) -> f64 {
    let r = r.clamp(-1.0, 1.0);
    2.0 * r / (1.0 + r.abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn correlations_below_zero_stay_above_minus_one() {
        assert_eq!(spearman_brown(0.5), 1.0 / 1.5);
        assert_eq!(spearman_brown(-0.5), -1.0 / 1.5);
        assert_eq!(spearman_brown(-3.0), -1.0);
    }
}
