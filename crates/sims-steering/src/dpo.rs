//! Direct preference optimisation of a low-rank adapter: the fine-tuning that steering is compared with.
//!
//! The loss of a pair is `−log σ(β·Δ)`, where `Δ` is by how much the adapter raises the log-odds of the chosen
//! response over the rejected one, log-probabilities being summed over a response's tokens (Rafailov et al. 2023,
//! arXiv 2305.18290). Only the adapter's A and B change (Hu et al. 2021, arXiv 2106.09685); the reference is the model
//! itself, run once a pair. AdamW without weight decay, the gradient's norm bounded; a cosine after a linear warm-up.
//! Training stops when the loss on held-out prompts no longer falls, and the best epoch's adapter is kept.

use crate::FitError;
use crate::adamw::{AdamW, squares};
use crate::bipo::{Schedule, loss_of};
use crate::pair_batch::{PairBatch, of_each};
use crate::preference::Preference;
use crate::random::stream;
use candle_core::{Tensor, Var};
use sims_model::{Adapter, Decoder, ModelError, Module, TracedDecoder};
use std::f64::consts::LN_2;
use std::ops::ControlFlow;

/// How an adapter is trained.
#[derive(Debug, Clone, PartialEq)]
pub struct DpoOptions {
    /// Factor of the log-odds in the loss.
    pub beta: f64,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Steps up to it.
    pub warmup_steps: usize,
    /// Pairs a step.
    pub batch_pairs: usize,
    /// Most passes over the pairs.
    pub max_epochs: usize,
    /// Epochs without a lower held-out loss after which training stops.
    pub patience: usize,
    /// A gradient of a larger norm is scaled down to it; 0 is off.
    pub max_gradient_norm: f64,
    /// Seed of the order.
    pub seed: u64,
}

/// How one epoch went; without an adapter the loss is `ln 2`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EpochFigures {
    /// Mean over the batches while the adapter changed.
    pub train_loss: f64,
    /// Mean over held-out pairs, after the epoch.
    pub held_out_loss: f64,
    /// Share of held-out pairs whose log-odds the adapter raises.
    pub held_out_accuracy: f64,
}

/// A trained adapter.
#[derive(Debug, Clone, PartialEq)]
pub struct FineTuned {
    /// The best epoch's adapter.
    pub adapter: Adapter,
    /// One entry an epoch.
    pub epochs: Vec<EpochFigures>,
    /// The epoch whose adapter this is, from 0.
    pub best_epoch: usize,
}

/// A pair, and what the model itself makes of it.
pub struct ReferencedPair {
    laid_out: PairBatch,
    reference: [f64; 2],
}

impl ReferencedPair {
    /// Returns the responses' log-probabilities under the model itself: chosen, rejected.
    pub fn reference(&self) -> [f64; 2] {
        self.reference
    }
}

/// Loss and derivative of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchGradient {
    /// Mean loss.
    pub loss: f64,
    /// Its derivatives: A and then B of each module, in the adapter's order and layout.
    pub slopes: Vec<Vec<f64>>,
}

/// The log-odds of preferred responses as a function of an adapter on a frozen model.
pub struct AdaptedOdds<'a> {
    traced: TracedDecoder<'a>,
    num_hidden_layers: usize,
}

impl<'a> AdaptedOdds<'a> {
    /// Prepares to adapt a model.
    ///
    /// # Errors
    /// [`FitError::Model`] for a decoder that was not read with [`Kernels::Candle`](sims_model::Kernels) on one device.
    pub fn new(decoder: &'a Decoder) -> Result<Self, FitError> {
        Ok(Self {
            traced: decoder.traced()?,
            num_hidden_layers: decoder.config().num_hidden_layers,
        })
    }

    /// Runs each pair through the model itself; calls `progress` after every pair.
    ///
    /// # Errors
    /// As [`prepare`](Self::prepare).
    pub fn prepare_all(
        &self,
        pairs: &[Preference],
        progress: &(dyn Fn() + Sync),
    ) -> Result<Vec<ReferencedPair>, FitError> {
        of_each(pairs, self.traced.device(), |pair| {
            let prepared = self.prepare(pair);
            progress();
            prepared
        })
    }

    /// Runs a pair through the model itself.
    ///
    /// # Errors
    /// [`FitError::LogProbability`] where the model's log-probabilities are not finite, [`FitError::Model`] for a
    /// sequence that the model refuses.
    pub fn prepare(&self, pair: &Preference) -> Result<ReferencedPair, FitError> {
        let mut prepared = ReferencedPair {
            laid_out: PairBatch::new(pair, self.traced.device())?,
            reference: [0.0; 2],
        };
        prepared.reference = scalars(&self.log_probabilities(&self.traced, &prepared)?)?;
        if prepared.reference.iter().all(|value| value.is_finite()) {
            Ok(prepared)
        } else {
            Err(FitError::LogProbability {
                pair_id: pair.pair_id.clone(),
            })
        }
    }

    /// Returns, for each pair, `log π(y|x) − log π_0(y|x)` of the chosen and the rejected response under an adapter;
    /// their difference is the log-odds.
    ///
    /// # Errors
    /// [`FitError::Model`].
    pub fn log_ratios(
        &self,
        pairs: &[&ReferencedPair],
        adapter: &Adapter,
    ) -> Result<Vec<[f64; 2]>, FitError> {
        let ratios = |pair: &&ReferencedPair| -> Result<[f64; 2], ModelError> {
            let adapted = self.adapted(adapter, Ok)?;
            let found = scalars(&self.log_probabilities(&adapted, pair)?)?;
            Ok([0, 1].map(|class| found[class] - pair.reference[class]))
        };
        Ok(of_each(pairs, self.traced.device(), ratios)?)
    }

    /// Returns the mean loss of a batch under an adapter, and its derivative by every A and B.
    ///
    /// # Errors
    /// [`FitError::Model`].
    pub fn batch_gradient(
        &self,
        batch: &[&ReferencedPair],
        adapter: &Adapter,
        beta: f64,
    ) -> Result<BatchGradient, FitError> {
        // Pairs are computed one by one and summed in order, so that nothing depends on threads.
        let one = |pair: &&ReferencedPair| self.odds_gradient(pair, adapter);
        let gradients = of_each(batch, self.traced.device(), one)?;
        let mut loss = 0.0;
        let sizes = adapter
            .modules
            .values()
            .flat_map(|change| [&change.a, &change.b]);
        let mut sums: Vec<Vec<f64>> = sizes.map(|values| vec![0.0; values.len()]).collect();
        for (odds, slopes) in gradients {
            let x = beta * odds;
            loss += loss_of(x) / batch.len() as f64;
            let factor = -beta / (1.0 + x.exp()) / batch.len() as f64;
            for (sum, slope) in sums.iter_mut().flatten().zip(slopes.iter().flatten()) {
                *sum += factor * f64::from(*slope);
            }
        }
        Ok(BatchGradient { loss, slopes: sums })
    }

    /// Returns a pair's log-odds and their derivatives.
    fn odds_gradient(
        &self,
        pair: &ReferencedPair,
        adapter: &Adapter,
    ) -> Result<(f64, Vec<Vec<f32>>), ModelError> {
        let mut variables = Vec::with_capacity(2 * adapter.modules.len());
        let adapted = self.adapted(adapter, |tensor| {
            let variable = Var::from_tensor(&tensor)?;
            let tensor = variable.as_tensor().clone();
            variables.push(variable);
            Ok(tensor)
        })?;
        let [chosen, rejected] = self.log_probabilities(&adapted, pair)?;
        let difference = (chosen - rejected)?;
        let odds = difference.to_scalar::<f64>()? - (pair.reference[0] - pair.reference[1]);
        let gradients = difference.backward()?;
        let slopes = variables.iter().map(|variable| {
            Ok(match gradients.get(variable) {
                Some(gradient) => gradient.flatten_all()?.to_vec1()?,
                None => vec![0.0; variable.elem_count()],
            })
        });
        Ok((odds, slopes.collect::<Result<_, ModelError>>()?))
    }

    /// Puts an adapter on the model, each tensor as `of` gives it: A and then B of each module.
    fn adapted(
        &self,
        adapter: &Adapter,
        mut of: impl FnMut(Tensor) -> Result<Tensor, ModelError>,
    ) -> Result<TracedDecoder<'a>, ModelError> {
        let (rank, device) = (adapter.rank, self.traced.device());
        let mut changes: Vec<(&Module, Tensor, Tensor)> = Vec::with_capacity(adapter.modules.len());
        for (module, change) in &adapter.modules {
            let (inputs, outputs) = (change.a.len() / rank, change.b.len() / rank);
            let a = of(Tensor::from_slice(&change.a, (rank, inputs), device)?)?;
            let b = of(Tensor::from_slice(&change.b, (outputs, rank), device)?)?;
            changes.push((module, a, b));
        }
        self.traced.adapted(adapter.scale(), &changes)
    }

    fn log_probabilities(
        &self,
        traced: &TracedDecoder<'_>,
        pair: &ReferencedPair,
    ) -> Result<[Tensor; 2], ModelError> {
        let batch = &pair.laid_out.batch;
        let hidden = traced.blocks(batch, &traced.embed(batch)?, 0..self.num_hidden_layers)?;
        pair.laid_out.log_probabilities(traced, &hidden)
    }
}

/// Trains an adapter from where it is.
///
/// `progress` is called after every batch and may stop the training.
///
/// # Errors
/// [`FitError::EmptyClass`] without pairs, [`FitError::Diverged`] when a loss or a gradient is not finite,
/// [`FitError::NoFineTuning`] when no epoch's held-out loss is below that of the model itself,
/// [`FitError::Interrupted`] and [`FitError::Model`].
pub fn train(
    odds: &AdaptedOdds<'_>,
    fit: &[&ReferencedPair],
    held_out: &[&ReferencedPair],
    start: Adapter,
    options: &DpoOptions,
    progress: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<FineTuned, FitError> {
    if fit.is_empty() || held_out.is_empty() {
        return Err(FitError::EmptyClass { class: "chosen" });
    }
    let mut adapter = start;
    let sizes = adapter
        .modules
        .values()
        .flat_map(|change| [&change.a, &change.b]);
    let mut optimiser = AdamW::new(sizes.map(Vec::len));
    let batches = fit.len().div_ceil(options.batch_pairs);
    let schedule = Schedule {
        peak: options.learning_rate,
        warmup: options.warmup_steps,
        steps: options.max_epochs * batches,
    };
    let mut best: Option<(usize, Adapter)> = None;
    let mut epochs: Vec<EpochFigures> = Vec::new();
    for epoch in 0..options.max_epochs {
        let diverged = || FitError::Diverged { epoch: epoch + 1 };
        let mut order: Vec<&ReferencedPair> = fit.to_vec();
        stream(options.seed, &format!("dpo epoch {epoch}")).shuffle(&mut order);
        let mut sum = 0.0;
        for (index, batch) in order.chunks(options.batch_pairs).enumerate() {
            let BatchGradient { loss, slopes } =
                odds.batch_gradient(batch, &adapter, options.beta)?;
            let rate = schedule.learning_rate(epoch * batches + index);
            if !loss.is_finite() || !step(&mut optimiser, &mut adapter, &slopes, rate, options) {
                return Err(diverged());
            }
            sum += loss;
            if progress().is_break() {
                return Err(FitError::Interrupted);
            }
        }
        let (loss, accuracy) = held_out_figures(odds, held_out, &adapter, options.beta)?;
        if !loss.is_finite() {
            return Err(diverged());
        }
        epochs.push(EpochFigures {
            train_loss: sum / batches as f64,
            held_out_loss: loss,
            held_out_accuracy: accuracy,
        });
        let best_epoch = best.as_ref().map(|(at, _)| *at);
        match best_epoch {
            Some(at) if loss >= epochs[at].held_out_loss => {
                if epoch - at >= options.patience {
                    break;
                }
            }
            _ => best = Some((epoch, adapter.clone())),
        }
    }
    match best {
        Some((best_epoch, adapter)) if epochs[best_epoch].held_out_loss < LN_2 => Ok(FineTuned {
            adapter,
            epochs,
            best_epoch,
        }),
        best => Err(FitError::NoFineTuning {
            loss: best.map_or(f64::NAN, |(at, _)| epochs[at].held_out_loss),
            without: LN_2,
            epochs: epochs.len(),
        }),
    }
}

/// Moves the adapter against the slopes; returns false and does nothing if one of them is not finite.
fn step(
    optimiser: &mut AdamW,
    adapter: &mut Adapter,
    slopes: &[Vec<f64>],
    learning_rate: f64,
    options: &DpoOptions,
) -> bool {
    let mut slopes: Vec<Vec<f32>> = slopes
        .iter()
        .map(|values| values.iter().map(|&slope| slope as f32).collect())
        .collect();
    let norm = slopes
        .iter()
        .map(|values| squares(values))
        .sum::<f64>()
        .sqrt();
    if !norm.is_finite() {
        return false;
    }
    let factor = match options.max_gradient_norm {
        limit if limit > 0.0 && norm > limit => limit / norm,
        _ => 1.0,
    };
    let values = adapter
        .modules
        .values_mut()
        .flat_map(|change| [&mut change.a, &mut change.b]);
    optimiser.step(values.zip(&mut slopes), learning_rate, factor);
    true
}

/// Returns the mean loss of held-out pairs, and the share whose log-odds the adapter raises.
fn held_out_figures(
    odds: &AdaptedOdds<'_>,
    pairs: &[&ReferencedPair],
    adapter: &Adapter,
    beta: f64,
) -> Result<(f64, f64), FitError> {
    let ratios = odds.log_ratios(pairs, adapter)?;
    let gains = || ratios.iter().map(|[chosen, rejected]| chosen - rejected);
    let loss = gains().map(|gain| loss_of(beta * gain)).sum::<f64>();
    let raised = gains().filter(|gain| *gain > 0.0).count();
    Ok((
        loss / pairs.len() as f64,
        raised as f64 / pairs.len() as f64,
    ))
}

fn scalars(values: &[Tensor; 2]) -> Result<[f64; 2], ModelError> {
    Ok([values[0].to_scalar()?, values[1].to_scalar()?])
}
