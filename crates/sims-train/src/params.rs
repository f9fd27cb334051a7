//! The stage's parameters.

use crate::TrainError;
use sims_stage::List;
use sims_steering::bipo::BipoOptions;
use sims_steering::preference::EditedPositions;

sims_stage::choice! {
    /// Which positions the vector is added to while it is trained
    pub enum Edited {
        /// All, the prompt's included, as published
        All = "all",
        /// Those that a steering edits: the prompt's last and all after it
        PromptEnd = "prompt-end",
    }
}

sims_stage::choice! {
    /// How the vector relates to the incumbent
    pub enum Relation {
        /// Comes on top of it, and is trained under it
        Stack = "stack",
        /// Takes its place, and is trained on the base model
        Replace = "replace",
    }
}

sims_stage::choice! {
    /// Which response counts as chosen
    pub enum Labels {
        /// The one that was chosen
        Ranked = "ranked",
        /// Either one, by a coin for each pair: the control
        Shuffled = "shuffled",
    }
}

sims_stage::params! {
    /// How the vector is trained, and where it is added.
    pub struct TrainParams {
        /// Layers to steer, trained together; empty takes the last of the lower half
        layers: List<u32> = List(Vec::new()),
        /// Which positions the vector is added to while it is trained
        edited: Edited = Edited::All,
        /// Factor of the log-odds in the loss
        beta: f64 = 0.1,
        /// Highest learning rate; 0.0005 suits models of some thousand dimensions, smaller ones want more
        learning_rate: f64 = 5e-4,
        /// Steps up to it, before the rate falls along a cosine
        warmup_steps: u32 = 100,
        /// Pairs a step
        batch_pairs: u32 = 4,
        /// Most passes over the pairs
        epochs: u32 = 20,
        /// Passes without a lower held-out loss after which training stops
        patience: u32 = 3,
        /// How the vector relates to the incumbent
        compose: Relation = Relation::Stack,
        /// Longest sum of vectors at a layer, earlier rounds included, in units of the mean state norm; 0 is off
        max_shift: f64 = 0.25,
        /// Which response counts as chosen
        labels: Labels = Labels::Ranked,
        /// Share of the prompts held out
        held_out: f64 = 0.2,
        /// Exchanges of the held-out labels that the vector has to beat
        shuffles: u32 = 20,
        /// Do not warn of low held-out signal; the signal gate of steer-eval refuses it in either case
        allow_low_signal: bool = false,
        /// The round, from 1
        round: u32 = 1,
        /// Seed of the split, the order of the pairs and the signs
        seed: u64 = 0,
    }
}

impl TrainParams {
    /// Checks the numbers.
    ///
    /// # Errors
    /// [`TrainError::Parameter`] for the first one out of range.
    pub fn check(&self) -> Result<(), TrainError> {
        let positive = "a positive number";
        let above_zero = |parameter, value: f64| (parameter, value, value > 0.0, positive);
        let checks = [
            above_zero("beta", self.beta),
            above_zero("learning-rate", self.learning_rate),
            above_zero("batch-pairs", f64::from(self.batch_pairs)),
            above_zero("epochs", f64::from(self.epochs)),
            above_zero("patience", f64::from(self.patience)),
            above_zero("shuffles", f64::from(self.shuffles)),
            (
                "max-shift",
                self.max_shift,
                self.max_shift >= 0.0,
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
                return Err(TrainError::Parameter {
                    parameter,
                    value,
                    expected,
                });
            }
        }
        Ok(())
    }

    /// Returns the layers to steer in a model of that many; as published, block 15 of 32 where none is asked for.
    pub fn layers(&self, num_hidden_layers: usize) -> Vec<usize> {
        match &self.layers.0[..] {
            [] => vec![(num_hidden_layers / 2).saturating_sub(1)],
            layers => layers.iter().map(|&layer| layer as usize).collect(),
        }
    }

    /// Returns the optimiser's settings.
    pub fn options(&self) -> BipoOptions {
        BipoOptions {
            beta: self.beta,
            learning_rate: self.learning_rate,
            warmup_steps: self.warmup_steps as usize,
            batch_pairs: self.batch_pairs as usize,
            max_epochs: self.epochs as usize,
            patience: self.patience as usize,
            seed: self.seed,
        }
    }
}

impl From<Edited> for EditedPositions {
    fn from(edited: Edited) -> Self {
        match edited {
            Edited::All => Self::All,
            Edited::PromptEnd => Self::FromPromptEnd,
        }
    }
}
