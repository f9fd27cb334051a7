//! Blobs: adding bytes, and reading them back verified.

use std::fs::{File, Metadata};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::verified::FileLook;
use super::{Blob, Store, StoreError, create_folder};
use crate::atomic_file::sync_folder;
use crate::{ArtifactError, Digest};

impl Store {
    /// Returns where the blob lies, whether it exists or not.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.fan_out("cas", &digest.to_string(), "")
    }

    /// Returns the path of a blob whose bytes are known to be whole.
    ///
    /// The bytes are hashed on the first read, and again when the file looks different.
    ///
    /// # Errors
    /// [`StoreError::MissingBlob`], or [`StoreError::DamagedBlob`] after moving the file to
    /// `quarantine/`: both mean that whatever made the blob has to run again.
    pub fn blob(&self, digest: &Digest) -> Result<PathBuf, StoreError> {
        let path = self.blob_path(digest);
        let metadata = match path.symlink_metadata() {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(StoreError::MissingBlob(*digest));
            }
            Err(e) => return Err(ArtifactError::io("find", &path, e).into()),
        };
        let look = FileLook::of(&metadata);
        if self.lock_verified().look(digest) == Some(look) {
            return Ok(path);
        }
        if metadata.is_file() && Digest::of_file(&path)? == *digest {
            // Remembered as it looked before the hashing: a change meanwhile is then noticed.
            self.lock_verified().remember(digest, look);
            return Ok(path);
        }
        let quarantined = self.quarantine(&path)?;
        Err(StoreError::DamagedBlob {
            digest: *digest,
            quarantined,
        })
    }

    /// Moves the file at `path` into the store and returns its digest and size.
    ///
    /// `path` should lie in a [`Scratch`](super::Scratch) folder; from another file system it is copied.
    ///
    /// # Errors
    /// If the file is not a regular file, is still written to, or cannot be read or moved.
    pub fn add_file(&self, path: &Path) -> Result<Blob, StoreError> {
        self.prepare_to_write()?;
        let metadata = regular_file(path)?;
        if metadata.nlink() > 1 || metadata.file_type().is_symlink() {
            // Someone else has a name for these bytes and could change them.
            return self.add_copy(path);
        }
        let digest = Digest::of_file(path)?;
        let after = regular_file(path)?;
        if FileLook::of(&after) != FileLook::of(&metadata) {
            return Err(StoreError::StillWritten(path.to_owned()));
        }
        let blob = Blob {
            digest,
            bytes: metadata.len(),
        };
        self.hold_blob(&digest)?;
        if self.has(&digest)? {
            std::fs::remove_file(path).map_err(|e| ArtifactError::io("remove", path, e))?;
            return Ok(blob);
        }
        make_durable(path)?;
        let target = self.blob_path(&digest);
        let folder = target.parent().expect("a blob lies in a folder");
        create_folder(folder)?;
        match std::fs::rename(path, &target) {
            Err(e) if e.kind() == std::io::ErrorKind::CrossesDevices => return self.add_copy(path),
            other => other.map_err(|e| ArtifactError::io("store", &target, e))?,
        }
        sync_folder(folder)?;
        let metadata = regular_file(&target)?;
        self.lock_verified()
            .remember(&digest, FileLook::of(&metadata));
        Ok(blob)
    }

    /// Stores a copy of the file at `path`, which stays, and returns its digest and size.
    ///
    /// # Errors
    /// As [`add_file`](Self::add_file).
    pub fn add_copy(&self, path: &Path) -> Result<Blob, StoreError> {
        let copy = self.scratch()?;
        let target = copy.path().join("copy");
        std::fs::copy(path, &target).map_err(|e| ArtifactError::io("copy", path, e))?;
        self.add_file(&target)
    }

    /// Tells whether the blob is there and whole; a damaged one is quarantined.
    pub(super) fn has(&self, digest: &Digest) -> Result<bool, StoreError> {
        match self.blob(digest) {
            Ok(_) => Ok(true),
            Err(StoreError::MissingBlob(_) | StoreError::DamagedBlob { .. }) => Ok(false),
            Err(other) => Err(other),
        }
    }

    pub(super) fn lock_verified(&self) -> std::sync::MutexGuard<'_, super::VerifiedBlobs> {
        // The cache stays valid whatever a panicking thread was doing with it.
        self.verified
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Returns the metadata of a regular file, or of a link to one.
fn regular_file(path: &Path) -> Result<Metadata, StoreError> {
    let own = path
        .symlink_metadata()
        .map_err(|e| ArtifactError::io("find", path, e))?;
    if own.is_file() {
        return Ok(own);
    }
    let target = path
        .metadata()
        .map_err(|e| ArtifactError::io("find", path, e))?;
    if own.is_symlink() && target.is_file() {
        return Ok(own);
    }
    Err(StoreError::NotAFile(path.to_owned()))
}

/// Makes the file read-only and flushes it to the disk.
fn make_durable(path: &Path) -> Result<(), StoreError> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o444))
        .and_then(|()| File::open(path))
        .and_then(|file| file.sync_all())
        .map_err(|e| ArtifactError::io("flush", path, e).into())
}
