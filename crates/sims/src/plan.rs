//! `sims plan`: what a run would do.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use sims_cost::card::Card;
use sims_pipeline::{Outlook, StageOutlook};

use crate::exit::Exit;
use crate::plan_cost::{CostOptions, PlanCost};
use crate::text_table::text_table;
use crate::workspace::{Execution, PipelineOptions, Workspace};
use crate::{model_memory, print, say};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sims plan pipelines/quickstart.yaml\n  \
                  sims plan pipelines/quickstart.yaml --rounds 1 --commands > by-hand.sh\n  \
                  sims plan pipelines/llama3-8b.yaml --only method=paper --on h100 --price-per-gpu-hour 2.50")]
pub(crate) struct Arguments {
    /// Pipeline file
    #[arg(value_name = "PIPELINE")]
    pipeline: PathBuf,
    #[command(flatten)]
    options: PipelineOptions,
    /// Print the command of every stage, to paste into a shell
    #[arg(long)]
    commands: bool,
    #[command(flatten)]
    cost: CostOptions,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    if let Some(card) = arguments.cost.on {
        return estimate(arguments, card);
    }
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
        if arguments.commands {
            let commands = plan.commands(
                &options.search,
                &options.by_hand_folder(plan),
                &options.current,
            );
            if arguments.options.json {
                list.extend(commands.iter().map(|command| {
                    json!({"run": plan.pipeline.name, "round": command.name.round.unwrap_or(0),
                           "stage": command.name.stage, "command": command.line})
                }));
            } else {
                let lines: Vec<&str> = commands
                    .iter()
                    .map(|command| command.line.as_str())
                    .collect();
                print(&lines.join("\n"));
            }
            continue;
        }
        let stages = plan.outlook(&store, &options)?;
        let models = model_memory::of_plan(plan);
        if arguments.options.json {
            let objects = stages_as_json(&plan.pipeline.name, &stages);
            list.extend(objects.into_iter().enumerate().map(|(index, mut stage)| {
                let memory = plan.model(index).and_then(|model| models.get(model));
                stage["memory"] = json!(memory.map(|memory| memory.planned_bytes));
                stage
            }));
            continue;
        }
        if plans.len() > 1 {
            print(&plan.pipeline.name);
        }
        print(&stages_as_table(&stages));
        say(&in_words(&stages));
        for (model, memory) in &models {
            say(&model_memory::in_words(model, memory));
        }
    }
    if arguments.options.json {
        print(&Value::from(list).to_string());
    }
    Ok(Exit::Success)
}

/// Shows what the stages would cost on a GPU; files need not be there.
fn estimate(arguments: &Arguments, card: Card) -> anyhow::Result<Exit> {
    let plans = Workspace::sketch(&arguments.pipeline, &arguments.options)?;
    let mut list = Vec::new();
    for plan in &plans {
        let cost = PlanCost::of(plan, card, &arguments.cost)?;
        if arguments.options.json {
            list.extend(cost.as_json(&plan.pipeline.name));
            cost.in_words().iter().for_each(|line| say(line));
            continue;
        }
        if plans.len() > 1 {
            print(&plan.pipeline.name);
        }
        print(&cost.as_table());
        cost.in_words()
            .iter()
            .for_each(|line| print(&format!("- {line}")));
    }
    if arguments.options.json {
        print(&Value::from(list).to_string());
    }
    Ok(Exit::Success)
}

fn in_words(stages: &[StageOutlook]) -> String {
    let of = |state| stages.iter().filter(|stage| stage.state == state).count();
    let run = stages.len() - of(Outlook::Done);
    let mut line = format!("{run} of {} stages would run", stages.len());
    if of(Outlook::Waiting) > 0 {
        line.push_str("; those that wait do not, if what they wait for reproduces the same bytes");
    }
    let seconds: f64 = stages
        .iter()
        .filter(|stage| stage.state != Outlook::Done)
        .filter_map(|stage| stage.seconds)
        .sum();
    if seconds > 0.0 {
        line.push_str(&format!("; about {seconds:.0} s, from earlier runs"));
    }
    line
}

/// One object a stage: run, round (0: once), stage, key, state, seconds (taken, or expected), bytes.
pub(crate) fn stages_as_json(run: &str, stages: &[StageOutlook]) -> Vec<Value> {
    stages
        .iter()
        .map(|stage| {
            json!({
                "run": run,
                "round": stage.name.round.unwrap_or(0),
                "stage": stage.name.stage,
                "key": stage.key.map(|key| key.to_string()),
                "state": stage.state,
                "seconds": stage.seconds,
                "bytes": stage.bytes,
            })
        })
        .collect()
}

/// One line a stage.
pub(crate) fn stages_as_table(stages: &[StageOutlook]) -> String {
    let rows: Vec<Vec<String>> = stages
        .iter()
        .map(|stage| {
            vec![
                stage.name.to_string(),
                state_in_words(stage.state).to_owned(),
                stage.key.map_or_else(String::new, |key| key.short(12)),
                stage
                    .seconds
                    .map_or_else(String::new, |seconds| format!("{seconds:.1}")),
                stage
                    .bytes
                    .map_or_else(String::new, |bytes| bytes.to_string()),
            ]
        })
        .collect();
    text_table(&["stage", "state", "key", ">seconds", ">bytes"], &rows)
}

fn state_in_words(state: Outlook) -> &'static str {
    match state {
        Outlook::Done => "done",
        Outlook::Running => "running",
        Outlook::Failed => "failed",
        Outlook::Ready => "ready",
        Outlook::Waiting => "waiting",
        Outlook::LeftOut => "left out",
    }
}
