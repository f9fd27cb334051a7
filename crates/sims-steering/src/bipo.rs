//! BiPO: steering vectors trained by bi-directional preference optimisation through the frozen model.
//!
//! For a batch of pairs and a sign `μ ∈ {−1, +1}` drawn for it, the loss is the mean of `−log σ(μ·β·Δ(μ·v))`, with
//! the log-odds `Δ` of [`preference`](crate::preference): `v` is to raise the odds of preferred responses and `−v`
//! to lower them (Cao et al. 2024, arXiv 2406.00045; `CaoYuanpu/BiPO:trl/trainer/bipo_trainer.py`). Adam, since the
//! source's weight decay never reaches its optimiser; a cosine after a linear warm-up. Differences: training stops
//! when the loss on held-out prompts, of both signs, no longer falls, and the best epoch's vectors are kept; several
//! layers may have a vector, trained together.

use crate::FitError;
use crate::preference::{OddsGradient, PreferenceOdds, PreparedPair};
use crate::random::stream;
use std::f64::consts::{LN_2, PI};
use std::ops::ControlFlow;

/// How vectors are trained.
#[derive(Debug, Clone, PartialEq)]
pub struct BipoOptions {
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
    /// Seed of the order and of the signs.
    pub seed: u64,
}

impl Default for BipoOptions {
    /// The source's settings, with an early stop.
    fn default() -> Self {
        Self {
            beta: 0.1,
            learning_rate: 5e-4,
            warmup_steps: 100,
            batch_pairs: 4,
            max_epochs: 20,
            patience: 3,
            seed: 0,
        }
    }
}

/// Losses of one epoch; `ln 2` is that of no vector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EpochLoss {
    /// Mean over the batches while the vectors changed.
    pub train: f64,
    /// Mean over held-out pairs and both signs, after the epoch.
    pub held_out: f64,
}

/// Trained vectors.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// One a layer, `[hidden]`.
    pub vectors: Vec<Vec<f32>>,
    /// One entry an epoch.
    pub losses: Vec<EpochLoss>,
    /// The epoch whose vectors these are, from 0.
    pub best_epoch: usize,
}

/// Trains the vectors of `odds` from 0.
///
/// `progress` is called after every batch and may stop the training.
///
/// # Errors
/// [`FitError::EmptyClass`] without pairs, [`FitError::Diverged`] when a gradient is not finite,
/// [`FitError::NoGain`] when no epoch's held-out loss is below that of no vector, [`FitError::Interrupted`] and
/// [`FitError::Model`].
pub fn train(
    odds: &PreferenceOdds<'_>,
    fit: &[&PreparedPair],
    held_out: &[&PreparedPair],
    options: &BipoOptions,
    progress: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Trained, FitError> {
    if fit.is_empty() || held_out.is_empty() {
        return Err(FitError::EmptyClass { class: "chosen" });
    }
    let width = odds.hidden_size();
    let mut adam = Adam::new(odds.layers().len() * width);
    let batches = fit.len().div_ceil(options.batch_pairs);
    let schedule = Schedule {
        peak: options.learning_rate,
        warmup: options.warmup_steps,
        steps: options.max_epochs * batches,
    };
    let mut best: Option<(f64, usize, Vec<Vec<f32>>)> = None;
    let mut losses: Vec<EpochLoss> = Vec::new();
    for epoch in 0..options.max_epochs {
        let diverged = || FitError::Diverged { epoch: epoch + 1 };
        let mut order: Vec<&PreparedPair> = fit.to_vec();
        let mut draws = stream(options.seed, &format!("bipo epoch {epoch}"));
        draws.shuffle(&mut order);
        let mut sum = 0.0;
        for batch in order.chunks(options.batch_pairs) {
            let sign = if draws.below(2) == 0 { 1.0 } else { -1.0 };
            let vectors = adam.vectors(width);
            let (loss, gradient) = batch_gradient(odds, batch, &vectors, sign, options.beta)?;
            if !(loss.is_finite() && gradient.iter().all(|slope| slope.is_finite())) {
                return Err(diverged());
            }
            sum += loss;
            let rate = schedule.learning_rate(adam.steps);
            adam.step(&gradient, rate);
            if progress().is_break() {
                return Err(FitError::Interrupted);
            }
        }
        let vectors = adam.vectors(width);
        let loss = both_ways(odds, held_out, &vectors, options.beta)?;
        if !loss.is_finite() {
            return Err(diverged());
        }
        losses.push(EpochLoss {
            train: sum / batches as f64,
            held_out: loss,
        });
        if best.as_ref().is_none_or(|(least, ..)| loss < *least) {
            best = Some((loss, epoch, vectors));
        } else if best
            .as_ref()
            .is_some_and(|(_, at, _)| epoch - at >= options.patience)
        {
            break;
        }
    }
    match best {
        Some((loss, best_epoch, vectors)) if loss < LN_2 => Ok(Trained {
            vectors,
            losses,
            best_epoch,
        }),
        best => Err(FitError::NoGain {
            loss: best.map_or(f64::NAN, |(loss, ..)| loss),
            without: LN_2,
            epochs: losses.len(),
        }),
    }
}

/// Returns the mean loss of a batch under `sign` times the vectors, and its derivative by them, one after another.
///
/// # Errors
/// [`FitError::Model`].
pub fn batch_gradient(
    odds: &PreferenceOdds<'_>,
    batch: &[&PreparedPair],
    vectors: &[Vec<f32>],
    sign: f64,
    beta: f64,
) -> Result<(f64, Vec<f64>), FitError> {
    let signed = times(vectors, sign);
    let mut loss = 0.0;
    let mut gradient = vec![0.0; vectors.iter().map(Vec::len).sum()];
    for OddsGradient { odds, slopes } in odds.gradients(batch, &signed)? {
        let x = sign * beta * odds;
        loss += loss_of(x) / batch.len() as f64;
        // d/dv −log σ(μβΔ(μv)) = −σ(−μβΔ)·μβ·μ·Δ′ and μ² = 1.
        let factor = -beta / (1.0 + x.exp()) / batch.len() as f64;
        for (sum, slope) in gradient.iter_mut().zip(slopes.iter().flatten()) {
            *sum += factor * f64::from(*slope);
        }
    }
    Ok((loss, gradient))
}

/// Returns the mean loss over pairs and both signs.
fn both_ways(
    odds: &PreferenceOdds<'_>,
    pairs: &[&PreparedPair],
    vectors: &[Vec<f32>],
    beta: f64,
) -> Result<f64, FitError> {
    let mut sum = 0.0;
    for sign in [1.0, -1.0] {
        let found = odds.log_ratios(pairs, &times(vectors, sign))?;
        let loss = |[chosen, rejected]: &[f64; 2]| loss_of(sign * beta * (chosen - rejected));
        sum += found.iter().map(loss).sum::<f64>();
    }
    Ok(sum / (2 * pairs.len()) as f64)
}

/// Returns `−log σ(x)`.
pub(crate) fn loss_of(x: f64) -> f64 {
    (-x).max(0.0) + (-x.abs()).exp().ln_1p()
}

/// Returns the vectors times a number.
pub fn times(vectors: &[Vec<f32>], factor: f64) -> Vec<Vec<f32>> {
    let scaled = |vector: &Vec<f32>| {
        vector
            .iter()
            .map(|&x| (factor * f64::from(x)) as f32)
            .collect()
    };
    vectors.iter().map(scaled).collect()
}

/// Linear up to the peak, then half a cosine down to 0.
pub(crate) struct Schedule {
    pub(crate) peak: f64,
    pub(crate) warmup: usize,
    pub(crate) steps: usize,
}

impl Schedule {
    /// Returns the rate of a step, counted from 0; the first moves, unlike that of transformers' schedule.
    pub(crate) fn learning_rate(&self, step: usize) -> f64 {
        if step < self.warmup {
            return self.peak * (step + 1) as f64 / self.warmup as f64;
        }
        let left = self.steps.saturating_sub(self.warmup).max(1) as f64;
        let progress = (step - self.warmup) as f64 / left;
        self.peak * 0.5 * (1.0 + (PI * progress).cos())
    }
}

/// Adam with the usual constants, in f64; it starts at 0.
struct Adam {
    values: Vec<f64>,
    mean: Vec<f64>,
    square: Vec<f64>,
    steps: usize,
}

impl Adam {
    const BETA_1: f64 = 0.9;
    const BETA_2: f64 = 0.999;
    const EPSILON: f64 = 1e-8;

    fn new(count: usize) -> Self {
        Self {
            values: vec![0.0; count],
            mean: vec![0.0; count],
            square: vec![0.0; count],
            steps: 0,
        }
    }

    fn vectors(&self, width: usize) -> Vec<Vec<f32>> {
        let vector = |values: &[f64]| values.iter().map(|&x| x as f32).collect();
        self.values.chunks(width).map(vector).collect()
    }

    fn step(&mut self, gradient: &[f64], learning_rate: f64) {
        self.steps += 1;
        let correction = |beta: f64| 1.0 - beta.powi(self.steps as i32);
        let (mean_correction, square_correction) =
            (correction(Self::BETA_1), correction(Self::BETA_2));
        for (index, &slope) in gradient.iter().enumerate() {
            let (mean, square) = (&mut self.mean[index], &mut self.square[index]);
            *mean = Self::BETA_1 * *mean + (1.0 - Self::BETA_1) * slope;
            *square = Self::BETA_2 * *square + (1.0 - Self::BETA_2) * slope * slope;
            let root = (*square / square_correction).sqrt() + Self::EPSILON;
            self.values[index] -= learning_rate * (*mean / mean_correction) / root;
        }
    }
}
