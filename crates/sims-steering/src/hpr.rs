//! Fits Householder pseudo-rotation: the probe that is the plane's normal, and the angle network.
//!
//! Loss, optimiser and schedule are those of `VinAIResearch/HPR` (`loss_fnc.py`, `train_guidance.py`):
//! `BCE(sigmoid(wᵀa), label) + MSE(γ(a), angle(a, paired chosen state))` over both members of each pair,
//! AdamW without weight decay, linear decay after a short warm-up, clipped gradients. Differences: every
//! layer is trained by itself (the source averages the loss over layers, which Adam's scale-freeness makes
//! nearly the same) and keeps its own best epoch; states are scaled by one number, which moves neither the
//! plane nor an angle. The closed forms, which need no network, are [`elevations`] and
//! [`Householder`](crate::Householder).

use crate::FitError;
use crate::angle_net::AngleNet;
use crate::householder::elevation;
use crate::paired_states::PairedStates;
use crate::random::stream;
use crate::real::{angle_between, norm};

mod device_trainer;
mod host_trainer;

use device_trainer::DeviceTrainer;
use host_trainer::HostTrainer;

/// Where the angle network starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AngleStart {
    /// PyTorch's own start, at about π/2 for every state: the source's.
    Source,
    /// The mean angle of the fit half, as a constant.
    MeanAngle,
}

/// By which held-out figure the epoch is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EpochChoice {
    /// Accuracy of the probe: the source's rule.
    ProbeAccuracy,
    /// The loss itself.
    Loss,
}

impl EpochChoice {
    /// Returns whether the figures of one epoch are better than those of another.
    ///
    /// Accuracy saturates at 1 within a few epochs, while normal and angles still improve; among equal
    /// accuracies the lower loss wins, where the source keeps the first.
    fn prefers(self, figures: &HprFigures, other: &HprFigures) -> bool {
        let loss = |figures: &HprFigures| figures.cross_entropy + figures.angle_error;
        let lower_loss = loss(figures) < loss(other);
        match self {
            Self::ProbeAccuracy if figures.probe_accuracy != other.probe_accuracy => {
                figures.probe_accuracy > other.probe_accuracy
            }
            Self::ProbeAccuracy | Self::Loss => lower_loss,
        }
    }
}

/// What serves as the plane's normal.
#[derive(Debug, Clone, PartialEq)]
pub enum Normal {
    /// A bias-free probe, trained together with the angle network.
    Probe,
    /// A given direction, `[hidden]`, such as the mean difference; the network alone is trained.
    Given(Vec<f32>),
}

/// Settings of the fit.
#[derive(Debug, Clone, PartialEq)]
pub struct HprOptions {
    /// Passes over the fit half.
    pub epochs: usize,
    /// Position pairs a batch; each gives two states.
    pub batch_pairs: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Share of the steps in which the learning rate rises.
    pub warmup: f64,
    /// Norm to which gradients are clipped.
    pub clip: f64,
    /// Linear layers of the angle network.
    pub depth: usize,
    /// Where the angle network starts.
    pub start: AngleStart,
    /// How the epoch is chosen.
    pub choice: EpochChoice,
    /// Whether a network that predicts no better than a constant is an error.
    pub refuse_underfit: bool,
    /// Seed of the start and of the order of the batches.
    pub seed: u64,
}

impl HprOptions {
    /// Returns the settings of the source's published script.
    pub fn faithful(seed: u64) -> Self {
        Self {
            epochs: 5,
            batch_pairs: 16,
            learning_rate: 5e-4,
            warmup: 0.05,
            clip: 1.0,
            depth: 4,
            start: AngleStart::Source,
            choice: EpochChoice::ProbeAccuracy,
            refuse_underfit: false,
            seed,
        }
    }

    /// Returns the source's settings with the network started at the mean angle, the epoch chosen by the
    /// loss, and an underfitted network refused.
    ///
    /// From the source's start a short fit ships rotations of nearly 90°, because nothing in its rule for
    /// the epoch looks at the angle.
    pub fn sound(seed: u64) -> Self {
        Self {
            start: AngleStart::MeanAngle,
            choice: EpochChoice::Loss,
            refuse_underfit: true,
            ..Self::faithful(seed)
        }
    }
}

/// Held-out figures of the fit at one epoch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HprFigures {
    /// Share of states on the right side of the plane.
    pub probe_accuracy: f64,
    /// Mean binary cross-entropy; 0 for a given normal.
    pub cross_entropy: f64,
    /// Mean squared error of the angle, radians².
    pub angle_error: f64,
    /// The same for the constant mean angle of the fit half.
    pub constant_error: f64,
    /// Mean predicted angle of rejected states, radians.
    pub rejected_angle: f64,
    /// Mean predicted angle of chosen states, radians; the target is 0.
    pub chosen_angle: f64,
}

/// A fitted plane and angle network.
#[derive(Debug, Clone, PartialEq)]
pub struct HprFit {
    /// Normal of the plane, `[hidden]`.
    pub normal: Vec<f32>,
    /// The angle network.
    pub net: AngleNet,
    /// What the network's input is multiplied by.
    pub input_scale: f64,
    /// The epoch kept, from 1.
    pub epoch: usize,
    /// Its held-out figures.
    pub held_out: HprFigures,
}

/// Fits plane and angle network to the rows `fit_rows`, choosing the epoch on `held_out_rows`.
///
/// On one machine equal input gives equal bits; a network trained on a device is that of the host up to the rounding of
/// the device's products.
///
/// # Errors
/// [`FitError::EmptyClass`] without rows in either half, [`FitError::IdenticalClasses`] if the states are
/// all zero or the probe vanishes, [`FitError::Diverged`] if a parameter stops being finite,
/// [`FitError::AngleUnderfit`] if asked to refuse it.
pub fn fit(
    states: &PairedStates<'_>,
    fit_rows: &[usize],
    held_out_rows: &[usize],
    normal: &Normal,
    options: &HprOptions,
) -> Result<HprFit, FitError> {
    if fit_rows.is_empty() || held_out_rows.is_empty() {
        return Err(FitError::EmptyClass { class: "chosen" });
    }
    let state_norm = states.mean_norm(fit_rows);
    if state_norm == 0.0 {
        return Err(FitError::IdenticalClasses {
            difference: 0.0,
            state_norm,
        });
    }
    let scale = (states.hidden() as f64).sqrt() / state_norm;
    let train = Batch::gather(states, fit_rows, scale);
    let held_out = Batch::gather(states, held_out_rows, scale);
    let mean_angle = train.targets.mean_angle();
    let start = Parameters::start(states.hidden(), normal, options, mean_angle);
    let mut trainer: Box<dyn Trainer> = match states.device() {
        Some(device) => {
            let device = device.device();
            Box::new(DeviceTrainer::new(
                &train, &held_out, start, options, device,
            )?)
        }
        None => Box::new(HostTrainer::new(train, held_out, start, options)),
    };
    let mut order: Vec<usize> = (0..fit_rows.len()).collect();
    let mut stream = stream(options.seed, "hpr|batches");
    let batches = order.len().div_ceil(options.batch_pairs);
    let schedule = Schedule::new(options, batches * options.epochs);
    let mut best: Option<(usize, Parameters, HprFigures)> = None;
    for epoch in 1..=options.epochs {
        stream.shuffle(&mut order);
        for (number, pairs) in order.chunks(options.batch_pairs).enumerate() {
            trainer.step(
                pairs,
                schedule.learning_rate((epoch - 1) * batches + number),
            )?;
        }
        let figures = trainer.held_out(mean_angle)?;
        if !(figures.angle_error.is_finite() && figures.cross_entropy.is_finite()) {
            return Err(FitError::Diverged { epoch });
        }
        if best
            .as_ref()
            .is_none_or(|(_, _, kept)| options.choice.prefers(&figures, kept))
        {
            best = Some((epoch, trainer.parameters()?, figures));
        }
    }
    let Some((epoch, model, held_out)) = best else {
        return Err(FitError::Diverged { epoch: 0 });
    };
    let length = norm(&model.normal);
    if length < 1e-8 {
        return Err(FitError::IdenticalClasses {
            difference: length,
            state_norm,
        });
    }
    if options.refuse_underfit && held_out.angle_error >= held_out.constant_error {
        return Err(FitError::AngleUnderfit {
            error: held_out.angle_error,
            constant: held_out.constant_error,
        });
    }
    Ok(HprFit {
        normal: model.normal,
        net: model.net,
        input_scale: scale,
        epoch,
        held_out,
    })
}

/// The mean elevations of both classes above a plane, as angles of their mean cosines.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Elevations {
    /// Of the chosen states: `asin(mean cos(a, ŵ))`, radians.
    pub chosen: f64,
    /// Of the rejected states.
    pub rejected: f64,
}

impl Elevations {
    /// Returns how far chosen states stand above rejected ones, radians; negative if they stand below.
    pub fn gap(&self) -> f64 {
        self.chosen - self.rejected
    }
}

/// Measures the mean elevations of the given rows above the plane with a normal, `[hidden]`.
///
/// # Errors
/// [`FitError::EmptyClass`] without rows.
pub fn elevations(
    states: &PairedStates<'_>,
    rows: &[usize],
    normal: &[f32],
) -> Result<Elevations, FitError> {
    if rows.is_empty() {
        return Err(FitError::EmptyClass { class: "chosen" });
    }
    let count = rows.len() as f64;
    let (mut chosen, mut rejected) = (0.0, 0.0);
    for &row in rows {
        chosen += elevation(states.chosen(row), normal).sin();
        rejected += elevation(states.rejected(row), normal).sin();
    }
    Ok(Elevations {
        chosen: (chosen / count).asin(),
        rejected: (rejected / count).asin(),
    })
}

/// What trains the parameters, on the host or on a device.
trait Trainer {
    /// Takes one step against the mean loss of the given pairs of the fit half.
    fn step(&mut self, pairs: &[usize], learning_rate: f64) -> Result<(), FitError>;

    /// Measures the parameters on the held-out half; `mean_angle` is the constant that they are held against.
    fn held_out(&self, mean_angle: f64) -> Result<HprFigures, FitError>;

    /// Returns the parameters as they are.
    fn parameters(&self) -> Result<Parameters, FitError>;
}

/// States of both classes, scaled: the chosen ones first, then the rejected ones in the same order.
struct Batch {
    hidden: usize,
    /// `[2·pairs, hidden]`.
    rows: Vec<f32>,
    targets: Targets,
}

/// What a batch's rows are to be: chosen or rejected, and how far to turn.
struct Targets {
    /// By pair: angle of the rejected state to its chosen one; chosen states have the target 0.
    angles: Vec<f64>,
}

impl Targets {
    fn pairs(&self) -> usize {
        self.angles.len()
    }

    /// Returns the label (1 chosen, 0 rejected) and the angle target of a row.
    fn of(&self, row: usize) -> (f64, f64) {
        match row.checked_sub(self.pairs()) {
            Some(pair) => (0.0, self.angles[pair]),
            None => (1.0, 0.0),
        }
    }

    /// Returns the mean angle target over both classes.
    fn mean_angle(&self) -> f64 {
        self.angles.iter().sum::<f64>() / (2 * self.pairs()) as f64
    }
}

impl Batch {
    fn gather(states: &PairedStates<'_>, rows: &[usize], scale: f64) -> Self {
        let scaled = |state: &[f32]| -> Vec<f32> {
            state
                .iter()
                .map(|&x| (f64::from(x) * scale) as f32)
                .collect()
        };
        let chosen = rows.iter().flat_map(|&row| scaled(states.chosen(row)));
        let rejected = rows.iter().flat_map(|&row| scaled(states.rejected(row)));
        let angle = |&row: &usize| angle_between(states.rejected(row), states.chosen(row));
        Self {
            hidden: states.hidden(),
            rows: chosen.chain(rejected).collect(),
            targets: Targets {
                angles: rows.iter().map(angle).collect(),
            },
        }
    }
}

/// The parameters, or their gradient.
#[derive(Clone)]
struct Parameters {
    normal: Vec<f32>,
    train_normal: bool,
    net: AngleNet,
}

impl Parameters {
    fn start(hidden: usize, normal: &Normal, options: &HprOptions, mean_angle: f64) -> Self {
        let mut stream = stream(options.seed, "hpr|start");
        let mut net = AngleNet::random(hidden, options.depth, &mut stream);
        if options.start == AngleStart::MeanAngle {
            net.start_at(mean_angle);
        }
        let bound = 1.0 / (hidden as f64).sqrt();
        let (normal, train_normal) = match normal {
            Normal::Given(normal) => (normal.clone(), false),
            Normal::Probe => {
                let draw = |_| ((2.0 * stream.next_f64() - 1.0) * bound) as f32;
                ((0..hidden).map(draw).collect(), true)
            }
        };
        Self {
            normal,
            train_normal,
            net,
        }
    }
}

/// Condenses predictions for the states of a batch, in their order.
///
/// `angles` and `products`: `[2·pairs]`, the predicted angle of each state and its product with the normal.
fn figures_of(
    targets: &Targets,
    angles: &[f64],
    products: &[f64],
    is_probe: bool,
    mean_angle: f64,
) -> HprFigures {
    let count = angles.len() as f64;
    let (mut right, mut cross_entropy) = (0.0, 0.0);
    let (mut angle_error, mut constant_error) = (0.0, 0.0);
    for (row, (&angle, &product)) in angles.iter().zip(products).enumerate() {
        let (label, target) = targets.of(row);
        right += f64::from(u8::from((product > 0.0) == (label == 1.0)));
        let signed = if label == 1.0 { -product } else { product };
        cross_entropy += signed.max(0.0) + (-signed.abs()).exp().ln_1p();
        angle_error += (angle - target).powi(2);
        constant_error += (mean_angle - target).powi(2);
    }
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    HprFigures {
        probe_accuracy: right / count,
        cross_entropy: if is_probe { cross_entropy / count } else { 0.0 },
        angle_error: angle_error / count,
        constant_error: constant_error / count,
        rejected_angle: mean(&angles[targets.pairs()..]),
        chosen_angle: mean(&angles[..targets.pairs()]),
    }
}

/// Linear warm-up, then linear decay to zero.
struct Schedule {
    peak: f64,
    warmup: usize,
    steps: usize,
}

impl Schedule {
    fn new(options: &HprOptions, steps: usize) -> Self {
        let warmup = (options.warmup * steps as f64).ceil() as usize;
        Self {
            peak: options.learning_rate,
            warmup,
            steps,
        }
    }

    fn learning_rate(&self, step: usize) -> f64 {
        if step < self.warmup {
            self.peak * step as f64 / self.warmup as f64
        } else {
            self.peak * (self.steps - step) as f64 / (self.steps - self.warmup).max(1) as f64
        }
    }
}

#[cfg(test)]
#[path = "hpr_tests.rs"]
mod tests;
