//! `sims work`: one stage of a plan, as a job of a cluster computes it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use sims_artifact::Digest;
use sims_artifact::store::ActionKey;
use sims_pipeline::pipeline::duration;
use sims_pipeline::{Assignment, Interrupt, Plan, RemoteCache, Worked, run};

use crate::exit::Exit;
use crate::progress_bar::shown;
use crate::remote::SharingOptions;
use crate::signals::raise_on_signals;
use crate::workspace::{CHUNK_SIZE, Execution, PipelineOptions, Workspace};
use crate::{print, say};

#[derive(Debug, Args)]
#[command(
    after_help = "This is what the jobs of `sims run --executor slurm` and of `sims argo` run. It computes what is not \
                  in the store, from results that are, and puts its own there; views under runs/ are left to \
                  `sims run`. Ctrl-C and SIGTERM stop the stage, and nothing that is finished is lost.\n\n\
                  Examples:\n  sims work pipelines/quickstart.yaml --stage round-1/sample"
)]
pub(crate) struct Arguments {
    /// Pipeline file
    #[arg(value_name = "PIPELINE")]
    pipeline: PathBuf,
    /// Stage and round: round-1/sample, once/base-eval
    #[arg(long, value_name = "STAGE")]
    stage: String,
    /// Compute the I-th of N parts of its work, and leave the whole to a later call without this
    #[arg(long, value_name = "I/N", value_parser = part)]
    part: Option<(usize, usize)>,
    #[command(flatten)]
    options: PipelineOptions,
    #[command(flatten)]
    execution: WorkerExecution,
    #[command(flatten)]
    remote: SharingOptions,
    /// Refuse to compute anything but this, which a plan gave to the job
    #[arg(long, value_name = "KEY", value_parser = recipe)]
    recipe: Option<ActionKey>,
    /// File to write progress and the end to
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Wait so long for results that have to be there: a shared file system may show them late [default: 0s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    wait: Option<Duration>,
}

/// How a stage is run, here or by a worker.
#[derive(Debug, Args)]
pub(crate) struct WorkerExecution {
    /// Worker threads of each stage [default: every core, shared by the jobs]
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
    /// Sequences that a model runs at once [default: each stage chooses]
    #[arg(long, value_name = "N")]
    pub(crate) batch_size: Option<usize>,
    /// Prompts or pairs that a stage finishes at a time; what is finished survives an interruption. 0 for all
    #[arg(long, value_name = "N", default_value_t = CHUNK_SIZE)]
    pub(crate) chunk_size: usize,
    /// Stop a stage of which nothing was heard for so long, not even how far it is: 90s, 30m, 2h [default: never]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) hang_after: Option<Duration>,
}

/// Returns the arguments that make a worker plan what `plan` is.
pub(crate) fn plan_arguments(plan: &Plan, options: &PipelineOptions) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut add = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
    add("rounds", plan.rounds.to_string());
    match options.seed {
        Some(seed) => add("seed", seed.to_string()),
        None => add("only", format!("seed={}", plan.pipeline.seed)),
    }
    for (axis, choice) in &plan.pipeline.choices {
        add("only", format!("{axis}={choice}"));
    }
    if options.device != "auto" {
        add("device", options.device.clone());
    }
    arguments
}

/// Reads `2/8` as the part at 1 of 8.
fn part(text: &str) -> Result<(usize, usize), String> {
    let parsed = text.split_once('/').and_then(|(part, parts)| {
        let (part, parts): (usize, usize) = (part.parse().ok()?, parts.parse().ok()?);
        (1..=parts).contains(&part).then_some((part - 1, parts))
    });
    parsed.ok_or_else(|| "give a part and their number, such as 2/8".to_owned())
}

/// Reads a recipe's key.
fn recipe(text: &str) -> Result<ActionKey, String> {
    let digest: Digest = text
        .parse()
        .map_err(|_| "give a key of 64 hexadecimal digits".to_owned())?;
    Ok(digest.into())
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let execution = Execution {
        jobs: 1,
        threads: arguments.execution.threads,
        batch_size: arguments.execution.batch_size,
        chunk_size: arguments.execution.chunk_size,
        hang_after: arguments.execution.hang_after,
    };
    let mut workspace = Workspace::open(&arguments.pipeline, &arguments.options, &execution)?;
    let interrupt = Interrupt::new();
    raise_on_signals(interrupt.clone())?;
    let shared = arguments.remote.share(&workspace.store, &interrupt)?;
    workspace.options.remote = shared.clone().map(|shared| shared as Arc<dyn RemoteCache>);
    let plan = workspace.only_plan("a worker computes a stage of one")?;
    let assignment = Assignment {
        stage: arguments.stage.clone(),
        part: arguments.part,
        recipe: arguments.recipe,
        report: arguments.report.clone(),
        patience: arguments.wait.unwrap_or_default(),
    };
    let worked = shown(plan, &workspace.options, |hear| {
        run::work(
            plan,
            &workspace.store,
            &workspace.options,
            &assignment,
            &interrupt,
            hear,
        )
    });
    // What was computed is sent even when the worker failed later; other workers wait for it.
    if let Some(shared) = shared {
        shared.finish();
    }
    let worked = worked?;
    let (word, exit) = match &worked {
        Worked::Executed => ("executed", Exit::Success),
        Worked::Cached => ("cached", Exit::Success),
        Worked::LeftOut => ("left-out", Exit::Success),
        Worked::Interrupted => ("interrupted", Exit::Interrupted),
        Worked::Failed(failure) => {
            say(&format!("error: {failure}"));
            ("failed", Exit::Failure)
        }
    };
    if arguments.options.json {
        print(&json!({"stage": arguments.stage, "outcome": word}).to_string());
    } else {
        say(&format!("{}: {word}", arguments.stage));
    }
    Ok(exit)
}
