//! `gc`: moves what nobody needs to the trash, and deletes what has lain there for a while.
//!
//! What is needed is marked: by the caller, from the records of runs and from pins, and here, from
//! the [holds](super::holds) of processes. Three rules make it safe beside running pipelines, at
//! any age limit:
//!
//! 1. A process notes an action before it looks for the result, and a blob before it looks whether
//!    it has to bring the bytes, under a lock that it shares with other processes. Files are
//!    moved in batches under the same lock held alone, each after marking anew. So a file is moved
//!    before the note, and is then not found, or the note is seen, and the file stays.
//! 2. While a `gc` is at work, lists of holds are not removed, even when their processes end.
//!    Whatever was published since it began is therefore held or in a record that is read later:
//!    holds are read before records.
//! 3. Results go before documents, and these before blobs; a result that stays, for whatever
//!    reason, marks its blobs. So no result is ever without blobs, wherever a `gc` is killed.
//!
//! Two `gc` work one after the other. Memory is a set of digests, and the names of one folder.

use std::collections::HashSet;
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use super::actions::parse_result;
use super::documents::read_if_present;
use super::holds::Held;
use super::trash::changed_at;
use super::{ActionKey, Store, StoreError, create_folder, list};
use crate::atomic_file::sync_folder;
use crate::{ArtifactError, Digest};

/// Files moved between two looks at what is needed: a run waits for no longer than that takes.
const BATCH: usize = 1000;

/// What to collect.
#[derive(Debug, Clone, Copy)]
pub struct GcOptions {
    /// Only files that last changed before this are moved, or deleted from the trash.
    pub before: SystemTime,
    /// Whether everything in the trash is deleted at the end, old or not.
    pub empty_trash: bool,
    /// Whether files are only counted.
    pub dry_run: bool,
}

/// A number of files, and their size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Files.
    pub files: u64,
    /// Their size. Unit: bytes.
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes += bytes;
    }
}

/// What a collection did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// What runs, pins and processes need.
    pub kept: Tally,
    /// What nobody needs, but changed too lately.
    pub young: Tally,
    /// What was moved to the trash.
    pub moved: Tally,
    /// What was deleted from the trash: the space that is free again.
    pub deleted: Tally,
    /// Registered runs whose folders are gone, and which count no more.
    pub gone_runs: Vec<PathBuf>,
}

/// What a collection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GcStep {
    /// Another one is at work.
    Waiting,
    /// So many folders of so many were gone through.
    Folder {
        /// Folders done.
        done: usize,
        /// Folders in all.
        total: usize,
    },
}

/// What is needed.
#[derive(Debug)]
pub struct Marks<'a> {
    store: &'a Store,
    documents: HashSet<ActionKey>,
    results: HashSet<ActionKey>,
    /// Those of `results` whose blobs are marked.
    read: HashSet<ActionKey>,
    blobs: HashSet<Digest>,
}

impl Marks<'_> {
    /// Marks an action's document: what was computed, not what came out.
    pub fn keep_document(&mut self, key: ActionKey) {
        self.documents.insert(key);
    }

    /// Marks an action's document and result, and every blob that it names.
    ///
    /// # Errors
    /// If the result is there and cannot be read.
    pub fn keep_result(&mut self, key: ActionKey) -> Result<(), StoreError> {
        self.documents.insert(key);
        self.results.insert(key);
        if self.read.contains(&key) {
            return Ok(());
        }
        let path = self.store.fan_out("ac", &key.to_string(), ".json");
        if let Some(bytes) = read_if_present(&path)?
            // A damaged result names nothing; fsck says so, and a run computes it again.
            && let Ok(result) = parse_result(&key, &bytes)
        {
            self.blobs.extend(result.blobs().map(|(_, digest)| digest));
            self.read.insert(key);
            // Pieces have no pieces.
            for chunk in result.chunks {
                self.keep_result(chunk)?;
            }
        }
        Ok(())
    }

    /// Marks a blob.
    pub fn keep_blob(&mut self, digest: Digest) {
        self.blobs.insert(digest);
    }

    fn has(&self, kind: Kind, name: Digest) -> bool {
        match kind {
            Kind::Result => self.results.contains(&name.into()),
            Kind::Document => self.documents.contains(&name.into()),
            Kind::Blob => self.blobs.contains(&name),
        }
    }
}

/// The kinds of files, in the order in which they are gone through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Result,
    Document,
    Blob,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Result, Self::Document, Self::Blob];

    fn folder(self) -> &'static str {
        match self {
            Self::Result => "ac",
            Self::Document => "actions",
            Self::Blob => "cas",
        }
    }

    /// Reads the digest that a file is named by; none for a stray file, which is for fsck to report.
    fn name_of(self, path: &Path) -> Option<Digest> {
        let name = path.file_name()?.to_str()?;
        match self {
            Self::Blob => name.parse().ok(),
            Self::Result | Self::Document => name.strip_suffix(".json")?.parse().ok(),
        }
    }
}

/// What marks what runs and pins need; called again before every batch.
pub type Mark<'a, E> = dyn FnMut(&mut Marks<'_>) -> Result<(), E> + 'a;

impl Store {
    /// Moves what is neither marked nor young to the trash, and deletes what is old there.
    ///
    /// # Errors
    /// If `mark` fails, or a file cannot be read or moved; what was moved until then is in the trash.
    pub fn gc<E: From<StoreError>>(
        &self,
        options: GcOptions,
        mark: &mut Mark<'_, E>,
        progress: &dyn Fn(GcStep),
    ) -> Result<GcReport, E> {
        let _only_one = match options.dry_run {
            true => None,
            false => Some(self.lock_gc(progress)?),
        };
        let mut gc = Collection {
            store: self,
            options,
            mark,
            marks: Marks {
                store: self,
                documents: HashSet::new(),
                results: HashSet::new(),
                read: HashSet::new(),
                blobs: HashSet::new(),
            },
            report: GcReport::default(),
        };
        gc.forget_gone_runs()?;
        gc.look()?;
        let mut folders = Vec::new();
        for kind in Kind::ALL {
            let here = list(&self.root.join(kind.folder()))?;
            folders.extend(here.into_iter().map(|folder| (kind, folder)));
        }
        let trash = self.trash_folders()?;
        let total = folders.len() + trash.len();
        let mut done = 0;
        let mut step = || {
            done += 1;
            progress(GcStep::Folder { done, total });
        };
        for folder in &trash {
            gc.delete_from(folder, options.empty_trash)?;
            step();
        }
        for (kind, folder) in &folders {
            gc.go_through(*kind, folder)?;
            step();
        }
        if !options.dry_run {
            self.forget_lost_chunks()?;
        }
        match (options.empty_trash, options.dry_run) {
            (true, false) => {
                for folder in self.trash_folders()? {
                    gc.delete_from(&folder, true)?;
                }
            }
            (true, true) => {
                gc.report.deleted.files += gc.report.moved.files;
                gc.report.deleted.bytes += gc.report.moved.bytes;
            }
            (false, _) => {}
        }
        Ok(gc.report)
    }

    fn lock_gc(&self, progress: &dyn Fn(GcStep)) -> Result<std::fs::File, StoreError> {
        // Before the lock: it removes debris, which is not done while a `gc` is at work.
        self.prepare_to_write()?;
        let file = self.open_gc_lock()?;
        if file.try_lock().is_err() {
            progress(GcStep::Waiting);
            file.lock()
                .map_err(|e| ArtifactError::io("lock", &self.root, e))?;
        }
        Ok(file)
    }
}

/// A collection at work.
struct Collection<'a, 'm, E> {
    store: &'a Store,
    options: GcOptions,
    mark: &'a mut Mark<'m, E>,
    /// They only grow: what was needed at some moment of the collection is kept.
    marks: Marks<'a>,
    report: GcReport,
}

/// A file that nobody was seen to need.
struct Candidate {
    name: Digest,
    path: PathBuf,
}

impl<E: From<StoreError>> Collection<'_, '_, E> {
    fn forget_gone_runs(&mut self) -> Result<(), E> {
        self.report.gone_runs = if self.options.dry_run {
            let gone = self.store.gone_runs()?;
            gone.into_iter().map(|(_, folder)| folder).collect()
        } else {
            let _alone = self.lock_sweep()?;
            self.store.forget_gone_runs()?
        };
        Ok(())
    }

    /// Marks what is needed at this moment. Holds come first: whoever gives one up has written a record before.
    fn look(&mut self) -> Result<(), E> {
        for held in self.store.held()? {
            match held {
                Held::Action(key) => self.marks.keep_result(key)?,
                Held::Blob(digest) => self.marks.keep_blob(digest),
            }
        }
        (self.mark)(&mut self.marks)
    }

    fn lock_sweep(&self) -> Result<std::fs::File, StoreError> {
        let file = self.store.open_sweep_lock()?;
        file.lock()
            .map_err(|e| ArtifactError::io("lock", &self.store.root, e))?;
        Ok(file)
    }

    fn go_through(&mut self, kind: Kind, folder: &Path) -> Result<(), E> {
        let mut candidates = Vec::new();
        for path in list_folder(folder)? {
            let Some(name) = kind.name_of(&path) else {
                continue;
            };
            if self.candidate_bytes(kind, name, &path)?.is_some() {
                candidates.push(Candidate { name, path });
            }
        }
        for batch in candidates.chunks(BATCH) {
            self.sweep(kind, folder, batch)?;
        }
        Ok(())
    }

    /// Returns the size of a file that is neither needed nor young; the others are counted.
    fn candidate_bytes(
        &mut self,
        kind: Kind,
        name: Digest,
        path: &Path,
    ) -> Result<Option<u64>, StoreError> {
        let Some(metadata) = look_at(path)? else {
            return Ok(None);
        };
        if self.marks.has(kind, name) {
            self.report.kept.add(metadata.len());
            return Ok(None);
        }
        if changed_at(&metadata) >= self.options.before {
            if kind == Kind::Result {
                self.marks.keep_result(name.into())?;
            }
            self.report.young.add(metadata.len());
            return Ok(None);
        }
        Ok(Some(metadata.len()))
    }

    /// Moves those of `batch` that are not needed at this moment either.
    fn sweep(&mut self, kind: Kind, folder: &Path, batch: &[Candidate]) -> Result<(), E> {
        let dry_run = self.options.dry_run;
        let _alone = match dry_run {
            true => None,
            false => Some(self.lock_sweep()?),
        };
        self.look()?;
        if !dry_run {
            create_folder(&self.store.trash_path(folder))?;
        }
        let mut moved = Vec::new();
        for Candidate { name, path } in batch {
            let Some(bytes) = self.candidate_bytes(kind, *name, path)? else {
                continue;
            };
            if !dry_run {
                if !self.move_to_trash(path)? {
                    continue;
                }
                moved.push(*name);
            }
            self.report.moved.add(bytes);
        }
        if moved.is_empty() {
            return Ok(());
        }
        if kind == Kind::Blob {
            self.store.lock_verified().forget(&moved);
        } else {
            // On the disk before any blob goes.
            sync_folder(folder).map_err(StoreError::from)?;
        }
        Ok(())
    }

    /// Moves a file to its folder in the trash, which is there; `false` when it is gone already, to `quarantine/`.
    fn move_to_trash(&self, path: &Path) -> Result<bool, StoreError> {
        match std::fs::rename(path, self.store.trash_path(path)) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(ArtifactError::io("move to the trash", path, e).into()),
        }
    }

    /// Deletes from a folder of the trash what is old, or everything.
    fn delete_from(&mut self, folder: &Path, everything: bool) -> Result<(), StoreError> {
        for path in list_folder(folder)? {
            let Some(metadata) = look_at(&path)? else {
                continue;
            };
            if !everything && changed_at(&metadata) >= self.options.before {
                continue;
            }
            if !self.options.dry_run {
                match std::fs::remove_file(&path) {
                    // A run brought it back.
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
                    other => other.map_err(|e| ArtifactError::io("delete", &path, e))?,
                }
            }
            self.report.deleted.add(metadata.len());
        }
        Ok(())
    }
}

/// Lists a folder of the store; a stray file among the folders has nothing in it.
fn list_folder(folder: &Path) -> Result<Vec<PathBuf>, StoreError> {
    match folder.is_dir() {
        true => list(folder),
        false => Ok(Vec::new()),
    }
}

/// Returns the metadata of a regular file; none for anything else, and for one that is gone.
fn look_at(path: &Path) -> Result<Option<Metadata>, StoreError> {
    match path.symlink_metadata() {
        Ok(metadata) => Ok(metadata.is_file().then_some(metadata)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(ArtifactError::io("find", path, e).into()),
    }
}
