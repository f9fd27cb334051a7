//! AdamW without weight decay, and the norm that gradients are clipped to.
//!
//! A step goes over the parameters once: it reads slope, moments and value and writes the last three. That is memory
//! traffic above all, so the clipping's factor is applied on the way.

use rayon::prelude::*;
use sims_model::ops::InstructionSet;
use sims_model::ops::lanes::{Kernel, Lanes};

/// Parameters that a thread takes at a time.
const CHUNK: usize = 1 << 15;

const BETA_1: f64 = 0.9;
const BETA_2: f64 = 0.999;
const EPSILON: f64 = 1e-8;

/// The moments of every parameter.
pub(crate) struct AdamW {
    mean: Vec<Vec<f32>>,
    square: Vec<Vec<f32>>,
    steps: i32,
}

impl AdamW {
    /// Starts with moments of zero, for groups of the given sizes.
    pub(crate) fn new(sizes: impl Iterator<Item = usize>) -> Self {
        let mean: Vec<Vec<f32>> = sizes.map(|size| vec![0.0; size]).collect();
        Self {
            square: mean.clone(),
            mean,
            steps: 0,
        }
    }

    /// Moves the parameters against slopes that are first multiplied by `factor`, where it is below 1.
    pub(crate) fn step<'a>(
        &mut self,
        parameters: impl Iterator<Item = (&'a mut Vec<f32>, &'a mut Vec<f32>)>,
        learning_rate: f64,
        factor: f64,
    ) {
        self.steps += 1;
        let mean_correction = 1.0 - BETA_1.powi(self.steps);
        let square_correction = 1.0 - BETA_2.powi(self.steps);
        let (rate, root_correction) = (
            (learning_rate / mean_correction) as f32,
            (1.0 / square_correction) as f32,
        );
        let set = InstructionSet::detect();
        let moments = self.mean.iter_mut().zip(&mut self.square);
        for ((values, slopes), (means, squares)) in parameters.zip(moments) {
            let values = values.par_chunks_mut(CHUNK);
            let moments = means
                .par_chunks_mut(CHUNK)
                .zip(squares.par_chunks_mut(CHUNK));
            values.zip(slopes.par_chunks(CHUNK)).zip(moments).for_each(
                |((values, slopes), (means, squares))| {
                    set.run(Step {
                        values,
                        slopes,
                        means,
                        squares,
                        rate,
                        root_correction,
                        factor,
                    });
                },
            );
        }
    }
}

/// A step of some parameters.
struct Step<'a> {
    values: &'a mut [f32],
    slopes: &'a [f32],
    means: &'a mut [f32],
    squares: &'a mut [f32],
    rate: f32,
    root_correction: f32,
    factor: f64,
}

impl Kernel for Step<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) {
        if self.factor < 1.0 {
            self.run_with::<true>();
        } else {
            self.run_with::<false>();
        }
    }
}

impl Step<'_> {
    #[inline(always)]
    fn run_with<const CLIPS: bool>(self) {
        let (beta_1, beta_2) = (BETA_1 as f32, BETA_2 as f32);
        let count = self.values.len();
        let (values, slopes) = (&mut self.values[..count], &self.slopes[..count]);
        let (means, squares) = (&mut self.means[..count], &mut self.squares[..count]);
        for index in 0..count {
            let mut slope = slopes[index];
            if CLIPS {
                slope = (f64::from(slope) * self.factor) as f32;
            }
            means[index] = beta_1 * means[index] + (1.0 - beta_1) * slope;
            squares[index] = beta_2 * squares[index] + (1.0 - beta_2) * slope * slope;
            let root = (squares[index] * self.root_correction).sqrt() + EPSILON as f32;
            values[index] -= self.rate * means[index] / root;
        }
    }
}

/// Returns the sum of squares, in f64 over eight lanes in a fixed order, as [`crate::real::dot`] does.
pub(crate) fn squares(values: &[f32]) -> f64 {
    InstructionSet::detect().run(Squares(values))
}

struct Squares<'a>(&'a [f32]);

impl Kernel for Squares<'_> {
    type Output = f64;

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) -> f64 {
        let mut sums = [0.0f64; 8];
        let blocks = self.0.chunks_exact(8);
        let tail: f64 = blocks
            .remainder()
            .iter()
            .map(|&x| f64::from(x) * f64::from(x))
            .sum();
        for block in blocks {
            for lane in 0..8 {
                sums[lane] += f64::from(block[lane]) * f64::from(block[lane]);
            }
        }
        sums.iter().sum::<f64>() + tail
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squares_are_those_of_the_plain_sum() {
        let values: Vec<f32> = (0..1003).map(|i| (i as f32 * 0.37).sin()).collect();
        let plain = crate::real::dot(&values, &values);
        assert_eq!(squares(&values).to_bits(), plain.to_bits());
    }

    /// The first step goes by the rate against the slope's sign, whatever its size; clipping changes only the moments.
    #[test]
    fn the_first_step_has_the_length_of_the_rate() {
        for factor in [1.0, 0.25] {
            let (mut values, mut slopes) = (vec![1.0f32; 3], vec![4.0f32, -0.5, 0.0]);
            let mut optimiser = AdamW::new([3].into_iter());
            let parameters = std::iter::once((&mut values, &mut slopes));
            optimiser.step(parameters, 0.01, factor);
            for (value, expected) in values.iter().zip([0.99, 1.01, 1.0]) {
                assert!((value - expected).abs() < 1e-6, "{value}");
            }
            assert!((f64::from(optimiser.mean[0][0]) - 0.4 * factor).abs() < 1e-7);
        }
    }
}
