//! Correlation of two columns.

use crate::{StatsError, finite};

/// Returns the rank of every value, 1 for the lowest; equal values share their mean rank.
#[must_use]
pub fn mean_ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&l, &r| values[l].total_cmp(&values[r]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let mut end = start + 1;
        while end < order.len() && values[order[end]] == values[order[start]] {
            end += 1;
        }
        // Ranks start + 1 ..= end, averaged.
        let rank = 0.5 * (start + 1 + end) as f64;
        for &index in &order[start..end] {
            ranks[index] = rank;
        }
        start = end;
    }
    ranks
}

/// Returns Spearman's rank correlation, ties by their mean rank.
///
/// # Errors
/// Different lengths, empty or non-finite values, a side that never varies.
pub fn spearman(left: &[f64], right: &[f64]) -> Result<f64, StatsError> {
    check("Spearman correlation", left, right)?;
    correlate(
        "Spearman correlation",
        &mean_ranks(left),
        &mean_ranks(right),
    )
}

/// Returns Pearson's correlation.
///
/// # Errors
/// Different lengths, empty or non-finite values, a side that never varies.
pub fn pearson(left: &[f64], right: &[f64]) -> Result<f64, StatsError> {
    check("Pearson correlation", left, right)?;
    correlate("Pearson correlation", left, right)
}

fn check(what: &'static str, left: &[f64], right: &[f64]) -> Result<(), StatsError> {
    if left.len() != right.len() {
        return Err(StatsError::Lengths {
            what,
            left: left.len(),
            right: right.len(),
        });
    }
    finite(what, left)?;
    finite(what, right)
}

fn correlate(what: &'static str, left: &[f64], right: &[f64]) -> Result<f64, StatsError> {
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (left_mean, right_mean) = (mean(left), mean(right));
    let (mut product, mut left_square, mut right_square) = (0.0, 0.0, 0.0);
    for (l, r) in left.iter().zip(right) {
        let (l, r) = (l - left_mean, r - right_mean);
        product += l * r;
        left_square += l * l;
        right_square += r * r;
    }
    if left_square == 0.0 || right_square == 0.0 {
        return Err(StatsError::Constant { what });
    }
    Ok((product / (left_square.sqrt() * right_square.sqrt())).clamp(-1.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_share_their_mean_rank() {
        assert_eq!(mean_ranks(&[3.0, 1.0, 3.0, 2.0]), [3.5, 1.0, 3.5, 2.0]);
        // 0.0 and -0.0 are one value.
        assert_eq!(mean_ranks(&[0.0, -0.0]), [1.5, 1.5]);
    }

    #[test]
    fn a_monotone_map_has_rank_correlation_one() {
        let x: Vec<f64> = (1..9).map(f64::from).collect();
        let y: Vec<f64> = x.iter().map(|value| value.exp()).collect();
        assert!((spearman(&x, &y).expect("valid input") - 1.0).abs() < 1e-12);
        assert!(pearson(&x, &y).expect("valid input") < 0.8);
        let down: Vec<f64> = y.iter().map(|value| -value).collect();
        assert!((spearman(&x, &down).expect("valid input") + 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_constant_side_is_an_error() {
        assert!(matches!(
            spearman(&[1.0, 1.0], &[1.0, 2.0]),
            Err(StatsError::Constant { .. })
        ));
    }
}
