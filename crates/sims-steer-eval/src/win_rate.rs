//! How often one policy's responses are judged better than another's.

use sims_judge::BothOrders;
use sims_judge::diagnostics::Diagnostics;
use sims_stats::permutation::sign_flip_p_value;
use sims_stats::win_rate::{logistic, win};
use sims_stats::{Bootstrap, Interval, StatsError};

/// Wins of one policy over another, as the judge saw them.
#[derive(Debug, Clone, PartialEq)]
pub struct Wins {
    /// For each prompt and draw the probability that the policy's response is the better one; none
    /// where the judge's answer is invalid.
    pub soft: Vec<Vec<Option<f64>>>,
    /// The same as 1, 0 or, without preference, one half.
    pub hard: Vec<Vec<Option<f64>>>,
    /// How far the judge can be trusted on these pairs.
    pub judge: Diagnostics,
    /// The same of the pairs with different texts: with equal ones, only the slot can decide.
    pub distinct: Diagnostics,
    /// The number of prompts with a valid pair of different texts.
    pub distinct_prompts: u64,
}

/// Two responses judged in both orders, and whether they say the same.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct JudgedTexts {
    /// What the judge made of them; `a` is the policy's response.
    pub orders: BothOrders,
    /// Whether both have the same text.
    pub equal: bool,
}

impl Wins {
    /// Reads wins from comparisons in the order of prompts and draws, `draws` a prompt.
    ///
    /// `tau` divides the log-odds. A comparison counts where both orders cover at least `min_coverage` of the
    /// probability.
    pub fn of(judged: &[JudgedTexts], draws: usize, tau: f64, min_coverage: f64) -> Self {
        let mut wins = Self {
            soft: Vec::new(),
            hard: Vec::new(),
            judge: Diagnostics::default(),
            distinct: Diagnostics::default(),
            distinct_prompts: 0,
        };
        for prompt in judged.chunks(draws.max(1)) {
            let mut distinct = Diagnostics::default();
            for pair in prompt {
                wins.judge.add(&pair.orders, min_coverage);
                if !pair.equal {
                    distinct.add(&pair.orders, min_coverage);
                }
            }
            wins.distinct_prompts += u64::from(distinct.pairs > distinct.invalid);
            wins.distinct.merge(&distinct);
            let read = |read: &dyn Fn(f64) -> f64| {
                prompt
                    .iter()
                    .map(|pair| pair.orders)
                    .map(|both| both.is_valid(min_coverage).then(|| read(both.preference())))
                    .collect()
            };
            wins.soft
                .push(read(&|preference| logistic(preference / tau)));
            wins.hard.push(read(&|preference| win(preference, 0.0)));
        }
        wins
    }

    /// Estimates the mean win probability over prompts that have a valid comparison.
    ///
    /// # Errors
    /// If no comparison is valid.
    pub fn soft_rate(&self, bootstrap: &Bootstrap) -> Result<Interval, StatsError> {
        bootstrap.mean(&means(&self.soft))
    }

    /// Estimates the mean share of wins, ties half, over prompts that have a valid comparison.
    ///
    /// # Errors
    /// If no comparison is valid.
    pub fn hard_rate(&self, bootstrap: &Bootstrap) -> Result<Interval, StatsError> {
        bootstrap.mean(&means(&self.hard))
    }

    /// Returns the two-sided p-value of "neither side is better", by flipping signs of prompts.
    ///
    /// Of the soft rate: each prompt's mean win probability less a half, several draws of one prompt
    /// keeping together. `bootstrap` gives the number of patterns and the seed.
    ///
    /// # Errors
    /// If no comparison is valid.
    pub fn p_value(&self, bootstrap: &Bootstrap) -> Result<f64, StatsError> {
        let differences: Vec<f64> = means(&self.soft).iter().map(|win| win - 0.5).collect();
        sign_flip_p_value(&differences, bootstrap.resamples, bootstrap.seed)
    }

    /// Returns the share of valid pairs of different texts in which the slot, not the response, decides; none
    /// without such a pair.
    pub fn flip_rate(&self) -> Option<f64> {
        (self.distinct_prompts > 0).then(|| self.distinct.flip_rate())
    }

    /// Returns the number of prompts that have a valid comparison.
    pub fn prompts(&self) -> u64 {
        means(&self.soft).len() as u64
    }
}

/// Returns the mean over draws of each prompt that has one.
fn means(by_prompt: &[Vec<Option<f64>>]) -> Vec<f64> {
    by_prompt
        .iter()
        .filter_map(|draws| {
            let valid: Vec<f64> = draws.iter().copied().flatten().collect();
            (!valid.is_empty()).then(|| valid.iter().sum::<f64>() / valid.len() as f64)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use sims_judge::Preference;

    use super::*;

    fn one(logit: f64) -> Preference {
        Preference {
            logit,
            coverage: 0.9,
        }
    }

    /// Reads preferences of different texts: for each pair the policy's response shown first, then second.
    fn wins_of(preferences: &[Preference], draws: usize, tau: f64, min_coverage: f64) -> Wins {
        Wins::of(&judged(preferences, false), draws, tau, min_coverage)
    }

    fn judged(preferences: &[Preference], equal: bool) -> Vec<JudgedTexts> {
        preferences
            .chunks_exact(2)
            .map(|pair| JudgedTexts {
                orders: BothOrders {
                    ab: pair[0],
                    ba: pair[1],
                },
                equal,
            })
            .collect()
    }

    #[test]
    fn the_slot_decides_between_equal_texts_and_says_nothing() {
        // Pure position bias on equal texts, a consistent verdict on different ones.
        let mut pairs = judged(&[one(3.0), one(3.0)], true);
        assert_eq!(Wins::of(&pairs, 1, 1.0, 0.5).flip_rate(), None);
        pairs.extend(judged(&[one(2.0), one(-2.0)], false));
        let wins = Wins::of(&pairs, 2, 1.0, 0.5);
        assert_eq!(wins.flip_rate(), Some(0.0));
        assert_eq!((wins.judge.pairs, wins.distinct_prompts), (2, 1));
        assert_eq!(wins.soft[0].len(), 2);
    }

    #[test]
    fn wins_are_read_from_both_orders() {
        // Prompt 1: clear win, then pure position bias. Prompt 2: loss, tie.
        let preferences = [
            one(2.0),
            one(-2.0),
            one(3.0),
            one(3.0),
            one(-1.0),
            one(1.0),
            one(0.0),
            one(0.0),
        ];
        let wins = wins_of(&preferences, 2, 1.0, 0.5);
        assert_eq!(
            wins.hard,
            [vec![Some(1.0), Some(0.5)], vec![Some(0.0), Some(0.5)]]
        );
        assert_eq!(wins.soft[0][1], Some(0.5));
        assert!((wins.soft[0][0].unwrap() - 0.880_797).abs() < 1e-6);
        assert_eq!(wins.hard_rate(&Bootstrap::default()).unwrap().estimate, 0.5);
        assert_eq!(wins.prompts(), 2);
    }

    #[test]
    fn invalid_comparisons_are_missing_not_ties() {
        let unsure = Preference {
            logit: -5.0,
            coverage: 0.2,
        };
        let wins = wins_of(&[one(1.0), one(-1.0), unsure, one(5.0)], 2, 1.0, 0.5);
        assert_eq!(wins.hard, [vec![Some(1.0), None]]);
        let none = wins_of(&[unsure, unsure], 1, 1.0, 0.5);
        assert_eq!(none.prompts(), 0);
        assert!(none.soft_rate(&Bootstrap::default()).is_err());
    }

    #[test]
    fn a_judge_without_preference_gives_a_half_with_a_point_interval() {
        let wins = wins_of(&[one(0.0); 80], 2, 1.0, 0.5);
        let rate = wins.soft_rate(&Bootstrap::default()).unwrap();
        assert_eq!((rate.low, rate.estimate, rate.high), (0.5, 0.5, 0.5));
    }

    #[test]
    fn the_p_value_flips_prompts_not_draws() {
        // Five prompts of two draws, all won: of 32 patterns of signs two are as extreme.
        let won = wins_of(&[one(2.0), one(-2.0)].repeat(10), 2, 1.0, 0.5);
        assert_eq!(won.prompts(), 5);
        assert_eq!(won.p_value(&Bootstrap::default()).unwrap(), 2.0 / 32.0);
        let level = wins_of(&[one(0.0); 80], 2, 1.0, 0.5);
        assert_eq!(level.p_value(&Bootstrap::default()).unwrap(), 1.0);
    }

    #[test]
    fn tau_flattens_the_soft_rate_only() {
        let wins = wins_of(&[one(4.0), one(-4.0)], 1, 4.0, 0.5);
        assert!((wins.soft[0][0].unwrap() - logistic(1.0)).abs() < 1e-12);
        assert_eq!(wins.hard[0][0], Some(1.0));
    }
}
