//! The books of a run: what is recorded, shown under `runs/`, and counted.

use std::path::{Path, PathBuf};

use sims_artifact::store::{ActionResult, Store};

use super::attempt::{Done, NotDone};
use super::{Event, RunReport};
use crate::action::{Action, Resolver};
use crate::plan::{InstanceName, Plan};
use crate::run_record::{Outcome, RunRecord, StageRecord};
use crate::{PipelineError, views};

/// Keeps the record, the views and the report of a run.
pub(super) struct Book<'a> {
    plan: &'a Plan,
    store: &'a Store,
    folder: PathBuf,
    record: RunRecord,
    pub(super) report: RunReport,
    hear: &'a (dyn Fn(Event) + Sync),
}

impl<'a> Book<'a> {
    /// Opens the book of the last run in `folder`.
    pub(super) fn open(
        plan: &'a Plan,
        store: &'a Store,
        folder: PathBuf,
        hear: &'a (dyn Fn(Event) + Sync),
    ) -> Self {
        Self {
            plan,
            store,
            record: RunRecord::load(&folder),
            folder,
            report: RunReport::default(),
            hear,
        }
    }

    /// Returns whoever listens.
    pub(super) fn listener(&self) -> &'a (dyn Fn(Event) + Sync) {
        self.hear
    }

    /// Tells whoever listens what happened.
    pub(super) fn tell(&self, event: Event) {
        (self.hear)(event);
    }

    /// Takes the outcome of an action.
    pub(super) fn close(
        &mut self,
        action: &Action,
        outcome: Result<Done, NotDone>,
        resolver: &mut Resolver<'_>,
    ) -> Result<(), PipelineError> {
        let index = action.index;
        match outcome {
            Ok(Done::Executed(result)) => {
                self.enter(action, Outcome::Executed, &result)?;
                resolver.finish(index, result);
            }
            Ok(Done::ByOther(result)) => {
                self.enter(action, Outcome::Cached, &result)?;
                resolver.finish(index, result);
            }
            Err(NotDone::Interrupted) => {}
            Err(NotDone::Failed(failure)) => {
                self.tell(Event::Failed { index });
                self.report.failed += 1;
                self.report.failures.push(*failure);
                self.record_failure(action)?;
            }
            Err(NotDone::Error(error)) => {
                self.tell(Event::Failed { index });
                return Err(error);
            }
        }
        Ok(())
    }

    /// Counts a result, publishes its views and records it.
    pub(super) fn enter(
        &mut self,
        action: &Action,
        outcome: Outcome,
        result: &ActionResult,
    ) -> Result<(), PipelineError> {
        let index = action.index;
        if outcome == Outcome::Executed {
            self.report.executed += 1;
            let seconds = result.seconds;
            self.tell(Event::Finished { index, seconds });
        } else {
            self.report.cached += 1;
            self.tell(Event::Cached { index });
        }
        let name = self.plan.name(index);
        let before = self.record.get(&name).cloned();
        if before
            .as_ref()
            .is_some_and(|before| before.key != action.key)
        {
            self.withdraw(action)?;
        }
        let published = views::of_result(self.plan, action.index, result);
        for (path, digest) in &published {
            views::publish(&self.folder.join(path), self.store, digest)?;
        }
        let entry = StageRecord {
            key: action.key,
            key_before: key_before(before.as_ref(), action),
            // A run that finds everything done leaves the record as it is.
            outcome: match &before {
                Some(before) if outcome == Outcome::Cached && before.key == action.key => {
                    match before.outcome {
                        Outcome::Failed => Outcome::Cached,
                        known => known,
                    }
                }
                _ => outcome,
            },
            seconds: result.seconds,
            inputs: self.plan.fed_by(index),
            views: published.into_iter().collect(),
            sources: action.sources(self.plan),
        };
        if before.as_ref() != Some(&entry) {
            self.record.stages.insert(name.path(), entry);
            self.record.save(&self.folder)?;
        }
        Ok(())
    }

    /// Removes the views of a stage that gets another key, and of all that follows from it.
    ///
    /// Stages that turn out to be the same get theirs back when they are come to, so that the
    /// folder never shows results of two different runs side by side.
    pub(super) fn withdraw(&mut self, action: &Action) -> Result<(), PipelineError> {
        let name = self.plan.name(action.index);
        let known = self.record.get(&name);
        if known.is_none_or(|known| known.key == action.key) {
            return Ok(());
        }
        let mut stale: Vec<InstanceName> = self
            .plan
            .dependents(action.index)
            .into_iter()
            .map(|i| self.plan.name(i))
            .collect();
        stale.push(name);
        let beyond = self
            .record
            .stages
            .keys()
            .filter(|path| is_beyond(path, self.plan.rounds));
        let mut paths: Vec<PathBuf> = beyond.cloned().collect();
        paths.extend(stale.iter().map(InstanceName::path));
        self.remove_views(&paths)
    }

    /// Removes the views of a stage that lies after the end of the loop.
    pub(super) fn leave_out(&mut self, index: usize) -> Result<(), PipelineError> {
        self.tell(Event::LeftOut { index });
        self.remove_views(&[self.plan.name(index).path()])
    }

    /// Removes the views of stages that the pipeline no longer has.
    pub(super) fn forget_dropped_stages(&mut self) -> Result<(), PipelineError> {
        let planned: Vec<PathBuf> = (0..self.plan.len())
            .map(|index| self.plan.name(index).path())
            .collect();
        let dropped: Vec<PathBuf> = self
            .record
            .stages
            .keys()
            .filter(|path| !planned.contains(path) && !is_beyond(path, self.plan.rounds))
            .cloned()
            .collect();
        self.remove_views(&dropped)?;
        for path in &dropped {
            self.record.stages.remove(path);
        }
        if dropped.is_empty() {
            return Ok(());
        }
        self.record.save(&self.folder)
    }

    fn remove_views(&mut self, stages: &[PathBuf]) -> Result<(), PipelineError> {
        let mut changed = false;
        for stage in stages {
            if let Some(record) = self.record.stages.get_mut(stage) {
                for view in std::mem::take(&mut record.views).into_keys() {
                    views::retract(&self.folder.join(view), &self.folder);
                    changed = true;
                }
            }
        }
        if changed {
            self.record.save(&self.folder)?;
        }
        Ok(())
    }

    fn record_failure(&mut self, action: &Action) -> Result<(), PipelineError> {
        let name = self.plan.name(action.index);
        let before = self.record.get(&name).cloned();
        let entry = StageRecord {
            key: action.key,
            key_before: key_before(before.as_ref(), action),
            outcome: Outcome::Failed,
            seconds: before.as_ref().map_or(0.0, |before| before.seconds),
            inputs: self.plan.fed_by(action.index),
            views: before.map(|before| before.views).unwrap_or_default(),
            sources: action.sources(self.plan),
        };
        self.record.stages.insert(name.path(), entry);
        self.record.save(&self.folder)
    }
}

fn key_before(
    before: Option<&StageRecord>,
    action: &Action,
) -> Option<sims_artifact::store::ActionKey> {
    match before {
        Some(before) if before.key == action.key => before.key_before,
        Some(before) => Some(before.key),
        None => None,
    }
}

/// Tells whether a recorded stage belongs to a round after the last planned one.
fn is_beyond(path: &Path, rounds: u32) -> bool {
    let folder = path
        .components()
        .next()
        .map(|first| first.as_os_str().to_string_lossy().into_owned());
    folder
        .and_then(|folder| folder.strip_prefix("round-")?.parse::<u32>().ok())
        .is_some_and(|round| round > rounds)
}
