//! `sims fsck`: check every byte in the store.

use std::io::IsTerminal;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use sims_artifact::store::FsckOptions;

use crate::exit::Exit;
use crate::workspace::StoreOption;
use crate::{print, say};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sims fsck\n  sims fsck --store /data/sims --repair")]
pub(crate) struct Arguments {
    #[command(flatten)]
    store: StoreOption,
    /// Move what is bad to quarantine/, so that the next run computes it again
    #[arg(long)]
    repair: bool,
    /// Files read at the same time [default: every core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Print JSON on stdout, and nothing else there
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let store = arguments.store.open_existing()?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let options = FsckOptions {
        threads: arguments.threads.unwrap_or(cores),
        repair: arguments.repair,
    };
    let bar = if std::io::stderr().is_terminal() {
        let style =
            ProgressStyle::with_template("{wide_bar} {pos}/{len} files [{elapsed} < {eta}]")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
        ProgressBar::new(0).with_style(style)
    } else {
        ProgressBar::hidden()
    };
    let report = store.fsck(options, &|done, total| {
        bar.set_length(total as u64);
        bar.set_position(done as u64);
    })?;
    bar.finish_and_clear();
    if arguments.json {
        print(&json!(report).to_string());
    }
    for problem in &report.bad {
        say(&format!(
            "bad: {}: {}",
            problem.path.display(),
            problem.message
        ));
    }
    say(&format!(
        "{} blobs ({} bytes) and {} action results in {}: {}",
        report.blobs,
        report.bytes,
        report.results,
        store.root().display(),
        match (report.bad.len(), arguments.repair) {
            (0, _) => "all good".to_owned(),
            (bad, true) =>
                format!("{bad} bad, moved to quarantine/; run the pipeline to make them again"),
            (bad, false) => format!(
                "{bad} bad; run the pipeline, or `sims fsck --repair`, to have them replaced"
            ),
        }
    ));
    Ok(if report.bad.is_empty() {
        Exit::Success
    } else {
        Exit::Failure
    })
}
