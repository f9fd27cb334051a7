//! `sims explain`: why a stage would run, or why it would not.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use sims_pipeline::{Difference, Explanation, Outlook, explain};

use crate::exit::{Exit, UsageError};
use crate::print;
use crate::workspace::{Execution, PipelineOptions, Workspace};

/// The pipeline that is meant when none is named.
const DEFAULT_PIPELINE: &str = "pipelines/quickstart.yaml";

#[derive(Debug, Args)]
#[command(
    override_usage = "sims explain [OPTIONS] STAGE [--pipeline PIPELINE]\n       sims explain [OPTIONS] PIPELINE STAGE",
    after_help = "Examples:\n  sims explain sample --pipeline pipelines/quickstart.yaml\n  sims explain round-2/fit"
)]
pub(crate) struct Arguments {
    /// Stage: its name for every round, or round-2/NAME for one; a pipeline file may go before it
    #[arg(value_name = "STAGE", required = true, num_args = 1..=2)]
    names: Vec<String>,
    /// Pipeline file [default: pipelines/quickstart.yaml]
    #[arg(long, value_name = "PIPELINE")]
    pipeline: Option<PathBuf>,
    /// Explain this round only
    #[arg(long)]
    round: Option<u32>,
    #[command(flatten)]
    options: PipelineOptions,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let (pipeline, stage) = names(arguments)?;
    let (round, stage) = match stage.split_once('/') {
        Some(("once", stage)) => (None, stage),
        Some((round, stage)) => match round
            .strip_prefix("round-")
            .and_then(|round| round.parse().ok())
        {
            Some(round) => (Some(round), stage),
            None => {
                return Err(
                    UsageError(format!("`{round}` is not a round; write round-2/{stage}")).into(),
                );
            }
        },
        None => (arguments.round, stage.as_str()),
    };
    let Workspace {
        plans,
        store,
        options,
    } = Workspace::open(&pipeline, &arguments.options, &Execution::default())?;
    let mut list = Vec::new();
    for plan in &plans {
        let explanations = explain(plan, &store, &options, stage, round)?;
        if arguments.options.json {
            let name = &plan.pipeline.name;
            list.extend(
                explanations
                    .iter()
                    .map(|explanation| as_json(name, explanation)),
            );
            continue;
        }
        if plans.len() > 1 {
            print(&plan.pipeline.name);
        }
        let texts: Vec<String> = explanations.iter().map(as_text).collect();
        print(&texts.join("\n"));
    }
    if arguments.options.json {
        print(&Value::from(list).to_string());
    }
    Ok(Exit::Success)
}

/// Sorts out which of the names is the pipeline.
fn names(arguments: &Arguments) -> Result<(PathBuf, String), UsageError> {
    let is_file = |name: &str| {
        Path::new(name)
            .extension()
            .is_some_and(|end| end == "yaml" || end == "yml")
    };
    match (&arguments.names[..], &arguments.pipeline) {
        ([stage], Some(pipeline)) => Ok((pipeline.clone(), stage.clone())),
        ([stage], None) if !is_file(stage) => Ok((DEFAULT_PIPELINE.into(), stage.clone())),
        ([pipeline, stage], None) if is_file(pipeline) => Ok((pipeline.into(), stage.clone())),
        ([stage, pipeline], None) if is_file(pipeline) => Ok((pipeline.into(), stage.clone())),
        _ => Err(UsageError(
            "name one stage and one pipeline file".to_owned(),
        )),
    }
}

fn as_json(run: &str, explanation: &Explanation) -> Value {
    let differences: Vec<Value> = explanation
        .differences
        .iter()
        .map(|difference| json!({"field": difference.field, "before": difference.before, "after": difference.after}))
        .collect();
    let waits_for: Vec<String> = explanation
        .waits_for
        .iter()
        .map(ToString::to_string)
        .collect();
    json!({
        "run": run,
        "round": explanation.name.round.unwrap_or(0),
        "stage": explanation.name.stage,
        "state": explanation.state,
        "key": explanation.key.map(|key| key.to_string()),
        "compared_with": explanation.compared_with.map(|key| key.to_string()),
        "differences": differences,
        "waits_for": waits_for,
        "damage": explanation.damage,
    })
}

fn as_text(explanation: &Explanation) -> String {
    let key = explanation
        .key
        .map_or_else(String::new, |key| format!(" (key {})", key.short(12)));
    let compared = explanation
        .compared_with
        .map_or_else(String::new, |key| key.short(12));
    let mut text = format!("{}: ", explanation.name);
    match explanation.state {
        Outlook::Done => {
            text.push_str(&format!("would not run: its outputs are in the store{key}"));
            if !explanation.differences.is_empty() {
                text.push_str(&format!(
                    "\n  it last ran because these differ from {compared}:"
                ));
            }
        }
        Outlook::LeftOut => {
            let end = explanation.end.as_ref();
            text.push_str(&end.map_or_else(
                || "does not run".to_owned(),
                |end| {
                    format!(
                        "does not run: {} ended the loop ({})",
                        end.stage, end.reason
                    )
                },
            ));
        }
        Outlook::Waiting => {
            let names: Vec<String> = explanation
                .waits_for
                .iter()
                .map(ToString::to_string)
                .collect();
            text.push_str(&format!(
                "waits for {}; it runs unless that reproduces the same bytes",
                names.join(", ")
            ));
        }
        _ => {
            text.push_str(&format!("would run{key}"));
            match (&explanation.damage, explanation.compared_with) {
                (Some(damage), _) => text.push_str(&format!("\n  {damage}")),
                (None, Some(_)) => {
                    text.push_str(&format!("\n  these differ from last time ({compared}):"))
                }
                (None, None) => text.push_str("\n  it has no earlier result in this pipeline"),
            }
        }
    }
    for difference in &explanation.differences {
        text.push_str(&format!("\n    {}", difference_in_words(difference)));
    }
    text
}

pub(crate) fn difference_in_words(difference: &Difference) -> String {
    let word = |value: &Option<Value>| value.as_ref().map_or_else(|| "absent".to_owned(), short);
    format!(
        "{}: {} -> {}",
        difference.field,
        word(&difference.before),
        word(&difference.after)
    )
}

/// Shortens digests, which nobody reads to the end.
fn short(value: &Value) -> String {
    match value {
        Value::String(text) if text.len() == 64 && text.is_ascii() => format!("{}…", &text[..12]),
        other => other.to_string(),
    }
}
