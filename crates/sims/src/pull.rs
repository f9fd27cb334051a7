//! `sims pull`: bring what a run would need from a remote cache, and run nothing.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Args;
use serde_json::json;
use sims_pipeline::{Event, Interrupt, RemoteCache, RunReport, run};

use crate::exit::Exit;
use crate::progress_bar::shown;
use crate::remote::{RemoteOptions, Shared};
use crate::signals::raise_on_signals;
use crate::workspace::{Execution, PipelineOptions, Workspace};
use crate::{print, say};

#[derive(Debug, Args)]
#[command(
    after_help = "Results are shown under runs/PIPELINE as after a run. What is in the store is not fetched again.\n\n\
                  Examples:\n  sims pull pipelines/quickstart.yaml --remote s3://bucket/sims\n  \
                  sims pull pipelines/quickstart.yaml --rounds 1 --json"
)]
pub(crate) struct Arguments {
    /// Pipeline file
    #[arg(value_name = "PIPELINE")]
    pipeline: PathBuf,
    #[command(flatten)]
    remote: RemoteOptions,
    #[command(flatten)]
    options: PipelineOptions,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let interrupt = Interrupt::new();
    raise_on_signals(interrupt.clone())?;
    let remote = arguments.remote.open_named(&interrupt)?;
    let url = remote.url().to_owned();
    let Workspace {
        plans,
        store,
        mut options,
    } = Workspace::open(
        &arguments.pipeline,
        &arguments.options,
        &Execution::default(),
    )?;
    let shared = Arc::new(Shared::new(remote, None));
    options.remote = Some(Arc::clone(&shared) as Arc<dyn RemoteCache>);
    options.compute = false;
    let (mut here, mut missing, left_out) = (0, 0, AtomicUsize::new(0));
    for plan in &plans {
        let RunReport {
            cached, not_run, ..
        } = shown(plan, &options, |hear| {
            let count = |event| {
                if matches!(event, Event::LeftOut { .. }) {
                    left_out.fetch_add(1, Ordering::Relaxed);
                }
                hear(event);
            };
            run::run(plan, &store, &options, &interrupt, &count)
        })?;
        here += cached;
        missing += not_run;
        if interrupt.is_raised() {
            break;
        }
    }
    let missing = missing - left_out.into_inner();
    let fetched = shared.fetched();
    if arguments.options.json {
        let counts = json!({"fetched": fetched, "present": here.saturating_sub(fetched), "missing": missing});
        print(&counts.to_string());
    }
    say(&format!(
        "{url}: {fetched} results fetched, {} were here already{}",
        here.saturating_sub(fetched),
        match missing {
            0 => String::new(),
            missing => format!(", {missing} are in neither place or wait for such"),
        }
    ));
    Ok(if interrupt.is_raised() {
        Exit::Interrupted
    } else if shared.failed() {
        Exit::Failure
    } else {
        Exit::Success
    })
}
