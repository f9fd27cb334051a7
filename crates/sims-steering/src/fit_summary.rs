//! What a steering file says about its own fit: enough for the gates and for a reader.

use serde::{Deserialize, Serialize};

/// How a steering was fitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FitSummary {
    /// The round.
    pub round: u32,
    /// Seed of the split, the shuffles and the network's start.
    pub seed: u64,
    /// Which states were read: `response`, `predictive`, `end` or `reask`.
    pub positions: String,
    /// `ranked`, or `shuffled` for the control.
    pub labels: String,
    /// Share of the measured class difference that the fit moves.
    pub step: f64,
    /// Contrast pairs whose states were read.
    pub pairs: usize,
    /// Prompts in the fit half.
    pub fit_prompts: usize,
    /// Prompts in the held-out half.
    pub held_out_prompts: usize,
    /// Whether held-out states tell chosen from rejected.
    pub signal: Signal,
    /// One entry for each layer fitted in this round.
    pub layers: Vec<LayerFit>,
}

/// How well held-out chosen and rejected states are told apart along the fitted direction.
///
/// For the random control along the mean difference, whose length it takes: the signal is about the states.
/// Taken at the selected layer that tells them apart best. Recorded, never refused here: the gate of
/// `steer-eval` decides.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Signal {
    /// Area under the ROC curve; 0.5 is chance.
    pub auroc: f64,
    /// Lower end of its 95 % interval.
    pub ci_low: f64,
    /// Upper end of its 95 % interval.
    pub ci_high: f64,
    /// Mean of the same figure over fits to shuffled labels.
    pub shuffled: f64,
    /// Whether the figure exceeds that of every fit to shuffled labels.
    pub beats_shuffled: bool,
}

impl Signal {
    /// Returns whether the signal is too low: the interval contains 0.5, or shuffled labels do as well.
    pub fn is_low(&self) -> bool {
        self.ci_low <= 0.5 || !self.beats_shuffled
    }
}

/// The fit of one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerFit {
    /// The layer, 0-based.
    pub layer: usize,
    /// Mean norm of the states, both classes.
    pub state_norm: f64,
    /// Norm of the raw mean difference.
    pub difference_norm: f64,
    /// Norm of everything added at the layer, earlier rounds included, in units of `state_norm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shift: Option<f64>,
    /// Angle between the class means' elevations, in radians, for the rotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_gap: Option<f64>,
    /// Factor by which the cap on the accumulated shift shortened this round's part; 1 if it did not, 0 for a
    /// rotation that was left out because the layer has as many as it may.
    pub cap_factor: f64,
}
