//! `sims run`: compute what is not in the store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::json;
use sims_pipeline::{Interrupt, Plan, RemoteCache, RunOptions, RunReport, run};

use crate::executor::{Executor, ExecutorOptions};
use crate::exit::Exit;
use crate::progress_bar::shown;
use crate::remote::SharingOptions;
use crate::signals::raise_on_signals;
use crate::work::WorkerExecution;
use crate::workspace::{Execution, PipelineOptions, Workspace};
use crate::{print, say};

#[derive(Debug, Args)]
#[command(
    after_help = "What is done is never done again: a run that was stopped goes on where it was, and a second \
                  run does nothing. Results are shown under runs/PIPELINE; a file with `vary` or `seeds` stands for \
                  several runs, each with a folder of its own.\n\n\
                  Relative paths in a pipeline file start at its workspace: the parent of the nearest folder above \
                  it that is named `pipelines`, else its own folder. What is not there is looked up from the \
                  current folder.\n\n\
                  With a remote cache, what it has is fetched instead of computed, and what is computed is put into it. \
                  Its credentials come from the environment (AWS_…, GOOGLE_…, AZURE_…). When it cannot be used, the run \
                  goes on without it.\n\n\
                  Examples:\n  sims run pipelines/quickstart.yaml\n  \
                  sims run pipelines/quickstart.yaml --rounds 1 --json\n  \
                  sims run pipelines/sweeps/operator.yaml --only operator=act"
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
    #[command(flatten)]
    execution: WorkerExecution,
    #[command(flatten)]
    executor: ExecutorOptions,
    #[command(flatten)]
    remote: SharingOptions,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let jobs = arguments.jobs.max(1);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let share = (jobs > 1).then(|| (cores / jobs).max(1));
    let execution = Execution {
        jobs,
        threads: arguments.execution.threads.or(share),
        batch_size: arguments.execution.batch_size,
        chunk_size: arguments.execution.chunk_size,
        hang_after: arguments.execution.hang_after,
    };
    arguments.executor.check()?;
    let mut workspace = Workspace::open(&arguments.pipeline, &arguments.options, &execution)?;
    let interrupt = Interrupt::new();
    raise_on_signals(interrupt.clone())?;
    let shared = arguments.remote.share(&workspace.store, &interrupt)?;
    workspace.options.remote = shared.clone().map(|shared| shared as Arc<dyn RemoteCache>);

    let all = run_all(arguments, &workspace, &interrupt);
    let fetched = shared.as_ref().map_or(0, |shared| shared.fetched());
    // What was computed is sent even when the runner failed later.
    let uploaded = shared.map_or(0, |shared| shared.finish());
    let all = all?;
    if fetched + uploaded > 0 {
        say(&format!(
            "remote cache: {fetched} results fetched, {uploaded} sent"
        ));
    }
    if arguments.options.json {
        print(&as_json(&all, fetched).to_string());
    }
    Ok(if all.interrupted {
        Exit::Interrupted
    } else if all.failed > 0 {
        Exit::Failure
    } else {
        Exit::Success
    })
}

/// Runs the plans, one after the other.
fn run_all(
    arguments: &Arguments,
    workspace: &Workspace,
    interrupt: &Interrupt,
) -> anyhow::Result<RunReport> {
    let Workspace { plans, options, .. } = workspace;
    if arguments.executor.executor == Executor::Slurm && plans.len() > 1 {
        // All are submitted before the first is waited for, which may take days.
        for plan in plans {
            on_slurm(arguments, workspace, plan, true, interrupt)?;
        }
    }
    let mut all = RunReport::default();
    for plan in plans {
        if plans.len() > 1 {
            say(&plan.pipeline.name);
        }
        let report = match arguments.executor.executor {
            Executor::Local => shown(plan, options, |hear| {
                run::run(plan, &workspace.store, options, interrupt, hear)
            })?,
            Executor::Slurm => {
                let detach = arguments.executor.detach;
                on_slurm(arguments, workspace, plan, detach, interrupt)?
            }
        };
        tell(
            &report,
            plan.len(),
            &options.run_folder(plan),
            &options.current,
        );
        add(&mut all, report);
        if all.interrupted {
            break;
        }
    }
    if plans.len() > 1 {
        let RunReport {
            executed,
            cached,
            failed,
            seconds,
            ..
        } = &all;
        say(&format!(
            "{} runs: {failed} failed, {executed} executed, {cached} cached, in {seconds:.1} s",
            plans.len()
        ));
    }
    Ok(all)
}

/// Runs a plan as jobs of a cluster.
fn on_slurm(
    arguments: &Arguments,
    workspace: &Workspace,
    plan: &Plan,
    detach: bool,
    interrupt: &Interrupt,
) -> anyhow::Result<RunReport> {
    let Workspace { store, options, .. } = workspace;
    let mut slurm = arguments.executor.slurm(
        &arguments.pipeline,
        plan,
        workspace,
        &arguments.options,
        &arguments.execution,
        &arguments.remote,
    )?;
    slurm.detach = detach;
    // How many threads a stage gets is a matter of the machine that it runs on.
    let options = RunOptions {
        threads: arguments.execution.threads,
        ..options.clone()
    };
    Ok(shown(plan, &options, |hear| {
        run::run_on_slurm(plan, store, &options, &slurm, interrupt, hear)
    })?)
}

/// Adds what one run did to what all did; how a loop ended is kept of the last.
fn add(all: &mut RunReport, one: RunReport) {
    all.executed += one.executed;
    all.cached += one.cached;
    all.failed += one.failed;
    all.not_run += one.not_run;
    all.queued += one.queued;
    all.seconds += one.seconds;
    all.interrupted |= one.interrupted;
    all.failures.extend(one.failures);
    all.end = one.end;
}

fn as_json(report: &RunReport, fetched: usize) -> serde_json::Value {
    json!({
        "executed": report.executed,
        "cached": report.cached,
        "fetched": fetched,
        "failed": report.failed,
        "not_run": report.not_run,
        "queued": report.queued,
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
    } else if report.queued > 0 {
        say(&format!(
            "{} jobs are submitted, {done} of {stages} stages are done; the same command without --detach follows them",
            report.queued
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
