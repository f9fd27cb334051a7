//! The figures of a training: one row an epoch and figure, and those of the adapter that was kept.

use sims_artifact::tables::MetricRow;
use sims_stats::Interval;
use sims_steering::dpo::FineTuned;

/// Collects the rows.
///
/// `prompts`: to learn from and held out; `accuracy` and `auroc`: of the kept adapter on held-out pairs.
pub(crate) fn rows(
    tuned: &FineTuned,
    prompts: (usize, usize),
    accuracy: Interval,
    auroc: Interval,
) -> Vec<MetricRow> {
    let row =
        |metric: String, value: f64, ends: Option<Interval>, n: usize, method: &str| MetricRow {
            metric,
            value,
            ci_low: ends.map(|interval| interval.low),
            ci_high: ends.map(|interval| interval.high),
            n: n as u64,
            method: method.to_owned(),
            baseline: "base".to_owned(),
        };
    let (fit, held_out) = prompts;
    let mut rows = Vec::new();
    for (index, epoch) in tuned.epochs.iter().enumerate() {
        let number = index + 1;
        for (figure, value, n, method) in [
            (
                "train_loss",
                epoch.train_loss,
                fit,
                "mean over the epoch's batches",
            ),
            (
                "held_out_loss",
                epoch.held_out_loss,
                held_out,
                "mean over pairs",
            ),
            (
                "held_out_accuracy",
                epoch.held_out_accuracy,
                held_out,
                "share of pairs",
            ),
        ] {
            rows.push(row(
                format!("{figure}_epoch_{number}"),
                value,
                None,
                n,
                method,
            ));
        }
    }
    let best = tuned.epochs[tuned.best_epoch];
    let by_prompt = "by prompt, 95 % interval";
    for (figure, value, ends, method) in [
        (
            "best_epoch",
            (tuned.best_epoch + 1) as f64,
            None,
            "lowest held-out loss",
        ),
        ("held_out_loss", best.held_out_loss, None, "mean over pairs"),
        (
            "held_out_accuracy",
            accuracy.estimate,
            Some(accuracy),
            by_prompt,
        ),
        ("held_out_auroc", auroc.estimate, Some(auroc), by_prompt),
    ] {
        rows.push(row(figure.to_owned(), value, ends, held_out, method));
    }
    rows
}
