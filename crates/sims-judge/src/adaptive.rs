//! Which pairs of a prompt's responses to judge next, so that few pairs tell the best and the worst.
//!
//! Every response first meets two others, around a circle in a seeded order. From then on each pair
//! not judged is worth what it would add to the knowledge of who is best and who is worst: the
//! chances of its two responses to be either, times the variance that it would take from their mean
//! win probabilities ([`Completion::worth`]). Responses in the middle are soon left alone, and so
//! are pairs whose outcome is plain.
//!
//! Pairs never depend on other prompts, nor on the order of the tables.

use std::collections::BTreeSet;

use sims_stats::completion::Completion;
use sims_stats::least_squares::Preference;
use sims_stats::{StatsError, normal_cdf};

use crate::Schedule;

/// Ties responses together that invalid comparisons left apart; with others it hardly matters.
const RIDGE: f64 = 0.01;

/// One prompt's responses and what was asked of them so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Contest {
    count: usize,
    opening: Vec<(usize, usize)>,
    asked: BTreeSet<(usize, usize)>,
    preferences: Vec<Preference>,
}

/// How likely the response that looks best (worst) is the one that all pairs would give.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Confidence {
    /// Of the best.
    pub best: f64,
    /// Of the worst.
    pub worst: f64,
}

impl Contest {
    /// Starts with `count` responses to a prompt of which nothing is known.
    #[must_use]
    pub fn new(count: usize, seed: u64, prompt_id: &str) -> Self {
        Self {
            count,
            opening: Schedule::Circulant.pairs(count, 2, seed, prompt_id),
            asked: BTreeSet::new(),
            preferences: Vec::new(),
        }
    }

    /// Returns the fewest pairs that the opening takes.
    #[must_use]
    pub fn opening_pairs(&self) -> usize {
        self.opening.len()
    }

    /// Returns how many pairs were asked.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.asked.len()
    }

    /// Takes in the judge's preference for `pair.0`, in nats; `None` where it is invalid.
    pub fn record(&mut self, pair: (usize, usize), preference: Option<f64>) {
        self.asked.insert(pair);
        self.preferences.extend(preference.map(|by| Preference {
            first: pair.0,
            second: pair.1,
            by,
        }));
    }

    /// Returns the pairs `(i, j)`, `i < j`, to judge next, in ascending order: the opening, or at
    /// most `most` of those not asked yet.
    ///
    /// # Errors
    /// A recorded preference that is not finite.
    pub fn next_pairs(&self, most: usize) -> Result<Vec<(usize, usize)>, StatsError> {
        if self.asked.is_empty() {
            return Ok(self.opening.clone());
        }
        let completion = self.completion()?;
        let chances = self.contenders(&completion);
        let mut pairs: Vec<((usize, usize), f64)> = completion
            .missing()
            .filter(|pair| !self.asked.contains(pair))
            .map(|(i, j)| {
                let worth = (chances[i] + chances[j]) * completion.worth(i, j);
                ((i, j), worth)
            })
            .collect();
        pairs.sort_by(|left, right| right.1.total_cmp(&left.1).then(left.0.cmp(&right.0)));
        let mut chosen: Vec<(usize, usize)> =
            pairs.into_iter().take(most).map(|(pair, _)| pair).collect();
        chosen.sort_unstable();
        Ok(chosen)
    }

    /// Returns how sure best and worst are; `None` with fewer than two responses or nothing valid.
    ///
    /// Each is the probability, in a normal approximation, of beating its nearest rival.
    ///
    /// # Errors
    /// A recorded preference that is not finite.
    pub fn confidence(&self) -> Result<Option<Confidence>, StatsError> {
        if self.count < 2 || self.preferences.is_empty() {
            return Ok(None);
        }
        let completion = self.completion()?;
        let [best, worst] = extremes(&self.wins(&completion));
        let against_rivals = |of: usize, sign: f64| {
            (0..self.count)
                .filter(|&rival| rival != of)
                .map(|rival| chance_above(&completion, of, rival, sign))
                .fold(1.0, f64::min)
        };
        Ok(Some(Confidence {
            best: against_rivals(best, 1.0),
            worst: against_rivals(worst, -1.0),
        }))
    }

    fn completion(&self) -> Result<Completion, StatsError> {
        Completion::of(self.count, &self.preferences, 1.0, RIDGE)
    }

    fn wins(&self, completion: &Completion) -> Vec<f64> {
        (0..self.count)
            .map(|response| completion.win_probability(response))
            .collect()
    }

    /// Returns each response's chance to be the best, plus its chance to be the worst.
    fn contenders(&self, completion: &Completion) -> Vec<f64> {
        let [best, worst] = extremes(&self.wins(completion));
        (0..self.count)
            .map(|response| {
                chance_above(completion, response, best, 1.0)
                    + chance_above(completion, response, worst, -1.0)
            })
            .collect()
    }
}

/// Returns the indices of the largest and the smallest value; the first of several.
fn extremes(values: &[f64]) -> [usize; 2] {
    let first = |better: fn(f64, f64) -> bool| {
        (1..values.len()).fold(0, |found, index| {
            if better(values[index], values[found]) {
                index
            } else {
                found
            }
        })
    };
    [
        first(|value, found| value > found),
        first(|value, found| value < found),
    ]
}

/// Returns the probability that `sign` times one win probability is above that of another.
fn chance_above(completion: &Completion, one: usize, other: usize, sign: f64) -> f64 {
    let gap = sign * (completion.win_probability(one) - completion.win_probability(other));
    let error = completion.gap_error(one, other);
    if gap == 0.0 {
        0.5
    } else if error == 0.0 {
        f64::from(u8::from(gap > 0.0))
    } else {
        normal_cdf(gap / error)
    }
}

#[cfg(test)]
mod tests {
    use sims_stats::random::Stream;

    use super::*;

    /// Judges up to `budget` pairs; `preference(i, j)` is for `i`.
    fn played(
        count: usize,
        budget: usize,
        prompt_id: &str,
        preference: impl Fn(usize, usize) -> Option<f64>,
    ) -> Contest {
        let mut contest = Contest::new(count, 3, prompt_id);
        while contest.asked() < budget {
            let left = budget - contest.asked();
            let pairs = contest.next_pairs(left.min(4)).expect("finite");
            if pairs.is_empty() {
                break;
            }
            for pair in pairs {
                contest.record(pair, preference(pair.0, pair.1));
            }
        }
        contest
    }

    fn found(contest: &Contest) -> [usize; 2] {
        extremes(&contest.wins(&contest.completion().expect("finite")))
    }

    fn normal(stream: &mut Stream) -> f64 {
        let radius = (-2.0 * (1.0 - stream.next_f64()).ln()).sqrt();
        radius * (std::f64::consts::TAU * stream.next_f64()).cos()
    }

    /// Planted scores, and log-odds between them with noise of this deviation.
    fn planted(count: usize, deviation: f64, prompt: u64) -> Vec<Vec<f64>> {
        let mut stream = Stream::new(11, prompt);
        let scores: Vec<f64> = (0..count).map(|_| 1.5 * normal(&mut stream)).collect();
        let mut logits = vec![vec![0.0; count]; count];
        for i in 0..count {
            for j in i + 1..count {
                let by = scores[i] - scores[j] + deviation * normal(&mut stream);
                (logits[i][j], logits[j][i]) = (by, -by);
            }
        }
        logits
    }

    /// Share of 300 prompts in which 18 of 45 pairs give the best and worst of all pairs.
    fn agreement(deviation: f64) -> f64 {
        let same = (0..300).filter(|&prompt| {
            let logits = planted(10, deviation, prompt);
            let name = format!("p{prompt}");
            let all = played(10, 45, &name, |i, j| Some(logits[i][j]));
            let few = played(10, 18, &name, |i, j| Some(logits[i][j]));
            assert_eq!((all.asked(), few.asked()), (45, 18));
            found(&all) == found(&few)
        });
        same.count() as f64 / 300.0
    }

    #[test]
    fn without_noise_best_and_worst_are_always_found() {
        assert_eq!(agreement(0.0), 1.0);
    }

    #[test]
    fn with_noise_best_and_worst_are_mostly_found() {
        let found = agreement(0.3);
        assert!(found > 0.85, "{found}");
    }

    #[test]
    fn a_circulant_design_of_as_many_pairs_finds_them_less_often() {
        let same = (0..300).filter(|&prompt| {
            let logits = planted(10, 0.3, prompt);
            let name = format!("p{prompt}");
            let all = played(10, 45, &name, |i, j| Some(logits[i][j]));
            let mut even = Contest::new(10, 3, &name);
            for pair in Schedule::Circulant.pairs(10, 4, 3, &name) {
                even.record(pair, Some(logits[pair.0][pair.1]));
            }
            found(&all) == found(&even)
        });
        let even = same.count() as f64 / 300.0;
        assert!(even + 0.05 < agreement(0.3), "{even}");
    }

    #[test]
    fn the_middle_is_left_alone() {
        let logits = planted(10, 0.0, 5);
        let contest = played(10, 22, "p", |i, j| Some(logits[i][j]));
        let met = |response| {
            let pairs = contest.asked.iter();
            pairs
                .filter(|&&(i, j)| i == response || j == response)
                .count()
        };
        let [best, worst] = found(&contest);
        let mean = 2.0 * 22.0 / 10.0;
        assert!(met(best) as f64 > mean && met(worst) as f64 > mean);
    }

    #[test]
    fn no_pair_is_asked_twice_and_all_are_in_the_end() {
        for count in [2, 3, 4, 7] {
            let contest = played(count, 1000, "p", |i, j| Some(j as f64 - i as f64));
            assert_eq!(contest.asked(), count * (count - 1) / 2);
            assert_eq!(found(&contest), [0, count - 1]);
            let confidence = contest.confidence().expect("finite").expect("judged");
            assert_eq!(
                confidence,
                Confidence {
                    best: 1.0,
                    worst: 1.0
                }
            );
        }
        assert!(
            Contest::new(1, 0, "p")
                .next_pairs(4)
                .expect("no pairs")
                .is_empty()
        );
        assert_eq!(Contest::new(1, 0, "p").confidence(), Ok(None));
    }

    #[test]
    fn invalid_comparisons_are_not_asked_again_and_what_they_cut_off_comes_first() {
        let mut contest = Contest::new(8, 3, "p");
        let opening = contest.next_pairs(8).expect("opening");
        let cut_off = 5;
        for (i, j) in opening {
            let valid = i != cut_off && j != cut_off;
            contest.record((i, j), valid.then_some(j as f64 - i as f64));
        }
        let next = contest.next_pairs(2).expect("finite");
        assert!(
            next.iter().all(|&(i, j)| i == cut_off || j == cut_off),
            "{next:?}"
        );
        let all_invalid = played(5, 100, "p", |_, _| None);
        assert_eq!(all_invalid.asked(), 10);
        assert_eq!(all_invalid.confidence(), Ok(None));
    }

    #[test]
    fn ties_everywhere_leave_every_pair_possible() {
        let contest = played(6, 15, "p", |_, _| Some(0.0));
        assert_eq!(contest.asked(), 15);
        let confidence = contest.confidence().expect("finite").expect("judged");
        assert_eq!(
            confidence,
            Confidence {
                best: 0.5,
                worst: 0.5
            }
        );
    }

    #[test]
    fn sureness_is_about_what_comes_true() {
        let (mut sure, mut right) = (0.0, 0.0);
        for prompt in 0..300 {
            let logits = planted(10, 0.5, prompt);
            let name = format!("p{prompt}");
            let all = played(10, 45, &name, |i, j| Some(logits[i][j]));
            let few = played(10, 16, &name, |i, j| Some(logits[i][j]));
            sure += few.confidence().expect("finite").expect("judged").best;
            right += f64::from(u8::from(found(&all)[0] == found(&few)[0]));
        }
        let (sure, right) = (sure / 300.0, right / 300.0);
        assert!((sure - right).abs() < 0.08, "{sure} {right}");
    }
}
