//! The decoder: tokens and a KV cache in, hidden states and logits out.

use std::fmt;
use std::str::FromStr;

use candle_core::{Device, Tensor};

use crate::{Batch, Config, Hook, KvCache, ModelError, Result};

/// The type that weights are held in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 32-bit floats.
    #[default]
    F32,
    /// The upper half of a 32-bit float. On the CPU only the weights are stored so; hidden states,
    /// keys, values and sums stay f32.
    Bf16,
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for Dtype {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => Err(ModelError::Setting {
                setting: "dtype",
                message: format!("`{text}` is neither f32 nor bf16"),
            }),
        }
    }
}

/// A pre-norm decoder of the Llama family with its weights; immutable, so it can be shared by threads.
pub struct Decoder {
    config: Config,
    device: Device,
    dtype: Dtype,
}

impl Decoder {
    /// Runs the batch through every block, writing its keys and values to `cache`.
    ///
    /// Returns the hidden states after the final norm: `[rows, hidden_size]`, f32 on the CPU and the
    /// decoder's dtype elsewhere. `hook` is called after each block that it wants.
    ///
    /// # Errors
    /// [`ModelError::Batch`] when the batch breaks a rule of [`Batch`] or does not fit the cache,
    /// [`ModelError::TooLong`] beyond the model's context, and whatever the hook returns.
    pub fn forward(
        &self,
        _batch: &Batch,
        _cache: &mut KvCache,
        _hook: Option<&mut dyn Hook>,
    ) -> Result<Tensor> {
        todo!()
    }

    /// Returns the logits `[n, vocab_size]`, f32, of rows `[n, hidden_size]` that [`forward`](Self::forward) returned.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] when the rows have another shape, dtype or device.
    pub fn logits(&self, _hidden_rows: &Tensor) -> Result<Tensor> {
        todo!()
    }

    /// Returns the model's config.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the device that the weights are on.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Returns the type that the weights are held in.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }
}
