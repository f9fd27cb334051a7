//! The affine map of single coordinates: `a′ = (1 − λ)·a + λ·(scale·a + shift)` inside a support, per coordinate.
//!
//! Linear activation transport (Rodriguez et al. 2024, arXiv 2410.23054); [`crate::linear_transport`] fits it.

use crate::SteeringError;
use crate::operator::EditCounts;
use crate::real::all_finite;

/// An affine map of each coordinate by itself, where the coordinate lies inside its support.
#[derive(Debug, Clone, PartialEq)]
pub struct AffineTransport {
    scale: Vec<f32>,
    shift: Vec<f32>,
    low: Vec<f32>,
    high: Vec<f32>,
}

impl AffineTransport {
    /// Wraps a map; all four are `[hidden]`, f32.
    ///
    /// A coordinate `a` with `low ≤ a ≤ high` is mapped to `scale·a + shift`, any other stays; `low > high` leaves
    /// the coordinate alone.
    ///
    /// # Errors
    /// [`SteeringError::HiddenSize`] if the lengths differ, [`SteeringError::Degenerate`] for a NaN or an infinity
    /// and for a negative scale, which no transport of sorted samples has.
    pub fn new(
        scale: Vec<f32>,
        shift: Vec<f32>,
        low: Vec<f32>,
        high: Vec<f32>,
    ) -> Result<Self, SteeringError> {
        for (what, values) in [
            ("the largest scale of the transport", &scale),
            ("the largest shift of the transport", &shift),
            ("the largest lower end of the support", &low),
            ("the largest upper end of the support", &high),
        ] {
            if values.len() != scale.len() {
                return Err(SteeringError::HiddenSize {
                    expected: scale.len(),
                    found: values.len(),
                });
            }
            if !all_finite(values) {
                let value = f64::NAN;
                return Err(SteeringError::Degenerate { what, value });
            }
        }
        if let Some(&negative) = scale.iter().find(|&&scale| scale < 0.0) {
            return Err(SteeringError::Degenerate {
                what: "a scale of the transport",
                value: f64::from(negative),
            });
        }
        Ok(Self {
            scale,
            shift,
            low,
            high,
        })
    }

    /// Returns the slope of each coordinate, `[hidden]`.
    pub fn scale(&self) -> &[f32] {
        &self.scale
    }

    /// Returns the intercept of each coordinate, `[hidden]`.
    pub fn shift(&self) -> &[f32] {
        &self.shift
    }

    /// Returns the lower end of each coordinate's support, `[hidden]`.
    pub fn low(&self) -> &[f32] {
        &self.low
    }

    /// Returns the upper end of each coordinate's support, `[hidden]`.
    pub fn high(&self) -> &[f32] {
        &self.high
    }

    /// Returns the share λ of the way that a strength goes: the strength within `[0, 1]`.
    ///
    /// Beyond the map there is nothing to extrapolate to, and no way back from it.
    pub(crate) fn share(strength: f64) -> f64 {
        strength.clamp(0.0, 1.0)
    }

    pub(crate) fn apply(&self, rows: &mut [f32], strength: f64, counts: &mut EditCounts) {
        let share = Self::share(strength);
        if share == 0.0 {
            return;
        }
        for row in rows.chunks_exact_mut(self.scale.len()) {
            let mut is_inside = false;
            for (i, a) in row.iter_mut().enumerate() {
                if self.low[i] <= *a && *a <= self.high[i] {
                    let x = f64::from(*a);
                    let target = f64::from(self.scale[i]) * x + f64::from(self.shift[i]);
                    *a = ((1.0 - share) * x + share * target) as f32;
                    is_inside = true;
                }
            }
            counts.edited += u64::from(is_inside);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Edit, Operator};

    fn transport() -> AffineTransport {
        let scale = vec![0.25, 1.0, 2.0];
        let shift = vec![-3.25, 5.0, 0.5];
        let low = vec![-4.0, 0.0, 1.0];
        AffineTransport::new(scale, shift, low, vec![6.0, 8.0, -1.0]).unwrap()
    }

    fn edited(row: [f32; 3], strength: f64) -> ([f32; 3], u64) {
        let edit = Edit::new(Operator::AffineTransport(transport()));
        let (mut row, mut counts) = (row, EditCounts::default());
        edit.apply(&mut row, strength, &mut counts);
        (row, counts.edited)
    }

    /// T15, in part: the map at 1, halfway at ½, the identity at 0; outside the support nothing moves.
    #[test]
    fn strength_is_the_share_of_the_way() {
        let row = [1.0, 2.0, 0.0];
        assert_eq!(edited(row, 1.0), ([-3.0, 7.0, 0.0], 1));
        assert_eq!(edited(row, 0.5), ([-1.0, 4.5, 0.0], 1));
        assert_eq!(edited(row, 0.0), (row, 0));
        assert_eq!(edited(row, 3.0), edited(row, 1.0));
        assert_eq!(edited(row, -1.0), (row, 0));
        let outside = [6.5, -0.5, 0.0];
        assert_eq!(edited(outside, 1.0), (outside, 0));
    }

    #[test]
    fn broken_maps_are_refused() {
        let ones = || vec![1.0f32; 2];
        let refused = |scale, shift, low, high| {
            AffineTransport::new(scale, shift, low, high)
                .unwrap_err()
                .to_string()
        };
        let text = refused(ones(), vec![f32::NAN, 0.0], ones(), ones());
        assert!(text.contains("shift"), "{text}");
        let text = refused(vec![1.0, -0.5], ones(), ones(), ones());
        assert_eq!(text, "a scale of the transport is -0.5");
        let text = refused(ones(), ones(), ones(), vec![1.0]);
        assert!(text.contains("hidden size 2, but 1"), "{text}");
    }
}
