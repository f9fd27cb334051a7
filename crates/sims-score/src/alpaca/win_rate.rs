//! The plain figures.

use serde::Serialize;

use super::{Annotations, INSTRUCTIONS};

/// How often the model is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct WinRate {
    /// Mean preference for the model. Unit: per cent.
    pub win_rate: f64,
    /// Standard error of `win_rate`. Unit: percentage points.
    pub standard_error: f64,
    /// Rows that have a preference.
    pub n: usize,
    /// Mean length of the model's outputs over all 805 instructions, a missing output counting as empty,
    /// rounded down. Unit: Unicode code points.
    pub avg_length: u64,
    /// Rows on which the model is preferred.
    pub n_wins: usize,
    /// Rows on which the baseline is preferred.
    pub n_wins_base: usize,
    /// Rows on which neither is.
    pub n_draws: usize,
    /// Rows that count nowhere, for want of a preference.
    pub n_dropped: usize,
    /// Share of wins, draws counting half. Unit: per cent.
    pub discrete_win_rate: f64,
}

impl WinRate {
    /// Computes the figures.
    #[must_use]
    pub fn of(annotations: &Annotations) -> Self {
        let shares: Vec<f64> = annotations.shares().collect();
        let (mean, standard_error) = mean_and_standard_error(&shares);
        let count = |holds: fn(f64) -> bool| shares.iter().filter(|share| holds(**share)).count();
        let (n_wins, n_draws) = (count(|share| share > 0.5), count(|share| share == 0.5));
        let characters: f64 = annotations.rows.iter().map(|row| row.model_length).sum();
        let instructions = INSTRUCTIONS.max(annotations.rows.len());
        Self {
            win_rate: 100.0 * mean,
            standard_error: 100.0 * standard_error,
            n: shares.len(),
            avg_length: (characters / instructions as f64).floor() as u64,
            n_wins,
            n_wins_base: count(|share| share < 0.5),
            n_draws,
            n_dropped: annotations.dropped,
            discrete_win_rate: 100.0 * (n_wins as f64 + 0.5 * n_draws as f64) / shares.len() as f64,
        }
    }
}

/// Returns the mean and its standard error, with n − 1 in the denominator of the variance.
pub(super) fn mean_and_standard_error(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    (
        values.iter().sum::<f64>() / n,
        standard_deviation(values) / n.sqrt(),
    )
}

/// Returns the sample's standard deviation, with n − 1 in the denominator.
pub(super) fn standard_deviation(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (n - 1.0)).sqrt()
}
