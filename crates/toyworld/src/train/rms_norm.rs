//! RMSNorm as a differentiable op.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::tensors::{elements, shaped_as, with_elements};
use super::vectorised::{lane_sum, vectorised};

/// Returns `input / sqrt(mean(input^2) + eps) * weight`, row by row.
///
/// `input`: `[rows, hidden]`; `weight`: `[hidden]`; result: `[rows, hidden]`. All f32.
///
/// # Errors
/// When the shapes do not fit.
pub(super) fn rms_norm(input: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
    input.contiguous()?.apply_op2(weight, RmsNorm { eps })
}

struct RmsNorm {
    eps: f32,
}

vectorised! {
    fn forward(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        let hidden = weight.len();
        for (x, out) in x.chunks_exact(hidden).zip(out.chunks_exact_mut(hidden)) {
            let scale = 1.0 / (lane_sum(hidden, |i| x[i] * x[i]) / hidden as f32 + eps).sqrt();
            for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
                *out = x * scale * w;
            }
        }
    }
}

vectorised! {
    // With s = 1 / rms: dx_i = s * (g_i w_i - x_i s^2 mean_j(g_j w_j x_j)), dw_i = sum g_i x_i s.
    fn backward(
        x: &[f32],
        weight: &[f32],
        grad: &[f32],
        eps: f32,
        input_grad: &mut [f32],
        weight_grad: &mut [f32],
    ) {
        let hidden = weight.len();
        let rows = x.chunks_exact(hidden).zip(grad.chunks_exact(hidden));
        for ((x, g), dx) in rows.zip(input_grad.chunks_exact_mut(hidden)) {
            let scale = 1.0 / (lane_sum(hidden, |i| x[i] * x[i]) / hidden as f32 + eps).sqrt();
            let along = lane_sum(hidden, |i| g[i] * weight[i] * x[i]) / hidden as f32;
            let along = along * scale * scale;
            for i in 0..hidden {
                dx[i] = scale * (g[i] * weight[i] - x[i] * along);
                weight_grad[i] += g[i] * x[i] * scale;
            }
        }
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, weight) = (elements(s1, l1)?, elements(s2, l2)?);
        if l1.shape().dims2()?.1 != weight.len() {
            candle_core::bail!("rms-norm: {:?} does not fit {:?}", l1.shape(), l2.shape());
        }
        let mut out = vec![0.0; x.len()];
        forward(x, weight, self.eps, &mut out);
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        input: &Tensor,
        weight: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut input_grad = vec![0.0; input.elem_count()];
        let mut weight_grad = vec![0.0; weight.elem_count()];
        with_elements(input, |x| {
            with_elements(weight, |w| {
                with_elements(grad, |g| {
                    backward(x, w, g, self.eps, &mut input_grad, &mut weight_grad);
                })
            })
        })???;
        Ok((
            Some(shaped_as(input, input_grad)?),
            Some(shaped_as(weight, weight_grad)?),
        ))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::D;

    use super::super::testing::{assert_close, assert_same_gradients, random_var};
    use super::*;

    #[test]
    fn rms_norm_equals_plain_ops_with_gradients() -> Result<()> {
        let (x, w) = (random_var((17, 40), 1)?, random_var(40, 2)?);
        let mix = random_var((17, 40), 3)?;
        let own = rms_norm(&x, &w, 1e-5)?;
        let scale = (x.sqr()?.mean_keepdim(D::Minus1)? + 1e-5)?.sqrt()?;
        let plain = x.broadcast_div(&scale)?.broadcast_mul(&w)?;
        // Rounding of one division and one reduction over 40 numbers.
        assert_close(&own, &plain, 2e-6)?;
        assert_same_gradients(
            &(own * mix.as_tensor())?,
            &(plain * mix.as_tensor())?,
            &[&x, &w],
            2e-5,
        )
    }
}
