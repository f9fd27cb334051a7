//! Exit codes: 2 for wrong usage or bad input, 1 for everything else.

use std::io::ErrorKind;
use std::process::ExitCode;

use sims_artifact::ArtifactError;
use sims_model::ModelError;
use sims_steering::SteeringError;

/// What the user gave cannot be used; the message says what is wrong and what would be right.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadInput(pub(crate) String);

/// Makes the error of bad input.
pub(crate) fn bad_input(message: impl Into<String>) -> anyhow::Error {
    BadInput(message.into()).into()
}

/// Returns the exit code for `error`.
pub(crate) fn code_of(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(if error.chain().any(is_bad_input) {
        2
    } else {
        1
    })
}

fn is_bad_input(cause: &(dyn std::error::Error + 'static)) -> bool {
    if let Some(error) = cause.downcast_ref::<ModelError>() {
        // What remains is a fault of the engine or of the machine.
        return !matches!(
            error,
            ModelError::Tensor(_) | ModelError::Interrupted | ModelError::Hook { .. }
        );
    }
    match cause.downcast_ref::<ArtifactError>() {
        Some(ArtifactError::Io { source, .. }) => source.kind() == ErrorKind::NotFound,
        Some(ArtifactError::Encode { .. }) => false,
        Some(_) => true,
        // An unreadable file inside a steering error decides by itself, above.
        None => {
            cause.is::<BadInput>()
                || cause
                    .downcast_ref::<SteeringError>()
                    .is_some_and(|e| !matches!(e, SteeringError::Artifact(_)))
        }
    }
}
