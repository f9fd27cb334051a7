//! Where things are: the pipeline, the store, the views, the stage programs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use sims_artifact::store::Store;
use sims_pipeline::pipeline::{AbsentFiles, axis_and_choice, workspace_of};
use sims_pipeline::{Plan, PlanOptions, ProgramSearch, RunOptions};

use crate::exit::UsageError;

/// The pauses before a stage that asks for it is tried again.
const RETRY_DELAYS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// The option that every command has.
#[derive(Debug, Args)]
pub(crate) struct StoreOption {
    /// Folder of the store [default: $SIMS_STORE, else .sims in the pipeline's workspace]
    #[arg(long, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
}

/// The options of commands about a pipeline.
///
/// The workspace of a pipeline file is the parent of the nearest folder above it that is named
/// `pipelines`, else the file's own folder. Relative paths in the file start there.
#[derive(Debug, Args)]
pub(crate) struct PipelineOptions {
    #[command(flatten)]
    pub(crate) store: StoreOption,
    /// Folder of the views [default: runs in the pipeline's workspace]
    #[arg(long, value_name = "DIR")]
    pub(crate) runs: Option<PathBuf>,
    /// Rounds to run instead of the pipeline's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) rounds: Option<u32>,
    /// Root seed instead of the pipeline's; results are shown under runs/NAME-seed-N
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Of a pipeline that varies, only the runs with this choice: AXIS=CHOICE, or seed=N
    #[arg(long, value_name = "AXIS=CHOICE", value_parser = axis_and_choice)]
    pub(crate) only: Vec<(String, String)>,
    /// Where stages compute: auto, cpu, cuda or cuda:N; cuda:N,M spreads the layers, cuda:N+cuda:M the prompts
    #[arg(long, default_value = "auto", value_parser = device)]
    pub(crate) device: String,
    /// Print JSON on stdout, and nothing else there
    #[arg(long)]
    pub(crate) json: bool,
}

/// Reads the name of a device.
fn device(text: &str) -> Result<String, String> {
    let numbers = |text: &str| {
        text.split(',')
            .all(|number| number.parse::<usize>().is_ok())
    };
    let known = |text: &str| {
        matches!(text, "auto" | "cpu" | "cuda") || text.strip_prefix("cuda:").is_some_and(numbers)
    };
    if text.split('+').all(known) {
        Ok(text.to_owned())
    } else {
        Err("give auto, cpu, cuda, cuda:N, cuda:N,M or cuda:N+cuda:M".to_owned())
    }
}

/// Prompts or pairs that a stage finishes at a time where nothing else is asked for.
pub(crate) const CHUNK_SIZE: usize = 128;

/// How stages are run, without changing what they compute.
#[derive(Debug, Default)]
pub(crate) struct Execution {
    /// Stages that run at the same time.
    pub(crate) jobs: usize,
    /// Worker threads of each stage.
    pub(crate) threads: Option<usize>,
    /// Sequences that a model runs at once.
    pub(crate) batch_size: Option<usize>,
    /// Prompts or pairs that a stage finishes at a time; 0 for all.
    pub(crate) chunk_size: usize,
    /// How long a stage may write nothing before it is stopped.
    pub(crate) hang_after: Option<Duration>,
}

/// The planned pipelines of a file with their store.
pub(crate) struct Workspace {
    /// One, or one for each combination of what the file varies.
    pub(crate) plans: Vec<Plan>,
    pub(crate) store: Store,
    pub(crate) options: RunOptions,
}

impl Workspace {
    /// Plans every pipeline that the file stands for, to estimate them: what they name need not be there.
    pub(crate) fn sketch(pipeline: &Path, options: &PipelineOptions) -> anyhow::Result<Vec<Plan>> {
        Ok(load(pipeline, options, &current_folder()?, AbsentFiles::Accept)?.0)
    }

    /// Reads the pipeline file and plans every pipeline that it stands for.
    pub(crate) fn open(
        pipeline: &Path,
        options: &PipelineOptions,
        execution: &Execution,
    ) -> anyhow::Result<Self> {
        let current = current_folder()?;
        let (plans, store) = load(pipeline, options, &current, AbsentFiles::Refuse)?;
        let root = workspace_of(pipeline);
        let runs = options.runs.clone().unwrap_or_else(|| root.join("runs"));
        let options = RunOptions {
            runs: std::path::absolute(&runs)
                .with_context(|| format!("cannot find {}", runs.display()))?,
            search: program_search(),
            current,
            threads: execution.threads,
            batch_size: execution.batch_size,
            chunk_size: execution.chunk_size,
            jobs: execution.jobs,
            hang_after: execution.hang_after,
            retry_delays: RETRY_DELAYS.to_vec(),
            remote: None,
            compute: true,
        };
        Ok(Self {
            plans,
            store,
            options,
        })
    }
}

/// Plans every pipeline that the file stands for, and opens the store.
fn load(
    pipeline: &Path,
    options: &PipelineOptions,
    current: &Path,
    absent: AbsentFiles,
) -> anyhow::Result<(Vec<Plan>, Store)> {
    if !pipeline.is_file() {
        return Err(UsageError(format!("no pipeline file at {}", pipeline.display())).into());
    }
    let given = options.store.given();
    let store = Store::open(&given.unwrap_or_else(|| workspace_of(pipeline).join(".sims")))?;
    let plans = Plan::load(
        pipeline,
        &PlanOptions {
            rounds: options.rounds,
            seed: options.seed,
            search: &program_search(),
            device: &options.device,
            current,
            absent,
            cache: &store.cache_folder(),
        },
    )?;
    Ok((only(plans, &options.only)?, store))
}

impl Workspace {
    /// Returns the plan of a file that stands for one run; `what` says in the message why there has to be one.
    pub(crate) fn only_plan(&self, what: &str) -> Result<&Plan, UsageError> {
        only_plan(&self.plans, what)
    }
}

/// Returns the one plan; `what` says in the message why there has to be one.
pub(crate) fn only_plan<'a>(plans: &'a [Plan], what: &str) -> Result<&'a Plan, UsageError> {
    match plans {
        [plan] => Ok(plan),
        plans => Err(UsageError(format!(
            "this file stands for {} runs, and {what}: choose it with --only",
            plans.len()
        ))),
    }
}

/// Keeps the plans with all of the `wanted` choices.
fn only(plans: Vec<Plan>, wanted: &[(String, String)]) -> Result<Vec<Plan>, UsageError> {
    let (kept, others): (Vec<_>, Vec<_>) = plans
        .into_iter()
        .partition(|plan| plan.pipeline.has(wanted));
    if !kept.is_empty() {
        return Ok(kept);
    }
    let mut choices: Vec<String> = Vec::new();
    for pipeline in others.iter().map(|plan| &plan.pipeline) {
        let named = pipeline.choices.iter();
        let texts = named.map(|(axis, choice)| format!("{axis}={choice}"));
        for text in texts.chain([format!("seed={}", pipeline.seed)]) {
            if !choices.contains(&text) {
                choices.push(text);
            }
        }
    }
    Err(UsageError(format!(
        "no run of this pipeline has what --only asks for; there are {}",
        choices.join(", ")
    )))
}

impl StoreOption {
    /// Returns the folder that `--store` or `SIMS_STORE` names.
    pub(crate) fn given(&self) -> Option<PathBuf> {
        let from_environment = || std::env::var_os("SIMS_STORE").filter(|value| !value.is_empty());
        self.store
            .clone()
            .or_else(|| from_environment().map(PathBuf::from))
    }

    /// Opens the store of a command that names no pipeline: the nearest `.sims` above the current
    /// folder when none is given.
    pub(crate) fn open_existing(&self) -> anyhow::Result<Store> {
        let folder = match self.given() {
            Some(folder) => folder,
            None => {
                let current = current_folder()?;
                let found = current
                    .ancestors()
                    .map(|folder| folder.join(".sims"))
                    .find(|folder| folder.is_dir());
                found.ok_or_else(|| {
                    UsageError(
                        "no store here: run a pipeline first, or name one with --store".to_owned(),
                    )
                })?
            }
        };
        if !folder.is_dir() {
            return Err(UsageError(format!("no store at {}", folder.display())).into());
        }
        Ok(Store::open(&folder)?)
    }
}

/// Opens the store beside the runs that a file belongs to: the nearest `.sims` above it, or above the current folder.
pub(crate) fn store_above(path: &Path) -> anyhow::Result<Store> {
    let above = |path: &Path| {
        let stores = path.ancestors().map(|folder| folder.join(".sims"));
        stores.into_iter().find(|store| store.is_dir())
    };
    let absolute = std::path::absolute(path).context("cannot find the current folder")?;
    match above(&absolute) {
        Some(store) => Ok(Store::open(&store)?),
        None => StoreOption { store: None }.open_existing(),
    }
}

/// Returns where stage programs are looked for: beside `sims`, then on `PATH`.
pub(crate) fn program_search() -> ProgramSearch {
    let own = std::env::current_exe()
        .ok()
        .and_then(|path| path.canonicalize().ok());
    let path = std::env::var_os("PATH").unwrap_or_default();
    ProgramSearch {
        beside: own.and_then(|path| path.parent().map(Path::to_owned)),
        path: std::env::split_paths(&path)
            .filter(|folder| folder.is_absolute())
            .collect(),
    }
}

/// Returns the current folder.
pub(crate) fn current_folder() -> anyhow::Result<PathBuf> {
    std::env::current_dir().context("cannot find the current folder")
}
