//! The content-addressed store: bytes by their digest, action results by their key.
//!
//! ```text
//! format          the layout's version
//! cas/ab/abcd…    blobs, read-only, named by the digest of their bytes
//! ac/ab/abcd….json       action results: which blobs an action made
//! actions/ab/abcd….json  action documents: what was computed; the key is their digest
//! chunks/ab/abcd…/       empty files: which actions are pieces of the work of another
//! leases/abcd…    one lock file an action that is being computed
//! roots/abcd…     the folders of runs that use the store
//! pins/NAME.json  records of runs whose results are kept whatever becomes of their folders
//! tmp/            files and folders under construction
//! trash/          files on their way out, under the names that they had
//! quarantine/     damaged files, kept for a look
//! cache/          what can be deleted at any time: which blobs were verified, digests of inputs
//! ```
//!
//! Every file is written under `tmp/`, flushed, renamed to its name, and its folder flushed; an
//! action result is written after its blobs. A process killed at any moment therefore leaves
//! only debris under `tmp/`, which the next writer removes, and locks that the system drops.
//! A blob is verified on its first read, and again when its inode, size or change time differ
//! from those of the last verification (a modification time can be forged, a change time cannot).
//! Nothing is removed but by [`Store::gc`], which may work beside any number of writers.

mod actions;
mod blobs;
mod chunks;
mod documents;
mod error;
mod fsck;
mod gc;
mod holds;
mod lease;
mod run_folders;
mod scratch;
mod trash;
mod verified;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};

pub use actions::{ActionKey, ActionOutput, ActionResult, Blob, Chunk};
pub use error::StoreError;
pub use fsck::{FsckOptions, FsckReport, Problem, ProblemKind};
pub use gc::{GcOptions, GcReport, GcStep, Mark, Marks, Tally};
pub use lease::Lease;
pub use scratch::Scratch;

use crate::ArtifactError;
use crate::atomic_file::sync_folder;
use documents::write_file;
use holds::Holds;
use verified::VerifiedBlobs;

/// The layout's version, the content of `format`.
const FORMAT: &str = "sims-store 1";

/// The folders of the layout.
const FOLDERS: [&str; 11] = [
    "cas",
    "ac",
    "actions",
    "chunks",
    "leases",
    "roots",
    "pins",
    "tmp",
    "trash",
    "quarantine",
    "cache",
];

/// A store in one folder; cheap to open, safe to share between threads and processes.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    verified: Mutex<VerifiedBlobs>,
    /// Where small files are under construction; there since the first write.
    own_scratch: OnceLock<Scratch>,
    /// What this store relies on; there since the first hold.
    holds: Mutex<Option<Holds>>,
}

impl Store {
    /// Opens the store in `root`, which is made on the first write when it is absent.
    ///
    /// # Errors
    /// If the folder holds a store of an unknown format.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let root = std::path::absolute(root).map_err(|e| ArtifactError::io("find", root, e))?;
        check_format(&root)?;
        let verified = Mutex::new(VerifiedBlobs::new(root.join("cache/verified")));
        Ok(Self {
            root,
            verified,
            own_scratch: OnceLock::new(),
            holds: Mutex::new(None),
        })
    }

    /// Returns the store's folder, absolute.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the folder of things that can be deleted at any time.
    pub fn cache_folder(&self) -> PathBuf {
        self.root.join("cache")
    }

    /// Makes the layout when it is absent, clears debris of killed processes (once an opened
    /// store), and returns the folder for files under construction.
    fn prepare_to_write(&self) -> Result<&Path, StoreError> {
        if let Some(scratch) = self.own_scratch.get() {
            return Ok(scratch.path());
        }
        for folder in FOLDERS {
            create_folder(&self.root.join(folder))?;
        }
        self.remove_debris();
        let mut fresh = Some(self.new_scratch()?);
        // Of two threads that come here at once, one keeps its folder and the other's is removed.
        let scratch = self
            .own_scratch
            .get_or_init(|| fresh.take().expect("taken at most once"));
        let format = self.root.join("format");
        if !format.exists() {
            write_file(scratch.path(), &format, format!("{FORMAT}\n").as_bytes())?;
        }
        Ok(scratch.path())
    }

    /// Returns the path of `name` (64 hexadecimal digits) in `folder`: `folder/ab/abcd…`.
    fn fan_out(&self, folder: &str, name: &str, suffix: &str) -> PathBuf {
        self.root
            .join(folder)
            .join(&name[..2])
            .join(format!("{name}{suffix}"))
    }

    /// Writes `bytes` to `path` inside the store, whole or not at all.
    fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
        write_file(self.prepare_to_write()?, path, bytes)
    }

    /// Moves a damaged file to `quarantine/` and returns where it is.
    fn quarantine(&self, path: &Path) -> Result<PathBuf, StoreError> {
        self.prepare_to_write()?;
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let folder = self.root.join("quarantine");
        let target = (0..)
            .map(|number| folder.join(format!("{name}.{number}")))
            .find(|target| target.symlink_metadata().is_err())
            .expect("some number is free");
        match std::fs::rename(path, &target) {
            // Another process was faster.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(ArtifactError::io("quarantine", path, e).into()),
            Ok(()) => sync_folder(&folder)?,
        }
        Ok(target)
    }
}

/// Makes `folder` and its parents, each flushed into its parent.
fn create_folder(folder: &Path) -> Result<(), StoreError> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        create_folder(parent)?;
    }
    match std::fs::create_dir(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(ArtifactError::io("create", folder, e).into());
        }
        _ => {}
    }
    if let Some(parent) = folder.parent() {
        sync_folder(parent)?;
    }
    Ok(())
}

/// Lists a folder; one that is absent is empty.
fn list(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|e| ArtifactError::io("open", folder, e))?,
    };
    entries
        .map(|entry| {
            Ok(entry
                .map_err(|e| ArtifactError::io("list", folder, e))?
                .path())
        })
        .collect()
}

fn check_format(root: &Path) -> Result<(), StoreError> {
    let path = root.join("format");
    match std::fs::read_to_string(&path) {
        Ok(text) if text.trim_end() == FORMAT => Ok(()),
        Ok(text) => Err(StoreError::UnsupportedFormat {
            path,
            found: text.trim_end().chars().take(40).collect(),
            supported: FORMAT,
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(ArtifactError::io("read", &path, e).into()),
    }
}

#[cfg(test)]
mod gc_tests;
#[cfg(test)]
mod tests;
