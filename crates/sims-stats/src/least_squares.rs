//! Scores from pairwise preferences by least squares.
//!
//! A preference is a number, such as log-odds, that item i is better than item j, and the scores
//! are those whose differences come closest: HodgeRank (Jiang, Lim, Yao and Ye 2011,
//! arXiv 0811.1067). Log-odds of a judge that reads one quality of each response are such
//! differences, and then few pairs say nearly as much as all.

use crate::StatsError;
use crate::bradley_terry::connected_components;
use crate::cholesky::Cholesky;

/// How much one item is preferred to another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Preference {
    /// Index of the first item.
    pub first: usize,
    /// Index of the second item.
    pub second: usize,
    /// By how much the first is better; negative where the second is.
    pub by: f64,
}

/// Fitted scores.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// One score an item, in units of the preferences, summing to zero.
    pub scores: Vec<f64>,
    /// Sum of squared differences between preferences and score differences.
    pub residual_squares: f64,
    /// Preferences beyond those that connect the items: what the residuals rest on.
    pub degrees_of_freedom: usize,
    /// Covariance of the scores for preferences of unit variance, `[items, items]`.
    covariance: Vec<f64>,
}

impl Fit {
    /// Returns the covariance of two scores for preferences of unit variance.
    #[must_use]
    pub fn covariance(&self, left: usize, right: usize) -> f64 {
        self.covariance[left * self.scores.len() + right]
    }

    /// Returns the variance of `score(left) − score(right)` for preferences of unit variance.
    #[must_use]
    pub fn gap_variance(&self, left: usize, right: usize) -> f64 {
        let of = |l, r| self.covariance(l, r);
        (of(left, left) + of(right, right) - 2.0 * of(left, right)).max(0.0)
    }
}

/// Fits the scores that minimise `Σ (by − (s_first − s_second))² + ridge ‖s‖²` with `Σ s = 0`.
///
/// A ridge above zero ties together items that no chain of preferences connects; their gaps then
/// have variances of about `1 / ridge`.
///
/// # Errors
/// No items; an index, preference or ridge out of range; without a ridge, unconnected items.
pub fn fit(items: usize, preferences: &[Preference], ridge: f64) -> Result<Fit, StatsError> {
    check(items, preferences, ridge)?;
    let pairs = || preferences.iter().map(|p| (p.first, p.second));
    let components = connected_components(items, pairs());
    if components > 1 && ridge == 0.0 {
        return Err(StatsError::Disconnected { components });
    }
    // The added matrix `1 1ᵀ / n` fills the direction of the all-ones vector.
    let constant = 1.0 / items as f64;
    let mut laplacian = vec![constant; items * items];
    let mut right = vec![0.0; items];
    for item in 0..items {
        laplacian[item * items + item] += ridge;
    }
    for p in preferences {
        let (i, j) = (p.first, p.second);
        laplacian[i * items + i] += 1.0;
        laplacian[j * items + j] += 1.0;
        laplacian[i * items + j] -= 1.0;
        laplacian[j * items + i] -= 1.0;
        right[i] += p.by;
        right[j] -= p.by;
    }
    let factor = Cholesky::of(laplacian, items);
    let scores = factor.solve(&right);
    // The all-ones vector is an eigenvector with eigenvalue `1 + ridge`: taken off again.
    let covariance = factor.inverse();
    let surplus = constant / (1.0 + ridge);
    let residual = |p: &Preference| p.by - (scores[p.first] - scores[p.second]);
    Ok(Fit {
        residual_squares: preferences.iter().map(|p| residual(p).powi(2)).sum(),
        degrees_of_freedom: (preferences.len() + components).saturating_sub(items),
        covariance: covariance.iter().map(|value| value - surplus).collect(),
        scores,
    })
}

fn check(items: usize, preferences: &[Preference], ridge: f64) -> Result<(), StatsError> {
    if items == 0 {
        return Err(StatsError::Empty {
            what: "least-squares items",
        });
    }
    let out_of_range = |what, value, expected| {
        Err(StatsError::OutOfRange {
            what,
            value,
            expected,
        })
    };
    if !(ridge >= 0.0 && ridge.is_finite()) {
        return out_of_range("ridge", ridge, "zero or above");
    }
    for p in preferences {
        let largest = p.first.max(p.second);
        if largest >= items || p.first == p.second {
            return out_of_range("item index", largest as f64, "two different items");
        }
        if !p.by.is_finite() {
            return out_of_range("preference", p.by, "a finite number");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefer(first: usize, second: usize, by: f64) -> Preference {
        Preference { first, second, by }
    }

    #[test]
    fn a_chain_of_differences_gives_back_the_scores() {
        let fitted = fit(3, &[prefer(0, 1, 2.0), prefer(2, 1, -1.0)], 0.0).expect("connected");
        for (score, expected) in fitted
            .scores
            .iter()
            .zip([5.0 / 3.0, -1.0 / 3.0, -4.0 / 3.0])
        {
            assert!((score - expected).abs() < 1e-12, "{fitted:?}");
        }
        assert!(fitted.residual_squares < 1e-24);
        assert_eq!(fitted.degrees_of_freedom, 0);
        // Variances add along the chain.
        assert!((fitted.gap_variance(0, 1) - 1.0).abs() < 1e-12);
        assert!((fitted.gap_variance(0, 2) - 2.0).abs() < 1e-12);
    }

    #[test]
    fn all_pairs_give_the_mean_preference() {
        let all = [prefer(0, 1, 1.0), prefer(0, 2, -0.5), prefer(1, 2, 3.0)];
        let fitted = fit(3, &all, 0.0).expect("connected");
        for (score, sum) in fitted.scores.iter().zip([0.5, 2.0, -2.5]) {
            assert!((score - sum / 3.0).abs() < 1e-12, "{fitted:?}");
        }
        // A third of the squared flow around the triangle: 1 + 3 + 0.5.
        assert!((fitted.residual_squares - 4.5f64.powi(2) / 3.0).abs() < 1e-12);
        assert_eq!(fitted.degrees_of_freedom, 1);
    }

    #[test]
    fn unconnected_items_need_the_ridge() {
        let apart = [prefer(0, 1, 1.0), prefer(2, 3, 1.0)];
        let error = fit(4, &apart, 0.0).expect_err("two groups");
        assert_eq!(error, StatsError::Disconnected { components: 2 });
        let fitted = fit(4, &apart, 0.01).expect("tied together");
        assert!(fitted.gap_variance(0, 2) > 50.0 && fitted.gap_variance(0, 1) < 1.0);
        assert_eq!(fitted.degrees_of_freedom, 0);
    }

    #[test]
    fn bad_input_is_refused() {
        for bad in [prefer(0, 0, 1.0), prefer(0, 2, 1.0), prefer(0, 1, f64::NAN)] {
            assert!(matches!(
                fit(2, &[bad], 0.0),
                Err(StatsError::OutOfRange { .. })
            ));
        }
        assert!(fit(2, &[prefer(0, 1, 1.0)], -1.0).is_err());
        assert!(fit(0, &[], 0.0).is_err());
    }
}
