//! Progress over a whole run: one bar with an estimate on a terminal, plain lines elsewhere.

use std::io::IsTerminal;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use sims_pipeline::{Event, Plan, RunOptions, RunProgress};

use crate::say;

/// Steps of the bar: it shows a fraction.
const STEPS: u64 = 1000;
/// How often a long stage is mentioned where there is no bar.
const MENTION_EVERY: Duration = Duration::from_secs(30);

/// Shows the events of a run.
struct ProgressDisplay {
    names: Vec<String>,
    progress: RunProgress,
    jobs: usize,
    bar: Option<ProgressBar>,
    current: String,
    last_mention: Instant,
}

impl ProgressDisplay {
    /// Starts the display of a run that begins.
    fn new(plan: &Plan, options: &RunOptions, jobs: usize) -> Self {
        let expected = plan.expected_seconds(options);
        let stages = (0..plan.len())
            .map(|index| plan.name(index).stage)
            .zip(expected);
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{wide_bar} {percent:>3}% {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::with_draw_target(Some(STEPS), ProgressDrawTarget::stderr())
                .with_style(style)
        });
        Self {
            names: (0..plan.len())
                .map(|index| plan.name(index).to_string())
                .collect(),
            progress: RunProgress::new(stages),
            jobs,
            bar,
            current: String::new(),
            last_mention: Instant::now(),
        }
    }

    /// Shows that something happened.
    fn show(&mut self, event: Event) {
        match event {
            Event::Cached { index } | Event::LeftOut { index } => self.progress.cached(index),
            Event::Started { index } => {
                self.current.clone_from(&self.names[index]);
                if self.bar.is_none() {
                    let line = format!("{} {}: runs", self.counter(), self.names[index]);
                    self.line(&line);
                }
            }
            Event::Progress {
                index,
                label,
                done,
                total,
            } => self.advance(index, &label, done, total),
            Event::Warning { index, message } => {
                let line = format!("warning: {}: {message}", self.names[index]);
                self.line(&line);
            }
            Event::Note { message } => self.line(&message),
            Event::Resumed { index, chunks } => {
                let line = format!(
                    "{}: {chunks} chunks of its work are finished already",
                    self.names[index]
                );
                self.line(&line);
            }
            Event::WaitingForOther { index } => {
                let line = format!(
                    "{}: another process computes it; waiting for its result",
                    self.names[index]
                );
                self.line(&line);
            }
            Event::Retrying { index, delay } => {
                let line = format!(
                    "{}: a passing failure; trying again in {} s",
                    self.names[index],
                    delay.as_secs_f64()
                );
                self.line(&line);
            }
            Event::Finished { index, seconds } => {
                self.progress.finished(index, seconds);
                let line = format!(
                    "{} {}: {seconds:.1} s{}",
                    self.counter(),
                    self.names[index],
                    self.estimate()
                );
                self.line(&line);
            }
            Event::Failed { index } => {
                let line = format!("{} {}: failed", self.counter(), self.names[index]);
                self.line(&line);
            }
        }
        self.draw();
    }

    /// Removes the bar.
    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn advance(&mut self, index: usize, label: &str, done: u64, total: u64) {
        self.progress.advance(index, done, total);
        self.current = format!("{} {label} {done}/{total}", self.names[index]);
        if self.bar.is_none() && self.last_mention.elapsed() > MENTION_EVERY {
            let line = format!("{} {}{}", self.counter(), self.current, self.estimate());
            self.line(&line);
        }
    }

    fn counter(&self) -> String {
        format!("[{}/{}]", self.progress.complete(), self.names.len())
    }

    fn estimate(&self) -> String {
        match self.progress.seconds_left(self.jobs) {
            Some(seconds) if seconds >= 1.0 => {
                format!(", about {} left", duration_in_words(seconds))
            }
            _ => String::new(),
        }
    }

    fn line(&mut self, line: &str) {
        self.last_mention = Instant::now();
        match &self.bar {
            Some(bar) => bar.println(line),
            None => say(line),
        }
    }

    fn draw(&self) {
        if let Some(bar) = &self.bar {
            bar.set_position((self.progress.fraction() * STEPS as f64) as u64);
            bar.set_message(format!(
                "{} {}{}",
                self.counter(),
                self.current,
                self.estimate()
            ));
        }
    }
}

/// Does `work` with a plan and shows what it says happens, from whatever thread.
pub(crate) fn shown<T>(
    plan: &Plan,
    options: &RunOptions,
    work: impl FnOnce(&(dyn Fn(Event) + Sync)) -> T,
) -> T {
    let display = Mutex::new(ProgressDisplay::new(plan, options, options.jobs.max(1)));
    // A display stays usable whatever a panicking thread was drawing.
    let done = work(&|event| {
        let mut display = display.lock().unwrap_or_else(PoisonError::into_inner);
        display.show(event);
    });
    let display = display.into_inner();
    display.unwrap_or_else(PoisonError::into_inner).clear();
    done
}

/// Writes a duration so that a person takes it in at a glance.
fn duration_in_words(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds:02} s"),
        (hours, minutes, _) => format!("{hours} h {minutes:02} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(duration_in_words(4.4), "4 s");
        assert_eq!(duration_in_words(65.0), "1 min 05 s");
        assert_eq!(duration_in_words(7260.0), "2 h 01 min");
    }
}
