//! What runs need of a store: the marks for [`Store::gc`], and pins.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use sims_artifact::store::{Marks, Store};

use crate::PipelineError;
use crate::run_record::{Outcome, RunRecord, StageRecord};
use crate::stamped_cache::FileStamp;

/// The records of runs that use a store.
///
/// These are the folders that were registered, the folders of `runs/` beside the store, and pins.
#[derive(Debug)]
pub struct Needed<'a> {
    store: &'a Store,
    /// The records as they looked when they were last read.
    seen: BTreeMap<PathBuf, FileStamp>,
}

impl<'a> Needed<'a> {
    /// Nothing was read yet.
    pub fn new(store: &'a Store) -> Self {
        Self {
            store,
            seen: BTreeMap::new(),
        }
    }

    /// Lists the records that count, sorted: `run.json` of each folder, and pins.
    ///
    /// # Errors
    /// If a folder cannot be listed.
    pub fn records(&self) -> Result<Vec<PathBuf>, PipelineError> {
        let mut records: BTreeSet<PathBuf> = self
            .store
            .registered_runs()?
            .into_iter()
            .map(|folder| folder.join("run.json"))
            .collect();
        if let Some(workspace) = self.store.root().parent() {
            records.extend(records_in(&workspace.join("runs"))?);
        }
        records.extend(self.store.pins()?.into_iter().map(|(_, path)| path));
        records.retain(|path| !matches!(path.try_exists(), Ok(false)));
        Ok(records.into_iter().collect())
    }

    /// Marks what the records name; those that look as they did last time are not read again.
    ///
    /// # Errors
    /// If a record is there and cannot be understood, since what it names would be lost.
    pub fn mark(&mut self, marks: &mut Marks<'_>) -> Result<(), PipelineError> {
        for path in self.records()? {
            let stamp = match FileStamp::of(&path) {
                Ok(stamp) => stamp,
                // Its folder was removed meanwhile.
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(e) => return Err(PipelineError::io("read", &path, e)),
            };
            if self.seen.get(&path) == Some(&stamp) {
                continue;
            }
            let Some(record) = RunRecord::load_file(&path)? else {
                continue;
            };
            for stage in record.stages.values() {
                mark_stage(stage, marks)?;
            }
            self.seen.insert(path, stamp);
        }
        Ok(())
    }
}

fn mark_stage(stage: &StageRecord, marks: &mut Marks<'_>) -> Result<(), PipelineError> {
    marks.keep_result(stage.key)?;
    if let Some(before) = stage.key_before {
        marks.keep_document(before);
        // Until it succeeds, a changed stage shows what it made before.
        if stage.outcome == Outcome::Failed {
            marks.keep_result(before)?;
        }
    }
    for digest in stage.views.values() {
        marks.keep_blob(*digest);
    }
    Ok(())
}

/// Keeps what the run in `folder` needs under `name`, whatever becomes of the folder.
///
/// # Errors
/// [`PipelineError::Usage`] when there is no record in the folder; if the pin cannot be written.
pub fn pin_run(store: &Store, folder: &Path, name: &str) -> Result<(), PipelineError> {
    let Some(record) = RunRecord::load_file(&folder.join("run.json"))? else {
        return Err(PipelineError::Usage(format!(
            "no run in {}",
            folder.display()
        )));
    };
    Ok(store.pin(name, record.to_text().as_bytes())?)
}

/// Lists the records of the runs in a folder; one that is absent has none.
fn records_in(runs: &Path) -> Result<Vec<PathBuf>, PipelineError> {
    let fault = |e| PipelineError::io("list", runs, e);
    let entries = match std::fs::read_dir(runs) {
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        other => other.map_err(fault)?,
    };
    let mut records = Vec::new();
    for entry in entries {
        let record = entry.map_err(fault)?.path().join("run.json");
        if record.is_file() {
            records.push(record);
        }
    }
    Ok(records)
}
