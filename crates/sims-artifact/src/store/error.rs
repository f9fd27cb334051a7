//! What can go wrong with the store.

use std::path::PathBuf;

use super::ActionKey;
use crate::{ArtifactError, Digest};

/// A store that could not be read or written, or that holds damaged bytes.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The operating system refused; the message names the path, and what to do about a full disk.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// The store was made by another version.
    #[error(
        "{path} says `{found}`, but this program reads `{supported}`: choose another folder with --store"
    )]
    UnsupportedFormat {
        /// The file that holds the version.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What is understood.
        supported: &'static str,
    },
    /// A blob that should be there is not.
    #[error("the store has no blob {0}")]
    MissingBlob(Digest),
    /// A blob's bytes do not have its digest; it was moved aside.
    #[error("blob {digest} is damaged; it was moved to {quarantined}")]
    DamagedBlob {
        /// The digest that the bytes should have.
        digest: Digest,
        /// Where the damaged file is.
        quarantined: PathBuf,
    },
    /// An action result or document is damaged; it was moved aside.
    #[error("the record of action {key} is damaged ({message}); it was moved to {quarantined}")]
    DamagedRecord {
        /// The action.
        key: ActionKey,
        /// What is wrong with it.
        message: String,
        /// Where the damaged file is.
        quarantined: PathBuf,
    },
    /// A file to add under a known digest holds something else.
    #[error("bytes that should have the digest {expected} have {found}")]
    OtherBytes {
        /// The digest that was asked for.
        expected: Digest,
        /// The digest of the file.
        found: Digest,
    },
    /// A file to add is a folder, a pipe, or another special file.
    #[error("{0} is not a regular file")]
    NotAFile(PathBuf),
    /// A file to add changed while it was read.
    #[error("{0} changed while it was being stored: something still writes to it")]
    StillWritten(PathBuf),
}
