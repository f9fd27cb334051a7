//! The stage's parameters.

use sims_sample::WeightType;

use crate::ChoicesError;

sims_stage::choice! {
    /// Which positions a steering edits
    pub enum EditRange {
        /// From the last token of the context on, as in generation
        Answer = "answer",
        /// Every position; nothing is then shared with the base model's pass
        All = "all",
    }
}

sims_stage::params! {
    /// How questions are put, and what is computed of the answers.
    pub struct ChoicesParams {
        /// Examples shown before each question: the first of the task's
        shots: u32 = 0,
        /// Whether questions are put through the model's chat template
        chat: bool = false,
        /// Whether examples are turns of their own in a chat
        multiturn: bool = false,
        /// What stands before every description, or alone; empty for nothing
        system: String = String::new(),
        /// Whether choices are scored without a context too, for acc_mutual_info
        mutual_information: bool = false,
        /// Which positions a steering edits
        edit: EditRange = EditRange::Answer,
        /// Longest sequence, cut on the left; 0 takes the model's context. Unit: tokens
        max_length: u32 = 0,
        /// Resamples of the interval of a difference
        resamples: u32 = 10_000,
        /// Seed of the resampling
        seed: u64 = 0,
        /// The type that weights are held in
        dtype: WeightType = WeightType::F32,
    }
}

impl ChoicesParams {
    /// Checks what can be checked before the model is opened.
    ///
    /// # Errors
    /// [`ChoicesError::Setting`] that names the parameter.
    pub fn check(&self) -> Result<(), ChoicesError> {
        let refuse = |name: &'static str, message: &str| {
            Err(ChoicesError::Setting {
                name,
                message: message.to_owned(),
            })
        };
        if self.multiturn && !self.chat {
            return refuse("multiturn", "only a chat has turns; add --chat true");
        }
        if self.resamples == 0 {
            return refuse("resamples", "give 1 or more");
        }
        Ok(())
    }

    /// Returns the most tokens of a sequence, for a model that takes `context`.
    ///
    /// # Errors
    /// [`ChoicesError::Setting`] for more than that.
    pub fn max_length(&self, context: usize) -> Result<usize, ChoicesError> {
        match self.max_length as usize {
            0 => Ok(context),
            length if length <= context => Ok(length),
            length => Err(ChoicesError::Setting {
                name: "max-length",
                message: format!("{length} is beyond the model's context of {context}"),
            }),
        }
    }
}
