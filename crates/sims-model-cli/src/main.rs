//! `sims-model`: looks at a model by hand.
//!
//! One module a subcommand; [`open`] has what they share: flags that name a model, a device and a steering, and how
//! those are opened. The work itself is in the library `sims_model`.

#[macro_use]
mod output;

mod bench;
mod bench_extract;
mod bench_fit;
mod bench_lengths;
mod exit;
mod forward;
mod generate;
mod info;
mod open;
mod perplexity;
mod size;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXAMPLES: &str = "\
Examples:
  sims-model info data/tiny
  sims-model generate --model data/tiny --prompt 'put in order : 15 9 26 with commas'
  sims-model generate --model data/tiny --tokens 1,2,3 --steering accepted.safetensors --json
  sims-model forward --model data/tiny --tokens 1,2,3 --out states.safetensors
  sims-model perplexity --model data/tiny --prompts data/toyworld/neutral.parquet";

/// Look at a model by hand: its figures, hidden states, answers and perplexity
#[derive(Debug, Parser)]
#[command(name = "sims-model", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Info(info::Args),
    Size(size::Args),
    Forward(forward::Args),
    Generate(generate::Args),
    Perplexity(perplexity::Args),
    Bench(bench::Args),
    BenchExtract(bench_extract::Args),
    BenchFit(bench_fit::Args),
    BenchLengths(bench_lengths::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Info(args) => info::run(&args),
        Command::Size(args) => size::run(&args),
        Command::Forward(args) => forward::run(&args),
        Command::Generate(args) => generate::run(&args),
        Command::Perplexity(args) => perplexity::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::BenchExtract(args) => bench_extract::run(&args),
        Command::BenchFit(args) => bench_fit::run(&args),
        Command::BenchLengths(args) => bench_lengths::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say_line!("error: {error:#}");
            exit::code_of(&error)
        }
    }
}
