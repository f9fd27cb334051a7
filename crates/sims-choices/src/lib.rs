//! Multiple choice by log-likelihood, scored as lm-evaluation-harness 0.4.13 scores it.
//!
//! [`Choices`] is the stage, [`command`] the same as a subcommand that prints JSON. A file of tasks is read by
//! [`tasks`]; [`prompt`] puts description, examples and question together; [`encode`] finds where context and
//! continuation part; [`evaluate`] runs the base and the steered model over all of them, every shared prefix once;
//! [`metrics`] makes accuracies of the log-likelihoods. The format of tasks is described in `docs/choices.md`.

pub mod command;
pub mod encode;
mod error;
pub mod evaluate;
pub mod metrics;
mod params;
pub mod prompt;
mod report;
mod session;
mod stage;
pub mod tasks;

pub use error::ChoicesError;
pub use params::{ChoicesParams, EditRange};
pub use stage::Choices;
