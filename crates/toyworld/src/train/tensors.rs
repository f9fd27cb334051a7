//! Between candle tensors and the slices that the kernels work on.

use candle_core::{CpuStorage, Device, Layout, Result, Storage, Tensor};

/// Returns the elements of a contiguous `f32` argument of a custom op.
pub(super) fn elements<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    let CpuStorage::F32(data) = storage else {
        candle_core::bail!("the trainer's ops take f32 tensors only");
    };
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&data[start..end]),
        None => candle_core::bail!("the trainer's ops take contiguous tensors only"),
    }
}

/// Calls `f` with the elements of an `f32` tensor on the CPU, copied first if not contiguous.
pub(super) fn with_elements<R>(tensor: &Tensor, f: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(f(elements(storage, layout)?)),
        _ => candle_core::bail!("the trainer runs on the CPU"),
    }
}

/// Makes a tensor of the same shape as `like` from its elements.
pub(super) fn shaped_as(like: &Tensor, data: Vec<f32>) -> Result<Tensor> {
    Tensor::from_vec(data, like.shape(), &Device::Cpu)
}
