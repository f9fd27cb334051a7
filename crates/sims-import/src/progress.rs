//! How far an import is: a bar on a terminal, a line now and then elsewhere.

use std::cell::Cell;
use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often progress is mentioned where there is no bar.
const MENTION_EVERY: Duration = Duration::from_secs(30);

/// Follows the bytes read, on stderr.
pub struct Progress {
    read_bytes: AtomicU64,
    total_bytes: u64,
    bar: Option<ProgressBar>,
    started: Instant,
    last_mention: Cell<Instant>,
}

impl Progress {
    /// Starts following a reading of `total_bytes` bytes.
    #[must_use]
    pub fn new(total_bytes: u64) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template(
                "{msg} {wide_bar} {bytes}/{total_bytes}, about {eta} left",
            )
            .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::with_draw_target(Some(total_bytes), ProgressDrawTarget::stderr())
                .with_style(style)
        });
        Self {
            read_bytes: AtomicU64::new(0),
            total_bytes,
            bar,
            started: Instant::now(),
            last_mention: Cell::new(Instant::now()),
        }
    }

    /// Returns the counter of bytes read.
    pub fn read_bytes(&self) -> &AtomicU64 {
        &self.read_bytes
    }

    /// Shows what is being done and how much is left.
    pub fn show(&self, doing: &str) {
        let read = self.read_bytes.load(Ordering::Relaxed);
        if let Some(bar) = &self.bar {
            bar.set_message(doing.to_owned());
            bar.set_position(read);
        } else if self.last_mention.get().elapsed() > MENTION_EVERY && read > 0 {
            let share = read as f64 / self.total_bytes.max(1) as f64;
            let left = self.started.elapsed().as_secs_f64() * (1.0 / share - 1.0);
            self.note(&format!(
                "{doing}: {:.0} %, about {left:.0} s left",
                100.0 * share
            ));
        }
    }

    /// Says something above the bar.
    pub fn note(&self, line: &str) {
        self.last_mention.set(Instant::now());
        match &self.bar {
            Some(bar) => bar.println(line),
            None => {
                let _nobody_listens = writeln!(std::io::stderr().lock(), "{line}");
            }
        }
    }

    /// Removes the bar.
    pub fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
