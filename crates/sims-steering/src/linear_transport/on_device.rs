//! The lines of coordinates on a device: columns are sorted there by a bitonic network of candle's operations.

use super::{Form, LEAST_DEVIATION, LEAST_VARIANCE, Line};
use crate::FitError;
use candle_core::{D, DType, Tensor};
use sims_model::ModelError;

/// Coordinates fitted at a time, which bounds the room that sorting takes.
pub(super) const COLUMNS: usize = 256;

/// Fits each coordinate's line, from columns of equally many samples `[columns, samples]`, f64.
pub(super) fn lines(source: &Tensor, target: &Tensor, form: Form) -> Result<Vec<Line>, FitError> {
    Ok(match form {
        Form::Quantiles => quantile_lines(&sorted(source)?, &sorted(target)?)?,
        Form::Gaussian => gaussian_lines(source, target)?,
    })
}

/// Sorts every row, ascending: `[columns, samples]`; the values are `f32` numbers held in f64.
///
/// Batcher's bitonic network: of a row padded to a power of two, every stage compares all elements a distance apart.
fn sorted(rows: &Tensor) -> Result<Tensor, ModelError> {
    let (columns, samples) = rows.dims2()?;
    let padded = samples.next_power_of_two();
    let mut values = rows.to_dtype(DType::F32)?;
    if padded > samples {
        let shape = (columns, padded - samples);
        let last = Tensor::full(f32::INFINITY, shape, rows.device())?;
        values = Tensor::cat(&[&values, &last], 1)?;
    }
    let mut run = 2;
    while run <= padded {
        let mut distance = run / 2;
        while distance > 0 {
            values = compared(&values, run, distance)?;
            distance /= 2;
        }
        run *= 2;
    }
    let values = values.narrow(1, 0, samples)?.contiguous()?;
    Ok(values.to_dtype(DType::F64)?)
}

/// One stage: elements `distance` apart are put in order, descending in every other run.
fn compared(values: &Tensor, run: usize, distance: usize) -> Result<Tensor, ModelError> {
    let (columns, padded) = values.dims2()?;
    let blocks = padded / (2 * distance);
    let pairs = values.reshape((columns, blocks, 2, distance))?;
    let first = pairs.narrow(2, 0, 1)?.contiguous()?;
    let second = pairs.narrow(2, 1, 1)?.contiguous()?;
    let (low, high) = (first.minimum(&second)?, first.maximum(&second)?);
    let ascending: Vec<u8> = (0..blocks)
        .map(|block| u8::from((block * 2 * distance) & run == 0))
        .collect();
    let ascending = Tensor::from_vec(ascending, (1, blocks, 1, 1), values.device())?
        .broadcast_as(low.shape())?
        .contiguous()?;
    let first = ascending.where_cond(&low, &high)?;
    let second = ascending.where_cond(&high, &low)?;
    Ok(Tensor::cat(&[first, second], 2)?.reshape((columns, padded))?)
}

/// Fits the least-squares lines through pairs of equal quantiles: elements of sorted samples of one size.
fn quantile_lines(source: &Tensor, target: &Tensor) -> Result<Vec<Line>, ModelError> {
    let samples = source.dim(1)?;
    let (x, mean_x) = centred(source)?;
    let (y, mean_y) = centred(target)?;
    let squares: Vec<f64> = x.sqr()?.sum(D::Minus1)?.to_vec1()?;
    let products: Vec<f64> = (x * y)?.sum(D::Minus1)?.to_vec1()?;
    let at = |sample: usize| -> Result<Vec<f64>, ModelError> {
        Ok(source
            .narrow(1, sample, 1)?
            .contiguous()?
            .flatten_all()?
            .to_vec1()?)
    };
    let (low, high) = (at(0)?, at(samples - 1)?);
    let line = |i: usize| {
        let scale = if squares[i] / (samples as f64) < LEAST_VARIANCE {
            1.0
        } else {
            products[i] / squares[i]
        };
        Line {
            scale,
            shift: mean_y[i] - scale * mean_x[i],
            low: low[i] as f32,
            high: high[i] as f32,
        }
    };
    Ok((0..mean_x.len()).map(line).collect())
}

/// Fits the lines that map normal distributions to others.
fn gaussian_lines(source: &Tensor, target: &Tensor) -> Result<Vec<Line>, ModelError> {
    let deviations = |centred: &Tensor| -> Result<Vec<f64>, ModelError> {
        Ok(centred.sqr()?.mean(D::Minus1)?.sqrt()?.to_vec1()?)
    };
    let (x, mean_x) = centred(source)?;
    let (y, mean_y) = centred(target)?;
    let (deviation_x, deviation_y) = (deviations(&x)?, deviations(&y)?);
    let line = |i: usize| {
        if deviation_x[i] <= LEAST_DEVIATION || deviation_y[i] <= LEAST_DEVIATION {
            return Line::NONE;
        }
        let scale = deviation_y[i] / deviation_x[i];
        Line {
            scale,
            shift: mean_y[i] - scale * mean_x[i],
            low: f32::MIN,
            high: f32::MAX,
        }
    };
    Ok((0..mean_x.len()).map(line).collect())
}

/// Returns rows less their means, and the means.
fn centred(rows: &Tensor) -> Result<(Tensor, Vec<f64>), ModelError> {
    let mean = rows.mean_keepdim(D::Minus1)?;
    let centred = rows.broadcast_sub(&mean)?;
    Ok((centred, mean.flatten_all()?.to_vec1()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use sims_stats::random::Stream;

    /// Whole and broken powers of two, with ties and both signs.
    #[test]
    fn every_length_is_sorted() {
        let mut stream = Stream::new(3, 1);
        for samples in [1, 2, 3, 7, 8, 100, 129] {
            let values: Vec<f64> = (0..2 * samples)
                .map(|_| f64::from((stream.below(20) as f32 - 9.0) / 4.0))
                .collect();
            let rows = Tensor::from_slice(&values, (2, samples), &Device::Cpu).unwrap();
            let found: Vec<Vec<f64>> = sorted(&rows).unwrap().to_vec2().unwrap();
            for (row, found) in values.chunks_exact(samples).zip(found) {
                let mut row = row.to_vec();
                row.sort_unstable_by(f64::total_cmp);
                assert_eq!(row, found);
            }
        }
    }
}
