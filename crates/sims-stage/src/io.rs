//! A stage's view of the outside: its inputs, outputs, progress and summary.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use sims_artifact::atomic_file::{sync_folder, write_atomically};
use sims_artifact::tables::SettingsRow;
use sims_artifact::{Table, read_table, write_table};

use crate::chunks::{ChunkOptions, is_largest};
use crate::describe::{Role, extension};
use crate::exit::{BadInput, Interrupted};
use crate::parts::{self, Part};
use crate::progress::{ChunkSteps, Progress, ProgressMode};
use crate::summary::Summary;

/// Set by the first Ctrl-C or SIGTERM.
pub(crate) static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// What a running stage reads from and writes to.
pub struct StageIo {
    pub(crate) inputs: BTreeMap<String, Vec<PathBuf>>,
    pub(crate) outputs: Vec<Role>,
    pub(crate) out: PathBuf,
    pub(crate) work: PathBuf,
    pub(crate) progress: ProgressMode,
    pub(crate) device: String,
    pub(crate) part: Part,
    pub(crate) chunk_options: ChunkOptions,
    pub(crate) steps: ChunkSteps,
    pub(crate) threads: usize,
    pub(crate) batch_size: usize,
    pub(crate) summary: Summary,
}

impl StageIo {
    /// Returns the path given for the required input `role`.
    ///
    /// # Errors
    /// If the role was not given; the command line makes sure that required ones were.
    pub fn input(&self, role: &str) -> anyhow::Result<&Path> {
        self.optional_input(role)
            .with_context(|| format!("the stage asked for input `{role}`, which was not given"))
    }

    /// Returns the path given for `role`, if any.
    pub fn optional_input(&self, role: &str) -> Option<&Path> {
        self.inputs.get(role)?.first().map(PathBuf::as_path)
    }

    /// Returns every path given for `role`.
    pub fn inputs(&self, role: &str) -> &[PathBuf] {
        self.inputs.get(role).map_or(&[], Vec::as_slice)
    }

    /// Reads the table given for `role`.
    ///
    /// # Errors
    /// If it was not given or is not a whole table of the right schema.
    pub fn read<T: Table>(&self, role: &str) -> anyhow::Result<Vec<T>> {
        Ok(read_table(self.input(role)?)?)
    }

    /// Returns what earlier rounds changed about this one: the row of the input `settings`, if it was given.
    ///
    /// # Errors
    /// If it is not a table of one row.
    pub fn settings(&self) -> anyhow::Result<Option<SettingsRow>> {
        let Some(path) = self.optional_input("settings") else {
            return Ok(None);
        };
        let mut rows: Vec<SettingsRow> = read_table(path)?;
        if rows.len() != 1 {
            return Err(BadInput::new(format!(
                "{} has {} rows, but settings are one row",
                path.display(),
                rows.len()
            ))
            .into());
        }
        Ok(rows.pop())
    }

    /// Writes the table output `role`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write<T: Table>(&mut self, role: &str, rows: &[T]) -> anyhow::Result<()> {
        write_table(&self.output(role), rows)?;
        self.count(&format!("{role}_rows"), rows.len() as f64);
        Ok(())
    }

    /// Returns where to write output `role`; it moves to the output folder when the stage succeeds.
    pub fn output(&self, role: &str) -> PathBuf {
        let schema = self
            .outputs
            .iter()
            .find(|r| r.name == role)
            .map_or("", |r| r.schema);
        self.work.join(format!("{role}.{}", extension(schema)))
    }

    /// Starts a progress count of `total` steps; in a chunk of the work, of those of the chunk.
    pub fn progress(&self, label: &str, total: u64) -> Progress {
        Progress::start(self.progress, label, total, &self.steps)
    }

    /// Records and shows something, once, that the user should know although the stage goes on.
    pub fn warn(&mut self, message: impl Into<String>) {
        let message = message.into();
        if self.summary.warnings.contains(&message) {
            return;
        }
        self.progress.warn(&message);
        self.summary.warnings.push(message);
    }

    /// Asks the runner to run no further round; the stages of this one still run.
    pub fn stop_after_this_round(&mut self, reason: impl Into<String>) {
        self.summary.stop = Some(reason.into());
    }

    /// Adds `value` to the summary's count `name`; of counts whose names begin with `batch_` the largest is kept.
    pub fn count(&mut self, name: &str, value: f64) {
        let count = self.summary.counts.entry(name.to_owned()).or_insert(0.0);
        *count = match is_largest(name) {
            true => count.max(value),
            false => *count + value,
        };
    }

    /// Returns the summary's count `name` so far.
    pub fn counted(&self, name: &str) -> f64 {
        self.summary.counts.get(name).copied().unwrap_or(0.0)
    }

    /// Returns the device asked for: `auto`, `cpu` or `cuda[:N[,M]]`; of several that take parts, the first.
    pub fn device(&self) -> &str {
        parts::devices(&self.device)[0]
    }

    /// Returns the number of worker threads.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Returns how many sequences to run at once; 0 leaves it to the stage. Never changes results.
    pub fn batch_size(&self) -> usize {
        self.batch_size
    }

    /// Whether the user or the runner asked the stage to stop.
    pub fn interrupted(&self) -> bool {
        INTERRUPTED.load(Ordering::Relaxed)
    }

    /// Fails when the stage was asked to stop; call it between units of work.
    ///
    /// # Errors
    /// [`Interrupted`] after Ctrl-C or SIGTERM.
    pub fn check_interrupted(&self) -> Result<(), Interrupted> {
        if self.interrupted() {
            Err(Interrupted)
        } else {
            Ok(())
        }
    }

    /// Moves the finished outputs into the output folder, the summary last.
    pub(crate) fn publish(&mut self) -> anyhow::Result<()> {
        for role in &self.outputs {
            let from = self.output(role.name);
            let to = self.out.join(from.file_name().unwrap_or_default());
            std::fs::rename(&from, &to).with_context(|| {
                format!(
                    "the stage declared output `{}`, but did not write it",
                    role.name
                )
            })?;
        }
        sync_folder(&self.out)?;
        self.summary.finish();
        let summary = serde_json::to_vec_pretty(&self.summary)?;
        write_atomically(&self.out.join("summary.json"), &summary)?;
        Ok(())
    }
}

impl Drop for StageIo {
    fn drop(&mut self) {
        // Whatever is left is unfinished; a leftover folder is harmless, so a failure is too.
        let _ = std::fs::remove_dir_all(&self.work);
    }
}
