//! The bias-free logistic probe: the plane through the origin that tells chosen from rejected states.
//!
//! Minimises scikit-learn's objective, `½‖w‖² + C·Σ log(1 + exp(−y·wᵀx))`, which is convex, by Newton
//! steps with conjugate gradients: only products with rows are formed, never a `hidden × hidden` matrix.

use crate::FitError;
use crate::angle_net::sigmoid;
use crate::device_states::DeviceStates;
use crate::paired_states::PairedStates;

/// A fitted probe.
#[derive(Debug, Clone, PartialEq)]
pub struct Probe {
    /// Weights in the states' own scale, `[hidden]`; chosen states have a positive product.
    pub weight: Vec<f64>,
    /// Newton steps taken.
    pub steps: usize,
}

/// Newton steps after which the fit ends anyway.
const MAX_STEPS: usize = 100;
/// The fit ends when the gradient has shrunk to this share of its first norm.
const TOLERANCE: f64 = 1e-8;

/// Fits the probe to the given rows of both classes.
///
/// Rows are scaled by `√hidden / mean norm`, so that `inverse_penalty` (scikit-learn's `C`) means the same
/// at every layer; the weights returned are for the states as they are.
///
/// # Errors
/// [`FitError::EmptyClass`] without rows; [`FitError::IdenticalClasses`] if the weights vanish.
pub fn fit(
    states: &PairedStates<'_>,
    rows: &[usize],
    inverse_penalty: f64,
) -> Result<Probe, FitError> {
    if rows.is_empty() {
        return Err(FitError::EmptyClass { class: "chosen" });
    }
    let state_norm = states.mean_norm(rows);
    if state_norm == 0.0 {
        return Err(FitError::IdenticalClasses {
            difference: 0.0,
            state_norm,
        });
    }
    let problem = Problem {
        states,
        rows,
        scale: (states.hidden() as f64).sqrt() / state_norm,
        inverse_penalty,
    };
    let (weight, steps) = problem.minimise()?;
    let length = product(&weight, &weight).sqrt();
    if length < 1e-8 {
        return Err(FitError::IdenticalClasses {
            difference: length,
            state_norm,
        });
    }
    Ok(Probe {
        weight: weight.iter().map(|w| w * problem.scale).collect(),
        steps,
    })
}

struct Problem<'a> {
    states: &'a PairedStates<'a>,
    rows: &'a [usize],
    scale: f64,
    inverse_penalty: f64,
}

impl Problem<'_> {
    /// Calls `visit` with each scaled state's label and components, always in the same order.
    fn each(&self, mut visit: impl FnMut(f64, &[f32])) {
        for &row in self.rows {
            visit(1.0, self.states.chosen(row));
            visit(-1.0, self.states.rejected(row));
        }
    }

    fn margin(&self, weight: &[f64], state: &[f32]) -> f64 {
        self.scale * mixed_product(weight, state)
    }

    /// Returns the states' products with a vector in the order of [`each`](Self::each), if they are on a device.
    fn margins_on_device(&self, vector: &[f64]) -> Result<Option<Vec<f64>>, FitError> {
        let Some(device) = self.states.device() else {
            return Ok(None);
        };
        let [chosen, rejected] = self.states.projected(device, vector)?;
        let both = |&row: &usize| [self.scale * chosen[row], self.scale * rejected[row]];
        Ok(Some(self.rows.iter().flat_map(both).collect()))
    }

    /// Adds the states, each times its weight, to `sum`; on the device.
    fn add_on_device(
        &self,
        device: &DeviceStates,
        weights: &[f64],
        sum: &mut [f64],
    ) -> Result<(), FitError> {
        let mut by_class = [0, 1].map(|_| vec![0.0; self.states.rows()]);
        for (&row, weights) in self.rows.iter().zip(weights.chunks_exact(2)) {
            by_class[0][row] = weights[0];
            by_class[1][row] = weights[1];
        }
        let added = self.states.combined(device, by_class)?;
        sum.iter_mut().zip(added).for_each(|(sum, x)| *sum += x);
        Ok(())
    }

    fn loss(&self, weight: &[f64]) -> Result<f64, FitError> {
        let mut sum = 0.0;
        match self.margins_on_device(weight)? {
            Some(margins) => labelled(&margins, |label, margin| sum += softplus(-label * margin)),
            None => self.each(|label, state| sum += softplus(-label * self.margin(weight, state))),
        }
        Ok(0.5 * product(weight, weight) + self.inverse_penalty * sum)
    }

    /// Returns the gradient, and each state's curvature `σ(1 − σ)`.
    fn gradient(&self, weight: &[f64]) -> Result<(Vec<f64>, Vec<f64>), FitError> {
        let mut gradient = weight.to_vec();
        let mut curvature = Vec::with_capacity(2 * self.rows.len());
        // A state's factor in the gradient.
        let mut factor = |label: f64, margin: f64| {
            let wrong = sigmoid(-label * margin);
            curvature.push(wrong * (1.0 - wrong));
            -self.inverse_penalty * label * wrong * self.scale
        };
        match (self.states.device(), self.margins_on_device(weight)?) {
            (Some(device), Some(margins)) => {
                let mut factors = Vec::with_capacity(margins.len());
                labelled(&margins, |label, margin| {
                    factors.push(factor(label, margin))
                });
                self.add_on_device(device, &factors, &mut gradient)?;
            }
            _ => self.each(|label, state| {
                let factor = factor(label, self.margin(weight, state));
                add_scaled(&mut gradient, factor, state);
            }),
        }
        Ok((gradient, curvature))
    }

    /// Multiplies a vector by the Hessian.
    fn curve(&self, curvature: &[f64], vector: &[f64]) -> Result<Vec<f64>, FitError> {
        let mut result = vector.to_vec();
        if let (Some(device), Some(margins)) =
            (self.states.device(), self.margins_on_device(vector)?)
        {
            let weights = curvature.iter().zip(&margins);
            let weights: Vec<f64> = weights
                .map(|(curvature, margin)| curvature * self.inverse_penalty * self.scale * margin)
                .collect();
            self.add_on_device(device, &weights, &mut result)?;
            return Ok(result);
        }
        let mut next = curvature.iter();
        self.each(|_, state| {
            let weight = next.next().copied().unwrap_or(0.0) * self.inverse_penalty * self.scale;
            add_scaled(&mut result, weight * self.margin(vector, state), state);
        });
        Ok(result)
    }

    fn minimise(&self) -> Result<(Vec<f64>, usize), FitError> {
        let mut weight = vec![0.0; self.states.hidden()];
        let mut loss = self.loss(&weight)?;
        let mut first_norm = None;
        for step in 0..MAX_STEPS {
            let (gradient, curvature) = self.gradient(&weight)?;
            let norm = product(&gradient, &gradient).sqrt();
            let first = *first_norm.get_or_insert(norm);
            if norm <= TOLERANCE * first || norm == 0.0 {
                return Ok((weight, step));
            }
            let tolerance = (norm / first).sqrt().min(0.1) * norm;
            let direction = self.conjugate_gradients(&curvature, &gradient, tolerance)?;
            let slope = product(&gradient, &direction);
            let mut length = 1.0;
            let accepted = loop {
                let candidate: Vec<f64> = weight
                    .iter()
                    .zip(&direction)
                    .map(|(w, d)| w + length * d)
                    .collect();
                let candidate_loss = self.loss(&candidate)?;
                if candidate_loss <= loss + 1e-4 * length * slope {
                    break Some((candidate, candidate_loss));
                }
                length *= 0.5;
                if length < 1e-10 {
                    break None;
                }
            };
            match accepted {
                Some((candidate, candidate_loss)) => (weight, loss) = (candidate, candidate_loss),
                // The loss no longer resolves the step: this is the minimum in double precision.
                None => return Ok((weight, step)),
            }
        }
        Ok((weight, MAX_STEPS))
    }

    /// Solves `H·d = −g` until the residual is below `tolerance`.
    fn conjugate_gradients(
        &self,
        curvature: &[f64],
        gradient: &[f64],
        tolerance: f64,
    ) -> Result<Vec<f64>, FitError> {
        let mut solution = vec![0.0; gradient.len()];
        let mut residual: Vec<f64> = gradient.iter().map(|g| -g).collect();
        let mut direction = residual.clone();
        let mut squared = product(&residual, &residual);
        for _ in 0..gradient.len().min(250) {
            if squared.sqrt() <= tolerance {
                break;
            }
            let curved = self.curve(curvature, &direction)?;
            let length = squared / product(&direction, &curved);
            for index in 0..solution.len() {
                solution[index] += length * direction[index];
                residual[index] -= length * curved[index];
            }
            let next = product(&residual, &residual);
            for (d, r) in direction.iter_mut().zip(&residual) {
                *d = r + next / squared * *d;
            }
            squared = next;
        }
        Ok(solution)
    }
}

/// Calls `visit` with the label of each state, chosen and rejected in turn, and its margin.
fn labelled(margins: &[f64], mut visit: impl FnMut(f64, f64)) {
    for both in margins.chunks_exact(2) {
        visit(1.0, both[0]);
        visit(-1.0, both[1]);
    }
}

fn product(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}

/// Product of an `f64` and an `f32` row, over eight lanes in a fixed order.
fn mixed_product(a: &[f64], b: &[f32]) -> f64 {
    let mut lanes = [0.0f64; 8];
    let (a_blocks, b_blocks) = (a.chunks_exact(8), b.chunks_exact(8));
    let tail: f64 = a_blocks
        .remainder()
        .iter()
        .zip(b_blocks.remainder())
        .map(|(x, &y)| x * f64::from(y))
        .sum();
    for (x, y) in a_blocks.zip(b_blocks) {
        for lane in 0..8 {
            lanes[lane] += x[lane] * f64::from(y[lane]);
        }
    }
    lanes.iter().sum::<f64>() + tail
}

fn add_scaled(target: &mut [f64], factor: f64, row: &[f32]) {
    for (value, &x) in target.iter_mut().zip(row) {
        *value += factor * f64::from(x);
    }
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn separable_states_are_separated() {
        let positive = [2.0f32, 1.0, 2.5, -1.0, 1.5, 0.3];
        let negative = [-2.0f32, 1.1, -2.5, -0.9, -1.5, 0.2];
        let states = PairedStates::new(2, &positive, &negative, &[0, 1, 2], &[0, 1, 2]).unwrap();
        let probe = fit(&states, &[0, 1, 2], 1.0).unwrap();
        assert!(
            probe.weight[0] > 10.0 * probe.weight[1].abs(),
            "{:?}",
            probe.weight
        );
        for row in 0..3 {
            assert!(mixed_product(&probe.weight, states.chosen(row)) > 0.0);
            assert!(mixed_product(&probe.weight, states.rejected(row)) < 0.0);
        }
    }

    #[test]
    fn identical_classes_leave_no_weight() {
        let states = [1.0f32, 2.0, 3.0, 4.0];
        let states = PairedStates::new(2, &states, &states, &[0, 1], &[0, 1]).unwrap();
        assert!(matches!(
            fit(&states, &[0, 1], 1.0),
            Err(FitError::IdenticalClasses { .. })
        ));
    }
}
