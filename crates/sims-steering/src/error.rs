//! What can go wrong when a steering is fitted, composed, read or applied.

use sims_artifact::{ArtifactError, Digest};
use sims_model::ModelError;
use std::path::PathBuf;

/// A steering that cannot be built, read or used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SteeringError {
    /// A parameter of an operator is zero where it must not be, or is not finite.
    #[error("{what} is {value}")]
    Degenerate {
        /// What the value is.
        what: &'static str,
        /// The value.
        value: f64,
    },
    /// Two widths that must agree do not.
    #[error("the steering has hidden size {expected}, but {found} was found")]
    HiddenSize {
        /// Hidden size of the steering.
        expected: usize,
        /// Hidden size of the other part.
        found: usize,
    },
    /// A layer that the model does not have.
    #[error(
        "layer {layer} is out of range: the model has {num_hidden_layers} layers, numbered from 0"
    )]
    LayerRange {
        /// The layer.
        layer: usize,
        /// Number of decoder blocks.
        num_hidden_layers: usize,
    },
    /// The steering was fitted to another model.
    #[error(
        "the steering was fitted to the model with digest {expected}, but this model has {found}; \
         fit a steering to this model, or give the model that it was fitted to"
    )]
    ModelMismatch {
        /// Digest of the model that the steering was fitted to.
        expected: Digest,
        /// Digest of the model that it was to be used with.
        found: Digest,
    },
    /// Several steerings were asked for, and none given.
    #[error("there is no steering to put together; give at least one")]
    NoSteering,
    /// A condition on what has none.
    #[error(
        "conditions decide on edits of the residual stream, not on shifts of attention heads: fit iti without one"
    )]
    UnconditionalHeads,
    /// A condition without a block to read.
    #[error("a condition needs at least one block to read")]
    NoCondition,
    /// A condition that is decided after the edit that it is to decide on.
    #[error(
        "the condition reads layer {condition}, above layer {edit} that it decides on: read layer {edit} or a lower one"
    )]
    LateCondition {
        /// The layer that the condition reads.
        condition: usize,
        /// The layer that is edited.
        edit: usize,
    },
    /// A candidate does not contain the incumbent it is said to be stacked on.
    #[error("at layer {layer} the candidate does not begin with the incumbent's operators")]
    NotStacked {
        /// The layer.
        layer: usize,
    },
    /// A steering file of a version that this program does not know.
    #[error("{path} has steering format {found}; this program reads format {supported}")]
    Format {
        /// The file.
        path: PathBuf,
        /// The version found.
        found: u64,
        /// The version supported.
        supported: u64,
    },
    /// A steering file whose metadata or tensors do not make sense.
    #[error("{path} is not a valid steering file: {message}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A hook was installed and never called: the model ran unsteered.
    #[error("the steering at layers {layers:?} was installed but never applied")]
    NeverApplied {
        /// The layers that were to be edited.
        layers: Vec<usize>,
    },
    /// Reading or writing the file failed.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

/// A fit that cannot be made from the states given.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FitError {
    /// A class has no rows.
    #[error("there are no {class} states to fit")]
    EmptyClass {
        /// `chosen` or `rejected`.
        class: &'static str,
    },
    /// Too few prompts for a fit whose held-out figures mean anything.
    #[error(
        "{fit} prompts to fit and {held_out} held out are too few (at least {min_fit} and {min_held_out})"
    )]
    TooFewPrompts {
        /// Prompts in the fit half.
        fit: usize,
        /// Prompts in the held-out half.
        held_out: usize,
        /// Least number to fit.
        min_fit: usize,
        /// Least number held out.
        min_held_out: usize,
    },
    /// Chosen and rejected states do not differ.
    #[error(
        "chosen and rejected states are identical: their means differ by {difference:e} \
         at a mean norm of {state_norm:e}"
    )]
    IdenticalClasses {
        /// Norm of the difference of the means.
        difference: f64,
        /// Mean norm of the states.
        state_norm: f64,
    },
    /// The differences between chosen and rejected states have no longest axis.
    #[error(
        "the differences between chosen and rejected states have no dominant axis: the longest explains {explained:.4} \
         of them (at least {least:.4}, and more than any other); `mean-difference` needs none"
    )]
    NoDominantAxis {
        /// Share of the sum of squares along the longest axis.
        explained: f64,
        /// Least share.
        least: f64,
    },
    /// A state is NaN or infinite.
    #[error("state {row} is NaN or infinite")]
    NonFinite {
        /// Number of the row in its class.
        row: u64,
    },
    /// The angle network predicts no better than a constant.
    #[error(
        "the angle network's held-out squared error {error:.4} is not below that of the constant \
         mean angle, {constant:.4}; `hpr-target` needs no network"
    )]
    AngleUnderfit {
        /// Held-out mean squared error, radians².
        error: f64,
        /// The same for the constant mean angle.
        constant: f64,
    },
    /// The operator shifts attention heads, not states of the residual stream.
    #[error("iti is fitted to what attention heads put out: extract with site heads")]
    NotHeads,
    /// The optimiser left the finite numbers.
    #[error("the fit diverged in epoch {epoch}")]
    Diverged {
        /// The epoch, from 1.
        epoch: usize,
    },
    /// A response's log-probabilities are not numbers to learn from.
    #[error(
        "pair {pair_id}: the model gives its responses log-probabilities that are NaN or infinite; \
         drop the pair, or hold the weights in f32"
    )]
    LogProbability {
        /// The pair.
        pair_id: String,
    },
    /// Training did not lower the held-out loss.
    #[error(
        "{epochs} epochs bring the held-out loss to {loss:.4}, not below the {without:.4} without a vector: the \
         pairs do not teach a preference at these layers; try another learning-rate, or others in `layers`"
    )]
    NoGain {
        /// Lowest held-out loss.
        loss: f64,
        /// Loss without a vector.
        without: f64,
        /// Epochs run.
        epochs: usize,
    },
    /// Fine-tuning did not lower the held-out loss.
    #[error(
        "{epochs} epochs bring the held-out loss to {loss:.4}, not below the {without:.4} of the model itself: the \
         pairs teach no preference that holds on other prompts; try another learning-rate, or more pairs"
    )]
    NoFineTuning {
        /// Lowest held-out loss.
        loss: f64,
        /// Loss of the model itself.
        without: f64,
        /// Epochs run.
        epochs: usize,
    },
    /// The incumbent does something that no derivative is known of.
    #[error(
        "at layer {layer} the incumbent does more than add a vector, which training cannot look through; \
         train with compose replace, or from an incumbent of vectors"
    )]
    Underivable {
        /// The layer.
        layer: usize,
    },
    /// The fit was stopped from outside.
    #[error("the fit was interrupted")]
    Interrupted,
    /// The model refused a sequence.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A held-out figure cannot be computed.
    #[error(transparent)]
    Statistics(#[from] sims_stats::StatsError),
    /// The fitted parameters do not make an operator.
    #[error(transparent)]
    Operator(#[from] SteeringError),
}
