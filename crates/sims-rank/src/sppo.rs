//! Win probabilities as SPPO's published script computes them (`uclaml/SPPO:scripts/compute_prob.py`).
//!
//! The script takes mean scores, sets `p_ij = σ(s_i − s_j)`, and averages over all K responses, the
//! response itself (½) included. With two responses that is `σ(2A)` before the average: twice the
//! log-odds that the judge gave. It is here for parity; `mean-win` is the plain mean.

use sims_stats::win_rate::logistic;

use crate::connected::Judged;
use crate::{ComparisonMatrix, Score, Scorer};

/// Scores with standard errors by the jackknife over the comparisons.
pub(crate) fn scores(
    scorer: &Scorer,
    matrix: &ComparisonMatrix,
    judged: &[Judged],
) -> Vec<Option<Score>> {
    let values = win_probabilities(matrix.size(), scorer.tau, judged.iter());
    let without: Vec<Vec<Option<f64>>> = (0..judged.len())
        .map(|left_out| {
            let (before, after) = (&judged[..left_out], &judged[left_out + 1..]);
            win_probabilities(matrix.size(), scorer.tau, before.iter().chain(after))
        })
        .collect();
    let with_error = |item: usize, value: f64| {
        let replicates: Option<Vec<f64>> = without.iter().map(|values| values[item]).collect();
        Score {
            value,
            standard_error: replicates.and_then(|values| jackknife_error(&values)),
        }
    };
    let scored = values.iter().enumerate();
    scored
        .map(|(item, value)| value.map(|value| with_error(item, value)))
        .collect()
}

/// The script's win probabilities; `None` for a response that met nobody.
fn win_probabilities<'a>(
    size: usize,
    tau: f64,
    judged: impl Iterator<Item = &'a Judged>,
) -> Vec<Option<f64>> {
    let mut sums = vec![0.0; size];
    let mut met = vec![0.0; size];
    for &(i, j, logit) in judged {
        sums[i] += 2.0 * logit;
        sums[j] -= 2.0 * logit;
        met[i] += 1.0;
        met[j] += 1.0;
    }
    // `(2 / K) Σ A` where all met; a partial design has the same size on average.
    let of_all = (size as f64 - 1.0) / size as f64;
    let means: Vec<Option<f64>> = sums
        .iter()
        .zip(&met)
        .map(|(sum, &met)| (met > 0.0).then(|| of_all * sum / met / tau))
        .collect();
    means
        .iter()
        .map(|own| {
            let own = (*own)?;
            let others: Vec<f64> = means.iter().flatten().map(|m| logistic(own - m)).collect();
            Some(others.iter().sum::<f64>() / others.len() as f64)
        })
        .collect()
}

/// Standard error from leave-one-out replicates (Tukey 1958); `None` with fewer than two.
fn jackknife_error(replicates: &[f64]) -> Option<f64> {
    let n = replicates.len() as f64;
    if replicates.len() < 2 {
        return None;
    }
    let mean = replicates.iter().sum::<f64>() / n;
    let squares: f64 = replicates.iter().map(|value| (value - mean).powi(2)).sum();
    Some(((n - 1.0) / n * squares).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RankMethod;

    fn scorer() -> Scorer {
        Scorer {
            method: RankMethod::WinprobSppo,
            tau: 1.0,
            ridge: 0.1,
        }
    }

    #[test]
    fn two_responses_have_twice_the_log_odds() {
        let mut matrix = ComparisonMatrix::new(2);
        matrix.set(0, 1, 0.8);
        matrix.set(1, 0, -0.8);
        let got = scorer().scores(&matrix).expect("never fails");
        let expected = 0.5 * (logistic(1.6) + 0.5);
        let first = got[0].expect("met");
        assert!((first.value - expected).abs() < 1e-15);
        assert_eq!(first.standard_error, None, "one comparison has no error");
    }

    #[test]
    fn whoever_met_nobody_has_no_score() {
        let mut matrix = ComparisonMatrix::new(3);
        matrix.set(0, 1, 1.0);
        matrix.set(1, 0, -1.0);
        let got = scorer().scores(&matrix).expect("never fails");
        assert!(got[0].is_some() && got[2].is_none());
    }
}
