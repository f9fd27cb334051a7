//! What can be wrong with the states or the incumbent given to the fit.

use sims_artifact::{ArtifactError, Digest};
use sims_steering::{FitError, SteeringError};
use std::path::PathBuf;

/// A fit that cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FitStageError {
    /// A pair whose weight is not known.
    #[error(
        "pair {pair_id} has states but no row in the pairs table; states and pairs must come from the same contrast stage"
    )]
    UnweightedPair {
        /// The pair.
        pair_id: String,
    },
    /// A weight that means nothing.
    #[error(
        "pair {pair_id} weighs {weight}; weights are finite, at least 0, and not all 0: look at the pairs table"
    )]
    BadWeight {
        /// The pair.
        pair_id: String,
        /// Its weight.
        weight: f64,
    },
    /// The states file has no usable metadata.
    #[error("{path} is not a file of hidden states: {message}")]
    NotStates {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// States and index do not belong together.
    #[error("{path} has {states} rows at layer {layer}, but the index has {index}")]
    RowCount {
        /// The states file.
        path: PathBuf,
        /// The layer.
        layer: usize,
        /// Rows of the states.
        states: usize,
        /// Rows of the index.
        index: usize,
    },
    /// The index is empty or out of order.
    #[error("the index is not that of any states: {message}")]
    BadIndex {
        /// What is wrong.
        message: String,
    },
    /// A layer asked for that was not extracted.
    #[error("layer {layer} was not extracted; the states hold layers {extracted:?}")]
    LayerNotExtracted {
        /// The layer.
        layer: usize,
        /// The layers that were.
        extracted: Vec<usize>,
    },
    /// The states were read under another steering than the fit builds on.
    #[error(
        "the states were read {states}, but the fit builds {fit}: give the same steering to `extract` and, as the \
         incumbent, to `fit`, or neither with `compose: replace`"
    )]
    OtherSteering {
        /// Under which steering the states were read.
        states: String,
        /// On which steering the fit builds.
        fit: String,
    },
    /// The incumbent belongs to another model than the states.
    #[error(
        "the incumbent was fitted to model {incumbent}, the states come from model {states}: extract the states \
         from that model, or give no incumbent"
    )]
    OtherModel {
        /// Digest of the incumbent's model.
        incumbent: Digest,
        /// Digest of the model behind the states.
        states: Digest,
    },
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
    /// The split leaves too few prompts, or labels cannot be drawn.
    #[error(transparent)]
    Split(FitError),
    /// The fit of a layer failed.
    #[error("layer {layer}: {error}{}", way_out(error))]
    Layer {
        /// The layer.
        layer: usize,
        /// What failed; part of the message, so no further cause.
        error: FitError,
    },
    /// The incumbent cannot be read or built upon.
    #[error(transparent)]
    Steering(#[from] SteeringError),
    /// A file cannot be read.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

/// Says what to do about a layer that cannot be fitted, where its states are at fault.
fn way_out(error: &FitError) -> &'static str {
    match error {
        FitError::IdenticalClasses { .. } => {
            "; look at the pairs, or fit other layers by naming them in `layers`"
        }
        _ => "",
    }
}

impl FitStageError {
    /// Returns a function that names the layer of an error.
    pub(crate) fn at(layer: usize) -> impl Fn(FitError) -> Self {
        move |error| Self::Layer { layer, error }
    }
}
