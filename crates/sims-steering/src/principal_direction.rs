//! The first principal direction of the differences between chosen and rejected responses.
//!
//! Representation engineering (Zou et al. 2023, arXiv 2310.01405). Its differences are shuffled, so that their mean
//! is about zero; ours point from rejected to chosen, so centring them would remove what is looked for.

use crate::FitError;
use crate::device_states::DeviceMatrix;
use crate::paired_states::PairedStates;
use crate::random::{NormalDraw, stream};
use crate::real::{dot, norm};
use crate::symmetric_eigen::largest;
use rayon::prelude::*;

/// Lanczos steps before a restart; their basis takes `steps × hidden` numbers.
const STEPS: usize = 64;
/// Restarts after which two axes are held to be equally long.
const RESTARTS: usize = 16;
/// The axis is found when its residual is below this share of its eigenvalue.
const TOLERANCE: f64 = 1e-10;
/// An axis that explains less than this multiple of an even share is none.
const LEAST_SHARE: f64 = 1.5;

/// A fitted direction.
#[derive(Debug, Clone, PartialEq)]
pub struct PrincipalDirection {
    /// Unit vector toward chosen states, `[hidden]`.
    pub direction: Vec<f64>,
    /// Share of the differences' sum of squares along it.
    pub explained: f64,
    /// Share of the pairs whose chosen response lies further along it than the rejected one.
    pub agreeing: f64,
}

/// Fits the direction to the given rows.
///
/// The top right-singular vector of the matrix of differences between mean chosen and mean rejected state, one row a
/// pair, not centred; found by restarted Lanczos steps in `f64` from a start drawn under `seed`. Most pairs agree with
/// its sign; if as many disagree, their mean does. Memory: `8·pairs·hidden` bytes.
///
/// # Errors
/// [`FitError::EmptyClass`] without rows, [`FitError::IdenticalClasses`] if no pair differs,
/// [`FitError::NoDominantAxis`] if the direction explains less than `1.5/min(pairs, hidden)` or cannot be told from
/// another.
pub fn fit(
    states: &PairedStates<'_>,
    rows: &[usize],
    seed: u64,
) -> Result<PrincipalDirection, FitError> {
    if rows.is_empty() {
        return Err(FitError::EmptyClass { class: "chosen" });
    }
    let hidden = states.hidden();
    let mut differences = Vec::new();
    states.each_response(rows, |chosen, rejected| {
        differences.extend(chosen.iter().zip(rejected).map(|(a, b)| a - b));
    });
    let state_norm = states.mean_norm(rows);
    let total = dot(&differences, &differences);
    let pairs = differences.len() / hidden;
    if (total / pairs as f64).sqrt() <= 1e-6 * state_norm {
        return Err(FitError::IdenticalClasses {
            difference: (total / pairs as f64).sqrt(),
            state_norm,
        });
    }
    let matrix = match states.device() {
        Some(device) => {
            let device = device.device();
            Differences::Device(DeviceMatrix::upload(&differences, hidden, device)?)
        }
        None => Differences::Host(&differences),
    };
    let least = LEAST_SHARE / pairs.min(hidden) as f64;
    let mut direction = start(hidden, seed);
    let mut eigenvalue = 0.0;
    let mut is_found = false;
    for _ in 0..RESTARTS {
        let residual;
        (direction, eigenvalue, residual) = lanczos(&matrix, direction)?;
        is_found = residual <= TOLERANCE * eigenvalue;
        if is_found {
            break;
        }
    }
    let explained = eigenvalue / total;
    // One pair spans one axis, which explains everything.
    if !is_found || (explained < least && pairs.min(hidden) > 1) {
        return Err(FitError::NoDominantAxis { explained, least });
    }
    let along: Vec<f64> = differences
        .chunks_exact(hidden)
        .map(|difference| dot(difference, &direction))
        .collect();
    let count = |sign: f64| along.iter().filter(|&&x| sign * x > 0.0).count();
    let (agreeing, opposed) = (count(1.0), count(-1.0));
    let mean: f64 = along.iter().sum();
    if agreeing < opposed || (agreeing == opposed && mean < 0.0) {
        direction.iter_mut().for_each(|x| *x = -*x);
    }
    Ok(PrincipalDirection {
        direction,
        explained,
        agreeing: agreeing.max(opposed) as f64 / pairs as f64,
    })
}

/// Draws a unit vector, `[hidden]`.
fn start(hidden: usize, seed: u64) -> Vec<f64> {
    let mut stream = stream(seed, "principal direction");
    let mut vector: Vec<f64> = (0..hidden).map(|_| stream.normal()).collect();
    scale(&mut vector);
    vector
}

/// Makes a vector a unit vector; returns its length.
fn scale(vector: &mut [f64]) -> f64 {
    let length = norm(vector);
    if length > 0.0 {
        vector.iter_mut().for_each(|x| *x /= length);
    }
    length
}

/// Returns the longest axis of the Krylov space of `start`, its eigenvalue, and its residual.
///
/// Every new basis vector is made orthogonal to all before, twice, so that rounding brings none of them back.
fn lanczos(
    differences: &Differences<'_>,
    start: Vec<f64>,
) -> Result<(Vec<f64>, f64, f64), FitError> {
    let hidden = start.len();
    let mut basis = vec![start];
    let (mut diagonal, mut beside): (Vec<f64>, Vec<f64>) = (Vec::new(), Vec::new());
    loop {
        let last = &basis[basis.len() - 1];
        let mut next = differences.curved(last)?;
        diagonal.push(dot(&next, last));
        for _ in 0..2 {
            for vector in &basis {
                let along = dot(&next, vector);
                next.iter_mut()
                    .zip(vector)
                    .for_each(|(x, v)| *x -= along * v);
            }
        }
        let length = scale(&mut next);
        beside.push(length);
        let largest_so_far = diagonal.iter().copied().fold(0.0, f64::max);
        // Nothing is left: the space holds the axis exactly.
        let is_whole = length <= 1e-14 * largest_so_far;
        if is_whole || basis.len() == STEPS.min(hidden) {
            break;
        }
        basis.push(next);
    }
    let size = diagonal.len();
    let mut matrix = vec![0.0; size * size];
    for i in 0..size {
        matrix[i * size + i] = diagonal[i];
        if i + 1 < size {
            matrix[i * size + i + 1] = beside[i];
            matrix[(i + 1) * size + i] = beside[i];
        }
    }
    let (eigenvalue, weights) = largest(matrix, size);
    let mut axis = vec![0.0; hidden];
    for (vector, weight) in basis.iter().zip(&weights) {
        axis.iter_mut()
            .zip(vector)
            .for_each(|(x, v)| *x += weight * v);
    }
    scale(&mut axis);
    let residual = (beside[size - 1] * weights[size - 1]).abs();
    Ok((axis, eigenvalue, residual))
}

/// The matrix of differences `D`, `[pairs, hidden]`, where its products are computed.
enum Differences<'a> {
    Host(&'a [f64]),
    Device(DeviceMatrix),
}

impl Differences<'_> {
    /// Returns `DᵀD·vector`.
    fn curved(&self, vector: &[f64]) -> Result<Vec<f64>, FitError> {
        Ok(match self {
            Self::Host(differences) => curved(differences, vector),
            Self::Device(matrix) => matrix.transposed_times(&matrix.times(vector)?)?,
        })
    }
}

/// Returns `DᵀD·vector` for the matrix of differences `D`, `[pairs, hidden]`.
///
/// Threads share out the pairs, then the columns; every number is one sum in a fixed order.
fn curved(differences: &[f64], vector: &[f64]) -> Vec<f64> {
    const COLUMNS: usize = 64;
    let hidden = vector.len();
    let along: Vec<f64> = differences
        .par_chunks_exact(hidden)
        .map(|difference| dot(difference, vector))
        .collect();
    let mut result = vec![0.0; hidden];
    result
        .par_chunks_mut(COLUMNS)
        .enumerate()
        .for_each(|(block, sums)| {
            let first = block * COLUMNS;
            for (difference, weight) in differences.chunks_exact(hidden).zip(&along) {
                for (sum, x) in sums.iter_mut().zip(&difference[first..]) {
                    *sum += weight * x;
                }
            }
        });
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    const HIDDEN: usize = 64;

    /// Pairs whose difference is `2u + ν·e + 0.3·noise`, with `e ⟂ u` and ν standard normal; and u, e.
    fn planted(pairs: usize, gap: f64) -> (Vec<f32>, Vec<f32>, Vec<f64>, Vec<f64>) {
        let mut stream = stream(6, "planted axis");
        let mut draw = || -> Vec<f64> { (0..HIDDEN).map(|_| stream.normal()).collect() };
        let mut u = draw();
        scale(&mut u);
        let mut e = draw();
        let along = dot(&u, &e);
        e.iter_mut().zip(&u).for_each(|(x, u)| *x -= along * u);
        scale(&mut e);
        let (mut chosen, mut rejected) = (Vec::new(), Vec::new());
        for _ in 0..pairs {
            let (base, noise, spread) = (draw(), draw(), draw()[0]);
            for i in 0..HIDDEN {
                let difference = gap * u[i] + spread * e[i] + 0.3 * noise[i];
                chosen.push((base[i] + difference / 2.0) as f32);
                rejected.push((base[i] - difference / 2.0) as f32);
            }
        }
        (chosen, rejected, u, e)
    }

    fn numbers(pairs: usize) -> (Vec<u32>, Vec<usize>) {
        ((0..pairs as u32).collect(), (0..pairs).collect())
    }

    /// T06: the planted axis is found with its sign, which follows the classes; centring would find the spread.
    #[test]
    fn planted_axis_is_found_with_its_sign() {
        let (chosen, rejected, u, e) = planted(1000, 2.0);
        let (pairs, rows) = numbers(1000);
        let of = |chosen: &[f32], rejected: &[f32]| {
            let states = PairedStates::new(HIDDEN, chosen, rejected, &pairs, &pairs).unwrap();
            fit(&states, &rows, 1).unwrap()
        };
        let fitted = of(&chosen, &rejected);
        assert!(dot(&fitted.direction, &u) > 0.99);
        assert!((norm(&fitted.direction) - 1.0).abs() < 1e-12);
        assert!(fitted.agreeing > 0.99 && (0.3..0.6).contains(&fitted.explained));
        assert!(dot(&of(&rejected, &chosen).direction, &u) < -0.99);

        // The deliberate mistake: the same pairs with the mean difference taken out.
        let mut centred = chosen.clone();
        for i in 0..HIDDEN {
            let column = |values: &[f32]| -> f64 {
                values
                    .iter()
                    .skip(i)
                    .step_by(HIDDEN)
                    .map(|&x| f64::from(x))
                    .sum()
            };
            let mean = (column(&chosen) - column(&rejected)) / 1000.0;
            for value in centred.iter_mut().skip(i).step_by(HIDDEN) {
                *value -= mean as f32;
            }
        }
        let mistaken = of(&centred, &rejected).direction;
        assert!(dot(&mistaken, &u).abs() < 0.3 && dot(&mistaken, &e).abs() > 0.9);
    }

    /// The seed is only where the search starts.
    #[test]
    fn every_start_finds_the_same_axis() {
        for pairs in [20, 200] {
            let (chosen, rejected, ..) = planted(pairs, 0.3);
            let (numbers, rows) = numbers(pairs);
            let states = PairedStates::new(HIDDEN, &chosen, &rejected, &numbers, &numbers).unwrap();
            let [one, other] = [1, 2].map(|seed| fit(&states, &rows, seed).unwrap());
            assert!((dot(&one.direction, &other.direction) - 1.0).abs() < 1e-12);
            assert_eq!(one, fit(&states, &rows, 1).unwrap());
        }
    }

    #[test]
    fn noise_has_no_axis() {
        let mut stream = stream(7, "noise");
        let mut noise =
            || -> Vec<f32> { (0..4000 * HIDDEN).map(|_| stream.normal() as f32).collect() };
        let (chosen, rejected) = (noise(), noise());
        let (pairs, rows) = numbers(4000);
        let states = PairedStates::new(HIDDEN, &chosen, &rejected, &pairs, &pairs).unwrap();
        let error = fit(&states, &rows, 1).unwrap_err();
        assert!(matches!(error, FitError::NoDominantAxis { .. }), "{error}");
        let same = PairedStates::new(HIDDEN, &chosen, &chosen, &pairs, &pairs).unwrap();
        let error = fit(&same, &rows, 1).unwrap_err();
        assert!(
            matches!(error, FitError::IdenticalClasses { .. }),
            "{error}"
        );
        let error = fit(&states, &[], 1).unwrap_err();
        assert!(matches!(error, FitError::EmptyClass { .. }), "{error}");
    }
}
