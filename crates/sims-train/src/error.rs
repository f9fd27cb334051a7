//! What can be wrong with the pairs, the incumbent or the parameters.

use sims_artifact::Digest;
use sims_extract::ExtractError;
use sims_steering::{FitError, SteeringError};

/// A training that cannot be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A parameter out of range.
    #[error("{parameter} is {value}, but must be {expected}")]
    Parameter {
        /// The parameter's name.
        parameter: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        expected: &'static str,
    },
    /// The incumbent belongs to another model.
    #[error(
        "the incumbent was fitted to model {incumbent}, but the model is {model}: give the model that it was fitted \
         to, or train with compose replace"
    )]
    OtherModel {
        /// Digest of the incumbent's model.
        incumbent: Digest,
        /// Digest of the model.
        model: Digest,
    },
    /// A pair does not fit the prompts or the model.
    #[error(transparent)]
    Pair(#[from] ExtractError),
    /// The split, the training or a figure failed.
    #[error(transparent)]
    Fit(#[from] FitError),
    /// The incumbent cannot be read or built upon.
    #[error(transparent)]
    Steering(#[from] SteeringError),
}
