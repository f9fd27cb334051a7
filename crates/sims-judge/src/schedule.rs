//! Which responses of one prompt meet each other.
//!
//! A schedule is a list of unordered pairs of indices into the prompt's responses. Every pair is
//! judged in both orders, whatever the schedule.
//!
//! `circulant` places the responses on a circle in a seeded order and lets each meet the ones at a
//! few fixed distances. Every response then meets the same number of others, which keeps the mean
//! win probability comparable within a prompt, and distance 1 is always among them, so that the
//! comparisons form one connected graph, which Bradley-Terry needs.
//!
//! `adaptive` opens with such a circle of two others each and then follows the judgments:
//! see [`adaptive`](crate::adaptive).

use sims_stats::random::{Stream, key_of};

sims_stage::choice! {
    /// Which pairs of a prompt's responses are compared
    pub enum Schedule {
        /// Every pair
        All = "all",
        /// A seeded circulant design in which each response meets `meets` others
        Circulant = "circulant",
        /// `budget` pairs, chosen in rounds to tell the best and the worst apart
        Adaptive = "adaptive",
    }
}

impl Schedule {
    /// Returns the pairs `(i, j)`, `i < j`, of `count` responses, in ascending order.
    ///
    /// `meets` is the number of others that each response meets under
    /// [`Circulant`](Schedule::Circulant), and 2 in the opening of [`Adaptive`](Schedule::Adaptive),
    /// whose later pairs are not known yet; it is rounded up by one when `count` and `meets` are both
    /// odd, where no such design exists, and from `count - 1` on every pair is taken.
    /// `seed` and `prompt_id` choose the order on the circle and the distances; the same four
    /// arguments give the same pairs on every machine.
    pub fn pairs(
        self,
        count: usize,
        meets: usize,
        seed: u64,
        prompt_id: &str,
    ) -> Vec<(usize, usize)> {
        let meets = match self {
            Schedule::Adaptive => 2,
            Schedule::All | Schedule::Circulant => meets,
        };
        let meets = meets + usize::from(count % 2 == 1 && meets % 2 == 1);
        if self == Schedule::All || meets + 1 >= count {
            return all_pairs(count);
        }
        let mut stream = Stream::new(seed, key_of(prompt_id));
        let mut circle: Vec<usize> = (0..count).collect();
        stream.shuffle(&mut circle);
        let mut pairs: Vec<(usize, usize)> = distances(count, meets, &mut stream)
            .into_iter()
            .flat_map(|distance| {
                // The distance that faces itself across an even circle meets each pair twice.
                let starts = if 2 * distance == count {
                    count / 2
                } else {
                    count
                };
                let circle = &circle;
                (0..starts).map(move |start| {
                    let (i, j) = (circle[start], circle[(start + distance) % count]);
                    (i.min(j), i.max(j))
                })
            })
            .collect();
        pairs.sort_unstable();
        pairs
    }
}

/// Returns every pair `(i, j)` with `i < j < count`.
fn all_pairs(count: usize) -> Vec<(usize, usize)> {
    (0..count)
        .flat_map(|i| (i + 1..count).map(move |j| (i, j)))
        .collect()
}

/// Chooses the distances on the circle whose degrees add up to `meets`, which is below `count - 1`.
///
/// A distance below half the circle gives each response two partners, the half itself one.
fn distances(count: usize, meets: usize, stream: &mut Stream) -> Vec<usize> {
    let mut chosen = Vec::new();
    if meets % 2 == 1 {
        chosen.push(count / 2);
    }
    if meets >= 2 {
        chosen.push(1);
        let mut others: Vec<usize> = (2..count.div_ceil(2)).collect();
        stream.shuffle(&mut others);
        chosen.extend(others.into_iter().take(meets / 2 - 1));
    }
    chosen
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn degrees(count: usize, pairs: &[(usize, usize)]) -> Vec<usize> {
        let mut degrees = vec![0; count];
        for &(i, j) in pairs {
            degrees[i] += 1;
            degrees[j] += 1;
        }
        degrees
    }

    fn is_connected(count: usize, pairs: &[(usize, usize)]) -> bool {
        let mut seen = BTreeSet::from([0]);
        loop {
            let before = seen.len();
            for &(i, j) in pairs {
                if seen.contains(&i) || seen.contains(&j) {
                    seen.extend([i, j]);
                }
            }
            if seen.len() == before {
                return before == count;
            }
        }
    }

    #[test]
    fn ten_responses_meeting_four_give_twenty_pairs() {
        let pairs = Schedule::Circulant.pairs(10, 4, 17, "p");
        assert_eq!(pairs.len(), 20);
        assert_eq!(degrees(10, &pairs), vec![4; 10]);
    }

    #[test]
    fn every_circulant_design_is_regular_connected_and_free_of_repeats() {
        for count in 2..=17 {
            for meets in 2..=count {
                for prompt in ["a", "b", "c"] {
                    let pairs = Schedule::Circulant.pairs(count, meets, 3, prompt);
                    let odd = usize::from(count % 2 == 1 && meets % 2 == 1);
                    let expected = (meets + odd).min(count - 1);
                    assert_eq!(
                        degrees(count, &pairs),
                        vec![expected; count],
                        "{count} {meets}"
                    );
                    assert!(is_connected(count, &pairs), "{count} {meets} {prompt}");
                    let distinct: BTreeSet<_> = pairs.iter().copied().collect();
                    assert_eq!(distinct.len(), pairs.len());
                    assert!(pairs.iter().all(|&(i, j)| i < j && j < count));
                }
            }
        }
    }

    #[test]
    fn small_counts_have_the_pairs_they_can_have() {
        for schedule in [Schedule::All, Schedule::Circulant, Schedule::Adaptive] {
            assert_eq!(schedule.pairs(0, 4, 1, "p"), vec![]);
            assert_eq!(schedule.pairs(1, 4, 1, "p"), vec![]);
            assert_eq!(schedule.pairs(2, 4, 1, "p"), vec![(0, 1)]);
            assert_eq!(schedule.pairs(3, 4, 1, "p"), vec![(0, 1), (0, 2), (1, 2)]);
        }
    }

    #[test]
    fn meeting_all_others_is_the_full_schedule() {
        assert_eq!(
            Schedule::Circulant.pairs(6, 5, 1, "p"),
            Schedule::All.pairs(6, 0, 1, "p")
        );
        assert_eq!(Schedule::All.pairs(10, 0, 1, "p").len(), 45);
    }

    #[test]
    fn the_design_depends_on_seed_and_prompt_alone() {
        let design = |seed, prompt| Schedule::Circulant.pairs(10, 4, seed, prompt);
        assert_eq!(design(1, "p"), design(1, "p"));
        assert_ne!(design(1, "p"), design(2, "p"));
        assert_ne!(design(1, "p"), design(1, "q"));
    }
}
