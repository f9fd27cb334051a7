//! The largest eigenvalue of a small symmetric matrix, by Jacobi's rotations.

/// Sweeps after which the matrix is as diagonal as rounding lets it be.
const SWEEPS: usize = 60;

/// Returns the largest eigenvalue of a symmetric matrix and its unit eigenvector.
///
/// `matrix`: `[size, size]`, f64. Rotations are cyclic (Golub and Van Loan, *Matrix Computations*, section 8.5).
pub(crate) fn largest(mut matrix: Vec<f64>, size: usize) -> (f64, Vec<f64>) {
    let mut vectors = vec![0.0; size * size];
    (0..size).for_each(|i| vectors[i * size + i] = 1.0);
    for _ in 0..SWEEPS {
        let mut off_diagonal = 0.0;
        let mut on_diagonal = 0.0;
        for i in 0..size {
            on_diagonal += matrix[i * size + i].powi(2);
            for j in i + 1..size {
                off_diagonal += 2.0 * matrix[i * size + j].powi(2);
            }
        }
        if off_diagonal <= 1e-32 * on_diagonal {
            break;
        }
        for p in 0..size {
            for q in p + 1..size {
                rotate(&mut matrix, &mut vectors, size, p, q);
            }
        }
    }
    let at = (0..size)
        .max_by(|&a, &b| matrix[a * size + a].total_cmp(&matrix[b * size + b]))
        .unwrap_or(0);
    let vector = (0..size).map(|i| vectors[i * size + at]).collect();
    (matrix[at * size + at], vector)
}

/// Makes the elements `(p, q)` and `(q, p)` zero, and turns the columns of `vectors` along.
fn rotate(matrix: &mut [f64], vectors: &mut [f64], size: usize, p: usize, q: usize) {
    let off = matrix[p * size + q];
    if off == 0.0 {
        return;
    }
    let theta = (matrix[q * size + q] - matrix[p * size + p]) / (2.0 * off);
    let tangent = theta.signum() / (theta.abs() + theta.hypot(1.0));
    let cosine = 1.0 / tangent.hypot(1.0);
    let sine = tangent * cosine;
    let turn = |a: &mut f64, b: &mut f64| {
        (*a, *b) = (cosine * *a - sine * *b, sine * *a + cosine * *b);
    };
    for values in [&mut *matrix, vectors] {
        for row in values.chunks_exact_mut(size) {
            let (left, right) = row.split_at_mut(q);
            turn(&mut left[p], &mut right[0]);
        }
    }
    let (upper, lower) = matrix.split_at_mut(q * size);
    for (a, b) in upper[p * size..]
        .iter_mut()
        .zip(&mut lower[..size])
        .take(size)
    {
        turn(a, b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_matrices_give_their_largest() {
        let (value, vector) = largest(vec![2.0, 1.0, 1.0, 2.0], 2);
        assert!((value - 3.0).abs() < 1e-14);
        assert!((vector[0] - vector[1]).abs() < 1e-14);
        assert_eq!(largest(vec![-4.0], 1), (-4.0, vec![1.0]));
        // The second difference of 40 points: 2 + 2·cos(π/41).
        let size = 40;
        let mut matrix = vec![0.0; size * size];
        for i in 0..size {
            matrix[i * size + i] = 2.0;
            if i > 0 {
                matrix[i * size + i - 1] = -1.0;
                matrix[(i - 1) * size + i] = -1.0;
            }
        }
        let (value, vector) = largest(matrix.clone(), size);
        let expected = 2.0 + 2.0 * (std::f64::consts::PI / 41.0).cos();
        assert!((value - expected).abs() < 1e-13, "{value}");
        for i in 0..size {
            let product: f64 = (0..size).map(|j| matrix[i * size + j] * vector[j]).sum();
            assert!((product - value * vector[i]).abs() < 1e-13);
        }
    }
}
