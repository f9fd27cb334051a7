//! `sims repro-lock`: write down what decided a run, or hold a machine against it.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde_json::json;
use sims_pipeline::{LockReport, ReproLock};

use crate::exit::{Exit, UsageError};
use crate::workspace::{Execution, PipelineOptions, Workspace};
use crate::{print, say};

#[derive(Debug, Args)]
#[command(
    after_help = "The lock holds digests of every input, the programs, and every output. On another machine `--check` \
                  says, before anything runs, whether inputs and programs are the same, and afterwards whether the \
                  results are.\n\n\
                  Examples:\n  sims repro-lock pipelines/quickstart.yaml > quickstart.lock.json\n  \
                  sims repro-lock pipelines/quickstart.yaml --check quickstart.lock.json"
)]
pub(crate) struct Arguments {
    /// Pipeline file
    #[arg(value_name = "PIPELINE")]
    pipeline: PathBuf,
    /// Compare with this lock instead of writing one
    #[arg(long, value_name = "LOCK")]
    check: Option<PathBuf>,
    #[command(flatten)]
    options: PipelineOptions,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let workspace = Workspace::open(
        &arguments.pipeline,
        &arguments.options,
        &Execution::default(),
    )?;
    let plan = workspace.only_plan("a lock is of one")?;
    let Some(path) = &arguments.check else {
        let lock = ReproLock::of(plan, &workspace.store)?;
        print(lock.text().trim_end());
        return Ok(Exit::Success);
    };
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lock = ReproLock::parse(&text)
        .map_err(|message| UsageError(format!("{} is no lock: {message}", path.display())))?;
    let report = lock.check(plan, &workspace.store)?;
    if arguments.options.json {
        print(&json!(report).to_string());
    } else {
        print(&as_text(&report));
    }
    say(&in_words(&report, lock.stages.len()));
    Ok(match report.differences.is_empty() {
        true => Exit::Success,
        false => Exit::Failure,
    })
}

fn as_text(report: &LockReport) -> String {
    let word = |text: &str| match text {
        "" => "absent".to_owned(),
        digest if digest.len() == 64 => digest[..12].to_owned(),
        text => text.to_owned(),
    };
    let lines: Vec<String> = report
        .differences
        .iter()
        .map(|difference| {
            let (locked, found) = (word(&difference.locked), word(&difference.found));
            format!("{}: locked {locked}, here {found}", difference.what)
        })
        .collect();
    lines.join("\n")
}

fn in_words(report: &LockReport, stages: usize) -> String {
    let LockReport {
        differences,
        same,
        not_run,
    } = report;
    match (differences.len(), not_run) {
        (0, 0) => format!("all {stages} stages are as locked"),
        (0, _) => format!(
            "inputs and programs are as locked, {same} of {stages} stages with their results; {not_run} are yet to run"
        ),
        (count, _) => format!("{count} differences; {same} of {stages} stages are as locked"),
    }
}
