//! Weights as tensors on a device, and linear layers over them.

use candle_core::{DType, Device, Tensor};

use super::blocks::Blocks;
use super::traced::LowRankChange;
use crate::Result;
use crate::gpu::DeviceKernels;
use crate::ops::quantized::QuantizedLinear;
use crate::weights::{Form, Projection};

/// A device, the type that weights have there, and the own kernels that run on it, if it is one for them.
pub(super) struct Place {
    pub(super) device: Device,
    pub(super) dtype: DType,
    pub(super) kernels: Option<DeviceKernels>,
}

/// A linear layer with its bias `[out_features]`.
#[derive(Clone)]
pub(super) struct Linear {
    weight: Weight,
    bias: Option<Tensor>,
    /// What a traced pass adds to some of the outputs.
    pub(super) changes: Vec<LowRankChange>,
}

/// The weights of a linear layer.
#[derive(Clone)]
enum Weight {
    /// `[in_features, out_features]`.
    Dense(Tensor),
    /// Kept as they are stored.
    Blocks(Blocks),
}

impl Form for Place {
    type Linear = Linear;
    type Vector = Tensor;

    fn linear(&self, projection: Projection) -> Result<Linear> {
        let Projection {
            out_features,
            in_features,
            weight,
            bias,
        } = projection;
        let weight = Tensor::from_vec(weight, (out_features, in_features), &self.device)?
            .to_dtype(self.dtype)?;
        let bias = bias
            .map(|bias| Tensor::new(bias, &self.device)?.to_dtype(self.dtype))
            .transpose()?;
        Ok(Linear {
            weight: Weight::Dense(weight.t()?),
            bias,
            changes: Vec::new(),
        })
    }

    /// The CPU computes with the unpacked weights: there this form is what the fast one is held against.
    fn blocks(&self, layer: QuantizedLinear) -> Result<Linear> {
        if self.device.is_cpu() {
            return self.linear(Projection {
                out_features: layer.out_features(),
                in_features: layer.in_features(),
                weight: layer.unpack(),
                bias: layer.bias().map(<[f32]>::to_vec),
            });
        }
        let bias = layer
            .bias()
            .map(|bias| Tensor::new(bias, &self.device)?.to_dtype(self.dtype))
            .transpose()?;
        Ok(Linear {
            weight: Weight::Blocks(Blocks::new(&layer, &self.device, self.dtype)?),
            bias,
            changes: Vec::new(),
        })
    }

    /// Norms multiply in f32.
    fn vector(&self, values: Vec<f32>) -> Result<Tensor> {
        Ok(Tensor::new(values, &self.device)?)
    }
}

impl Place {
    pub(super) fn index(&self, values: &[u32]) -> Result<Tensor> {
        Ok(Tensor::new(values, &self.device)?)
    }
}

impl Linear {
    /// `x`: `[rows, in_features]`; returns `[rows, out_features]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut product = match &self.weight {
            Weight::Dense(weight) => x.matmul(weight)?,
            Weight::Blocks(blocks) => blocks.forward(x)?,
        };
        for change in &self.changes {
            product = change.add_to(x, product)?;
        }
        Ok(match &self.bias {
            Some(bias) => product.broadcast_add(bias)?,
            None => product,
        })
    }

    /// Returns the weights of outputs, `[outputs, in_features]`, as embeddings are looked up.
    pub(super) fn weights_of(&self, outputs: &Tensor) -> Result<Tensor> {
        match &self.weight {
            Weight::Dense(weight) => Ok(weight.t()?.index_select(outputs, 0)?),
            Weight::Blocks(blocks) => blocks.weights_of(outputs),
        }
    }

    pub(super) fn device(&self) -> &Device {
        match &self.weight {
            Weight::Dense(weight) => weight.device(),
            Weight::Blocks(blocks) => blocks.device(),
        }
    }
}
