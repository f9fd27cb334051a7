//! How a stage ends, and the exit code that says so.

use std::process::ExitCode;

use sims_artifact::ArtifactError;

/// The user's input or usage is at fault: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadInput(String);

impl BadInput {
    /// Makes the error with a message that names file, row or key, and a way out.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// Something passing failed (a network, a busy device): exit code 75, the runner tries again.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Retryable(String);

impl Retryable {
    /// Makes the error with a message that says what was tried.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// The user or the runner asked the stage to stop.
#[derive(Debug, thiserror::Error)]
#[error("interrupted; nothing was published, run it again to go on with this stage")]
pub struct Interrupted;

/// A process that was started for a part of the work did it; what remains needs all parts.
#[derive(Debug, thiserror::Error)]
#[error("the part is done")]
pub(crate) struct PartDone;

const USAGE: u8 = 2;
const RETRY: u8 = 75;
const FAILURE: u8 = 1;

/// Returns the exit code that the stage protocol gives `error`.
pub(crate) fn code_of(error: &anyhow::Error) -> ExitCode {
    let code = error
        .chain()
        .find_map(|cause| {
            if cause.is::<Retryable>() {
                Some(RETRY)
            } else if cause.is::<BadInput>() {
                Some(USAGE)
            } else {
                cause.downcast_ref::<ArtifactError>().map(artifact_code)
            }
        })
        .unwrap_or(FAILURE);
    ExitCode::from(code)
}

fn artifact_code(error: &ArtifactError) -> u8 {
    match error {
        ArtifactError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => USAGE,
        ArtifactError::Io { .. } | ArtifactError::Encode { .. } => FAILURE,
        _ => USAGE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_does_not_hide_the_kind() {
        let code = |error: anyhow::Error| format!("{:?}", code_of(&error));
        assert_eq!(
            code(anyhow::Error::new(BadInput::new("x")).context("y")),
            format!("{:?}", ExitCode::from(2))
        );
        assert_eq!(
            code(anyhow::Error::new(Retryable::new("x"))),
            format!("{:?}", ExitCode::from(75))
        );
        assert_eq!(
            code(anyhow::anyhow!("x")),
            format!("{:?}", ExitCode::from(1))
        );
    }
}
