//! Bradley–Terry scores from pairwise comparisons.
//!
//! Item i beats item j with probability `σ(s_i − s_j)`. Outcomes may be soft (a probability instead
//! of a win), pairs may be missing, and a small ridge keeps the scores of an unbeaten item finite.

use crate::cholesky::Cholesky;
use crate::{StatsError, win_rate::logistic};

/// Newton steps before giving up.
const MAX_STEPS: usize = 50;
/// Largest gradient entry at which the fit has converged.
const GRADIENT_TOLERANCE: f64 = 1e-8;

/// One comparison of two items.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Index of the first item.
    pub first: usize,
    /// Index of the second item.
    pub second: usize,
    /// Probability that the first is better; 1, ½ or 0 for a hard outcome.
    pub p_first: f64,
    /// How often the comparison counts, above zero.
    pub weight: f64,
}

/// Fitted scores.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// One score an item, in logits, summing to zero.
    pub scores: Vec<f64>,
    /// Standard errors from the inverse Hessian on the sum-zero subspace.
    pub standard_errors: Vec<f64>,
    /// Newton steps taken.
    pub steps: usize,
}

/// Fits `items` scores by penalised maximum likelihood.
///
/// Maximises `Σ w [p log σ(s_i − s_j) + (1 − p) log σ(s_j − s_i)] − (ridge / 2) ‖s‖²` with
/// `Σ s = 0` by Newton's method (Bradley and Terry 1952). The order of the comparisons changes the
/// result by rounding only.
///
/// # Errors
/// No items; an index, probability, weight or ridge out of range; items that no chain of
/// comparisons connects; with a ridge of zero, a maximum at infinity.
pub fn fit(items: usize, comparisons: &[Comparison], ridge: f64) -> Result<Fit, StatsError> {
    check(items, comparisons, ridge)?;
    let components = connected_components(items, comparisons.iter().map(|c| (c.first, c.second)));
    if components > 1 {
        return Err(StatsError::Disconnected { components });
    }
    if ridge == 0.0 && !has_finite_maximum(items, comparisons) {
        return Err(StatsError::Separated);
    }

    let mut scores = vec![0.0; items];
    let mut value = objective(&scores, comparisons, ridge);
    for step in 0..=MAX_STEPS {
        let (gradient, curvature) = derivatives(&scores, comparisons, ridge);
        let largest = gradient.iter().fold(0.0f64, |max, g| max.max(g.abs()));
        let factor = Cholesky::of(curvature, items);
        if largest < GRADIENT_TOLERANCE {
            return Ok(Fit {
                standard_errors: factor.standard_errors(ridge),
                scores: centred(scores),
                steps: step,
            });
        }
        if step == MAX_STEPS {
            return Err(StatsError::NotConverged {
                steps: step,
                gradient: largest,
            });
        }
        // Halve the Newton step until the objective does not fall (beyond rounding).
        let direction = factor.solve(&gradient);
        let mut length = 1.0;
        loop {
            let moved: Vec<f64> = scores
                .iter()
                .zip(&direction)
                .map(|(score, delta)| score + length * delta)
                .collect();
            let new_value = objective(&moved, comparisons, ridge);
            if new_value >= value - 1e-12 * value.abs().max(1.0) || length < 1e-6 {
                (scores, value) = (moved, new_value);
                break;
            }
            length *= 0.5;
        }
    }
    unreachable!("the loop returns at its last step")
}

fn check(items: usize, comparisons: &[Comparison], ridge: f64) -> Result<(), StatsError> {
    if items == 0 {
        return Err(StatsError::Empty {
            what: "Bradley-Terry items",
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
    for comparison in comparisons {
        let largest = comparison.first.max(comparison.second);
        if largest >= items || comparison.first == comparison.second {
            return out_of_range("item index", largest as f64, "two different items");
        }
        if !(0.0..=1.0).contains(&comparison.p_first) {
            return out_of_range("probability of a win", comparison.p_first, "within 0 to 1");
        }
        if !(comparison.weight > 0.0 && comparison.weight.is_finite()) {
            return out_of_range("comparison weight", comparison.weight, "above zero");
        }
    }
    Ok(())
}

/// Number of groups of items that pairs connect.
pub(crate) fn connected_components(
    items: usize,
    pairs: impl Iterator<Item = (usize, usize)>,
) -> usize {
    let mut root: Vec<usize> = (0..items).collect();
    fn find(root: &mut [usize], mut item: usize) -> usize {
        while root[item] != item {
            root[item] = root[root[item]];
            item = root[item];
        }
        item
    }
    let mut components = items;
    for (first, second) in pairs {
        let (first, second) = (find(&mut root, first), find(&mut root, second));
        if first != second {
            root[first] = second;
            components -= 1;
        }
    }
    components
}

/// Ford's condition (1957): the unpenalised maximum is finite if and only if every item can be
/// reached from every other along "was beaten at least a little by".
fn has_finite_maximum(items: usize, comparisons: &[Comparison]) -> bool {
    let mut beaten_by = vec![Vec::new(); items];
    let mut beats = vec![Vec::new(); items];
    for c in comparisons {
        if c.p_first > 0.0 {
            beaten_by[c.second].push(c.first);
            beats[c.first].push(c.second);
        }
        if c.p_first < 1.0 {
            beaten_by[c.first].push(c.second);
            beats[c.second].push(c.first);
        }
    }
    let reaches_all = |edges: &[Vec<usize>]| {
        let mut seen = vec![false; items];
        let mut open = vec![0];
        seen[0] = true;
        while let Some(item) = open.pop() {
            for &next in &edges[item] {
                if !std::mem::replace(&mut seen[next], true) {
                    open.push(next);
                }
            }
        }
        seen.into_iter().all(|reached| reached)
    };
    reaches_all(&beaten_by) && reaches_all(&beats)
}

fn objective(scores: &[f64], comparisons: &[Comparison], ridge: f64) -> f64 {
    let log_logistic = |x: f64| -(-x.abs()).exp().ln_1p() + x.min(0.0);
    let likelihood: f64 = comparisons
        .iter()
        .map(|c| {
            let gap = scores[c.first] - scores[c.second];
            c.weight * (c.p_first * log_logistic(gap) + (1.0 - c.p_first) * log_logistic(-gap))
        })
        .sum();
    likelihood - 0.5 * ridge * scores.iter().map(|s| s * s).sum::<f64>()
}

/// Gradient of the objective, and its negated Hessian plus `1 1ᵀ / n`, row by row.
///
/// The added matrix fills the direction of the all-ones vector, in which the likelihood is flat.
fn derivatives(scores: &[f64], comparisons: &[Comparison], ridge: f64) -> (Vec<f64>, Vec<f64>) {
    let n = scores.len();
    let mut gradient: Vec<f64> = scores.iter().map(|score| -ridge * score).collect();
    let mut curvature = vec![1.0 / n as f64; n * n];
    for item in 0..n {
        curvature[item * n + item] += ridge;
    }
    for c in comparisons {
        let (i, j) = (c.first, c.second);
        let p = logistic(scores[i] - scores[j]);
        let surplus = c.weight * (c.p_first - p);
        gradient[i] += surplus;
        gradient[j] -= surplus;
        let information = c.weight * p * (1.0 - p);
        curvature[i * n + i] += information;
        curvature[j * n + j] += information;
        curvature[i * n + j] -= information;
        curvature[j * n + i] -= information;
    }
    (gradient, curvature)
}

fn centred(mut scores: Vec<f64>) -> Vec<f64> {
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    scores.iter_mut().for_each(|score| *score -= mean);
    scores
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noiseless(truth: &[f64], keep: impl Fn(usize, usize) -> bool) -> Vec<Comparison> {
        let mut comparisons = Vec::new();
        for i in 0..truth.len() {
            for j in i + 1..truth.len() {
                if keep(i, j) {
                    comparisons.push(Comparison {
                        first: i,
                        second: j,
                        p_first: logistic(truth[i] - truth[j]),
                        weight: 1.0,
                    });
                }
            }
        }
        comparisons
    }

    fn hard(first: usize, second: usize) -> Comparison {
        Comparison {
            first,
            second,
            p_first: 1.0,
            weight: 1.0,
        }
    }

    #[test]
    fn noiseless_probabilities_give_back_the_scores() {
        let truth = [1.0, 0.0, -1.0];
        let fitted = fit(3, &noiseless(&truth, |_, _| true), 1e-6).expect("connected");
        for (score, expected) in fitted.scores.iter().zip(truth) {
            assert!((score - expected).abs() < 1e-3, "{fitted:?}");
        }
        assert!(fitted.scores.iter().sum::<f64>().abs() < 1e-12);
    }

    #[test]
    fn a_third_of_the_pairs_missing_keeps_the_order() {
        let truth: Vec<f64> = (0..10).map(|i| 2.0 - 0.4 * f64::from(i)).collect();
        // Two pairs in five are left out, except that neighbours stay: the graph is connected.
        let comparisons = noiseless(&truth, |i, j| j == i + 1 || (i * 7 + j) % 5 < 3);
        assert_eq!(comparisons.len(), 30, "of 45");
        let fitted = fit(10, &comparisons, 0.1).expect("connected");
        assert!(
            fitted.scores.is_sorted_by(|left, right| left > right),
            "{fitted:?}"
        );
    }

    #[test]
    fn unconnected_groups_are_an_error() {
        let error = fit(4, &[hard(0, 1), hard(2, 3)], 0.1).expect_err("two groups");
        assert_eq!(error, StatsError::Disconnected { components: 2 });
        assert!(fit(2, &[], 0.1).is_err());
    }

    #[test]
    fn one_item_needs_no_comparison() {
        let fitted = fit(1, &[], 0.1).expect("a single item is connected");
        assert_eq!(fitted.scores, [0.0]);
        assert!(fitted.standard_errors[0] < 1e-6);
    }

    #[test]
    fn an_unbeaten_item_needs_the_ridge() {
        let unbeaten = [hard(0, 1), hard(1, 2), hard(2, 1), hard(0, 2)];
        assert_eq!(fit(3, &unbeaten, 0.0), Err(StatsError::Separated));
        let fitted = fit(3, &unbeaten, 0.1).expect("the ridge bounds the scores");
        assert!(fitted.scores[0] > fitted.scores[1]);
        assert!((fitted.scores[1] - fitted.scores[2]).abs() < 1e-8);
    }

    #[test]
    fn a_cycle_ties_everyone() {
        let fitted = fit(3, &[hard(0, 1), hard(1, 2), hard(2, 0)], 0.1).expect("connected");
        assert!(
            fitted.scores.iter().all(|score| score.abs() < 1e-9),
            "{fitted:?}"
        );
    }

    #[test]
    fn two_items_have_closed_form_score_and_error() {
        // Gap g with 30 wins of 40: g = ln 3; information 40 * 3/16, and each score is g / 2, so
        // its standard error is half of 1 / sqrt(7.5).
        let comparisons = [Comparison {
            first: 0,
            second: 1,
            p_first: 0.75,
            weight: 40.0,
        }];
        let fitted = fit(2, &comparisons, 0.0).expect("connected");
        assert!((fitted.scores[0] - 0.5 * 3.0f64.ln()).abs() < 1e-8);
        assert!((fitted.standard_errors[0] - 0.5 / 7.5f64.sqrt()).abs() < 1e-8);
    }

    #[test]
    fn order_of_the_comparisons_does_not_matter() {
        let truth = [0.3, -1.0, 0.9, 0.1, 2.0];
        let mut comparisons = noiseless(&truth, |i, j| (i + j) % 4 != 0 || j == i + 1);
        let forwards = fit(5, &comparisons, 0.1).expect("connected");
        comparisons.reverse();
        let backwards = fit(5, &comparisons, 0.1).expect("connected");
        for (left, right) in forwards.scores.iter().zip(&backwards.scores) {
            assert!((left - right).abs() < 1e-9);
        }
    }

    #[test]
    fn bad_input_is_refused() {
        for bad in [
            Comparison {
                p_first: 1.5,
                ..hard(0, 1)
            },
            Comparison {
                p_first: f64::NAN,
                ..hard(0, 1)
            },
            Comparison {
                weight: 0.0,
                ..hard(0, 1)
            },
            hard(0, 0),
            hard(0, 2),
        ] {
            assert!(matches!(
                fit(2, &[bad], 0.1),
                Err(StatsError::OutOfRange { .. })
            ));
        }
        assert!(fit(2, &[hard(0, 1)], -1.0).is_err());
        assert!(fit(0, &[], 0.1).is_err());
    }
}
