//! Evens out the lengths of chosen and rejected responses over a round.
//!
//! When chosen responses are longer on average, "longer" is part of what the fit learns, so pairs of
//! the heavier side are dropped. Weights are no way out: only some fits read them.

/// What balancing needs to know about a pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lengths {
    /// Logarithm of chosen length over rejected length.
    pub log_ratio: f64,
    /// The pair's margin.
    pub margin: f64,
}

/// Returns which pairs to keep so that the mean log ratio is within `tolerance` of zero.
///
/// Greedy: from the heavier side, the pair with the lowest margin goes first (the later one if two
/// are equal). Every step drops a pair, so it ends, if need be with none.
#[must_use]
pub fn keep(pairs: &[Lengths], tolerance: f64) -> Vec<bool> {
    // Lowest margin last, so that each side is a stack.
    let mut order: Vec<usize> = (0..pairs.len()).collect();
    order.sort_by(|&l, &r| pairs[r].margin.total_cmp(&pairs[l].margin).then(l.cmp(&r)));
    let side = |longer: bool| -> Vec<usize> {
        let on_side = |&pair: &usize| match pairs[pair].log_ratio {
            ratio if longer => ratio > 0.0,
            ratio => ratio < 0.0,
        };
        order.iter().copied().filter(on_side).collect()
    };
    let (mut longer, mut shorter) = (side(true), side(false));
    let mut kept = vec![true; pairs.len()];
    loop {
        // Summed anew each time: a running difference would drift, and rounds are small.
        let ratios = || {
            (0..pairs.len())
                .filter(|&pair| kept[pair])
                .map(|pair| pairs[pair].log_ratio)
        };
        let sum: f64 = ratios().sum();
        if sum.abs() <= tolerance * ratios().count() as f64 {
            return kept;
        }
        let heavier = if sum > 0.0 { &mut longer } else { &mut shorter };
        match heavier.pop() {
            Some(pair) => kept[pair] = false,
            None => return kept,
        }
    }
}

#[cfg(test)]
mod tests {
    use sims_stats::random::Stream;

    use super::*;

    fn pair(log_ratio: f64, margin: f64) -> Lengths {
        Lengths { log_ratio, margin }
    }

    fn mean(pairs: &[Lengths], kept: &[bool]) -> f64 {
        let ratios: Vec<f64> = pairs
            .iter()
            .zip(kept)
            .filter_map(|(pair, &kept)| kept.then_some(pair.log_ratio))
            .collect();
        ratios.iter().sum::<f64>() / ratios.len() as f64
    }

    /// Chosen responses longer by a quarter on average.
    fn biased(count: usize, seed: u64) -> Vec<Lengths> {
        let mut stream = Stream::new(seed, 0);
        (0..count)
            .map(|_| pair(0.22 + 1.2 * (stream.next_f64() - 0.5), stream.next_f64()))
            .collect()
    }

    #[test]
    fn a_biased_round_ends_balanced() {
        for seed in 0..20 {
            let pairs = biased(200, seed);
            let kept = keep(&pairs, 0.05);
            assert!(mean(&pairs, &kept).abs() <= 0.05);
            let count = kept.iter().filter(|&&kept| kept).count();
            assert!(count > 60, "{count}");
        }
    }

    #[test]
    fn the_lowest_margins_of_the_heavier_side_go() {
        let pairs = [
            pair(0.5, 0.9),
            pair(0.5, 0.1),
            pair(0.5, 0.5),
            pair(-0.5, 0.0),
            pair(0.0, 0.0),
        ];
        assert_eq!(keep(&pairs, 0.05), [true, false, false, true, true]);
    }

    #[test]
    fn a_balanced_round_is_left_alone() {
        assert_eq!(keep(&[pair(0.3, 1.0), pair(-0.3, 1.0)], 0.05), [true, true]);
        assert!(keep(&[], 0.05).is_empty());
    }

    #[test]
    fn a_one_sided_round_loses_everything() {
        assert_eq!(
            keep(&[pair(0.3, 1.0), pair(0.4, 1.0)], 0.05),
            [false, false]
        );
    }
}
