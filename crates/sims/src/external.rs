//! `sims NAME …` runs `sims-NAME …` when `NAME` is not built in, as git and cargo do.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::Context;
use clap::CommandFactory;
use sims_pipeline::PREFIX;

use crate::exit::{Exit, UsageError};
use crate::workspace::program_search;

pub(crate) fn run(arguments: &[OsString]) -> anyhow::Result<Exit> {
    let (name, rest) = arguments.split_first().context("a command has a name")?;
    let name = name.to_string_lossy();
    let program = format!("{PREFIX}{name}");
    let search = program_search();
    let Some(path) = search.find(&program) else {
        return Err(unknown(&name, &program, &search.known_stages()));
    };
    // Comes back only when the program cannot be started.
    let error = Command::new(&path).args(rest).exec();
    Err(error).with_context(|| format!("cannot run {}", path.display()))
}

fn unknown(name: &str, program: &str, programs: &[String]) -> anyhow::Error {
    let built_in: Vec<String> = crate::Arguments::command()
        .get_subcommands()
        .map(|command| command.get_name().to_owned())
        .collect();
    let names = || built_in.iter().chain(programs).map(String::as_str);
    let help = match sims_pipeline::yaml::nearest(name, names()) {
        Some(near) => format!("did you mean `sims {near}`?"),
        None => format!("there are {}", names().collect::<Vec<_>>().join(", ")),
    };
    UsageError(format!(
        "no command `{name}`, and no program `{program}` beside `sims` or on PATH; {help}"
    ))
    .into()
}
