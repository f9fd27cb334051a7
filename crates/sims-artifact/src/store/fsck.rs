//! `fsck`: reads everything in the store and says what is wrong.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Serialize;

use super::actions::parse_document;
use super::documents::read_if_present;
use super::verified::FileLook;
use super::{ActionKey, ActionResult, Store, StoreError, list};
use crate::{ArtifactError, Digest};

/// What kind of thing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProblemKind {
    /// A blob whose bytes do not have its digest.
    DamagedBlob,
    /// An action result that names a blob which is not there.
    MissingBlob,
    /// An action result or document that cannot be trusted.
    DamagedRecord,
    /// A file that does not belong where it is.
    StrayFile,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Problem {
    /// What kind of thing.
    pub kind: ProblemKind,
    /// The file, relative to the store.
    pub path: PathBuf,
    /// What is wrong with it.
    pub message: String,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FsckReport {
    /// Blobs read.
    pub blobs: u64,
    /// Their size. Unit: bytes.
    pub bytes: u64,
    /// Action results read.
    pub results: u64,
    /// What is wrong, by kind and path.
    pub bad: Vec<Problem>,
}

/// Most files hashed at the same time; more readers than this gain nothing on any disk.
const MOST_THREADS: usize = 256;

/// How to check.
#[derive(Debug, Clone, Copy)]
pub struct FsckOptions {
    /// Files hashed at the same time; at least 1.
    pub threads: usize,
    /// Whether bad files are moved to `quarantine/`, so that the next run makes them again.
    pub repair: bool,
}

/// One file to check, and as what.
enum Subject {
    Blob(PathBuf),
    Result(PathBuf),
    Document(PathBuf),
}

/// What one file was.
enum Finding {
    Blob {
        bytes: u64,
    },
    Result,
    Document,
    Bad(Problem),
    /// It was moved away since the folder was listed, by `gc` or to `quarantine/`.
    Gone,
}

impl Store {
    /// Reads every blob, action result and document, and reports what is wrong.
    ///
    /// `progress` hears how many files of how many are done, from several threads.
    ///
    /// # Errors
    /// If a folder or file cannot be read at all, which says nothing about its content.
    pub fn fsck(
        &self,
        options: FsckOptions,
        progress: &(dyn Fn(usize, usize) + Sync),
    ) -> Result<FsckReport, StoreError> {
        let mut subjects: Vec<Subject> = Vec::new();
        subjects.extend(self.files_in("cas")?.into_iter().map(Subject::Blob));
        subjects.extend(self.files_in("ac")?.into_iter().map(Subject::Result));
        subjects.extend(self.files_in("actions")?.into_iter().map(Subject::Document));

        let next = AtomicUsize::new(0);
        let findings = Mutex::new(Vec::with_capacity(subjects.len()));
        let work = || {
            while let Some(subject) = subjects.get(next.fetch_add(1, Ordering::Relaxed)) {
                let finding = self.examine_unless_gone(subject);
                let mut findings = findings.lock().expect("no holder panics");
                findings.push(finding);
                progress(findings.len(), subjects.len());
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..options.threads.clamp(1, MOST_THREADS) {
                scope.spawn(work);
            }
        });
        let report = summarise(findings.into_inner().expect("no holder panics"))?;
        if options.repair {
            for problem in &report.bad {
                self.quarantine(&self.root.join(&problem.path))?;
            }
        }
        Ok(report)
    }

    fn examine(&self, subject: &Subject) -> Result<Finding, StoreError> {
        match subject {
            Subject::Blob(path) => self.examine_blob(path),
            Subject::Result(path) => self.examine_result(path),
            Subject::Document(path) => self.examine_document(path),
        }
    }

    /// Examines a file; what goes wrong with one that is gone meanwhile says nothing.
    fn examine_unless_gone(&self, subject: &Subject) -> Result<Finding, StoreError> {
        let (Subject::Blob(path) | Subject::Result(path) | Subject::Document(path)) = subject;
        let finding = self.examine(subject);
        let is_good = matches!(
            finding,
            Ok(Finding::Blob { .. } | Finding::Result | Finding::Document)
        );
        match !is_good && path.symlink_metadata().is_err() {
            true => Ok(Finding::Gone),
            false => finding,
        }
    }

    fn examine_blob(&self, path: &Path) -> Result<Finding, StoreError> {
        let Some(digest) = name_of(path).and_then(|name| name.parse::<Digest>().ok()) else {
            return Ok(self.bad(path, ProblemKind::StrayFile, "its name is not a digest"));
        };
        if self.blob_path(&digest) != path {
            return Ok(self.bad(path, ProblemKind::StrayFile, "it lies in the wrong folder"));
        }
        let metadata = path
            .symlink_metadata()
            .map_err(|e| ArtifactError::io("find", path, e))?;
        if !metadata.is_file() {
            return Ok(self.bad(path, ProblemKind::DamagedBlob, "it is not a regular file"));
        }
        let found = Digest::of_file(path)?;
        if found != digest {
            return Ok(self.bad(
                path,
                ProblemKind::DamagedBlob,
                &format!("its bytes have digest {found}"),
            ));
        }
        self.lock_verified()
            .remember(&digest, FileLook::of(&metadata));
        Ok(Finding::Blob {
            bytes: metadata.len(),
        })
    }

    fn examine_result(&self, path: &Path) -> Result<Finding, StoreError> {
        let Some(key) = self.key_of(path, "ac") else {
            return Ok(self.bad(
                path,
                ProblemKind::StrayFile,
                "its name is not an action key",
            ));
        };
        let bytes = read_if_present(path)?.unwrap_or_default();
        let result = match ActionResult::from_record(&key, &bytes) {
            Ok(result) => result,
            Err(message) => return Ok(self.bad(path, ProblemKind::DamagedRecord, &message)),
        };
        for (what, digest) in result.blobs() {
            if !self.blob_path(&digest).is_file() {
                let message = format!("its {what} is blob {digest}, which is missing");
                return Ok(self.bad(path, ProblemKind::MissingBlob, &message));
            }
        }
        Ok(Finding::Result)
    }

    fn examine_document(&self, path: &Path) -> Result<Finding, StoreError> {
        let Some(key) = self.key_of(path, "actions") else {
            return Ok(self.bad(
                path,
                ProblemKind::StrayFile,
                "its name is not an action key",
            ));
        };
        let bytes = read_if_present(path)?.unwrap_or_default();
        Ok(match parse_document(&key, &bytes) {
            Ok(_) => Finding::Document,
            Err(message) => self.bad(path, ProblemKind::DamagedRecord, &message),
        })
    }

    fn key_of(&self, path: &Path, folder: &str) -> Option<ActionKey> {
        let digest: Digest = name_of(path)?.strip_suffix(".json")?.parse().ok()?;
        (self.fan_out(folder, &digest.to_string(), ".json") == path).then_some(digest.into())
    }

    fn bad(&self, path: &Path, kind: ProblemKind, message: &str) -> Finding {
        Finding::Bad(Problem {
            kind,
            path: path.strip_prefix(&self.root).unwrap_or(path).to_owned(),
            message: message.to_owned(),
        })
    }

    /// Lists the files of a fanned-out folder, sorted; an absent folder has none.
    fn files_in(&self, folder: &str) -> Result<Vec<PathBuf>, StoreError> {
        let mut files = Vec::new();
        for entry in list(&self.root.join(folder))? {
            if entry.is_dir() {
                files.extend(list(&entry)?);
            } else {
                files.push(entry);
            }
        }
        files.sort();
        Ok(files)
    }
}

fn name_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

fn summarise(findings: Vec<Result<Finding, StoreError>>) -> Result<FsckReport, StoreError> {
    let mut report = FsckReport {
        blobs: 0,
        bytes: 0,
        results: 0,
        bad: Vec::new(),
    };
    for finding in findings {
        match finding? {
            Finding::Blob { bytes } => {
                report.blobs += 1;
                report.bytes += bytes;
            }
            Finding::Result => report.results += 1,
            Finding::Document | Finding::Gone => {}
            Finding::Bad(problem) => {
                report.blobs += u64::from(problem.kind == ProblemKind::DamagedBlob);
                report.bad.push(problem);
            }
        }
    }
    report.bad.sort();
    Ok(report)
}
