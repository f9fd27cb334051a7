//! Progress: a bar on a terminal, one JSON event a line for the runner, or silence.

use std::io::{IsTerminal, Write};
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

/// At most this often is a JSON event printed.
const EVENT_INTERVAL: Duration = Duration::from_millis(100);

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProgressMode {
    /// A bar when stderr is a terminal, else nothing.
    Auto,
    /// One JSON object a line on stderr.
    Json,
    /// Nothing.
    None,
}

impl FromStr for ProgressMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "json" => Ok(Self::Json),
            "none" => Ok(Self::None),
            _ => Err(format!("`{text}` is not one of auto, json, none")),
        }
    }
}

impl ProgressMode {
    /// Tells the runner that a chunk is finished.
    pub(crate) fn chunk_finished(self) {
        if self == Self::Json {
            print_event(&json!({"event": "chunk"}));
        }
    }

    /// Prints a warning the way the mode asks for.
    pub(crate) fn warn(self, message: &str) {
        match self {
            Self::Json => print_event(&json!({"event": "warning", "message": message})),
            _ => print_line(&format!("warning: {message}")),
        }
    }
}

/// Where a chunk stands in the work: how many steps come before it, and how many units after it began.
#[derive(Debug, Default)]
pub(crate) struct ChunkSteps {
    /// Steps of the chunks that are done.
    before: u64,
    /// Units that are not done; 0 outside of chunks.
    units_left: usize,
    /// Steps that were announced in the chunk at work.
    here: AtomicU64,
    /// Units of the chunk at work.
    units_here: usize,
}

impl ChunkSteps {
    /// Begins work on so many units, `size` at a time.
    pub(crate) fn start(&mut self, units: usize, size: usize) {
        *self = Self {
            units_left: units,
            units_here: units.min(size),
            ..Self::default()
        };
    }

    /// Ends a chunk.
    pub(crate) fn finish_chunk(&mut self) {
        self.before += std::mem::take(self.here.get_mut());
        self.units_left -= self.units_here;
        self.units_here = self.units_here.min(self.units_left);
    }

    /// Returns the steps before a count of `total` and those of the whole, as far as can be told.
    fn place(&self, total: u64) -> (u64, u64) {
        if self.units_here == 0 {
            return (0, total);
        }
        let before = self.before + self.here.fetch_add(total, Ordering::Relaxed);
        let share = self.units_left as f64 / self.units_here as f64;
        (before, before + (total as f64 * share).round() as u64)
    }
}

/// Counts work done; safe to share between threads.
pub struct Progress {
    label: String,
    /// Steps that were done before.
    before: u64,
    total: u64,
    done: AtomicU64,
    sink: Sink,
}

enum Sink {
    Bar(ProgressBar),
    Json(Mutex<Option<Instant>>),
    Silent,
}

impl Progress {
    /// Starts to count `total` steps of `label`.
    pub(crate) fn start(mode: ProgressMode, label: &str, total: u64, place: &ChunkSteps) -> Self {
        let (before, total) = place.place(total);
        let sink = match mode {
            ProgressMode::Auto if std::io::stderr().is_terminal() => Sink::Bar(bar(label, total)),
            ProgressMode::Json => Sink::Json(Mutex::new(None)),
            _ => Sink::Silent,
        };
        let progress = Self {
            label: label.to_owned(),
            before,
            total,
            done: AtomicU64::new(0),
            sink,
        };
        progress.report(0);
        progress
    }

    /// Counts `steps` more.
    pub fn inc(&self, steps: u64) {
        let done = self.done.fetch_add(steps, Ordering::Relaxed) + steps;
        self.report(done);
    }

    /// Sets the count.
    pub fn set(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
        self.report(done);
    }

    fn report(&self, done: u64) {
        let done = self.before + done;
        match &self.sink {
            Sink::Bar(bar) => bar.set_position(done),
            Sink::Json(last) => {
                // A poisoned lock only means that another thread died while printing.
                let mut last = last
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                let due = last.is_none_or(|at| at.elapsed() >= EVENT_INTERVAL);
                if due || done >= self.total {
                    *last = Some(Instant::now());
                    print_event(&json!({
                        "event": "progress", "label": self.label, "done": done, "total": self.total,
                    }));
                }
            }
            Sink::Silent => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Sink::Bar(bar) = &self.sink {
            bar.finish();
        }
    }
}

fn bar(label: &str, total: u64) -> ProgressBar {
    let style =
        ProgressStyle::with_template("{msg:>12} {wide_bar} {pos}/{len} [{elapsed} < {eta}]")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total)
        .with_style(style)
        .with_message(label.to_owned())
}

fn print_event(event: &serde_json::Value) {
    print_line(&event.to_string());
}

/// Writes one line to stderr; a reader that went away is no reason to fail.
fn print_line(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
