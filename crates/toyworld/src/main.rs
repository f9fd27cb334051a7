//! The built-in world's command line: training of its tiny model, prompt sets, checks against the truth.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::{Parser, Subcommand};
use toyworld::commands::{AcceptanceArgs, JudgeQualityArgs, PromptsArgs};
use toyworld::train::{Outcome, TrainArgs};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The built-in miniature world
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(TrainArgs),
    Prompts(PromptsArgs),
    Acceptance(AcceptanceArgs),
    JudgeQuality(JudgeQualityArgs),
}

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Train(args) => train(&args),
        Command::Prompts(args) => {
            for path in args.run()? {
                println!("{}", path.display());
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Acceptance(args) => {
            let reports = args.run(&mut |context| eprintln!("{context}: done"))?;
            println!("{}", serde_json::to_string_pretty(&reports)?);
            Ok(ExitCode::SUCCESS)
        }
        Command::JudgeQuality(args) => {
            println!("{}", serde_json::to_string_pretty(&args.run()?)?);
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
    let outcome = args.run(&command.join(" "), &stop, &mut |line| eprintln!("{line}"))?;
    match outcome {
        Outcome::Finished => Ok(ExitCode::SUCCESS),
        Outcome::Interrupted => {
            eprintln!("stopped; the same command goes on from the checkpoint");
            Ok(ExitCode::from(130))
        }
    }
}
