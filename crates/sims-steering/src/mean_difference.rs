//! The mean difference: the mean chosen state minus the mean rejected state, at its raw length.
//!
//! Contrastive activation addition (Panickssery et al. 2023, arXiv 2312.06681); where the source reads one
//! position of each text, responses are averaged over their positions first.

use crate::FitError;
use crate::device_states::DeviceStates;
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

/// Fits the mean difference to the given rows; weighted, where the pairs have [weights](PairedStates::with_weights):
/// `Σ w (ā⁺ − ā⁻) / Σ w`.
///
/// # Errors
/// [`FitError::EmptyClass`] without rows, [`FitError::NonFinite`] for a bad state, and
/// [`FitError::IdenticalClasses`] if the difference is below 1e-6 of the mean state norm.
pub fn fit(
    states: &PairedStates<'_>,
    rows: &[usize],
    averaging: Averaging,
) -> Result<MeanDifference, FitError> {
    let fitted = match states.device() {
        Some(device) => on_device(states, device, rows, averaging)?,
        None => on_host(states, rows, averaging)?,
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

fn on_host(
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
    Ok(MeanDifference {
        vector: match weighted(states, rows, averaging) {
            Some(vector) => vector,
            None => chosen.iter().zip(&rejected).map(|(a, b)| a - b).collect(),
        },
        state_norm: (chosen_norm + rejected_norm) / 2.0,
    })
}

/// The same as one product: every row has a weight.
fn on_device(
    states: &PairedStates<'_>,
    device: &DeviceStates,
    rows: &[usize],
    averaging: Averaging,
) -> Result<MeanDifference, FitError> {
    if rows.is_empty() {
        return Err(FitError::EmptyClass { class: "chosen" });
    }
    let weights_of = |equal: bool| {
        let mut weights = vec![0.0; states.rows()];
        for pair in rows.chunk_by(|&left, &right| states.pair(left) == states.pair(right)) {
            let given = if equal { None } else { states.weight(pair[0]) };
            let of_row = match averaging {
                Averaging::TwoLevel => given.unwrap_or(1.0) / pair.len() as f64,
                Averaging::Flat => given.unwrap_or(1.0),
            };
            pair.iter().for_each(|&row| weights[row] = of_row);
        }
        weights
    };
    let mut weights = weights_of(false);
    if weights.iter().sum::<f64>() <= 0.0 {
        weights = weights_of(true);
    }
    let total: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= total);
    let negated = weights.iter().map(|weight| -weight).collect();
    Ok(MeanDifference {
        vector: states.combined(device, [weights, negated])?,
        state_norm: states.mean_norm(rows),
    })
}

/// Returns the weighted mean of the pairs' differences, `[hidden]`; none where all pairs weigh the same.
///
/// A pair's difference is that of its rows' means, or under [`Averaging::Flat`] counts once a row.
fn weighted(states: &PairedStates<'_>, rows: &[usize], averaging: Averaging) -> Option<Vec<f64>> {
    let mut sum = vec![0.0; states.hidden()];
    let mut total = 0.0;
    for pair in rows.chunk_by(|&left, &right| states.pair(left) == states.pair(right)) {
        let weight = states.weight(pair[0])?;
        let count = pair.len() as f64;
        let of_row = match averaging {
            Averaging::TwoLevel => weight / count,
            Averaging::Flat => weight,
        };
        total += of_row * count;
        for &row in pair {
            let states = states.chosen(row).iter().zip(states.rejected(row));
            for (sum, (&chosen, &rejected)) in sum.iter_mut().zip(states) {
                *sum += of_row * (f64::from(chosen) - f64::from(rejected));
            }
        }
    }
    (total > 0.0).then(|| sum.into_iter().map(|sum| sum / total).collect())
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

    /// Pair 0 has two rows, pair 1 one; differences 1, 3 and 6.
    #[test]
    fn weights_are_those_of_pairs() {
        let (positive, negative) = ([2.0f32, 4.0, 7.0], [1.0f32, 1.0, 1.0]);
        let states = PairedStates::new(1, &positive, &negative, &[0, 0, 1], &[0, 0, 1]).unwrap();
        let fitted = |weights, averaging| {
            fit(&states.with_weights(weights), &[0, 1, 2], averaging)
                .unwrap()
                .vector[0]
        };
        // Two-level: differences 2 and 6 of the pairs.
        assert!((fitted(&[3.0, 1.0], Averaging::TwoLevel) - 3.0).abs() < 1e-12);
        assert!((fitted(&[3.0, 1.0], Averaging::Flat) - (3.0 + 9.0 + 6.0) / 7.0).abs() < 1e-12);
        assert!((fitted(&[0.0, 2.0], Averaging::TwoLevel) - 6.0).abs() < 1e-12);
        // Equal weights are no weights, up to rounding.
        for averaging in [Averaging::TwoLevel, Averaging::Flat] {
            assert!((fitted(&[0.5, 0.5], averaging) - fitted(&[], averaging)).abs() < 1e-12);
        }
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
