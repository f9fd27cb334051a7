//! Scores from a fit to all comparisons of a prompt together.

use sims_stats::StatsError;
use sims_stats::bradley_terry::{self, Comparison};
use sims_stats::completion::Completion;
use sims_stats::least_squares::{self, Preference};
use sims_stats::win_rate::logistic;

use crate::{ComparisonMatrix, Score, Scorer};

/// What was judged: two responses and the log-odds that the first is better.
pub(crate) type Judged = (usize, usize, f64);

/// Bradley–Terry with soft outcomes.
pub(crate) fn bradley_terry(
    scorer: &Scorer,
    matrix: &ComparisonMatrix,
    judged: &[Judged],
) -> Result<Vec<Option<Score>>, StatsError> {
    if matrix.size() < 2 {
        return Ok(vec![None; matrix.size()]);
    }
    let comparisons: Vec<Comparison> = judged
        .iter()
        .map(|&(first, second, logit)| Comparison {
            first,
            second,
            p_first: logistic(logit / scorer.tau),
            weight: 1.0,
        })
        .collect();
    let fit = bradley_terry::fit(matrix.size(), &comparisons, scorer.ridge)?;
    Ok(fit
        .scores
        .iter()
        .zip(&fit.standard_errors)
        .map(|(&value, &error)| {
            Some(Score {
                value,
                standard_error: Some(error),
            })
        })
        .collect())
}

/// Least squares; the error comes from the residuals, of which a chain leaves none.
pub(crate) fn least_squares(
    matrix: &ComparisonMatrix,
    judged: &[Judged],
) -> Result<Vec<Option<Score>>, StatsError> {
    if matrix.size() < 2 {
        return Ok(vec![None; matrix.size()]);
    }
    let fit = least_squares::fit(matrix.size(), &preferences(judged), 0.0)?;
    let variance =
        (fit.degrees_of_freedom > 0).then(|| fit.residual_squares / fit.degrees_of_freedom as f64);
    Ok((0..matrix.size())
        .map(|item| {
            Some(Score {
                value: fit.scores[item],
                standard_error: variance
                    .map(|variance| (variance * fit.covariance(item, item)).sqrt()),
            })
        })
        .collect())
}

/// Mean win probability over all others, the pairs not judged filled in.
pub(crate) fn mean_win_completed(
    scorer: &Scorer,
    matrix: &ComparisonMatrix,
    judged: &[Judged],
) -> Result<Vec<Option<Score>>, StatsError> {
    if matrix.size() < 2 {
        return Ok(vec![None; matrix.size()]);
    }
    let completion = Completion::of(matrix.size(), &preferences(judged), scorer.tau, 0.0)?;
    Ok((0..matrix.size())
        .map(|item| {
            Some(Score {
                value: completion.win_probability(item),
                standard_error: Some(completion.standard_error(item)),
            })
        })
        .collect())
}

fn preferences(judged: &[Judged]) -> Vec<Preference> {
    judged
        .iter()
        .map(|&(first, second, by)| Preference { first, second, by })
        .collect()
}
