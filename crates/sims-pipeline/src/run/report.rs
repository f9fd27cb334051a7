//! What a worker says of its job: a small file that whoever follows the job reads.
//!
//! Nothing depends on it: whether a stage is done, the store says. It tells how far the stage is, and why it
//! failed better than a scheduler can.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sims_artifact::atomic_file::write_atomically;

use super::{Event, Failure};

/// How often a stage's progress is written.
const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// What became of a stage, or how far it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct JobReport {
    /// Whether the stage itself was started: its result may be seen before the end is written.
    #[serde(default)]
    pub(super) started: bool,
    /// How it ended; `None` as long as it runs.
    pub(super) end: Option<JobEnd>,
    /// What the stage counts, steps done, and steps in all.
    pub(super) progress: Option<(String, u64, u64)>,
    /// What the user should know.
    #[serde(default)]
    pub(super) warnings: Vec<String>,
}

/// How a job ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum JobEnd {
    /// It computed the stage, or its part of it.
    Executed,
    /// There was nothing to do.
    Idle,
    /// It was asked to stop.
    Interrupted,
    /// The stage failed.
    Failed(Box<Failure>),
}

impl JobReport {
    /// Reads the report at `path`; one that is absent or damaged says nothing.
    pub(super) fn load(path: &Path) -> Self {
        let bytes = std::fs::read(path).ok();
        bytes
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }
}

/// Keeps the report of a job that runs.
pub(super) struct Reporter {
    path: Option<PathBuf>,
    state: Mutex<(JobReport, Instant)>,
}

impl Reporter {
    /// Starts an empty report at `path`, in place of what an earlier try left there.
    pub(super) fn start(path: Option<PathBuf>) -> Self {
        let reporter = Self {
            path,
            state: Mutex::new((JobReport::default(), Instant::now())),
        };
        reporter.change(|_| true);
        reporter
    }

    /// Takes in what happened.
    pub(super) fn hear(&self, event: &Event) {
        match event {
            Event::Progress {
                label, done, total, ..
            } => self.change(|(report, written)| {
                report.progress = Some((label.clone(), *done, *total));
                let is_due = written.elapsed() >= PROGRESS_EVERY;
                if is_due {
                    *written = Instant::now();
                }
                is_due
            }),
            Event::Started { .. } => self.change(|(report, _)| {
                report.started = true;
                true
            }),
            Event::Warning { message, .. } => self.change(|(report, _)| {
                report.warnings.push(message.clone());
                true
            }),
            _ => {}
        }
    }

    /// Writes down how it ended.
    pub(super) fn end(&self, end: JobEnd) {
        self.change(|(report, _)| {
            report.end = Some(end);
            true
        });
    }

    /// Changes the report, and writes it when `change` says so.
    fn change(&self, change: impl FnOnce(&mut (JobReport, Instant)) -> bool) {
        let Some(path) = &self.path else { return };
        // A report is whole whatever a panicking thread was doing.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if change(&mut state) {
            let text = serde_json::to_vec(&state.0).expect("a report is plain data");
            let folder = path.parent().unwrap_or(path);
            // A job is no worse for a report that cannot be written.
            let _ = std::fs::create_dir_all(folder);
            let _ = write_atomically(path, &text);
        }
    }
}
