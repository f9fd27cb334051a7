//! Evens out the lengths of chosen and rejected responses over a round.
//!
//! When chosen responses are longer on average, "longer" is part of what the fit learns. Two ways
//! out: drop pairs of the heavier side, or weight them.

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

/// Returns weights, one on average, under which the mean log ratio is zero.
///
/// Exponential tilting: the weights closest to equal in relative entropy. `None` if all ratios lie
/// on one side, where no weights can help.
#[must_use]
pub fn weights(pairs: &[Lengths]) -> Option<Vec<f64>> {
    let ratios = || pairs.iter().map(|pair| pair.log_ratio);
    if ratios().all(|ratio| ratio == 0.0) {
        return Some(vec![1.0; pairs.len()]);
    }
    if ratios().all(|ratio| ratio >= 0.0) || ratios().all(|ratio| ratio <= 0.0) {
        return None;
    }
    let tilted = |tilt: f64| {
        ratios()
            .map(|ratio| (tilt * ratio).exp() * ratio)
            .sum::<f64>()
    };
    // The weighted sum grows with the tilt and changes sign.
    let (mut low, mut high) = (-1.0, 1.0);
    while tilted(low) > 0.0 {
        low *= 2.0;
    }
    while tilted(high) < 0.0 {
        high *= 2.0;
    }
    for _ in 0..100 {
        let middle = 0.5 * (low + high);
        if tilted(middle) < 0.0 {
            low = middle;
        } else {
            high = middle;
        }
    }
    let raw: Vec<f64> = ratios()
        .map(|ratio| (0.5 * (low + high) * ratio).exp())
        .collect();
    let mean = raw.iter().sum::<f64>() / raw.len() as f64;
    Some(raw.into_iter().map(|weight| weight / mean).collect())
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
        assert_eq!(weights(&[pair(0.3, 1.0), pair(0.4, 1.0)]), None);
    }

    #[test]
    fn weights_balance_without_dropping() {
        let pairs = biased(200, 3);
        let weights = weights(&pairs).expect("both sides are there");
        let tilted: f64 = pairs
            .iter()
            .zip(&weights)
            .map(|(pair, weight)| weight * pair.log_ratio)
            .sum();
        assert!((tilted / 200.0).abs() < 1e-9);
        assert!((weights.iter().sum::<f64>() / 200.0 - 1.0).abs() < 1e-9);
        assert!(weights.iter().all(|&weight| weight > 0.0));
        let level = [pair(0.0, 1.0), pair(0.0, 2.0)];
        assert_eq!(super::weights(&level), Some(vec![1.0, 1.0]));
    }
}
