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

/// As [`rms_norm`], in place.
pub fn rms_norm_in_place(set: InstructionSet, x: &mut [f32], weight: &[f32], eps: f32) {
    set.run(RmsNormInPlace { x, weight, eps });
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
            let scale = scale(lanes, x, self.eps);
            for ((out, x), weight) in out.iter_mut().zip(x).zip(self.weight) {
                *out = x * scale * weight;
            }
        }
    }
}

struct RmsNormInPlace<'a> {
    x: &'a mut [f32],
    weight: &'a [f32],
    eps: f32,
}

impl Kernel for RmsNormInPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        for x in self.x.chunks_exact_mut(self.weight.len()) {
            let scale = scale(lanes, x, self.eps);
            for (x, weight) in x.iter_mut().zip(self.weight) {
                *x = *x * scale * weight;
            }
        }
    }
}

/// Returns `1 / sqrt(mean(x²) + eps)`.
#[inline(always)]
fn scale<L: Lanes>(lanes: L, x: &[f32], eps: f32) -> f32 {
    1.0 / (sum_of_squares(lanes, x) / x.len() as f32 + eps).sqrt()
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
            other.copy_from_slice(&x);
            rms_norm_in_place(set, &mut other, &weight, 1e-5);
            assert_eq!(first, other, "{} in place", set.name());
        }
    }
}
