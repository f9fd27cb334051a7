//! Scratch folders: where a stage writes before its outputs are stored.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::holds::{self, may_forget_holds};
use super::lease::lock_file;
use super::{Store, StoreError};
use crate::ArtifactError;

/// A folder under `tmp/`, removed when dropped, or by the next writer when this process dies.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    lock_path: PathBuf,
    /// Held while the folder is in use.
    _lock: File,
}

impl Scratch {
    /// Returns the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _nothing_held = match self.path.join(holds::LIST).exists() {
            true => match may_forget_holds(store_of(&self.path)) {
                Some(guard) => Some(guard),
                // The next writer removes the folder.
                None => return,
            },
            false => None,
        };
        let _left_for_later = std::fs::remove_dir_all(&self.path);
        let _left_for_later = std::fs::remove_file(&self.lock_path);
    }
}

/// Returns the store's folder: that of `tmp/`, in which a scratch folder lies.
fn store_of(scratch: &Path) -> &Path {
    scratch.ancestors().nth(2).unwrap_or(scratch)
}

impl Store {
    /// Makes an empty folder in the store's file system.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn scratch(&self) -> Result<Scratch, StoreError> {
        self.prepare_to_write()?;
        self.new_scratch()
    }

    /// Makes an empty folder in `tmp/`, which exists.
    pub(super) fn new_scratch(&self) -> Result<Scratch, StoreError> {
        let folder = self.root.join("tmp");
        for number in 0_u64.. {
            let name = format!("scratch-{}-{number}", std::process::id());
            let lock_path = folder.join(format!("{name}.lock"));
            let Some(lock) = lock_file(&lock_path)? else {
                continue;
            };
            let path = folder.join(name);
            match std::fs::create_dir(&path) {
                Ok(()) => {
                    return Ok(Scratch {
                        path,
                        lock_path,
                        _lock: lock,
                    });
                }
                // Left by a dead process that had our id.
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                    let Some(_guard) = may_forget_holds(&self.root) else {
                        continue;
                    };
                    let _left_for_later = std::fs::remove_dir_all(&path);
                    let _left_for_later = std::fs::remove_file(&lock_path);
                }
                Err(e) => return Err(ArtifactError::io("create", &path, e).into()),
            }
        }
        unreachable!("some number is free")
    }

    /// Removes what processes that died left under `tmp/`; what is locked is in use and stays, and
    /// so does everything while a `gc` is at work.
    pub(super) fn remove_debris(&self) {
        let folder = self.root.join("tmp");
        let Ok(entries) = std::fs::read_dir(&folder) else {
            return;
        };
        let Some(_guard) = may_forget_holds(&self.root) else {
            return;
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let name = name.strip_suffix(".lock").unwrap_or(&name);
            let lock_path = folder.join(format!("{name}.lock"));
            if name.starts_with("scratch-")
                && let Ok(Some(_lock)) = lock_file(&lock_path)
            {
                let _left_for_later = std::fs::remove_dir_all(folder.join(name));
                let _left_for_later = std::fs::remove_file(&lock_path);
            }
        }
    }
}
