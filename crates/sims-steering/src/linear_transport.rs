//! Linear activation transport: each coordinate of rejected states is moved onto that of chosen states.
//!
//! Between two samples of one number the cheapest transport pairs their quantiles; the map is the line through
//! these pairs (Linear-AcT, Rodriguez et al. 2024, arXiv 2410.23054).

use crate::affine_transport::AffineTransport;
use crate::moments::Moments;
use crate::paired_states::PairedStates;
use crate::{EditCounts, FitError};
use candle_core::{DType, Tensor};
use rayon::prelude::*;
use sims_model::ModelError;

mod on_device;

/// Coordinates with less variance among rejected states are only shifted.
const LEAST_VARIANCE: f64 = 1e-8;
/// Coordinates with a smaller deviation in either class are left alone by [`Form::Gaussian`].
const LEAST_DEVIATION: f64 = 1e-4;
/// Maps that move states by less than this share of their norm move nothing.
const IDENTICAL: f64 = 1e-6;
/// Coordinates gathered at a time: a cache line of each row.
const COLUMNS: usize = 16;

/// Which line is fitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Least squares through the pairs of quantiles, applied between the smallest and the largest rejected value.
    Quantiles,
    /// `σ_chosen/σ_rejected` about the means, applied everywhere.
    Gaussian,
}

/// What counts as one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// Every row.
    Rows,
    /// The mean row of each response, as published: their range is narrower than that of the rows that are edited.
    Mean,
}

/// A fitted transport, in f64.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearTransport {
    /// Slope of each coordinate, `[hidden]`.
    pub scale: Vec<f64>,
    /// Intercept of each coordinate, `[hidden]`.
    pub shift: Vec<f64>,
    /// Lower end of each coordinate's support, `[hidden]`.
    pub low: Vec<f32>,
    /// Upper end of each coordinate's support, `[hidden]`.
    pub high: Vec<f32>,
}

/// What a transport does to rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TransportFigures {
    /// Mean length of the move of rejected states, in units of their mean norm.
    pub shift: f64,
    /// Share of the rejected states' coordinates inside the support.
    pub inside: f64,
    /// Distance from the mean moved to the mean chosen state, in units of that from the mean rejected one.
    pub gap_left: f64,
}

/// Fits the transport of rejected onto chosen states to the given rows.
///
/// Memory: sixteen columns of both classes a thread, and with [`Pool::Mean`] one row a response.
///
/// # Errors
/// [`FitError::EmptyClass`] without rows; [`FitError::IdenticalClasses`] if the map moves the rows by less than 1e-6
/// of their norm.
pub fn fit(
    states: &PairedStates<'_>,
    rows: &[usize],
    form: Form,
    pool: Pool,
) -> Result<LinearTransport, FitError> {
    if rows.is_empty() {
        return Err(FitError::EmptyClass { class: "rejected" });
    }
    let hidden = states.hidden();
    let fitted = match (pool, states.device()) {
        (Pool::Rows, Some(device)) => by_columns(hidden, form, |first, columns| {
            states.columns(device, rows, first, columns)
        })?,
        (Pool::Mean, Some(device)) => {
            let (chosen, rejected) = response_means(states, rows);
            let shape = (chosen.len() / hidden, hidden);
            let device = device.device();
            let [chosen, rejected] = [chosen, rejected]
                .map(|means| Tensor::from_vec(means, shape, device)?.to_dtype(DType::F64))
                .map(|means| means.map_err(ModelError::from));
            let (chosen, rejected) = (chosen?, rejected?);
            by_columns(hidden, form, |first, columns| {
                let part = |means: &Tensor| -> Result<Tensor, ModelError> {
                    Ok(means.narrow(1, first, columns)?.t()?.contiguous()?)
                };
                Ok([part(&chosen)?, part(&rejected)?])
            })?
        }
        (Pool::Rows, None) => by_coordinate(hidden, form, rows.len(), |sample| {
            (states.rejected(rows[sample]), states.chosen(rows[sample]))
        }),
        (Pool::Mean, None) => {
            let (chosen, rejected) = response_means(states, rows);
            by_coordinate(hidden, form, chosen.len() / hidden, |sample| {
                let span = sample * hidden..(sample + 1) * hidden;
                (&rejected[span.clone()], &chosen[span])
            })
        }
    };
    let figures = fitted.figures(states, rows)?;
    if figures.shift <= IDENTICAL {
        let state_norm = states.mean_norm(rows);
        return Err(FitError::IdenticalClasses {
            difference: figures.shift * state_norm,
            state_norm,
        });
    }
    Ok(fitted)
}

/// Returns the mean states of each response, chosen and rejected: `[pairs, hidden]`.
fn response_means(states: &PairedStates<'_>, rows: &[usize]) -> (Vec<f32>, Vec<f32>) {
    let (mut chosen, mut rejected) = (Vec::new(), Vec::new());
    states.each_response(rows, |chosen_mean, rejected_mean| {
        chosen.extend(chosen_mean.iter().map(|&x| x as f32));
        rejected.extend(rejected_mean.iter().map(|&x| x as f32));
    });
    (chosen, rejected)
}

impl LinearTransport {
    fn of(lines: &[Line]) -> Self {
        Self {
            scale: lines.iter().map(|line| line.scale).collect(),
            shift: lines.iter().map(|line| line.shift).collect(),
            low: lines.iter().map(|line| line.low).collect(),
            high: lines.iter().map(|line| line.high).collect(),
        }
    }

    /// Returns the operator, rounded to f32.
    ///
    /// # Errors
    /// [`FitError::Operator`] if a number is too large for f32.
    pub fn operator(&self) -> Result<AffineTransport, FitError> {
        let rounded = |values: &[f64]| values.iter().map(|&x| x as f32).collect();
        let (scale, shift) = (rounded(&self.scale), rounded(&self.shift));
        Ok(AffineTransport::new(
            scale,
            shift,
            self.low.clone(),
            self.high.clone(),
        )?)
    }

    /// Measures the transport on rows, such as held-out ones.
    ///
    /// # Errors
    /// [`FitError::EmptyClass`] without rows, [`FitError::Operator`] if a number is too large for f32.
    pub fn figures(
        &self,
        states: &PairedStates<'_>,
        rows: &[usize],
    ) -> Result<TransportFigures, FitError> {
        if rows.is_empty() {
            return Err(FitError::EmptyClass { class: "rejected" });
        }
        let operator = self.operator()?;
        let hidden = states.hidden();
        let [mut chosen, mut rejected, mut moved] = [0, 1, 2].map(|_| Moments::new(hidden));
        let (mut length, mut inside) = (0.0, 0usize);
        for &row in rows {
            let state = states.rejected(row);
            let mut edited = state.to_vec();
            operator.apply(&mut edited, 1.0, &mut EditCounts::default());
            length += distance(state.iter().zip(&edited));
            inside += (0..hidden)
                .filter(|&i| self.low[i] <= state[i] && state[i] <= self.high[i])
                .count();
            chosen.push(states.chosen(row));
            rejected.push(state);
            moved.push(&edited);
        }
        let gap = |from: &Moments| {
            let pairs = from.mean().iter().zip(chosen.mean());
            pairs.map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
        };
        let ratio = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        Ok(TransportFigures {
            shift: ratio(length / rows.len() as f64, rejected.mean_norm()),
            inside: inside as f64 / (rows.len() * hidden) as f64,
            gap_left: ratio(gap(&moved), gap(&rejected)),
        })
    }
}

fn distance<'a>(pairs: impl Iterator<Item = (&'a f32, &'a f32)>) -> f64 {
    pairs
        .map(|(a, b)| (f64::from(*b) - f64::from(*a)).powi(2))
        .sum::<f64>()
        .sqrt()
}

/// The line of one coordinate and its support.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Line {
    scale: f64,
    shift: f64,
    low: f32,
    high: f32,
}

impl Line {
    /// The line of a coordinate that is left alone: its support is empty.
    const NONE: Self = Self {
        scale: 1.0,
        shift: 0.0,
        low: f32::MAX,
        high: f32::MIN,
    };
}

/// Fits each coordinate's line on a device from columns of both classes, chosen and rejected, `[columns, samples]`.
fn by_columns(
    hidden: usize,
    form: Form,
    columns: impl Fn(usize, usize) -> Result<[Tensor; 2], FitError>,
) -> Result<LinearTransport, FitError> {
    let mut lines = Vec::with_capacity(hidden);
    for first in (0..hidden).step_by(on_device::COLUMNS) {
        let [chosen, rejected] = columns(first, on_device::COLUMNS.min(hidden - first))?;
        lines.extend(on_device::lines(&rejected, &chosen, form)?);
    }
    Ok(LinearTransport::of(&lines))
}

/// Fits each coordinate's line from `samples` pairs of rows `(source, target)`.
fn by_coordinate<'a>(
    hidden: usize,
    form: Form,
    samples: usize,
    rows: impl Fn(usize) -> (&'a [f32], &'a [f32]) + Sync,
) -> LinearTransport {
    // Coordinates are independent, so that threads may share them out.
    let blocks: Vec<usize> = (0..hidden).step_by(COLUMNS).collect();
    let lines: Vec<Vec<Line>> = blocks
        .par_iter()
        .map(|&first| {
            let columns = first..hidden.min(first + COLUMNS);
            let mut sources = vec![Vec::with_capacity(samples); columns.len()];
            let mut targets = sources.clone();
            for sample in 0..samples {
                let (source, target) = rows(sample);
                for (at, column) in columns.clone().enumerate() {
                    sources[at].push(source[column]);
                    targets[at].push(target[column]);
                }
            }
            let both = sources.into_iter().zip(targets);
            both.map(|(source, target)| match form {
                Form::Quantiles => quantile_line(source, target),
                Form::Gaussian => gaussian_line(&source, &target),
            })
            .collect()
        })
        .collect();
    LinearTransport::of(&lines.concat())
}

/// Fits the least-squares line through the pairs of equal quantiles of two samples.
fn quantile_line(mut source: Vec<f32>, mut target: Vec<f32>) -> Line {
    source.sort_unstable_by(f32::total_cmp);
    target.sort_unstable_by(f32::total_cmp);
    let count = source.len().min(target.len());
    let at = |sample: &[f32], i: usize| quantile(sample, (i as f64 + 0.5) / count as f64);
    let (mut mean_x, mut mean_y) = (0.0, 0.0);
    for i in 0..count {
        mean_x += at(&source, i) / count as f64;
        mean_y += at(&target, i) / count as f64;
    }
    let (mut squares, mut products) = (0.0, 0.0);
    for i in 0..count {
        let x = at(&source, i) - mean_x;
        squares += x * x;
        products += x * (at(&target, i) - mean_y);
    }
    // The source adds noise where nothing varies; a shift is what is left without it.
    let scale = if squares / (count as f64) < LEAST_VARIANCE {
        1.0
    } else {
        products / squares
    };
    Line {
        scale,
        shift: mean_y - scale * mean_x,
        low: source[0],
        high: source[source.len() - 1],
    }
}

/// Returns the quantile at `share` of a sorted sample, between the middles of its steps (Hazen 1914).
///
/// At `(i + ½)/n` this is element `i` itself, so samples of one size are paired element by element.
fn quantile(sorted: &[f32], share: f64) -> f64 {
    let last = sorted.len() - 1;
    let position = (share * sorted.len() as f64 - 0.5).clamp(0.0, last as f64);
    let nearest = position.round();
    if (position - nearest).abs() < 1e-9 * sorted.len() as f64 {
        return f64::from(sorted[nearest as usize]);
    }
    let below = position.floor() as usize;
    let (a, b) = (f64::from(sorted[below]), f64::from(sorted[below + 1]));
    a + (position - below as f64) * (b - a)
}

/// Fits the line that maps one normal distribution to another.
fn gaussian_line(source: &[f32], target: &[f32]) -> Line {
    let moments = |sample: &[f32]| {
        let mut moments = Moments::new(1);
        sample.iter().for_each(|&x| moments.push(&[x]));
        (moments.mean()[0], moments.variance()[0].sqrt())
    };
    let ((mean_x, deviation_x), (mean_y, deviation_y)) = (moments(source), moments(target));
    if deviation_x <= LEAST_DEVIATION || deviation_y <= LEAST_DEVIATION {
        return Line::NONE;
    }
    let scale = deviation_y / deviation_x;
    Line {
        scale,
        shift: mean_y - scale * mean_x,
        low: f32::MIN,
        high: f32::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{NormalDraw, stream};

    fn normals(name: &str, count: usize, mean: f64, deviation: f64) -> Vec<f32> {
        let mut stream = stream(12, name);
        (0..count)
            .map(|_| (mean + deviation * stream.normal()) as f32)
            .collect()
    }

    fn near(found: f64, expected: f64, tolerance: f64) {
        let bound = tolerance;
        assert!((found - expected).abs() <= bound, "{found}, not {expected}");
    }

    /// T15: the line between two normal samples is found, in both forms.
    #[test]
    fn normal_samples_give_their_line() {
        let source = normals("source", 20_000, 1.0, 2.0);
        let target = normals("target", 20_000, -3.0, 0.5);
        let quantiles = quantile_line(source.clone(), target.clone());
        for line in [quantiles, gaussian_line(&source, &target)] {
            near(line.scale, 0.25, 0.01);
            near(line.shift, -3.25, 0.03);
        }
        let smallest = source.iter().copied().fold(f32::INFINITY, f32::min);
        assert_eq!(quantiles.low, smallest);
    }

    /// T15: a sample's own affine image gives the map back exactly, in whatever order it comes.
    #[test]
    fn affine_images_give_their_map() {
        // On a grid, so that the image is exact in f32.
        let mut source: Vec<f32> = normals("grid", 20_000, 1.0, 2.0);
        source
            .iter_mut()
            .for_each(|x| *x = (*x * 1024.0).round() / 1024.0);
        let target: Vec<f32> = source.iter().rev().map(|x| 0.25 * x - 3.25).collect();
        let line = quantile_line(source, target);
        near(line.scale, 0.25, 1e-9);
        near(line.shift, -3.25, 1e-9);
    }

    /// T16: samples of different sizes are brought to one grid of quantiles.
    #[test]
    fn unequal_samples_give_the_same_line() {
        let mut source = normals("source", 1_000, 1.0, 2.0);
        let mut target = normals("target", 1_700, -3.0, 0.5);
        let exact = |sample: &mut [f32], mean: f64, deviation: f64| {
            // Standardised, so that what is left is the grid's own error.
            let mut moments = Moments::new(1);
            sample.iter().for_each(|&x| moments.push(&[x]));
            let (m, d) = (moments.mean()[0], moments.variance()[0].sqrt());
            for x in sample {
                *x = (mean + deviation * (f64::from(*x) - m) / d) as f32;
            }
        };
        exact(&mut source, 1.0, 2.0);
        exact(&mut target, -3.0, 0.5);
        for (source, target) in [(&source, &target), (&target, &source)] {
            let line = quantile_line(source.clone(), target.clone());
            let (scale, shift) = if source.len() == 1_000 {
                (0.25, -3.25)
            } else {
                (4.0, 13.0)
            };
            near(line.scale / scale, 1.0, 0.03);
            near(line.shift / shift, 1.0, 0.03);
        }
    }

    /// T15: what does not vary is shifted, and by the Gaussian form left alone.
    #[test]
    fn constant_coordinates_are_shifted() {
        let target = normals("target", 100, -3.0, 0.5);
        let line = quantile_line(vec![2.0; 100], target.clone());
        assert_eq!((line.scale, line.low, line.high), (1.0, 2.0, 2.0));
        near(line.shift, -5.0, 0.2);
        let line = gaussian_line(&[2.0; 100], &target);
        assert!(line.low > line.high);
    }

    fn states(hidden: usize, rows: usize) -> (Vec<f32>, Vec<f32>, Vec<u32>) {
        let mut chosen = normals("chosen", rows * hidden, 0.0, 0.5);
        for (i, x) in chosen.iter_mut().enumerate() {
            *x += (i % hidden) as f32 * 0.1;
        }
        let rejected = normals("rejected", rows * hidden, 0.0, 1.0);
        let pairs = (0..rows as u32).map(|row| row / 4).collect();
        (chosen, rejected, pairs)
    }

    #[test]
    fn rejected_states_arrive_at_the_chosen() {
        let (chosen, rejected, pairs) = states(19, 400);
        let states = PairedStates::new(19, &chosen, &rejected, &pairs, &pairs).unwrap();
        let rows: Vec<usize> = (0..400).collect();
        for form in [Form::Quantiles, Form::Gaussian] {
            let fitted = fit(&states, &rows, form, Pool::Rows).unwrap();
            let figures = fitted.figures(&states, &rows).unwrap();
            assert!(figures.gap_left < 1e-3, "{form:?}: {figures:?}");
            assert_eq!(figures.inside, 1.0);
            assert!(fitted.scale.iter().all(|&scale| scale >= 0.0));
        }
        // Means of four rows vary half as much, so that many rows lie outside their range.
        let pooled = fit(&states, &rows, Form::Quantiles, Pool::Mean).unwrap();
        assert!(pooled.figures(&states, &rows).unwrap().inside < 0.95);
    }

    #[test]
    fn nothing_to_transport_is_refused() {
        let (chosen, _, pairs) = states(5, 40);
        let same = PairedStates::new(5, &chosen, &chosen, &pairs, &pairs).unwrap();
        let rows: Vec<usize> = (0..40).collect();
        for pool in [Pool::Rows, Pool::Mean] {
            let error = fit(&same, &rows, Form::Quantiles, pool).unwrap_err();
            assert!(
                matches!(error, FitError::IdenticalClasses { .. }),
                "{error}"
            );
        }
        let error = fit(&same, &[], Form::Quantiles, Pool::Rows).unwrap_err();
        assert!(matches!(error, FitError::EmptyClass { class: "rejected" }));
    }
}
