//! One stage of a plan, computed by a process of its own: what a job of a cluster runs.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use sims_artifact::store::{ActionKey, Store};

use super::attempt::{Attempt, Done, NotDone, PartOutcome, Purpose};
use super::remote::claim_anywhere;
use super::report::{JobEnd, Reporter};
use super::{Event, Failure, Interrupt, RunOptions};
use crate::PipelineError;
use crate::action::{Action, Lookup, Resolver};
use crate::plan::Plan;

/// How often results of other stages are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What a worker is to do.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// The stage and its round: `round-1/sample`.
    pub stage: String,
    /// The part of its work to do, from 0, and how many there are; `None` for the stage as a whole.
    pub part: Option<(usize, usize)>,
    /// What the plan has to compute there: a worker that would compute something else refuses.
    pub recipe: Option<ActionKey>,
    /// The file to write to how far it is and how it ended.
    pub report: Option<PathBuf>,
    /// How long to wait for results that have to be there: a shared file system may show them late.
    pub patience: Duration,
}

/// What a worker did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Worked {
    /// It computed the stage.
    Executed,
    /// The result is in the store already.
    Cached,
    /// The stage belongs to a round after the end of the loop.
    LeftOut,
    /// It was asked to stop.
    Interrupted,
    /// The stage failed.
    Failed(Box<Failure>),
}

/// Computes one stage of a plan, whose inputs have to be in the store, and puts its result there.
///
/// Views and records of the run are left as they are.
///
/// # Errors
/// If the plan has no such stage, or another recipe for it; if an input is not in the store; or if the store
/// cannot be written.
pub fn work(
    plan: &Plan,
    store: &Store,
    options: &RunOptions,
    assignment: &Assignment,
    interrupt: &Interrupt,
    hear: &(dyn Fn(Event) + Sync),
) -> Result<Worked, PipelineError> {
    let index = plan.find(&assignment.stage)?;
    let reporter = Reporter::start(assignment.report.clone());
    let heard = |event: Event| {
        reporter.hear(&event);
        hear(event);
    };
    let worker = Worker {
        plan,
        store,
        options,
        interrupt,
        hear: &heard,
    };
    let result = worker.work(index, assignment);
    reporter.end(match &result {
        Ok(Worked::Executed) => JobEnd::Executed,
        Ok(Worked::Cached | Worked::LeftOut) => JobEnd::Idle,
        Ok(Worked::Interrupted) => JobEnd::Interrupted,
        Ok(Worked::Failed(failure)) => JobEnd::Failed(failure.clone()),
        Err(error) => JobEnd::Failed(Box::new(Failure {
            name: plan.name(index),
            what: error.to_string(),
            tail: Vec::new(),
            command: options.by_hand(plan, index),
            log: options.log_path(plan, &plan.name(index)),
            advice: "the stage itself did not run; run again once this is mended".to_owned(),
            is_lasting: error.is_usage(),
        })),
    });
    result
}

struct Worker<'a> {
    plan: &'a Plan,
    store: &'a Store,
    options: &'a RunOptions,
    interrupt: &'a Interrupt,
    hear: &'a (dyn Fn(Event) + Sync),
}

impl Worker<'_> {
    fn work(&self, index: usize, assignment: &Assignment) -> Result<Worked, PipelineError> {
        if assignment.part.is_some() && !self.plan.splits(index) {
            return Err(PipelineError::Usage(format!(
                "{} does not work in chunks, so that it has no parts",
                self.plan.name(index)
            )));
        }
        let mut resolver = Resolver::new(self.plan, self.store);
        if let Some(wanted) = assignment.recipe
            && resolver.recipes()?[index] != wanted
        {
            return Err(PipelineError::Usage(format!(
                "{} is no longer what was submitted: the pipeline, a program or an input changed since; \
                 the same `sims run` submits it anew",
                self.plan.name(index)
            )));
        }
        let started = Instant::now();
        let action = loop {
            match self.resolve(index, &mut resolver)? {
                Resolved::Action(action) => break action,
                Resolved::LeftOut => return Ok(Worked::LeftOut),
                Resolved::Missing(missing) if started.elapsed() >= assignment.patience => {
                    return Err(PipelineError::Usage(format!(
                        "{} needs {}, which has no result in the store at {}: run that first",
                        self.plan.name(index),
                        self.plan.name(missing),
                        self.store.root().display()
                    )));
                }
                Resolved::Missing(_) if self.interrupt.sleep(LOOK_EVERY) => {}
                Resolved::Missing(_) => return Ok(Worked::Interrupted),
            }
        };
        if let Lookup::Hit(_) = claim_anywhere(self.store, self.options, &action, self.hear)? {
            (self.hear)(Event::Cached { index });
            return Ok(Worked::Cached);
        }
        let attempt = Attempt {
            plan: self.plan,
            store: self.store,
            options: self.options,
            interrupt: self.interrupt,
            hear: self.hear,
            action: &action,
            purpose: assignment.part.map_or(Purpose::Publish, Purpose::Part),
        };
        if assignment.part.is_some() {
            return Ok(match attempt.perform_part()? {
                PartOutcome::Done => Worked::Executed,
                PartOutcome::NotNeeded => Worked::Cached,
                PartOutcome::Interrupted => Worked::Interrupted,
                PartOutcome::Failed(failure) => Worked::Failed(failure),
            });
        }
        match attempt.perform() {
            Ok(Done::Executed(result)) => {
                let seconds = result.seconds;
                (self.hear)(Event::Finished { index, seconds });
                Ok(Worked::Executed)
            }
            Ok(Done::ByOther(_)) => {
                (self.hear)(Event::Cached { index });
                Ok(Worked::Cached)
            }
            Err(NotDone::Interrupted) => Ok(Worked::Interrupted),
            Err(NotDone::Failed(failure)) => {
                (self.hear)(Event::Failed { index });
                Ok(Worked::Failed(failure))
            }
            Err(NotDone::Error(error)) => Err(error),
        }
    }

    /// Makes the action of an instance from what is in the store.
    fn resolve(
        &self,
        index: usize,
        resolver: &mut Resolver<'_>,
    ) -> Result<Resolved, PipelineError> {
        let needed = self.plan.ancestors(index);
        for before in 0..self.plan.len() {
            if before == index || resolver.is_beyond_end(before) || !resolver.is_ready(before) {
                continue;
            }
            let action = resolver.action(before)?;
            if needed.contains(&before) {
                match claim_anywhere(self.store, self.options, &action, self.hear)? {
                    Lookup::Hit(result) => resolver.finish(before, result),
                    Lookup::Miss => {}
                    Lookup::Damaged { message, .. } => {
                        return Err(PipelineError::Usage(format!(
                            "the result of {} cannot be used: {message}; `sims run` computes it again",
                            self.plan.name(before)
                        )));
                    }
                }
            } else if let Ok(Some(result)) = self.store.action_result(&action.key) {
                // Of the others only whether they ended the loop matters here.
                resolver.finish(before, result);
            }
        }
        if resolver.is_beyond_end(index) {
            (self.hear)(Event::LeftOut { index });
            return Ok(Resolved::LeftOut);
        }
        match needed.iter().find(|before| !resolver.has_result(**before)) {
            Some(missing) => Ok(Resolved::Missing(*missing)),
            None => Ok(Resolved::Action(resolver.action(index)?)),
        }
    }
}

/// What the store says of an instance's inputs.
enum Resolved {
    /// They are there.
    Action(Action),
    /// The loop ended before the instance.
    LeftOut,
    /// This instance has no result yet.
    Missing(usize),
}
