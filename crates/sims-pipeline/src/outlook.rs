//! What a run would do, found without running anything.

use serde::Serialize;
use sims_artifact::store::{ActionKey, Store};

use crate::action::{Lookup, Resolver, look_up};
use crate::plan::{InstanceName, Plan};
use crate::run_record::{Outcome, RunRecord};
use crate::{PipelineError, run::RunOptions};

/// The state of one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outlook {
    /// Its outputs are in the store: a run does nothing.
    Done,
    /// A process is computing it.
    Running,
    /// The last run failed here; the next one tries again.
    Failed,
    /// All its inputs are there: a run computes it.
    Ready,
    /// A stage of an earlier round ended the loop: it does not run.
    LeftOut,
    /// It depends on stages that have to run first; when they reproduce the same bytes, it does not run.
    Waiting,
}

/// The state of one stage of one round.
#[derive(Debug, Clone, PartialEq)]
pub struct StageOutlook {
    /// The stage and its round.
    pub name: InstanceName,
    /// The state.
    pub state: Outlook,
    /// The action's key, where the inputs are known.
    pub key: Option<ActionKey>,
    /// How long it took when done, else how long it is likely to take. Unit: seconds.
    pub seconds: Option<f64>,
    /// Bytes of the outputs, when done.
    pub bytes: Option<u64>,
}

impl Plan {
    /// Returns how long each stage is likely to take, where an earlier run tells. Unit: seconds.
    pub fn expected_seconds(&self, options: &RunOptions) -> Vec<Option<f64>> {
        let record = RunRecord::load(&options.run_folder(self));
        (0..self.len())
            .map(|index| record.expected_seconds(&self.name(index)))
            .collect()
    }

    /// Finds the state of every stage.
    ///
    /// # Errors
    /// If an input is missing or the store cannot be read.
    pub fn outlook(
        &self,
        store: &Store,
        options: &RunOptions,
    ) -> Result<Vec<StageOutlook>, PipelineError> {
        let record = RunRecord::load(&options.run_folder(self));
        let mut resolver = Resolver::new(self, store);
        resolver.check_inputs()?;
        let mut stages = Vec::with_capacity(self.len());
        for index in 0..self.len() {
            stages.push(self.stage_outlook(index, store, &record, &mut resolver)?);
        }
        Ok(stages)
    }

    fn stage_outlook(
        &self,
        index: usize,
        store: &Store,
        record: &RunRecord,
        resolver: &mut Resolver<'_>,
    ) -> Result<StageOutlook, PipelineError> {
        let name = self.name(index);
        let mut stage = StageOutlook {
            seconds: record.expected_seconds(&name),
            name,
            state: Outlook::Waiting,
            key: None,
            bytes: None,
        };
        if resolver.is_beyond_end(index) {
            stage.state = Outlook::LeftOut;
            return Ok(stage);
        }
        if !resolver.is_ready(index) {
            return Ok(stage);
        }
        let key = resolver.action(index)?.key;
        stage.key = Some(key);
        if let Lookup::Hit(result) = look_up(store, &key)? {
            stage.state = Outlook::Done;
            stage.seconds = Some(result.seconds);
            stage.bytes = Some(result.outputs.values().map(|output| output.bytes).sum());
            resolver.finish(index, result);
            return Ok(stage);
        }
        let failed = |record: &crate::run_record::StageRecord| {
            record.key == key && record.outcome == Outcome::Failed
        };
        stage.state = if store.is_leased(&key) {
            Outlook::Running
        } else if record.get(&stage.name).is_some_and(failed) {
            Outlook::Failed
        } else {
            Outlook::Ready
        };
        Ok(stage)
    }
}
