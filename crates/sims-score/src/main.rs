//! `sims score`: the scores of public benchmarks.
//!
//! One module a benchmark's command; the work itself is in the library `sims_score`.

mod commands;

use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use commands::{alpaca, alpaca_annotate, alpaca_judged, alpaca_outputs, arena_hard};
use sims_choices::command::ChoicesArgs;
use sims_endpoint::EndpointError;
use sims_score::ScoreError;

const EXAMPLES: &str = "\
Examples:
  sims score alpaca --annotations annotations.json --json
  sims score alpaca --annotations model.csv --difficulty instruction_difficulty.csv --gamed df_gamed.csv
  sims score alpaca-outputs --prompts prompts.parquet --responses responses.parquet --generator NAME --out outputs.json
  sims score alpaca-annotate --outputs outputs.json --baseline-outputs gpt4_1106_preview.json \\
    --template alpaca_eval_clf.txt --endpoint https://api.openai.com/v1 --model gpt-4-1106-preview --out annotations.json
  sims score alpaca-tables --outputs outputs.json --baseline-outputs gpt4_1106_preview.json --out tables
  sims score arena-hard --judgments model.jsonl --baseline gpt-4-0314 --details
  sims score arena-hard --version v2.0 --judgments a.jsonl b.jsonl --baseline o3-mini-2025-01-31 --json
  sims score choices --tasks arc.jsonl --model data/tiny --steering accepted.safetensors --json";

/// Compute the scores of public benchmarks as their authors define them
#[derive(Debug, Parser)]
#[command(name = "sims score", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Alpaca(alpaca::Arguments),
    AlpacaAnnotate(alpaca_annotate::Arguments),
    AlpacaJudged(alpaca_judged::JudgedArguments),
    AlpacaOutputs(alpaca_outputs::Arguments),
    AlpacaTables(alpaca_judged::TablesArguments),
    ArenaHard(arena_hard::Arguments),
    Choices(ChoicesArgs),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Alpaca(arguments) => alpaca::run(&arguments),
        Command::AlpacaAnnotate(arguments) => alpaca_annotate::run(&arguments),
        Command::AlpacaJudged(arguments) => alpaca_judged::write_annotations(&arguments),
        Command::AlpacaTables(arguments) => alpaca_judged::write_tables(&arguments),
        Command::AlpacaOutputs(arguments) => alpaca_outputs::run(&arguments),
        Command::ArenaHard(arguments) => arena_hard::run(&arguments),
        Command::Choices(arguments) => {
            sims_choices::command::run(&arguments, &mut std::io::stdout().lock())
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads the scores, `head` say, has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "error: {error:#}");
            exit_code(&error)
        }
    }
}

/// Returns 2 for bad input, 75 for what may work later, 130 for an interrupt.
fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(match error.downcast_ref::<ScoreError>() {
        Some(ScoreError::Interrupted { .. }) => 130,
        Some(ScoreError::Unanswered {
            reason: EndpointError::Unanswered { .. },
            ..
        }) => 75,
        _ => 2,
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}
