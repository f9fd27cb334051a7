//! AdamW with clipping by the global norm, and the learning-rate schedule.

use candle_core::{Device, Result, Tensor};

use super::network::Parameter;
use super::tensors::with_elements;
use super::vectorised::vectorised;

/// Settings of the optimizer and of its schedule.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Optimization {
    /// Highest learning rate.
    pub peak: f64,
    /// Steps of linear warm-up.
    pub warmup_steps: u64,
    /// Share of the tokens before the rate begins to fall.
    pub flat: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Decoupled weight decay of matrices.
    pub weight_decay: f64,
    /// Largest global norm of the gradient.
    pub clip: f64,
}

impl Default for Optimization {
    fn default() -> Self {
        Self {
            peak: 2.5e-3,
            warmup_steps: 150,
            flat: 0.3,
            beta1: 0.9,
            beta2: 0.95,
            weight_decay: 0.1,
            clip: 1.0,
        }
    }
}

impl Optimization {
    /// Returns the learning rate of a step (0-based) after which `tokens` of `total` are seen.
    ///
    /// Linear warm-up, flat, then linear to exactly 0 at the last step.
    pub fn learning_rate(&self, step: u64, tokens: u64, total: u64) -> f64 {
        let warmup = ((step + 1) as f64 / self.warmup_steps.max(1) as f64).min(1.0);
        let progress = (tokens as f64 / total as f64).min(1.0);
        let decay = ((1.0 - progress) / (1.0 - self.flat)).min(1.0);
        self.peak * warmup * decay
    }
}

/// First and second moments of one parameter.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Moments {
    pub(super) first: Vec<f32>,
    pub(super) second: Vec<f32>,
}

/// The optimizer's state.
pub(super) struct AdamW {
    settings: Optimization,
    moments: Vec<Moments>,
}

impl AdamW {
    /// Starts with zero moments.
    pub(super) fn new(settings: Optimization, parameters: &[Parameter]) -> Self {
        let moments = parameters
            .iter()
            .map(|p| {
                let zeros = vec![0.0; p.var.elem_count()];
                Moments {
                    first: zeros.clone(),
                    second: zeros,
                }
            })
            .collect();
        Self { settings, moments }
    }

    /// Returns the moments in the order of the parameters.
    pub(super) fn moments(&self) -> &[Moments] {
        &self.moments
    }

    /// Puts saved moments in place, in the order of the parameters.
    pub(super) fn set_moments(&mut self, moments: Vec<Moments>) {
        self.moments = moments;
    }

    /// Updates the parameters from their gradients and returns the gradient's global norm.
    ///
    /// `step` is 0-based and drives the bias correction. A norm that is not finite leaves
    /// everything as it was.
    ///
    /// # Errors
    /// When a parameter cannot be read or written.
    pub(super) fn update(
        &mut self,
        parameters: &[Parameter],
        gradients: &[Vec<f32>],
        step: u64,
        learning_rate: f64,
    ) -> Result<f64> {
        let s = &self.settings;
        let squares = gradients
            .iter()
            .flatten()
            .map(|&g| f64::from(g) * f64::from(g));
        let norm = squares.sum::<f64>().sqrt();
        if !norm.is_finite() {
            return Ok(norm);
        }
        let scale = if norm > s.clip { s.clip / norm } else { 1.0 };
        let correction1 = 1.0 - s.beta1.powf((step + 1) as f64);
        let correction2 = 1.0 - s.beta2.powf((step + 1) as f64);
        for ((p, gradient), moments) in parameters.iter().zip(gradients).zip(&mut self.moments) {
            let decay = if p.decays { s.weight_decay } else { 0.0 };
            let mut values = with_elements(&p.var, <[f32]>::to_vec)?;
            let rates = Rates {
                gradient_scale: scale as f32,
                beta1: s.beta1 as f32,
                beta2: s.beta2 as f32,
                step: (learning_rate / correction1) as f32,
                second_scale: (1.0 / correction2) as f32,
                keep: (1.0 - learning_rate * decay) as f32,
            };
            adam(
                &mut values,
                gradient,
                &mut moments.first,
                &mut moments.second,
                rates,
            );
            p.var
                .set(&Tensor::from_vec(values, p.var.shape(), &Device::Cpu)?)?;
        }
        Ok(norm)
    }
}

/// The numbers of one update, the same for all elements of a parameter.
#[derive(Clone, Copy)]
struct Rates {
    gradient_scale: f32,
    beta1: f32,
    beta2: f32,
    step: f32,
    second_scale: f32,
    keep: f32,
}

vectorised! {
    fn adam(values: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32], r: Rates) {
        let moments = first.iter_mut().zip(second);
        for ((w, g), (m, v)) in values.iter_mut().zip(gradient).zip(moments) {
            let g = g * r.gradient_scale;
            *m = r.beta1 * *m + (1.0 - r.beta1) * g;
            *v = r.beta2 * *v + (1.0 - r.beta2) * g * g;
            *w = *w * r.keep - r.step * *m / ((*v * r.second_scale).sqrt() + 1e-8);
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;

    #[test]
    fn rate_warms_up_stays_flat_and_ends_at_exactly_zero() {
        let s = Optimization::default();
        let total = 1_000_000;
        assert!((s.learning_rate(0, 2_000, total) - 2.5e-3 / 150.0).abs() < 1e-12);
        assert_eq!(s.learning_rate(149, 300_000, total), 2.5e-3);
        assert!((s.learning_rate(400, 650_000, total) - 1.25e-3).abs() < 1e-12);
        assert_eq!(s.learning_rate(500, 1_000_100, total), 0.0);
    }

    #[test]
    fn updates_equal_two_steps_by_hand() -> Result<()> {
        let var = Var::from_vec(vec![1.0f32, -2.0], (1, 2), &Device::Cpu)?;
        let parameters = [Parameter {
            name: "w".to_owned(),
            var: var.clone(),
            decays: true,
        }];
        let mut adamw = AdamW::new(Optimization::default(), &parameters);
        // The first step moves each weight by the rate against its gradient's sign, whatever its
        // size: 1 * (1 - 0.01 * 0.1) - 0.01 and -2 * (1 - 0.01 * 0.1) + 0.01.
        let norm = adamw.update(&parameters, &[vec![3.0, -4.0]], 0, 0.01)?;
        assert_eq!(norm, 5.0);
        let w = var.to_vec2::<f32>()?[0].clone();
        assert!(
            (w[0] - 0.989).abs() < 1e-6 && (w[1] + 1.988).abs() < 1e-6,
            "{w:?}"
        );
        // The gradient was clipped to 3/5 and -4/5; the second one is inside the limit.
        adamw.update(&parameters, &[vec![0.1, 0.0]], 1, 0.01)?;
        let m = (0.9f64 * 0.06 + 0.01) / (1.0 - 0.81);
        let v = (0.95f64 * 0.018 + 0.05 * 0.01) / (1.0 - 0.9025);
        let want = 0.989 * 0.999 - 0.01 * m / (v.sqrt() + 1e-8);
        assert!((f64::from(var.to_vec2::<f32>()?[0][0]) - want).abs() < 1e-6);
        Ok(())
    }

    #[test]
    fn gradient_that_is_not_finite_changes_nothing() -> Result<()> {
        let var = Var::from_vec(vec![1.0f32], 1, &Device::Cpu)?;
        let parameters = [Parameter {
            name: "w".to_owned(),
            var: var.clone(),
            decays: false,
        }];
        let mut adamw = AdamW::new(Optimization::default(), &parameters);
        assert!(
            adamw
                .update(&parameters, &[vec![f32::NAN]], 0, 0.01)?
                .is_nan()
        );
        assert_eq!(var.to_vec1::<f32>()?, [1.0]);
        Ok(())
    }
}
