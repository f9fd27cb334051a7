//! What can be wrong with the parameters or the model.

/// A fine-tuning that cannot be done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DpoError {
    /// A parameter out of range.
    #[error("{parameter} is {value}, but must be {expected}")]
    Parameter {
        /// The parameter's name.
        parameter: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// The model's weights cannot be added to.
    #[error(
        "the model is a GGUF file, whose weights stay in blocks that no adapter can be merged into: give the model in \
         safetensors"
    )]
    Gguf,
}
