//! Norms, factors, bounds and the rotary embedding in candle's operations.

use candle_core::{D, DType, Tensor};

use crate::Result;
use crate::gpu::DeviceKernels;

/// Returns `x / sqrt(mean(x²) + eps) * weight` over the last dimension, computed in f32.
pub(super) fn rms_norm(
    kernels: Option<&DeviceKernels>,
    x: &Tensor,
    weight: &Tensor,
    eps: f32,
) -> Result<Tensor> {
    if let Some(kernels) = kernels {
        return kernels.block.rms_norm(x, weight, eps);
    }
    let dtype = x.dtype();
    let x = x.to_dtype(DType::F32)?;
    let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
    let scale = (mean_square + f64::from(eps))?.sqrt()?.recip()?;
    Ok(x.broadcast_mul(&scale)?
        .broadcast_mul(weight)?
        .to_dtype(dtype)?)
}

/// Returns `x` under the norm, or `x` itself where there is none.
pub(super) fn normed(
    kernels: Option<&DeviceKernels>,
    x: &Tensor,
    norm: &Option<Tensor>,
    eps: f32,
) -> Result<Tensor> {
    norm.as_ref()
        .map_or_else(|| Ok(x.clone()), |weight| rms_norm(kernels, x, weight, eps))
}

/// Multiplies by a number, or leaves the tensor alone where that is 1.
pub(super) fn scaled(x: Tensor, factor: f32) -> Result<Tensor> {
    Ok(if factor == 1.0 {
        x
    } else {
        (x * f64::from(factor))?
    })
}

/// Bounds each value `x` to `cap * tanh(x / cap)`, if there is a bound.
pub(super) fn soft_capped(x: Tensor, cap: Option<f32>) -> Result<Tensor> {
    Ok(match cap {
        None => x,
        Some(cap) => ((x / f64::from(cap))?.tanh()? * f64::from(cap))?,
    })
}

/// Turns each pair of dimensions `i` and `i + rotary_dim / 2` by its angle, as transformers' `rotate_half` does.
///
/// `x`: `[rows, heads, head_dim]`; `turns`: cosines and sines, `[rows, 2, rotary_dim / 2]`.
pub(super) fn rotate(x: &Tensor, turns: &Tensor) -> Result<Tensor> {
    let (half, head_dim) = (turns.dim(D::Minus1)?, x.dim(D::Minus1)?);
    let (cos, sin) = (&turns.narrow(1, 0, 1)?, &turns.narrow(1, 1, 1)?);
    let first = x.narrow(D::Minus1, 0, half)?;
    let second = x.narrow(D::Minus1, half, half)?;
    let mut parts = vec![
        (first.broadcast_mul(cos)? - second.broadcast_mul(sin)?)?,
        (second.broadcast_mul(cos)? + first.broadcast_mul(sin)?)?,
    ];
    if 2 * half < head_dim {
        parts.push(x.narrow(D::Minus1, 2 * half, head_dim - 2 * half)?);
    }
    Ok(Tensor::cat(&parts, D::Minus1)?)
}
