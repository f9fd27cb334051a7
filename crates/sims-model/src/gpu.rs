//! Own kernels for CUDA devices, and how they are started.
//!
//! Each kernel is a `.cu` file under `gpu/kernels`, compiled at run time by NVRTC for the device at hand
//! ([`Launcher`]). Around the products, which are cuBLAS's, a decoder block then takes seven launches, and a decode
//! step copies tokens, slots and angles to the device and one line a response back. What each kernel
//! computes for a row does not depend on the other rows; cuBLAS promises no such thing for the products, so on a GPU
//! a response may differ between batch sizes by rounding.
//!
//! Nothing here needs CUDA to compile. A launcher is a trait so that the tests can run the same sources and the same
//! code around them on the CPU; that is how the kernels have been checked so far, besides NVRTC accepting them.

mod attention;
#[cfg(feature = "cuda")]
mod device;
mod launch;
mod layer;
mod memory;
mod sampling;

use std::sync::Arc;

use candle_core::{DType, Device};

use crate::{Config, Result};

pub use attention::{Attention, RowPlan};
pub use launch::{Argument, Launch, Launcher, Program};
pub use layer::{BlockKernels, MaskedScores};
pub use memory::{new_output, with_addresses};
pub use sampling::SamplingKernel;

/// The kernels of one model on one device.
pub struct DeviceKernels {
    /// Attention of single rows.
    pub attention: Attention,
    /// What lies between the products.
    pub block: BlockKernels,
    /// The choice of tokens.
    pub sampling: SamplingKernel,
}

impl DeviceKernels {
    /// Prepares the kernels for hidden states of `dtype`.
    pub fn new(launcher: &Arc<dyn Launcher>, config: &Config, dtype: DType) -> Self {
        let heads = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        );
        let scale = f64::from(config.attention_scale);
        Self {
            attention: Attention::new(launcher.clone(), heads, scale, dtype),
            block: BlockKernels::new(launcher.clone(), dtype),
            sampling: SamplingKernel::new(launcher.clone()),
        }
    }
}

/// Returns what starts kernels on `device`; nothing for a device without them.
///
/// # Errors
/// [`ModelError::Device`](crate::ModelError::Device) if the device cannot be asked what it is.
pub fn launcher_of(device: &Device) -> Result<Option<Arc<dyn Launcher>>> {
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => Ok(Some(Arc::new(device::CudaLauncher::new(cuda)?))),
        _ => Ok(None),
    }
}
