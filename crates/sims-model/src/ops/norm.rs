//! RMSNorm.

use super::InstructionSet;
use super::lanes::{Kernel, LANES, Lanes};

/// Writes `x / sqrt(mean(x²) + eps) * weight`, row by row.
///
/// `x` and `out`: `[rows, n]`, f32; `weight`: `[n]`. The sum of squares runs in sixteen lanes.
pub fn rms_norm(set: InstructionSet, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    debug_assert_eq!(x.len(), out.len());
    set.run(RmsNorm {
        x,
        weight,
        eps,
        out,
    });
}

struct RmsNorm<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let n = self.weight.len();
        for (x, out) in self.x.chunks_exact(n).zip(self.out.chunks_exact_mut(n)) {
            let mean_square = sum_of_squares(lanes, x) / n as f32;
            let scale = 1.0 / (mean_square + self.eps).sqrt();
            for ((out, x), weight) in out.iter_mut().zip(x).zip(self.weight) {
                *out = x * scale * weight;
            }
        }
    }
}

#[inline(always)]
fn sum_of_squares<L: Lanes>(lanes: L, x: &[f32]) -> f32 {
    let (blocks, rest) = x.as_chunks::<LANES>();
    let mut sums = lanes.splat(0.0);
    for block in blocks {
        let v = lanes.load(block);
        sums = lanes.mul_add(v, v, sums);
    }
    let v = lanes.load_part(rest, 0.0);
    lanes.sum(lanes.mul_add(v, v, sums))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norm_matches_f64_on_every_instruction_set() {
        let x: Vec<f32> = (0..2 * 37)
            .map(|i| ((i * 29) % 41) as f32 * 0.1 - 2.0)
            .collect();
        let weight: Vec<f32> = (0..37).map(|i| 1.0 + i as f32 * 0.01).collect();
        let mut first = vec![0.0; x.len()];
        rms_norm(InstructionSet::detect(), &x, &weight, 1e-5, &mut first);
        for row in 0..2 {
            let x = &x[row * 37..][..37];
            let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 37.0;
            for i in 0..37 {
                let expected = f64::from(x[i]) / (mean + 1e-5).sqrt() * f64::from(weight[i]);
                assert!((f64::from(first[row * 37 + i]) - expected).abs() < 1e-6);
            }
        }
        for set in InstructionSet::available() {
            let mut other = vec![0.0; x.len()];
            rms_norm(set, &x, &weight, 1e-5, &mut other);
            assert_eq!(first, other, "{}", set.name());
        }
    }
}
