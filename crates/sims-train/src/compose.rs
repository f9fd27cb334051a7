//! Puts trained vectors on the incumbent, within the limit on what accumulates over rounds.

use crate::TrainError;
use sims_steering::bipo::times;
use sims_steering::{Additive, Edit, Operator, Steering, shift_factor};

/// A composed steering, and how long its sums are.
#[derive(Debug, Clone, PartialEq)]
pub struct Composed {
    /// The steering, without a description.
    pub steering: Steering,
    /// By vector: the factor that the limit put on it (1: untouched), and the norm of all that is added at its layer
    /// in units of the state norm.
    pub shifts: Vec<(f64, f64)>,
}

/// Adds the vectors at `layers` to `base`; a sum longer than `max_shift` state norms is shortened by its new part.
///
/// `state_norms`: by vector; a `max_shift` of 0 is no limit.
///
/// # Errors
/// [`TrainError::Steering`] if a vector does not fit the model.
pub fn compose(
    base: &Steering,
    layers: &[usize],
    vectors: &[Vec<f32>],
    state_norms: &[f64],
    max_shift: f64,
) -> Result<Composed, TrainError> {
    let mut own = Steering::identity(*base.model(), base.hidden_size(), base.num_hidden_layers());
    let mut factors = Vec::with_capacity(layers.len());
    for ((&layer, vector), norm) in layers.iter().zip(vectors).zip(state_norms) {
        let before = base.additive_shift(layer);
        let before = before.unwrap_or_else(|| vec![0.0; vector.len()]);
        let addition: Vec<f64> = vector.iter().map(|&x| f64::from(x)).collect();
        let factor = match max_shift > 0.0 {
            true => shift_factor(&before, &addition, max_shift * norm)?,
            false => 1.0,
        };
        let shortened = times(std::slice::from_ref(vector), factor).remove(0);
        own.push(
            layer,
            Edit::new(Operator::Additive(Additive::new(shortened)?)),
        )?;
        factors.push(factor);
    }
    let steering = base.stack(&own)?;
    let length = |layer: usize| {
        let sum = steering.additive_shift(layer).unwrap_or_default();
        sum.iter().map(|x| x * x).sum::<f64>().sqrt()
    };
    let shifts = factors
        .iter()
        .zip(layers.iter().zip(state_norms))
        .map(|(&factor, (&layer, norm))| (factor, length(layer) / norm))
        .collect();
    Ok(Composed { steering, shifts })
}
