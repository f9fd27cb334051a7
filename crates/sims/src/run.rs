//! `sims run`: compute what is not in the store.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use clap::Args;
use serde_json::json;
use sims_pipeline::{Interrupt, RunReport, run};

use crate::exit::Exit;
use crate::progress_bar::ProgressDisplay;
use crate::signals::raise_on_signals;
use crate::workspace::{Execution, PipelineOptions, Workspace};
use crate::{print, say};

#[derive(Debug, Args)]
#[command(
    after_help = "What is done is never done again: a run that was stopped goes on where it was, and a second \
                  run does nothing. Results are shown under runs/PIPELINE.\n\n\
                  Relative paths in a pipeline file start at its workspace: the parent of the nearest folder above \
                  it that is named `pipelines`, else its own folder. What is not there is looked up from the \
                  current folder.\n\n\
                  Examples:\n  sims run pipelines/quickstart.yaml\n  \
                  sims run pipelines/quickstart.yaml --rounds 1 --json"
)]
pub(crate) struct Arguments {
    /// Pipeline file
    #[arg(value_name = "PIPELINE")]
    pipeline: PathBuf,
    #[command(flatten)]
    options: PipelineOptions,
    /// Stages that run at the same time
    #[arg(long, value_name = "N", default_value_t = 1)]
    jobs: usize,
    /// Worker threads of each stage [default: every core, shared by the jobs]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Sequences that a model runs at once [default: each stage chooses]
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let jobs = arguments.jobs.max(1);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let shared = (jobs > 1).then(|| (cores / jobs).max(1));
    let execution = Execution {
        jobs,
        threads: arguments.threads.or(shared),
        batch_size: arguments.batch_size,
    };
    let Workspace {
        plan,
        store,
        options,
    } = Workspace::open(&arguments.pipeline, &arguments.options, &execution)?;
    let interrupt = Interrupt::new();
    raise_on_signals(interrupt.clone())?;

    let display = Mutex::new(ProgressDisplay::new(&plan, &options, jobs));
    let hear = |event| {
        // A display stays usable whatever a panicking thread was drawing.
        let mut display = display
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        display.show(event);
    };
    let result = run::run(&plan, &store, &options, &interrupt, &hear);
    display
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .clear();
    let report = result?;

    if arguments.options.json {
        print(&as_json(&report).to_string());
    }
    tell(
        &report,
        plan.len(),
        &options.run_folder(&plan),
        &options.current,
    );
    Ok(if report.interrupted {
        Exit::Interrupted
    } else if report.failed > 0 {
        Exit::Failure
    } else {
        Exit::Success
    })
}

fn as_json(report: &RunReport) -> serde_json::Value {
    json!({
        "executed": report.executed,
        "cached": report.cached,
        "failed": report.failed,
        "not_run": report.not_run,
        "interrupted": report.interrupted,
        "ended_after_round": report.end.as_ref().map(|end| end.round),
        "seconds": (report.seconds * 1e3).round() / 1e3,
    })
}

fn tell(report: &RunReport, stages: usize, folder: &Path, current: &Path) {
    for failure in &report.failures {
        say(&format!("error: {failure}"));
    }
    let RunReport {
        executed,
        cached,
        seconds,
        ..
    } = report;
    let done = executed + cached;
    if report.interrupted {
        say(&format!(
            "interrupted: {done} of {stages} stages are done and kept; the same command goes on from there"
        ));
    } else if report.failed > 0 {
        say(&format!(
            "{} failed, {executed} executed, {cached} cached, {} not run, in {seconds:.1} s",
            report.failed, report.not_run
        ));
    } else {
        if let Some(end) = &report.end {
            say(&format!(
                "the loop ended after round {}, by {}: {}",
                end.round, end.stage, end.reason
            ));
        }
        let folder = folder
            .strip_prefix(current)
            .unwrap_or(folder)
            .display()
            .to_string();
        let what = if *executed == 0 {
            format!("nothing to do: {cached} stages are up to date ({seconds:.2} s)")
        } else {
            format!("{executed} executed, {cached} cached, in {seconds:.1} s")
        };
        say(&format!("{what}; results are in {folder}/"));
    }
}
