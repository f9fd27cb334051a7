//! Verification: finished actions are computed once more, and their bytes compared with those in the store.

use sims_artifact::Digest;
use sims_artifact::store::{ActionResult, Store};

use super::attempt::{Attempt, Failure, NotDone, Purpose};
use super::{Event, Interrupt, RunOptions};
use crate::PipelineError;
use crate::action::{Action, Lookup, Resolver, claim};
use crate::plan::{InstanceName, Plan};

/// What came of computing an action once more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every output has the same bytes.
    Same,
    /// These outputs have other bytes.
    Differs(Vec<String>),
    /// The stage failed.
    Failed(Box<Failure>),
}

/// What a verification found.
#[derive(Debug, Clone, Default)]
pub struct Verification {
    /// The actions that were computed once more, in the order of the plan.
    pub verdicts: Vec<(InstanceName, Verdict)>,
    /// Stages whose results are in the store.
    pub done: usize,
    /// Stages that have no result to compare with.
    pub not_done: usize,
    /// Whether it was asked to stop.
    pub interrupted: bool,
}

/// Computes `sample` finished actions of a plan once more, 0 for all, and compares; the store stays as it is.
///
/// Which ones are drawn depends on their keys and `seed` alone.
///
/// # Errors
/// If an input is missing, or the store cannot be read.
pub fn verify(
    plan: &Plan,
    store: &Store,
    options: &RunOptions,
    interrupt: &Interrupt,
    (sample, seed): (usize, u64),
    hear: &(dyn Fn(Event) + Sync),
) -> Result<Verification, PipelineError> {
    let mut resolver = Resolver::new(plan, store);
    resolver.check_inputs()?;
    let mut verification = Verification::default();
    let mut finished: Vec<(Action, ActionResult)> = Vec::new();
    for index in 0..plan.len() {
        if resolver.is_beyond_end(index) {
            continue;
        }
        let found = match resolver.is_ready(index) {
            true => {
                let action = resolver.action(index)?;
                let found = claim(store, &action.key)?;
                Some((action, found))
            }
            false => None,
        };
        if let Some((action, Lookup::Hit(result))) = found {
            resolver.finish(index, result.clone());
            finished.push((action, result));
        } else {
            verification.not_done += 1;
        }
    }
    verification.done = finished.len();
    if sample > 0 {
        finished.sort_by_key(|(action, _)| {
            Digest::of_bytes(format!("{seed}/{}", action.key).as_bytes())
        });
        finished.truncate(sample);
        finished.sort_by_key(|(action, _)| action.index);
    }
    for index in 0..plan.len() {
        if !finished.iter().any(|(action, _)| action.index == index) {
            hear(Event::LeftOut { index });
        }
    }
    for (action, stored) in &finished {
        let index = action.index;
        hear(Event::Started { index });
        let attempt = Attempt {
            plan,
            store,
            options,
            interrupt,
            hear,
            action,
            purpose: Purpose::Compare,
        };
        let verdict = match attempt.run_once() {
            Ok(Ok(again)) => {
                let seconds = again.seconds;
                hear(Event::Finished { index, seconds });
                compared(stored, &again)
            }
            Ok(Err((failure, _))) => {
                hear(Event::Failed { index });
                Verdict::Failed(Box::new(failure))
            }
            Err(NotDone::Interrupted) => {
                verification.interrupted = true;
                break;
            }
            Err(NotDone::Failed(failure)) => Verdict::Failed(failure),
            Err(NotDone::Error(error)) => return Err(error),
        };
        verification.verdicts.push((plan.name(index), verdict));
    }
    Ok(verification)
}

fn compared(stored: &ActionResult, again: &ActionResult) -> Verdict {
    let differing: Vec<String> = stored
        .outputs
        .iter()
        .filter(|(role, output)| {
            let other = again.outputs.get(*role);
            other.is_none_or(|other| other.digest != output.digest)
        })
        .map(|(role, _)| role.clone())
        .collect();
    match differing.is_empty() {
        true => Verdict::Same,
        false => Verdict::Differs(differing),
    }
}
