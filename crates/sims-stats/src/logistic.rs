//! Logistic regression with soft targets and weighted rows, solved to the exact optimum.
//!
//! Nothing is centred, scaled or added: an intercept is a column of ones. A proximal Newton method
//! (Lee, Sun and Saunders 2014) serves every penalty: each step minimises the quadratic model of the
//! loss plus the penalty itself, so coefficients that the lasso removes are exactly zero.

use crate::cholesky::Cholesky;
use crate::{StatsError, finite, win_rate::logistic};

/// Newton steps before giving up.
const MAX_STEPS: usize = 100;
/// Largest violation of the optimality conditions at convergence, per unit of total weight.
const TOLERANCE: f64 = 1e-12;
/// Sweeps over the coordinates of one lasso step before it is taken as it is.
const MAX_SWEEPS: usize = 10_000;
/// Largest probability of the less likely outcome at which a row counts as separated.
const SEPARATED: f64 = 1e-6;

/// What large coefficients cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Penalty {
    /// Nothing.
    None,
    /// This times the sum of absolute coefficients.
    Lasso(f64),
    /// Half of this times the sum of squared coefficients.
    Ridge(f64),
}

/// The rows of a regression.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// `[rows, columns]`, row by row.
    pub features: &'a [f64],
    /// Number of columns, at least one.
    pub columns: usize,
    /// Probability of the positive outcome, one a row; 0 or 1 for a hard outcome.
    pub targets: &'a [f64],
    /// How often a row counts, zero or above.
    pub weights: &'a [f64],
}

/// Fitted coefficients.
#[derive(Debug, Clone, PartialEq)]
pub struct Fit {
    /// One coefficient a column.
    pub coefficients: Vec<f64>,
    /// Newton steps taken.
    pub steps: usize,
}

/// Minimises `Σ w [t log(1 + e^−z) + (1 − t) log(1 + e^z)]` plus the penalty, where `z` is the product
/// of a row's features with the coefficients.
///
/// # Errors
/// No rows; lengths that do not fit; a value, target, weight or penalty out of range; without a
/// penalty, rows that the features separate, so that the optimum lies at infinity.
pub fn fit(rows: &Rows<'_>, penalty: Penalty) -> Result<Fit, StatsError> {
    rows.check()?;
    penalty.check()?;
    let tolerance = TOLERANCE * rows.weights.iter().sum::<f64>().max(1.0);
    let mut coefficients = vec![0.0; rows.columns];
    let mut value = rows.loss(&coefficients) + penalty.of(&coefficients);
    let mut step = 0;
    loop {
        let (gradient, curvature) = rows.derivatives(&coefficients);
        let violation = penalty.violation(&coefficients, &gradient);
        if violation <= tolerance {
            if penalty == Penalty::None && rows.separated_by(&coefficients) {
                return Err(StatsError::Separable);
            }
            return Ok(Fit {
                coefficients,
                steps: step,
            });
        }
        if step == MAX_STEPS {
            return Err(StatsError::NotConverged {
                steps: step,
                gradient: violation,
            });
        }
        let direction = penalty.direction(&coefficients, &gradient, curvature);
        // Halve the step until the objective does not rise (beyond rounding).
        let mut length = 1.0;
        loop {
            let moved: Vec<f64> = coefficients
                .iter()
                .zip(&direction)
                .map(|(coefficient, delta)| coefficient + length * delta)
                .collect();
            let new_value = rows.loss(&moved) + penalty.of(&moved);
            if new_value <= value + 1e-13 * value.abs() || length < 1e-9 {
                (coefficients, value) = (moved, new_value);
                break;
            }
            length *= 0.5;
        }
        step += 1;
    }
}

impl Rows<'_> {
    fn check(&self) -> Result<(), StatsError> {
        finite("logistic regression features", self.features)?;
        let rows = self.targets.len();
        for (left, right) in [
            (self.features.len(), rows * self.columns),
            (self.weights.len(), rows),
        ] {
            if left != right {
                return Err(StatsError::Lengths {
                    what: "logistic regression",
                    left,
                    right,
                });
            }
        }
        let out_of_range = |what, value, expected| {
            Err(StatsError::OutOfRange {
                what,
                value,
                expected,
            })
        };
        if let Some(&target) = self.targets.iter().find(|t| !(0.0..=1.0).contains(*t)) {
            return out_of_range("target", target, "within 0 to 1");
        }
        if let Some(&weight) = self.weights.iter().find(|w| !(**w >= 0.0 && w.is_finite())) {
            return out_of_range("weight", weight, "zero or above");
        }
        Ok(())
    }

    /// Returns each row's features, target and weight.
    fn iter(&self) -> impl Iterator<Item = (&[f64], f64, f64)> {
        self.features
            .chunks_exact(self.columns)
            .zip(self.targets)
            .zip(self.weights)
            .map(|((features, &target), &weight)| (features, target, weight))
    }

    fn loss(&self, coefficients: &[f64]) -> f64 {
        self.iter()
            .map(|(features, target, weight)| {
                let z = dot(features, coefficients);
                // log(1 + e^z) − t z, without overflow.
                weight * (z.max(0.0) + (-z.abs()).exp().ln_1p() - target * z)
            })
            .sum()
    }

    /// Returns the loss's gradient `[columns]` and Hessian `[columns, columns]`.
    fn derivatives(&self, coefficients: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let k = self.columns;
        let (mut gradient, mut curvature) = (vec![0.0; k], vec![0.0; k * k]);
        for (features, target, weight) in self.iter() {
            if weight == 0.0 {
                continue;
            }
            let p = logistic(dot(features, coefficients));
            let (slope, bend) = (weight * (p - target), weight * p * (1.0 - p));
            for (i, &left) in features.iter().enumerate().filter(|(_, f)| **f != 0.0) {
                gradient[i] += slope * left;
                for (cell, &right) in curvature[i * k..=i * k + i].iter_mut().zip(features) {
                    *cell += bend * left * right;
                }
            }
        }
        for i in 0..k {
            for j in 0..i {
                curvature[j * k + i] = curvature[i * k + j];
            }
        }
        (gradient, curvature)
    }

    /// Tells whether every outcome is predicted for sure.
    fn separated_by(&self, coefficients: &[f64]) -> bool {
        self.iter()
            .filter(|(_, _, weight)| *weight > 0.0)
            .all(|(features, ..)| logistic(-dot(features, coefficients).abs()) < SEPARATED)
    }
}

impl Penalty {
    fn check(self) -> Result<(), StatsError> {
        match self {
            Self::Lasso(strength) | Self::Ridge(strength)
                if !(strength > 0.0 && strength.is_finite()) =>
            {
                Err(StatsError::OutOfRange {
                    what: "strength of a penalty",
                    value: strength,
                    expected: "above zero",
                })
            }
            _ => Ok(()),
        }
    }

    fn of(self, coefficients: &[f64]) -> f64 {
        match self {
            Self::None => 0.0,
            Self::Lasso(strength) => strength * coefficients.iter().map(|c| c.abs()).sum::<f64>(),
            Self::Ridge(strength) => 0.5 * strength * dot(coefficients, coefficients),
        }
    }

    /// Returns by how much the optimality conditions fail, at the coefficient where they fail most.
    fn violation(self, coefficients: &[f64], gradient: &[f64]) -> f64 {
        let of_one = |(&coefficient, &slope): (&f64, &f64)| match self {
            Self::None => slope.abs(),
            Self::Lasso(strength) if coefficient == 0.0 => (slope.abs() - strength).max(0.0),
            Self::Lasso(strength) => (slope + strength.copysign(coefficient)).abs(),
            Self::Ridge(strength) => (slope + strength * coefficient).abs(),
        };
        coefficients
            .iter()
            .zip(gradient)
            .map(of_one)
            .fold(0.0, f64::max)
    }

    /// Returns the step to the minimum of the quadratic model plus the penalty.
    fn direction(self, coefficients: &[f64], gradient: &[f64], curvature: Vec<f64>) -> Vec<f64> {
        match self {
            Self::None => newton(gradient.to_vec(), curvature),
            Self::Ridge(strength) => {
                let k = gradient.len();
                let mut curvature = curvature;
                (0..k).for_each(|i| curvature[i * k + i] += strength);
                let slopes = gradient
                    .iter()
                    .zip(coefficients)
                    .map(|(slope, coefficient)| slope + strength * coefficient)
                    .collect();
                newton(slopes, curvature)
            }
            Self::Lasso(strength) => lasso_step(coefficients, gradient, &curvature, strength),
        }
    }
}

fn newton(gradient: Vec<f64>, curvature: Vec<f64>) -> Vec<f64> {
    let k = gradient.len();
    let uphill = Cholesky::of(curvature, k).solve(&gradient);
    uphill.into_iter().map(|delta| -delta).collect()
}

/// Minimises `g·d + ½ dᵀHd + strength ‖w + d‖₁` by cyclic coordinate descent.
fn lasso_step(
    coefficients: &[f64],
    gradient: &[f64],
    curvature: &[f64],
    strength: f64,
) -> Vec<f64> {
    let k = coefficients.len();
    let mut step = vec![0.0; k];
    for _ in 0..MAX_SWEEPS {
        let mut largest = 0.0_f64;
        for i in 0..k {
            let row = &curvature[i * k..(i + 1) * k];
            let bend = row[i];
            if bend <= 0.0 {
                // A column of zeros, or one whose rows are all decided: it has nothing to say.
                continue;
            }
            let slope = gradient[i] + dot(row, &step);
            let place = coefficients[i] + step[i];
            let free = place - slope / bend;
            let shrunk = (free.abs() - strength / bend).max(0.0).copysign(free);
            largest = largest.max((shrunk - place).abs());
            step[i] = shrunk - coefficients[i];
        }
        if largest < 1e-15 {
            break;
        }
    }
    step
}

fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(l, r)| l * r).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(features: &[f64], columns: usize, targets: &[f64], penalty: Penalty) -> Vec<f64> {
        let rows = Rows {
            features,
            columns,
            targets,
            weights: &vec![1.0; targets.len()],
        };
        fit(&rows, penalty).expect("valid input").coefficients
    }

    #[test]
    fn an_intercept_alone_is_the_log_odds() {
        let found = fitted(&[1.0; 4], 1, &[1.0, 1.0, 1.0, 0.0], Penalty::None);
        assert!((found[0] - 3.0_f64.ln()).abs() < 1e-12);
        // Soft targets and weights say the same thing shorter.
        let rows = Rows {
            features: &[1.0],
            columns: 1,
            targets: &[0.75],
            weights: &[4.0],
        };
        let soft = fit(&rows, Penalty::None).expect("valid input");
        assert!((soft.coefficients[0] - found[0]).abs() < 1e-12);
    }

    #[test]
    fn the_lasso_takes_its_strength_off_the_gradient() {
        // 4 (σ(c) − ¾) = −½ at the optimum, so σ(c) = ⅝.
        let found = fitted(&[1.0; 4], 1, &[0.75; 4], Penalty::Lasso(0.5));
        assert!((found[0] - (0.625_f64 / 0.375).ln()).abs() < 1e-12);
        // Where the gradient at zero is within the strength, the coefficient is zero.
        assert_eq!(fitted(&[1.0; 4], 1, &[0.75; 4], Penalty::Lasso(1.0)), [0.0]);
    }

    #[test]
    fn impossible_rows_are_refused() {
        let rows = |targets: &'static [f64], weights: &'static [f64]| Rows {
            features: &[1.0, -1.0],
            columns: 1,
            targets,
            weights,
        };
        let separated = rows(&[1.0, 0.0], &[1.0, 1.0]);
        assert_eq!(fit(&separated, Penalty::None), Err(StatsError::Separable));
        assert!(fit(&separated, Penalty::Ridge(1.0)).is_ok());
        assert!(fit(&separated, Penalty::Lasso(0.0)).is_err());
        assert!(fit(&rows(&[1.5, 0.0], &[1.0, 1.0]), Penalty::None).is_err());
        assert!(fit(&rows(&[1.0, 0.0], &[1.0, -1.0]), Penalty::None).is_err());
        assert!(fit(&rows(&[1.0], &[1.0]), Penalty::None).is_err());
    }
}
