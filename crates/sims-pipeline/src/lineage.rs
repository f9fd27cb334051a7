//! Where an artifact comes from: the actions behind it, back to files from outside and seeds.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::Value;
use sims_artifact::Digest;
use sims_artifact::store::{ActionKey, ActionResult, Store};

use crate::PipelineError;
use crate::run_record::RunRecord;

/// An artifact and everything that it was made from.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lineage {
    /// The digest of the artifact.
    pub digest: Digest,
    /// The role in which its maker wrote it.
    pub role: String,
    /// The actions: the artifact's maker first, and each before those that it only led to.
    pub steps: Vec<Step>,
}

/// One action on the way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// The stage and round in the run that the artifact was found in, such as `round-2/fit`; none outside of it.
    pub name: Option<PathBuf>,
    /// The action.
    pub key: ActionKey,
    /// The stage's program, such as `fit`.
    pub stage: String,
    /// Its behaviour.
    pub behaviour: u64,
    /// The seed; null for a stage that draws nothing.
    pub seed: Value,
    /// The parameters, after defaults.
    pub params: Value,
    /// What it read.
    pub inputs: Vec<StepInput>,
}

/// One input of an action on the way.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepInput {
    /// The role.
    pub role: String,
    /// The kind of artifact.
    pub schema: String,
    /// The digest of its bytes, or of the model's manifest.
    pub digest: Digest,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where an input comes from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// An action, by its place among the steps.
    Step(usize),
    /// A file or model from outside, as the run named it.
    File(PathBuf),
    /// A file from outside whose name no run here recorded.
    Outside,
}

/// Who made what, as far as a run or the whole store tells.
#[derive(Default)]
struct Makers {
    by_digest: HashMap<Digest, (ActionKey, String)>,
    names: BTreeMap<ActionKey, PathBuf>,
    sources: HashMap<Digest, PathBuf>,
}

impl Makers {
    /// Takes in what a run's record says.
    fn of_run(&mut self, record: &RunRecord, store: &Store) -> Result<(), PipelineError> {
        for (name, stage) in &record.stages {
            self.names.entry(stage.key).or_insert_with(|| name.clone());
            for (path, digest) in &stage.sources {
                self.sources.insert(*digest, path.clone());
            }
            self.add(store, &stage.key)?;
        }
        Ok(())
    }

    fn add(&mut self, store: &Store, key: &ActionKey) -> Result<(), PipelineError> {
        // A damaged result says nothing; fsck says that.
        if let Ok(Some(result)) = store.action_result(key)
            // A chunk's bytes may be those of the whole, which says more.
            && result.chunk.is_none()
        {
            let ActionResult { outputs, .. } = result;
            for (role, output) in outputs {
                self.by_digest.entry(output.digest).or_insert((*key, role));
            }
        }
        Ok(())
    }
}

/// Finds out how the file at `path` was made: a view of a run, a blob, or a copy of either.
///
/// # Errors
/// [`PipelineError::Usage`] for a file that no action of the store made; if the file or the store cannot be read.
pub fn lineage(path: &Path, store: &Store) -> Result<Lineage, PipelineError> {
    let digest = Digest::of_file(path)?;
    let mut makers = Makers::default();
    let absolute = std::path::absolute(path).map_err(|e| PipelineError::io("find", path, e))?;
    let run = absolute
        .ancestors()
        .skip(1)
        .find(|folder| folder.join("run.json").is_file());
    if let Some(folder) = run {
        makers.of_run(&RunRecord::load(folder), store)?;
    }
    let mut is_whole = false;
    let mut find = |digest: &Digest, makers: &mut Makers| -> Result<_, PipelineError> {
        if !makers.by_digest.contains_key(digest) && !std::mem::replace(&mut is_whole, true) {
            for key in store.action_keys()? {
                makers.add(store, &key)?;
            }
        }
        Ok(makers.by_digest.get(digest).cloned())
    };
    let Some((key, role)) = find(&digest, &mut makers)? else {
        return Err(PipelineError::Usage(format!(
            "no action in {} made {} (digest {}): it comes from outside, or from another store",
            store.root().display(),
            path.display(),
            digest.short(12)
        )));
    };
    let mut steps: Vec<Step> = Vec::new();
    let mut places: HashMap<ActionKey, usize> = HashMap::from([(key, 0)]);
    let mut keys = vec![key];
    let mut at = 0;
    while let Some(&key) = keys.get(at) {
        let mut step = step(store, &makers, key)?;
        for input in &mut step.inputs {
            let is_source = makers.sources.contains_key(&input.digest);
            if let (false, Some((maker, _))) = (is_source, find(&input.digest, &mut makers)?) {
                let place = *places.entry(maker).or_insert_with(|| {
                    keys.push(maker);
                    keys.len() - 1
                });
                input.origin = Origin::Step(place);
            } else if let Some(path) = makers.sources.get(&input.digest) {
                input.origin = Origin::File(path.clone());
            }
        }
        steps.push(step);
        at += 1;
    }
    Ok(Lineage {
        digest,
        role,
        steps,
    })
}

/// Reads an action's document; the origins of its inputs are yet to be found.
fn step(store: &Store, makers: &Makers, key: ActionKey) -> Result<Step, PipelineError> {
    let gone = || {
        PipelineError::Usage(format!(
            "the document of action {} is not in {}: run its pipeline again, which writes it anew",
            key.short(12),
            store.root().display()
        ))
    };
    let document = store.action_document(&key)?.ok_or_else(gone)?;
    let mut inputs = Vec::new();
    for (role, here) in document["inputs"].as_object().into_iter().flatten() {
        for input in here.as_array().into_iter().flatten() {
            let text = |field: &str| input[field].as_str().unwrap_or_default();
            inputs.push(StepInput {
                role: role.clone(),
                schema: text("schema").to_owned(),
                digest: text("digest").parse().map_err(|_| gone())?,
                origin: Origin::Outside,
            });
        }
    }
    Ok(Step {
        name: makers.names.get(&key).cloned(),
        key,
        stage: document["stage"].as_str().unwrap_or_default().to_owned(),
        behaviour: document["behaviour"].as_u64().unwrap_or_default(),
        seed: document["seed"].clone(),
        params: document["params"].clone(),
        inputs,
    })
}
