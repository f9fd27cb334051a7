//! The mean difference: the mean chosen state minus the mean rejected state, at its raw length.
//!
//! Contrastive activation addition (Panickssery et al. 2023, arXiv 2312.06681); where the source reads one
//! position of each text, responses are averaged over their positions first.

use crate::FitError;
use crate::moments::{Averaging, TwoLevelMean};
use crate::paired_states::PairedStates;

/// Classes whose means differ by less than this share of the state norm are identical.
const IDENTICAL: f64 = 1e-6;

/// A fitted mean difference.
#[derive(Debug, Clone, PartialEq)]
pub struct MeanDifference {
    /// Mean chosen state minus mean rejected state, `[hidden]`.
    pub vector: Vec<f64>,
    /// Mean norm of the states of both classes.
    pub state_norm: f64,
}

impl MeanDifference {
    /// Returns the length of the difference.
    pub fn norm(&self) -> f64 {
        self.vector.iter().map(|v| v * v).sum::<f64>().sqrt()
    }

    /// Returns the difference times `factor`, rounded to `f32`.
    pub fn scaled(&self, factor: f64) -> Vec<f32> {
        self.vector.iter().map(|v| (factor * v) as f32).collect()
    }
}

/// Fits the mean difference to the given rows.
///
/// # Errors
/// [`FitError::EmptyClass`] without rows, [`FitError::NonFinite`] for a bad state, and
/// [`FitError::IdenticalClasses`] if the difference is below 1e-6 of the mean state norm.
pub fn fit(
    states: &PairedStates<'_>,
    rows: &[usize],
    averaging: Averaging,
) -> Result<MeanDifference, FitError> {
    let mut chosen = TwoLevelMean::new(states.hidden(), averaging);
    let mut rejected = TwoLevelMean::new(states.hidden(), averaging);
    for &row in rows {
        let pair = u64::from(states.pair(row));
        chosen.push(pair, states.chosen(row))?;
        rejected.push(pair, states.rejected(row))?;
    }
    let (chosen, chosen_norm) = chosen.finish("chosen")?;
    let (rejected, rejected_norm) = rejected.finish("rejected")?;
    let fitted = MeanDifference {
        vector: chosen.iter().zip(&rejected).map(|(a, b)| a - b).collect(),
        state_norm: (chosen_norm + rejected_norm) / 2.0,
    };
    let difference = fitted.norm();
    if difference <= IDENTICAL * fitted.state_norm {
        return Err(FitError::IdenticalClasses {
            difference,
            state_norm: fitted.state_norm,
        });
    }
    Ok(fitted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{NormalDraw, stream};

    /// T01: the planted direction and its length are found.
    #[test]
    fn planted_direction_is_found() {
        let (hidden, count, gap) = (64, 4000, 2.0);
        let mut stream = stream(1, "planted");
        let direction: Vec<f64> = {
            let draw: Vec<f64> = (0..hidden).map(|_| stream.normal()).collect();
            let length = draw.iter().map(|x| x * x).sum::<f64>().sqrt();
            draw.iter().map(|x| x / length).collect()
        };
        let mut class = |sign: f64| -> Vec<f32> {
            (0..count)
                .flat_map(|_| {
                    direction
                        .iter()
                        .map(|u| (sign * gap / 2.0 * u + stream.normal()) as f32)
                        .collect::<Vec<_>>()
                })
                .collect()
        };
        let (positive, negative) = (class(1.0), class(-1.0));
        let numbers: Vec<u32> = (0..count).collect();
        let states = PairedStates::new(hidden, &positive, &negative, &numbers, &numbers).unwrap();
        let rows: Vec<usize> = (0..count as usize).collect();
        let fitted = fit(&states, &rows, Averaging::TwoLevel).unwrap();
        let cosine = fitted
            .vector
            .iter()
            .zip(&direction)
            .map(|(v, u)| v * u)
            .sum::<f64>()
            / fitted.norm();
        assert!(cosine > 0.99, "cosine {cosine}");
        assert!(
            (fitted.norm() / gap - 1.0).abs() < 0.05,
            "norm {}",
            fitted.norm()
        );
        assert!(
            (fitted.state_norm - 8.06).abs() < 0.1,
            "state norm {}",
            fitted.state_norm
        );
    }

    /// T04: identical pairs are refused, whatever their size.
    #[test]
    fn identical_classes_are_refused() {
        let states = [1e6f32, 2e6, 1e6, 2e6];
        let states = PairedStates::new(2, &states, &states, &[0, 1], &[0, 1]).unwrap();
        let error = fit(&states, &[0, 1], Averaging::TwoLevel).unwrap_err();
        assert!(matches!(
            error,
            FitError::IdenticalClasses {
                difference: 0.0,
                ..
            }
        ));
        let error = fit(&states, &[], Averaging::TwoLevel).unwrap_err();
        assert!(matches!(error, FitError::EmptyClass { class: "chosen" }));
    }
}
