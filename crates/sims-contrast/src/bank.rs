//! The memory bank of contrast sampling.
//!
//! Pairs of all rounds compete by a key: their margin, standardised within their round (margins of
//! different rounds are not comparable), less a discount for age. Entries of another judge or too
//! old leave. At least half of what is selected is of this round.

use std::collections::HashMap;

use sims_artifact::tables::PairRow;

use crate::diversity::{PromptVector, k_centre};
use crate::{ContrastParams, Reason};

/// The bank holds this many times `n-fit` pairs.
const CAPACITY_FACTOR: usize = 4;
/// When the bank overflows, prompts with more entries than this give first.
const ENTRIES_A_PROMPT: usize = 2;

/// The bank after a round.
#[derive(Debug, Clone, PartialEq)]
pub struct Updated {
    /// What it holds: older pairs first, then this round's, each in their old order.
    pub bank: Vec<PairRow>,
    /// What left it, and why.
    pub dropped: Vec<(PairRow, Reason)>,
}

/// Returns an entry's key in round `round`: large for a clear and recent pair.
#[must_use]
pub fn key(entry: &PairRow, round: u32, decay: f64) -> f64 {
    let discount = decay.powi(round.saturating_sub(entry.origin_round) as i32);
    if entry.z >= 0.0 {
        entry.z * discount
    } else {
        entry.z / discount
    }
}

/// Adds this round's pairs and removes what is too old, of another judge, or too unclear to fit.
///
/// A pair that is already there keeps the newer score.
#[must_use]
pub fn update(
    bank: &[PairRow],
    fresh: &[PairRow],
    judge: &str,
    params: &ContrastParams,
) -> Updated {
    let mut dropped = Vec::new();
    let mut entries = Vec::with_capacity(bank.len() + fresh.len());
    for entry in bank {
        let age = params.round.saturating_sub(entry.origin_round);
        if fresh.iter().any(|pair| pair.pair_id == entry.pair_id) {
            continue;
        }
        if entry.judge != judge {
            dropped.push((entry.clone(), Reason::BankJudge));
        } else if age > params.max_age {
            dropped.push((entry.clone(), Reason::BankAge));
        } else {
            entries.push(entry.clone());
        }
    }
    entries.extend_from_slice(fresh);
    evict(&mut entries, &mut dropped, params);
    Updated {
        bank: entries,
        dropped,
    }
}

/// Removes the lowest keys until the bank fits, from crowded prompts first.
fn evict(
    entries: &mut Vec<PairRow>,
    dropped: &mut Vec<(PairRow, Reason)>,
    params: &ContrastParams,
) {
    let capacity = CAPACITY_FACTOR * params.n_fit as usize;
    while entries.len() > capacity {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for entry in entries.iter() {
            *counts.entry(&entry.prompt_id).or_default() += 1;
        }
        let is_crowded = |entry: &PairRow| counts[entry.prompt_id.as_str()] > ENTRIES_A_PROMPT;
        let any_crowded = entries.iter().any(is_crowded);
        let lowest = (0..entries.len())
            .filter(|&index| !any_crowded || is_crowded(&entries[index]))
            .min_by(|&l, &r| {
                let of = |index: usize| key(&entries[index], params.round, params.decay);
                of(l)
                    .total_cmp(&of(r))
                    .then_with(|| entries[l].pair_id.cmp(&entries[r].pair_id))
            })
            .expect("a bank above its capacity has entries");
        dropped.push((entries.remove(lowest), Reason::BankFull));
    }
}

/// Selects the pairs for the fit, highest key first.
///
/// From the entries with at least the median key, up to `n-fit`, at most `per-prompt` of a prompt,
/// and no more old ones than fresh ones: with few fresh pairs there are few in all. `vectors`, by
/// prompt, make it cover the prompts instead: k-centre greedy over the upper twice as many.
#[must_use]
pub fn select(
    bank: &[PairRow],
    params: &ContrastParams,
    vectors: Option<&HashMap<&str, PromptVector>>,
) -> Vec<PairRow> {
    let mut eligible = eligible(bank, params);
    let is_fresh = |entry: &PairRow| entry.origin_round == params.round;
    let fresh = eligible.iter().filter(|entry| is_fresh(entry)).count();
    let wanted = eligible.len().min(params.n_fit as usize).min(2 * fresh);
    let most_old = wanted / 2;
    if let Some(vectors) = vectors {
        let none = PromptVector::default();
        let order: Vec<&PromptVector> = eligible
            .iter()
            .map(|entry| vectors.get(entry.prompt_id.as_str()).unwrap_or(&none))
            .collect();
        let mut taken = k_centre(&order, wanted, |taken, index| {
            let old = taken.iter().filter(|&&at| !is_fresh(eligible[at])).count();
            // Beyond the upper ones only fresh ones go on, where those above are too few.
            let in_reach = index < 2 * wanted || is_fresh(eligible[index]);
            in_reach && (is_fresh(eligible[index]) || old < most_old)
        });
        taken.sort_unstable();
        eligible = taken.into_iter().map(|index| eligible[index]).collect();
    }
    let mut old_left = most_old;
    eligible
        .into_iter()
        .filter(|entry| {
            let take = is_fresh(entry) || old_left > 0;
            old_left -= usize::from(take && !is_fresh(entry));
            take
        })
        .take(wanted)
        .cloned()
        .collect()
}

/// Entries with at least the median key, at most `per-prompt` of a prompt, highest key first.
fn eligible<'a>(bank: &'a [PairRow], params: &ContrastParams) -> Vec<&'a PairRow> {
    let keyed = |entry: &PairRow| key(entry, params.round, params.decay);
    let mut keys: Vec<f64> = bank.iter().map(keyed).collect();
    keys.sort_by(f64::total_cmp);
    let median = match keys.len() {
        0 => return Vec::new(),
        n if n % 2 == 1 => keys[n / 2],
        n => 0.5 * (keys[n / 2 - 1] + keys[n / 2]),
    };
    let mut eligible: Vec<&PairRow> = bank.iter().filter(|entry| keyed(entry) >= median).collect();
    eligible.sort_by(|l, r| {
        keyed(r)
            .total_cmp(&keyed(l))
            .then_with(|| l.pair_id.cmp(&r.pair_id))
    });
    let mut of_prompt: HashMap<&str, u32> = HashMap::new();
    eligible.retain(|entry| {
        let count = of_prompt.entry(entry.prompt_id.as_str()).or_default();
        *count += 1;
        *count <= params.per_prompt
    });
    eligible
}

/// Mean and standard deviation of a round's margins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standard {
    mean: f64,
    deviation: f64,
}

impl Standard {
    /// Takes the standard from the margins of a round's pairs.
    #[must_use]
    pub fn of(margins: &[f64]) -> Self {
        let n = margins.len().max(1) as f64;
        let mean = margins.iter().sum::<f64>() / n;
        let squares: f64 = margins.iter().map(|margin| (margin - mean).powi(2)).sum();
        Self {
            mean,
            deviation: (squares / n).sqrt(),
        }
    }

    /// Returns a margin in standard deviations from the mean; 0 where all margins are equal.
    #[must_use]
    pub fn z(&self, margin: f64) -> f64 {
        // A floor instead of an added epsilon, so that the deviation of z is exactly 1.
        if self.deviation <= 1e-12 * (1.0 + self.mean.abs()) {
            0.0
        } else {
            (margin - self.mean) / self.deviation
        }
    }
}

#[cfg(test)]
mod tests {
    use sims_artifact::tables::{Message, PromptRow};

    use super::*;
    use crate::fixtures::pair;

    fn params(round: u32, n_fit: u32) -> ContrastParams {
        ContrastParams {
            round,
            n_fit,
            ..ContrastParams::default()
        }
    }

    fn ids(pairs: &[PairRow]) -> Vec<&str> {
        pairs.iter().map(|pair| pair.pair_id.as_str()).collect()
    }

    #[test]
    fn keys_age_towards_the_bottom() {
        let good = pair("a", "p", 2.0, 1);
        let bad = pair("b", "p", -2.0, 1);
        assert_eq!(key(&good, 1, 0.9), 2.0);
        assert!((key(&good, 3, 0.9) - 1.62).abs() < 1e-12);
        assert!((key(&bad, 3, 0.9) + 2.0 / 0.81).abs() < 1e-12);
        let ages: Vec<f64> = (1..5).map(|round| key(&good, round, 0.9)).collect();
        assert!(ages.is_sorted_by(|l, r| l > r));
    }

    #[test]
    fn capacity_is_never_exceeded_and_the_lowest_keys_leave() {
        let fresh: Vec<PairRow> = (0..12)
            .map(|i| pair(&format!("{i:02}"), &format!("p{i}"), f64::from(i), 1))
            .collect();
        let updated = update(&[], &fresh, "stub", &params(1, 2));
        assert_eq!(updated.bank.len(), 8);
        assert_eq!(ids(&updated.bank)[0], "04");
        let left: Vec<_> = updated
            .dropped
            .iter()
            .map(|(pair, _)| pair.pair_id.as_str())
            .collect();
        assert_eq!(left, ["00", "01", "02", "03"]);
        assert!(
            updated
                .dropped
                .iter()
                .all(|(_, reason)| *reason == Reason::BankFull)
        );
    }

    #[test]
    fn crowded_prompts_give_first() {
        let mut fresh: Vec<PairRow> = (0..3)
            .map(|i| pair(&format!("crowd{i}"), "p", 5.0 + f64::from(i), 1))
            .collect();
        fresh.extend((0..2).map(|i| pair(&format!("lone{i}"), &format!("q{i}"), 0.0, 1)));
        let updated = update(&[], &fresh, "stub", &params(1, 1));
        assert_eq!(ids(&updated.bank), ["crowd1", "crowd2", "lone0", "lone1"]);
    }

    #[test]
    fn old_pairs_and_other_judges_leave() {
        let mut foreign = pair("foreign", "a", 9.0, 4);
        foreign.judge = "other".into();
        let bank = [pair("old", "b", 9.0, 1), pair("kept", "c", 1.0, 2), foreign];
        let updated = update(&bank, &[pair("new", "d", 0.0, 5)], "stub", &params(5, 10));
        assert_eq!(ids(&updated.bank), ["kept", "new"]);
        let why: Vec<_> = updated.dropped.iter().map(|(_, reason)| *reason).collect();
        assert_eq!(why, [Reason::BankAge, Reason::BankJudge]);
    }

    #[test]
    fn a_pair_seen_again_keeps_its_newer_score() {
        let updated = update(
            &[pair("same", "p", 1.0, 1)],
            &[pair("same", "p", 3.0, 2)],
            "stub",
            &params(2, 10),
        );
        assert_eq!(updated.bank.len(), 1);
        assert_eq!((updated.bank[0].z, updated.bank[0].origin_round), (3.0, 2));
    }

    #[test]
    fn at_least_half_of_the_selection_is_fresh() {
        let mut bank: Vec<PairRow> = (0..20)
            .map(|i| pair(&format!("old{i:02}"), &format!("p{i}"), 10.0, 1))
            .collect();
        bank.extend((0..6).map(|i| pair(&format!("new{i}"), &format!("q{i}"), 9.5, 2)));
        for n_fit in [4, 5, 12, 100] {
            let selected = select(&bank, &params(2, n_fit), None);
            let fresh = selected
                .iter()
                .filter(|pair| pair.origin_round == 2)
                .count();
            assert!(2 * fresh >= selected.len(), "{fresh} of {}", selected.len());
            assert_eq!(selected.len(), (n_fit as usize).min(12));
        }
        // Nothing fresh, nothing selected.
        assert!(select(&bank[..20], &params(2, 8), None).is_empty());
    }

    #[test]
    fn diversity_prefers_prompts_that_differ_and_keeps_the_fresh_share() {
        // The four highest keys ask one thing; the others differ. Old and new alternate.
        let texts = ["sum of 2 and 3", "name a river", "draw a cat", "sing aloud"];
        let text = |i: usize| texts[i.saturating_sub(3).min(3)];
        let bank: Vec<PairRow> = (0..14)
            .map(|i| {
                let z = if i < 7 { 20.0 - i as f64 } else { -1.0 };
                pair(&format!("{i:02}"), &format!("p{i}"), z, 1 + i as u32 % 2)
            })
            .collect();
        let prompts: Vec<PromptRow> = (0..14)
            .map(|i| PromptRow {
                prompt_id: format!("p{i}"),
                messages: vec![Message::user(text(i))],
                split: "train".into(),
                source: "test".into(),
            })
            .collect();
        let rows: Vec<&PromptRow> = prompts.iter().collect();
        let vectors: HashMap<&str, PromptVector> = rows
            .iter()
            .map(|row| row.prompt_id.as_str())
            .zip(crate::diversity::vectors(&rows))
            .collect();
        let params = ContrastParams {
            decay: 1.0,
            ..params(2, 4)
        };
        assert_eq!(ids(&select(&bank, &params, None)), ["00", "01", "02", "03"]);
        let diverse = select(&bank, &params, Some(&vectors));
        // Two old ones at most, so the last place goes to the clearest fresh one.
        assert_eq!(ids(&diverse), ["00", "01", "04", "05"]);
        let fresh = diverse.iter().filter(|pair| pair.origin_round == 2).count();
        assert!(2 * fresh >= diverse.len());
    }

    #[test]
    fn the_upper_half_is_eligible_and_prompts_are_capped() {
        let bank: Vec<PairRow> = (0..8)
            .map(|i| {
                pair(
                    &format!("{i}"),
                    if i < 5 { "p" } else { "q" },
                    f64::from(-i),
                    1,
                )
            })
            .collect();
        // Keys 0 to -7, median -3.5: pairs 0 to 3, of which two of prompt p may stay.
        assert_eq!(ids(&select(&bank, &params(1, 100), None)), ["0", "1"]);
        assert!(select(&[], &params(1, 100), None).is_empty());
    }

    #[test]
    fn z_has_mean_zero_and_deviation_one() {
        let margins = [0.001, 0.0015, 0.004, 0.0002, 0.0031];
        let standard = Standard::of(&margins);
        let z: Vec<f64> = margins.iter().map(|&margin| standard.z(margin)).collect();
        let mean = z.iter().sum::<f64>() / 5.0;
        let deviation = (z.iter().map(|z| (z - mean).powi(2)).sum::<f64>() / 5.0).sqrt();
        assert!(
            mean.abs() < 1e-9 && (deviation - 1.0).abs() < 1e-9,
            "{mean} {deviation}"
        );
        assert_eq!(Standard::of(&[0.3; 4]).z(0.3), 0.0);
        assert_eq!(Standard::of(&[]).z(1.0), 0.0);
    }
}
