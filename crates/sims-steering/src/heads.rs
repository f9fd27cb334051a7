//! What a steering adds to the outputs of attention heads, before their projection onto the residual stream.
//!
//! Inference-time intervention (Li et al. 2023, arXiv 2306.03341) shifts chosen heads by fixed vectors; see
//! [`iti`](crate::iti) for how they are fitted. Heads that are not chosen have zeros and keep their bits.

use crate::SteeringError;
use crate::real::all_finite;
use crate::steering::Steering;
use candle_core::{DType, Device, Tensor};
use sims_model::{ModelError, Segment};
use std::collections::BTreeMap;

/// The vectors that are added to the heads of one block.
#[derive(Debug, Clone, PartialEq)]
pub struct HeadShift {
    head_dim: usize,
    vector: Vec<f32>,
}

impl HeadShift {
    /// Wraps the vectors of all heads, `[num_attention_heads * head_dim]`, zeros for heads that stay.
    ///
    /// # Errors
    /// [`SteeringError::Degenerate`] if a component is NaN or infinite, or the length is not that of whole heads.
    pub fn new(head_dim: usize, vector: Vec<f32>) -> Result<Self, SteeringError> {
        if !all_finite(&vector) {
            return Err(SteeringError::Degenerate {
                what: "a component of the heads' shift",
                value: f64::NAN,
            });
        }
        if head_dim == 0 || vector.is_empty() || !vector.len().is_multiple_of(head_dim) {
            return Err(SteeringError::Degenerate {
                what: "the number of components of the heads' shift, which is no multiple of a head's,",
                value: vector.len() as f64,
            });
        }
        Ok(Self { head_dim, vector })
    }

    /// Returns the width of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Returns the vectors of all heads, one after another.
    pub fn vector(&self) -> &[f32] {
        &self.vector
    }

    /// Returns the heads that are shifted, ascending.
    pub fn heads(&self) -> Vec<usize> {
        let heads = self.vector.chunks(self.head_dim).enumerate();
        heads
            .filter(|(_, vector)| vector.iter().any(|&x| x != 0.0))
            .map(|(head, _)| head)
            .collect()
    }

    /// Returns whether no head is shifted.
    pub(crate) fn is_zero(&self) -> bool {
        self.vector.iter().all(|&x| x == 0.0)
    }

    /// Returns `own · self + weight · other`, where there is another.
    pub(crate) fn combined(
        &self,
        own: f64,
        other: Option<&Self>,
        weight: f64,
    ) -> Result<Self, SteeringError> {
        let mut sum: Vec<f64> = self.vector.iter().map(|&x| own * f64::from(x)).collect();
        if let Some(other) = other {
            if other.vector.len() != sum.len() {
                return Err(SteeringError::HiddenSize {
                    expected: sum.len(),
                    found: other.vector.len(),
                });
            }
            for (sum, &x) in sum.iter_mut().zip(&other.vector) {
                *sum += weight * f64::from(x);
            }
        }
        Self::new(self.head_dim, sum.into_iter().map(|x| x as f32).collect())
    }
}

impl Steering {
    /// Adds to the heads of a layer (0-based), on top of what is added there already.
    ///
    /// # Errors
    /// [`SteeringError::LayerRange`] if the model has no such layer, [`SteeringError::HiddenSize`] if the layer has a
    /// shift of another width.
    pub fn push_heads(&mut self, layer: usize, shift: HeadShift) -> Result<(), SteeringError> {
        if layer >= self.num_hidden_layers {
            return Err(SteeringError::LayerRange {
                layer,
                num_hidden_layers: self.num_hidden_layers,
            });
        }
        let sum = shift.combined(1.0, self.heads.get(&layer), 1.0)?;
        self.heads.insert(layer, sum);
        Ok(())
    }

    /// Returns what is added to the heads of a layer at strength 1, if anything is.
    pub fn head_shift(&self, layer: usize) -> Option<&HeadShift> {
        self.heads.get(&layer)
    }
}

/// Returns the shifts of both, each with its strength multiplied in.
pub(crate) fn stacked(
    first: (&BTreeMap<usize, HeadShift>, f64),
    next: (&BTreeMap<usize, HeadShift>, f64),
) -> Result<BTreeMap<usize, HeadShift>, SteeringError> {
    let mut sums = BTreeMap::new();
    for (&layer, shift) in first.0 {
        let sum = shift.combined(first.1, next.0.get(&layer), next.1)?;
        sums.insert(layer, sum);
    }
    for (&layer, shift) in next
        .0
        .iter()
        .filter(|(layer, _)| !first.0.contains_key(layer))
    {
        sums.insert(layer, shift.combined(next.1, None, 0.0)?);
    }
    Ok(sums)
}

/// Gets an edited row before and after, and whether it ran before.
pub(crate) type Edited<'a> = dyn FnMut(&[f32], &[f32], bool) + 'a;

/// Shifts the rows that segments allow, in `f32`; the bits of other rows and heads stay.
///
/// `heads`: `[rows, num_attention_heads * head_dim]`. `edited` is called for each edited row.
pub(crate) fn shift_rows(
    shift: &[f32],
    segments: &[Segment],
    heads: &Tensor,
    edited: &mut Edited<'_>,
) -> Result<Tensor, ModelError> {
    let host = heads.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
    let mut rows: Vec<f32> = host.flatten_all()?.to_vec1()?;
    for segment in segments {
        for row in segment.edit_rows() {
            let row = &mut rows[row * shift.len()..(row + 1) * shift.len()];
            let before = row.to_vec();
            for (x, &by) in row.iter_mut().zip(shift).filter(|(_, by)| **by != 0.0) {
                *x += by;
            }
            edited(&before, row, segment.is_repeated);
        }
    }
    let shifted = Tensor::from_vec(rows, heads.shape(), &Device::Cpu)?;
    Ok(shifted.to_dtype(heads.dtype())?.to_device(heads.device())?)
}
