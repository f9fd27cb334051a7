//! `sims`: the command line of the runner.
//!
//! Each command is one file: it parses its arguments, calls [`sims_pipeline`], and prints. Data
//! goes to stdout, all else to stderr; with `--json` stdout holds one JSON value and nothing
//! else. `sims NAME` runs the program `sims-NAME` when `NAME` is not built in.

mod argo;
mod dag;
mod diff;
mod executor;
mod exit;
mod explain;
mod external;
mod fsck;
mod gc;
mod lineage;
mod logs;
mod model_memory;
mod new_stage;
mod pin;
mod plan;
mod plan_cost;
mod progress_bar;
mod pull;
mod push;
mod remote;
mod repro_lock;
mod run;
mod schema;
mod signals;
mod status;
mod text_table;
mod verify;
mod work;
mod workspace;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use exit::Exit;

/// Self-improving model steering: runs pipelines of stages and keeps what they make
#[derive(Debug, Parser)]
#[command(
    name = "sims",
    version,
    after_help = "Any other NAME runs the program `sims-NAME` beside `sims` or on PATH: \
                  `sims report …`, `sims model …`.\n\n\
                  Examples:\n  sims run pipelines/quickstart.yaml --rounds 3\n  \
                  sims plan pipelines/quickstart.yaml --commands\n  \
                  sims explain sample --pipeline pipelines/quickstart.yaml"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run what is not in the store yet
    Run(run::Arguments),
    /// Show what a run would do
    Plan(plan::Arguments),
    /// Show the state of every stage
    Status(status::Arguments),
    /// Say why a stage would run, or why it would not
    Explain(explain::Arguments),
    /// Show what differs between two runs
    Diff(diff::Arguments),
    /// Show the graph of a pipeline
    Dag(dag::Arguments),
    /// Show what stages wrote when they ran
    Logs(logs::Arguments),
    /// Show where an artifact comes from
    Lineage(lineage::Arguments),
    /// Compute a sample of finished actions once more, and compare the bytes
    Verify(verify::Arguments),
    /// Write down what decided a run, for another machine to check
    ReproLock(repro_lock::Arguments),
    /// Check every byte in the store
    Fsck(fsck::Arguments),
    /// Move what no run needs out of the store
    Gc(gc::Arguments),
    /// Put results into a remote cache
    Push(push::Arguments),
    /// Bring what a run would need from a remote cache, and run nothing
    Pull(pull::Arguments),
    /// Keep what a run made, whatever becomes of its folder
    Pin(pin::Arguments),
    /// Write files to start from
    New(new_stage::Arguments),
    /// Compute one stage of a plan, as a job of a cluster does
    Work(work::Arguments),
    /// Write a plan as a workflow for Kubernetes
    Argo(argo::Arguments),
    /// Show what the columns of an artifact mean
    Schema(schema::Arguments),
    #[command(external_subcommand)]
    External(Vec<OsString>),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Status(arguments) => status::run(&arguments),
        Command::Explain(arguments) => explain::run(&arguments),
        Command::Diff(arguments) => diff::run(&arguments),
        Command::Dag(arguments) => dag::run(&arguments),
        Command::Logs(arguments) => logs::run(&arguments),
        Command::Lineage(arguments) => lineage::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::ReproLock(arguments) => repro_lock::run(&arguments),
        Command::Fsck(arguments) => fsck::run(&arguments),
        Command::Gc(arguments) => gc::run(&arguments),
        Command::Push(arguments) => push::run(&arguments),
        Command::Pull(arguments) => pull::run(&arguments),
        Command::Pin(arguments) => pin::run(&arguments),
        Command::New(arguments) => new_stage::run(&arguments),
        Command::Work(arguments) => work::run(&arguments),
        Command::Argo(arguments) => argo::run(&arguments),
        Command::Schema(arguments) => schema::run(&arguments),
        Command::External(arguments) => external::run(&arguments),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            say(&format!("error: {error:#}"));
            Exit::of(&error).into()
        }
    }
}

/// Writes a line to stderr; a reader that went away is no reason to fail.
fn say(line: &str) {
    let _nobody_listens = writeln!(std::io::stderr().lock(), "{line}");
}

/// Writes text to stdout; a reader that went away (`| head`) is no reason to fail.
fn print(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _nobody_listens = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
}
