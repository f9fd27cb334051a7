//! The contrast pairs: how far apart chosen and rejected are, and why pairs were dropped.

use std::collections::{BTreeMap, HashMap};

use crate::ReportError;
use crate::data_table::DataTable;
use crate::run::Run;

/// How many bins a histogram has.
const BINS: usize = 20;

/// A bin of a histogram of one round, with the counts of two groups.
#[derive(Debug, Clone, PartialEq)]
pub struct Bin {
    /// The round.
    pub round: u32,
    /// Where the bin begins.
    pub low: f64,
    /// Where the bin ends.
    pub high: f64,
    /// How many of the first group are in it: kept pairs, or chosen responses.
    pub first: u64,
    /// How many of the second group are in it: dropped pairs, or rejected responses.
    pub second: u64,
}

/// A reason for dropping pairs.
#[derive(Debug, Clone, PartialEq)]
pub struct Reason {
    /// The round.
    pub round: u32,
    /// The filter.
    pub reason: String,
    /// How many pairs it dropped.
    pub pairs: u64,
}

/// The pairs of all rounds.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Contrast {
    /// Histogram of margins: kept and dropped pairs.
    pub margins: Vec<Bin>,
    /// Histogram of scores: chosen and rejected responses of the kept pairs.
    pub scores: Vec<Bin>,
    /// Why pairs were dropped.
    pub reasons: Vec<Reason>,
    /// How many pairs every round kept and dropped.
    pub kept: Vec<(u32, u64, u64)>,
}

impl Contrast {
    /// Reads the pairs of every round.
    ///
    /// # Errors
    /// If a table is damaged.
    pub fn of(run: &Run) -> Result<Self, ReportError> {
        let mut contrast = Self::default();
        let mut margins = Vec::new();
        let mut scores = Vec::new();
        for round in &run.rounds {
            let Some(pairs) = round.pairs()? else {
                continue;
            };
            let dropped = round.dropped()?.unwrap_or_default();
            contrast
                .kept
                .push((round.number, pairs.len() as u64, dropped.len() as u64));
            let kept = pairs.iter().map(|pair| pair.margin).collect();
            let lost = dropped.iter().map(|pair| pair.margin).collect();
            margins.push((round.number, [kept, lost]));
            let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
            for pair in &dropped {
                *reasons.entry(&pair.reason).or_default() += 1;
            }
            contrast
                .reasons
                .extend(reasons.into_iter().map(|(reason, pairs)| Reason {
                    round: round.number,
                    reason: reason.to_owned(),
                    pairs,
                }));
            if let Some(ranking) = round.ranking()? {
                let by_id: HashMap<&str, f64> = ranking
                    .iter()
                    .map(|row| (row.response_id.as_str(), row.score))
                    .collect();
                // Pairs of the memory bank come from rounds whose ranking is another table.
                let of = |id: &String| by_id.get(id.as_str()).copied();
                let chosen: Vec<f64> = pairs
                    .iter()
                    .filter_map(|pair| of(&pair.chosen_id))
                    .collect();
                let rejected = pairs.iter().filter_map(|pair| of(&pair.rejected_id));
                scores.push((round.number, [chosen, rejected.collect()]));
            }
        }
        contrast.margins = histogram(&margins);
        contrast.scores = histogram(&scores);
        Ok(contrast)
    }

    pub(super) fn margins_table(&self) -> DataTable {
        bins("margins", &self.margins, ["kept", "dropped"])
    }

    pub(super) fn scores_table(&self) -> DataTable {
        bins("pair_scores", &self.scores, ["chosen", "rejected"])
    }

    pub(super) fn dropped_table(&self) -> DataTable {
        DataTable::of("dropped_pairs", &self.reasons)
            .count("round", |reason| reason.round)
            .text("reason", |reason| reason.reason.as_str())
            .count("pairs", |reason| reason.pairs)
            .done()
    }
}

fn bins(name: &'static str, bins: &[Bin], groups: [&'static str; 2]) -> DataTable {
    DataTable::of(name, bins)
        .count("round", |bin| bin.round)
        .number("bin_low", |bin| bin.low)
        .number("bin_high", |bin| bin.high)
        .count(groups[0], |bin| bin.first)
        .count(groups[1], |bin| bin.second)
        .done()
}

/// Counts the values of two groups a round in bins that are the same in all rounds.
///
/// A value on a border belongs to the bin above, the largest to the last bin; what is no number is left out.
fn histogram(rounds: &[(u32, [Vec<f64>; 2])]) -> Vec<Bin> {
    let all = || {
        let values = rounds
            .iter()
            .flat_map(|(_, groups)| groups.iter().flatten());
        values.copied().filter(|value| value.is_finite())
    };
    let (low, high) = (
        all().fold(f64::INFINITY, f64::min),
        all().fold(f64::NEG_INFINITY, f64::max),
    );
    if low > high {
        return Vec::new();
    }
    let width = if high > low {
        (high - low) / BINS as f64
    } else {
        1.0
    };
    let mut bins = Vec::with_capacity(rounds.len() * BINS);
    for (round, groups) in rounds {
        let mut counts = [[0_u64; 2]; BINS];
        for (group, values) in groups.iter().enumerate() {
            for value in values.iter().filter(|value| value.is_finite()) {
                // Not negative, since no value is below `low`.
                let bin = ((value - low) / width) as usize;
                counts[bin.min(BINS - 1)][group] += 1;
            }
        }
        bins.extend(counts.iter().enumerate().map(|(bin, counts)| Bin {
            round: *round,
            low: low + bin as f64 * width,
            high: low + (bin + 1) as f64 * width,
            first: counts[0],
            second: counts[1],
        }));
    }
    bins
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_one_bin() {
        let rounds = [
            (1, [vec![0.0, 0.05, 1.0], vec![f64::NAN]]),
            (2, [vec![], vec![0.5]]),
        ];
        let bins = histogram(&rounds);
        assert_eq!(bins.len(), 2 * BINS);
        let counts = |round: u32| {
            let of_round = bins.iter().filter(|bin| bin.round == round);
            of_round.fold((0, 0), |sum, bin| (sum.0 + bin.first, sum.1 + bin.second))
        };
        assert_eq!((counts(1), counts(2)), ((3, 0), (0, 1)));
        // 0.05 is the border between the first bin and the second.
        assert_eq!(
            (bins[0].first, bins[1].first, bins[BINS - 1].first),
            (1, 1, 1)
        );
        assert!((bins[BINS + 10].low - 0.5).abs() < 1e-9 && bins[BINS + 10].second == 1);
        assert!(histogram(&[(1, [vec![], vec![]])]).is_empty());
        assert_eq!(histogram(&[(1, [vec![2.0], vec![]])])[0].first, 1);
    }
}
