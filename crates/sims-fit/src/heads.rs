//! The fit of attention heads, for states of the site `heads`: which heads are shifted, how far, and how well.

use crate::FitStageError;
use crate::params::HeadsAlong;
use crate::stage::Job;
use sims_artifact::tables::FitReportRow;
use sims_stats::Interval;
use sims_steering::iti::{self, HeadDirection, HeadFit};
use sims_steering::paired_states::shuffled_labels;
use sims_steering::separation::Scores;
use sims_steering::{FitError, HeadShift, LayerFit, Signal, Steering, mean_difference, moments};
use std::collections::BTreeMap;

/// A head that is shifted, and its layer.
#[derive(Debug, Clone, PartialEq)]
pub struct ChosenHead {
    /// The layer.
    pub layer: usize,
    /// The head's fit.
    pub fit: HeadFit,
}

/// Fitted heads and what is known of them.
pub(crate) struct FittedHeads {
    /// What this round adds, by layer.
    pub(crate) shifts: BTreeMap<usize, HeadShift>,
    pub(crate) layers: Vec<LayerFit>,
    pub(crate) signal: Signal,
    pub(crate) rows: Vec<FitReportRow>,
}

/// Returns the `count` heads with the highest held-out accuracy; of equal ones the lowest layer's first head.
pub fn choose(mut heads: Vec<ChosenHead>, count: usize) -> Vec<ChosenHead> {
    heads.sort_by(|a, b| {
        let place = |head: &ChosenHead| (head.layer, head.fit.head);
        b.fit
            .accuracy
            .total_cmp(&a.fit.accuracy)
            .then(place(a).cmp(&place(b)))
    });
    heads.truncate(count);
    heads
}

/// Fits every head of the layers, and shifts the best.
pub(crate) fn fit(job: &Job<'_>, head_dim: usize) -> Result<FittedHeads, FitStageError> {
    let (params, halves) = (job.params, &job.halves);
    let along = match params.head_direction {
        HeadsAlong::MeanDifference => HeadDirection::MeanDifference,
        HeadsAlong::Probe => HeadDirection::Probe,
    };
    let mut heads = Vec::new();
    for layer in job.layers() {
        let at = FitStageError::at(layer);
        let read = job.states.read(layer)?;
        let states = job.states.paired(&read).map_err(&at)?;
        let states = states.with_flipped(&job.labels);
        let fitted = iti::fit(&states, head_dim, &halves.fit, &halves.held_out, along);
        let fitted = fitted.map_err(&at)?.into_iter();
        heads.extend(fitted.map(|fit| ChosenHead { layer, fit }));
    }
    let chosen = choose(heads, params.heads as usize);
    let mut by_layer: BTreeMap<usize, Vec<&HeadFit>> = BTreeMap::new();
    for head in &chosen {
        by_layer.entry(head.layer).or_default().push(&head.fit);
    }
    if by_layer.is_empty() {
        let error = FitError::IdenticalClasses {
            difference: 0.0,
            state_norm: 0.0,
        };
        return Err(FitStageError::Split(error));
    }
    let mut shifts = BTreeMap::new();
    let mut layers = Vec::new();
    let mut pooled = Pooled::new(job);
    for (&layer, heads) in &by_layer {
        let at = FitStageError::at(layer);
        let read = job.states.read(layer)?;
        let states = job.states.paired(&read).map_err(&at)?;
        let states = states.with_flipped(&job.labels);
        let difference = mean_difference::fit(&states, &halves.fit, moments::Averaging::Flat);
        let difference = difference.map_err(&at)?;
        let mut shift = vec![0.0; states.hidden()];
        for head in heads {
            let length = params.head_strength * head.deviation;
            for (j, x) in head.direction.iter().enumerate() {
                shift[head.head * head_dim + j] = (length * x) as f32;
            }
        }
        layers.push(LayerFit {
            layer,
            state_norm: difference.state_norm,
            difference_norm: difference.norm(),
            shift: None,
            class_gap: None,
            cap_factor: 1.0,
        });
        pooled.add(&shift, &read, heads, head_dim).map_err(&at)?;
        let shift = HeadShift::new(head_dim, shift)?;
        shifts.insert(layer, shift);
    }
    let best = chosen.first().map_or(0, |head| head.layer);
    let (signal, pair_accuracy) = pooled.signal().map_err(FitStageError::at(best))?;
    let rows = report(job, &by_layer, &layers, &signal, pair_accuracy);
    Ok(FittedHeads {
        shifts,
        layers,
        signal,
        rows,
    })
}

/// Held-out states along the shifts of all chosen heads together, for the labels given and for shuffled ones.
struct Pooled<'a> {
    job: &'a Job<'a>,
    /// By draw of labels, the given ones first: which pairs are exchanged.
    draws: Vec<Vec<bool>>,
    /// By draw: the classes' scores of the held-out rows.
    scores: Vec<[Vec<f64>; 2]>,
}

impl<'a> Pooled<'a> {
    fn new(job: &'a Job<'a>) -> Self {
        let shuffles = (0..job.params.shuffles).map(|shuffle| {
            let ids = job.states.pair_ids().iter().map(String::as_str);
            let mut flipped = shuffled_labels(ids, job.params.seed, &format!("check-{shuffle}"));
            for (flip, &label) in flipped.iter_mut().zip(&job.labels) {
                *flip ^= label;
            }
            flipped
        });
        let draws: Vec<Vec<bool>> = std::iter::once(job.labels.clone())
            .chain(shuffles)
            .collect();
        let rows = job.halves.held_out.len();
        Self {
            job,
            scores: vec![[vec![0.0; rows], vec![0.0; rows]]; draws.len()],
            draws,
        }
    }

    /// Adds a layer's states along its shift, and for shuffled labels along the mean differences that they give the
    /// same heads.
    fn add(
        &mut self,
        shift: &[f32],
        read: &crate::states::LayerStates,
        heads: &[&HeadFit],
        head_dim: usize,
    ) -> Result<(), FitError> {
        let halves = &self.job.halves;
        let scores = self.draws.iter().zip(&mut self.scores).enumerate();
        for (draw, (flipped, [chosen, rejected])) in scores {
            let states = self.job.states.paired(read)?.with_flipped(flipped);
            let shift: Vec<f64> = match draw {
                0 => shift.iter().map(|&x| f64::from(x)).collect(),
                _ => iti::mean_shift(&states, head_dim, heads, &halves.fit),
            };
            let along = |state: &[f32]| -> f64 {
                state
                    .iter()
                    .zip(&shift)
                    .map(|(&a, s)| f64::from(a) * s)
                    .sum()
            };
            for (index, &row) in halves.held_out.iter().enumerate() {
                chosen[index] += along(states.chosen(row));
                rejected[index] += along(states.rejected(row));
            }
        }
        Ok(())
    }

    fn signal(self) -> Result<(Signal, Interval), FitError> {
        let prompts = self.job.states.prompts();
        let prompts: Vec<u32> = self
            .job
            .halves
            .held_out
            .iter()
            .map(|&row| prompts[row])
            .collect();
        let mut scores = self
            .scores
            .into_iter()
            .map(|[chosen, rejected]| Scores::new(chosen, rejected, prompts.clone()));
        let Some(own) = scores.next() else {
            return Err(FitError::EmptyClass { class: "chosen" });
        };
        let area = own.auroc()?;
        let mut shuffled = Vec::new();
        for scores in scores {
            shuffled.push(scores.auroc()?.estimate);
        }
        let signal = Signal {
            auroc: area.estimate,
            ci_low: area.low,
            ci_high: area.high,
            shuffled: shuffled.iter().sum::<f64>() / shuffled.len().max(1) as f64,
            beats_shuffled: shuffled.iter().all(|&other| area.estimate > other),
        };
        Ok((signal, own.pair_accuracy()?))
    }
}

/// Puts this round's shifts on the incumbent, or on nothing.
pub(crate) fn compose(
    job: &Job<'_>,
    incumbent: Option<&Steering>,
    shifts: &BTreeMap<usize, HeadShift>,
) -> Result<Steering, FitStageError> {
    let header = job.states.header();
    let identity =
        || Steering::identity(header.model, header.hidden_size, header.num_hidden_layers);
    let mut own = identity();
    for (&layer, shift) in shifts {
        own.push_heads(layer, shift.clone())?;
    }
    Ok(incumbent.cloned().unwrap_or_else(identity).stack(&own)?)
}

/// Lists the figures: of each layer's chosen heads, and of all heads together at each layer.
fn report(
    job: &Job<'_>,
    by_layer: &BTreeMap<usize, Vec<&HeadFit>>,
    layers: &[LayerFit],
    signal: &Signal,
    pair_accuracy: Interval,
) -> Vec<FitReportRow> {
    let mut rows = Vec::new();
    for fit in layers {
        let mut add = |metric: String, split: &str, value: f64, ends: Option<(f64, f64)>| {
            let (train, held_out) = job.counts;
            rows.push(FitReportRow {
                layer: fit.layer as u32,
                operator: job.params.operator.to_string(),
                metric,
                split: split.to_owned(),
                value,
                ci_low: ends.map(|(low, _)| low),
                ci_high: ends.map(|(_, high)| high),
                n: if split == "train" { train } else { held_out } as u64,
                selected: true,
            });
        };
        let ends = Some((signal.ci_low, signal.ci_high));
        add("auroc".to_owned(), "held-out", signal.auroc, ends);
        add("auroc".to_owned(), "shuffled", signal.shuffled, None);
        let ends = Some((pair_accuracy.low, pair_accuracy.high));
        add(
            "pair-accuracy".to_owned(),
            "held-out",
            pair_accuracy.estimate,
            ends,
        );
        add("state-norm".to_owned(), "train", fit.state_norm, None);
        add(
            "difference-norm".to_owned(),
            "train",
            fit.difference_norm,
            None,
        );
        let heads = &by_layer[&fit.layer];
        add("heads".to_owned(), "train", heads.len() as f64, None);
        for head in heads {
            let name = |figure: &str| format!("head-{}-{figure}", head.head);
            add(name("accuracy"), "held-out", head.accuracy, None);
            add(name("deviation"), "train", head.deviation, None);
        }
    }
    rows
}
