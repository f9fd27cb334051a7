//! The stage's parameters.

use crate::DpoError;
use sims_stage::List;
use sims_steering::dpo::DpoOptions;
use sims_train::Labels;

sims_stage::params! {
    /// Which layers are adapted, and how the adapter is trained.
    pub struct DpoParams {
        /// The layers that get an adapter in every block, by the last part of their names
        targets: List<String> = List(vec!["q_proj".to_owned(), "v_proj".to_owned()]),
        /// Inner dimension of every change
        rank: u32 = 8,
        /// The changes are multiplied by this over the rank
        alpha: f64 = 16.0,
        /// Factor of the log-odds in the loss
        beta: f64 = 0.1,
        /// Highest learning rate; 0.00005 suits models of some thousand dimensions, smaller ones want more
        learning_rate: f64 = 5e-5,
        /// Steps up to it, before the rate falls along a cosine
        warmup_steps: u32 = 20,
        /// Pairs a step
        batch_pairs: u32 = 8,
        /// Most passes over the pairs
        epochs: u32 = 5,
        /// Passes without a lower held-out loss after which training stops
        patience: u32 = 2,
        /// A gradient of a larger norm is scaled down to it; 0 is off
        max_gradient_norm: f64 = 1.0,
        /// Which response counts as chosen
        labels: Labels = Labels::Ranked,
        /// Share of the prompts held out
        held_out: f64 = 0.2,
        /// Seed of the split, of A's start and of the order of the pairs
        seed: u64 = 0,
    }
}

impl DpoParams {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`DpoError::Parameter`] for the first one out of range.
    pub fn check(&self) -> Result<(), DpoError> {
        let positive = "a positive number";
        let above_zero = |parameter, value: f64| (parameter, value, value > 0.0, positive);
        let checks = [
            above_zero("rank", f64::from(self.rank)),
            above_zero("alpha", self.alpha),
            above_zero("beta", self.beta),
            above_zero("learning-rate", self.learning_rate),
            above_zero("batch-pairs", f64::from(self.batch_pairs)),
            above_zero("epochs", f64::from(self.epochs)),
            above_zero("patience", f64::from(self.patience)),
            (
                "max-gradient-norm",
                self.max_gradient_norm,
                self.max_gradient_norm >= 0.0,
                "0 or a positive number",
            ),
            (
                "held-out",
                self.held_out,
                self.held_out > 0.0 && self.held_out < 1.0,
                "between 0 and 1",
            ),
        ];
        for (parameter, value, fine, expected) in checks {
            if !(fine && value.is_finite()) {
                return Err(DpoError::Parameter {
                    parameter,
                    value: value.to_string(),
                    expected,
                });
            }
        }
        if self.targets.0.is_empty() {
            return Err(DpoError::Parameter {
                parameter: "targets",
                value: "empty".to_owned(),
                expected: "at least one name of a linear layer, such as q_proj",
            });
        }
        Ok(())
    }

    /// Returns the optimiser's settings.
    pub fn options(&self) -> DpoOptions {
        DpoOptions {
            beta: self.beta,
            learning_rate: self.learning_rate,
            warmup_steps: self.warmup_steps as usize,
            batch_pairs: self.batch_pairs as usize,
            max_epochs: self.epochs as usize,
            patience: self.patience as usize,
            max_gradient_norm: self.max_gradient_norm,
            seed: self.seed,
        }
    }
}
