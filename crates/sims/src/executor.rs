//! Where `sims run` has stages computed: on this machine, or by jobs of a Slurm cluster.

use std::path::Path;

use anyhow::Context;
use clap::Args;
use sims_pipeline::{Plan, SlurmOptions};

use crate::exit::UsageError;
use crate::remote::SharingOptions;
use crate::work::{WorkerExecution, plan_arguments};
use crate::workspace::{PipelineOptions, Workspace};

/// How long a worker waits for results that a shared file system shows late.
const WAIT: &str = "90s";

/// Where stages are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Executor {
    /// On this machine.
    Local,
    /// As jobs of the Slurm cluster that this machine submits to.
    Slurm,
}

/// Reads the name of an executor.
fn executor(text: &str) -> Result<Executor, String> {
    match text {
        "local" => Ok(Executor::Local),
        "slurm" => Ok(Executor::Slurm),
        _ => Err("give local or slurm".to_owned()),
    }
}

/// Where and how stages are computed.
#[derive(Debug, Args)]
pub(crate) struct ExecutorOptions {
    /// Where stages run: local, or slurm for jobs of the cluster that this machine submits to
    #[arg(long, value_name = "NAME", default_value = "local", value_parser = executor)]
    pub(crate) executor: Executor,
    /// With --executor slurm: submit and leave; the same command without it follows the jobs
    #[arg(long)]
    pub(crate) detach: bool,
    /// With --executor slurm: how often a stage's job is submitted again when it fails or gets lost
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) resubmit: u32,
}

impl ExecutorOptions {
    /// Refuses options that belong to another executor.
    pub(crate) fn check(&self) -> Result<(), UsageError> {
        match self.executor {
            Executor::Local if self.detach => Err(UsageError(
                "--detach needs --executor slurm: a run on this machine ends with its process"
                    .to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// Returns how a plan of the file `pipeline` is run on a cluster.
    pub(crate) fn slurm(
        &self,
        pipeline: &Path,
        plan: &Plan,
        workspace: &Workspace,
        options: &PipelineOptions,
        execution: &WorkerExecution,
        sharing: &SharingOptions,
    ) -> anyhow::Result<SlurmOptions> {
        let program = std::env::current_exe().context("cannot find the program `sims`")?;
        let absolute = |path: &Path| {
            std::path::absolute(path).with_context(|| format!("cannot find {}", path.display()))
        };
        let mut worker = vec![program.display().to_string(), "work".to_owned()];
        worker.push(absolute(pipeline)?.display().to_string());
        let mut add = |name: &str, value: String| worker.extend([format!("--{name}"), value]);
        add(
            "store",
            absolute(workspace.store.root())?.display().to_string(),
        );
        add("runs", workspace.options.runs.display().to_string());
        if let Some(threads) = execution.threads {
            add("threads", threads.to_string());
        }
        if let Some(size) = execution.batch_size {
            add("batch-size", size.to_string());
        }
        add("chunk-size", execution.chunk_size.to_string());
        if let Some(time) = execution.hang_after {
            add("hang-after", format!("{}s", time.as_secs_f64()));
        }
        if let Some(url) = &sharing.remote.remote {
            add("remote", url.clone());
        }
        add("wait", WAIT.to_owned());
        worker.extend(plan_arguments(plan, options));
        if sharing.remote_read_only {
            worker.push("--remote-read-only".to_owned());
        }
        Ok(SlurmOptions {
            worker,
            resubmissions: self.resubmit,
            detach: self.detach,
        })
    }
}
