//! Which runs use the store: folders of views, and pins.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::documents::read_if_present;
use super::holds::is_read_only;
use super::{Store, StoreError, create_folder, list};
use crate::{ArtifactError, Digest};

impl Store {
    /// Notes that the run in `folder` uses the store, so that `gc` keeps what it needs; makes the folder.
    ///
    /// A store that this process may not write to notes nothing.
    ///
    /// # Errors
    /// If the folder cannot be made or the note cannot be written.
    pub fn register_run(&self, folder: &Path) -> Result<(), StoreError> {
        let folder =
            std::path::absolute(folder).map_err(|e| ArtifactError::io("find", folder, e))?;
        create_folder(&folder)?;
        let bytes = folder.as_os_str().as_bytes();
        let path = self
            .root
            .join("roots")
            .join(Digest::of_bytes(bytes).to_string());
        let write = || {
            self.prepare_to_write()?;
            // A `gc` that finds the folder gone removes the note under the same lock.
            let lock = self.open_sweep_lock()?;
            lock.lock_shared()
                .map_err(|e| ArtifactError::io("lock", &self.root, e))?;
            create_folder(&folder)?;
            match read_if_present(&path)?.as_deref() == Some(bytes) {
                true => Ok(()),
                false => self.write_file(&path, bytes),
            }
        };
        match write() {
            Err(error) if is_read_only(&error) => Ok(()),
            other => other,
        }
    }

    /// Lists the folders of runs that were registered, sorted; some may be gone.
    ///
    /// # Errors
    /// If the notes cannot be read.
    pub fn registered_runs(&self) -> Result<Vec<PathBuf>, StoreError> {
        let mut folders: Vec<PathBuf> = self
            .run_notes()?
            .into_iter()
            .map(|(_, folder)| folder)
            .collect();
        folders.sort();
        Ok(folders)
    }

    /// Removes the notes of runs whose folders are gone, and returns these folders. The caller keeps notes from being
    /// written meanwhile.
    pub(super) fn forget_gone_runs(&self) -> Result<Vec<PathBuf>, StoreError> {
        let mut gone = self.gone_runs()?;
        for (note, _) in &gone {
            std::fs::remove_file(note).map_err(|e| ArtifactError::io("remove", note, e))?;
        }
        gone.sort();
        Ok(gone.into_iter().map(|(_, folder)| folder).collect())
    }

    /// Returns the notes of runs whose folders are gone; a folder that cannot be looked at is not gone.
    pub(super) fn gone_runs(&self) -> Result<Vec<(PathBuf, PathBuf)>, StoreError> {
        let mut notes = self.run_notes()?;
        notes.retain(|(_, folder)| matches!(folder.try_exists(), Ok(false)));
        Ok(notes)
    }

    fn run_notes(&self) -> Result<Vec<(PathBuf, PathBuf)>, StoreError> {
        let mut notes = Vec::new();
        for note in list(&self.root.join("roots"))? {
            if let Some(bytes) = read_if_present(&note)? {
                notes.push((note, PathBuf::from(OsString::from_vec(bytes))));
            }
        }
        Ok(notes)
    }

    /// Keeps a copy of a run's record under `name`, replacing the one that has this name.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn pin(&self, name: &str, record: &[u8]) -> Result<(), StoreError> {
        self.write_file(&self.pin_path(name), record)
    }

    /// Removes a pin; `false` when there is none of this name.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn unpin(&self, name: &str) -> Result<bool, StoreError> {
        let path = self.pin_path(name);
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(ArtifactError::io("remove", &path, e).into()),
        }
    }

    /// Lists the pins by name, each with the file of its record.
    ///
    /// # Errors
    /// If they cannot be listed.
    pub fn pins(&self) -> Result<Vec<(String, PathBuf)>, StoreError> {
        let mut pins: Vec<(String, PathBuf)> = list(&self.root.join("pins"))?
            .into_iter()
            .filter_map(|path| {
                let name = path.file_name()?.to_str()?.strip_suffix(".json")?;
                Some((name.to_owned(), path.clone()))
            })
            .collect();
        pins.sort();
        Ok(pins)
    }

    fn pin_path(&self, name: &str) -> PathBuf {
        self.root.join("pins").join(format!("{name}.json"))
    }
}
