//! `sims logs`: what stages wrote when they last ran.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use sims_pipeline::InstanceName;

use crate::exit::{Exit, UsageError};
use crate::workspace::{Execution, PipelineOptions, Workspace};
use crate::{print, say};

#[derive(Debug, Args)]
#[command(
    after_help = "A stage that was found in the store did not run, and has the log of the run that computed it, if \
                  that was here.\n\nExamples:\n  sims logs pipelines/quickstart.yaml round-2/fit\n  \
                  sims logs pipelines/quickstart.yaml judge --paths"
)]
pub(crate) struct Arguments {
    /// Pipeline file
    #[arg(value_name = "PIPELINE")]
    pipeline: PathBuf,
    /// Stage: its name for every round, or round-2/NAME for one; every stage without it
    #[arg(value_name = "STAGE")]
    stage: Option<String>,
    /// Print where the logs are instead of what is in them
    #[arg(long)]
    paths: bool,
    #[command(flatten)]
    options: PipelineOptions,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let Workspace { plans, options, .. } = Workspace::open(
        &arguments.pipeline,
        &arguments.options,
        &Execution::default(),
    )?;
    let wanted = |name: &InstanceName| {
        let stage = arguments.stage.as_deref();
        stage.is_none_or(|stage| name.stage == stage || name.to_string() == stage)
    };
    let (mut is_known, mut found) = (false, 0);
    for plan in &plans {
        for name in (0..plan.len()).map(|index| plan.name(index)).filter(wanted) {
            is_known = true;
            let path = options.log_path(plan, &name);
            if !path.is_file() {
                continue;
            }
            found += 1;
            if arguments.paths {
                print(&path.display().to_string());
                continue;
            }
            let text =
                std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
            say(&format!("── {}/{name}", plan.pipeline.name));
            print(String::from_utf8_lossy(&text).trim_end());
        }
    }
    if let (false, Some(stage)) = (is_known, &arguments.stage) {
        return Err(UsageError(format!(
            "the pipeline has no stage `{stage}`; `sims status` lists them"
        ))
        .into());
    }
    if found == 0 {
        say("no logs: nothing of this ran here");
    }
    Ok(Exit::Success)
}
