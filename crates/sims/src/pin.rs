//! `sims pin`: keep what a run made, whatever becomes of its folder.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use sims_pipeline::pin_run;

use crate::diff::folder_of;
use crate::exit::{Exit, UsageError};
use crate::workspace::{StoreOption, store_above};
use crate::{print, say};

#[derive(Debug, Args)]
#[command(
    after_help = "`sims gc` keeps what is pinned when the run's folder is deleted, and when its pipeline is changed and \
                  run again. Running the pipeline as it was shows the results anew and computes nothing. Without \
                  RUN, the pins are listed.\n\n\
                  Examples:\n  sims pin quickstart\n  sims pin runs/quickstart --name paper-table-2\n  \
                  sims pin --remove paper-table-2\n  sims pin"
)]
pub(crate) struct Arguments {
    /// The folder of a run, or its name under runs/
    #[arg(value_name = "RUN", conflicts_with = "remove")]
    run: Option<PathBuf>,
    /// Name of the pin; one that has it is replaced [default: the run's name]
    #[arg(long, value_name = "NAME", requires = "run")]
    name: Option<String>,
    /// Remove a pin
    #[arg(long, value_name = "NAME")]
    remove: Option<String>,
    /// Print JSON on stdout, and nothing else there
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    store: StoreOption,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<Exit> {
    if let Some(run) = &arguments.run {
        return pin(arguments, run);
    }
    let store = arguments.store.open_existing()?;
    let names: Vec<String> = store.pins()?.into_iter().map(|(name, _)| name).collect();
    if let Some(name) = &arguments.remove {
        if !names.contains(name) || !store.unpin(name)? {
            let known = match names.is_empty() {
                true => "there are none".to_owned(),
                false => format!("there are {}", names.join(", ")),
            };
            return Err(UsageError(format!("no pin is named `{name}`; {known}")).into());
        }
        if arguments.json {
            print(&json!({"removed": name}).to_string());
        }
        say(&format!("{name} is no longer pinned"));
    } else if arguments.json {
        print(&json!(names).to_string());
    } else {
        names.iter().for_each(|name| print(name));
    }
    Ok(Exit::Success)
}

fn pin(arguments: &Arguments, run: &std::path::Path) -> anyhow::Result<Exit> {
    let folder = folder_of(run)?;
    let store = match arguments.store.given() {
        Some(_) => arguments.store.open_existing()?,
        None => store_above(&folder)?,
    };
    let name = match &arguments.name {
        Some(name) => name.clone(),
        None => folder
            .canonicalize()?
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
    };
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Err(UsageError(format!(
            "`{name}` cannot name a pin: give a name without / and without a dot in front"
        ))
        .into());
    }
    pin_run(&store, &folder, &name)?;
    if arguments.json {
        print(&json!({"pinned": name}).to_string());
    }
    say(&format!(
        "{name} is pinned in {}; `sims pin --remove {name}` lets it go",
        store.root().display()
    ));
    Ok(Exit::Success)
}
