//! The loop that follows jobs: what the queue says, then what the store says, then what follows from both.
//!
//! The order matters: a job that was over before its result was looked for, and not found, has made none.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sims_artifact::store::{ActionKey, Store};

use super::SlurmOptions;
use super::job::file_of;
use super::queue::{self, QueuedTask, TaskState};
use super::record::{JobMark, JobRecord, RunLock, Slot, run_id};
use crate::PipelineError;
use crate::action::{Lookup, Resolver};
use crate::plan::Plan;
use crate::run::book::Book;
use crate::run::remote::claim_anywhere;
use crate::run::report::JobReport;
use crate::run::{Event, Interrupt, RunOptions, RunReport};
use crate::run_record::Outcome;

/// The shortest and the longest pause between two looks.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(10));
/// How long cancelled jobs may take to end.
const CANCEL_PATIENCE: Duration = Duration::from_secs(60);

/// A job that this process submitted or took over, and that was not seen to its end.
#[derive(Debug)]
pub(super) struct FollowedJob {
    pub(super) attempt: u32,
    /// Slurm's number.
    pub(super) job: String,
    /// The tasks of an array.
    pub(super) tasks: Vec<u32>,
    /// When it was first seen to have ended well without a result.
    pub(super) ended: Option<Instant>,
}

/// Submits and follows the jobs of one run.
pub(super) struct Follower<'a> {
    pub(super) plan: &'a Plan,
    pub(super) store: &'a Store,
    pub(super) options: &'a RunOptions,
    pub(super) slurm: &'a SlurmOptions,
    interrupt: &'a Interrupt,
    pub(super) lock: &'a RunLock,
    pub(super) resolver: Resolver<'a>,
    pub(super) recipes: Vec<ActionKey>,
    pub(super) book: Book<'a>,
    /// The folder of the run.
    pub(super) folder: PathBuf,
    pub(super) record: JobRecord,
    /// The instances without a result.
    pub(super) pending: BTreeSet<usize>,
    pub(super) jobs: BTreeMap<Slot, FollowedJob>,
    /// What the queue said last of this run's jobs.
    pub(super) queue: BTreeMap<Slot, (u32, Vec<QueuedTask>)>,
    /// Tries that were given up, and may linger in the queue.
    pub(super) dropped: HashSet<(Slot, u32)>,
    /// Stages whose parts are all done.
    pub(super) parts_done: HashSet<usize>,
    /// Parts that failed and are to be submitted again, by stage.
    pub(super) parts_to_redo: HashMap<usize, Vec<u32>>,
    /// Failures of each stage's jobs.
    pub(super) failures: HashMap<usize, u32>,
    /// What was told already, so that it is told once.
    pub(super) told: HashSet<(usize, String)>,
    /// Jobs of the run that do not serve this plan.
    stale: Vec<String>,
}

impl<'a> Follower<'a> {
    /// Starts with nothing known of the queue.
    #[expect(
        clippy::too_many_arguments,
        reason = "one caller, which has just made them"
    )]
    pub(super) fn new(
        plan: &'a Plan,
        store: &'a Store,
        options: &'a RunOptions,
        slurm: &'a SlurmOptions,
        interrupt: &'a Interrupt,
        lock: &'a RunLock,
        resolver: Resolver<'a>,
        recipes: Vec<ActionKey>,
        book: Book<'a>,
    ) -> Self {
        let folder = options.run_folder(plan);
        let record = JobRecord::load(&folder, &run_id(&folder, store));
        Self {
            plan,
            store,
            options,
            slurm,
            interrupt,
            lock,
            resolver,
            recipes,
            book,
            folder,
            record,
            pending: (0..plan.len()).collect(),
            jobs: BTreeMap::new(),
            queue: BTreeMap::new(),
            dropped: HashSet::new(),
            parts_done: HashSet::new(),
            parts_to_redo: HashMap::new(),
            failures: HashMap::new(),
            told: HashSet::new(),
            stale: Vec::new(),
        }
    }

    /// Follows until every stage has a result, one failed for good, or the run is asked to stop.
    pub(super) fn follow(&mut self) -> Result<(), PipelineError> {
        self.look_into_store()?;
        let mut last_change = Instant::now();
        let mut is_first = true;
        while !self.pending.is_empty() {
            let before = self.pending.len();
            match self.look_into_queue() {
                Ok(true) => last_change = Instant::now(),
                Ok(false) => {}
                // A controller that restarts is no reason to leave: the jobs run on.
                Err(PipelineError::Scheduler(message)) if !is_first => {
                    self.tell_once(None, format!("{message}; trying again"));
                    if !self.interrupt.sleep(PAUSES.1) {
                        break;
                    }
                    continue;
                }
                Err(error) => return Err(error),
            }
            is_first = false;
            self.cancel_stale()?;
            self.look_into_store()?;
            if self.interrupt.is_raised() || self.pending.is_empty() {
                break;
            }
            self.judge()?;
            if self.book.report.failed == 0 {
                self.submit_missing()?;
            } else if !self.any_active() {
                break;
            }
            if self.slurm.detach {
                self.book.report.queued = self.jobs.len();
                return Ok(());
            }
            if self.pending.len() != before {
                last_change = Instant::now();
            }
            // Soon after a change the next one is likely; a long job is not asked for every second.
            let pause = (last_change.elapsed() / 8).clamp(PAUSES.0, PAUSES.1);
            self.interrupt.sleep(pause);
        }
        if self.interrupt.is_raised() {
            return self.cancel_all();
        }
        // Left are jobs of stages that something else computed.
        let left: Vec<Slot> = self.jobs.keys().copied().collect();
        left.into_iter()
            .try_for_each(|slot| self.drop_waiting(slot))
    }

    /// Returns what the run did.
    pub(super) fn into_report(mut self) -> RunReport {
        let report = &mut self.book.report;
        report.interrupted = self.interrupt.is_raised();
        report.end = self
            .resolver
            .end()
            .filter(|end| end.round < self.plan.rounds)
            .cloned();
        report.not_run = self.plan.len() - report.executed - report.cached - report.failed;
        self.book.report
    }

    /// Asks the queue; `true` when something changed. Jobs of this run that serve the plan are taken over.
    fn look_into_queue(&mut self) -> Result<bool, PipelineError> {
        let tasks = queue::jobs()?;
        let mut ours = Vec::new();
        for task in tasks {
            let Some(mark) =
                JobMark::parse(&task.comment).filter(|mark| mark.run == self.record.run)
            else {
                continue;
            };
            let slot = mark.slot_in(self.plan);
            let serves = |slot: &Slot| JobMark::short(&self.recipes[slot.index]) == mark.recipe;
            match slot.filter(serves) {
                Some(slot) => ours.push((slot, mark.attempt, task)),
                None if task.is_active() => self.stale.push(task.job),
                None => {}
            }
        }
        let older: Vec<(Slot, u32, String)> = ours
            .iter()
            .filter(|(_, _, task)| task.is_active())
            .map(|(slot, attempt, task)| (*slot, *attempt, task.job.clone()))
            .collect();
        let found = queue::newest(ours);
        for (slot, attempt, job) in older {
            if attempt < found[&slot].0 && !self.dropped.contains(&(slot, attempt)) {
                self.stale.push(job);
            }
        }
        for (slot, (attempt, tasks)) in &found {
            let is_known =
                self.jobs.contains_key(slot) || self.dropped.contains(&(*slot, *attempt));
            if !is_known && tasks.iter().any(QueuedTask::is_active) {
                self.jobs.insert(
                    *slot,
                    FollowedJob {
                        attempt: *attempt,
                        job: tasks[0].job.clone(),
                        tasks: tasks.iter().filter_map(|task| task.task).collect(),
                        ended: None,
                    },
                );
            }
        }
        let changed = found != self.queue;
        self.queue = found;
        Ok(changed)
    }

    /// Cancels jobs of an earlier version of the pipeline.
    fn cancel_stale(&mut self) -> Result<(), PipelineError> {
        let mut stale = std::mem::take(&mut self.stale);
        stale.sort();
        stale.dedup();
        if stale.is_empty() {
            return Ok(());
        }
        self.tell_once(
            None,
            format!(
                "cancelling {} jobs of this run that were submitted for another version of the pipeline",
                stale.len()
            ),
        );
        queue::cancel(&stale)
    }

    /// Enters every result that is there.
    fn look_into_store(&mut self) -> Result<(), PipelineError> {
        for index in self.pending.clone() {
            if self.resolver.is_beyond_end(index) {
                self.drop_job(Slot::array(index))?;
                self.drop_job(Slot::whole(index))?;
                self.book.leave_out(index)?;
                self.pending.remove(&index);
                continue;
            }
            if !self.resolver.is_ready(index) {
                continue;
            }
            let action = self.resolver.action(index)?;
            match claim_anywhere(self.store, self.options, &action, self.book.listener())? {
                Lookup::Hit(result) => {
                    self.store.keep_document(&action.key, &action.document)?;
                    let outcome = self.outcome(index);
                    self.book.enter(&action, outcome, &result)?;
                    self.resolver.finish(index, result);
                    self.pending.remove(&index);
                }
                Lookup::Miss => self.book.withdraw(&action)?,
                Lookup::Damaged { message, .. } => {
                    self.tell_once(Some(index), format!("{message}; it is computed again"));
                    self.book.withdraw(&action)?;
                }
            }
        }
        Ok(())
    }

    /// Tells how a stage with a result came to it, and passes on what its job warned of.
    fn outcome(&mut self, index: usize) -> Outcome {
        let Some(job) = self.jobs.get(&Slot::whole(index)) else {
            return Outcome::Cached;
        };
        let report = JobReport::load(&self.report_path(Slot::whole(index), job.attempt, None));
        for message in report.warnings {
            self.book.tell(Event::Warning { index, message });
        }
        match report.started {
            true => Outcome::Executed,
            false => Outcome::Cached,
        }
    }

    /// Tells something of a stage, or of the run, unless it was told before.
    pub(super) fn tell_once(&mut self, index: Option<usize>, message: String) {
        if self
            .told
            .insert((index.unwrap_or(usize::MAX), message.clone()))
        {
            self.book.tell(match index {
                Some(index) => Event::Warning { index, message },
                None => Event::Note { message },
            });
        }
    }

    fn any_active(&self) -> bool {
        self.jobs.iter().any(|(slot, job)| {
            let found = self
                .queue
                .get(slot)
                .filter(|(attempt, _)| *attempt == job.attempt);
            found.is_some_and(|(_, tasks)| tasks.iter().any(QueuedTask::is_active))
        })
    }

    /// Cancels a job and forgets it.
    pub(super) fn drop_job(&mut self, slot: Slot) -> Result<(), PipelineError> {
        match self.jobs.remove(&slot) {
            None => Ok(()),
            Some(job) => {
                self.dropped.insert((slot, job.attempt));
                queue::cancel(&[job.job])
            }
        }
    }

    /// Cancels a job, as far as it did not begin.
    pub(super) fn drop_waiting(&mut self, slot: Slot) -> Result<(), PipelineError> {
        let attempt = self.jobs.get(&slot).map(|job| job.attempt);
        let has_begun = self.queue.get(&slot).is_some_and(|(found, tasks)| {
            Some(*found) == attempt && tasks.iter().any(|task| task.state == TaskState::Running)
        });
        if has_begun {
            return Ok(());
        }
        self.drop_job(slot)
    }

    /// Cancels every job of the run, and waits for them to end.
    fn cancel_all(&mut self) -> Result<(), PipelineError> {
        let started = Instant::now();
        let mut asked: BTreeSet<String> = BTreeSet::new();
        loop {
            let is_ours = |task: &QueuedTask| {
                let mark = JobMark::parse(&task.comment);
                task.is_active() && mark.is_some_and(|mark| mark.run == self.record.run)
            };
            let active: BTreeSet<String> = queue::jobs()?
                .into_iter()
                .filter(is_ours)
                .map(|task| task.job)
                .collect();
            let new: Vec<String> = active.difference(&asked).cloned().collect();
            queue::cancel(&new)?;
            asked.extend(new);
            if active.is_empty() {
                break;
            }
            if started.elapsed() > CANCEL_PATIENCE {
                let message = format!(
                    "{} jobs were cancelled and did not end yet; `squeue --me` shows them",
                    active.len()
                );
                self.tell_once(None, message);
                break;
            }
            std::thread::sleep(PAUSES.0);
        }
        if !asked.is_empty() {
            self.tell_once(None, format!("cancelled {} jobs", asked.len()));
        }
        // A stage may have been finished in the meantime.
        self.look_into_store()
    }

    /// Returns where the files of a job begin: `runs/<pipeline>/slurm/round-1/sample.1`.
    pub(super) fn stem(&self, slot: Slot, attempt: u32) -> PathBuf {
        let folder = self.folder.join("slurm");
        folder.join(format!("{}.{attempt}", slot.name(self.plan)))
    }

    pub(super) fn report_path(&self, slot: Slot, attempt: u32, task: Option<u32>) -> PathBuf {
        file_of(&self.stem(slot, attempt), task, ".json")
    }
}
