//! The log-odds of a preferred response under vectors added to the residual stream, and their derivative.
//!
//! `Δ(e) = [log π_e(y⁺|x) − log π_0(y⁺|x)] − [log π_e(y⁻|x) − log π_0(y⁻|x)]`, with log-probabilities summed over
//! a response's tokens: what direct preference optimisation and [`bipo`](crate::bipo) learn from. Candle
//! differentiates the blocks above the lowest vector; what lies below is computed once a pair and kept, in `f32`,
//! `[tokens, hidden]`. Pairs are computed one by one, so that nothing depends on a batch or on threads.

use crate::FitError;
use crate::pair_batch::{PairBatch, of_each};
use crate::real::norm;
use crate::steering::Steering;
use crate::{Edit, Operator, SteeringError};
use candle_core::{D, Device, Tensor, Var};
use sims_model::{Decoder, ModelError, TracedDecoder};
use std::collections::BTreeMap;

/// A prompt with a response that is preferred to another one, in token ids as they were sampled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preference {
    /// The pair's id, for messages.
    pub pair_id: String,
    /// The prompt, up to the first token of the response.
    pub prompt: Vec<u32>,
    /// The preferred response; not empty.
    pub chosen: Vec<u32>,
    /// The other one; not empty.
    pub rejected: Vec<u32>,
}

/// Which positions of a training sequence a vector is added to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EditedPositions {
    /// All, the prompt's included, as BiPO's authors do.
    All,
    /// The prompt's last and those after it, where a steering is applied.
    FromPromptEnd,
}

/// The log-odds as a function of vectors at some layers of a frozen model.
pub struct PreferenceOdds<'a> {
    traced: TracedDecoder<'a>,
    num_hidden_layers: usize,
    hidden_size: usize,
    layers: Vec<usize>,
    positions: EditedPositions,
    /// What the incumbent adds, by layer: `[1, hidden]`.
    incumbent: BTreeMap<usize, Tensor>,
}

/// A pair, and what of it does not depend on the vectors.
pub struct PreparedPair {
    laid_out: PairBatch,
    /// Output of the lowest vector's block, `[rows, hidden]`, incumbent included; on the host, since all pairs' are kept.
    states: Tensor,
    /// `[rows, 1]`: 1 where a vector is added.
    edited: Tensor,
    /// `[rows, 1]`: 1 where a steering is applied.
    steered: Tensor,
    reference: [f64; 2],
    /// By vector: what the states are like there.
    figures: Vec<StateFigures>,
}

/// The states of one pair that predict its responses, at one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct StateFigures {
    /// Mean norm of the states.
    pub state_norm: f64,
    /// Mean over the chosen response minus mean over the rejected one, `[hidden]`.
    pub difference: Vec<f64>,
}

/// The log-odds of one pair and how they change.
#[derive(Debug, Clone, PartialEq)]
pub struct OddsGradient {
    /// The log-odds.
    pub odds: f64,
    /// Their derivatives by each vector, `[hidden]`.
    pub slopes: Vec<Vec<f32>>,
}

impl PreparedPair {
    /// Returns the responses' log-probabilities without the vectors: chosen, rejected.
    pub fn reference(&self) -> [f64; 2] {
        self.reference
    }

    /// Returns what the states are like, by vector.
    pub fn figures(&self) -> &[StateFigures] {
        &self.figures
    }
}

impl<'a> PreferenceOdds<'a> {
    /// Prepares vectors at `layers` (0-based, the block's output) on top of an incumbent.
    ///
    /// # Errors
    /// [`FitError::Model`] for a decoder that was not read with [`Kernels::Candle`](sims_model::Kernels) on one device,
    /// [`FitError::Operator`] for no layer, one that the model does not have or an incumbent of another width,
    /// [`FitError::Underivable`] for an incumbent with other edits than vectors.
    pub fn new(
        decoder: &'a Decoder,
        layers: &[usize],
        positions: EditedPositions,
        incumbent: Option<&Steering>,
    ) -> Result<Self, FitError> {
        let config = decoder.config();
        let (hidden_size, num_hidden_layers) = (config.hidden_size, config.num_hidden_layers);
        let mut layers = layers.to_vec();
        layers.sort_unstable();
        layers.dedup();
        let highest = layers.last().copied().unwrap_or(num_hidden_layers);
        if highest >= num_hidden_layers {
            return Err(SteeringError::LayerRange {
                layer: highest,
                num_hidden_layers,
            }
            .into());
        }
        let traced = decoder.traced()?;
        let mut shifts = BTreeMap::new();
        for layer in incumbent.map(Steering::layers).unwrap_or_default() {
            let Some(shift) = incumbent.and_then(|incumbent| shift(incumbent, layer)) else {
                return Err(FitError::Underivable { layer });
            };
            if shift.len() != hidden_size {
                return Err(SteeringError::HiddenSize {
                    expected: shift.len(),
                    found: hidden_size,
                }
                .into());
            }
            let tensor = Tensor::from_vec(shift, (1, hidden_size), traced.device());
            shifts.insert(layer, tensor.map_err(ModelError::from)?);
        }
        Ok(Self {
            traced,
            num_hidden_layers,
            hidden_size,
            layers,
            positions,
            incumbent: shifts,
        })
    }

    /// Returns the vectors' layers, ascending.
    pub fn layers(&self) -> &[usize] {
        &self.layers
    }

    /// Returns the model's hidden size.
    pub fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    /// Runs each pair without the vectors, and keeps what they do not change; calls `progress` after every pair.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub fn prepare_all(
        &self,
        pairs: &[Preference],
        progress: &(dyn Fn() + Sync),
    ) -> Result<Vec<PreparedPair>, FitError> {
        of_each(pairs, self.traced.device(), |pair| {
            let prepared = self.prepare(pair);
            progress();
            prepared
        })
    }

    /// Runs a pair without the vectors, and keeps what they do not change.
    ///
    /// # Errors
    /// [`FitError::LogProbability`] where the model's log-probabilities are not finite, [`FitError::Model`] for a
    /// sequence that the model refuses.
    pub fn prepare(&self, pair: &Preference) -> Result<PreparedPair, FitError> {
        let prepared = self.run_unsteered(pair)?;
        if prepared.reference.iter().all(|value| value.is_finite()) {
            Ok(prepared)
        } else {
            Err(FitError::LogProbability {
                pair_id: pair.pair_id.clone(),
            })
        }
    }

    /// Returns, for each pair, `log π_e(y|x) − log π_0(y|x)` of the chosen and the rejected response under
    /// `vectors`, one a layer, each `[hidden]`; their difference is the log-odds.
    ///
    /// # Errors
    /// [`FitError::Model`].
    pub fn log_ratios(
        &self,
        pairs: &[&PreparedPair],
        vectors: &[Vec<f32>],
    ) -> Result<Vec<[f64; 2]>, FitError> {
        let ratios = |pair: &&PreparedPair| -> Result<[f64; 2], ModelError> {
            let vectors: Vec<Tensor> = vectors
                .iter()
                .map(|vector| self.row(vector))
                .collect::<Result<_, _>>()?;
            let [chosen, rejected] = self.log_probabilities(pair, &vectors)?;
            let found = [chosen.to_scalar::<f64>()?, rejected.to_scalar()?];
            Ok([0, 1].map(|class| found[class] - pair.reference[class]))
        };
        Ok(of_each(pairs, self.traced.device(), ratios)?)
    }

    /// Returns, for each pair, the log-odds under `vectors` and their derivatives.
    ///
    /// # Errors
    /// [`FitError::Model`].
    pub fn gradients(
        &self,
        pairs: &[&PreparedPair],
        vectors: &[Vec<f32>],
    ) -> Result<Vec<OddsGradient>, FitError> {
        let gradient = |pair: &&PreparedPair| -> Result<OddsGradient, ModelError> {
            let variables: Vec<Var> = vectors
                .iter()
                .map(|vector| Ok::<_, ModelError>(Var::from_tensor(&self.row(vector)?)?))
                .collect::<Result<_, _>>()?;
            let tensors: Vec<Tensor> = variables.iter().map(|v| v.as_tensor().clone()).collect();
            let [chosen, rejected] = self.log_probabilities(pair, &tensors)?;
            let difference = (chosen - rejected)?;
            let odds = difference.to_scalar::<f64>()? - (pair.reference[0] - pair.reference[1]);
            let gradients = difference.backward()?;
            let slopes = variables.iter().map(|variable| {
                Ok(match gradients.get(variable) {
                    Some(gradient) => gradient.flatten_all()?.to_vec1()?,
                    // No edited row: nothing depends on the vector.
                    None => vec![0.0; self.hidden_size],
                })
            });
            Ok(OddsGradient {
                odds,
                slopes: slopes.collect::<Result<_, ModelError>>()?,
            })
        };
        Ok(of_each(pairs, self.traced.device(), gradient)?)
    }

    /// Lays out the pair and runs it without the vectors.
    fn run_unsteered(&self, pair: &Preference) -> Result<PreparedPair, ModelError> {
        let prompt = pair.prompt.len();
        let laid_out = PairBatch::new(pair, self.traced.device())?;
        let rows = laid_out.batch.tokens.len();
        let column = |from: usize| {
            let values: Vec<f32> = (0..rows).map(|row| f32::from(row >= from)).collect();
            Tensor::from_vec(values, (rows, 1), self.traced.device())
        };
        let steered = column(prompt.saturating_sub(1))?;
        let edited = match self.positions {
            EditedPositions::All => column(0)?,
            EditedPositions::FromPromptEnd => steered.clone(),
        };
        let mut prepared = PreparedPair {
            states: self.traced.embed(&laid_out.batch)?,
            laid_out,
            edited,
            steered,
            reference: [0.0; 2],
            figures: Vec::new(),
        };
        let mut hidden = prepared.states.clone();
        let mut next = 0;
        for (index, &layer) in self.layers.iter().enumerate() {
            hidden = self.advance(&prepared, &hidden, next, layer + 1)?;
            next = layer + 1;
            prepared.figures.push(figures(&prepared, &hidden)?);
            if index == 0 {
                prepared.states = hidden.to_device(&Device::Cpu)?;
            }
        }
        hidden = self.advance(&prepared, &hidden, next, self.num_hidden_layers)?;
        let [chosen, rejected] = prepared.laid_out.log_probabilities(&self.traced, &hidden)?;
        prepared.reference = [chosen.to_scalar()?, rejected.to_scalar()?];
        Ok(prepared)
    }

    /// Returns the log-probabilities of both responses under the vectors, two scalars in f64.
    fn log_probabilities(
        &self,
        pair: &PreparedPair,
        vectors: &[Tensor],
    ) -> Result<[Tensor; 2], ModelError> {
        let mut hidden = pair.states.to_device(self.traced.device())?;
        let mut next = self.layers[0] + 1;
        for (&layer, vector) in self.layers.iter().zip(vectors) {
            if layer + 1 > next {
                hidden = self.advance(pair, &hidden, next, layer + 1)?;
                next = layer + 1;
            }
            hidden = (hidden + pair.edited.matmul(vector)?)?;
        }
        hidden = self.advance(pair, &hidden, next, self.num_hidden_layers)?;
        pair.laid_out.log_probabilities(&self.traced, &hidden)
    }

    /// Returns a vector as `[1, hidden]`.
    fn row(&self, vector: &[f32]) -> Result<Tensor, ModelError> {
        let shape = (1, vector.len());
        Ok(Tensor::from_slice(vector, shape, self.traced.device())?)
    }

    /// Runs the blocks from `start` up to `end`, the incumbent after each that it steers.
    fn advance(
        &self,
        pair: &PreparedPair,
        hidden: &Tensor,
        start: usize,
        end: usize,
    ) -> Result<Tensor, ModelError> {
        let mut hidden = hidden.clone();
        let mut next = start;
        for (&layer, shift) in self.incumbent.range(start..end) {
            hidden = self
                .traced
                .blocks(&pair.laid_out.batch, &hidden, next..layer + 1)?;
            hidden = (hidden + pair.steered.matmul(shift)?)?;
            next = layer + 1;
        }
        self.traced.blocks(&pair.laid_out.batch, &hidden, next..end)
    }
}

/// Returns what a steering adds at a layer, `[hidden]`, if it only adds there.
fn shift(steering: &Steering, layer: usize) -> Option<Vec<f32>> {
    let adds = |edit: &Edit| {
        let is_plain = !edit.preserve_norm && edit.condition.is_none();
        is_plain && matches!(edit.operator, Operator::Additive(_))
    };
    let only_adds = steering.head_shift(layer).is_none() && steering.edits(layer).iter().all(adds);
    let shift = only_adds
        .then(|| steering.additive_shift(layer))
        .flatten()?;
    Some(shift.into_iter().map(|x| x as f32).collect())
}

fn figures(pair: &PreparedPair, hidden: &Tensor) -> Result<StateFigures, ModelError> {
    let rows: Vec<Vec<f32>> = hidden
        .index_select(&pair.laid_out.predicting, 0)?
        .to_vec2()?;
    let (chosen, rejected) = rows.split_at(pair.laid_out.chosen);
    let width = hidden.dim(D::Minus1)?;
    let mean = |rows: &[Vec<f32>]| {
        let mut mean = vec![0.0; width];
        for row in rows {
            for (mean, &x) in mean.iter_mut().zip(row) {
                *mean += f64::from(x) / rows.len() as f64;
            }
        }
        mean
    };
    let (positive, negative) = (mean(chosen), mean(rejected));
    Ok(StateFigures {
        state_norm: rows.iter().map(|row| norm(row)).sum::<f64>() / rows.len() as f64,
        difference: positive.iter().zip(negative).map(|(p, n)| p - n).collect(),
    })
}
