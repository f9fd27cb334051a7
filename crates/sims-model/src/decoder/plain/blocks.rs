//! Weights that stay ggml blocks on a device.

use std::borrow::Cow;

use candle_core::quantized::{QMatMul, QStorage, QTensor};
use candle_core::{D, DType, Device, Module, Tensor};

use crate::Result;
use crate::ops::quantized::{QuantizedLinear, RowOrder};

/// Matrices over the same inputs, whose outputs follow one another.
#[derive(Clone)]
pub(super) struct Blocks {
    parts: Vec<QMatMul>,
    device: Device,
    dtype: DType,
}

impl Blocks {
    /// Copies a layer's blocks to `device`; hidden states are of `dtype`.
    pub(super) fn new(layer: &QuantizedLinear, device: &Device, dtype: DType) -> Result<Self> {
        let part = |part: &crate::ops::quantized::BlockMatrix| {
            let blocks = match part.order() {
                RowOrder::Same => Cow::Borrowed(part.stored_blocks()),
                RowOrder::Interleaved { .. } => Cow::Owned(part.blocks_in_order()),
            };
            let storage = QStorage::from_data(blocks, device, part.format().dtype())?;
            let tensor = QTensor::new(storage, (part.rows(), part.columns()))?;
            Ok(QMatMul::from_qtensor(tensor)?)
        };
        Ok(Self {
            parts: layer.parts().iter().map(part).collect::<Result<_>>()?,
            device: device.clone(),
            dtype,
        })
    }

    pub(super) fn device(&self) -> &Device {
        &self.device
    }

    /// `x`: `[rows, in_features]`; returns `[rows, out_features]`. The product is taken in f32.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.to_dtype(DType::F32)?.contiguous()?;
        let products = self.parts.iter().map(|part| part.forward(&x));
        let products = products.collect::<candle_core::Result<Vec<_>>>()?;
        Ok(Tensor::cat(&products, D::Minus1)?.to_dtype(self.dtype)?)
    }

    /// Returns the weights of outputs, `[outputs, in_features]`; of several matrices only the first is looked at.
    pub(super) fn weights_of(&self, outputs: &Tensor) -> Result<Tensor> {
        Ok(self.parts[0].embedding(outputs)?.to_dtype(self.dtype)?)
    }
}
