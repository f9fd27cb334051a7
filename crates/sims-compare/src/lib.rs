//! Two runs or more, prompt by prompt: is one better, are they the same, or are there too few prompts to say?
//!
//! [`run_scores`] finds a run's scores of one metric, [`comparison`] compares them.

pub mod comparison;
pub mod run_scores;

pub use comparison::{Comparison, Settings, compare};
pub use run_scores::{CompareError, RunScores, WhichRound};
