//! What one layer's states say: the direction between the classes, and how well it holds on held-out prompts.

use crate::params::{Averaged, Direction, FitParams};
use sims_stats::Interval;
use sims_steering::layer_selection::LayerScore;
use sims_steering::mean_difference::{self, MeanDifference};
use sims_steering::moments::Averaging;
use sims_steering::paired_states::shuffled_labels;
use sims_steering::principal_direction::{self, PrincipalDirection};
use sims_steering::separation::Scores;
use sims_steering::{FitError, PairedStates, Signal, probe};

/// Most rows a class that a probe reads; it has long converged by then.
const PROBE_ROWS: usize = 4000;
/// Inverse strength of the probe's penalty, scikit-learn's default.
const PROBE_INVERSE_PENALTY: f64 = 1.0;

/// Rows of the states by half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Halves {
    /// Rows to fit.
    pub fit: Vec<usize>,
    /// Rows held out.
    pub held_out: Vec<usize>,
}

/// The figures of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerFigures {
    /// The layer.
    pub layer: usize,
    /// The mean difference of the fit half.
    pub difference: MeanDifference,
    /// The bias-free probe of the fit half, `[hidden]`.
    pub probe: Vec<f64>,
    /// The first principal direction of the fit half, where the operator follows it.
    pub principal: Option<PrincipalDirection>,
    /// Area under the ROC curve along the fitted direction: fit half, held-out half.
    pub auroc: [Interval; 2],
    /// Share of held-out pairs in the right order along the fitted direction.
    pub pair_accuracy: Interval,
    /// Share of states on the right side of the probe: fit half, held-out half.
    pub probe_accuracy: [Interval; 2],
}

impl LayerFigures {
    /// Returns the norm of the mean difference in units of the mean state norm.
    pub fn contrast(&self) -> f64 {
        self.difference.norm() / self.difference.state_norm
    }

    /// Returns what layers are compared by.
    pub fn score(&self) -> LayerScore {
        LayerScore {
            layer: self.layer,
            auroc: self.auroc[1],
            probe_accuracy: self.probe_accuracy[1],
            contrast: self.contrast(),
        }
    }
}

/// Measures a layer.
///
/// # Errors
/// [`FitError::IdenticalClasses`] for constant states, and what the fits say.
pub fn measure(
    layer: usize,
    states: &PairedStates<'_>,
    halves: &Halves,
    params: &FitParams,
) -> Result<LayerFigures, FitError> {
    let difference = mean_difference::fit(states, &halves.fit, averaging(params))?;
    let probe_rows = thinned(&halves.fit);
    let probe = probe::fit(states, &probe_rows, PROBE_INVERSE_PENALTY)?.weight;
    let principal = match params.direction() {
        Direction::Principal => Some(principal_direction::fit(states, &halves.fit, params.seed)?),
        Direction::MeanDifference | Direction::Probe => None,
    };
    let direction = match (params.direction(), &principal) {
        (_, Some(principal)) => &principal.direction,
        (Direction::Probe, None) => &probe,
        _ => &difference.vector,
    };
    let scores = |rows: &[usize]| Scores::along(direction, states, rows);
    let held_out = scores(&halves.held_out)?;
    Ok(LayerFigures {
        layer,
        auroc: [scores(&halves.fit)?.auroc()?, held_out.auroc()?],
        pair_accuracy: held_out.pair_accuracy()?,
        probe_accuracy: [
            Scores::along(&probe, states, &halves.fit)?.accuracy()?,
            Scores::along(&probe, states, &halves.held_out)?.accuracy()?,
        ],
        difference,
        probe,
        principal,
    })
}

/// Fits the direction to shuffled labels `params.shuffles` times; returns the held-out areas under the curve.
///
/// Labels are exchanged within pairs, in both halves alike: along a chance direction the true labels of the
/// held-out half can be far from 0.5 on either side, the exchanged ones cannot.
///
/// `labels`: which pairs are flipped already; `pair_ids`: by pair number.
///
/// # Errors
/// What the fits say, except that shuffled classes may be identical: that counts as chance.
pub fn shuffled_areas(
    states: &PairedStates<'_>,
    halves: &Halves,
    labels: &[bool],
    pair_ids: &[String],
    params: &FitParams,
) -> Result<Vec<f64>, FitError> {
    let mut areas = Vec::new();
    for shuffle in 0..params.shuffles {
        let ids = pair_ids.iter().map(String::as_str);
        let mut flipped = shuffled_labels(ids, params.seed, &format!("check-{shuffle}"));
        for (flip, &label) in flipped.iter_mut().zip(labels) {
            *flip ^= label;
        }
        let shuffled = states.with_flipped(&flipped);
        let rows = &halves.fit;
        let direction = match params.direction() {
            Direction::Probe => {
                probe::fit(&shuffled, &thinned(rows), PROBE_INVERSE_PENALTY).map(|fit| fit.weight)
            }
            Direction::MeanDifference => {
                mean_difference::fit(&shuffled, rows, averaging(params)).map(|fit| fit.vector)
            }
            Direction::Principal => {
                principal_direction::fit(&shuffled, rows, params.seed).map(|fit| fit.direction)
            }
        };
        areas.push(match direction {
            Ok(direction) => {
                Scores::along(&direction, &shuffled, &halves.held_out)?
                    .auroc()?
                    .estimate
            }
            Err(FitError::IdenticalClasses { .. }) => 0.5,
            Err(error) => return Err(error),
        });
    }
    Ok(areas)
}

/// Returns the signal of a layer, given the areas of fits to shuffled labels.
pub fn signal(figures: &LayerFigures, shuffled: &[f64]) -> Signal {
    let area = figures.auroc[1];
    Signal {
        auroc: area.estimate,
        ci_low: area.low,
        ci_high: area.high,
        shuffled: shuffled.iter().sum::<f64>() / shuffled.len().max(1) as f64,
        beats_shuffled: shuffled.iter().all(|&other| area.estimate > other),
    }
}

/// Returns how the parameters ask for rows to be averaged.
fn averaging(params: &FitParams) -> Averaging {
    match params.averaging {
        Averaged::TwoLevel => Averaging::TwoLevel,
        Averaged::Flat => Averaging::Flat,
    }
}

/// Keeps at most [`PROBE_ROWS`] rows, evenly spaced.
fn thinned(rows: &[usize]) -> Vec<usize> {
    let kept = rows.len().min(PROBE_ROWS);
    (0..kept)
        .map(|number| rows[number * rows.len() / kept])
        .collect()
}
