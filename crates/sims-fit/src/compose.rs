//! Puts fitted edits on the incumbent, within the limits on what accumulates over rounds.

use crate::FitStageError;
use crate::operators::FittedEdit;
use crate::states::StatesHeader;
use sims_artifact::Digest;
use sims_steering::{Additive, Edit, FitError, Operator, Steering, shift_factor};

/// A layer to steer: its edit and the scale of its states.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerEdit {
    /// The layer.
    pub layer: usize,
    /// The fitted edit.
    pub fitted: FittedEdit,
    /// Mean norm of the layer's states.
    pub state_norm: f64,
}

/// Limits on what accumulates at a layer; 0 is no limit.
///
/// Vectors collapse to their sum, so their length is what grows; rotations and transports do not, so their number is
/// (at most as many as there are rounds).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Longest sum of the vectors, in units of the layer's state norm.
    pub max_shift: f64,
    /// Most rotations and transports.
    pub max_depth: usize,
    /// Whether a vector loses what lies along the sum of the incumbent's at its layer.
    pub fresh: bool,
}

/// A composed steering, and how far the limits cut each layer's part.
#[derive(Debug, Clone, PartialEq)]
pub struct Composed {
    /// The steering, without a description.
    pub steering: Steering,
    /// By layer, in the order given: the factor on this round's part (1: untouched, 0: left out), and the norm of
    /// all that is added at the layer in units of its state norm (none: nothing is added).
    pub shifts: Vec<(f64, Option<f64>)>,
}

/// Puts the edits on top of the incumbent, or on nothing.
///
/// A vector that would exceed the limits is shortened, any other edit left out; the incumbent is not touched.
///
/// # Errors
/// [`FitStageError::Steering`] if an edit does not fit the model.
pub fn compose(
    incumbent: Option<&Steering>,
    edits: &[LayerEdit],
    header: &StatesHeader,
    limits: Limits,
) -> Result<Composed, FitStageError> {
    let identity =
        || Steering::identity(header.model, header.hidden_size, header.num_hidden_layers);
    let mut own = identity();
    let mut shifts = Vec::new();
    for edit in edits {
        if is_too_deep(edit, incumbent, limits.max_depth) {
            shifts.push((0.0, None));
            continue;
        }
        let before = incumbent.and_then(|incumbent| incumbent.additive_shift(edit.layer));
        let limit = if limits.max_shift > 0.0 {
            limits.max_shift * edit.state_norm
        } else {
            f64::INFINITY
        };
        let fresh = match &before {
            Some(before) if limits.fresh => without(&edit.fitted.edit, before),
            _ => Ok(edit.fitted.edit.clone()),
        };
        let (bounded, factor) = fresh
            .and_then(|edit| bounded(&edit, before.as_deref(), limit))
            .map_err(FitStageError::at(edit.layer))?;
        own.push(edit.layer, bounded)?;
        shifts.push((factor, None));
    }
    let base = incumbent.cloned().unwrap_or_else(identity);
    let steering = base.stack(&own)?;
    for ((_, shift), edit) in shifts.iter_mut().zip(edits) {
        *shift = steering
            .additive_shift(edit.layer)
            .map(|sum| sum.iter().map(|x| x * x).sum::<f64>().sqrt() / edit.state_norm);
    }
    Ok(Composed { steering, shifts })
}

/// Returns whether an edit is one too many for its layer.
fn is_too_deep(edit: &LayerEdit, incumbent: Option<&Steering>, max_depth: usize) -> bool {
    let depth = incumbent.map_or(0, |incumbent| {
        incumbent
            .edits(edit.layer)
            .iter()
            .filter(|edit| is_counted(edit))
            .count()
    });
    max_depth > 0 && is_counted(&edit.fitted.edit) && depth >= max_depth
}

/// Returns whether an edit does not collapse with others of its kind.
fn is_counted(edit: &Edit) -> bool {
    !matches!(edit.operator, Operator::Additive(_))
}

/// Takes from a vector what lies along `before`, `[hidden]`; other edits stay as they are.
fn without(edit: &Edit, before: &[f64]) -> Result<Edit, FitError> {
    let Operator::Additive(additive) = &edit.operator else {
        return Ok(edit.clone());
    };
    let vector = additive.vector();
    let length: f64 = before.iter().map(|x| x * x).sum();
    let along: f64 = vector
        .iter()
        .zip(before)
        .map(|(&x, y)| f64::from(x) * y)
        .sum();
    let share = if length > 0.0 { along / length } else { 0.0 };
    let left = vector
        .iter()
        .zip(before)
        .map(|(&x, y)| (f64::from(x) - share * y) as f32)
        .collect();
    Ok(Edit {
        operator: Operator::Additive(Additive::new(left)?),
        ..edit.clone()
    })
}

/// Shortens a vector so that its sum with what is already added stays within the limit.
fn bounded(edit: &Edit, before: Option<&[f64]>, limit: f64) -> Result<(Edit, f64), FitError> {
    let Operator::Additive(additive) = &edit.operator else {
        return Ok((edit.clone(), 1.0));
    };
    let addition: Vec<f64> = additive.vector().iter().map(|&x| f64::from(x)).collect();
    let none = vec![0.0; addition.len()];
    let factor = if limit.is_finite() {
        shift_factor(before.unwrap_or(&none), &addition, limit)?
    } else {
        1.0
    };
    if factor == 1.0 {
        return Ok((edit.clone(), factor));
    }
    let shortened = addition.iter().map(|x| (factor * x) as f32).collect();
    let operator = Operator::Additive(Additive::new(shortened)?);
    Ok((
        Edit {
            operator,
            ..edit.clone()
        },
        factor,
    ))
}

/// Checks that the states were read under the steering that the fit builds on.
///
/// `incumbent`: the steering to build on and the digest of its file.
///
/// # Errors
/// [`FitStageError::OtherSteering`] or [`FitStageError::OtherModel`].
pub fn check_origin(
    header: &StatesHeader,
    incumbent: Option<(&Steering, Digest)>,
) -> Result<(), FitStageError> {
    if let Some((steering, _)) = incumbent
        && steering.model() != &header.model
    {
        return Err(FitStageError::OtherModel {
            incumbent: *steering.model(),
            states: header.model,
        });
    }
    let built_on = incumbent.map(|(_, digest)| digest);
    if header.steering == built_on {
        return Ok(());
    }
    let named = |digest: Option<Digest>, with: &str, without: &str| match digest {
        Some(digest) => format!("{with} {}", digest.short(12)),
        None => without.to_owned(),
    };
    Err(FitStageError::OtherSteering {
        states: named(header.steering, "under steering", "from the base model"),
        fit: named(built_on, "on steering", "on the base model"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_vector_is_orthogonal_to_what_came_before() {
        let edit = Edit::new(Operator::Additive(
            Additive::new(vec![3.0, 1.0, -2.0]).unwrap(),
        ));
        let fresh = without(&edit, &[2.0, 0.0, 0.0]).unwrap();
        let Operator::Additive(left) = &fresh.operator else {
            panic!("a vector stays one");
        };
        assert_eq!(left.vector(), [0.0, 1.0, -2.0]);
        // Nothing before takes nothing away; a vector that is nothing new is refused as all zero vectors are.
        assert_eq!(without(&edit, &[0.0; 3]).unwrap(), edit);
        let along = without(&edit, &[3.0, 1.0, -2.0]);
        let zero = Additive::new(vec![0.0; 3]).map(|_| ());
        assert_eq!(along.is_ok(), zero.is_ok());
    }
}
