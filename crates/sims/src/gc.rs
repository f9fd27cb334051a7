//! `sims gc`: move what no run needs out of the store.

use std::io::IsTerminal;
use std::time::{Duration, SystemTime};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use sims_artifact::store::{GcOptions, GcReport, GcStep, Store, Tally};
use sims_pipeline::{Needed, PipelineError};

use crate::exit::{Exit, UsageError};
use crate::workspace::StoreOption;
use crate::{print, say};

#[derive(Debug, Args)]
#[command(
    after_help = "What the run.json of any run names that ever used the store is kept, and so is what is pinned (see \
                  `sims pin`) and what a run in progress relies on. A run whose folder was deleted counts no more.\n\n\
                  The rest goes to trash/ first, from where a run takes it back, and is deleted by a later gc. It \
                  can be stopped at any moment, and runs may go on beside it.\n\n\
                  Examples:\n  sims gc --dry-run\n  sims gc --older-than 7d\n  sims gc --empty-trash --store /data/sims"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    store: StoreOption,
    /// Leave files that changed since then, in the store and in its trash: 90s, 30m, 24h, 7d
    #[arg(long, value_name = "AGE", default_value = "24h", value_parser = age)]
    older_than: Duration,
    /// Delete everything in the trash, old or not
    #[arg(long)]
    empty_trash: bool,
    /// Go on although no run is known that uses the store: everything goes
    #[arg(long)]
    without_runs: bool,
    /// Only count
    #[arg(long)]
    dry_run: bool,
    /// Print JSON on stdout, and nothing else there
    #[arg(long)]
    json: bool,
}

/// Reads an age: a number and a unit.
fn age(text: &str) -> Result<Duration, String> {
    let unit = text.chars().last().unwrap_or_default();
    let number = text.strip_suffix(unit).unwrap_or_default();
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 24 * 3600,
        _ => return Err("give a number and a unit: 90s, 30m, 24h, 7d".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| {
        format!("`{number}` is not a whole number; give one and a unit, such as 24h")
    })?;
    let seconds = number.checked_mul(seconds).ok_or("that is too long")?;
    Ok(Duration::from_secs(seconds))
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let store = arguments.store.open_existing()?;
    let mut needed = Needed::new(&store);
    let records = needed.records()?.len();
    if records == 0 && !arguments.without_runs && !store.action_keys()?.is_empty() {
        return Err(UsageError(format!(
            "no run is known that uses {}: run a pipeline with it, pin a run, or let everything go with --without-runs",
            store.root().display()
        ))
        .into());
    }
    let now = SystemTime::now();
    let options = GcOptions {
        before: now
            .checked_sub(arguments.older_than)
            .unwrap_or(SystemTime::UNIX_EPOCH),
        empty_trash: arguments.empty_trash,
        dry_run: arguments.dry_run,
    };
    let bar = progress_bar();
    let report =
        store.gc::<PipelineError>(
            options,
            &mut |marks| needed.mark(marks),
            &|step| match step {
                GcStep::Waiting => {
                    bar.suspend(|| say("another gc is at work; waiting for its end"))
                }
                GcStep::Folder { done, total } => {
                    bar.set_length(total as u64);
                    bar.set_position(done as u64);
                }
            },
        )?;
    bar.finish_and_clear();
    if arguments.json {
        print(&as_json(&report, arguments.dry_run, records).to_string());
    }
    for folder in &report.gone_runs {
        say(&format!(
            "{} is gone: what only that run needed is kept no more",
            folder.display()
        ));
    }
    say(&in_words(&report, arguments, &store, records));
    Ok(Exit::Success)
}

fn progress_bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} folders [{elapsed} < {eta}]")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(0).with_style(style)
}

fn as_json(report: &GcReport, dry_run: bool, records: usize) -> Value {
    let mut value = json!(report);
    value["dry_run"] = json!(dry_run);
    value["records"] = json!(records);
    value
}

fn in_words(report: &GcReport, arguments: &Arguments, store: &Store, records: usize) -> String {
    let (moved, deleted) = match arguments.dry_run {
        true => ("would be moved", "would be deleted"),
        false => ("moved", "deleted"),
    };
    let mut text = format!(
        "{}: {moved} to the trash: {}; {deleted} from it: {}; kept for {records} run{}: {}",
        store.root().display(),
        amount(report.moved),
        amount(report.deleted),
        if records == 1 { "" } else { "s" },
        amount(report.kept),
    );
    if report.young.files > 0 {
        text.push_str(&format!("; too young to go: {}", amount(report.young)));
    }
    if report.moved.files > 0 && !arguments.empty_trash && !arguments.dry_run {
        text.push_str("\nthe trash still takes up its space: a later gc deletes what is old, `sims gc --empty-trash` everything");
    }
    text
}

fn amount(tally: Tally) -> String {
    let Tally { files, bytes } = tally;
    let s = if files == 1 { "" } else { "s" };
    match bytes {
        0..1_000_000 => format!("{files} file{s} ({:.1} kB)", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{files} file{s} ({:.1} MB)", bytes as f64 / 1e6),
        _ => format!("{files} file{s} ({:.1} GB)", bytes as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_a_unit() {
        assert_eq!(age("0s"), Ok(Duration::ZERO));
        assert_eq!(age("7d"), Ok(Duration::from_secs(7 * 24 * 3600)));
        for wrong in [
            "",
            "24",
            "h",
            "-1h",
            "1.5h",
            "1 h",
            "99999999999999999d",
            "5µ",
        ] {
            assert!(age(wrong).is_err(), "{wrong}");
        }
    }
}
