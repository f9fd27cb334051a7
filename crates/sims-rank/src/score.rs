//! One score a response, from its prompt's comparison matrix.

use sims_stats::StatsError;
use sims_stats::win_rate::{logistic, win};

use crate::{ComparisonMatrix, connected, sppo};

sims_stage::choice! {
    /// How comparisons become scores
    pub enum RankMethod {
        /// Mean probability of beating the responses met
        MeanWin = "mean-win",
        /// Mean log-odds against the responses met, as LLM-Blender's `max_logits`
        MeanLogit = "mean-logit",
        /// Bradley–Terry by penalised maximum likelihood; best where pairs are missing
        BradleyTerry = "bradley-terry",
        /// Share of the responses met that it beats, ties half
        Copeland = "copeland",
        /// Scores whose differences come closest to the log-odds, as HodgeRank
        LeastSquares = "least-squares",
        /// `mean-win` over all others, pairs not judged filled in from `least-squares`; best under `adaptive`
        MeanWinCompleted = "mean-win-completed",
        /// Mean of σ(s_i − s_j) over `mean-logit` scores, itself included: the published SPPO script
        WinprobSppo = "winprob-sppo",
        /// Control: a coin in the place of the judge
        Random = "random",
    }
}

impl RankMethod {
    /// Whether the score rests on a fit to all comparisons together, which a chain must connect.
    #[must_use]
    pub fn connects(self) -> bool {
        matches!(
            self,
            Self::BradleyTerry | Self::LeastSquares | Self::MeanWinCompleted
        )
    }
}

/// A response's score. The unit is the method's: a probability, nats, or a share.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Score {
    /// The score; comparable within a prompt only.
    pub value: f64,
    /// Its standard error, where the method has one: for means, the jackknife over the comparisons;
    /// for Bradley–Terry and least squares, from the fit; for `mean-win-completed`, what is unknown
    /// because pairs were not judged.
    pub standard_error: Option<f64>,
}

/// A method with its settings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scorer {
    /// How comparisons become scores.
    pub method: RankMethod,
    /// Log-odds that count as one nat (the judge's temperature), above zero.
    pub tau: f64,
    /// Ridge of Bradley–Terry.
    pub ridge: f64,
}

impl Scorer {
    /// Scores every response; `None` for one that met nobody.
    ///
    /// [`RankMethod::Random`] reads no comparison: its scores are in `coin`.
    ///
    /// # Errors
    /// Methods that [connect](RankMethod::connects) alone: responses that no chain of comparisons
    /// connects.
    pub fn scores(&self, matrix: &ComparisonMatrix) -> Result<Vec<Option<Score>>, StatsError> {
        self.scores_by(matrix, |i, j| matrix.preference(i, j))
    }

    /// Scores every response twice, each time from half of the information.
    ///
    /// The mean methods take the comparisons in which the response was shown first, and those in
    /// which it was shown second. Methods that [connect](RankMethod::connects) are refitted once for
    /// each order of the pairs, less `position_bias`, which would otherwise pass for a preference.
    ///
    /// # Errors
    /// As [`Scorer::scores`].
    pub fn scores_by_order(
        &self,
        matrix: &ComparisonMatrix,
        position_bias: f64,
    ) -> Result<[Vec<Option<Score>>; 2], StatsError> {
        let first = |i: usize, j: usize| matrix.logit(i, j);
        let second = |i: usize, j: usize| matrix.logit(j, i).map(|logit| -logit);
        if !self.method.connects() {
            return Ok([
                self.scores_by(matrix, first)?,
                self.scores_by(matrix, second)?,
            ]);
        }
        Ok([
            self.scores_by(matrix, |i, j| Some(first(i, j)? - position_bias))?,
            self.scores_by(matrix, |i, j| Some(second(i, j)? + position_bias))?,
        ])
    }

    /// Returns the mean probability that response `i` beats those it met; `None` if it met nobody.
    #[must_use]
    pub fn win_probability(&self, matrix: &ComparisonMatrix, i: usize) -> Option<f64> {
        let wins: Vec<f64> = matrix
            .opponents(i)
            .filter_map(|j| matrix.preference(i, j))
            .map(|preference| logistic(preference / self.tau))
            .collect();
        (!wins.is_empty()).then(|| wins.iter().sum::<f64>() / wins.len() as f64)
    }

    /// Returns the score that means "as good as the others".
    #[must_use]
    pub fn neutral(&self) -> f64 {
        match self.method {
            RankMethod::MeanWin
            | RankMethod::Copeland
            | RankMethod::MeanWinCompleted
            | RankMethod::WinprobSppo
            | RankMethod::Random => 0.5,
            RankMethod::MeanLogit | RankMethod::BradleyTerry | RankMethod::LeastSquares => 0.0,
        }
    }

    /// Scores from `logit(i, j)`, the log-odds that `i` is better, over the matrix's pairs.
    fn scores_by(
        &self,
        matrix: &ComparisonMatrix,
        logit: impl Fn(usize, usize) -> Option<f64>,
    ) -> Result<Vec<Option<Score>>, StatsError> {
        let judged = || -> Vec<(usize, usize, f64)> {
            matrix
                .pairs()
                .filter_map(|(i, j)| Some((i, j, logit(i, j)?)))
                .collect()
        };
        match self.method {
            RankMethod::BradleyTerry => return connected::bradley_terry(self, matrix, &judged()),
            RankMethod::LeastSquares => return connected::least_squares(matrix, &judged()),
            RankMethod::MeanWinCompleted => {
                return connected::mean_win_completed(self, matrix, &judged());
            }
            RankMethod::WinprobSppo => return Ok(sppo::scores(self, matrix, &judged())),
            RankMethod::Random => return Ok(vec![None; matrix.size()]),
            RankMethod::MeanWin | RankMethod::MeanLogit | RankMethod::Copeland => {}
        }
        // LLM-Blender divides by the number of responses, not of opponents; a full design keeps
        // that (`gpt_eval/utils.py`), a partial one divides by the number met.
        let divisor = match self.method {
            RankMethod::MeanLogit if matrix.is_complete() => Some(matrix.size() as f64),
            _ => None,
        };
        Ok((0..matrix.size())
            .map(|i| {
                let outcomes: Vec<f64> = matrix
                    .opponents(i)
                    .filter_map(|j| logit(i, j))
                    .map(|logit| self.outcome(logit))
                    .collect();
                mean_score(&outcomes, divisor)
            })
            .collect())
    }

    /// What one comparison with these log-odds contributes to a mean.
    fn outcome(&self, logit: f64) -> f64 {
        match self.method {
            RankMethod::MeanLogit => 2.0 * logit,
            RankMethod::Copeland => win(logit, 0.0),
            _ => logistic(logit / self.tau),
        }
    }
}

/// Mean of what the comparisons contribute, with the standard error of that mean.
fn mean_score(outcomes: &[f64], divisor: Option<f64>) -> Option<Score> {
    if outcomes.is_empty() {
        return None;
    }
    let n = outcomes.len() as f64;
    let sum: f64 = outcomes.iter().sum();
    let mean = sum / n;
    let divisor = divisor.unwrap_or(n);
    let standard_error = (outcomes.len() > 1).then(|| {
        let squares: f64 = outcomes
            .iter()
            .map(|outcome| (outcome - mean).powi(2))
            .sum();
        (squares / (n - 1.0) * n).sqrt() / divisor
    });
    Some(Score {
        value: sum / divisor,
        standard_error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scorer(method: RankMethod) -> Scorer {
        Scorer {
            method,
            tau: 1.0,
            ridge: 0.1,
        }
    }

    fn values(scores: &[Option<Score>]) -> Vec<f64> {
        scores
            .iter()
            .map(|score| score.expect("all met").value)
            .collect()
    }

    fn full(rows: &[&[f64]]) -> ComparisonMatrix {
        let mut matrix = ComparisonMatrix::new(rows.len());
        for (i, row) in rows.iter().enumerate() {
            for (j, &logit) in row.iter().enumerate() {
                if i != j {
                    matrix.set(i, j, logit);
                }
            }
        }
        matrix
    }

    #[test]
    fn mean_logit_is_llm_blenders_max_logits() {
        // T25, by hand: s_i = (1/3) sum_j (D_ij - D_ji).
        let matrix = full(&[&[0.0, 2.0, -1.0], &[1.0, 0.0, 0.5], &[4.0, -2.0, 0.0]]);
        let got = values(
            &scorer(RankMethod::MeanLogit)
                .scores(&matrix)
                .expect("connected"),
        );
        let expected = [(1.0 - 5.0) / 3.0, (-1.0 + 2.5) / 3.0, (5.0 - 2.5) / 3.0];
        for (got, expected) in got.iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6, "{got} {expected}");
        }
    }

    #[test]
    fn a_partial_design_divides_by_the_number_met() {
        let mut matrix = ComparisonMatrix::new(3);
        for (i, j, logit) in [(0, 1, 2.0), (1, 0, -2.0), (1, 2, 1.0), (2, 1, -1.0)] {
            matrix.set(i, j, logit);
        }
        let got = values(
            &scorer(RankMethod::MeanLogit)
                .scores(&matrix)
                .expect("connected"),
        );
        assert_eq!(got, [4.0, -1.0, -2.0]);
    }

    #[test]
    fn mean_win_averages_probabilities() {
        let matrix = full(&[&[0.0, 1.0], &[-3.0, 0.0]]);
        let scorer = Scorer {
            tau: 2.0,
            ..scorer(RankMethod::MeanWin)
        };
        let scores = scorer.scores(&matrix).expect("connected");
        // A = (1 + 3) / 2 = 2, over tau 2.
        let expected = 1.0 / (1.0 + (-1.0f64).exp());
        let got = scores[0].expect("met");
        assert!((got.value - expected).abs() < 1e-12);
        assert_eq!(got.standard_error, None);
        assert_eq!(scorer.win_probability(&matrix, 0), Some(got.value));
    }

    #[test]
    fn copeland_calls_a_cycle_a_draw() {
        // T27.
        let cycle = full(&[&[0.0, 1.0, -1.0], &[-1.0, 0.0, 1.0], &[1.0, -1.0, 0.0]]);
        let got = values(
            &scorer(RankMethod::Copeland)
                .scores(&cycle)
                .expect("connected"),
        );
        assert_eq!(got, [0.5; 3]);
    }

    #[test]
    fn bradley_terry_recovers_the_order_and_has_errors() {
        let truth: [f64; 4] = [1.0, -2.0, 0.5, 0.0];
        let rows: Vec<Vec<f64>> = truth
            .iter()
            .map(|left| truth.iter().map(|right| left - right).collect())
            .collect();
        let matrix = full(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let scores = scorer(RankMethod::BradleyTerry)
            .scores(&matrix)
            .expect("connected");
        let got = values(&scores);
        assert!(
            got[0] > got[2] && got[2] > got[3] && got[3] > got[1],
            "{got:?}"
        );
        assert!(
            scores
                .iter()
                .flatten()
                .all(|score| score.standard_error.is_some())
        );
    }

    #[test]
    fn constant_position_bias_is_no_noise() {
        let truth = [1.0, -2.0, 0.5];
        let rows: Vec<Vec<f64>> = truth
            .iter()
            .map(|left| truth.iter().map(|right| left - right + 0.8).collect())
            .collect();
        let matrix = full(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let bias = matrix.position_bias().expect("judged");
        let [first, second] = scorer(RankMethod::BradleyTerry)
            .scores_by_order(&matrix, bias)
            .expect("connected");
        for (first, second) in values(&first).iter().zip(values(&second)) {
            assert!((first - second).abs() < 1e-9);
        }
    }

    #[test]
    fn a_response_that_met_nobody_has_no_score() {
        let mut matrix = ComparisonMatrix::new(3);
        matrix.set(0, 1, 1.0);
        matrix.set(1, 0, -1.0);
        let scores = scorer(RankMethod::MeanWin)
            .scores(&matrix)
            .expect("mean methods never fail");
        assert!(scores[0].is_some() && scores[2].is_none());
        assert!(matches!(
            scorer(RankMethod::BradleyTerry).scores(&matrix),
            Err(StatsError::Disconnected { components: 2 })
        ));
        let alone = scorer(RankMethod::BradleyTerry).scores(&ComparisonMatrix::new(1));
        assert_eq!(alone, Ok(vec![None]));
    }
}
