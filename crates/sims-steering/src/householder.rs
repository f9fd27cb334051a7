//! Householder pseudo-rotation (HPR): turns a hidden state toward a normal and keeps its norm.
//!
//! Source: Pham and Nguyen 2024, arXiv 2409.10053, `VinAIResearch/HPR:householder.py`. They mirror the
//! state `a` at the plane through the origin with normal `w`, and combine `a` with its mirror image so
//! that the result stands at the angle `γ` from `a`. The same point is reached here without the mirror
//! image and without a division by `sin γ₂`: with `û` the unit vector along the part of `ŵ` that is
//! orthogonal to `a`,
//!
//! ```text
//! a′ = cos γ · a + sin γ · ‖a‖ · û
//! ```
//!
//! so the norm is kept for every `a`, also beside the plane, where the source form loses it.
//!
//! One struct covers the three modes, which differ in data only:
//!
//! | mode | normal | edited rows | angle |
//! |---|---|---|---|
//! | `hpr` | probe | below the plane | angle network |
//! | `hpr-capped` | mean difference or probe | below the edge | angle network, capped |
//! | `hpr-target` | mean difference or probe | below the positives' mean | share of the class gap, or of the way that is left |
//!
//! Where a row stands is its *elevation*: the angle above the plane, `asin(ŵᵀa/‖a‖)` in `[−π/2, π/2]`.

use crate::SteeringError;
use crate::angle_net::{AngleNet, Predictor};
use crate::operator::EditCounts;
use crate::real::{Real, dot, norm};

/// Below this sine between `a` and `ŵ` the turning direction is undefined and the row stays as it is.
const DEGENERATE_SINE: f64 = 1e-6;

/// How far an edited row turns, before caps and strength.
#[derive(Debug, Clone, PartialEq)]
pub enum AngleRule {
    /// The angle that a network predicts from the row (the published method).
    Net {
        /// The network.
        net: AngleNet,
        /// Rows are multiplied by this before the network reads them, as in its training.
        input_scale: f64,
        /// Factor of the predicted angle; 1 as published.
        scale: f64,
    },
    /// The same angle for every edited row, in radians: a share of the measured class gap.
    Fixed {
        /// The angle.
        angle: f64,
    },
    /// A share of the way that is left from the row's elevation to a target elevation.
    Remaining {
        /// The elevation to reach, in radians.
        target: f64,
        /// The share; 1 lands on the target.
        scale: f64,
    },
}

/// A Householder pseudo-rotation of the rows below an edge.
#[derive(Debug, Clone, PartialEq)]
pub struct Householder {
    normal: Vec<f32>,
    inverse_norm: f64,
    edge: f64,
    angle: AngleRule,
    kappa: Option<f64>,
    max_angle: Option<f64>,
    predictor: Option<Predictor>,
}

/// Where a row stands relative to the plane.
#[derive(Debug, Clone, Copy)]
struct Stance {
    /// `‖a‖`.
    norm: f64,
    /// `ŵᵀa/‖a‖`, the cosine of the angle to the normal.
    cosine: f64,
    /// Sine of the angle to the normal, computed from the residual and so exact near 0.
    sine: f64,
}

impl Stance {
    /// Returns nothing for a zero row, which has no direction.
    fn of<T: Real>(row: &[T], normal: &[T], inverse_norm: f64) -> Option<Self> {
        let norm = norm(row);
        if norm == 0.0 {
            return None;
        }
        let cosine = dot(row, normal) * inverse_norm / norm;
        let along = cosine / norm;
        let residual: f64 = row
            .iter()
            .zip(normal)
            .map(|(a, w)| (w.to_f64() * inverse_norm - along * a.to_f64()).powi(2))
            .sum();
        Some(Self {
            norm,
            cosine,
            sine: residual.sqrt(),
        })
    }

    fn elevation(&self) -> f64 {
        self.cosine.atan2(self.sine)
    }
}

/// Returns the elevation of a row above the plane with the given normal, in `[−π/2, π/2]`.
///
/// `row` and `normal`: `[hidden]`; the normal need not have unit length. A zero row lies in the plane.
pub fn elevation<T: Real>(row: &[T], normal: &[T]) -> f64 {
    Stance::of(row, normal, 1.0 / norm(normal)).map_or(0.0, |stance| stance.elevation())
}

/// Turns a row by `angle` radians toward a normal and keeps its norm.
///
/// `row` and `normal`: `[hidden]`; the normal need not have unit length. Returns false, and leaves the row
/// bit for bit, if the row is zero or (anti)parallel to the normal, where no direction to turn exists.
pub fn rotate<T: Real>(row: &mut [T], normal: &[T], angle: f64) -> bool {
    let inverse_norm = 1.0 / norm(normal);
    match Stance::of(row, normal, inverse_norm) {
        Some(stance) => turn(row, normal, inverse_norm, stance, angle),
        None => false,
    }
}

fn turn<T: Real>(
    row: &mut [T],
    normal: &[T],
    inverse_norm: f64,
    stance: Stance,
    angle: f64,
) -> bool {
    if stance.sine < DEGENERATE_SINE {
        return false;
    }
    // a′ = (cos γ − sin γ·cosine/sine)·a + (sin γ·‖a‖/sine)·ŵ
    let (sin, cos) = angle.sin_cos();
    let keep = cos - sin * stance.cosine / stance.sine;
    let add = sin * stance.norm / stance.sine * inverse_norm;
    for (a, w) in row.iter_mut().zip(normal) {
        *a = T::from_f64(keep * a.to_f64() + add * w.to_f64());
    }
    true
}

impl Householder {
    /// Builds the published form: rows on the negative side of the plane turn by the predicted angle.
    ///
    /// # Errors
    /// [`SteeringError::Degenerate`] if the normal is zero or not finite, or the shapes disagree.
    pub fn faithful(
        normal: Vec<f32>,
        net: AngleNet,
        input_scale: f64,
    ) -> Result<Self, SteeringError> {
        Self::new(
            normal,
            0.0,
            AngleRule::Net {
                net,
                input_scale,
                scale: 1.0,
            },
            None,
            None,
        )
    }

    /// Builds the general form.
    ///
    /// `normal`: `[hidden]`, any length but zero. `edge`: rows of this elevation or a lower one are edited;
    /// 0 is the plane itself. `kappa`: the angle is at most this many times the angle between the row and
    /// its mirror image at the edge, `2·(edge − elevation)`. `max_angle`: largest angle in radians.
    ///
    /// # Errors
    /// [`SteeringError::Degenerate`] if the normal is zero or not finite, a number is not finite, or the
    /// network reads rows of another width.
    pub fn new(
        normal: Vec<f32>,
        edge: f64,
        angle: AngleRule,
        kappa: Option<f64>,
        max_angle: Option<f64>,
    ) -> Result<Self, SteeringError> {
        let length = norm(&normal);
        if !(length.is_finite() && length > 0.0) {
            return Err(SteeringError::Degenerate {
                what: "the normal's length",
                value: length,
            });
        }
        let mut numbers = vec![("the edge", edge)];
        match &angle {
            AngleRule::Net {
                net,
                input_scale,
                scale,
            } => {
                numbers.extend([
                    ("the network's input scale", *input_scale),
                    ("the angle's scale", *scale),
                ]);
                if net.hidden_size() != normal.len() {
                    return Err(SteeringError::HiddenSize {
                        expected: normal.len(),
                        found: net.hidden_size(),
                    });
                }
            }
            AngleRule::Fixed { angle } => numbers.push(("the angle", *angle)),
            AngleRule::Remaining { target, scale } => {
                numbers.extend([
                    ("the target elevation", *target),
                    ("the angle's scale", *scale),
                ]);
            }
        }
        numbers.extend(kappa.map(|value| ("kappa", value)));
        numbers.extend(max_angle.map(|value| ("the largest angle", value)));
        if let Some((what, value)) = numbers.into_iter().find(|(_, value)| !value.is_finite()) {
            return Err(SteeringError::Degenerate { what, value });
        }
        let predictor = match &angle {
            AngleRule::Net { net, .. } => Some(Predictor::new(net)),
            AngleRule::Fixed { .. } | AngleRule::Remaining { .. } => None,
        };
        Ok(Self {
            inverse_norm: 1.0 / length,
            normal,
            edge,
            angle,
            kappa,
            max_angle,
            predictor,
        })
    }

    /// Returns the normal of the plane, `[hidden]`.
    pub fn normal(&self) -> &[f32] {
        &self.normal
    }

    /// Returns what the normal is multiplied by to have unit length.
    pub(crate) fn inverse_norm(&self) -> f64 {
        self.inverse_norm
    }

    /// Returns the elevation in radians up to which rows are edited.
    pub fn edge(&self) -> f64 {
        self.edge
    }

    /// Returns how the angle is found.
    pub fn angle(&self) -> &AngleRule {
        &self.angle
    }

    /// Returns the cap in multiples of the mirror angle.
    pub fn kappa(&self) -> Option<f64> {
        self.kappa
    }

    /// Returns the largest angle in radians.
    pub fn max_angle(&self) -> Option<f64> {
        self.max_angle
    }

    /// Turns the rows below the edge, in place. `rows`: `[rows, hidden]`; `strength` multiplies the angle.
    pub(crate) fn apply(&self, rows: &mut [f32], strength: f64, counts: &mut EditCounts) {
        let hidden = self.normal.len();
        let below: Vec<(usize, Stance)> = rows
            .chunks_exact(hidden)
            .enumerate()
            .filter_map(|(index, row)| {
                let stance = Stance::of(row, &self.normal, self.inverse_norm)?;
                (stance.elevation() <= self.edge).then_some((index, stance))
            })
            .collect();
        let predicted = self.predict(rows, &below);
        for (number, &(index, stance)) in below.iter().enumerate() {
            let wanted = strength
                * match &self.angle {
                    AngleRule::Net { scale, .. } => scale * predicted[number],
                    AngleRule::Fixed { angle } => *angle,
                    AngleRule::Remaining { target, scale } => {
                        scale * (target - stance.elevation()).max(0.0)
                    }
                };
            let cap = self.cap(&stance);
            let angle = wanted.clamp(-cap, cap);
            let row = &mut rows[index * hidden..(index + 1) * hidden];
            if turn(row, &self.normal, self.inverse_norm, stance, angle) {
                counts.edited += 1;
                counts.capped += u64::from(wanted.abs() > cap);
            }
        }
    }

    /// Runs the angle network, if there is one, on the rows below the edge.
    fn predict(&self, rows: &[f32], below: &[(usize, Stance)]) -> Vec<f64> {
        let (AngleRule::Net { input_scale, .. }, Some(predictor)) = (&self.angle, &self.predictor)
        else {
            return Vec::new();
        };
        if below.is_empty() {
            return Vec::new();
        }
        let hidden = self.normal.len();
        let mut inputs = Vec::with_capacity(below.len() * hidden);
        for &(index, _) in below {
            let row = &rows[index * hidden..(index + 1) * hidden];
            inputs.extend(row.iter().map(|&x| (f64::from(x) * input_scale) as f32));
        }
        predictor.angles(inputs)
    }

    fn cap(&self, stance: &Stance) -> f64 {
        let mirror = 2.0 * (self.edge - stance.elevation()).max(0.0);
        let by_mirror = self.kappa.map_or(f64::INFINITY, |kappa| kappa * mirror);
        by_mirror.min(self.max_angle.unwrap_or(f64::INFINITY))
    }
}

#[cfg(test)]
#[path = "householder_tests.rs"]
mod tests;
