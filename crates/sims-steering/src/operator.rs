//! The operators as data, and one edit of a layer: an operator, its strength and the norm option.

use crate::SteeringError;
use crate::affine_transport::AffineTransport;
use crate::condition::Condition;
use crate::householder::Householder;
use crate::real::{all_finite, norm};
use std::sync::Arc;

/// A steering vector: adds `strength · vector` to a hidden state.
///
/// The vector keeps the raw length of the mean difference it comes from: on noise that length shrinks with
/// the number of pairs, whereas a unit vector would push chance directions as hard as real ones.
#[derive(Debug, Clone, PartialEq)]
pub struct Additive {
    vector: Vec<f32>,
}

impl Additive {
    /// Wraps a vector, `[hidden]`, f32.
    ///
    /// # Errors
    /// [`SteeringError::Degenerate`] if a component is NaN or infinite.
    pub fn new(vector: Vec<f32>) -> Result<Self, SteeringError> {
        if !all_finite(&vector) {
            return Err(SteeringError::Degenerate {
                what: "the vector's length",
                value: norm(&vector),
            });
        }
        Ok(Self { vector })
    }

    /// Returns the vector, `[hidden]`.
    pub fn vector(&self) -> &[f32] {
        &self.vector
    }

    /// Returns the vector times `strength`, as it is added.
    pub(crate) fn scaled(&self, strength: f64) -> Self {
        let scale = |&v: &f32| (strength * f64::from(v)) as f32;
        Self {
            vector: self.vector.iter().map(scale).collect(),
        }
    }

    fn apply(&self, rows: &mut [f32], strength: f64, counts: &mut EditCounts) {
        if strength != 1.0 {
            return self.scaled(strength).apply(rows, 1.0, counts);
        }
        for row in rows.chunks_exact_mut(self.vector.len()) {
            for (a, v) in row.iter_mut().zip(&self.vector) {
                *a += v;
            }
            counts.edited += 1;
        }
    }
}

/// A steering operator on single hidden states.
#[derive(Debug, Clone, PartialEq)]
pub enum Operator {
    /// Adds a vector.
    Additive(Additive),
    /// Turns toward a normal.
    Householder(Householder),
    /// Moves each coordinate along its own line.
    AffineTransport(AffineTransport),
}

impl Operator {
    /// Returns the width of the rows it edits.
    pub fn hidden_size(&self) -> usize {
        match self {
            Self::Additive(additive) => additive.vector.len(),
            Self::Householder(householder) => householder.normal().len(),
            Self::AffineTransport(transport) => transport.scale().len(),
        }
    }

    /// Returns whether it keeps every state's norm by itself.
    pub fn is_rotation(&self) -> bool {
        matches!(self, Self::Householder(_))
    }
}

/// Counts what edits did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EditCounts {
    /// Rows offered to an operator.
    pub rows: u64,
    /// Rows it changed.
    pub edited: u64,
    /// Changed rows whose angle met a cap.
    pub capped: u64,
}

impl EditCounts {
    /// Returns the sums of both counts.
    #[must_use]
    pub(crate) fn add(self, other: Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            edited: self.edited + other.edited,
            capped: self.capped + other.capped,
        }
    }
}

/// One step of a layer's steering.
#[derive(Debug, Clone, PartialEq)]
pub struct Edit {
    /// What is done.
    pub operator: Operator,
    /// Multiplies the vector or the angle, and is the share of a transport; 0 leaves every row bit for bit.
    pub strength: f64,
    /// Restores each row's norm afterwards.
    pub preserve_norm: bool,
    /// On which prompts it is done; none for all.
    pub condition: Option<Arc<Condition>>,
}

impl Edit {
    /// Wraps an operator at strength 1, without restoring norms, on all prompts.
    pub fn new(operator: Operator) -> Self {
        Self {
            operator,
            strength: 1.0,
            preserve_norm: false,
            condition: None,
        }
    }

    /// Edits rows in place at `strength` times the edit's own strength.
    ///
    /// `rows`: `[rows, hidden]`, f32. At strength 0 nothing is touched. Whether the condition holds is for the
    /// caller to say.
    pub fn apply(&self, rows: &mut [f32], strength: f64, counts: &mut EditCounts) {
        let strength = strength * self.strength;
        let hidden = self.operator.hidden_size();
        counts.rows += (rows.len() / hidden) as u64;
        if strength == 0.0 {
            return;
        }
        let norms: Option<Vec<f64>> = self
            .preserve_norm
            .then(|| rows.chunks_exact(hidden).map(norm).collect());
        match &self.operator {
            Operator::Additive(additive) => additive.apply(rows, strength, counts),
            Operator::Householder(householder) => householder.apply(rows, strength, counts),
            Operator::AffineTransport(transport) => transport.apply(rows, strength, counts),
        }
        for (row, before) in rows
            .chunks_exact_mut(hidden)
            .zip(norms.into_iter().flatten())
        {
            restore_norm(row, before);
        }
    }
}

/// Scales a row back to the norm it had; skipped where the edit all but removed the row.
fn restore_norm(row: &mut [f32], before: f64) {
    let after = norm(row);
    if after >= 1e-6 * before && after > 0.0 {
        let scale = before / after;
        row.iter_mut()
            .for_each(|x| *x = (f64::from(*x) * scale) as f32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::householder::AngleRule;

    fn edits() -> Vec<Edit> {
        let additive = Additive::new(vec![0.5, -1.0, 2.0]).unwrap();
        let rule = AngleRule::Fixed { angle: 0.3 };
        let householder = Householder::new(vec![0.0, 1.0, 1.0], 2.0, rule, None, None).unwrap();
        let [low, high] = [-1e3, 1e3].map(|end| vec![end; 3]);
        let transport = AffineTransport::new(vec![0.5, 2.0, 1.0], vec![1.0; 3], low, high).unwrap();
        vec![
            Edit::new(Operator::Additive(additive)),
            Edit::new(Operator::Householder(householder)),
            Edit::new(Operator::AffineTransport(transport)),
        ]
    }

    /// T05: strength 0 is the identity on bits, with and without the norm option.
    #[test]
    fn zero_strength_keeps_every_bit() {
        let rows = [-0.0f32, 1.0e-41, 3.0, f32::MIN_POSITIVE, -7.5, 0.1];
        for mut edit in edits() {
            for preserve_norm in [false, true] {
                edit.preserve_norm = preserve_norm;
                let mut edited = rows;
                edit.apply(&mut edited, 0.0, &mut EditCounts::default());
                assert_eq!(edited.map(f32::to_bits), rows.map(f32::to_bits));
            }
        }
    }

    /// T20, in part: the norm option keeps ‖a‖.
    #[test]
    fn norms_can_be_preserved() {
        for mut edit in edits() {
            edit.preserve_norm = true;
            let mut rows = [1.0f32, 2.0, 3.0, -4.0, 0.5, 0.25];
            let before: Vec<f64> = rows.chunks_exact(3).map(norm).collect();
            let mut counts = EditCounts::default();
            edit.apply(&mut rows, 1.0, &mut counts);
            assert_eq!((counts.rows, counts.edited), (2, 2));
            for (row, before) in rows.chunks_exact(3).zip(before) {
                assert!((norm(row) / before - 1.0).abs() < 1e-6);
            }
        }
    }

    #[test]
    fn additive_keeps_its_raw_length() {
        let mut rows = [0.0f32; 3];
        edits()[0].apply(&mut rows, 0.5, &mut EditCounts::default());
        assert_eq!(rows, [0.25, -0.5, 1.0]);
    }

    #[test]
    fn non_finite_vectors_are_refused() {
        assert!(Additive::new(vec![1.0, f32::INFINITY]).is_err());
    }
}
