//! The artifacts of a pipeline that are in the store.

use std::path::PathBuf;

use sims_artifact::store::Store;

use crate::PipelineError;
use crate::action::{Lookup, Resolver, look_up};
use crate::plan::{InstanceName, Plan};

/// An output of a stage that is in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredArtifact {
    /// The stage and its round.
    pub name: InstanceName,
    /// The role of the output.
    pub role: String,
    /// The kind of artifact, such as `metrics@1`.
    pub schema: String,
    /// Where its bytes are; verified.
    pub path: PathBuf,
}

impl Plan {
    /// Lists the outputs of every stage that is done, in the order of the plan.
    ///
    /// # Errors
    /// If an input is missing or the store cannot be read.
    pub fn artifacts(&self, store: &Store) -> Result<Vec<StoredArtifact>, PipelineError> {
        let mut resolver = Resolver::new(self, store);
        resolver.check_inputs()?;
        let mut artifacts = Vec::new();
        for index in 0..self.len() {
            if resolver.is_beyond_end(index) || !resolver.is_ready(index) {
                continue;
            }
            let key = resolver.action(index)?.key;
            let Lookup::Hit(result) = look_up(store, &key)? else {
                continue;
            };
            for (role, output) in &result.outputs {
                artifacts.push(StoredArtifact {
                    name: self.name(index),
                    role: role.clone(),
                    schema: output.schema.clone(),
                    path: store.blob_path(&output.digest),
                });
            }
            resolver.finish(index, result);
        }
        Ok(artifacts)
    }
}
