//! `sims argo`: a plan as a workflow for Kubernetes.

use std::path::{Path, PathBuf};

use clap::Args;
use sims_artifact::atomic_file::write_atomically;
use sims_pipeline::pipeline::workspace_of;
use sims_pipeline::{ArgoOptions, Plan};

use crate::exit::{Exit, UsageError};
use crate::work::plan_arguments;
use crate::workspace::{PipelineOptions, Workspace, only_plan};
use crate::{print, say};

#[derive(Debug, Args)]
#[command(
    after_help = "Each stage of each round becomes a task that runs `sims work`, after those that feed it. The \
                  workspace (pipeline file, data, store) is on the volume of --claim, or in the image; in that case \
                  --remote is where tasks find each other's results. When all is done, `sims run` on the same store \
                  or remote shows the results without computing anything.\n\n\
                  Examples:\n  sims argo pipelines/quickstart.yaml --image registry.local/sims:1 --claim sims-work > w.yaml\n  \
                  argo submit w.yaml"
)]
pub(crate) struct Arguments {
    /// Pipeline file
    #[arg(value_name = "PIPELINE")]
    pipeline: PathBuf,
    /// Image with `sims` and the stages on its PATH
    #[arg(long, value_name = "IMAGE")]
    image: String,
    /// Claim of the volume that holds the workspace [default: the image holds it]
    #[arg(long, value_name = "NAME")]
    claim: Option<String>,
    /// Folder of the workspace in a container [default: where it is here]
    #[arg(long, value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// URL of a remote cache, which tasks get as SIMS_REMOTE
    #[arg(long, value_name = "URL")]
    remote: Option<String>,
    /// Secret whose entries tasks get as environment variables, such as the credentials of the remote cache
    #[arg(long, value_name = "NAME")]
    secret: Option<String>,
    /// How often a task that fails is tried again
    #[arg(long, value_name = "N", default_value_t = 2)]
    retries: u32,
    /// File to write the workflow to [default: stdout]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    options: PipelineOptions,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    if arguments.claim.is_none() && arguments.remote.is_none() {
        return Err(UsageError(
            "tasks would not see each other's results: name a volume with --claim, or a remote cache with --remote"
                .to_owned(),
        )
        .into());
    }
    let plans = Workspace::sketch(&arguments.pipeline, &arguments.options)?;
    let plan = only_plan(&plans, "a workflow runs one")?;
    let here = workspace_of(&arguments.pipeline);
    let workspace = arguments.workspace.clone().unwrap_or_else(|| here.clone());
    let options = ArgoOptions {
        image: arguments.image.clone(),
        claim: arguments.claim.clone(),
        arguments: worker_arguments(arguments, plan, &here)?,
        workspace,
        remote: arguments.remote.clone(),
        secret: arguments.secret.clone(),
        retries: arguments.retries,
    };
    let workflow = plan.argo_workflow(&options);
    for note in &workflow.notes {
        say(&format!("note: {note}"));
    }
    match &arguments.out {
        Some(path) => write_atomically(path, workflow.yaml.as_bytes())?,
        None => print(workflow.yaml.trim_end()),
    }
    Ok(Exit::Success)
}

/// Returns the arguments of `sims work` but for the stage, with paths from the workspace.
fn worker_arguments(
    arguments: &Arguments,
    plan: &Plan,
    workspace: &Path,
) -> anyhow::Result<Vec<String>> {
    let options = &arguments.options;
    let file = std::path::absolute(&arguments.pipeline)?;
    let file = file.strip_prefix(workspace).unwrap_or(&file);
    let mut worker = vec![file.display().to_string()];
    let mut add = |name: &str, value: String| worker.extend([format!("--{name}"), value]);
    for (name, folder) in [
        ("store", options.store.given()),
        ("runs", options.runs.clone()),
    ] {
        if let Some(folder) = folder {
            add(name, folder.display().to_string());
        }
    }
    worker.extend(plan_arguments(plan, options));
    Ok(worker)
}
