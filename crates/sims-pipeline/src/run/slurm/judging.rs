//! What became of jobs: how far they are, which failed, and what follows from that.

use std::time::{Duration, Instant};

use super::following::Follower;
use super::queue::{QueuedTask, TaskState};
use super::record::Slot;
use crate::PipelineError;
use crate::run::Event;
use crate::run::attempt::NotDone;
use crate::run::report::JobReport;

/// How long a shared file system may take to show what a finished job wrote.
const GRACE: Duration = Duration::from_secs(90);
/// Reasons for which a job waits that pass by themselves.
const ORDINARY: [&str; 8] = [
    "None",
    "Priority",
    "Resources",
    "Dependency",
    "DependencyNeverSatisfied",
    "BeginTime",
    "JobArrayTaskLimit",
    "Cleaning",
];

impl Follower<'_> {
    /// Looks at the jobs of every stage whose inputs are there: shows how far they are, and what became of them.
    pub(super) fn judge(&mut self) -> Result<(), PipelineError> {
        for index in self.pending.clone() {
            for slot in [Slot::array(index), Slot::whole(index)] {
                self.show(slot);
                if self.resolver.is_ready(index) && !self.judge_job(slot)? {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Judges one job; `false` when the stage's other job need not be looked at.
    fn judge_job(&mut self, slot: Slot) -> Result<bool, PipelineError> {
        let Some(job) = self.jobs.get_mut(&slot) else {
            return Ok(true);
        };
        let tasks = self
            .queue
            .get(&slot)
            .filter(|(attempt, _)| *attempt == job.attempt);
        let tasks = tasks.map_or(&[][..], |(_, tasks)| tasks);
        if tasks.iter().any(QueuedTask::is_active) {
            return Ok(false);
        }
        if tasks.iter().any(QueuedTask::waits_in_vain) {
            self.jobs.remove(&slot);
            return Ok(false);
        }
        let ended_well = |task: Option<u32>| {
            let found = tasks.iter().find(|found| found.task == task);
            found.is_some_and(|found| found.state == TaskState::Ended("COMPLETED".to_owned()))
        };
        if slot.is_array {
            let failed: Vec<u32> = job
                .tasks
                .iter()
                .copied()
                .filter(|task| !ended_well(Some(*task)))
                .collect();
            if failed.is_empty() {
                self.jobs.remove(&slot);
                self.parts_done.insert(slot.index);
                return Ok(true);
            }
            self.fail(slot, &failed)?;
            return Ok(false);
        }
        if ended_well(None) && job.ended.get_or_insert_with(Instant::now).elapsed() < GRACE {
            return Ok(true);
        }
        self.fail(slot, &[])?;
        Ok(true)
    }

    /// Takes note of a job that failed: it is submitted again, or the run ends.
    fn fail(&mut self, slot: Slot, tasks: &[u32]) -> Result<(), PipelineError> {
        let index = slot.index;
        let failure = self.failure(slot, tasks.first().copied());
        let failures = self.failures.entry(index).or_insert(0);
        *failures += 1;
        let (failures, allowed) = (*failures, self.slurm.resubmissions);
        let is_over = self.book.report.failed > 0;
        if failures <= allowed && !failure.is_lasting && !is_over {
            let message = format!(
                "{}; it is submitted again ({failures} of {allowed}), see {}",
                failure.what,
                failure.log.display()
            );
            self.book.tell(Event::Warning { index, message });
            self.jobs.remove(&slot);
            if slot.is_array {
                self.parts_to_redo.insert(index, tasks.to_vec());
                self.drop_job(Slot::whole(index))?;
            }
            return Ok(());
        }
        self.drop_job(Slot::array(index))?;
        self.drop_job(Slot::whole(index))?;
        self.pending.remove(&index);
        let action = self.resolver.action(index)?;
        let failed = Err(NotDone::Failed(Box::new(failure)));
        self.book.close(&action, failed, &mut self.resolver)?;
        // As in a local run, nothing begins any more, and what runs may end.
        let others: Vec<Slot> = self.jobs.keys().copied().collect();
        others
            .into_iter()
            .try_for_each(|slot| self.drop_waiting(slot))
    }

    /// Shows that a job began, how far it is, or why it may never begin.
    fn show(&mut self, slot: Slot) {
        let index = slot.index;
        let Some(job) = self.jobs.get(&slot) else {
            return;
        };
        let attempt = job.attempt;
        let tasks = match self.queue.get(&slot) {
            Some((found, tasks)) if *found == attempt => tasks.clone(),
            _ => return,
        };
        let is_running = tasks.iter().any(|task| task.state == TaskState::Running);
        if is_running && self.told.insert((index, "started".to_owned())) {
            self.book.tell(Event::Started { index });
        }
        if slot.is_array {
            let done = tasks.iter().filter(|task| !task.is_active()).count() as u64;
            self.show_progress(index, ("parts".to_owned(), done, tasks.len() as u64));
        } else if is_running {
            let report = JobReport::load(&self.report_path(slot, attempt, None));
            if let Some(progress) = report.progress {
                self.show_progress(index, progress);
            }
        }
        for task in tasks {
            let is_odd = !ORDINARY.contains(&task.reason.as_str());
            if task.state == TaskState::Waiting && is_odd {
                let message = format!(
                    "job {} waits, and Slurm gives {} as the reason: it may never begin",
                    task.job, task.reason
                );
                self.tell_once(Some(index), message);
            }
        }
    }

    fn show_progress(&mut self, index: usize, (label, done, total): (String, u64, u64)) {
        if self.told.insert((index, format!("{label} {done}/{total}"))) {
            self.book.tell(Event::Progress {
                index,
                label,
                done,
                total,
            });
        }
    }
}
