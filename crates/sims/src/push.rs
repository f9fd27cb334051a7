//! `sims push`: put results into a remote cache.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use sims_artifact::store::{ActionKey, Store};
use sims_pipeline::{Interrupt, Outcome, RunRecord};
use sims_remote::Uploads;

use crate::exit::{Exit, UsageError};
use crate::remote::{RemoteOptions, finish_shown};
use crate::signals::raise_on_signals;
use crate::workspace::{Execution, PipelineOptions, Workspace};
use crate::{print, say};

#[derive(Debug, Args)]
#[command(
    after_help = "What is in the remote cache already is not sent again, so that a push that was stopped goes on where \
                  it was. Credentials come from the environment (AWS_…, GOOGLE_…, AZURE_…).\n\n\
                  Examples:\n  sims push pipelines/quickstart.yaml --remote s3://bucket/sims\n  \
                  SIMS_REMOTE=/mnt/shared/sims sims push --all"
)]
pub(crate) struct Arguments {
    /// Pipeline files: what their runs recorded is sent
    #[arg(value_name = "PIPELINE", required_unless_present = "all")]
    pipelines: Vec<PathBuf>,
    /// Send every result in the store
    #[arg(long, conflicts_with = "pipelines")]
    all: bool,
    #[command(flatten)]
    remote: RemoteOptions,
    #[command(flatten)]
    options: PipelineOptions,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    let interrupt = Interrupt::new();
    raise_on_signals(interrupt.clone())?;
    let remote = arguments.remote.open_named(&interrupt)?;
    let (store, keys) = match arguments.all {
        true => {
            let store = arguments.options.store.open_existing()?;
            let keys = store.action_keys()?.into_iter().collect();
            (store, keys)
        }
        false => recorded(arguments)?,
    };
    let uploads = Uploads::start(remote.clone(), store);
    for key in &keys {
        uploads.offer(*key);
    }
    let report = finish_shown(uploads);
    if arguments.options.json {
        let counts = json!({
            "uploaded": report.uploaded,
            "present": report.present,
            "absent": report.absent,
            "left": report.left,
            "bytes": report.bytes,
        });
        print(&counts.to_string());
    }
    say(&format!(
        "{}: {} results sent, {} were there already{}",
        remote.url(),
        report.uploaded,
        report.present,
        match report.absent {
            0 => String::new(),
            absent => format!(", {absent} are not whole in the store (see `sims fsck`)"),
        }
    ));
    if let Some(fault) = report.fault {
        say(&format!(
            "error: {fault}; {} results were not sent",
            report.left
        ));
        return Ok(Exit::Failure);
    }
    Ok(match interrupt.is_raised() {
        true => Exit::Interrupted,
        false => Exit::Success,
    })
}

/// Returns the actions that the runs of the pipelines recorded, with the store that they share.
fn recorded(arguments: &Arguments) -> anyhow::Result<(Store, BTreeSet<ActionKey>)> {
    let mut keys = BTreeSet::new();
    let mut found: Option<Store> = None;
    for pipeline in &arguments.pipelines {
        let Workspace {
            plans,
            store,
            options,
        } = Workspace::open(pipeline, &arguments.options, &Execution::default())?;
        for plan in &plans {
            let record = RunRecord::load(&options.run_folder(plan));
            let done = record
                .stages
                .values()
                .filter(|stage| stage.outcome != Outcome::Failed);
            keys.extend(done.map(|stage| stage.key));
        }
        if let Some(other) = &found
            && other.root() != store.root()
        {
            return Err(UsageError(format!(
                "the pipelines have different stores, {} and {}: push them one by one",
                other.root().display(),
                store.root().display()
            ))
            .into());
        }
        found = Some(store);
    }
    if keys.is_empty() {
        return Err(UsageError(
            "no run of these pipelines is recorded: run them first, or give --all".to_owned(),
        )
        .into());
    }
    let store = found.expect("there is at least one pipeline");
    Ok((store, keys))
}
