//! Linear layer as a differentiable op, optionally adding to the residual stream.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor};

use super::matmul::{Operand, matmul};
use super::tensors::{elements, shaped_as, with_elements};

/// Returns `input * weight^T`.
///
/// `input`: `[rows, in]`; `weight`: `[out, in]`; result: `[rows, out]`. All f32.
///
/// # Errors
/// When the shapes do not fit.
pub(super) fn linear(input: &Tensor, weight: &Tensor) -> Result<Tensor> {
    input.contiguous()?.apply_op2(weight, Linear)
}

/// Returns `residual + input * weight^T`.
///
/// Shapes as [`linear`]; `residual`: `[rows, out]`.
///
/// # Errors
/// When the shapes do not fit.
pub(super) fn linear_onto(residual: &Tensor, input: &Tensor, weight: &Tensor) -> Result<Tensor> {
    input.contiguous()?.apply_op3(weight, residual, LinearOnto)
}

struct Linear;
struct LinearOnto;

fn forward(
    input: (&CpuStorage, &Layout),
    weight: (&CpuStorage, &Layout),
    start: Option<&[f32]>,
) -> Result<(CpuStorage, Shape)> {
    let (rows, inner) = input.1.shape().dims2()?;
    let (out, weight_inner) = weight.1.shape().dims2()?;
    if inner != weight_inner || start.is_some_and(|s| s.len() != rows * out) {
        candle_core::bail!("linear: [{rows}, {inner}] does not fit [{out}, {weight_inner}]");
    }
    let x = Operand::new(elements(input.0, input.1)?, rows, inner);
    let w = Operand::new(elements(weight.0, weight.1)?, out, inner);
    Ok((CpuStorage::F32(matmul(x, w.t(), start)), (rows, out).into()))
}

/// Returns the gradients of the input and of the weight.
fn backward(input: &Tensor, weight: &Tensor, grad: &Tensor) -> Result<(Tensor, Tensor)> {
    let (rows, inner) = input.dims2()?;
    let out = weight.dim(0)?;
    let (input_grad, weight_grad) = with_elements(grad, |dy| {
        let dy = Operand::new(dy, rows, out);
        let dx = with_elements(weight, |w| matmul(dy, Operand::new(w, out, inner), None))?;
        let dw = with_elements(input, |x| {
            matmul(dy.t(), Operand::new(x, rows, inner), None)
        })?;
        Ok::<_, candle_core::Error>((dx, dw))
    })??;
    Ok((
        shaped_as(input, input_grad)?,
        shaped_as(weight, weight_grad)?,
    ))
}

impl CustomOp2 for Linear {
    fn name(&self) -> &'static str {
        "linear"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        forward((s1, l1), (s2, l2), None)
    }

    fn bwd(
        &self,
        input: &Tensor,
        weight: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (input, weight) = backward(input, weight, grad)?;
        Ok((Some(input), Some(weight)))
    }
}

impl CustomOp3 for LinearOnto {
    fn name(&self) -> &'static str {
        "linear-onto"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        forward((s1, l1), (s2, l2), Some(elements(s3, l3)?))
    }

    fn bwd(
        &self,
        input: &Tensor,
        weight: &Tensor,
        _residual: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (input, weight) = backward(input, weight, grad)?;
        Ok((Some(input), Some(weight), Some(grad.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, assert_same_gradients, random_var};
    use super::*;

    #[test]
    fn linear_equals_candle_matmul_with_gradients() -> Result<()> {
        let (x, w) = (random_var((29, 48), 1)?, random_var((70, 48), 2)?);
        let mix = random_var((29, 70), 3)?;
        let own = linear(&x, &w)?;
        let plain = x.matmul(&w.t()?)?;
        // Sums of 48 products of size about 1.
        assert_close(&own, &plain, 2e-5)?;
        assert_same_gradients(
            &(own * mix.as_tensor())?,
            &(plain * mix.as_tensor())?,
            &[&x, &w],
            1e-4,
        )
    }

    #[test]
    fn linear_onto_adds_the_residual_and_passes_its_gradient() -> Result<()> {
        let (x, w) = (random_var((13, 32), 1)?, random_var((40, 32), 2)?);
        let (residual, mix) = (random_var((13, 40), 3)?, random_var((13, 40), 4)?);
        let own = linear_onto(&residual, &x, &w)?;
        let plain = (x.matmul(&w.t()?)? + residual.as_tensor())?;
        assert_close(&own, &plain, 2e-5)?;
        assert_same_gradients(
            &(own * mix.as_tensor())?,
            &(plain * mix.as_tensor())?,
            &[&x, &w, &residual],
            1e-4,
        )
    }

    #[test]
    fn misfit_is_an_error() -> Result<()> {
        let (x, w) = (random_var((3, 4), 1)?, random_var((5, 6), 2)?);
        assert!(linear(&x, &w).is_err());
        Ok(())
    }
}
