//! The three products of a linear layer in training, a few rows by many weights.
//!
//! Each sum is taken in a fixed order, product by product without fusing: an output over sixteen lanes and then the
//! lanes, a weight's slope in the order of the rows, an input's in the order of the outputs. A tile of sums stays in
//! registers while rows and weights pass by; neither the tile nor the number of threads changes a bit.

use rayon::prelude::*;
use sims_model::ops::InstructionSet;
use sims_model::ops::lanes::{Kernel, LANES, Lanes};

/// Multiply-adds from which a product is worth spreading over threads.
const PARALLEL_WORK: usize = 1 << 20;
/// Rows, or outputs, of a tile of sums.
const TILE: usize = 4;
/// Vectors of lanes that a tile of slopes is wide.
const WIDE: usize = 4;
/// Outputs, or inputs, that a thread takes at a time.
const BLOCK: usize = 64;

/// Computes `x·Wᵀ + b`, `[rows, outputs]`.
///
/// `weight`: `[outputs, inputs]`, `bias`: `[outputs]`, `x`: `[rows, inputs]`.
pub(crate) fn forward(weight: &[f32], bias: &[f32], x: &[f32]) -> Vec<f32> {
    let (set, outputs) = (InstructionSet::detect(), bias.len());
    let inputs = weight.len() / outputs;
    let rows = x.len() / inputs;
    let mut by_output = vec![0.0f32; rows * outputs]; // [outputs, rows]
    each_block(
        &mut by_output,
        rows * BLOCK,
        rows * weight.len(),
        &|block, values| {
            let first = block * BLOCK;
            let last = outputs.min(first + BLOCK);
            set.run(Forward {
                weight: &weight[first * inputs..last * inputs],
                bias: &bias[first..last],
                x,
                inputs,
                by_output: values,
            });
        },
    );
    let mut by_row = vec![0.0f32; rows * outputs];
    for (output, values) in by_output.chunks_exact(rows.max(1)).enumerate() {
        for (row, &value) in values.iter().enumerate() {
            by_row[row * outputs + output] = value;
        }
    }
    by_row
}

/// Computes the slopes of weights and bias, `[outputs, inputs]` and `[outputs]`, over what was in them.
///
/// `slopes`: `[rows, outputs]`, those of the outputs; `x`: `[rows, inputs]`.
pub(crate) fn weight_slopes(slopes: &[f32], x: &[f32], weight: &mut [f32], bias: &mut [f32]) {
    let (set, outputs) = (InstructionSet::detect(), bias.len());
    let inputs = weight.len() / outputs;
    for (output, bias) in bias.iter_mut().enumerate() {
        *bias = 0.0;
        for slopes in slopes.chunks_exact(outputs) {
            *bias += slopes[output];
        }
    }
    let work = slopes.len() * inputs;
    each_block(weight, TILE * inputs, work, &|block, weight| {
        set.run(WeightSlopes {
            slopes,
            outputs,
            first: block * TILE,
            x,
            inputs,
            weight,
        });
    });
}

/// Computes the slopes of the inputs, `[rows, inputs]`.
///
/// `slopes`: `[rows, outputs]`, those of the outputs; `weight`: `[outputs, inputs]`.
pub(crate) fn input_slopes(slopes: &[f32], weight: &[f32], outputs: usize) -> Vec<f32> {
    let set = InstructionSet::detect();
    let (inputs, rows) = (weight.len() / outputs, slopes.len() / outputs);
    // [blocks][rows, 64], the last block narrower.
    let mut by_block = vec![0.0f32; rows * inputs];
    each_block(
        &mut by_block,
        rows * BLOCK,
        rows * weight.len(),
        &|block, values| {
            set.run(InputSlopes {
                slopes,
                outputs,
                weight,
                inputs,
                first: block * BLOCK,
                values,
            });
        },
    );
    let mut by_row = vec![0.0f32; rows * inputs];
    for (block, values) in by_block.chunks(rows.max(1) * BLOCK).enumerate() {
        let width = values.len() / rows.max(1);
        for (row, values) in values.chunks_exact(width).enumerate() {
            let start = row * inputs + block * BLOCK;
            by_row[start..start + width].copy_from_slice(values);
        }
    }
    by_row
}

/// Calls `work` with each block of `size` elements, on all threads where there is enough to do.
fn each_block(
    values: &mut [f32],
    size: usize,
    multiply_adds: usize,
    work: &(dyn Fn(usize, &mut [f32]) + Sync),
) {
    let size = size.max(1);
    if multiply_adds >= PARALLEL_WORK {
        let blocks = values.par_chunks_mut(size).enumerate();
        blocks.for_each(|(block, values)| work(block, values));
    } else {
        let blocks = values.chunks_mut(size).enumerate();
        blocks.for_each(|(block, values)| work(block, values));
    }
}

/// [`forward`] for a block of outputs.
struct Forward<'a> {
    weight: &'a [f32],
    bias: &'a [f32],
    x: &'a [f32],
    inputs: usize,
    by_output: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        let (outputs, rows) = (self.bias.len(), self.x.len() / self.inputs);
        let mut output = 0;
        while output < outputs {
            let tile = TILE.min(outputs - output);
            let mut row = 0;
            while row < rows {
                let row_tile = TILE.min(rows - row);
                if tile == TILE && row_tile == TILE {
                    self.tile::<L, TILE, TILE>(lanes, output, row, rows);
                } else {
                    for output in output..output + tile {
                        for row in row..row + row_tile {
                            self.tile::<L, 1, 1>(lanes, output, row, rows);
                        }
                    }
                }
                row += row_tile;
            }
            output += tile;
        }
    }
}

impl Forward<'_> {
    #[inline(always)]
    fn tile<L: Lanes, const O: usize, const R: usize>(
        &mut self,
        lanes: L,
        output: usize,
        row: usize,
        rows: usize,
    ) {
        let inputs = self.inputs;
        let whole = inputs - inputs % LANES;
        let mut sums = [[lanes.splat(0.0); R]; O];
        let mut at = 0;
        while at < whole {
            let mut x = [lanes.splat(0.0); R];
            for (r, x) in x.iter_mut().enumerate() {
                *x = lanes.load(sixteen(self.x, (row + r) * inputs + at));
            }
            for (o, sums) in sums.iter_mut().enumerate() {
                let weight = lanes.load(sixteen(self.weight, (output + o) * inputs + at));
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = lanes.add(*sum, lanes.mul(weight, x));
                }
            }
            at += LANES;
        }
        for (o, sums) in sums.into_iter().enumerate() {
            for (r, sum) in sums.into_iter().enumerate() {
                let mut parts = [0.0f32; LANES];
                lanes.store(sum, &mut parts);
                let weight = &self.weight[(output + o) * inputs + whole..(output + o + 1) * inputs];
                let x = &self.x[(row + r) * inputs + whole..(row + r + 1) * inputs];
                let tail: f32 = weight.iter().zip(x).map(|(w, x)| w * x).sum();
                let sum = parts.iter().sum::<f32>() + tail;
                self.by_output[(output + o) * rows + row + r] = sum + self.bias[output + o];
            }
        }
    }
}

/// [`weight_slopes`] for up to four outputs.
struct WeightSlopes<'a> {
    slopes: &'a [f32],
    outputs: usize,
    /// The first output.
    first: usize,
    x: &'a [f32],
    inputs: usize,
    weight: &'a mut [f32],
}

impl Kernel for WeightSlopes<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        let tile = self.weight.len() / self.inputs;
        let mut at = 0;
        while at + WIDE * LANES <= self.inputs && tile == TILE {
            self.tile::<L, TILE>(lanes, at);
            at += WIDE * LANES;
        }
        let rest = at;
        for output in 0..tile {
            for at in rest..self.inputs {
                let mut sum = 0.0f32;
                for (slopes, x) in self
                    .slopes
                    .chunks_exact(self.outputs)
                    .zip(self.x.chunks_exact(self.inputs))
                {
                    sum += slopes[self.first + output] * x[at];
                }
                self.weight[output * self.inputs + at] = sum;
            }
        }
    }
}

impl WeightSlopes<'_> {
    #[inline(always)]
    fn tile<L: Lanes, const O: usize>(&mut self, lanes: L, at: usize) {
        let rows = self.slopes.len() / self.outputs;
        let mut sums = [[lanes.splat(0.0); WIDE]; O];
        for row in 0..rows {
            let mut x = [lanes.splat(0.0); WIDE];
            for (w, x) in x.iter_mut().enumerate() {
                *x = lanes.load(sixteen(self.x, row * self.inputs + at + w * LANES));
            }
            for (o, sums) in sums.iter_mut().enumerate() {
                let slope = lanes.splat(self.slopes[row * self.outputs + self.first + o]);
                for (sum, x) in sums.iter_mut().zip(x) {
                    *sum = lanes.add(*sum, lanes.mul(slope, x));
                }
            }
        }
        for (o, sums) in sums.into_iter().enumerate() {
            for (w, sum) in sums.into_iter().enumerate() {
                let start = o * self.inputs + at + w * LANES;
                lanes.store(sum, sixteen_mut(self.weight, start));
            }
        }
    }
}

/// [`input_slopes`] for a block of inputs.
struct InputSlopes<'a> {
    slopes: &'a [f32],
    outputs: usize,
    weight: &'a [f32],
    inputs: usize,
    /// The first input.
    first: usize,
    /// `[rows, width]`.
    values: &'a mut [f32],
}

impl Kernel for InputSlopes<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        let rows = self.slopes.len() / self.outputs;
        let width = self.values.len() / rows.max(1);
        let mut row = 0;
        while row < rows && width == WIDE * LANES {
            if rows - row >= TILE {
                self.tile::<L, TILE>(lanes, row);
                row += TILE;
            } else {
                self.tile::<L, 1>(lanes, row);
                row += 1;
            }
        }
        for row in row..rows {
            for at in 0..width {
                let mut sum = 0.0f32;
                for output in 0..self.outputs {
                    let slope = self.slopes[row * self.outputs + output];
                    sum += slope * self.weight[output * self.inputs + self.first + at];
                }
                self.values[row * width + at] = sum;
            }
        }
    }
}

impl InputSlopes<'_> {
    #[inline(always)]
    fn tile<L: Lanes, const R: usize>(&mut self, lanes: L, row: usize) {
        let mut sums = [[lanes.splat(0.0); WIDE]; R];
        for output in 0..self.outputs {
            let mut weight = [lanes.splat(0.0); WIDE];
            for (w, weight) in weight.iter_mut().enumerate() {
                let start = output * self.inputs + self.first + w * LANES;
                *weight = lanes.load(sixteen(self.weight, start));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let slope = lanes.splat(self.slopes[(row + r) * self.outputs + output]);
                for (sum, weight) in sums.iter_mut().zip(weight) {
                    *sum = lanes.add(*sum, lanes.mul(slope, weight));
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (w, sum) in sums.into_iter().enumerate() {
                let start = (row + r) * WIDE * LANES + w * LANES;
                lanes.store(sum, sixteen_mut(self.values, start));
            }
        }
    }
}

#[inline(always)]
fn sixteen(values: &[f32], start: usize) -> &[f32; LANES] {
    let part: Result<&[f32; LANES], _> = values[start..start + LANES].try_into();
    part.expect("sixteen values were taken")
}

#[inline(always)]
fn sixteen_mut(values: &mut [f32], start: usize) -> &mut [f32; LANES] {
    let part: Result<&mut [f32; LANES], _> = (&mut values[start..start + LANES]).try_into();
    part.expect("sixteen values were taken")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{NormalDraw, stream};

    fn draw(name: &str, count: usize) -> Vec<f32> {
        let mut stream = stream(14, name);
        (0..count).map(|_| stream.normal() as f32).collect()
    }

    /// Sums as the module says, one at a time.
    fn plain_output(weight: &[f32], x: &[f32], bias: f32) -> f32 {
        let mut parts = [0.0f32; LANES];
        let whole = x.len() - x.len() % LANES;
        for at in 0..whole {
            parts[at % LANES] += weight[at] * x[at];
        }
        let tail: f32 = (whole..x.len()).map(|at| weight[at] * x[at]).sum();
        parts.iter().sum::<f32>() + tail + bias
    }

    /// Every shape, whole tiles or not, on one thread or all, has the bits of sums taken one at a time.
    #[test]
    fn tiles_and_threads_change_no_bit() {
        for (rows, outputs, inputs) in [(1, 1, 5), (3, 7, 33), (8, 66, 192), (9, 130, 1040)] {
            let weight = draw("weight", outputs * inputs);
            let (bias, x) = (draw("bias", outputs), draw("x", rows * inputs));
            let slopes = draw("slopes", rows * outputs);
            let found = forward(&weight, &bias, &x);
            let (mut weight_found, mut bias_found) = (vec![9.0; weight.len()], vec![9.0; outputs]);
            weight_slopes(&slopes, &x, &mut weight_found, &mut bias_found);
            let input_found = input_slopes(&slopes, &weight, outputs);
            for row in 0..rows {
                let x = &x[row * inputs..(row + 1) * inputs];
                for output in 0..outputs {
                    let weight = &weight[output * inputs..(output + 1) * inputs];
                    let expected = plain_output(weight, x, bias[output]);
                    assert_eq!(found[row * outputs + output].to_bits(), expected.to_bits());
                }
            }
            for output in 0..outputs {
                let bias = (0..rows).fold(0.0, |sum, row| sum + slopes[row * outputs + output]);
                assert_eq!(bias_found[output], bias);
                for input in 0..inputs {
                    let sum = (0..rows).fold(0.0f32, |sum, row| {
                        sum + slopes[row * outputs + output] * x[row * inputs + input]
                    });
                    assert_eq!(weight_found[output * inputs + input], sum);
                }
            }
            for row in 0..rows {
                for input in 0..inputs {
                    let sum = (0..outputs).fold(0.0f32, |sum, output| {
                        sum + slopes[row * outputs + output] * weight[output * inputs + input]
                    });
                    assert_eq!(input_found[row * inputs + input], sum);
                }
            }
        }
    }
}
