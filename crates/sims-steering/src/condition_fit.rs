//! Fits a condition: which prompts to steer, told from the others by their mean states.
//!
//! The direction points from the mean of the prompts to leave alone to that of the prompts to steer, about the middle
//! of both; the threshold is the one with the best F1 on held-out prompts.

use crate::FitError;
use crate::condition::ConditionBlock;

/// Classes whose means differ by less than this share of the state norm are identical.
const IDENTICAL: f64 = 1e-6;
/// Thresholds tried lie this far apart, from −1 up to 1.
const STEPS: i32 = 100;

/// Mean prompt states of one half, `[hidden]` each.
#[derive(Debug, Clone, Default)]
pub struct PromptStates<'a> {
    /// Of prompts to steer.
    pub inside: Vec<&'a [f32]>,
    /// Of prompts to leave alone.
    pub outside: Vec<&'a [f32]>,
}

/// A fitted block and what it is worth.
#[derive(Debug, Clone, PartialEq)]
pub struct FittedBlock {
    /// The block.
    pub block: ConditionBlock,
    /// F1 of the fit half at the threshold: harmonic mean of precision and recall of prompts to steer.
    pub fit_f1: f64,
    /// F1 of the held-out half, the best of all thresholds.
    pub held_out_f1: f64,
}

/// Fits the block of one layer: the direction to `fit`, the threshold to `held_out`.
///
/// Of thresholds with the same F1 the middle one of the longest run is taken, the lower of two.
///
/// # Errors
/// [`FitError::EmptyClass`] if a class of a half has no prompts, [`FitError::NonFinite`] for a bad state,
/// [`FitError::IdenticalClasses`] if the class means agree.
pub fn fit(
    layer: usize,
    fit: &PromptStates<'_>,
    held_out: &PromptStates<'_>,
) -> Result<FittedBlock, FitError> {
    for (class, states) in [
        ("inside", &fit.inside),
        ("outside", &fit.outside),
        ("inside", &held_out.inside),
        ("outside", &held_out.outside),
    ] {
        if states.is_empty() {
            return Err(FitError::EmptyClass { class });
        }
        if let Some(row) = states
            .iter()
            .position(|state| !crate::real::all_finite(state))
        {
            return Err(FitError::NonFinite { row: row as u64 });
        }
    }
    let (inside, outside) = (mean(&fit.inside), mean(&fit.outside));
    let between = |share: f64| -> Vec<f64> {
        let pairs = inside.iter().zip(&outside);
        pairs.map(|(a, b)| share * a + (1.0 - share) * b).collect()
    };
    let length = |vector: &[f64]| vector.iter().map(|x| x * x).sum::<f64>().sqrt();
    let direction: Vec<f64> = inside.iter().zip(&outside).map(|(a, b)| a - b).collect();
    let (difference, state_norm) = (
        length(&direction),
        (length(&inside) + length(&outside)) / 2.0,
    );
    if difference <= IDENTICAL * state_norm {
        return Err(FitError::IdenticalClasses {
            difference,
            state_norm,
        });
    }
    let rounded = |vector: Vec<f64>| -> Vec<f32> { vector.iter().map(|&x| x as f32).collect() };
    let (center, direction) = (rounded(between(0.5)), rounded(direction));
    let block = |threshold| {
        ConditionBlock::new(layer, center.clone(), direction.clone(), threshold)
            .map_err(FitError::from)
    };
    let first = block(-1.0)?;
    let cosines = |states: &[&[f32]]| -> Vec<f64> {
        let wide = |state: &&[f32]| -> Vec<f64> { state.iter().map(|&x| f64::from(x)).collect() };
        states
            .iter()
            .map(|state| first.similarity(&wide(state)))
            .collect()
    };
    let held_out = [cosines(&held_out.inside), cosines(&held_out.outside)];
    let fit = [cosines(&fit.inside), cosines(&fit.outside)];
    let scores: Vec<f64> = (-STEPS..STEPS)
        .map(|step| f1(&held_out, f64::from(step) / f64::from(STEPS)))
        .collect();
    let at = middle_of_best(&scores);
    let threshold = f64::from(at as i32 - STEPS) / f64::from(STEPS);
    Ok(FittedBlock {
        block: block(threshold)?,
        fit_f1: f1(&fit, threshold),
        held_out_f1: scores[at],
    })
}

fn mean(states: &[&[f32]]) -> Vec<f64> {
    let mut mean = vec![0.0; states[0].len()];
    for state in states {
        for (sum, &x) in mean.iter_mut().zip(*state) {
            *sum += f64::from(x) / states.len() as f64;
        }
    }
    mean
}

/// Returns the F1 of taking every cosine above the threshold for inside.
fn f1([inside, outside]: &[Vec<f64>; 2], threshold: f64) -> f64 {
    let above = |cosines: &[f64]| cosines.iter().filter(|&&x| x > threshold).count() as f64;
    let (right, wrong) = (above(inside), above(outside));
    2.0 * right / (right + wrong + inside.len() as f64)
}

/// Returns the middle of the longest run of largest numbers; the first of equally long runs.
fn middle_of_best(scores: &[f64]) -> usize {
    let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let (mut longest, mut start) = (0..0, 0);
    for end in 1..=scores.len() {
        if scores[end - 1] != best {
            start = end;
        } else if end - start > longest.len() {
            longest = start..end;
        }
    }
    (longest.start + longest.end - 1) / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_lie_in_the_middle_of_the_best() {
        assert_eq!(middle_of_best(&[0.5, 0.9, 0.2, 0.9, 0.9, 0.9, 0.1]), 4);
        assert_eq!(middle_of_best(&[0.9, 0.9, 0.1, 0.9, 0.9]), 0);
        let cosines = [vec![0.9, 0.1, -0.2], vec![0.3, -0.9]];
        // Two of three are taken, and one that should not be.
        assert!((f1(&cosines, 0.0) - 4.0 / 6.0).abs() < 1e-12);
        assert_eq!(f1(&cosines, 0.95), 0.0);
    }

    #[test]
    fn prompts_apart_are_told_apart() {
        let (inside, outside) = ([[5.0f32, 1.0], [5.2, 0.8]], [[1.0f32, 1.2], [0.8, 0.9]]);
        let half = PromptStates {
            inside: inside.iter().map(|state| &state[..]).collect(),
            outside: outside.iter().map(|state| &state[..]).collect(),
        };
        let fitted = fit(3, &half, &half).unwrap();
        assert_eq!((fitted.fit_f1, fitted.held_out_f1), (1.0, 1.0));
        assert_eq!(fitted.block.layer(), 3);
        assert!(fitted.block.threshold().abs() < 0.05);
        assert!(fitted.block.holds(&[4.0, 1.0]) && !fitted.block.holds(&[2.0, 1.0]));

        let refused = |half: &PromptStates<'_>| fit(3, half, half).unwrap_err();
        let same = PromptStates {
            outside: half.inside.clone(),
            ..half.clone()
        };
        assert!(matches!(refused(&same), FitError::IdenticalClasses { .. }));
        let none = PromptStates {
            outside: Vec::new(),
            ..half.clone()
        };
        assert!(matches!(
            refused(&none),
            FitError::EmptyClass { class: "outside" }
        ));
        let broken = PromptStates {
            inside: vec![&[1.0, f32::NAN]],
            ..half
        };
        assert!(matches!(refused(&broken), FitError::NonFinite { row: 0 }));
    }
}
