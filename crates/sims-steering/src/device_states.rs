//! The states of a fit on a device, and what fits need of them there, in candle's operations.
//!
//! A linear fit asks a matrix of states for three things: the norms of its rows, its product with a direction, and sums of
//! its rows with weights. They are computed in `f64`, as the host's are, and agree with those up to the order of sums.
//! Everything here runs on any device of candle's.

use crate::FitError;
use candle_core::{DType, Device, Tensor};
use sims_model::ModelError;

/// Both classes of a layer's states on a device: `16·rows·hidden` bytes there.
#[derive(Debug)]
pub struct DeviceStates {
    device: Device,
    /// As they were extracted, chosen and rejected: `[rows, hidden]`, f64.
    classes: [Tensor; 2],
    /// Norm of each row, by class.
    norms: [Vec<f64>; 2],
}

impl DeviceStates {
    /// Copies the states of a layer to a device.
    ///
    /// `positive` and `negative`: `[rows, hidden]`, f32.
    ///
    /// # Errors
    /// [`FitError::Model`] when the device has no room.
    pub fn upload(
        hidden: usize,
        positive: &[f32],
        negative: &[f32],
        device: &Device,
    ) -> Result<Self, FitError> {
        let copy = |values: &[f32]| -> Result<Tensor, ModelError> {
            let states = Tensor::from_slice(values, (values.len() / hidden, hidden), device)?;
            Ok(states.to_dtype(DType::F64)?)
        };
        let classes = [copy(positive)?, copy(negative)?];
        let norms = |states: &Tensor| -> Result<Vec<f64>, ModelError> {
            Ok(states.sqr()?.sum(1)?.sqrt()?.to_vec1()?)
        };
        Ok(Self {
            device: device.clone(),
            norms: [norms(&classes[0])?, norms(&classes[1])?],
            classes,
        })
    }

    /// Returns the device.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// Returns the norm of a row of a class, 0 positive or 1 negative.
    pub(crate) fn norm(&self, class: usize, row: usize) -> f64 {
        self.norms[class][row]
    }

    /// Returns columns of both classes, each `[columns, samples]`, f64: of sample `i` row `rows[i]`, its classes exchanged
    /// where `flipped[i]` is 1.
    pub(crate) fn columns(
        &self,
        rows: &[u32],
        flipped: &[u8],
        first: usize,
        columns: usize,
    ) -> Result<[Tensor; 2], ModelError> {
        let index = Tensor::from_slice(rows, rows.len(), &self.device)?;
        let [positive, negative] = [0, 1].map(|class: usize| {
            self.classes[class]
                .narrow(1, first, columns)?
                .index_select(&index, 0)
        });
        let (positive, negative) = (positive?, negative?);
        let is_flipped = Tensor::from_slice(flipped, (rows.len(), 1), &self.device)?
            .broadcast_as(positive.shape())?
            .contiguous()?;
        let chosen = is_flipped.where_cond(&negative, &positive)?;
        let rejected = is_flipped.where_cond(&positive, &negative)?;
        Ok([chosen.t()?.contiguous()?, rejected.t()?.contiguous()?])
    }

    /// Returns the product of every row with a direction, by class: `[rows]` each.
    pub(crate) fn project(&self, direction: &[f64]) -> Result<[Vec<f64>; 2], ModelError> {
        let direction = column(direction, &self.device)?;
        let along = |states: &Tensor| -> Result<Vec<f64>, ModelError> {
            Ok(states.matmul(&direction)?.flatten_all()?.to_vec1()?)
        };
        Ok([along(&self.classes[0])?, along(&self.classes[1])?])
    }

    /// Returns the sum of all rows with weights, `[hidden]`.
    ///
    /// `weights`: by class, `[rows]`.
    pub(crate) fn combine(&self, weights: &[Vec<f64>; 2]) -> Result<Vec<f64>, ModelError> {
        let sum = |class: usize| -> Result<Tensor, ModelError> {
            let weights = column(&weights[class], &self.device)?.t()?;
            Ok(weights.matmul(&self.classes[class])?)
        };
        Ok((sum(0)? + sum(1)?)?.flatten_all()?.to_vec1()?)
    }
}

/// A matrix on a device that is multiplied from both sides, `[rows, columns]`, f64.
pub(crate) struct DeviceMatrix(Tensor);

impl DeviceMatrix {
    /// Copies a matrix to a device.
    pub(crate) fn upload(
        values: &[f64],
        columns: usize,
        device: &Device,
    ) -> Result<Self, ModelError> {
        let shape = (values.len() / columns, columns);
        Ok(Self(Tensor::from_slice(values, shape, device)?))
    }

    /// Returns `M·vector`, `[rows]`.
    pub(crate) fn times(&self, vector: &[f64]) -> Result<Vec<f64>, ModelError> {
        let vector = column(vector, self.0.device())?;
        Ok(self.0.matmul(&vector)?.flatten_all()?.to_vec1()?)
    }

    /// Returns `Mᵀ·weights`, `[columns]`.
    pub(crate) fn transposed_times(&self, weights: &[f64]) -> Result<Vec<f64>, ModelError> {
        let weights = column(weights, self.0.device())?.t()?;
        Ok(weights.matmul(&self.0)?.flatten_all()?.to_vec1()?)
    }

    /// Returns `Mᵀ·diag(weights)·M`, `[columns, columns]`.
    pub(crate) fn weighted_gram(&self, weights: &[f64]) -> Result<Vec<f64>, ModelError> {
        let weighted = self.0.broadcast_mul(&column(weights, self.0.device())?)?;
        Ok(self.0.t()?.matmul(&weighted)?.flatten_all()?.to_vec1()?)
    }
}

/// Returns a vector as a matrix of one column.
fn column(vector: &[f64], device: &Device) -> Result<Tensor, ModelError> {
    Ok(Tensor::from_slice(vector, (vector.len(), 1), device)?)
}
