//! The trash: files that `gc` moved out of the way, for a while.

use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::documents::read_if_present;
use super::{ActionKey, ActionResult, Store, StoreError, create_folder, list};
use crate::ArtifactError;
use crate::atomic_file::sync_folder;

impl Store {
    /// Brings an action that `gc` moved to the trash back, with its blobs; `false` when it is not there, or not whole.
    ///
    /// # Errors
    /// If a file cannot be moved.
    pub fn restore(&self, key: &ActionKey) -> Result<bool, StoreError> {
        let place = self.fan_out("ac", &key.to_string(), ".json");
        let Some(bytes) = read_if_present(&self.trash_path(&place))? else {
            return Ok(false);
        };
        let Ok(result) = ActionResult::from_record(key, &bytes) else {
            return Ok(false);
        };
        self.hold(key)?;
        for (_, digest) in result.blobs() {
            self.hold_blob(&digest)?;
            if !self.has(&digest)? {
                self.fetch_from_trash(&self.blob_path(&digest))?;
                if !self.has(&digest)? {
                    return Ok(false);
                }
            }
        }
        // Last, so that a result is never there without its blobs.
        self.fetch_from_trash(&place)?;
        Ok(place.exists())
    }

    /// Moves a file back to its place; one that is not in the trash any more stays away.
    fn fetch_from_trash(&self, place: &Path) -> Result<(), StoreError> {
        let folder = place.parent().expect("files of a store lie in its folder");
        create_folder(folder)?;
        match std::fs::rename(self.trash_path(place), place) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            Err(e) => Err(ArtifactError::io("restore", place, e).into()),
            Ok(()) => Ok(sync_folder(folder)?),
        }
    }

    /// Returns where a file of the store lies while it is in the trash.
    pub(super) fn trash_path(&self, place: &Path) -> PathBuf {
        let inside = place.strip_prefix(&self.root).unwrap_or(place);
        self.root.join("trash").join(inside)
    }

    /// Lists the folders of the trash that hold files.
    pub(super) fn trash_folders(&self) -> Result<Vec<PathBuf>, StoreError> {
        let mut folders = Vec::new();
        for kind in ["ac", "actions", "cas"] {
            folders.extend(list(&self.root.join("trash").join(kind))?);
        }
        Ok(folders)
    }
}

/// Returns when a file last changed, was renamed, or was linked; no program can set that.
pub(super) fn changed_at(metadata: &Metadata) -> SystemTime {
    let seconds = Duration::from_secs(metadata.ctime().unsigned_abs());
    let nanos = Duration::from_nanos(metadata.ctime_nsec().unsigned_abs());
    SystemTime::UNIX_EPOCH + seconds + nanos
}
