//! What a job that made no result came to, so that it can be mended.

use super::following::Follower;
use super::job::file_of;
use super::queue::{QueuedTask, TaskState};
use super::record::Slot;
use crate::run::Failure;
use crate::run::report::{JobEnd, JobReport};

/// How many of the last lines of a job's output are shown.
const TAIL_LINES: usize = 20;

impl Follower<'_> {
    /// Describes the failure of a job, or of one task of an array, from the queue, its report and its output.
    pub(super) fn failure(&self, slot: Slot, task: Option<u32>) -> Failure {
        let (attempt, number) = match self.jobs.get(&slot) {
            Some(job) => (job.attempt, job.job.as_str()),
            None => (0, "?"),
        };
        let stem = self.stem(slot, attempt);
        let log = file_of(&stem, task, ".out");
        let output = std::fs::read(&log).unwrap_or_default();
        let output = String::from_utf8_lossy(&output);
        let queued = self.queue.get(&slot).filter(|(found, _)| *found == attempt);
        let queued = queued.and_then(|(_, tasks)| tasks.iter().find(|found| found.task == task));
        let end = End::of(queued, &output);
        let advice = end.advice(self.plan.splits(slot.index));
        let job = match task {
            Some(task) => format!("job {number}_{task}"),
            None => format!("job {number}"),
        };
        let report = JobReport::load(&file_of(&stem, task, ".json"));
        if let Some(JobEnd::Failed(failure)) = report.end {
            return Failure {
                what: format!("{} ({job})", failure.what),
                advice: advice.map_or(failure.advice, str::to_owned),
                ..*failure
            };
        }
        let lines: Vec<&str> = output.lines().collect();
        let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
        Failure {
            name: self.plan.name(slot.index),
            what: format!("{job} {}", end.what()),
            tail: tail.iter().map(|line| (*line).to_owned()).collect(),
            command: self.options.by_hand(self.plan, slot.index),
            log,
            advice: advice
                .unwrap_or("its output says more; run again to submit it anew")
                .to_owned(),
            is_lasting: end.is_lasting(),
        }
    }
}

/// How a job ended, as far as that says what to do.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// Slurm does not know it any more.
    Lost,
    /// It ended well, but its result did not appear.
    WithoutResult,
    OutOfTime,
    OutOfMemory,
    Cancelled,
    /// The machine failed, or was taken away.
    Machine(String),
    /// Anything else, in Slurm's words.
    Other(String),
}

impl End {
    fn of(queued: Option<&QueuedTask>, output: &str) -> Self {
        let Some(task) = queued else {
            return Self::Lost;
        };
        let state = match &task.state {
            TaskState::Ended(state) => state.as_str(),
            _ => return Self::Lost,
        };
        // Without control groups Slurm kills a job over its memory itself, and calls it failed.
        let is_over_memory = output.contains("exceeded memory limit")
            || output.contains("Exceeded job memory limit")
            || output.contains("oom-kill")
            || output.contains("oom_kill");
        match state {
            "COMPLETED" => Self::WithoutResult,
            "TIMEOUT" | "DEADLINE" => Self::OutOfTime,
            "OUT_OF_MEMORY" => Self::OutOfMemory,
            "FAILED" if is_over_memory => Self::OutOfMemory,
            "CANCELLED" | "REVOKED" => Self::Cancelled,
            "NODE_FAIL" | "BOOT_FAIL" | "PREEMPTED" => Self::Machine(state.to_owned()),
            _ => Self::Other(format!("{state}, {}", task.reason)),
        }
    }

    fn what(&self) -> String {
        match self {
            Self::Lost => "is not known to Slurm any more, and left no result".to_owned(),
            Self::WithoutResult => "ended well, but its result is not in the store".to_owned(),
            Self::OutOfTime => "ran out of time (TIMEOUT)".to_owned(),
            Self::OutOfMemory => "took more memory than it asked for (OUT_OF_MEMORY)".to_owned(),
            Self::Cancelled => "was cancelled".to_owned(),
            Self::Machine(state) => format!("lost its machine ({state})"),
            Self::Other(words) => format!("failed ({words})"),
        }
    }

    fn advice(&self, splits: bool) -> Option<&'static str> {
        match self {
            Self::WithoutResult => Some(
                "is the store in a folder that this machine and the nodes share? Name one with --store",
            ),
            Self::OutOfTime if splits => Some(
                "give the stage a longer `time` or more `parts` under `resources` in the pipeline file; what it \
                 finished is kept",
            ),
            Self::OutOfTime => {
                Some("give the stage a longer `time` under `resources` in the pipeline file")
            }
            Self::OutOfMemory => Some(
                "give the stage more `memory` under `resources` in the pipeline file, or use a smaller --batch-size",
            ),
            Self::Cancelled => Some("run again to submit it anew"),
            Self::Lost | Self::Machine(_) | Self::Other(_) => None,
        }
    }

    /// Whether the same would happen again: someone who cancels a job does not want it back.
    fn is_lasting(&self) -> bool {
        matches!(self, Self::WithoutResult | Self::Cancelled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(state: &str, output: &str) -> End {
        let task = QueuedTask {
            job: "1".to_owned(),
            task: None,
            state: TaskState::Ended(state.to_owned()),
            reason: "NonZeroExitCode".to_owned(),
            comment: String::new(),
        };
        End::of(Some(&task), output)
    }

    #[test]
    fn ends_are_told_apart() {
        assert_eq!(End::of(None, ""), End::Lost);
        assert_eq!(end("TIMEOUT", ""), End::OutOfTime);
        assert_eq!(end("OUT_OF_MEMORY", ""), End::OutOfMemory);
        let killed =
            "slurmstepd-n: error: StepId=8.batch exceeded memory limit (957 > 209), being killed\n";
        assert_eq!(end("FAILED", killed), End::OutOfMemory);
        assert_eq!(
            end("FAILED", "no such row").what(),
            "failed (FAILED, NonZeroExitCode)"
        );
        assert!(end("CANCELLED", "").is_lasting() && !end("NODE_FAIL", "").is_lasting());
    }
}
