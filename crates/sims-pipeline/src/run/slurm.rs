//! Running a plan as jobs of a Slurm cluster.
//!
//! Every stage becomes a job that runs a worker ([`work`](super::work)) and waits for the jobs of the stages that
//! feed it, so that the whole plan can be submitted at once, before any result is known. Whether a stage is done,
//! the store says; what a job does, the queue says; this process submits, follows, and can go away at any time.

mod ended;
mod following;
mod job;
mod judging;
mod queue;
mod record;
mod submission;

use std::time::Instant;

use sims_artifact::store::Store;

use super::book::Book;
use super::{Event, Interrupt, RunOptions, RunReport};
use crate::PipelineError;
use crate::action::Resolver;
use crate::plan::Plan;
use following::Follower;
use record::RunLock;

/// How a plan is run on a cluster; nothing here changes what is computed.
#[derive(Debug, Clone)]
pub struct SlurmOptions {
    /// The command of a worker for this plan: program and arguments, to which the stage is added.
    pub worker: Vec<String>,
    /// How often a stage's job is submitted again when it fails or gets lost.
    pub resubmissions: u32,
    /// Whether to leave once everything is submitted.
    pub detach: bool,
}

/// Submits every stage of a plan that is not in the store, and follows the jobs to their end.
///
/// Jobs that an earlier call submitted are taken over. When it is interrupted, the jobs are cancelled.
///
/// # Errors
/// If an input is missing or wrong, the store or the views cannot be written, Slurm's programs are not there or
/// refuse a job, or another process follows this run. A stage that fails is no error but part of the report.
pub fn run_on_slurm(
    plan: &Plan,
    store: &Store,
    options: &RunOptions,
    slurm: &SlurmOptions,
    interrupt: &Interrupt,
    hear: &(dyn Fn(Event) + Sync),
) -> Result<RunReport, PipelineError> {
    let started = Instant::now();
    let folder = options.run_folder(plan);
    let lock = RunLock::take(&folder)?;
    let mut resolver = Resolver::new(plan, store);
    resolver.check_inputs()?;
    let recipes = resolver.recipes()?;
    store.register_run(&folder)?;
    let mut book = Book::open(plan, store, folder, hear);
    book.forget_dropped_stages()?;
    let mut follower = Follower::new(
        plan, store, options, slurm, interrupt, &lock, resolver, recipes, book,
    );
    follower.follow()?;
    let mut report = follower.into_report();
    report.seconds = started.elapsed().as_secs_f64();
    Ok(report)
}
