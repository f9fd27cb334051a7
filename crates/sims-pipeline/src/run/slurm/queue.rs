//! Slurm's own programs: `sbatch`, `squeue` and `scancel`, called and understood.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output, Stdio};

use super::record::RunLock;
use crate::PipelineError;

/// What is asked of `squeue`: array's job, task, state, reason and comment, which comes last for what may be in it.
const FORMAT: &str = "%F|%K|%T|%r|%k";

/// One job, or one task of a job array, as the queue shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct QueuedTask {
    /// The job; of a task, that of its array.
    pub(super) job: String,
    /// The number in the array.
    pub(super) task: Option<u32>,
    /// What it does.
    pub(super) state: TaskState,
    /// Why it waits, or ended, in Slurm's word.
    pub(super) reason: String,
    /// What the job was submitted with.
    pub(super) comment: String,
}

/// What a job does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum TaskState {
    /// It waits for its turn.
    Waiting,
    /// It has a machine.
    Running,
    /// It ended, in Slurm's word: `COMPLETED`, `FAILED`, `TIMEOUT`.
    Ended(String),
}

impl TaskState {
    fn of(word: &str) -> Self {
        match word {
            "COMPLETED" | "CANCELLED" | "FAILED" | "TIMEOUT" | "NODE_FAIL" | "PREEMPTED"
            | "BOOT_FAIL" | "DEADLINE" | "OUT_OF_MEMORY" | "REVOKED" => {
                Self::Ended(word.to_owned())
            }
            // A job that completes may still be writing.
            "RUNNING" | "COMPLETING" | "SUSPENDED" | "STAGE_OUT" | "STOPPED" | "SIGNALING"
            | "RESIZING" => Self::Running,
            _ => Self::Waiting,
        }
    }
}

impl QueuedTask {
    /// Tells whether Slurm ended it, or is about to, because what it waits for failed.
    pub(super) fn waits_in_vain(&self) -> bool {
        self.reason == "DependencyNeverSatisfied"
    }

    /// Tells whether it did not end.
    pub(super) fn is_active(&self) -> bool {
        !matches!(self.state, TaskState::Ended(_))
    }
}

/// Why a job was not taken.
#[derive(Debug)]
pub(super) enum NotSubmitted {
    /// Slurm said no, with these words; it may say yes later.
    Refused(String),
    /// `sbatch` could not be run.
    Error(PipelineError),
}

/// Submits a script and returns the job's number. `lock` stays taken as long as `sbatch` lives.
pub(super) fn submit(
    options: &[String],
    script: &str,
    lock: &RunLock,
) -> Result<String, NotSubmitted> {
    let mut command = Command::new("sbatch");
    command.arg("--parsable").args(options);
    // A Ctrl-C on the terminal is not for it: half a submission would be a job that nobody knows.
    command.process_group(0);
    let file = lock.file().as_raw_fd();
    let inherit = move || {
        // SAFETY: `fcntl` takes plain numbers; the file is open as long as the lock lives.
        match unsafe { libc::fcntl(file, libc::F_SETFD, 0) } {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        }
    };
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(inherit) };
    let output = output_of(&mut command, script).map_err(NotSubmitted::Error)?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    // `--parsable` prints `job` or `job;cluster`, after whatever a site's plugin says.
    let job = stdout.lines().last().unwrap_or_default().trim();
    let job = job.split(';').next().unwrap_or_default();
    if output.status.success() && !job.is_empty() && job.chars().all(|c| c.is_ascii_digit()) {
        return Ok(job.to_owned());
    }
    Err(NotSubmitted::Refused(words_of(&output)))
}

/// Returns the user's jobs, those included that ended a short while ago.
pub(super) fn jobs() -> Result<Vec<QueuedTask>, PipelineError> {
    let mut command = Command::new("squeue");
    command.args(["--me", "--noheader", "--array", "--states=all"]);
    command.arg(format!("--format={FORMAT}"));
    let output = output_of(&mut command, "")?;
    if !output.status.success() {
        return Err(PipelineError::Scheduler(format!(
            "squeue failed: {}",
            words_of(&output)
        )));
    }
    Ok(parse(&String::from_utf8_lossy(&output.stdout)))
}

/// Cancels jobs, or tasks such as `17_3`; those that ended already are no error.
pub(super) fn cancel(jobs: &[String]) -> Result<(), PipelineError> {
    // A command line has an end.
    for some in jobs.chunks(500) {
        let mut command = Command::new("scancel");
        command.arg("--quiet").args(some);
        output_of(&mut command, "")?;
    }
    Ok(())
}

/// Reads what `squeue` prints with [`FORMAT`]; lines of other shapes are left out.
fn parse(text: &str) -> Vec<QueuedTask> {
    let task = |line: &str| {
        let mut fields = line.splitn(5, '|');
        let mut next = || fields.next().map(str::trim);
        let (job, task, state, reason, comment) = (next()?, next()?, next()?, next()?, next()?);
        Some(QueuedTask {
            job: job.to_owned(),
            task: task.parse().ok(),
            state: TaskState::of(state),
            reason: reason.to_owned(),
            comment: comment.to_owned(),
        })
    };
    text.lines().filter_map(task).collect()
}

/// Groups tasks by what they are for, and keeps those of the newest try: `(what, try, task)`.
pub(super) fn newest<K: Ord>(
    tasks: impl IntoIterator<Item = (K, u32, QueuedTask)>,
) -> BTreeMap<K, (u32, Vec<QueuedTask>)> {
    let mut found: BTreeMap<K, (u32, Vec<QueuedTask>)> = BTreeMap::new();
    for (key, attempt, task) in tasks {
        let entry = found.entry(key).or_insert((attempt, Vec::new()));
        if attempt > entry.0 {
            *entry = (attempt, Vec::new());
        }
        if attempt == entry.0 {
            entry.1.push(task);
        }
    }
    found
}

/// Runs a program of Slurm with `input` on its stdin.
fn output_of(command: &mut Command, input: &str) -> Result<Output, PipelineError> {
    let name = command.get_program().to_owned();
    let mut run = || -> std::io::Result<Output> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read its input says why.
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output()
    };
    run().map_err(|error| not_run(&name, &error))
}

fn not_run(name: &OsStr, error: &std::io::Error) -> PipelineError {
    let name = name.to_string_lossy();
    PipelineError::Scheduler(match error.kind() {
        std::io::ErrorKind::NotFound => format!(
            "there is no `{name}` on PATH: `--executor slurm` submits from a machine of a Slurm cluster; \
             without it `sims run` computes on this machine"
        ),
        _ => format!("cannot run {name}: {error}"),
    })
}

/// Returns what a program said, on one line.
fn words_of(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    match lines.is_empty() {
        true => format!("it ended with {} and no message", output.status),
        false => lines.join("; "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_is_read_as_slurm_22_prints_it() {
        let tasks = parse(
            "12|3|RUNNING|None|sims:ab:round-1/sample.parts:2:c0ffee\n\
             13|N/A|PENDING|Dependency|sims:ab:round-1/sample:1:c0ffee\n\
             14|N/A|CANCELLED|DependencyNeverSatisfied|(null)\n\
             15|N/A|OUT_OF_MEMORY|OutOfMemory|a|b\n\
             slurm_load_jobs error: Unable to contact slurm controller\n",
        );
        assert_eq!(tasks.len(), 4);
        assert_eq!((tasks[0].job.as_str(), tasks[0].task), ("12", Some(3)));
        assert_eq!(tasks[0].state, TaskState::Running);
        assert_eq!(
            (tasks[1].task, &tasks[1].state),
            (None, &TaskState::Waiting)
        );
        assert!(tasks[2].waits_in_vain() && !tasks[2].is_active());
        assert_eq!(tasks[3].state, TaskState::Ended("OUT_OF_MEMORY".to_owned()));
        assert_eq!(tasks[3].comment, "a|b");
    }

    #[test]
    fn a_state_that_is_not_known_counts_as_waiting() {
        assert_eq!(TaskState::of("REQUEUE_HOLD"), TaskState::Waiting);
        assert_eq!(TaskState::of("SOMETHING_NEW"), TaskState::Waiting);
    }

    #[test]
    fn of_several_tries_the_newest_counts() {
        let tasks = parse("1|N/A|FAILED|x|1\n3|N/A|RUNNING|x|3\n2|N/A|FAILED|x|2\n");
        let numbered = tasks
            .into_iter()
            .map(|task| ((), task.comment.parse().unwrap(), task));
        let found = newest(numbered);
        let (attempt, tasks) = &found[&()];
        assert_eq!((*attempt, tasks.len(), tasks[0].job.as_str()), (3, 1, "3"));
    }
}
