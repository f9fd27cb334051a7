//! `sims score alpaca-tables` and `alpaca-judged`: AlpacaEval with any judge of this project.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use sims_artifact::write_table;
use sims_score::ScoreError;
use sims_score::alpaca::{judged, outputs};

use super::note;

/// Write outputs as tables that every judge of sims-judge reads
#[derive(Debug, Args)]
pub(crate) struct TablesArguments {
    /// Outputs of the model under test
    #[arg(long, value_name = "FILE")]
    outputs: PathBuf,
    /// Outputs of the baseline; the tables have their order
    #[arg(long, value_name = "FILE")]
    baseline_outputs: PathBuf,
    /// The folder that prompts.parquet and responses.parquet go to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Write the judgments of sims-judge on these tables as annotations.json
#[derive(Debug, Args)]
pub(crate) struct JudgedArguments {
    /// Outputs of the model under test
    #[arg(long, value_name = "FILE")]
    outputs: PathBuf,
    /// Outputs of the baseline; the result has their order
    #[arg(long, value_name = "FILE")]
    baseline_outputs: PathBuf,
    /// judgments.parquet, as sims-judge wrote it
    #[arg(long, value_name = "FILE")]
    judgments: PathBuf,
    /// Where the annotations go
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Write a row without a preference where the judge gave no valid verdict
    #[arg(long)]
    allow_missing: bool,
}

pub(crate) fn write_tables(arguments: &TablesArguments) -> anyhow::Result<()> {
    let baseline = outputs::read(&arguments.baseline_outputs)?;
    let model = outputs::read(&arguments.outputs)?;
    let tables = judged::tables(&baseline, &model)
        .map_err(|message| ScoreError::file(&arguments.baseline_outputs, message))?;
    let asked = tables.prompts.len();
    require_common(
        asked,
        baseline.len(),
        &arguments.outputs,
        &arguments.baseline_outputs,
    )?;
    let out = &arguments.out;
    std::fs::create_dir_all(out).with_context(|| format!("cannot create {}", out.display()))?;
    write_table(&out.join("prompts.parquet"), &tables.prompts)?;
    write_table(&out.join("responses.parquet"), &tables.responses)?;
    Ok(())
}

pub(crate) fn write_annotations(arguments: &JudgedArguments) -> anyhow::Result<()> {
    let baseline = outputs::read(&arguments.baseline_outputs)?;
    let model = outputs::read(&arguments.outputs)?;
    let rows = judged::annotations(
        &arguments.judgments,
        &baseline,
        &model,
        arguments.allow_missing,
    )?;
    require_common(
        rows.len(),
        baseline.len(),
        &arguments.outputs,
        &arguments.baseline_outputs,
    )?;
    outputs::write(&arguments.out, &rows)?;
    Ok(())
}

/// Refuses outputs that have no instruction in common with the baseline's, and says how many the model left out.
fn require_common(common: usize, all: usize, model: &Path, baseline: &Path) -> anyhow::Result<()> {
    if common == 0 {
        let message = format!(
            "no instruction is one of those of {}; the texts have to be equal",
            baseline.display()
        );
        return Err(ScoreError::file(model, message).into());
    }
    if common < all {
        let missing = all - common;
        note(&format!(
            "{}: {missing} of the baseline's {all} instructions have no output",
            model.display()
        ));
    }
    Ok(())
}
