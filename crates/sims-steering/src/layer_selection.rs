//! Which layers to steer.
//!
//! Candidates leave out the first two blocks and always the last, whose output goes straight into the final
//! norm. Among candidates that held-out states cannot tell apart, the one with the largest contrast wins:
//! in the toy world areas under the curve saturate at 1 over several layers, while only the late ones,
//! where the contrast is large, move the model.

use sims_stats::Interval;
use std::cmp::Ordering;
use std::ops::RangeInclusive;

/// What layers are compared by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelectionRule {
    /// Contrast, among the layers whose held-out area is within the best one's interval.
    Contrast,
    /// Held-out area under the ROC curve of the fitted direction.
    Auroc,
    /// Held-out accuracy of the bias-free probe, as in HPR.
    ProbeAccuracy,
}

/// The figures of a candidate layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerScore {
    /// The layer, 0-based.
    pub layer: usize,
    /// Held-out area under the ROC curve along the fitted direction.
    pub auroc: Interval,
    /// Held-out accuracy of the bias-free probe.
    pub probe_accuracy: Interval,
    /// Norm of the mean difference in units of the mean state norm.
    pub contrast: f64,
}

/// Returns the layers worth reading in a model of `num_hidden_layers` blocks: `2..=L−2`, in a shallow model
/// at least `L−3` and `L−2`; empty for a model of one block.
pub fn candidates(num_hidden_layers: usize) -> RangeInclusive<usize> {
    match num_hidden_layers {
        0 | 1 => RangeInclusive::new(1, 0),
        layers => 2.min(layers.saturating_sub(3))..=layers - 2,
    }
}

/// Returns the `top_k` best layers, best first.
///
/// Ties go to the smaller layer, except under [`SelectionRule::Contrast`], where contrast breaks them.
/// `spread`: least distance between any two of the layers chosen.
pub fn select(
    scores: &[LayerScore],
    rule: SelectionRule,
    top_k: usize,
    spread: usize,
) -> Vec<usize> {
    let best_low = scores
        .iter()
        .max_by(|a, b| a.auroc.estimate.total_cmp(&b.auroc.estimate))
        .map_or(0.0, |best| best.auroc.low);
    let mut order: Vec<&LayerScore> = scores.iter().collect();
    order.sort_by(|a, b| {
        let by_rule = match rule {
            SelectionRule::Contrast => {
                let level = |score: &LayerScore| score.auroc.estimate >= best_low;
                level(b).cmp(&level(a)).then_with(|| match level(a) {
                    true => b.contrast.total_cmp(&a.contrast),
                    false => b.auroc.estimate.total_cmp(&a.auroc.estimate),
                })
            }
            SelectionRule::Auroc => b.auroc.estimate.total_cmp(&a.auroc.estimate),
            SelectionRule::ProbeAccuracy => b
                .probe_accuracy
                .estimate
                .total_cmp(&a.probe_accuracy.estimate),
        };
        by_rule.then_with(|| a.layer.cmp(&b.layer)) as Ordering
    });
    let mut chosen: Vec<usize> = Vec::new();
    for score in order {
        if chosen.len() < top_k
            && chosen
                .iter()
                .all(|&layer| layer.abs_diff(score.layer) >= spread)
        {
            chosen.push(score.layer);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn score(layer: usize, auroc: f64, half: f64, accuracy: f64, contrast: f64) -> LayerScore {
        let estimate = |estimate: f64, half: f64| Interval {
            estimate,
            low: estimate - half,
            high: estimate + half,
        };
        LayerScore {
            layer,
            auroc: estimate(auroc, half),
            probe_accuracy: estimate(accuracy, 0.05),
            contrast,
        }
    }

    #[test]
    fn candidates_leave_out_both_ends() {
        assert_eq!(candidates(32), 2..=30);
        assert_eq!(candidates(6), 2..=4);
        assert_eq!(candidates(4), 1..=2);
        assert_eq!(candidates(3), 0..=1);
        assert_eq!(candidates(2), 0..=0);
        assert!(candidates(1).is_empty());
    }

    #[test]
    fn saturated_layers_are_told_apart_by_contrast() {
        let scores = [
            score(2, 0.999, 0.004, 0.97, 0.05),
            score(3, 0.996, 0.004, 0.99, 0.20),
            score(4, 0.997, 0.004, 0.96, 0.41),
            score(5, 0.900, 0.030, 0.95, 0.90),
        ];
        assert_eq!(select(&scores, SelectionRule::Contrast, 2, 1), [4, 3]);
        assert_eq!(select(&scores, SelectionRule::Auroc, 2, 1), [2, 4]);
        assert_eq!(select(&scores, SelectionRule::ProbeAccuracy, 2, 1), [3, 2]);
        assert_eq!(select(&scores, SelectionRule::Contrast, 4, 1), [4, 3, 2, 5]);
        assert_eq!(select(&scores, SelectionRule::Contrast, 3, 2), [4, 2]);
    }

    #[test]
    fn ties_go_to_the_smaller_layer() {
        let scores = [score(4, 0.9, 0.1, 0.9, 0.3), score(3, 0.9, 0.1, 0.9, 0.3)];
        for rule in [
            SelectionRule::Contrast,
            SelectionRule::Auroc,
            SelectionRule::ProbeAccuracy,
        ] {
            assert_eq!(select(&scores, rule, 1, 1), [3]);
        }
    }
}
