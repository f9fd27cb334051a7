//! What can go wrong with an artifact, by what the caller can do about it.

use std::path::{Path, PathBuf};

/// An artifact that could not be read, written or understood.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    /// The operating system refused: missing file, no permission, full disk.
    #[error("cannot {action} {path}{}", disk_full_hint(source))]
    Io {
        /// What was being done: `read`, `write`, …
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The bytes are not a whole Parquet file.
    #[error("{path} is not a readable Parquet file (cut short or damaged?): {message}")]
    NotParquet {
        /// The file.
        path: PathBuf,
        /// The reader's message.
        message: String,
    },
    /// The bytes are not a whole safetensors file.
    #[error("{path} is not a readable safetensors file (cut short or damaged?): {message}")]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// The reader's message.
        message: String,
    },
    /// The file holds another kind of artifact.
    #[error("{path} holds `{found}`, but `{expected}` is needed")]
    WrongSchema {
        /// The file.
        path: PathBuf,
        /// The schema id asked for.
        expected: &'static str,
        /// The schema id found.
        found: String,
    },
    /// A column that the schema requires is absent.
    #[error("{path} has no column `{column}`, which `{schema}` requires; its columns are {found}")]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The absent column.
        column: String,
        /// The schema asked for.
        schema: &'static str,
        /// The columns that are there.
        found: String,
    },
    /// A required value is null.
    #[error("{path}: column `{column}` is null in row {row}, but `{schema}` requires a value")]
    NullValue {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// The row, from 0.
        row: usize,
        /// The schema asked for.
        schema: &'static str,
    },
    /// A column's values do not fit its type.
    #[error("{path} does not fit `{schema}`: {message}")]
    Decode {
        /// The file.
        path: PathBuf,
        /// The schema asked for.
        schema: &'static str,
        /// What did not fit.
        message: String,
    },
    /// A table of prompts is empty.
    #[error("{path} has no rows; give a table with at least one prompt")]
    NoPrompts {
        /// The file.
        path: PathBuf,
    },
    /// Two rows of a table of prompts carry one id.
    #[error("{path} holds prompt {prompt_id} more than once; keep one of its rows")]
    RepeatedPrompt {
        /// The file.
        path: PathBuf,
        /// The prompt.
        prompt_id: String,
    },
    /// Rows could not be turned into columns.
    #[error("cannot encode rows as `{schema}`: {message}")]
    Encode {
        /// The schema asked for.
        schema: &'static str,
        /// What failed.
        message: String,
    },
    /// A tensor is absent.
    #[error("{path} has no tensor `{tensor}`")]
    MissingTensor {
        /// The file.
        path: PathBuf,
        /// The absent tensor.
        tensor: String,
    },
    /// A tensor has an unexpected shape, dtype or value.
    #[error("{path}: tensor `{tensor}` {message}")]
    BadTensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        message: String,
    },
    /// A folder is not a model.
    #[error("{path} is not a model folder: {message}")]
    NotAModel {
        /// The folder.
        path: PathBuf,
        /// What is missing.
        message: String,
    },
    /// A text is not a digest.
    #[error("`{0}` is not a digest (64 hexadecimal digits)")]
    BadDigest(String),
}

fn disk_full_hint(error: &std::io::Error) -> &'static str {
    if error.kind() == std::io::ErrorKind::StorageFull {
        ": the disk is full; free some space and run again, nothing finished is lost"
    } else {
        ""
    }
}

impl ArtifactError {
    /// Wraps an operating-system error with the path it is about.
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: std::io::Error) -> Self {
        Self::Io {
            action,
            path: path.as_ref().to_owned(),
            source,
        }
    }
}
