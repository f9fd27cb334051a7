//! Inference-time intervention: which attention heads tell chosen from rejected states, and where to push them.
//!
//! For each head a logistic probe with a bias, scikit-learn's objective at `C = 1` on the heads' outputs as they are;
//! the heads with the highest held-out accuracy are shifted by `α·σ·θ`, with `θ` the unit mean difference of the head
//! and `σ` the standard deviation of `θᵀa` over all states (Li et al. 2023, arXiv 2306.03341;
//! `likenneth/honest_llama:utils.py`). The source takes `α = 15` and 48 of Llama-7B's 1024 heads.

use crate::FitError;
use crate::angle_net::sigmoid;
use crate::device_states::{DeviceMatrix, DeviceStates};
use crate::paired_states::PairedStates;
use rayon::prelude::*;

/// What a head is pushed along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadDirection {
    /// The unit difference of the classes' means.
    MeanDifference,
    /// The unit weights of the head's probe.
    Probe,
}

/// One head of a layer.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadFit {
    /// The head, 0-based.
    pub head: usize,
    /// Unit vector to push along, `[head_dim]`.
    pub direction: Vec<f64>,
    /// Standard deviation of all states along it.
    pub deviation: f64,
    /// Weights and, last, the bias of the probe, `[head_dim + 1]`.
    pub probe: Vec<f64>,
    /// Share of held-out states on the probe's right side.
    pub accuracy: f64,
}

/// Fits every head of a layer to the rows `fit`, and measures its probe on the rows `held_out`.
///
/// `states`: rows `[num_attention_heads * head_dim]`. A head whose classes have the same mean is left out.
///
/// # Errors
/// [`FitError::EmptyClass`] if either half has no rows.
pub fn fit(
    states: &PairedStates<'_>,
    head_dim: usize,
    fit: &[usize],
    held_out: &[usize],
    along: HeadDirection,
) -> Result<Vec<HeadFit>, FitError> {
    if fit.is_empty() || held_out.is_empty() || head_dim == 0 {
        return Err(FitError::EmptyClass { class: "chosen" });
    }
    let heads = states.hidden() / head_dim;
    let fitted = |head: usize| fit_head(states, head, head_dim, fit, held_out, along).transpose();
    match states.device() {
        // A device takes one head after the other.
        Some(_) => (0..heads).filter_map(fitted).collect(),
        None => (0..heads).into_par_iter().filter_map(fitted).collect(),
    }
}

fn fit_head(
    states: &PairedStates<'_>,
    head: usize,
    head_dim: usize,
    fit: &[usize],
    held_out: &[usize],
    along: HeadDirection,
) -> Result<Option<HeadFit>, FitError> {
    let span = head * head_dim..(head + 1) * head_dim;
    let both = |row: usize| {
        [
            (&states.chosen(row)[span.clone()], 1.0),
            (&states.rejected(row)[span.clone()], -1.0),
        ]
    };
    let rows: Vec<(&[f32], f64)> = fit.iter().flat_map(|&row| both(row)).collect();
    let difference = mean_difference(&rows, head_dim);
    let matrix = match states.device() {
        Some(device) => Some(with_ones(&rows, head_dim, device)?),
        None => None,
    };
    let probe = Probe {
        rows: &rows,
        matrix,
    };
    let probe = probe.minimise(head_dim)?;
    let Some(direction) = unit(match along {
        HeadDirection::MeanDifference => &difference,
        HeadDirection::Probe => &probe[..head_dim],
    }) else {
        return Ok(None);
    };
    let all = fit.iter().chain(held_out).flat_map(|&row| both(row));
    let projections: Vec<f64> = all.map(|(state, _)| product(&direction, state)).collect();
    let count = projections.len() as f64;
    let mean = projections.iter().sum::<f64>() / count;
    let variance = projections.iter().map(|p| (p - mean).powi(2)).sum::<f64>() / count;
    let tested = held_out.iter().flat_map(|&row| both(row));
    let right = tested.filter(|(state, label)| (margin(&probe, state) > 0.0) == (*label > 0.0));
    Ok(Some(HeadFit {
        head,
        accuracy: right.count() as f64 / (2 * held_out.len()) as f64,
        deviation: variance.sqrt(),
        direction,
        probe,
    }))
}

/// Copies the rows to the device, a 1 after each for the bias: `[rows, head_dim + 1]`.
fn with_ones(
    rows: &[(&[f32], f64)],
    head_dim: usize,
    device: &DeviceStates,
) -> Result<DeviceMatrix, FitError> {
    let values: Vec<f64> = rows
        .iter()
        .flat_map(|(state, _)| state.iter().map(|&x| f64::from(x)).chain([1.0]))
        .collect();
    let device = device.device();
    Ok(DeviceMatrix::upload(&values, head_dim + 1, device)?)
}

/// Returns the unit mean differences of the given heads times their deviations, zeros at the others, `[hidden]`.
pub fn mean_shift(
    states: &PairedStates<'_>,
    head_dim: usize,
    heads: &[&HeadFit],
    rows: &[usize],
) -> Vec<f64> {
    let mut shift = vec![0.0; states.hidden()];
    for head in heads {
        let span = head.head * head_dim..(head.head + 1) * head_dim;
        let both = |&row: &usize| {
            [
                (&states.chosen(row)[span.clone()], 1.0),
                (&states.rejected(row)[span.clone()], -1.0),
            ]
        };
        let states: Vec<(&[f32], f64)> = rows.iter().flat_map(both).collect();
        if let Some(direction) = unit(&mean_difference(&states, head_dim)) {
            for (x, d) in shift[span.clone()].iter_mut().zip(direction) {
                *x = head.deviation * d;
            }
        }
    }
    shift
}

/// Mean of the states with label 1 minus mean of those with −1.
fn mean_difference(rows: &[(&[f32], f64)], width: usize) -> Vec<f64> {
    let mut difference = vec![0.0; width];
    for (state, label) in rows {
        for (sum, &x) in difference.iter_mut().zip(*state) {
            // As many of either class.
            *sum += label * f64::from(x) * 2.0 / rows.len() as f64;
        }
    }
    difference
}

fn unit(vector: &[f64]) -> Option<Vec<f64>> {
    let norm = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
    (norm > 1e-12).then(|| vector.iter().map(|x| x / norm).collect())
}

fn product(vector: &[f64], state: &[f32]) -> f64 {
    vector
        .iter()
        .zip(state)
        .map(|(v, &x)| v * f64::from(x))
        .sum()
}

/// Returns `wᵀx + b`; the bias is the last of the weights.
fn margin(weights: &[f64], state: &[f32]) -> f64 {
    product(weights, state) + weights.last().copied().unwrap_or(0.0)
}

/// `½‖w‖² + Σ log(1 + exp(−y(wᵀx + b)))`, whose bias has no penalty.
struct Probe<'a> {
    rows: &'a [(&'a [f32], f64)],
    /// The same rows on a device.
    matrix: Option<DeviceMatrix>,
}

impl Probe<'_> {
    const MAX_STEPS: usize = 100;
    /// Of the gradient's norm, against its first.
    const TOLERANCE: f64 = 1e-9;

    /// Newton's method with step halving; returns `[width + 1]`.
    fn minimise(&self, width: usize) -> Result<Vec<f64>, FitError> {
        let mut weights = vec![0.0; width + 1];
        let mut loss = self.loss(&weights)?;
        let mut first = None;
        for _ in 0..Self::MAX_STEPS {
            let (gradient, hessian) = self.derivatives(&weights)?;
            let norm = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
            if norm <= Self::TOLERANCE * *first.get_or_insert(norm) {
                break;
            }
            let step = solve(hessian, &gradient);
            let slope: f64 = gradient.iter().zip(&step).map(|(g, s)| g * s).sum();
            let mut length = 1.0;
            let accepted = loop {
                let moved = weights.iter().zip(&step);
                let candidate: Vec<f64> = moved.map(|(w, s)| w - length * s).collect();
                let found = self.loss(&candidate)?;
                if found <= loss - 1e-4 * length * slope {
                    break Some((candidate, found));
                }
                length *= 0.5;
                if length < 1e-10 {
                    break None;
                }
            };
            // Without one the loss no longer resolves the step: this is the minimum in double precision.
            let Some(accepted) = accepted else { break };
            (weights, loss) = accepted;
        }
        Ok(weights)
    }

    /// Returns `wᵀx + b` of every row.
    fn margins(&self, weights: &[f64]) -> Result<Vec<f64>, FitError> {
        Ok(match &self.matrix {
            Some(matrix) => matrix.times(weights)?,
            None => self
                .rows
                .iter()
                .map(|(state, _)| margin(weights, state))
                .collect(),
        })
    }

    fn loss(&self, weights: &[f64]) -> Result<f64, FitError> {
        let penalty: f64 = weights[..weights.len() - 1].iter().map(|w| w * w).sum();
        let margins = self.margins(weights)?;
        let losses = self.rows.iter().zip(margins).map(|((_, label), margin)| {
            let x = -label * margin;
            x.max(0.0) + (-x.abs()).exp().ln_1p()
        });
        Ok(0.5 * penalty + losses.sum::<f64>())
    }

    /// Returns the gradient, and the Hessian's lower triangle row by row, `[n, n]`.
    fn derivatives(&self, weights: &[f64]) -> Result<(Vec<f64>, Vec<f64>), FitError> {
        let n = weights.len();
        let mut gradient = weights.to_vec();
        let mut hessian = vec![0.0; n * n];
        // The bias has a penalty too small to move it, so that the Hessian of separable classes can be solved.
        gradient[n - 1] = 0.0;
        for i in 0..n {
            hessian[i * n + i] = if i + 1 < n { 1.0 } else { 1e-12 };
        }
        let margins = self.margins(weights)?;
        let wrongs = self.rows.iter().zip(margins);
        let wrongs = wrongs.map(|((_, label), margin)| sigmoid(-label * margin));
        if let Some(matrix) = &self.matrix {
            let wrongs: Vec<f64> = wrongs.collect();
            let labels = self.rows.iter().map(|(_, label)| label);
            let slopes: Vec<f64> = labels.zip(&wrongs).map(|(l, wrong)| -l * wrong).collect();
            let curvatures: Vec<f64> = wrongs.iter().map(|wrong| wrong * (1.0 - wrong)).collect();
            let added = matrix.transposed_times(&slopes)?;
            gradient.iter_mut().zip(added).for_each(|(g, x)| *g += x);
            let added = matrix.weighted_gram(&curvatures)?;
            hessian.iter_mut().zip(added).for_each(|(h, x)| *h += x);
            return Ok((gradient, hessian));
        }
        let mut features = vec![1.0; n];
        for ((state, label), wrong) in self.rows.iter().zip(wrongs) {
            for (feature, &x) in features.iter_mut().zip(*state) {
                *feature = f64::from(x);
            }
            let curvature = wrong * (1.0 - wrong);
            for i in 0..n {
                gradient[i] -= label * wrong * features[i];
                let weight = curvature * features[i];
                for (sum, feature) in hessian[i * n..=i * n + i].iter_mut().zip(&features) {
                    *sum += weight * feature;
                }
            }
        }
        Ok((gradient, hessian))
    }
}

/// Solves `H·x = b` by Cholesky's method; `matrix` has the lower triangle of the positive `H`.
fn solve(mut matrix: Vec<f64>, b: &[f64]) -> Vec<f64> {
    let n = b.len();
    for i in 0..n {
        for j in 0..=i {
            let sum: f64 = (0..j).map(|k| matrix[i * n + k] * matrix[j * n + k]).sum();
            let rest = matrix[i * n + j] - sum;
            matrix[i * n + j] = if i == j {
                rest.max(1e-300).sqrt()
            } else {
                rest / matrix[j * n + j]
            };
        }
    }
    let mut x = b.to_vec();
    for i in 0..n {
        let sum: f64 = (0..i).map(|k| matrix[i * n + k] * x[k]).sum();
        x[i] = (x[i] - sum) / matrix[i * n + i];
    }
    for i in (0..n).rev() {
        let sum: f64 = (i + 1..n).map(|k| matrix[k * n + i] * x[k]).sum();
        x[i] = (x[i] - sum) / matrix[i * n + i];
    }
    x
}
