//! Win rates over draws.

/// Returns 1 if the first score is higher, 0 if it is lower, one half if they are equal.
#[must_use]
pub fn win(score: f64, against: f64) -> f64 {
    if score > against {
        1.0
    } else if score < against {
        0.0
    } else {
        0.5
    }
}

/// Returns the mean win of one prompt's draws against the other side's draws, over all pairs.
///
/// With four draws a side that is sixteen comparisons, and the variance of a single lucky draw is
/// averaged away. `None` if a side has no draws.
#[must_use]
pub fn mean_win(scores: &[f64], against: &[f64]) -> Option<f64> {
    if scores.is_empty() || against.is_empty() {
        return None;
    }
    let wins: f64 = scores
        .iter()
        .flat_map(|&score| against.iter().map(move |&other| win(score, other)))
        .sum();
    Some(wins / (scores.len() * against.len()) as f64)
}

/// Returns the logistic function of `x`, exact in both tails.
#[must_use]
pub fn logistic(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_pairs_count_and_ties_are_half() {
        // 1 beats 0, ties 1; 0 ties 0, loses to 1.
        assert_eq!(mean_win(&[1.0, 0.0], &[0.0, 1.0]), Some(0.5));
        assert_eq!(mean_win(&[2.0, 2.0], &[1.0, 2.0, 3.0]), Some(0.5));
        assert_eq!(mean_win(&[3.0], &[1.0, 2.0]), Some(1.0));
        assert_eq!(mean_win(&[], &[1.0]), None);
    }

    #[test]
    fn the_two_sides_sum_to_one() {
        let (left, right) = ([0.1, 0.5, 0.5], [0.5, 0.2]);
        let sum = mean_win(&left, &right).zip(mean_win(&right, &left));
        let (one, other) = sum.expect("both have draws");
        assert!((one + other - 1.0).abs() < 1e-12);
    }

    #[test]
    fn logistic_is_symmetric_and_never_overflows() {
        assert_eq!(logistic(0.0), 0.5);
        assert_eq!(logistic(800.0), 1.0);
        assert_eq!(logistic(-800.0), 0.0);
        assert!((logistic(1.3) + logistic(-1.3) - 1.0).abs() < 1e-15);
    }
}
