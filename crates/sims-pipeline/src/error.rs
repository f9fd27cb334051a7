//! What can go wrong between a pipeline file and its results.

use std::path::{Path, PathBuf};

use sims_artifact::ArtifactError;
use sims_artifact::store::StoreError;

use crate::yaml::{Diagnostic, Diagnostics};

/// A pipeline that could not be read, planned or run.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The pipeline file, or something that it names, is wrong: the user mends it.
    #[error(transparent)]
    Invalid(#[from] Diagnostics),
    /// What was asked for is not in the pipeline.
    #[error("{0}")]
    Usage(String),
    /// A scheduler of a cluster could not be reached, or refused.
    #[error("{0}")]
    Scheduler(String),
    /// The operating system refused.
    #[error("cannot {action} {path}{}", full_disk(source))]
    Io {
        /// What was being done.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An artifact could not be read.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

impl PipelineError {
    /// Wraps an operating-system error with the path it is about.
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether the user can mend it by changing the pipeline file, its data, or the command.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Invalid(_) | Self::Usage(_) => true,
            Self::Io { source, .. } => source.kind() == std::io::ErrorKind::NotFound,
            Self::Store(error) => matches!(error, StoreError::UnsupportedFormat { .. }),
            Self::Artifact(_) | Self::Scheduler(_) => false,
        }
    }
}

impl From<Diagnostic> for PipelineError {
    fn from(diagnostic: Diagnostic) -> Self {
        Self::Invalid(diagnostic.into())
    }
}

fn full_disk(error: &std::io::Error) -> &'static str {
    if error.kind() == std::io::ErrorKind::StorageFull {
        ": the disk is full; free some space and run again, nothing finished is lost"
    } else {
        ""
    }
}
