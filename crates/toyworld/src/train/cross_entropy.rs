//! Weighted cross entropy of next tokens as a differentiable op.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

use super::tensors::{elements, shaped_as, with_elements};
use super::vectorised::{exp, lane_sum, vectorised};

/// Returns `weights[i] * -ln softmax(logits[i])[targets[i]]` for every row.
///
/// `logits`: `[rows, vocab]`, f32; result: `[rows]`.
///
/// # Errors
/// When the numbers of rows differ or a target is not below `vocab`.
pub(super) fn cross_entropy(
    logits: &Tensor,
    targets: Arc<[u32]>,
    weights: Arc<[f32]>,
) -> Result<Tensor> {
    let (rows, vocab) = logits.dims2()?;
    if targets.len() != rows || weights.len() != rows {
        candle_core::bail!("cross entropy: {rows} rows, {} targets", targets.len());
    }
    if let Some(target) = targets.iter().find(|&&t| t as usize >= vocab) {
        candle_core::bail!("cross entropy: target {target} in a vocabulary of {vocab}");
    }
    logits
        .contiguous()?
        .apply_op1(CrossEntropy { targets, weights })
}

struct CrossEntropy {
    targets: Arc<[u32]>,
    weights: Arc<[f32]>,
}

/// Returns the largest logit and the sum of `exp(logit - largest)`.
#[inline(always)]
fn normaliser(row: &[f32]) -> (f32, f32) {
    let max = row
        .iter()
        .fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
    (max, lane_sum(row.len(), |i| exp(row[i] - max)))
}

vectorised! {
    fn forward(logits: &[f32], targets: &[u32], weights: &[f32], out: &mut [f32]) {
        let vocab = logits.len() / targets.len().max(1);
        for (i, row) in logits.chunks_exact(vocab.max(1)).enumerate() {
            if weights[i] != 0.0 {
                let (max, sum) = normaliser(row);
                out[i] = weights[i] * (max + sum.ln() - row[targets[i] as usize]);
            }
        }
    }
}

vectorised! {
    fn backward(logits: &[f32], targets: &[u32], scales: &[f32], out: &mut [f32]) {
        let vocab = logits.len() / targets.len().max(1);
        let rows = logits.chunks_exact(vocab.max(1)).zip(out.chunks_exact_mut(vocab.max(1)));
        for (i, (row, out)) in rows.enumerate() {
            if scales[i] != 0.0 {
                let (max, sum) = normaliser(row);
                let scale = scales[i] / sum;
                for (out, x) in out.iter_mut().zip(row) {
                    *out = scale * exp(x - max);
                }
                out[targets[i] as usize] -= scales[i];
            }
        }
    }
}

impl CustomOp1 for CrossEntropy {
    fn name(&self) -> &'static str {
        "cross-entropy"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let mut out = vec![0.0; self.targets.len()];
        forward(
            elements(storage, layout)?,
            &self.targets,
            &self.weights,
            &mut out,
        );
        let rows = out.len();
        Ok((CpuStorage::F32(out), rows.into()))
    }

    fn bwd(&self, logits: &Tensor, _result: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let scales: Vec<f32> = with_elements(grad, |g| {
            g.iter()
                .zip(self.weights.iter())
                .map(|(g, w)| g * w)
                .collect()
        })?;
        let mut out = vec![0.0; logits.elem_count()];
        with_elements(logits, |x| backward(x, &self.targets, &scales, &mut out))?;
        Ok(Some(shaped_as(logits, out)?))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{D, Device};

    use super::super::testing::{assert_close, assert_same_gradients, random_var};
    use super::*;

    #[test]
    fn cross_entropy_equals_plain_ops_with_gradients() -> Result<()> {
        let logits = random_var((6, 37), 1)?;
        let targets: Arc<[u32]> = [3, 36, 0, 7, 7, 20].into();
        let weights: Arc<[f32]> = [1.0, 0.1, 0.0, 4.0, 3.0, 1.0].into();
        let own = cross_entropy(&logits, targets.clone(), weights.clone())?;
        let max = logits.max_keepdim(D::Minus1)?.detach();
        let sum = logits.broadcast_sub(&max)?.exp()?.sum_keepdim(D::Minus1)?;
        let ids = Tensor::from_slice(&targets, (6, 1), &Device::Cpu)?;
        let plain = ((max + sum.log()?)? - logits.gather(&ids, 1)?)?.squeeze(1)?;
        let plain = (plain * Tensor::from_slice(&weights, 6, &Device::Cpu)?)?;
        // A weight of 4 on a loss of about 4.
        assert_close(&own, &plain, 5e-6)?;
        assert_same_gradients(&own, &plain, &[&logits], 2e-6)
    }

    #[test]
    fn target_outside_the_vocabulary_is_an_error() -> Result<()> {
        let logits = random_var((1, 5), 1)?;
        assert!(cross_entropy(&logits, [5].into(), [1.0].into()).is_err());
        assert!(cross_entropy(&logits, [1, 2].into(), [1.0, 1.0].into()).is_err());
        Ok(())
    }
}
