//! The addresses of tensors.

use std::cell::RefCell;

use candle_core::{CpuStorage, DType, Device, InplaceOp1, Layout, Shape, Storage, Tensor};
#[cfg(feature = "cuda")]
use candle_core::{
    CudaStorage,
    cuda_backend::{CudaStorageSlice, cudarc::driver::DevicePtr},
};

use crate::Result;

/// Makes a tensor that a kernel writes every element of.
///
/// Its contents are whatever was there on a CUDA device, and not a number elsewhere, where only tests come.
///
/// # Errors
/// No room on the device.
pub fn new_output(shape: impl Into<Shape>, dtype: DType, device: &Device) -> Result<Tensor> {
    if device.is_cuda() {
        // SAFETY: the caller's kernel writes every element before anything reads the tensor.
        return Ok(unsafe { Tensor::empty(shape, dtype, device)? });
    }
    let shape = shape.into();
    Ok(if dtype.is_float() {
        Tensor::full(f32::NAN, shape, device)?.to_dtype(dtype)?
    } else {
        Tensor::zeros(shape, dtype, device)?
    })
}

/// Calls `launch` with the address of the first element of each tensor: those read, then those written.
///
/// All must be contiguous, and none of `writes` may share its storage with another tensor given.
///
/// # Errors
/// A tensor that is not contiguous or of a type that no kernel takes, and whatever `launch` returns.
pub fn with_addresses(
    reads: &[&Tensor],
    writes: &[&Tensor],
    launch: &mut dyn FnMut(&[u64]) -> Result<()>,
) -> Result<()> {
    let guards: Vec<_> = reads
        .iter()
        .map(|tensor| tensor.storage_and_layout())
        .collect();
    let mut found = Vec::with_capacity(reads.len() + writes.len());
    for (storage, layout) in &guards {
        found.push(address(storage, layout)?);
    }
    visit(writes, found, launch)
}

/// Adds the addresses of `writes` one after another, each held for writing, and then calls `launch`.
fn visit(
    writes: &[&Tensor],
    mut found: Vec<u64>,
    launch: &mut dyn FnMut(&[u64]) -> Result<()>,
) -> Result<()> {
    let Some((first, rest)) = writes.split_first() else {
        return launch(&found);
    };
    let mut result = Ok(());
    let mut go_on = |address| {
        found.push(address);
        result = visit(rest, std::mem::take(&mut found), launch);
    };
    first.inplace_op1(&Held(RefCell::new(&mut go_on)))?;
    result
}

/// An operation in place that only says where the tensor lies, while it is held for writing.
struct Held<'a>(RefCell<&'a mut dyn FnMut(u64)>);

impl InplaceOp1 for Held<'_> {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        check_contiguous(layout)?;
        let address = mutable_address_on_cpu(storage, layout)?;
        (self.0.borrow_mut())(address);
        Ok(())
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(&self, storage: &mut CudaStorage, layout: &Layout) -> candle_core::Result<()> {
        check_contiguous(layout)?;
        let address = address_on_cuda(storage, layout)?;
        (self.0.borrow_mut())(address);
        Ok(())
    }
}

fn address(storage: &Storage, layout: &Layout) -> candle_core::Result<u64> {
    check_contiguous(layout)?;
    match storage {
        Storage::Cpu(storage) => address_on_cpu(storage, layout),
        #[cfg(feature = "cuda")]
        Storage::Cuda(storage) => address_on_cuda(storage, layout),
        _ => candle_core::bail!("no kernel runs where a tensor lies"),
    }
}

fn check_contiguous(layout: &Layout) -> candle_core::Result<()> {
    if layout.is_contiguous() {
        Ok(())
    } else {
        candle_core::bail!("a kernel takes no tensor of layout {layout:?}")
    }
}

fn address_on_cpu(storage: &CpuStorage, layout: &Layout) -> candle_core::Result<u64> {
    let start = layout.start_offset();
    Ok(match storage {
        CpuStorage::F32(data) => data[start..].as_ptr() as u64,
        CpuStorage::F64(data) => data[start..].as_ptr() as u64,
        CpuStorage::BF16(data) => data[start..].as_ptr() as u64,
        CpuStorage::U32(data) => data[start..].as_ptr() as u64,
        CpuStorage::I64(data) => data[start..].as_ptr() as u64,
        _ => candle_core::bail!("no kernel takes a tensor of this type"),
    })
}

fn mutable_address_on_cpu(storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<u64> {
    let start = layout.start_offset();
    Ok(match storage {
        CpuStorage::F32(data) => data[start..].as_mut_ptr() as u64,
        CpuStorage::F64(data) => data[start..].as_mut_ptr() as u64,
        CpuStorage::BF16(data) => data[start..].as_mut_ptr() as u64,
        CpuStorage::U32(data) => data[start..].as_mut_ptr() as u64,
        CpuStorage::I64(data) => data[start..].as_mut_ptr() as u64,
        _ => candle_core::bail!("no kernel takes a tensor of this type"),
    })
}

/// Memory and kernels are ordered by the device's one stream, so an address may be used after its guard is gone.
#[cfg(feature = "cuda")]
fn address_on_cuda(storage: &CudaStorage, layout: &Layout) -> candle_core::Result<u64> {
    let stream = storage.device.cuda_stream();
    let (address, size) = match &storage.slice {
        CudaStorageSlice::F32(slice) => (slice.device_ptr(&stream).0, 4),
        CudaStorageSlice::F64(slice) => (slice.device_ptr(&stream).0, 8),
        CudaStorageSlice::BF16(slice) => (slice.device_ptr(&stream).0, 2),
        CudaStorageSlice::U32(slice) => (slice.device_ptr(&stream).0, 4),
        CudaStorageSlice::I64(slice) => (slice.device_ptr(&stream).0, 8),
        _ => candle_core::bail!("no kernel takes a tensor of this type"),
    };
    Ok(address + (layout.start_offset() * size) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_those_of_the_first_elements() {
        let read = Tensor::new(&[1.0f32, 2.0, 3.0], &Device::Cpu).unwrap();
        let tail = read.narrow(0, 1, 2).unwrap();
        let written = new_output(2, DType::F32, &Device::Cpu).unwrap();
        with_addresses(&[&read, &tail], &[&written], &mut |found| {
            assert_eq!(found[1], found[0] + 4);
            // SAFETY: the tensors are held, and two elements long.
            unsafe {
                std::ptr::copy_nonoverlapping(found[1] as *const f32, found[2] as *mut f32, 2)
            };
            Ok(())
        })
        .unwrap();
        assert_eq!(written.to_vec1::<f32>().unwrap(), [2.0, 3.0]);
    }

    #[test]
    fn strided_tensors_are_refused() {
        let square = Tensor::zeros((2, 2), DType::F32, &Device::Cpu).unwrap();
        let turned = square.t().unwrap();
        let error = with_addresses(&[&turned], &[], &mut |_| Ok(())).expect_err("strided");
        assert!(
            error.to_string().contains("a kernel takes no tensor"),
            "{error}"
        );
    }
}
