//! Chunks of an action's work: the stage gets those that are finished, and what it finishes is kept at once.
//!
//! A chunk is an action of its own. Its document names the *base*, a digest of the whole action's document without
//! what the units make up for, and the units. So a chunk serves every action with the same base that has some of its
//! units: the same prompts and ten more, or the same action after it was interrupted.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sims_artifact::store::{ActionKey, ActionOutput, ActionResult, Blob, Store};
use sims_artifact::{Digest, canonical_json};
use sims_stage::{ChunkNote, UnitsDescription};

use super::attempt::{NotDone, Rejected};
use crate::PipelineError;
use crate::action::{Lookup, claim};
use crate::input_digests::check_artifact;

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
}

impl<'a> Chunks<'a> {
    /// Gathers in `folder` what is finished of the work of `document`.
    pub(super) fn gather(
        store: &'a Store,
        document: &Value,
        units: &UnitsDescription,
        folder: PathBuf,
    ) -> Result<Self, NotDone> {
        let base = base_of(document, units);
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
            let (Some(output), Some(note)) = (result.outputs.values().next(), &result.summary)
            else {
                continue;
            };
            let extension = Path::new(&output.file).extension().unwrap_or_default();
            let rows = known.join(key.to_string()).with_extension(extension);
            let beside = known.join(format!("{key}.json"));
            for (digest, link) in [(&output.digest, &rows), (&note.digest, &beside)] {
                std::os::unix::fs::symlink(store.blob_path(digest), link)
                    .map_err(|e| PipelineError::io("make a link", link, e))?;
            }
            keys.push(key);
        }
        Ok(Self {
            store,
            stage: document["stage"].as_str().unwrap_or_default().to_owned(),
            base,
            folder,
            taken: BTreeSet::new(),
            keys,
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

    /// Publishes what the stage finished since the last call; its own files stay, for it to read.
    pub(super) fn keep_new(&mut self) -> Result<(), Rejected> {
        let folder = self.folder.join("new");
        let fault = |e| Rejected::Error(PipelineError::io("list", &folder, e));
        let mut notes = Vec::new();
        for entry in std::fs::read_dir(&folder).map_err(fault)? {
            let name = entry.map_err(fault)?.file_name();
            let is_note = name.to_string_lossy().ends_with(".json");
            // What begins with a dot is still written.
            if is_note && !name.to_string_lossy().starts_with('.') && !self.taken.contains(&name) {
                notes.push(name);
            }
        }
        notes.sort();
        for name in notes {
            self.keep(&folder.join(&name))?;
            self.taken.insert(name);
        }
        Ok(())
    }

    fn keep(&mut self, path: &Path) -> Result<(), Rejected> {
        let bytes = std::fs::read(path)
            .map_err(|e| Rejected::Error(PipelineError::io("read", path, e)))?;
        let bad = |message: String| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            Rejected::Output(format!("its chunk {name} is not usable: {message}"))
        };
        let note: ChunkNote = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
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
            summary: Some(self.store.add_copy(path)?),
            seconds: note.seconds,
            stop: None,
            chunks: Vec::new(),
        };
        self.store.publish_action(&document, &result)?;
        self.store.note_chunk(&self.base, &result.key)?;
        self.keys.push(result.key);
        Ok(())
    }
}

/// Names what all chunks of an action's work have in common.
fn base_of(document: &Value, units: &UnitsDescription) -> Digest {
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
    Digest::derived(
        "sims 2026 base of chunks",
        canonical_json(&base).as_bytes(),
    )
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
