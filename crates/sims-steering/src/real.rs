//! Row arithmetic shared by the operators and the fits, for `f32` and `f64` rows.
//!
//! Every sum is taken in `f64`, over eight lanes in a fixed order, so that the result of a row depends on
//! that row alone: not on the batch it came in, the number of threads, or the width of the CPU's vectors.

/// A floating-point component of a hidden state.
///
/// Implemented for `f32`, which the engine uses, and for `f64`, in which the tests check the formulas.
pub trait Real: Copy + Send + Sync + 'static {
    /// Returns the component as `f64`.
    fn to_f64(self) -> f64;
    /// Rounds an `f64` to the component type.
    fn from_f64(value: f64) -> Self;
}

impl Real for f32 {
    fn to_f64(self) -> f64 {
        f64::from(self)
    }
    fn from_f64(value: f64) -> Self {
        value as f32
    }
}

impl Real for f64 {
    fn to_f64(self) -> f64 {
        self
    }
    fn from_f64(value: f64) -> Self {
        value
    }
}

/// Number of partial sums of a dot product.
const LANES: usize = 8;

/// Returns the dot product of two rows of the same length, summed in `f64`.
pub fn dot<T: Real>(a: &[T], b: &[T]) -> f64 {
    debug_assert_eq!(a.len(), b.len());
    let mut lanes = [0.0f64; LANES];
    let (a_blocks, b_blocks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail: f64 = a_blocks
        .remainder()
        .iter()
        .zip(b_blocks.remainder())
        .map(|(x, y)| x.to_f64() * y.to_f64())
        .sum();
    for (x, y) in a_blocks.zip(b_blocks) {
        for lane in 0..LANES {
            lanes[lane] += x[lane].to_f64() * y[lane].to_f64();
        }
    }
    lanes.iter().sum::<f64>() + tail
}

/// Returns the Euclidean norm of a row.
pub fn norm<T: Real>(a: &[T]) -> f64 {
    dot(a, a).sqrt()
}

/// Returns the angle between two rows in radians, in `[0, π]`.
///
/// Uses `2·atan2(‖â − b̂‖, ‖â + b̂‖)`: the arc cosine of the dot product is blind near 0 and π.
/// A zero row has no direction; the angle is then 0.
pub fn angle_between<T: Real>(a: &[T], b: &[T]) -> f64 {
    let (norm_a, norm_b) = (norm(a), norm(b));
    if norm_a == 0.0 || norm_b == 0.0 {
        return 0.0;
    }
    let (mut difference, mut sum) = (0.0f64, 0.0f64);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (x.to_f64() / norm_a, y.to_f64() / norm_b);
        difference += (x - y) * (x - y);
        sum += (x + y) * (x + y);
    }
    2.0 * difference.sqrt().atan2(sum.sqrt())
}

/// Returns whether every component is finite.
pub fn all_finite(values: &[f32]) -> bool {
    values.iter().all(|value| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dot_covers_blocks_and_tail() {
        let a: Vec<f64> = (0..19).map(f64::from).collect();
        let b = vec![2.0; 19];
        assert_eq!(dot(&a, &b), 2.0 * (18.0 * 19.0 / 2.0));
    }

    #[test]
    fn tiny_angles_are_seen() {
        let angle = 1e-7f64;
        let (a, b) = ([1.0, 0.0], [angle.cos(), angle.sin()]);
        assert!((angle_between(&a, &b) - angle).abs() < 1e-15);
        assert!((angle_between(&a, &[-1.0, 0.0]) - std::f64::consts::PI).abs() < 1e-15);
        assert_eq!(angle_between(&a, &[0.0, 0.0]), 0.0);
    }
}
