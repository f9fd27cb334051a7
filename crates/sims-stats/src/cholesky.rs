//! Factors of small positive definite matrices.

/// Lower triangular factor of a positive definite matrix.
pub(crate) struct Cholesky {
    lower: Vec<f64>,
    n: usize,
}

impl Cholesky {
    /// Factors `matrix` (`[n, n]`, row by row).
    ///
    /// A pivot that rounding made zero or negative becomes tiny instead: the Newton step is then
    /// large, and the caller's step halving takes care of it.
    pub(crate) fn of(matrix: Vec<f64>, n: usize) -> Self {
        let mut lower = matrix;
        for row in 0..n {
            for column in 0..=row {
                let dot: f64 = (0..column)
                    .map(|k| lower[row * n + k] * lower[column * n + k])
                    .sum();
                let rest = lower[row * n + column] - dot;
                lower[row * n + column] = if row == column {
                    rest.max(1e-14).sqrt()
                } else {
                    rest / lower[column * n + column]
                };
            }
        }
        Self { lower, n }
    }

    /// Solves `L x = right`.
    fn forward(&self, right: &[f64]) -> Vec<f64> {
        let mut x = right.to_vec();
        for row in 0..self.n {
            let dot: f64 = (0..row).map(|k| self.lower[row * self.n + k] * x[k]).sum();
            x[row] = (x[row] - dot) / self.lower[row * self.n + row];
        }
        x
    }

    /// Solves `L Lᵀ x = right`.
    pub(crate) fn solve(&self, right: &[f64]) -> Vec<f64> {
        let mut x = self.forward(right);
        for row in (0..self.n).rev() {
            let dot: f64 = (row + 1..self.n)
                .map(|k| self.lower[k * self.n + row] * x[k])
                .sum();
            x[row] = (x[row] - dot) / self.lower[row * self.n + row];
        }
        x
    }

    /// Square roots of the inverse's diagonal, less the all-ones direction.
    ///
    /// The curvature keeps the all-ones vector as an eigenvector with eigenvalue `1 + ridge`, so
    /// projecting it out subtracts `1 / (n (1 + ridge))` from every entry of the inverse.
    pub(crate) fn standard_errors(&self, ridge: f64) -> Vec<f64> {
        let constant = 1.0 / (self.n as f64 * (1.0 + ridge));
        (0..self.n)
            .map(|item| {
                let mut unit = vec![0.0; self.n];
                unit[item] = 1.0;
                let half = self.forward(&unit);
                let inverse: f64 = half.iter().map(|value| value * value).sum();
                (inverse - constant).max(0.0).sqrt()
            })
            .collect()
    }

    /// Returns the inverse, `[n, n]`.
    pub(crate) fn inverse(&self) -> Vec<f64> {
        (0..self.n)
            .flat_map(|item| {
                let mut unit = vec![0.0; self.n];
                unit[item] = 1.0;
                self.solve(&unit)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inverse_times_the_matrix_is_one() {
        let matrix = vec![4.0, 1.0, -0.5, 1.0, 3.0, 0.2, -0.5, 0.2, 2.0];
        let inverse = Cholesky::of(matrix.clone(), 3).inverse();
        for row in 0..3 {
            for column in 0..3 {
                let product: f64 = (0..3)
                    .map(|k| matrix[row * 3 + k] * inverse[k * 3 + column])
                    .sum();
                let expected = f64::from(u8::from(row == column));
                assert!((product - expected).abs() < 1e-12, "{product}");
            }
        }
    }
}
