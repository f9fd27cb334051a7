//! `sims dag`: the graph of a pipeline.

use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use serde_json::json;
use sims_pipeline::Dag;

use crate::exit::Exit;
use crate::workspace::{Execution, PipelineOptions, Workspace};
use crate::{print, say};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sims dag pipelines/quickstart.yaml\n  \
                        sims dag pipelines/quickstart.yaml --svg quickstart.svg")]
pub(crate) struct Arguments {
    /// Pipeline file
    #[arg(value_name = "PIPELINE")]
    pipeline: PathBuf,
    /// Write a picture instead of text
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    options: PipelineOptions,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let workspace = Workspace::open(
        &arguments.pipeline,
        &arguments.options,
        &Execution::default(),
    )?;
    if let Some(path) = &arguments.svg {
        let graph = Dag::of(workspace.only_plan("a picture shows one")?);
        std::fs::write(path, graph.svg())
            .with_context(|| format!("cannot write {}", path.display()))?;
        say(&format!("wrote {}", path.display()));
    }
    let graphs: Vec<Dag> = workspace.plans.iter().map(Dag::of).collect();
    if arguments.options.json {
        print(&json!(graphs).to_string());
    } else if arguments.svg.is_none() {
        let texts: Vec<String> = graphs
            .iter()
            .map(|graph| match graphs.len() {
                1 => graph.text(),
                _ => format!("{}\n{}", graph.pipeline, graph.text()),
            })
            .collect();
        print(&texts.join("\n\n"));
    }
    Ok(Exit::Success)
}
