//! `sims status`: the state of every stage.

use std::path::PathBuf;

use clap::Args;
use sims_pipeline::Outlook;

use crate::exit::Exit;
use crate::plan::{stages_as_json, stages_as_table};
use crate::workspace::{Execution, PipelineOptions, Workspace};
use crate::{print, say};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sims status pipelines/quickstart.yaml\n  \
                        sims status pipelines/quickstart.yaml --json | jq '.[] | select(.state != \"done\")'")]
pub(crate) struct Arguments {
    /// Pipeline file
    #[arg(value_name = "PIPELINE")]
    pipeline: PathBuf,
    #[command(flatten)]
    options: PipelineOptions,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let Workspace {
        plan,
        store,
        options,
    } = Workspace::open(
        &arguments.pipeline,
        &arguments.options,
        &Execution::default(),
    )?;
    let stages = plan.outlook(&store, &options)?;
    if arguments.options.json {
        print(&stages_as_json(&stages).to_string());
        return Ok(Exit::Success);
    }
    print(&stages_as_table(&stages));
    let of = |state| stages.iter().filter(|stage| stage.state == state).count();
    let mut line = format!("{} of {} stages are done", of(Outlook::Done), stages.len());
    for (state, words) in [(Outlook::Running, "running"), (Outlook::Failed, "failed")] {
        if of(state) > 0 {
            line.push_str(&format!(", {} {words}", of(state)));
        }
    }
    say(&line);
    Ok(Exit::Success)
}
