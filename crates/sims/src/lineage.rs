//! `sims lineage`: where an artifact comes from.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use sims_pipeline::{Lineage, Origin, Step, lineage};

use crate::exit::{Exit, UsageError};
use crate::print;
use crate::workspace::{StoreOption, store_above};

#[derive(Debug, Args)]
#[command(
    after_help = "Every action behind FILE is shown once, with its seed and what it read, back to files from outside.\n\n\
                  Examples:\n  sims lineage runs/quickstart/round-2/pairs.parquet\n  \
                  sims lineage accepted.safetensors --params --store /data/sims"
)]
pub(crate) struct Arguments {
    /// A view under runs/, a file of the store, or a copy of either
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Show the parameters of every action as well
    #[arg(long)]
    params: bool,
    /// Print JSON on stdout, and nothing else there
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreOption,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let file = &arguments.file;
    if !file.is_file() {
        return Err(UsageError(format!("no file at {}", file.display())).into());
    }
    let store = match arguments.store.given() {
        Some(_) => arguments.store.open_existing()?,
        None => store_above(file)?,
    };
    let lineage = lineage(file, &store)?;
    print(&match arguments.json {
        true => json!(lineage).to_string(),
        false => as_text(arguments, &lineage),
    });
    Ok(Exit::Success)
}

fn as_text(arguments: &Arguments, lineage: &Lineage) -> String {
    let mut lines = vec![format!(
        "{}  {} of {}, digest {}",
        arguments.file.display(),
        lineage.role,
        title(&lineage.steps[0]),
        lineage.digest.short(12)
    )];
    for step in &lineage.steps {
        let seed = match &step.seed {
            Value::Null => String::new(),
            seed => format!(", seed {seed}"),
        };
        lines.push(format!(
            "\n{}  behaviour {}{seed}, key {}",
            title(step),
            step.behaviour,
            step.key.short(12)
        ));
        let params = step.params.as_object().into_iter().flatten();
        for (name, value) in params.filter(|_| arguments.params) {
            lines.push(format!("  {name}: {value}"));
        }
        for input in &step.inputs {
            let origin = match &input.origin {
                Origin::Step(place) => title(&lineage.steps[*place]),
                Origin::File(path) => path.display().to_string(),
                Origin::Outside => "outside".to_owned(),
            };
            lines.push(format!(
                "  ← {} ({}, {})  {origin}",
                input.role,
                input.schema,
                input.digest.short(12)
            ));
        }
    }
    lines.join("\n")
}

/// Names an action: by its place in the run, or by its program and key.
fn title(step: &Step) -> String {
    match &step.name {
        Some(name) if name.ends_with(&step.stage) => name.display().to_string(),
        Some(name) => format!("{} ({})", name.display(), step.stage),
        None => format!("{} {}", step.stage, step.key.short(12)),
    }
}
