//! Streaming means and variances of hidden states: one pass, `O(hidden)` memory.
//!
//! [`Moments`] treats every row alike; [`TwoLevelMean`] averages the rows of one response first and the
//! responses afterwards, so that long answers do not dominate.

use crate::FitError;
use crate::real::norm;

/// Count, mean and centred sum of squares of each dimension, accumulated in `f64` (Welford 1962).
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    count: u64,
    mean: Vec<f64>,
    centred_squares: Vec<f64>,
    norm_sum: f64,
}

impl Moments {
    /// Returns the moments of no rows at all, for rows of `hidden` components.
    pub fn new(hidden: usize) -> Self {
        Self {
            count: 0,
            mean: vec![0.0; hidden],
            centred_squares: vec![0.0; hidden],
            norm_sum: 0.0,
        }
    }

    /// Adds one row, `[hidden]`.
    pub fn push(&mut self, row: &[f32]) {
        debug_assert_eq!(row.len(), self.mean.len());
        self.norm_sum += norm(row);
        self.count += 1;
        let weight = 1.0 / self.count as f64;
        for ((mean, squares), &value) in
            self.mean.iter_mut().zip(&mut self.centred_squares).zip(row)
        {
            let delta = f64::from(value) - *mean;
            *mean += delta * weight;
            *squares += delta * (f64::from(value) - *mean);
        }
    }

    /// Adds the rows of another set of moments (Chan, Golub and LeVeque 1979).
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        let (n, m) = (self.count as f64, other.count as f64);
        let total = n + m;
        for dimension in 0..self.mean.len() {
            let delta = other.mean[dimension] - self.mean[dimension];
            self.mean[dimension] += delta * (m / total);
            self.centred_squares[dimension] +=
                other.centred_squares[dimension] + delta * delta * (n * m / total);
        }
        self.norm_sum += other.norm_sum;
        self.count += other.count;
    }

    /// Returns the number of rows seen.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Returns the mean row, `[hidden]`; zeros before the first row.
    pub fn mean(&self) -> &[f64] {
        &self.mean
    }

    /// Returns the population variance of each dimension, `[hidden]`; zeros before the first row.
    pub fn variance(&self) -> Vec<f64> {
        let count = self.count.max(1) as f64;
        self.centred_squares
            .iter()
            .map(|squares| squares / count)
            .collect()
    }

    /// Returns the mean Euclidean norm of the rows; 0 before the first row.
    pub fn mean_norm(&self) -> f64 {
        self.norm_sum / self.count.max(1) as f64
    }
}

/// How the rows of a class are averaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Averaging {
    /// Mean over a response's positions, then over responses.
    TwoLevel,
    /// Mean over all rows: long responses weigh more.
    Flat,
}

/// The mean of responses, each of which is the mean of its own rows.
///
/// Rows of one response must arrive one after another, as extraction writes them; then the memory is
/// that of two sets of moments, however many responses there are.
#[derive(Debug, Clone)]
pub struct TwoLevelMean {
    averaging: Averaging,
    response: Option<u64>,
    rows: Moments,
    responses: Moments,
    norms: f64,
    row_count: u64,
}

impl TwoLevelMean {
    /// Returns an empty mean for rows of `hidden` components.
    pub fn new(hidden: usize, averaging: Averaging) -> Self {
        Self {
            averaging,
            response: None,
            rows: Moments::new(hidden),
            responses: Moments::new(hidden),
            norms: 0.0,
            row_count: 0,
        }
    }

    /// Adds a row, `[hidden]`, of the response numbered `response`.
    ///
    /// # Errors
    /// [`FitError::NonFinite`] if a component is NaN or infinite.
    pub fn push(&mut self, response: u64, row: &[f32]) -> Result<(), FitError> {
        let length = norm(row);
        if !length.is_finite() {
            return Err(FitError::NonFinite {
                row: self.row_count,
            });
        }
        self.norms += length;
        self.row_count += 1;
        if self.averaging == Averaging::TwoLevel && self.response != Some(response) {
            self.close_response();
            self.response = Some(response);
        }
        self.rows.push(row);
        Ok(())
    }

    /// Returns the mean, `[hidden]`, and the mean norm of the single rows.
    ///
    /// # Errors
    /// [`FitError::EmptyClass`] if no row was added; `class` names it.
    pub fn finish(mut self, class: &'static str) -> Result<(Vec<f64>, f64), FitError> {
        if self.row_count == 0 {
            return Err(FitError::EmptyClass { class });
        }
        let mean_norm = self.norms / self.row_count as f64;
        Ok(match self.averaging {
            Averaging::Flat => (self.rows.mean, mean_norm),
            Averaging::TwoLevel => {
                self.close_response();
                (self.responses.mean, mean_norm)
            }
        })
    }

    fn close_response(&mut self) {
        if self.rows.count == 0 {
            return;
        }
        let hidden = self.rows.mean.len();
        let rows = std::mem::replace(&mut self.rows, Moments::new(hidden));
        self.responses.merge(&Moments {
            count: 1,
            mean: rows.mean,
            centred_squares: vec![0.0; hidden],
            norm_sum: 0.0,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{NormalDraw, stream};

    fn rows(count: usize, hidden: usize) -> Vec<Vec<f32>> {
        let mut stream = stream(3, "moments");
        (0..count)
            .map(|_| {
                (0..hidden)
                    .map(|_| (stream.normal() * 3.0 + 100.0) as f32)
                    .collect()
            })
            .collect()
    }

    fn close(a: &[f64], b: &[f64], relative: f64) {
        for (x, y) in a.iter().zip(b) {
            assert!(
                (x - y).abs() <= relative * y.abs().max(1e-300),
                "{x} against {y}"
            );
        }
    }

    /// T02: one pass equals two passes, and halves merge to the whole, wherever the cut is.
    #[test]
    fn streaming_moments_equal_two_passes() {
        let data = rows(501, 9);
        let mut streamed = Moments::new(9);
        data.iter().for_each(|row| streamed.push(row));
        let n = data.len() as f64;
        let mean: Vec<f64> = (0..9)
            .map(|d| data.iter().map(|row| f64::from(row[d])).sum::<f64>() / n)
            .collect();
        let variance: Vec<f64> = (0..9)
            .map(|d| {
                data.iter()
                    .map(|row| (f64::from(row[d]) - mean[d]).powi(2))
                    .sum::<f64>()
                    / n
            })
            .collect();
        close(streamed.mean(), &mean, 1e-10);
        close(&streamed.variance(), &variance, 1e-10);

        for cut in [0, 1, 100, 250, 500, 501] {
            let (mut first, mut second) = (Moments::new(9), Moments::new(9));
            data[..cut].iter().for_each(|row| first.push(row));
            data[cut..].iter().for_each(|row| second.push(row));
            first.merge(&second);
            assert_eq!(first.count(), 501);
            close(first.mean(), streamed.mean(), 1e-12);
            close(&first.variance(), &streamed.variance(), 1e-12);
            close(&[first.mean_norm()], &[streamed.mean_norm()], 1e-12);
        }
    }

    /// T03: a long and a short response of constant states weigh the same, unless asked otherwise.
    #[test]
    fn long_responses_do_not_dominate() {
        let mean = |averaging| {
            let mut mean = TwoLevelMean::new(2, averaging);
            for _ in 0..30 {
                mean.push(0, &[1.0, 4.0]).unwrap();
            }
            for _ in 0..10 {
                mean.push(1, &[3.0, -2.0]).unwrap();
            }
            mean.finish("chosen").unwrap().0
        };
        close(&mean(Averaging::TwoLevel), &[2.0, 1.0], 1e-6);
        close(&mean(Averaging::Flat), &[1.5, 2.5], 1e-6);
    }

    /// T04, in part: nothing to average and NaN are errors.
    #[test]
    fn empty_and_non_finite_are_refused() {
        let empty = TwoLevelMean::new(2, Averaging::TwoLevel).finish("chosen");
        assert!(matches!(
            empty,
            Err(FitError::EmptyClass { class: "chosen" })
        ));
        let mut mean = TwoLevelMean::new(2, Averaging::TwoLevel);
        mean.push(0, &[0.0, 1.0]).unwrap();
        assert!(matches!(
            mean.push(0, &[f32::NAN, 1.0]),
            Err(FitError::NonFinite { row: 1 })
        ));
    }
}
