//! One stage process: started, listened to, stopped when asked, reaped.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde::Deserialize;

use super::Interrupt;

/// How many of the last lines of a log are kept to show.
const TAIL_LINES: usize = 20;
/// How long a stage that was asked to stop may take before it is killed.
const GRACE: Duration = Duration::from_secs(10);
/// How often a quiet stage is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A line of `--progress json`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(super) enum StageEvent {
    /// So much is done.
    Progress {
        #[serde(default)]
        label: String,
        done: u64,
        total: u64,
    },
    /// Something that the user should know.
    Warning { message: String },
    /// A chunk of its work is finished.
    Chunk,
}

/// How a process ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    pub(super) seconds: f64,
    /// The last lines that it wrote.
    pub(super) tail: Vec<String>,
    /// Whether it was stopped because nothing was heard of it for too long.
    pub(super) is_hung: bool,
}

/// When a process is stopped, and how far that is.
struct Watch<'a> {
    interrupt: &'a Interrupt,
    group: i32,
    /// How long nothing may be heard of the process; none for ever.
    hang_after: Option<Duration>,
    heard: Instant,
    asked_to_stop: Option<Instant>,
    is_hung: bool,
}

impl Watch<'_> {
    /// Asks the process to stop once it hangs, and kills it when it does not after having been asked.
    fn look(&mut self) {
        let is_silent = self
            .hang_after
            .is_some_and(|longest| self.heard.elapsed() > longest);
        if is_silent && !self.is_hung {
            self.is_hung = true;
            self.interrupt.stop_group(self.group);
        }
        if (self.is_hung || self.interrupt.is_raised())
            && self
                .asked_to_stop
                .get_or_insert_with(Instant::now)
                .elapsed()
                > GRACE
        {
            self.interrupt.kill_group(self.group);
        }
    }
}

/// Runs a stage to its end; what it writes to stderr goes to `log`, its events to `hear`.
///
/// A stage that writes nothing for `hang_after` is stopped.
pub(super) fn run(
    command: &mut Command,
    log: &mut File,
    interrupt: &Interrupt,
    hang_after: Option<Duration>,
    hear: &mut dyn FnMut(StageEvent),
) -> std::io::Result<Ended> {
    let started = Instant::now();
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(Stdio::piped())
        // Its own group: a Ctrl-C on the terminal reaches the runner alone, which passes it on.
        .process_group(0);
    die_with_runner(command);
    let mut child = command.spawn()?;
    let group = i32::try_from(child.id()).map_err(std::io::Error::other)?;
    interrupt.add_group(group);

    let lines = lines_of(&mut child);
    let mut tail = VecDeque::new();
    let mut watch = Watch {
        interrupt,
        group,
        hang_after,
        heard: Instant::now(),
        asked_to_stop: None,
        is_hung: false,
    };
    let mut status = None;
    loop {
        match lines.recv_timeout(LOOK_EVERY) {
            Ok(line) => {
                watch.heard = Instant::now();
                keep_line(&line, log, &mut tail, hear);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        watch.look();
        // A process that left a child behind, which holds the pipe, has ended all the same.
        status = interrupt.reap(group, || child.try_wait().transpose());
        if status.is_some() {
            while let Ok(line) = lines.recv_timeout(LOOK_EVERY) {
                keep_line(&line, log, &mut tail, hear);
            }
            break;
        }
    }
    let status = match status {
        Some(status) => status?,
        None => wait(&mut child, &mut watch)?,
    };
    Ok(Ended {
        status,
        seconds: started.elapsed().as_secs_f64(),
        tail: tail.into(),
        is_hung: watch.is_hung,
    })
}

/// Waits for a process that closed its stderr: it is ending, or does so when it is asked.
fn wait(child: &mut Child, watch: &mut Watch<'_>) -> std::io::Result<ExitStatus> {
    let mut pause = Duration::from_micros(100);
    loop {
        let interrupt = watch.interrupt;
        if let Some(status) = interrupt.reap(watch.group, || child.try_wait().transpose()) {
            return status;
        }
        watch.look();
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Reads the process's stderr line by line in a thread of its own, which ends with the pipe.
fn lines_of(child: &mut Child) -> Receiver<String> {
    let (sender, receiver) = channel();
    if let Some(stderr) = child.stderr.take() {
        std::thread::spawn(move || {
            let mut reader = BufReader::new(stderr);
            let mut line = Vec::new();
            while reader
                .read_until(b'\n', &mut line)
                .is_ok_and(|bytes| bytes > 0)
            {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(text).is_err() {
                    break;
                }
                line.clear();
            }
        });
    }
    receiver
}

/// Keeps a line for the log and the tail, or passes on the event in it.
///
/// A log that cannot be written, as on a full disk, is no reason to leave the process unwatched:
/// what it wrote last is in the tail, and the disk is named when the stage fails.
fn keep_line(
    line: &str,
    log: &mut File,
    tail: &mut VecDeque<String>,
    hear: &mut dyn FnMut(StageEvent),
) {
    if line.starts_with('{')
        && let Ok(event) = serde_json::from_str::<StageEvent>(line)
    {
        if let StageEvent::Warning { message } = &event {
            let _ = writeln!(log, "warning: {message}");
        }
        hear(event);
        return;
    }
    let _ = writeln!(log, "{line}");
    if tail.len() == TAIL_LINES {
        tail.pop_front();
    }
    tail.push_back(line.to_owned());
}

/// Has the system kill the process when the runner dies, so that no orphan computes for nothing.
fn die_with_runner(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        let die = || {
            // SAFETY: `prctl` is a plain system call, safe between fork and exec; it touches no
            // memory. The signal comes when the thread that forked ends, and that thread waits
            // for the process.
            let result = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            if result == 0 {
                Ok(())
            } else {
                Err(std::io::Error::last_os_error())
            }
        };
        // SAFETY: the closure allocates nothing and takes no lock.
        unsafe { command.pre_exec(die) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}
