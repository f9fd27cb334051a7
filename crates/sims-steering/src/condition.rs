//! When to steer: a condition on the prompt, decided once for each sequence.
//!
//! Conditional activation steering (Lee et al. 2024, arXiv 2409.05907). Its source compares the mean prompt state
//! with its own squashed projection; ours is `cos(h̄ − center, direction) > threshold` with a signed threshold, since
//! the squashing saturates on large states. Its verdict is global and read from the first sequence of a batch; ours
//! is each sequence's own. The hook decides it during the prefill.

use crate::SteeringError;
use crate::real::{all_finite, norm};

/// A condition that holds if any of its blocks' does.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    blocks: Vec<ConditionBlock>,
}

/// What is asked of a prompt's mean state at one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct ConditionBlock {
    layer: usize,
    center: Vec<f32>,
    direction: Vec<f32>,
    threshold: f64,
}

impl ConditionBlock {
    /// Asks for `cos(h̄ − center, direction) > threshold` at the output of block `layer`, 0-based.
    ///
    /// `center`, `direction`: `[hidden]`, f32. `h̄` is the mean state of the prompt's tokens but its last, none of
    /// which a steering ever edits.
    ///
    /// # Errors
    /// [`SteeringError::HiddenSize`] if the lengths differ, [`SteeringError::Degenerate`] for a direction of no
    /// length, a number that is not finite, or a threshold outside `[−1, 1)`, which no cosine or every one exceeds.
    pub fn new(
        layer: usize,
        center: Vec<f32>,
        direction: Vec<f32>,
        threshold: f64,
    ) -> Result<Self, SteeringError> {
        if center.len() != direction.len() {
            return Err(SteeringError::HiddenSize {
                expected: direction.len(),
                found: center.len(),
            });
        }
        let degenerate = |what, value| Err(SteeringError::Degenerate { what, value });
        if !all_finite(&center) {
            return degenerate("the condition's center", f64::NAN);
        }
        let length = norm(&direction);
        if !(length.is_finite() && length > 0.0) {
            return degenerate("the length of the condition's direction", length);
        }
        if !(-1.0..1.0).contains(&threshold) {
            return degenerate("the condition's threshold, which is a cosine,", threshold);
        }
        Ok(Self {
            layer,
            center,
            direction,
            threshold,
        })
    }

    /// Returns the layer whose states are read.
    pub fn layer(&self) -> usize {
        self.layer
    }

    /// Returns what is taken from the mean state first, `[hidden]`.
    pub fn center(&self) -> &[f32] {
        &self.center
    }

    /// Returns the direction, `[hidden]`.
    pub fn direction(&self) -> &[f32] {
        &self.direction
    }

    /// Returns the cosine above which the condition holds.
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    /// Returns `cos(mean − center, direction)`; 0 for a mean at the center.
    pub fn similarity(&self, mean: &[f64]) -> f64 {
        let (mut product, mut squares) = (0.0, 0.0);
        for ((&x, &center), &direction) in mean.iter().zip(&self.center).zip(&self.direction) {
            let centred = x - f64::from(center);
            product += centred * f64::from(direction);
            squares += centred * centred;
        }
        match squares.sqrt() * norm(&self.direction) {
            0.0 => 0.0,
            norms => product / norms,
        }
    }

    /// Returns whether the condition holds for a mean state, `[hidden]`.
    pub fn holds(&self, mean: &[f64]) -> bool {
        self.similarity(mean) > self.threshold
    }
}

impl Condition {
    /// Joins blocks; the condition holds if one of theirs does.
    ///
    /// # Errors
    /// [`SteeringError::NoCondition`] without blocks.
    pub fn new(blocks: Vec<ConditionBlock>) -> Result<Self, SteeringError> {
        if blocks.is_empty() {
            return Err(SteeringError::NoCondition);
        }
        Ok(Self { blocks })
    }

    /// Returns the blocks.
    pub fn blocks(&self) -> &[ConditionBlock] {
        &self.blocks
    }

    /// Checks that the condition can be decided before `layer` of a model is edited.
    ///
    /// # Errors
    /// [`SteeringError::HiddenSize`] for another width; [`SteeringError::LateCondition`] for a block above `layer`.
    pub(crate) fn check(&self, layer: usize, hidden_size: usize) -> Result<(), SteeringError> {
        for block in &self.blocks {
            if block.direction.len() != hidden_size {
                return Err(SteeringError::HiddenSize {
                    expected: hidden_size,
                    found: block.direction.len(),
                });
            }
            if block.layer > layer {
                return Err(SteeringError::LateCondition {
                    condition: block.layer,
                    edit: layer,
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn similarity_is_the_cosine_about_the_center() {
        let block = ConditionBlock::new(2, vec![1.0, 1.0], vec![0.0, 2.0], 0.5).unwrap();
        assert_eq!(block.similarity(&[1.0, 4.0]), 1.0);
        assert!((block.similarity(&[4.0, 5.0]) - 0.8).abs() < 1e-12);
        assert_eq!(block.similarity(&[1.0, 1.0]), 0.0);
        assert!(block.holds(&[4.0, 5.0]) && !block.holds(&[4.0, 1.0]));
    }

    #[test]
    fn broken_conditions_are_refused() {
        let refused = |center: Vec<f32>, direction: Vec<f32>, threshold| {
            ConditionBlock::new(0, center, direction, threshold)
                .unwrap_err()
                .to_string()
        };
        let text = refused(vec![0.0; 2], vec![0.0; 2], 0.0);
        assert_eq!(text, "the length of the condition's direction is 0");
        let text = refused(vec![0.0; 2], vec![1.0; 2], 1.0);
        assert!(
            text.contains("threshold, which is a cosine, is 1"),
            "{text}"
        );
        let text = refused(vec![0.0; 2], vec![1.0; 2], f64::NAN);
        assert!(text.contains("NaN"), "{text}");
        let text = refused(vec![f32::INFINITY, 0.0], vec![1.0; 2], 0.0);
        assert!(text.contains("center"), "{text}");
        let text = refused(vec![0.0; 3], vec![1.0; 2], 0.0);
        assert!(text.contains("hidden size 2, but 3"), "{text}");
        assert!(Condition::new(Vec::new()).is_err());
    }
}
