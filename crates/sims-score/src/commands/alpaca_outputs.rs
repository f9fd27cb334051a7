//! `sims score alpaca-outputs`: responses in the official form.

use std::path::PathBuf;

use clap::Args;
use sims_score::alpaca::outputs;

/// Write responses of sims-sample as the official model outputs
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The prompts, in the official order; the instruction is the last message by the user
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// The responses; those with sample index 0 count
    #[arg(long, value_name = "FILE")]
    responses: PathBuf,
    /// The model's name
    #[arg(long, value_name = "NAME")]
    generator: String,
    /// Where the outputs go: a JSON array of instruction, output, generator, dataset
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let rows = outputs::from_responses(
        &arguments.prompts,
        &arguments.responses,
        &arguments.generator,
    )?;
    outputs::write(&arguments.out, &rows)?;
    Ok(())
}
