//! What a step's logits come to: tokens, where the device chooses them, else rows for the host's sampler.

use candle_core::Tensor;

use crate::sampler::{Choice, SamplingParams};
use crate::softmax::LogitsError;
use crate::{Decoder, Result};

/// The choices and logits of a step's logit rows.
pub(super) struct Outcome {
    /// The choices of the first rows, if the device made them.
    pub(super) chosen: Option<Vec<std::result::Result<Choice, LogitsError>>>,
    /// The logits of the other rows, `[rows, vocab]`, flat.
    pub(super) logits: Vec<f32>,
}

impl Outcome {
    /// Chooses tokens for the first `uniforms.len()` of the `rows` on the device if it can, and copies what else the
    /// host needs.
    ///
    /// `rows`: `[rows, hidden_size]`, what the decoder returned for the rows whose logits are wanted.
    pub(super) fn of_rows(
        decoder: &Decoder,
        rows: &Tensor,
        params: &SamplingParams,
        uniforms: &[f64],
    ) -> Result<Self> {
        let mut logits = decoder.logits(rows)?;
        let mut chosen = None;
        if let Some(kernel) = decoder.sampling_kernel(params)
            && !uniforms.is_empty()
        {
            let decoded = logits.narrow(0, 0, uniforms.len())?;
            chosen = Some(kernel.choose(&decoded, params, uniforms)?);
            let others = logits.dim(0)? - uniforms.len();
            logits = logits.narrow(0, uniforms.len(), others)?;
        }
        let logits = if logits.elem_count() == 0 {
            Vec::new()
        } else {
            logits.flatten_all()?.to_vec1()?
        };
        Ok(Self { chosen, logits })
    }

    /// The outcome of a step that wants no logits.
    pub(super) fn nothing() -> Self {
        Self {
            chosen: None,
            logits: Vec::new(),
        }
    }
}
