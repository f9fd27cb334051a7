//! `sims import`: brings other projects' data into the tables that stages read.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use sims_import::{
    ColumnFlags, Format, Import, ImportError, Limits, Progress, PromptFile, Splits, Summary,
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXAMPLES: &str = "\
Examples:
  sims import prompts ultrafeedback.parquet --out prompts --split dev=500 --split train=rest
  sims import prompts uf-1.jsonl uf-2.jsonl --out prompts \\
    --against alpaca_eval.json --against question.jsonl --split train=60000 --split dev=500
  sims import prompts questions.csv --prompt-column ask --source-column origin --out prompts
  sims import prompts chats.jsonl --messages-column messages --max-words 500 --out prompts --json";

/// Bring prompts of other projects into the tables that stages read
#[derive(Debug, Parser)]
#[command(name = "sims import", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Prompts(Prompts),
}

/// Write prompts as `prompts@1`: without duplicates and overlaps with test sets, cut into splits
///
/// Reads JSON lines, a JSON array, CSV, TSV and Parquet. The columns of UltraFeedback, AlpacaEval, Arena-Hard
/// and of chats in `messages`, `chosen` or `conversations` are found by themselves. Writes
/// OUT/SPLIT.parquet, and OUT/dropped.parquet with the reason for every record left out.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct Prompts {
    /// Files of prompts; of duplicates the first is kept
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The folder to write into
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What the files are, where their names do not say
    #[arg(long, value_enum)]
    format: Option<Format>,
    #[command(flatten)]
    columns: ColumnFlags,
    /// A test set: prompts that share thirteen words in a row with one of its prompts are left out
    #[arg(long, value_name = "FILE")]
    against: Vec<PathBuf>,
    /// The column of the test sets' prompts, where it is not found by itself
    #[arg(long, value_name = "NAME", requires = "against")]
    against_column: Option<String>,
    /// A split and its size: a count, a share such as 0.1, or `rest`; by default `train=rest`
    #[arg(long, value_name = "NAME=SIZE")]
    split: Vec<String>,
    /// Decides, with a prompt's id, which split it belongs to
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Leave shorter prompts out
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_words: usize,
    /// Leave longer prompts out
    #[arg(long, value_name = "N")]
    max_words: Option<usize>,
    /// Leave prompts of more characters out; for languages without spaces between words
    #[arg(long, value_name = "N")]
    max_chars: Option<usize>,
    /// Leave empty prompts out instead of refusing the file
    #[arg(long)]
    skip_empty: bool,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let Command::Prompts(arguments) = Cli::parse().command;
    match prompts(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _nobody_listens = writeln!(io::stderr().lock(), "error: {error:#}");
            let bad_input = error.downcast_ref().is_some_and(ImportError::is_bad_input);
            ExitCode::from(if bad_input { 2 } else { 1 })
        }
    }
}

fn prompts(arguments: &Prompts) -> anyhow::Result<()> {
    let open = |paths: &[PathBuf], format, columns: &ColumnFlags| {
        let files = paths
            .iter()
            .map(|path| PromptFile::open(path, format, columns));
        files.collect::<Result<Vec<_>, _>>()
    };
    let test_columns = ColumnFlags {
        prompt_column: arguments.against_column.clone(),
        ..ColumnFlags::default()
    };
    let import = Import {
        inputs: open(&arguments.files, arguments.format, &arguments.columns)?,
        test_sets: open(&arguments.against, None, &test_columns)?,
        splits: Splits::parse(&arguments.split)?,
        seed: arguments.seed,
        limits: Limits {
            min_words: arguments.min_words,
            max_words: arguments.max_words.unwrap_or(usize::MAX),
            max_characters: arguments.max_chars.unwrap_or(usize::MAX),
        },
        skip_empty: arguments.skip_empty,
        out: arguments.out.clone(),
    };
    let bytes = |files: &[PromptFile]| files.iter().map(PromptFile::bytes).sum::<u64>();
    // The inputs are read twice.
    let progress = Progress::new(2 * bytes(&import.inputs) + bytes(&import.test_sets));
    let summary = import.run(&progress);
    progress.clear();
    let summary = summary?;
    let mut out = io::stdout().lock();
    let written = if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&summary)?)
    } else {
        show(&mut out, &summary, arguments)
    };
    match written {
        // Whoever reads the summary has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

fn show(out: &mut impl Write, summary: &Summary, arguments: &Prompts) -> io::Result<()> {
    writeln!(out, "{:<32} {:>9}", "read", summary.read)?;
    for (reason, count) in summary.dropped.iter().filter(|(_, count)| **count > 0) {
        writeln!(out, "  {:<30} {count:>9}", format!("dropped: {reason}"))?;
    }
    for (file, count) in &summary.overlaps {
        writeln!(out, "  overlaps with {file}: {count}")?;
    }
    for (split, count) in &summary.kept {
        let path = arguments.out.join(format!("{split}.parquet"));
        writeln!(
            out,
            "{:<32} {count:>9}  {}",
            format!("kept: {split}"),
            path.display()
        )?;
    }
    Ok(())
}
