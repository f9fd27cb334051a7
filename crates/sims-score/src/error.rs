//! What can be wrong with the files of a benchmark.

use std::path::{Path, PathBuf};

use sims_artifact::ArtifactError;
use sims_endpoint::EndpointError;
use sims_stats::StatsError;

/// Why there is no score.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// A file could not be read or written.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The numbers of a file have no such statistic.
    #[error("{path}: {source}")]
    Statistics {
        /// The file.
        path: PathBuf,
        /// What is wrong with the numbers.
        source: StatsError,
    },
    /// A file as a whole is not what was asked for.
    #[error("{path}: {message}")]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// A column is absent.
    #[error("{path} has no column `{column}`; its columns are {found}")]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The absent column, or the names that would do.
        column: String,
        /// The columns that are there.
        found: String,
    },
    /// A row is not what was asked for.
    #[error("{path}, row {row}: {message}")]
    Row {
        /// The file.
        path: PathBuf,
        /// The row, from 0; of a JSON Lines file the line that is not empty.
        row: usize,
        /// What is wrong, and what would be right.
        message: String,
    },
    /// The judge's server did not answer.
    #[error(
        "no verdict on `{instruction}`: {reason}; answers so far are kept in {kept}, run it again for the rest"
    )]
    Unanswered {
        /// The beginning of the instruction.
        instruction: String,
        /// Why.
        reason: EndpointError,
        /// The file that holds the answers so far.
        kept: PathBuf,
    },
    /// The judge answered something else.
    #[error("no verdict on `{instruction}`: {message}; answers so far are kept in {kept}")]
    NoVerdict {
        /// The beginning of the instruction.
        instruction: String,
        /// What it answered, and what would help.
        message: String,
        /// The file that holds the answers so far.
        kept: PathBuf,
    },
    /// Somebody stopped the run.
    #[error(
        "interrupted: {answered} of {asked} answers are kept in {kept}; the same command goes on from there"
    )]
    Interrupted {
        /// Answers that are kept.
        answered: usize,
        /// Questions in all.
        asked: usize,
        /// The file that holds the answers so far.
        kept: PathBuf,
    },
    /// A value is not what was asked for.
    #[error("{path}, row {row}, column `{column}`: {message}")]
    Cell {
        /// The file.
        path: PathBuf,
        /// The row, from 0.
        row: usize,
        /// The column.
        column: String,
        /// What is wrong, and what would be right.
        message: String,
    },
}

impl ScoreError {
    /// Makes an error about a whole file.
    pub fn file(path: &Path, message: impl Into<String>) -> Self {
        Self::File {
            path: path.to_owned(),
            message: message.into(),
        }
    }

    /// Makes an error about the numbers of a file.
    pub(crate) fn statistics(path: &Path) -> impl Fn(StatsError) -> Self {
        move |source| Self::Statistics {
            path: path.to_owned(),
            source,
        }
    }
}
