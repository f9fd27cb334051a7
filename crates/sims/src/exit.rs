//! How `sims` ends.

use std::process::ExitCode;

use sims_pipeline::PipelineError;

/// The exit codes of `sims`; those of stages mean the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Everything succeeded.
    Success,
    /// Something failed.
    Failure,
    /// The command, the pipeline file or its data is wrong.
    Usage,
    /// The user asked to stop.
    Interrupted,
}

/// The command is at fault.
#[derive(Debug)]
pub(crate) struct UsageError(pub(crate) String);

impl std::fmt::Display for UsageError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

impl Exit {
    /// Returns the exit code that says who can mend `error`.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        let is_usage = error.chain().any(|cause| {
            cause.is::<UsageError>() || cause.downcast_ref().is_some_and(PipelineError::is_usage)
        });
        if is_usage { Self::Usage } else { Self::Failure }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Success => 0,
            Exit::Failure => 1,
            Exit::Usage => 2,
            Exit::Interrupted => 130,
        })
    }
}
