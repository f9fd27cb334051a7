//! A preference laid out for one pass: the prompt once, and both responses that continue it.

use crate::preference::Preference;
use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops::log_softmax;
use rayon::prelude::*;
use sims_model::{Batch, ModelError, TracedDecoder};

/// Calls `work` with each pair and returns what it gives, in order: on all threads of the CPU; on another device one after
/// the other, since its launches queue in any case.
pub(crate) fn of_each<P: Sync, T: Send, E: Send>(
    pairs: &[P],
    device: &Device,
    work: impl Fn(&P) -> Result<T, E> + Sync,
) -> Result<Vec<T>, E> {
    match device.is_cpu() {
        true => pairs.par_iter().map(&work).collect(),
        false => pairs.iter().map(work).collect(),
    }
}

/// The rows of a pair, and which of them predict its responses.
pub(crate) struct PairBatch {
    pub(crate) batch: Batch,
    /// `[predictions]`: the row that predicts each token of the chosen response, then of the rejected one.
    pub(crate) predicting: Tensor,
    /// `[predictions, 1]`: those tokens.
    predicted: Tensor,
    /// Tokens of the chosen response.
    pub(crate) chosen: usize,
}

impl PairBatch {
    /// Lays out the prompt, and both responses without their last token, for a pass on `device`.
    pub(crate) fn new(pair: &Preference, device: &Device) -> Result<Self, ModelError> {
        let prompt = pair.prompt.len();
        let mut batch = Batch::default();
        batch.push(&pair.prompt, Vec::new(), 0, 0);
        let (mut predicting, mut predicted) = (Vec::new(), Vec::new());
        for response in [&pair.chosen, &pair.rejected] {
            let start = batch.tokens.len();
            let inputs = &response[..response.len().saturating_sub(1)];
            if !inputs.is_empty() {
                batch.push(inputs, std::iter::once(0..prompt).collect(), start, 0);
            }
            let rows = std::iter::once(prompt.saturating_sub(1)).chain(start..batch.tokens.len());
            predicting.extend(rows.map(|row| row as u32));
            predicted.extend_from_slice(response);
        }
        let count = predicted.len();
        Ok(Self {
            batch,
            predicting: Tensor::from_vec(predicting, count, device)?,
            predicted: Tensor::from_vec(predicted, (count, 1), device)?,
            chosen: pair.chosen.len(),
        })
    }

    /// Sums the log-probabilities of both responses' tokens, in f64: chosen, rejected.
    ///
    /// `hidden`: the last block's output for the batch's rows, `[rows, hidden]`.
    pub(crate) fn log_probabilities(
        &self,
        traced: &TracedDecoder<'_>,
        hidden: &Tensor,
    ) -> Result<[Tensor; 2], ModelError> {
        let rows = hidden.index_select(&self.predicting, 0)?;
        let logits = traced.logits(&rows)?.to_dtype(DType::F64)?;
        let found = log_softmax(&logits, D::Minus1)?.gather(&self.predicted, 1)?;
        let rejected = found.dim(0)? - self.chosen;
        Ok([
            found.narrow(0, 0, self.chosen)?.sum_all()?,
            found.narrow(0, self.chosen, rejected)?.sum_all()?,
        ])
    }
}
