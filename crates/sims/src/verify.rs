//! `sims verify`: compute a sample of finished actions once more and compare the bytes.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use sims_pipeline::run::verify;
use sims_pipeline::{Interrupt, Verdict, Verification};

use crate::exit::Exit;
use crate::progress_bar::shown;
use crate::signals::raise_on_signals;
use crate::workspace::{Execution, PipelineOptions, Workspace};
use crate::{print, say};

#[derive(Debug, Args)]
#[command(
    after_help = "The store stays as it is. Judges behind a network answer from the answers that they kept.\n\n\
                  Examples:\n  sims verify pipelines/quickstart.yaml\n  \
                  sims verify pipelines/quickstart.yaml --sample 0      # everything"
)]
pub(crate) struct Arguments {
    /// Pipeline file
    #[arg(value_name = "PIPELINE")]
    pipeline: PathBuf,
    /// Actions to compute once more, drawn at random; 0 for all
    #[arg(long, value_name = "N", default_value_t = 5)]
    sample: usize,
    /// Seed of the draw
    #[arg(long, value_name = "N", default_value_t = 0)]
    draw: u64,
    /// Worker threads of each stage [default: every core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    #[command(flatten)]
    options: PipelineOptions,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let execution = Execution {
        threads: arguments.threads,
        ..Execution::default()
    };
    let Workspace {
        plans,
        store,
        options,
    } = Workspace::open(&arguments.pipeline, &arguments.options, &execution)?;
    let interrupt = Interrupt::new();
    raise_on_signals(interrupt.clone())?;
    let (mut list, mut bad, mut interrupted) = (Vec::new(), 0, false);
    for plan in &plans {
        let draw = (arguments.sample, arguments.draw);
        let found = shown(plan, &options, |hear| {
            verify(plan, &store, &options, &interrupt, draw, hear)
        })?;
        let run = &plan.pipeline.name;
        for (name, verdict) in &found.verdicts {
            bad += usize::from(*verdict != Verdict::Same);
            match verdict {
                Verdict::Same => {}
                Verdict::Differs(roles) => say(&format!(
                    "{run}/{name}: other bytes in {}: the stage is not reproducible here",
                    roles.join(", ")
                )),
                Verdict::Failed(failure) => say(&format!("error: {failure}")),
            }
            list.push(as_json(run, &name.to_string(), verdict));
        }
        say(&in_words(run, &found));
        interrupted |= found.interrupted;
        if interrupted {
            break;
        }
    }
    if arguments.options.json {
        print(&Value::from(list).to_string());
    }
    Ok(match (interrupted, bad) {
        (true, _) => Exit::Interrupted,
        (false, 0) => Exit::Success,
        _ => Exit::Failure,
    })
}

fn as_json(run: &str, name: &str, verdict: &Verdict) -> Value {
    let (word, roles) = match verdict {
        Verdict::Same => ("same", Vec::new()),
        Verdict::Differs(roles) => ("differs", roles.clone()),
        Verdict::Failed(_) => ("failed", Vec::new()),
    };
    json!({"run": run, "stage": name, "verdict": word, "outputs": roles})
}

fn in_words(run: &str, found: &Verification) -> String {
    let checked = found.verdicts.len();
    let same = found.verdicts.iter();
    let same = same
        .filter(|(_, verdict)| *verdict == Verdict::Same)
        .count();
    let mut line = format!(
        "{run}: {same} of {checked} computed once more have the same bytes, of {} that are done",
        found.done
    );
    if found.not_done > 0 {
        line.push_str(&format!("; {} have no result", found.not_done));
    }
    line
}
