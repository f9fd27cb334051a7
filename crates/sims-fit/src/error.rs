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
    /// The operator and the states belong to different places in a block.
    #[error(
        "the states are of the site {site}, which the operator {operator} does not read: extract with site heads for \
         iti and with site block for all others"
    )]
    Site {
        /// Where the states were read.
        site: &'static str,
        /// The operator.
        operator: String,
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
    /// Some of the inputs of a condition, and not the others.
    #[error("a condition is fitted to four inputs together, but these are missing: {}", missing.join(", "))]
    HalfACondition {
        /// The inputs missing.
        missing: Vec<&'static str>,
    },
    /// States that a condition does not read.
    #[error(
        "{role} holds the states of positions {positions}, but a condition reads those of prompts: run `extract` with \
         positions prompt"
    )]
    NotPromptStates {
        /// The input.
        role: &'static str,
        /// What it holds.
        positions: String,
    },
    /// The condition's states come from another model.
    #[error(
        "the condition's states come from model {condition}, those of the fit from {states}: extract both from one model"
    )]
    OtherConditionModel {
        /// Digest of the model behind the condition's states.
        condition: Digest,
        /// Digest of the model behind the fit's states.
        states: Digest,
    },
    /// A prompt to steer and to leave alone.
    #[error(
        "prompt {prompt_id} is inside and outside: a condition cannot tell a prompt from itself"
    )]
    InsideAndOutside {
        /// The prompt.
        prompt_id: String,
    },
    /// No layer from which a condition could be decided.
    #[error(
        "a condition reads layer {lowest_edit}, the lowest that is steered, or one below; the states inside hold layers \
         {inside:?}, those outside {outside:?}: extract a layer of these for both"
    )]
    NoConditionLayer {
        /// Layers of the states inside.
        inside: Vec<usize>,
        /// Layers of the states outside.
        outside: Vec<usize>,
        /// The lowest layer steered.
        lowest_edit: usize,
    },
    /// A condition that does not tell prompts apart.
    #[error(
        "the best condition, at layer {layer}, has a held-out F1 of {f1:.3}, below condition-f1 ({least}): the prompts \
         inside and outside look alike to the model; give others, or lower condition-f1"
    )]
    WeakCondition {
        /// Layer of the best block.
        layer: usize,
        /// Its held-out F1.
        f1: f64,
        /// The least asked for.
        least: f64,
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
