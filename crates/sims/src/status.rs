//! `sims status`: the state of every stage.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;
use sims_pipeline::{Outlook, StageOutlook};

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
        plans,
        store,
        options,
    } = Workspace::open(
        &arguments.pipeline,
        &arguments.options,
        &Execution::default(),
    )?;
    let mut list = Vec::new();
    for plan in &plans {
        let stages = plan.outlook(&store, &options)?;
        if arguments.options.json {
            list.extend(stages_as_json(&plan.pipeline.name, &stages));
            continue;
        }
        if plans.len() > 1 {
            print(&plan.pipeline.name);
        }
        print(&stages_as_table(&stages));
        say(&in_words(&stages));
    }
    if arguments.options.json {
        print(&Value::from(list).to_string());
    }
    Ok(Exit::Success)
}

fn in_words(stages: &[StageOutlook]) -> String {
    let of = |state| stages.iter().filter(|stage| stage.state == state).count();
    let mut line = format!("{} of {} stages are done", of(Outlook::Done), stages.len());
    for (state, words) in [(Outlook::Running, "running"), (Outlook::Failed, "failed")] {
        if of(state) > 0 {
            line.push_str(&format!(", {} {words}", of(state)));
        }
    }
    line
}
