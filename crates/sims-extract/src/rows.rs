//! Which positions of a pair are read: the same index in both responses, drawn by a reservoir.

use sims_stats::random::{Stream, key_of};
use std::ops::Range;

/// Returns the indices at which two responses are comparable: past what they share, up to the shorter one.
///
/// `chosen` and `rejected`: content token ids. The states of a common prefix are bit for bit the same and
/// carry no contrast; the range is empty if one response is a prefix of the other.
pub fn comparable(chosen: &[u32], rejected: &[u32]) -> Range<usize> {
    let shared = chosen
        .iter()
        .zip(rejected)
        .take_while(|(a, b)| a == b)
        .count();
    shared..chosen.len().min(rejected.len()).max(shared)
}

/// Draws at most `count` of the indices, uniformly and in ascending order (algorithm R, Vitter 1985).
///
/// The draw is named by the seed and the pair: it does not depend on the other pairs, nor on the layers.
pub fn draw(indices: Range<usize>, count: usize, seed: u64, pair_id: &str) -> Vec<usize> {
    let mut stream = Stream::new(seed, key_of(pair_id));
    let mut kept: Vec<usize> = Vec::with_capacity(count.min(indices.len()));
    for (seen, index) in indices.enumerate() {
        if kept.len() < count {
            kept.push(index);
        } else {
            let place = stream.below(seen + 1);
            if place < count {
                kept[place] = index;
            }
        }
    }
    kept.sort_unstable();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_prefixes_and_unmatched_tails_are_left_out() {
        assert_eq!(comparable(&[1, 2, 3, 4, 5], &[1, 2, 9, 4]), 2..4);
        assert_eq!(comparable(&[1], &[2, 3]), 0..1);
        assert!(comparable(&[1, 2], &[1, 2, 3]).is_empty());
        assert!(comparable(&[1, 2], &[1, 2]).is_empty());
    }

    /// T37: every index is kept equally often, and the same seed keeps the same ones.
    #[test]
    fn reservoir_is_uniform_and_repeats() {
        let mut counts = [0u32; 20];
        for draw_number in 0..10_000 {
            for index in draw(5..25, 8, 1, &format!("pair-{draw_number}")) {
                counts[index - 5] += 1;
            }
        }
        let expected = 10_000.0 * 8.0 / 20.0;
        // Draws without replacement vary less than independent ones, so the statistic is scaled by
        // (1 − 8/20)⁻¹ · 19/20; 43.8 is the 99.9th percentile at 19 degrees of freedom.
        let chi_square: f64 = counts
            .iter()
            .map(|&count| (f64::from(count) - expected).powi(2) / expected)
            .sum::<f64>()
            / (1.0 - 8.0 / 20.0)
            * (19.0 / 20.0);
        assert!(chi_square < 43.8, "{chi_square}: {counts:?}");
        assert_eq!(draw(0..100, 8, 3, "p"), draw(0..100, 8, 3, "p"));
        assert_ne!(draw(0..100, 8, 3, "p"), draw(0..100, 8, 4, "p"));
        assert_ne!(draw(0..100, 8, 3, "p"), draw(0..100, 8, 3, "q"));
    }

    #[test]
    fn few_indices_are_all_kept() {
        assert_eq!(draw(3..7, 32, 0, "p"), [3, 4, 5, 6]);
        assert!(draw(3..3, 32, 0, "p").is_empty());
    }
}
