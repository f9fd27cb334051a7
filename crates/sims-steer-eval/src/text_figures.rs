//! What the responses look like, whatever they are worth: length, loops, repetition, variety.

use std::collections::HashMap;

use sims_stats::diversity::repetition;
use sims_stats::loops::LoopRule;
use sims_stats::shingles::jaccard;
use sims_stats::{Bootstrap, Interval, StatsError};

use crate::answers::{Answers, content};

/// Resamples for figures that count distinct n-grams, each of which walks over all text.
const DISTINCT_RESAMPLES: usize = 1000;

/// Tokens of a shingle of [`TextFigures::similarity`].
const SHINGLE: usize = 5;

/// Figures of one policy's responses; each list has the mean over a prompt's draws, one entry a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct TextFigures {
    /// Length without the end token. Unit: tokens.
    pub length: Vec<f64>,
    /// Share of responses that got stuck in a loop.
    pub loops: Vec<f64>,
    /// Share of 4-grams that repeat an earlier one of the same response.
    pub repetition: Vec<f64>,
    /// Share of responses cut off by the length limit.
    pub truncated: Vec<f64>,
    /// Mean Jaccard index of the 5-token shingles of two draws; 0 where a prompt has one draw.
    pub similarity: Vec<f64>,
    /// The responses' tokens without the end token, by prompt.
    contents: Vec<Vec<Vec<u32>>>,
}

impl TextFigures {
    /// Measures `answers`; `rule` says what a loop is.
    pub fn of(answers: &Answers, rule: &LoopRule) -> Self {
        let contents: Vec<Vec<Vec<u32>>> = answers
            .iter()
            .map(|draws| draws.iter().map(|row| content(row).to_vec()).collect())
            .collect();
        let mean = |figure: &dyn Fn(&[u32]) -> f64| -> Vec<f64> {
            contents
                .iter()
                .map(|draws| mean_of(draws.iter().map(|tokens| figure(tokens))))
                .collect()
        };
        Self {
            length: mean(&|tokens| tokens.len() as f64),
            loops: mean(&|tokens| f64::from(u8::from(rule.find(tokens).is_some()))),
            repetition: mean(&|tokens| repetition(tokens, 4)),
            truncated: answers
                .iter()
                .map(|draws| {
                    mean_of(
                        draws
                            .iter()
                            .map(|row| f64::from(u8::from(row.finish_reason == "length"))),
                    )
                })
                .collect(),
            similarity: contents.iter().map(|draws| similarity(draws)).collect(),
            contents,
        }
    }

    /// Estimates the mean length divided by that of `base`, paired by prompt.
    ///
    /// A resample in which `base` says nothing counts as no change, as it does for distinct n-grams.
    ///
    /// # Errors
    /// If there are no prompts.
    pub fn length_ratio(&self, base: &Self, bootstrap: &Bootstrap) -> Result<Interval, StatsError> {
        let mut lengths: Vec<(f64, f64)> = self
            .length
            .iter()
            .copied()
            .zip(base.length.iter().copied())
            .collect();
        // The draws are tied to the index, so the order of prompts must not matter.
        lengths.sort_by(|l, r| l.0.total_cmp(&r.0).then(l.1.total_cmp(&r.1)));
        bootstrap.statistic(lengths.len(), |prompts| {
            let (own, other) = prompts.iter().fold((0.0, 0.0), |(own, other), &prompt| {
                let pair = lengths[prompt as usize];
                (own + pair.0, other + pair.1)
            });
            if other == 0.0 { 1.0 } else { own / other }
        })
    }

    /// Returns the share of distinct n-grams over all responses; none when there is no n-gram.
    pub fn distinct(&self, n: usize) -> Option<f64> {
        let all: Vec<u32> = (0..self.contents.len() as u32).collect();
        let grams = Grams::of(&self.contents, n).count(&all);
        (grams.total > 0).then(|| grams.distinct_in(grams.total) / grams.total as f64)
    }

    /// Estimates how many distinct n-grams there are for each one of `base`, paired by prompt.
    ///
    /// Both are counted in samples of one size, the number of n-grams of the side that has fewer: the
    /// share of distinct n-grams falls as text grows, so the longer side would look the duller. The
    /// expected count in such a sample has a closed form (rarefaction; Hurlbert 1971, Ecology 52, eq. 14).
    /// Resampled prompts repeat, which lowers both counts but not quite alike: the interval's width is that
    /// of the resamples, its middle is the estimate.
    /// None when `base` has no n-gram.
    ///
    /// # Errors
    /// If there are no prompts.
    pub fn distinct_ratio(
        &self,
        base: &Self,
        n: usize,
        bootstrap: &Bootstrap,
    ) -> Result<Option<Interval>, StatsError> {
        if base.distinct(n).is_none() {
            return Ok(None);
        }
        let (own, other) = (Grams::of(&self.contents, n), Grams::of(&base.contents, n));
        let resamples = bootstrap.resamples.min(DISTINCT_RESAMPLES);
        let bootstrap = Bootstrap {
            resamples,
            ..*bootstrap
        };
        let ratio = |prompts: &[u32]| {
            let (own, other) = (own.count(prompts), other.count(prompts));
            match (own.total, other.total) {
                // Such a resample says nothing, so it counts as no change.
                (_, 0) => 1.0,
                (0, _) => 0.0,
                (own_total, other_total) => {
                    let size = own_total.min(other_total);
                    own.distinct_in(size) / other.distinct_in(size)
                }
            }
        };
        let Interval {
            estimate,
            low,
            high,
        } = bootstrap.statistic(self.contents.len(), ratio)?;
        let half_width = (high - low) / 2.0;
        Ok(Some(Interval {
            estimate,
            low: estimate - half_width,
            high: estimate + half_width,
        }))
    }

    /// Splits the draws of every prompt into two halves and measures each, the base against itself.
    ///
    /// None when a prompt has fewer than two draws.
    pub fn halves(answers: &Answers, rule: &LoopRule) -> Option<(Self, Self)> {
        let (first, second) = split_draws(answers)?;
        Some((Self::of(&first, rule), Self::of(&second, rule)))
    }
}

/// Returns the first and the second half of every prompt's draws, equally many of each.
///
/// None when a prompt has fewer than two draws.
pub fn split_draws(answers: &Answers) -> Option<(Answers, Answers)> {
    let half = |draws: &Vec<_>| draws.len() / 2;
    if answers.iter().any(|draws| half(draws) == 0) {
        return None;
    }
    let first = answers
        .iter()
        .map(|draws| draws[..half(draws)].to_vec())
        .collect();
    let second = answers
        .iter()
        .map(|draws| draws[half(draws)..2 * half(draws)].to_vec())
        .collect();
    Some((first, second))
}

/// The n-grams of every prompt's responses, numbered.
struct Grams {
    by_prompt: Vec<Vec<usize>>,
    kinds: usize,
}

impl Grams {
    fn of(contents: &[Vec<Vec<u32>>], n: usize) -> Self {
        let mut numbers: HashMap<&[u32], usize> = HashMap::new();
        let mut by_prompt = Vec::with_capacity(contents.len());
        for draws in contents {
            let mut grams = Vec::new();
            for gram in draws.iter().flat_map(|tokens| tokens.windows(n)) {
                let next = numbers.len();
                grams.push(*numbers.entry(gram).or_insert(next));
            }
            by_prompt.push(grams);
        }
        Self {
            by_prompt,
            kinds: numbers.len(),
        }
    }

    /// Counts the n-grams of the prompts at `indices`.
    fn count(&self, indices: &[u32]) -> GramCounts {
        let mut counts = GramCounts {
            by_kind: vec![0; self.kinds],
            total: 0,
        };
        for &gram in indices
            .iter()
            .flat_map(|&index| &self.by_prompt[index as usize])
        {
            counts.by_kind[gram] += 1;
            counts.total += 1;
        }
        counts
    }
}

/// How often each n-gram occurs.
struct GramCounts {
    by_kind: Vec<u64>,
    total: u64,
}

impl GramCounts {
    /// Returns the expected number of distinct n-grams among `size` drawn without replacement.
    fn distinct_in(&self, size: u64) -> f64 {
        let left_out = self.total - size;
        let missed = |count: u64| -> f64 {
            // The share of samples that avoid all `count` occurrences: C(N-c, n) / C(N, n).
            (0..count)
                .map(|i| left_out.saturating_sub(i) as f64 / (self.total - i) as f64)
                .product()
        };
        self.by_kind
            .iter()
            .filter(|&&count| count > 0)
            .map(|&count| 1.0 - missed(count))
            .sum()
    }
}

/// Returns the mean Jaccard index over all pairs of a prompt's draws.
fn similarity(draws: &[Vec<u32>]) -> f64 {
    let pairs = (0..draws.len()).flat_map(|i| (i + 1..draws.len()).map(move |j| (i, j)));
    mean_of(pairs.map(|(i, j)| jaccard(&draws[i], &draws[j], SHINGLE)))
}

fn mean_of(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0_u64), |(sum, count), value| (sum + value, count + 1));
    if count == 0 { 0.0 } else { sum / count as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answers::tests::response;

    fn answers(draws: &[&[&[u32]]]) -> Answers {
        let prompt = |(index, draws): (usize, &&[&[u32]])| {
            let row = |(draw, tokens): (usize, &&[u32])| {
                let mut ended = tokens.to_vec();
                ended.push(0);
                response(&format!("p{index}"), "base", draw as u32, &ended)
            };
            draws.iter().enumerate().map(row).collect()
        };
        draws.iter().enumerate().map(prompt).collect()
    }

    #[test]
    fn figures_are_means_over_draws() {
        let stuck = [5_u32; 12];
        let answers = answers(&[&[&[1, 2, 3, 4], &stuck], &[&[1, 2], &[1, 2]]]);
        let figures = TextFigures::of(&answers, &LoopRule::default());
        assert_eq!(figures.length, [8.0, 2.0]);
        assert_eq!(figures.loops, [0.5, 0.0]);
        // Nine 4-grams of one token, eight of them repeats; none in the other draw.
        assert!((figures.repetition[0] - 8.0 / 9.0 / 2.0).abs() < 1e-12);
        assert_eq!(figures.truncated, [0.0, 0.0]);
        assert_eq!(figures.similarity, [0.0, 1.0]);
    }

    #[test]
    fn distinct_counts_over_all_responses_and_its_ratio_is_paired() {
        let varied = TextFigures::of(
            &answers(&[&[&[1, 2, 3]], &[&[3, 4, 5]]]),
            &LoopRule::default(),
        );
        let dull = TextFigures::of(
            &answers(&[&[&[1, 1, 1]], &[&[1, 1, 1]]]),
            &LoopRule::default(),
        );
        assert_eq!(varied.distinct(2), Some(1.0));
        assert_eq!(dull.distinct(2), Some(0.25));
        assert_eq!(varied.distinct(9), None);
        let bootstrap = Bootstrap::seeded(1);
        let ratio = dull
            .distinct_ratio(&varied, 2, &bootstrap)
            .unwrap()
            .unwrap();
        assert_eq!(ratio.estimate, 0.25);
        let same = varied
            .distinct_ratio(&varied, 2, &bootstrap)
            .unwrap()
            .unwrap();
        assert_eq!((same.low, same.estimate, same.high), (1.0, 1.0, 1.0));
        assert_eq!(varied.distinct_ratio(&varied, 9, &bootstrap).unwrap(), None);
    }

    #[test]
    fn variety_is_compared_at_one_size() {
        let one = TextFigures::of(&answers(&[&[&[1, 2, 3, 4]]]), &LoopRule::default());
        let two = TextFigures::of(
            &answers(&[&[&[1, 2, 3, 4], &[1, 2, 3, 4]]]),
            &LoopRule::default(),
        );
        assert_eq!((one.distinct(1), two.distinct(1)), (Some(1.0), Some(0.5)));
        let bootstrap = Bootstrap::seeded(1);
        let ratio = two.distinct_ratio(&one, 1, &bootstrap).unwrap().unwrap();
        // Four of eight tokens, each kind there twice: 4 (1 - C(6,4)/C(8,4)) = 4 (1 - 15/70) of 4 kinds.
        assert!(
            (ratio.estimate - (1.0 - 15.0 / 70.0)).abs() < 1e-12,
            "{ratio:?}"
        );
    }

    #[test]
    fn an_odd_draw_is_left_out_of_the_halves() {
        let three = answers(&[&[&[1], &[2], &[3]]]);
        let (first, second) = split_draws(&three).unwrap();
        assert_eq!((first[0].len(), second[0].len()), (1, 1));
        assert_eq!(second[0][0].sample_index, 1);
        assert!(split_draws(&answers(&[&[&[1]]])).is_none());
    }
}
