//! SwiGLU's gate as a differentiable op.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::tensors::{elements, shaped_as, with_elements};
use super::vectorised::{exp, vectorised};

/// Returns `silu(gate) * up`.
///
/// `gate_up`: `[rows, 2 * intermediate]`, gate first; result: `[rows, intermediate]`. f32.
///
/// # Errors
/// When `gate_up` is not a matrix of even width.
pub(super) fn swiglu(gate_up: &Tensor) -> Result<Tensor> {
    gate_up.contiguous()?.apply_op1(SwiGlu)
}

struct SwiGlu;

vectorised! {
    fn forward(gate_up: &[f32], width: usize, out: &mut [f32]) {
        for (row, out) in gate_up.chunks_exact(2 * width).zip(out.chunks_exact_mut(width)) {
            let (gate, up) = row.split_at(width);
            for ((out, g), u) in out.iter_mut().zip(gate).zip(up) {
                *out = g / (1.0 + exp(-g)) * u;
            }
        }
    }
}

vectorised! {
    fn backward(gate_up: &[f32], width: usize, grad: &[f32], out: &mut [f32]) {
        let rows = gate_up.chunks_exact(2 * width).zip(grad.chunks_exact(width));
        for ((row, grad), out) in rows.zip(out.chunks_exact_mut(2 * width)) {
            let (gate, up) = row.split_at(width);
            let (gate_grad, up_grad) = out.split_at_mut(width);
            for i in 0..width {
                let sigmoid = 1.0 / (1.0 + exp(-gate[i]));
                let silu = gate[i] * sigmoid;
                up_grad[i] = grad[i] * silu;
                gate_grad[i] = grad[i] * up[i] * (sigmoid + silu * (1.0 - sigmoid));
            }
        }
    }
}

impl CustomOp1 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, width) = layout.shape().dims2()?;
        if width % 2 != 0 {
            candle_core::bail!("swiglu: {width} columns cannot be halved");
        }
        let mut out = vec![0.0; rows * width / 2];
        forward(elements(storage, layout)?, width / 2, &mut out);
        Ok((CpuStorage::F32(out), (rows, width / 2).into()))
    }

    fn bwd(&self, gate_up: &Tensor, _result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let mut out = vec![0.0; gate_up.elem_count()];
        let width = gate_up.dim(1)? / 2;
        with_elements(gate_up, |x| {
            with_elements(grad, |g| backward(x, width, g, &mut out))
        })??;
        Ok(Some(shaped_as(gate_up, out)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, assert_same_gradients, random_var};
    use super::*;

    #[test]
    fn swiglu_equals_plain_ops_with_gradients() -> Result<()> {
        let (x, mix) = (random_var((9, 44), 1)?, random_var((9, 22), 2)?);
        let own = swiglu(&x)?;
        let (gate, up) = (x.narrow(1, 0, 22)?, x.narrow(1, 22, 22)?);
        let sigmoid = ((gate.neg()?.exp()? + 1.0)?).recip()?;
        let plain = ((gate * sigmoid)? * up)?;
        // Two roundings of numbers of size about 1.
        assert_close(&own, &plain, 1e-6)?;
        assert_same_gradients(
            &(own * mix.as_tensor())?,
            &(plain * mix.as_tensor())?,
            &[&x],
            5e-6,
        )
    }
}
