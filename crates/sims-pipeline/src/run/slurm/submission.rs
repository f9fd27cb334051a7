//! Submitting the jobs that are missing: each waits for those that it needs.

use std::collections::HashSet;

use super::following::{FollowedJob, Follower};
use super::job::{Array, Job};
use super::queue::{self, NotSubmitted, TaskState};
use super::record::{JobMark, Slot, SubmittedJob};
use crate::PipelineError;

/// What Slurm says when it may take the job later.
const PASSING: [&str; 6] = [
    "limit",
    "temporarily",
    "timed out",
    "try again",
    "unable to contact",
    "resource temporarily unavailable",
];

/// Why submitting stopped.
enum Stopped {
    /// Slurm takes no more jobs at present.
    ForNow(String),
    /// It went wrong.
    Error(PipelineError),
}

impl Follower<'_> {
    /// Submits a job for every stage that has neither a result nor a job, in the order of the plan.
    pub(super) fn submit_missing(&mut self) -> Result<(), PipelineError> {
        // Stages that got a new job: what waits for an older one of theirs waits in vain.
        let mut renewed: HashSet<usize> = HashSet::new();
        let mut submitted = Vec::new();
        for index in self.pending.clone() {
            let depends = &self.plan.instances[index].depends;
            if depends.iter().any(|before| renewed.contains(before)) && !self.has_begun(index) {
                self.drop_job(Slot::array(index))?;
                self.drop_job(Slot::whole(index))?;
            }
            if self.jobs.contains_key(&Slot::whole(index)) {
                continue;
            }
            match self.submit_stage(index) {
                Ok(None) => {}
                Ok(Some(job)) => {
                    renewed.insert(index);
                    submitted.push(job);
                }
                Err(Stopped::ForNow(words)) if !self.jobs.is_empty() => {
                    self.tell_once(
                        None,
                        format!(
                            "Slurm takes no more jobs for now: {words}; the others follow later"
                        ),
                    );
                    break;
                }
                Err(Stopped::ForNow(words)) => {
                    return Err(PipelineError::Scheduler(format!("sbatch: {words}")));
                }
                Err(Stopped::Error(error)) => {
                    // A plan that cannot be submitted as a whole leaves nothing behind.
                    let jobs: Vec<Slot> = self.jobs.keys().copied().collect();
                    jobs.into_iter().try_for_each(|slot| self.drop_job(slot))?;
                    return Err(error);
                }
            }
        }
        match &submitted[..] {
            [] => {}
            [one] => self.tell_once(None, format!("submitted job {one}")),
            [first, .., last] => self.tell_once(
                None,
                format!("submitted {} jobs, {first} to {last}", submitted.len()),
            ),
        }
        Ok(())
    }

    /// Submits the job of a stage, and before it the array of its parts; `None` when a job that it needs is missing.
    fn submit_stage(&mut self, index: usize) -> Result<Option<String>, Stopped> {
        let mut after = Vec::new();
        for before in &self.plan.instances[index].depends {
            if self.resolver.has_result(*before) {
                continue;
            }
            match self.jobs.get(&Slot::whole(*before)) {
                Some(job) => after.push(job.job.clone()),
                None => return Ok(None),
            }
        }
        let parts = self.plan.parts(index);
        if parts > 1 && !self.parts_done.contains(&index) {
            let array = Slot::array(index);
            if !self.jobs.contains_key(&array) {
                let tasks = self.parts_to_redo.remove(&index);
                let tasks = tasks.unwrap_or_else(|| (1..=parts).collect());
                self.submit(array, after, Some(Array { tasks, parts }))?;
            }
            after = vec![self.jobs[&array].job.clone()];
        }
        self.submit(Slot::whole(index), after, None).map(Some)
    }

    /// Submits one job, and writes down before and after that it does.
    fn submit(
        &mut self,
        slot: Slot,
        after: Vec<String>,
        array: Option<Array>,
    ) -> Result<String, Stopped> {
        let name = slot.name(self.plan);
        let in_queue = self.queue.get(&slot).map_or(0, |(attempt, _)| *attempt);
        let attempt = self.record.attempt(&name).max(in_queue) + 1;
        let recipe = self.recipes[slot.index];
        let mark = JobMark {
            run: self.record.run.clone(),
            slot: name.clone(),
            attempt,
            recipe: JobMark::short(&recipe),
        };
        let stem = self.stem(slot, attempt);
        let folder = stem.parent().unwrap_or(&self.folder);
        std::fs::create_dir_all(folder)
            .map_err(|e| Stopped::Error(PipelineError::io("create", folder, e)))?;
        let mut arguments = vec![
            "--stage".to_owned(),
            self.plan.name(slot.index).to_string(),
            "--recipe".to_owned(),
            recipe.to_string(),
        ];
        let resources = self.plan.resources(slot.index);
        if let (None, Some(cpus)) = (self.options.threads, resources.cpus) {
            arguments.extend(["--threads".to_owned(), cpus.to_string()]);
        }
        let tasks = array
            .as_ref()
            .map_or_else(Vec::new, |array| array.tasks.clone());
        let job = Job {
            name: format!("{}/{name}", self.plan.pipeline.name),
            comment: mark.to_string(),
            resources,
            after,
            array,
            current: &self.options.current,
            stem: &stem,
            worker: &self.slurm.worker,
            arguments,
        };
        let (options, script) = (job.options(), job.script());
        self.note(&name, attempt, None)?;
        let number = match queue::submit(&options, &script, self.lock) {
            Ok(number) => number,
            Err(NotSubmitted::Error(error)) => return Err(Stopped::Error(error)),
            Err(NotSubmitted::Refused(words)) => {
                let lower = words.to_lowercase();
                return Err(
                    match PASSING.iter().any(|passing| lower.contains(passing)) {
                        true => Stopped::ForNow(words),
                        false => Stopped::Error(PipelineError::Scheduler(format!(
                            "sbatch refuses {name}: {words}; see `resources` in the pipeline file"
                        ))),
                    },
                );
            }
        };
        self.note(&name, attempt, Some(number.clone()))?;
        let job = FollowedJob {
            attempt,
            job: number.clone(),
            tasks,
            ended: None,
        };
        self.jobs.insert(slot, job);
        Ok(number)
    }

    fn note(&mut self, name: &str, attempt: u32, job: Option<String>) -> Result<(), Stopped> {
        let entry = SubmittedJob { attempt, job };
        self.record.jobs.insert(name.to_owned(), entry);
        self.record.save(&self.folder).map_err(Stopped::Error)
    }

    /// Tells whether a job of the stage has a machine.
    fn has_begun(&self, index: usize) -> bool {
        [Slot::array(index), Slot::whole(index)].iter().any(|slot| {
            let queued = self.queue.get(slot);
            self.jobs.contains_key(slot)
                && queued.is_some_and(|(_, tasks)| {
                    tasks.iter().any(|task| task.state == TaskState::Running)
                })
        })
    }
}
