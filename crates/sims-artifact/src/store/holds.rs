//! Holds: what a process relies on, so that `gc` leaves it.
//!
//! A process notes an action before it looks for its result, and a blob before it looks whether
//! the bytes are there already. The list lies in its scratch folder and lasts as long as the
//! process; see [`gc`](super::gc) for why that is enough.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

use super::documents::read_if_present;
use super::{ActionKey, Store, StoreError, list};
use crate::{ArtifactError, Digest};

/// The name of a list in a scratch folder.
pub(super) const LIST: &str = "held";
/// Locked shared to note a hold, exclusive to move a batch of files away.
const SWEEP_LOCK: &str = "sweep.lock";
/// Locked exclusive for a whole `gc`, shared to remove a list of holds.
const GC_LOCK: &str = "gc.lock";

/// Something that a process relies on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Held {
    /// An action with whatever its result names.
    Action(ActionKey),
    /// A blob that no result names yet.
    Blob(Digest),
}

/// The holds of an open store.
#[derive(Debug)]
pub(super) struct Holds {
    sweep: File,
    list: File,
    noted: HashSet<Held>,
}

impl Store {
    /// Keeps an action, and all that its result names or will name, until this process closes the store.
    ///
    /// Called before the result is looked for. A store that this process may not write to holds nothing.
    ///
    /// # Errors
    /// If the note cannot be written.
    pub fn hold(&self, key: &ActionKey) -> Result<(), StoreError> {
        match self.note(Held::Action(*key)) {
            Err(error) if is_read_only(&error) => Ok(()),
            other => other,
        }
    }

    /// Keeps a blob until this process closes the store.
    pub(super) fn hold_blob(&self, digest: &Digest) -> Result<(), StoreError> {
        self.note(Held::Blob(*digest))
    }

    fn note(&self, held: Held) -> Result<(), StoreError> {
        // The list stays valid whatever a panicking thread was doing with it.
        let mut holds = self
            .holds
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let holds = match &mut *holds {
            Some(holds) => holds,
            none => none.insert(self.start_holds()?),
        };
        if holds.noted.contains(&held) {
            return Ok(());
        }
        let line = match held {
            Held::Action(key) => format!("action {key}\n"),
            Held::Blob(digest) => format!("blob {digest}\n"),
        };
        let fault = |e| ArtifactError::io("note what is used in", &self.root, e);
        holds.sweep.lock_shared().map_err(fault)?;
        let written = holds.list.write_all(line.as_bytes());
        holds.sweep.unlock().map_err(fault)?;
        written.map_err(fault)?;
        holds.noted.insert(held);
        Ok(())
    }

    fn start_holds(&self) -> Result<Holds, StoreError> {
        let path = self.prepare_to_write()?.join(LIST);
        let list = OpenOptions::new()
            .append(true)
            .create(true)
            .open(&path)
            .map_err(|e| ArtifactError::io("create", &path, e))?;
        Ok(Holds {
            sweep: self.open_sweep_lock()?,
            list,
            noted: HashSet::new(),
        })
    }

    /// Returns what processes hold: those that live, and those whose list is still there.
    pub(super) fn held(&self) -> Result<Vec<Held>, StoreError> {
        let mut held = Vec::new();
        for folder in list(&self.root.join("tmp"))? {
            let path = folder.join(LIST);
            let bytes = match folder.is_dir() {
                true => read_if_present(&path)?.unwrap_or_default(),
                false => continue,
            };
            // A torn line is one that a process died over, before it relied on anything.
            held.extend(String::from_utf8_lossy(&bytes).lines().filter_map(parse));
        }
        Ok(held)
    }

    /// Opens the lock that is taken shared to note something that counts, and exclusive to remove files.
    pub(super) fn open_sweep_lock(&self) -> Result<File, StoreError> {
        open_lock(&self.root.join(SWEEP_LOCK))
    }

    /// Opens the lock that a `gc` holds while it works.
    pub(super) fn open_gc_lock(&self) -> Result<File, StoreError> {
        open_lock(&self.root.join(GC_LOCK))
    }
}

/// Returns a guard under which lists of holds in the store at `root` may be removed; none while a
/// `gc` is at work, which may have to see them.
pub(super) fn may_forget_holds(root: &Path) -> Option<File> {
    let file = open_lock(&root.join(GC_LOCK)).ok()?;
    file.try_lock_shared().is_ok().then_some(file)
}

/// Tells whether the operating system refused because the store is not to be written.
pub(super) fn is_read_only(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Artifact(ArtifactError::Io { source, .. })
            if matches!(source.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
    )
}

fn open_lock(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .map_err(|e| ArtifactError::io("create", path, e).into())
}

fn parse(line: &str) -> Option<Held> {
    let (kind, digest) = line.split_once(' ')?;
    let digest: Digest = digest.parse().ok()?;
    match kind {
        "action" => Some(Held::Action(digest.into())),
        "blob" => Some(Held::Blob(digest)),
        _ => None,
    }
}
