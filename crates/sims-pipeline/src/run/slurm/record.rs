//! What was submitted for a run: `runs/<pipeline>/slurm.json`, and the lock of whoever submits.
//!
//! Slurm's queue is the truth about jobs: each carries in its comment which stage of which run it is for, which
//! try it is, and what it computes. The file is for people, and numbers the tries on when Slurm has forgotten them.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sims_artifact::Digest;
use sims_artifact::atomic_file::write_atomically;
use sims_artifact::store::{ActionKey, Store};

use crate::PipelineError;
use crate::plan::Plan;

/// The version of the file; another one counts as absent.
const FORMAT: u32 = 1;
/// What the comment of every job begins with.
const MARK: &str = "sims";
/// What the name of an array ends with; no stage's name has a dot.
const PARTS: &str = ".parts";
/// How long an `sbatch` of a session that is gone may take to end.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);

/// A job of a run: one stage, or the array that computes its parts before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Slot {
    /// The instance of the plan.
    pub(super) index: usize,
    /// Whether it is the array.
    pub(super) is_array: bool,
}

impl Slot {
    /// Returns the job that ends with the stage's result.
    pub(super) fn whole(index: usize) -> Self {
        Self {
            index,
            is_array: false,
        }
    }

    /// Returns the array that computes the stage's parts.
    pub(super) fn array(index: usize) -> Self {
        Self {
            index,
            is_array: true,
        }
    }

    /// Returns the name: `round-1/sample`, or `round-1/sample.parts`.
    pub(super) fn name(self, plan: &Plan) -> String {
        let stage = plan.name(self.index).to_string();
        match self.is_array {
            true => stage + PARTS,
            false => stage,
        }
    }

    fn of_name(name: &str, plan: &Plan) -> Option<Self> {
        let (stage, is_array) = match name.strip_suffix(PARTS) {
            Some(stage) => (stage, true),
            None => (name, false),
        };
        let index = plan.find(stage).ok()?;
        Some(Self { index, is_array })
    }
}

/// What the comment of a job says: enough to find it again, and to tell whether it still serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JobMark {
    /// The run.
    pub(super) run: String,
    /// The stage: [`Slot::name`].
    pub(super) slot: String,
    /// Which try it is, from 1.
    pub(super) attempt: u32,
    /// The beginning of the recipe's key.
    pub(super) recipe: String,
}

impl JobMark {
    /// Returns what stands for a recipe in a comment.
    pub(super) fn short(recipe: &ActionKey) -> String {
        recipe.short(16)
    }

    /// Reads a comment; `None` when it is not of a job of ours.
    pub(super) fn parse(comment: &str) -> Option<Self> {
        let mut fields = comment.split(':');
        let mark = fields.next()?;
        let found = Self {
            run: fields.next()?.to_owned(),
            slot: fields.next()?.to_owned(),
            attempt: fields.next()?.parse().ok()?,
            recipe: fields.next()?.to_owned(),
        };
        (mark == MARK && fields.next().is_none()).then_some(found)
    }

    /// Finds the job's place in a plan.
    pub(super) fn slot_in(&self, plan: &Plan) -> Option<Slot> {
        Slot::of_name(&self.slot, plan)
    }
}

impl fmt::Display for JobMark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            run,
            slot,
            attempt,
            recipe,
        } = self;
        write!(f, "{MARK}:{run}:{slot}:{attempt}:{recipe}")
    }
}

/// Returns what tells the jobs of this run from those of others: of its folder and its store.
pub(super) fn run_id(folder: &Path, store: &Store) -> String {
    let store = std::path::absolute(store.root()).unwrap_or_else(|_| store.root().to_owned());
    let text = format!("{}\n{}", folder.display(), store.display());
    Digest::of_bytes(text.as_bytes()).to_string()[..12].to_owned()
}

/// What was submitted last, by the job's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct JobRecord {
    format: u32,
    /// The run, as the comments of its jobs name it.
    pub(super) run: String,
    /// The jobs, by [`Slot::name`].
    pub(super) jobs: BTreeMap<String, SubmittedJob>,
}

/// One job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SubmittedJob {
    /// Which try it is, from 1.
    pub(super) attempt: u32,
    /// Slurm's number; `None` while it is being submitted.
    pub(super) job: Option<String>,
}

impl JobRecord {
    /// Reads the record in `folder`; one that is absent, damaged or of another run is empty.
    pub(super) fn load(folder: &Path, run: &str) -> Self {
        let bytes = std::fs::read(folder.join("slurm.json")).ok();
        bytes
            .and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok())
            .filter(|record| record.format == FORMAT && record.run == run)
            .unwrap_or_else(|| Self {
                format: FORMAT,
                run: run.to_owned(),
                jobs: BTreeMap::new(),
            })
    }

    /// Writes the record into `folder`.
    pub(super) fn save(&self, folder: &Path) -> Result<(), PipelineError> {
        let mut text = serde_json::to_string_pretty(self).expect("a record is plain data");
        text.push('\n');
        std::fs::create_dir_all(folder).map_err(|e| PipelineError::io("create", folder, e))?;
        Ok(write_atomically(
            &folder.join("slurm.json"),
            text.as_bytes(),
        )?)
    }

    /// Returns the number of the last try known here.
    pub(super) fn attempt(&self, name: &str) -> u32 {
        self.jobs.get(name).map_or(0, |job| job.attempt)
    }
}

/// The right to submit jobs for a run.
///
/// `sbatch` inherits it: who gets it after a session was killed knows that no submission is under way, and
/// finds every job in the queue.
#[derive(Debug)]
pub(super) struct RunLock(File);

impl RunLock {
    /// Takes the lock of the run in `folder`.
    pub(super) fn take(folder: &Path) -> Result<Self, PipelineError> {
        std::fs::create_dir_all(folder).map_err(|e| PipelineError::io("create", folder, e))?;
        let path: PathBuf = folder.join("slurm.lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(|e| PipelineError::io("create", &path, e))?;
        let started = Instant::now();
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self(file)),
                Err(TryLockError::WouldBlock) if started.elapsed() < LOCK_PATIENCE => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(PipelineError::Usage(format!(
                        "another `sims run --executor slurm` follows the jobs of {}; stop it first, or let it go on",
                        folder.display()
                    )));
                }
                Err(TryLockError::Error(e)) => return Err(PipelineError::io("lock", &path, e)),
            }
        }
    }

    /// Returns the locked file.
    pub(super) fn file(&self) -> &File {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_reads_back_and_other_comments_are_none() {
        let mark = JobMark {
            run: "0123456789ab".to_owned(),
            slot: "round-1/sample.parts".to_owned(),
            attempt: 2,
            recipe: "c0ffee".to_owned(),
        };
        assert_eq!(JobMark::parse(&mark.to_string()), Some(mark));
        for other in [
            "",
            "(null)",
            "sims",
            "sims:a:b:c:d",
            "sims:a:b:1:d:e",
            "x:a:b:1:d",
        ] {
            assert_eq!(JobMark::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_record_of_another_run_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let mut record = JobRecord::load(folder.path(), "a");
        let job = SubmittedJob {
            attempt: 3,
            job: Some("17".to_owned()),
        };
        record.jobs.insert("round-1/fit".to_owned(), job);
        record.save(folder.path()).unwrap();
        assert_eq!(JobRecord::load(folder.path(), "a"), record);
        assert_eq!(
            JobRecord::load(folder.path(), "a").attempt("round-1/fit"),
            3
        );
        assert_eq!(
            JobRecord::load(folder.path(), "b").attempt("round-1/fit"),
            0
        );
    }
}
