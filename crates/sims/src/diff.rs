//! `sims diff`: what differs between two runs.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;
use sims_pipeline::{Comparison, FigureDifference, RunDifference, StageDifference, run_difference};

use crate::exit::{Exit, UsageError};
use crate::explain::difference_in_words;
use crate::print;
use crate::text_table::text_table;
use crate::workspace::{StoreOption, store_above};

#[derive(Debug, Args)]
#[command(
    after_help = "Stages that differ only because stages before them do are counted, not listed. A * marks figures \
                  whose intervals do not meet.\n\n\
                  Examples:\n  sims diff runs/quickstart runs/hpr\n  sims diff quickstart hpr --figures gold"
)]
pub(crate) struct Arguments {
    /// The folder of a run, or its name under runs/
    #[arg(value_name = "RUN")]
    first: PathBuf,
    /// The run to compare it with
    #[arg(value_name = "RUN")]
    second: PathBuf,
    /// Show only figures whose stage or name contains this
    #[arg(long, value_name = "TEXT", default_value = "")]
    figures: String,
    /// Print JSON on stdout, and nothing else there
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreOption,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let folders = [folder_of(&arguments.first)?, folder_of(&arguments.second)?];
    let store = |folder: &Path| match arguments.store.given() {
        Some(_) => arguments.store.open_existing(),
        None => store_above(folder),
    };
    let stores = [store(&folders[0])?, store(&folders[1])?];
    let mut difference = run_difference((&folders[0], &stores[0]), (&folders[1], &stores[1]))?;
    difference.figures.retain(|figure| {
        let text = format!("{}/{}", figure.stage.display(), figure.metric);
        text.contains(&arguments.figures)
    });
    print(&match arguments.json {
        true => json!(difference).to_string(),
        false => as_text(&difference),
    });
    Ok(Exit::Success)
}

/// Returns the folder that is meant by a path, or by a name under `runs/`.
pub(crate) fn folder_of(run: &Path) -> Result<PathBuf, UsageError> {
    let named = Path::new("runs").join(run);
    let found = [run.to_owned(), named]
        .into_iter()
        .find(|folder| folder.join("run.json").is_file());
    found.ok_or_else(|| {
        UsageError(format!(
            "no run at {0} or runs/{0}; name a folder that `sims run` filled",
            run.display()
        ))
    })
}

fn as_text(difference: &RunDifference) -> String {
    let count = |wanted: Comparison| {
        let stages = difference.stages.iter();
        stages.filter(|stage| stage.comparison == wanted).count()
    };
    let mut lines = vec![format!(
        "{} stages are the same, {} are set otherwise or read other files, {} follow from these, {} are only in the \
         first run, {} only in the second",
        count(Comparison::Same),
        count(Comparison::Changed),
        count(Comparison::Follows),
        count(Comparison::OnlyFirst),
        count(Comparison::OnlySecond)
    )];
    lines.extend(difference.stages.iter().filter_map(stage_as_text));
    if !difference.figures.is_empty() {
        let rows: Vec<Vec<String>> = difference.figures.iter().map(figure_as_row).collect();
        let header = ["stage", "figure", ">first", ">second", ">change", ""];
        lines.push(String::new());
        lines.push(text_table(&header, &rows));
    }
    lines.join("\n")
}

fn stage_as_text(stage: &StageDifference) -> Option<String> {
    let mut text = stage.name.display().to_string();
    match stage.comparison {
        Comparison::Same | Comparison::Follows => return None,
        Comparison::OnlyFirst => text.push_str(": only in the first run"),
        Comparison::OnlySecond => text.push_str(": only in the second run"),
        Comparison::Changed => {
            for field in &stage.fields {
                text.push_str(&format!("\n  {}", difference_in_words(field)));
            }
            if stage.outputs.is_empty() {
                text.push_str("\n  and yet every output has the same bytes");
            }
        }
    }
    Some(text)
}

fn figure_as_row(figure: &FigureDifference) -> Vec<String> {
    let shown = |(value, low, high): (f64, Option<f64>, Option<f64>)| match (low, high) {
        (Some(low), Some(high)) => format!("{value:.4} [{low:.4}, {high:.4}]"),
        _ => format!("{value:.4}"),
    };
    let mark = if figure.is_apart() { "*" } else { "" };
    vec![
        figure.stage.display().to_string(),
        figure.metric.clone(),
        shown(figure.first),
        shown(figure.second),
        format!("{:+.4}", figure.second.0 - figure.first.0),
        mark.to_owned(),
    ]
}
