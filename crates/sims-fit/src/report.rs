//! The fit report: one row a layer and figure.

use crate::condition::FittedCondition;
use crate::layer::LayerFigures;
use crate::operators::FittedEdit;
use crate::params::FitParams;
use sims_artifact::tables::FitReportRow;
use sims_stats::Interval;
use sims_steering::LayerFit;
use sims_steering::condition_fit::FittedBlock;

/// Collects the rows of the report.
pub(crate) struct Report<'a> {
    params: &'a FitParams,
    /// Prompts in the fit half and held out.
    counts: (usize, usize),
    rows: Vec<FitReportRow>,
}

/// Which prompts a figure rests on.
#[derive(Clone, Copy)]
enum Split {
    Train,
    HeldOut,
    Shuffled,
}

impl<'a> Report<'a> {
    pub(crate) fn new(params: &'a FitParams, counts: (usize, usize)) -> Self {
        Self {
            params,
            counts,
            rows: Vec::new(),
        }
    }

    /// Adds the figures that every candidate layer has.
    pub(crate) fn add_layer(&mut self, figures: &LayerFigures, selected: bool) {
        let mut add =
            |metric, split, interval| self.add(figures.layer, metric, split, interval, selected);
        add("auroc", Split::Train, figures.auroc[0]);
        add("auroc", Split::HeldOut, figures.auroc[1]);
        add("pair-accuracy", Split::HeldOut, figures.pair_accuracy);
        add("probe-accuracy", Split::Train, figures.probe_accuracy[0]);
        add("probe-accuracy", Split::HeldOut, figures.probe_accuracy[1]);
        self.add_value(
            figures.layer,
            "contrast",
            Split::Train,
            figures.contrast(),
            selected,
        );
        let norm = figures.difference.state_norm;
        self.add_value(figures.layer, "state-norm", Split::Train, norm, selected);
        let norm = figures.difference.norm();
        self.add_value(
            figures.layer,
            "difference-norm",
            Split::Train,
            norm,
            selected,
        );
    }

    /// Adds the figures that a steered layer has besides.
    pub(crate) fn add_fit(&mut self, fit: &LayerFit, fitted: &FittedEdit, shuffled: &[f64]) {
        let layer = fit.layer;
        let low = shuffled.iter().copied().fold(f64::INFINITY, f64::min);
        let high = shuffled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let estimate = shuffled.iter().sum::<f64>() / shuffled.len().max(1) as f64;
        self.add(
            layer,
            "auroc",
            Split::Shuffled,
            Interval {
                estimate,
                low,
                high,
            },
            true,
        );
        self.add_value(layer, "cap-factor", Split::Train, fit.cap_factor, true);
        if let Some(shift) = fit.shift {
            self.add_value(layer, "shift", Split::Train, shift, true);
        }
        if let Some(gap) = fit.class_gap {
            self.add_value(layer, "class-gap", Split::Train, gap, true);
        }
        for figure in &fitted.figures {
            let split = match figure.is_held_out {
                true => Split::HeldOut,
                false => Split::Train,
            };
            self.add_value(layer, figure.metric, split, figure.value, true);
        }
        if let Some(network) = &fitted.network {
            for (metric, value) in [
                ("network-probe-accuracy", network.probe_accuracy),
                ("angle-error", network.angle_error),
                ("constant-angle-error", network.constant_error),
                ("angle-chosen", network.chosen_angle),
                ("angle-rejected", network.rejected_angle),
            ] {
                self.add_value(layer, metric, Split::HeldOut, value, true);
            }
        }
    }

    /// Adds what the condition is worth at each layer that it could read.
    pub(crate) fn add_condition(&mut self, fitted: &FittedCondition) {
        let chosen = |layer: usize| {
            let mut blocks = fitted.condition.blocks().iter();
            blocks.any(|block| block.layer() == layer)
        };
        let counts = std::mem::replace(&mut self.counts, fitted.counts);
        for FittedBlock {
            block,
            fit_f1,
            held_out_f1,
        } in &fitted.blocks
        {
            let (layer, selected) = (block.layer(), chosen(block.layer()));
            self.add_value(layer, "condition-f1", Split::Train, *fit_f1, selected);
            self.add_value(
                layer,
                "condition-f1",
                Split::HeldOut,
                *held_out_f1,
                selected,
            );
            let threshold = block.threshold();
            self.add_value(
                layer,
                "condition-threshold",
                Split::HeldOut,
                threshold,
                selected,
            );
        }
        self.counts = counts;
    }

    /// Adds the cosine of the round's mean difference to what earlier rounds add at the layer.
    ///
    /// 1: the round finds the old direction again; 0: it finds another one.
    pub(crate) fn add_turn(&mut self, layer: usize, difference: &[f64], before: &[f64]) {
        let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let norms = (product(difference, difference) * product(before, before)).sqrt();
        if norms > 0.0 {
            let cosine = product(difference, before) / norms;
            self.add_value(layer, "cosine-to-incumbent", Split::Train, cosine, true);
        }
    }

    pub(crate) fn rows(&self) -> &[FitReportRow] {
        &self.rows
    }

    fn add_value(&mut self, layer: usize, metric: &str, split: Split, value: f64, selected: bool) {
        let interval = Interval {
            estimate: value,
            low: f64::NAN,
            high: f64::NAN,
        };
        self.add(layer, metric, split, interval, selected);
    }

    fn add(
        &mut self,
        layer: usize,
        metric: &str,
        split: Split,
        interval: Interval,
        selected: bool,
    ) {
        let (split, prompts) = match split {
            Split::Train => ("train", self.counts.0),
            Split::HeldOut => ("held-out", self.counts.1),
            Split::Shuffled => ("shuffled", self.counts.1),
        };
        let end = |value: f64| value.is_finite().then_some(value);
        self.rows.push(FitReportRow {
            layer: layer as u32,
            operator: self.params.operator.to_string(),
            metric: metric.to_owned(),
            split: split.to_owned(),
            value: interval.estimate,
            ci_low: end(interval.low),
            ci_high: end(interval.high),
            n: prompts as u64,
            selected,
        });
    }
}
