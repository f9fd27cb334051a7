//! The lock of a run: its exact inputs, programs and results in one small file that another machine checks.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sims_artifact::Digest;
use sims_artifact::store::{ActionKey, Store};

use crate::PipelineError;
use crate::action::{Action, Lookup, Resolver, look_up};
use crate::plan::{InstanceName, Plan};

/// The version of the file.
const FORMAT: u32 = 1;

/// Everything that decided a run, and what came out, by digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReproLock {
    format: u32,
    /// The version of `sims` that wrote it.
    pub sims: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// The root seed.
    pub seed: u64,
    /// The rounds planned.
    pub rounds: u32,
    /// Files and models from outside, by path; relative to the workspace where they lie in it.
    pub sources: BTreeMap<PathBuf, Digest>,
    /// The stages by round and name: `round-2/fit`.
    pub stages: BTreeMap<PathBuf, LockedStage>,
}

/// One stage of a locked run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LockedStage {
    /// The action: everything that its bytes depend on.
    pub key: ActionKey,
    /// The program's stage name.
    pub stage: String,
    /// Its behaviour.
    pub behaviour: u32,
    /// The numerics class; empty for pure data stages.
    pub numerics: String,
    /// The outputs by role.
    pub outputs: BTreeMap<String, Digest>,
}

/// One thing that is not as the lock says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LockDifference {
    /// What differs, such as `source data/tiny` or `round-2/fit: output steering`.
    pub what: String,
    /// What the lock says; empty if it has no such thing.
    pub locked: String,
    /// What is here; empty if nothing is.
    pub found: String,
}

/// How far a plan and a store agree with a lock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LockReport {
    /// What differs, causes before what follows from them.
    pub differences: Vec<LockDifference>,
    /// Stages whose results are here with the locked bytes.
    pub same: usize,
    /// Stages that have not run here.
    pub not_run: usize,
}

impl ReproLock {
    /// Locks a plan whose every stage is done.
    ///
    /// # Errors
    /// [`PipelineError::Usage`] if a stage has no result; if an input is missing or the store cannot be read.
    pub fn of(plan: &Plan, store: &Store) -> Result<Self, PipelineError> {
        let mut lock = Self {
            format: FORMAT,
            sims: env!("CARGO_PKG_VERSION").to_owned(),
            pipeline: plan.pipeline.name.clone(),
            seed: plan.pipeline.seed,
            rounds: plan.rounds,
            sources: BTreeMap::new(),
            stages: BTreeMap::new(),
        };
        let mut missing = Vec::new();
        walk(plan, store, |name, action, outputs| {
            lock.sources.extend(action.sources(plan));
            match outputs {
                Some(outputs) => {
                    let stage = locked(plan, action, outputs);
                    lock.stages.insert(name.path(), stage);
                }
                None => missing.push(name.to_string()),
            }
        })?;
        if let Some(first) = missing.first() {
            return Err(PipelineError::Usage(format!(
                "{first} has no result yet: only a finished run can be locked; run it first"
            )));
        }
        Ok(lock)
    }

    /// Reads a lock.
    ///
    /// # Errors
    /// The message for a text that is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let lock: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if lock.format != FORMAT {
            let found = lock.format;
            return Err(format!("format {found} where {FORMAT} is supported"));
        }
        Ok(lock)
    }

    /// Returns the text of the file.
    pub fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a lock is plain data");
        text.push('\n');
        text
    }

    /// Holds a plan and what the store has of it against the lock; runs nothing.
    ///
    /// # Errors
    /// If an input is missing or the store cannot be read.
    pub fn check(&self, plan: &Plan, store: &Store) -> Result<LockReport, PipelineError> {
        let mut report = LockReport::default();
        let mut differ = |what: String, locked: String, found: String| {
            if locked != found {
                report.differences.push(LockDifference {
                    what,
                    locked,
                    found,
                });
            }
        };
        let text = |digest: Option<&Digest>| digest.map_or_else(String::new, Digest::to_string);
        let mut here = BTreeMap::new();
        let mut stages: BTreeMap<PathBuf, (LockedStage, bool)> = BTreeMap::new();
        walk(plan, store, |name, action, outputs| {
            here.extend(action.sources(plan));
            let is_done = outputs.is_some();
            let stage = locked(plan, action, outputs.unwrap_or_default());
            stages.insert(name.path(), (stage, is_done));
        })?;
        for (path, digest) in &self.sources {
            // What only stages read that cannot be resolved yet is not known here.
            if let Some(found) = here.get(path) {
                let what = format!("source {}", path.display());
                differ(what, digest.to_string(), found.to_string());
            }
        }
        for (path, digest) in here
            .iter()
            .filter(|(path, _)| !self.sources.contains_key(*path))
        {
            let what = format!("source {}", path.display());
            differ(what, String::new(), digest.to_string());
        }
        let (mut same, mut not_run) = (0, 0);
        for (name, locked) in &self.stages {
            let Some((stage, is_done)) = stages.get(name) else {
                not_run += 1;
                continue;
            };
            let program = |stage: &LockedStage| {
                format!("{} {} {}", stage.stage, stage.behaviour, stage.numerics)
            };
            let shown = name.display();
            differ(format!("{shown}: program"), program(locked), program(stage));
            differ(
                format!("{shown}: key"),
                locked.key.to_string(),
                stage.key.to_string(),
            );
            if !is_done {
                not_run += 1;
                continue;
            }
            for (role, digest) in &locked.outputs {
                let what = format!("{shown}: output {role}");
                differ(what, digest.to_string(), text(stage.outputs.get(role)));
            }
            same += usize::from(stage == locked);
        }
        for name in stages
            .keys()
            .filter(|name| !self.stages.contains_key(*name))
        {
            let what = format!("{}", name.display());
            differ(
                what,
                String::new(),
                "a stage that the lock does not have".to_owned(),
            );
        }
        report.same = same;
        report.not_run = not_run;
        Ok(report)
    }
}

/// Visits every stage whose inputs are known, with its outputs where it is done.
fn walk(
    plan: &Plan,
    store: &Store,
    mut visit: impl FnMut(InstanceName, &Action, Option<BTreeMap<String, Digest>>),
) -> Result<(), PipelineError> {
    let mut resolver = Resolver::new(plan, store);
    resolver.check_inputs()?;
    for index in 0..plan.len() {
        if resolver.is_beyond_end(index) || !resolver.is_ready(index) {
            continue;
        }
        let action = resolver.action(index)?;
        let mut outputs = None;
        if let Lookup::Hit(result) = look_up(store, &action.key)? {
            let digests = result.outputs.iter();
            outputs = Some(
                digests
                    .map(|(role, output)| (role.clone(), output.digest))
                    .collect(),
            );
            resolver.finish(index, result);
        }
        visit(plan.name(index), &action, outputs);
    }
    Ok(())
}

fn locked(plan: &Plan, action: &Action, outputs: BTreeMap<String, Digest>) -> LockedStage {
    let description = &plan.program(action.index).description;
    LockedStage {
        key: action.key,
        stage: description.stage.clone(),
        behaviour: description.behaviour,
        numerics: description.numerics.clone(),
        outputs,
    }
}
