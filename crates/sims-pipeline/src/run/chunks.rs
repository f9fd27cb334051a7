//! Chunks of an action's work: the stage gets those that are finished, and what it finishes is kept at once.
//!
//! A chunk is an action of its own. Its document names the *base*, a digest of the whole action's document without
//! what the units make up for, and the units. So a chunk serves every action with the same base that has some of its
//! units: the same prompts and ten more, or the same action after it was interrupted.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;

use serde_json::{Value, json};
use sims_artifact::store::{ActionKey, ActionOutput, ActionResult, Blob, Chunk, Store};
use sims_artifact::{Digest, canonical_json};
use sims_stage::{ChunkNote, UnitsDescription};

use super::attempt::{NotDone, Rejected};
use crate::PipelineError;
use crate::action::{Lookup, claim};
use crate::input_digests::check_artifact;

/// Chunks that are written to the disk at the same time.
const FLUSHES: usize = 16;
/// The version of a chunk's document.
const FORMAT: u32 = 1;

/// The chunks of one action.
pub(super) struct Chunks<'a> {
    store: &'a Store,
    stage: String,
    base: Digest,
    /// What `--chunks` names: `known/` and `new/`.
    folder: PathBuf,
    /// Notes that were taken already.
    taken: BTreeSet<OsString>,
    /// The chunks that the stage was given, and those that it finished.
    keys: Vec<ActionKey>,
    /// Told of every chunk that is published.
    offer: &'a (dyn Fn(&ActionKey) + Sync),
}

impl<'a> Chunks<'a> {
    /// Gathers in `folder` what is finished of the work `base`, which is that of `stage`.
    pub(super) fn gather(
        store: &'a Store,
        stage: &str,
        base: Digest,
        folder: PathBuf,
        offer: &'a (dyn Fn(&ActionKey) + Sync),
    ) -> Result<Self, NotDone> {
        let known = folder.join("known");
        for folder in [&known, &folder.join("new")] {
            std::fs::create_dir_all(folder).map_err(|e| PipelineError::io("create", folder, e))?;
        }
        let mut keys = Vec::new();
        for key in store.chunks(&base)? {
            // A chunk that is damaged or gone is computed again.
            let Lookup::Hit(result) = claim(store, &key)? else {
                continue;
            };
            let (Some(output), Some(chunk)) = (result.outputs.values().next(), &result.chunk)
            else {
                continue;
            };
            let extension = Path::new(&output.file).extension().unwrap_or_default();
            let rows = known.join(key.to_string()).with_extension(extension);
            std::os::unix::fs::symlink(store.blob_path(&output.digest), &rows)
                .map_err(|e| PipelineError::io("make a link", &rows, e))?;
            let beside = known.join(format!("{key}.json"));
            std::fs::write(&beside, chunk.note.to_string())
                .map_err(|e| PipelineError::io("write", &beside, e))?;
            keys.push(key);
        }
        Ok(Self {
            store,
            stage: stage.to_owned(),
            base,
            folder,
            taken: BTreeSet::new(),
            keys,
            offer,
        })
    }

    /// Returns how many chunks the stage was given or finished.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Returns the chunks' keys.
    pub(super) fn into_keys(self) -> Vec<ActionKey> {
        self.keys
    }

    /// Returns the flags that hand the chunks to the stage.
    pub(super) fn flags(&self, size: usize) -> [String; 4] {
        [
            "--chunks".to_owned(),
            self.folder.display().to_string(),
            "--chunk-size".to_owned(),
            size.to_string(),
        ]
    }

    /// Publishes the chunks whose names come, as fast as the disk takes them, until no more can come.
    pub(super) fn keep_coming(&mut self, names: &Receiver<String>) -> Result<(), Rejected> {
        while let Ok(first) = names.recv() {
            let batch = std::iter::once(first).chain(names.try_iter());
            self.keep_all(batch.map(|name| format!("{name}.json").into()).collect())?;
        }
        Ok(())
    }

    /// Publishes what the stage finished and was not published yet; its own files stay.
    pub(super) fn keep_rest(&mut self) -> Result<(), Rejected> {
        let folder = self.folder.join("new");
        let fault = |e| Rejected::Error(PipelineError::io("list", &folder, e));
        let mut notes = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(fault)? {
            let name = entry.map_err(fault)?.file_name();
            let text = name.to_string_lossy();
            // What begins with a dot was never finished.
            if text.ends_with(".json") && !text.starts_with('.') && !self.taken.contains(&name) {
                notes.push(name);
            }
        }
        notes.sort();
        self.keep_all(notes)
    }

    fn keep_all(&mut self, notes: Vec<OsString>) -> Result<(), Rejected> {
        let folder = self.folder.join("new");
        let notes: Vec<OsString> = notes
            .into_iter()
            .filter(|name| self.taken.insert(name.clone()))
            .collect();
        // A disk flushes several files in hardly more time than one.
        let threads = notes.len().min(FLUSHES);
        let this = &*self;
        let kept: Vec<Result<ActionKey, Rejected>> = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|first| {
                    let mine = notes.iter().skip(first).step_by(threads);
                    let folder = &folder;
                    scope.spawn(move || {
                        mine.map(|name| this.keep(&folder.join(name)))
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            let results = workers.into_iter().map(|worker| worker.join());
            results
                .flat_map(|kept| kept.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        for key in kept {
            self.keys.push(key?);
        }
        Ok(())
    }

    /// Publishes one chunk.
    fn keep(&self, path: &Path) -> Result<ActionKey, Rejected> {
        let bytes =
            std::fs::read(path).map_err(|e| Rejected::Error(PipelineError::io("read", path, e)))?;
        let bad = |message: String| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            Rejected::Output(format!("its chunk {name} is not usable: {message}"))
        };
        let whole: Value = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        let note: ChunkNote =
            serde_json::from_value(whole.clone()).map_err(|e| bad(e.to_string()))?;
        if note.units.is_empty() || note.units.len() != note.rows.len() {
            return Err(bad(format!(
                "it has {} units and the rows of {}",
                note.units.len(),
                note.rows.len()
            )));
        }
        let files = ["parquet", "safetensors"].map(|extension| path.with_extension(extension));
        let file = files
            .iter()
            .find(|file| file.is_file())
            .ok_or_else(|| bad("there is no file of its rows".to_owned()))?;
        check_artifact(file, &note.schema).map_err(bad)?;
        let document = json!({
            "format": FORMAT,
            "stage": self.stage,
            "base": self.base,
            "kind": note.kind,
            "units": note.units,
        });
        let Blob { digest, bytes } = self.store.add_copy(file)?;
        let extension = file.extension().unwrap_or_default().to_string_lossy();
        let output = ActionOutput {
            digest,
            bytes,
            schema: note.schema,
            file: format!("{}.{extension}", note.kind),
        };
        let result = ActionResult {
            key: ActionKey::of_document(&document),
            outputs: BTreeMap::from([(note.kind, output)]),
            summary: None,
            seconds: note.seconds,
            stop: None,
            chunks: Vec::new(),
            chunk: Some(Chunk {
                base: self.base,
                note: whole,
            }),
        };
        self.store.publish_chunk(&result)?;
        (self.offer)(&result.key);
        Ok(result.key)
    }
}

/// Names what all chunks of an action's work have in common.
pub(super) fn base_of(document: &Value, units: &UnitsDescription) -> Digest {
    let mut base = document.clone();
    if let Some(base) = base.as_object_mut() {
        base.shift_remove("outputs");
    }
    if let Some(inputs) = base["inputs"].as_object_mut() {
        inputs.retain(|role, _| !units.inputs.contains(role));
    }
    if let Some(params) = base["params"].as_object_mut() {
        params.retain(|name, _| !units.params.contains(name));
    }
    if units.params.iter().any(|name| name == "seed") {
        base["seed"] = Value::Null;
    }
    Digest::derived("sims 2026 base of chunks", canonical_json(&base).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_is_what_no_unit_makes_up_for() {
        let document = |prompts: &str, model: &str, shard: u32, samples: u32, seed: u32| {
            json!({
                "stage": "sample", "seed": seed, "outputs": {},
                "params": {"shard": shard, "samples": samples},
                "inputs": {"prompts": [prompts], "model": [model]},
            })
        };
        let units = |params: &[&str]| UnitsDescription {
            inputs: vec!["prompts".to_owned()],
            params: params.iter().map(|&name| name.to_owned()).collect(),
        };
        let base = |document: &Value| base_of(document, &units(&["shard"]));
        let one = document("a", "m", 1, 10, 0);
        assert_eq!(base(&one), base(&document("b", "m", 2, 10, 0)));
        for other in [
            document("a", "n", 1, 10, 0),
            document("a", "m", 1, 4, 0),
            document("a", "m", 1, 10, 1),
        ] {
            assert_ne!(base(&one), base(&other));
        }
        let seedless = |document: &Value| base_of(document, &units(&["seed"]));
        assert_eq!(seedless(&one), seedless(&document("a", "m", 1, 10, 1)));
    }
}
