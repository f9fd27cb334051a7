//! What the last run of a pipeline did: `runs/<pipeline>/run.json`.
//!
//! Nothing is computed from it. It says which views belong to which stage, how long stages took
//! (for estimates), and which keys they had (for `explain`); when it is lost, so are these.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sims_artifact::Digest;
use sims_artifact::atomic_file::write_atomically;
use sims_artifact::store::ActionKey;

use crate::PipelineError;
use crate::plan::InstanceName;

/// The version of the file; another one counts as absent.
const FORMAT: u32 = 1;

/// How a stage ended in the last run that came to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was computed.
    Executed,
    /// Its result was in the store.
    Cached,
    /// It ended with an error.
    Failed,
}

/// An output of another stage that a stage read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FedBy {
    /// The round and the stage: `round-3/sample`.
    pub stage: PathBuf,
    /// The output's role.
    pub output: String,
}

/// What is known of one run of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    /// The action of the last run.
    pub key: ActionKey,
    /// The action before the key last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_before: Option<ActionKey>,
    /// How it ended.
    pub outcome: Outcome,
    /// How long the stage ran when it was computed. Unit: seconds.
    pub seconds: f64,
    /// What fed it, by role; files from outside are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub inputs: BTreeMap<String, Vec<FedBy>>,
    /// The views by path, relative to the pipeline's folder.
    pub views: BTreeMap<PathBuf, Digest>,
    /// The files and models from outside that it read, by path; relative to the workspace where they lie in it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<PathBuf, Digest>,
}

/// What is known of a pipeline's last run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunRecord {
    format: u32,
    /// By round and stage: `round-3/sample`.
    pub stages: BTreeMap<PathBuf, StageRecord>,
}

impl Default for RunRecord {
    fn default() -> Self {
        Self {
            format: FORMAT,
            stages: BTreeMap::new(),
        }
    }
}

impl RunRecord {
    /// Reads the record in `folder` (`runs/<pipeline>`); one that is absent or damaged is empty.
    pub fn load(folder: &Path) -> Self {
        std::fs::read(folder.join("run.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice::<Self>(&bytes).ok())
            .filter(|record| record.format == FORMAT)
            .unwrap_or_default()
    }

    /// Reads the record at `path`, or `None` when it is absent; one that cannot be understood is an error.
    pub(crate) fn load_file(path: &Path) -> Result<Option<Self>, PipelineError> {
        let bytes = match std::fs::read(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| PipelineError::io("read", path, e))?,
        };
        let refuse = |message: String| {
            PipelineError::Usage(format!(
                "{}: {message}; run its pipeline again, which writes it anew, or delete the file to give up what it \
                 names",
                path.display()
            ))
        };
        let record: Self = serde_json::from_slice(&bytes).map_err(|e| refuse(e.to_string()))?;
        match record.format {
            FORMAT => Ok(Some(record)),
            other => Err(refuse(format!(
                "format {other} where {FORMAT} is supported"
            ))),
        }
    }

    /// Writes the record into `folder`.
    pub(crate) fn save(&self, folder: &Path) -> Result<(), PipelineError> {
        let text = self.to_text();
        Ok(write_atomically(&folder.join("run.json"), text.as_bytes())?)
    }

    /// Returns the text of the file.
    pub(crate) fn to_text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a record is plain data");
        text.push('\n');
        text
    }

    /// Returns what is known of a stage.
    pub(crate) fn get(&self, name: &InstanceName) -> Option<&StageRecord> {
        self.stages.get(&name.path())
    }

    /// Returns how long a stage is likely to take: as last time, else as in the nearest round before.
    pub(crate) fn expected_seconds(&self, name: &InstanceName) -> Option<f64> {
        let known =
            |name: &InstanceName| Some(self.get(name)?.seconds).filter(|seconds| *seconds > 0.0);
        known(name).or_else(|| {
            (1..name.round?).rev().find_map(|round| {
                known(&InstanceName {
                    round: Some(round),
                    stage: name.stage.clone(),
                })
            })
        })
    }
}
