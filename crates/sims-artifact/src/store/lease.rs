//! Leases: one process at a time computes an action.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{ActionKey, Store, StoreError};
use crate::ArtifactError;

/// The right to compute an action; given back when dropped, and by the system when the process dies.
#[derive(Debug)]
pub struct Lease {
    /// The lock is held while this is open.
    _file: File,
    path: PathBuf,
}

impl Store {
    /// Takes the lease of an action, or returns `None` while another process holds it.
    ///
    /// Whoever gets it looks for the action's result again before computing: the former holder
    /// may have published it. `gc` keeps what comes out as long as this store is open.
    ///
    /// # Errors
    /// If the lock file cannot be made.
    pub fn try_lease(&self, key: &ActionKey) -> Result<Option<Lease>, StoreError> {
        self.prepare_to_write()?;
        self.hold(key)?;
        let path = self.root.join("leases").join(key.to_string());
        Ok(lock_file(&path)?.map(|file| Lease { _file: file, path }))
    }

    /// Tells whether some process is computing the action.
    pub fn is_leased(&self, key: &ActionKey) -> bool {
        let path = self.root.join("leases").join(key.to_string());
        match File::open(path) {
            Ok(file) => matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)),
            Err(_) => false,
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Removed while locked: whoever waits on this file sees that the name is gone and starts over.
        let _left_for_later = std::fs::remove_file(&self.path);
    }
}

/// Creates and locks the file at `path`, or returns `None` when another process holds the lock.
pub(super) fn lock_file(path: &Path) -> Result<Option<File>, StoreError> {
    loop {
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(|e| ArtifactError::io("create", path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(ArtifactError::io("lock", path, e).into()),
        }
        // The former holder may have removed the name between opening and locking.
        let locked = file
            .metadata()
            .map_err(|e| ArtifactError::io("find", path, e))?;
        if path
            .metadata()
            .is_ok_and(|named| named.ino() == locked.ino())
        {
            // For people who look into the folder; nothing reads it.
            let _note = writeln!(file, "{}", std::process::id());
            return Ok(Some(file));
        }
    }
}
