//! The fit report: one row a layer and figure. What belongs to all layers together stands at each.

use crate::stage::OPERATOR;
use crate::trial::Figures;
use sims_artifact::tables::FitReportRow;
use sims_steering::LayerFit;
use sims_steering::bipo::Trained;

/// Collects the rows of the report.
///
/// `prompts`: in the fit half and held out.
pub(crate) fn rows(
    layers: &[LayerFit],
    figures: &Figures,
    trained: &Trained,
    prompts: (usize, usize),
) -> Vec<FitReportRow> {
    let mut rows = Vec::new();
    for ((fit, vector), states) in layers.iter().zip(&trained.vectors).zip(&figures.layers) {
        let mut add = |metric: &str, split: &str, value: f64, ends: Option<(f64, f64)>| {
            rows.push(FitReportRow {
                layer: fit.layer as u32,
                operator: OPERATOR.to_owned(),
                metric: metric.to_owned(),
                split: split.to_owned(),
                value,
                ci_low: ends.map(|(low, _)| low),
                ci_high: ends.map(|(_, high)| high),
                n: if split == "train" {
                    prompts.0
                } else {
                    prompts.1
                } as u64,
                selected: true,
            });
        };
        for (metric, interval) in [
            ("auroc", figures.auroc),
            ("pair-accuracy", figures.pair_accuracy),
            ("preference-accuracy", figures.raised),
            ("preference-accuracy-negated", figures.lowered),
        ] {
            let ends = Some((interval.low, interval.high));
            add(metric, "held-out", interval.estimate, ends);
        }
        let signal = figures.signal();
        let shuffled = figures.shuffled.iter().copied();
        let (low, high) = shuffled.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), x| {
            (low.min(x), high.max(x))
        });
        add("auroc", "shuffled", signal.shuffled, Some((low, high)));
        add("loss", "held-out", figures.loss, None);
        let best = trained.losses[trained.best_epoch];
        add("loss", "train", best.train, None);
        add("epochs", "train", trained.losses.len() as f64, None);
        add("best-epoch", "train", (trained.best_epoch + 1) as f64, None);
        add("state-norm", "train", fit.state_norm, None);
        add("difference-norm", "train", fit.difference_norm, None);
        let norm = length(vector.iter().map(|&x| f64::from(x)));
        add("vector-norm", "train", norm, None);
        add("relative-norm", "train", norm / fit.state_norm, None);
        if norm * fit.difference_norm > 0.0 {
            let pairs = vector.iter().zip(&states.difference);
            let product: f64 = pairs.map(|(&v, d)| f64::from(v) * d).sum();
            let cosine = product / (norm * fit.difference_norm);
            add("cosine-to-mean-difference", "train", cosine, None);
        }
        add("cap-factor", "train", fit.cap_factor, None);
        if let Some(shift) = fit.shift {
            add("shift", "train", shift, None);
        }
    }
    rows
}

/// Returns the norm of a vector.
pub(crate) fn length(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|x| x * x).sum::<f64>().sqrt()
}
