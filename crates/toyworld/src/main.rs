//! The built-in world's command line: training of its tiny model, prompt sets, checks against the truth.

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Parser, Subcommand};
use toyworld::commands::{AcceptanceArgs, ExamplesArgs, JudgeQualityArgs, PromptsArgs};
use toyworld::train::{Outcome, TrainArgs};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXAMPLES: &str = "\
Examples:
  toyworld prompts --world default --out data/toyworld
  toyworld examples --out data/toyworld/careful.parquet
  toyworld train --world hard --out target/hard --tokens 13e6
  toyworld acceptance --model data/tiny
  toyworld judge-quality --prompts data/toyworld/train.parquet \\
    --judgments runs/quickstart/round-1/judgments.parquet --responses runs/quickstart/round-1/responses.parquet";

/// The built-in miniature world
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(TrainArgs),
    Prompts(PromptsArgs),
    Examples(ExamplesArgs),
    Acceptance(AcceptanceArgs),
    JudgeQuality(JudgeQualityArgs),
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Train(args) => train(&args),
        Command::Prompts(args) => {
            for path in args.run()? {
                print(&path.display().to_string());
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Examples(args) => {
            args.run()?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Acceptance(args) => {
            let reports = args.run(&mut |context| say(&format!("{context}: done")))?;
            print(&serde_json::to_string_pretty(&reports)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::JudgeQuality(args) => {
            print(&serde_json::to_string_pretty(&args.run()?)?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Trains; the first interrupt saves a checkpoint and ends the run with exit code 130.
fn train(args: &TrainArgs) -> anyhow::Result<ExitCode> {
    // Workers are the parallelism: candle's own threads would only compete with them.
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("RAYON_NUM_THREADS", "1") };
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed))?;
    let mut command = std::env::args().skip(1).collect::<Vec<_>>();
    command.insert(0, "toyworld".to_owned());
    let outcome = args.run(&command.join(" "), &stop, &mut say)?;
    match outcome {
        Outcome::Finished => Ok(ExitCode::SUCCESS),
        Outcome::Interrupted => {
            say("stopped; the same command goes on from the checkpoint");
            Ok(ExitCode::from(130))
        }
    }
}

/// Writes a line to stdout; a reader that went away (`| head`) is no reason to fail.
fn print(line: &str) {
    let _nobody_listens = writeln!(std::io::stdout().lock(), "{line}");
}

/// Writes a line to stderr.
fn say(line: &str) {
    let _nobody_listens = writeln!(std::io::stderr().lock(), "{line}");
}
