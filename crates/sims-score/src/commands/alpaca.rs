//! `sims score alpaca`: AlpacaEval 2.0.

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use sims_score::ScoreError;
use sims_score::alpaca::length_control::Weights;
use sims_score::alpaca::{
    Annotations, DIFFICULTY_FILE, Difficulties, GAMED_FILE, Gamed, INSTRUCTIONS, LengthControl,
    WinRate,
};

use super::note;

/// AlpacaEval 2.0: win rate, and win rate at equal lengths
///
/// The length-controlled win rate needs two files of the data set tatsu-lab/alpaca_eval, which are not
/// part of sims: their licence, CC BY-NC 4.0, does not allow commercial use.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The judge's verdicts on one model: the official annotations.json, or a table with `preference`
    /// and `output_1`, `output_2` or `length_1`, `length_2` (.json, .jsonl, .csv or .parquet)
    #[arg(long, value_name = "FILE")]
    annotations: PathBuf,
    /// The official instruction_difficulty.csv; by default the file of that name beside the annotations
    #[arg(long, value_name = "FILE")]
    difficulty: Option<PathBuf>,
    /// The official df_gamed.csv; by default the file of that name beside the annotations
    #[arg(long, value_name = "FILE")]
    gamed: Option<PathBuf>,
    /// The inverse strength of the penalty; by default chosen by cross-validation as upstream does
    #[arg(long, value_name = "C", value_parser = positive)]
    regularization: Option<f64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is printed.
#[derive(Serialize)]
struct Figures {
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(flatten)]
    plain: WinRate,
    length_controlled_win_rate: Option<f64>,
    lc_standard_error: Option<f64>,
    regularization: Option<f64>,
    weights: Option<Weights>,
    warning: Option<String>,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(number) if number > 0.0 && f64::is_finite(number) => Ok(number),
        _ => Err("give a number above zero".to_owned()),
    }
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let annotations = Annotations::read(&arguments.annotations)?;
    let plain = WinRate::of(&annotations);
    tell_what_is_missing(&annotations);
    let controlled = length_control(arguments, &annotations)?;
    let warning = controlled
        .as_ref()
        .filter(|controlled| controlled.is_extreme(plain.win_rate))
        .map(|controlled| {
            format!(
                "length control moves the win rate from {:.1} to {:.1}, which may mean that its fit failed",
                plain.win_rate, controlled.win_rate
            )
        });
    let figures = Figures {
        model: annotations.model,
        plain,
        length_controlled_win_rate: controlled.as_ref().map(|c| c.win_rate),
        lc_standard_error: controlled.as_ref().map(|c| c.standard_error),
        regularization: controlled.as_ref().and_then(|c| c.regularization),
        weights: controlled.as_ref().map(|c| c.weights),
        warning,
    };
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&figures)?)?;
    } else {
        write!(out, "{}", table(&figures))?;
    }
    Ok(())
}

fn tell_what_is_missing(annotations: &Annotations) {
    let (rows, path) = (annotations.rows.len(), annotations.path.display());
    if annotations.dropped > 0 {
        note(&format!(
            "{path}: {} of {rows} rows have no preference from 1 to 2 and count as not judged",
            annotations.dropped
        ));
    }
    if rows < INSTRUCTIONS {
        note(&format!(
            "{path}: {rows} of {INSTRUCTIONS} instructions; as in the published numbers, a missing output has length 0 \
             and difficulties go to rows by position"
        ));
    }
}

fn length_control(
    arguments: &Arguments,
    annotations: &Annotations,
) -> Result<Option<LengthControl>, ScoreError> {
    let find = |given: &Option<PathBuf>, name: &str| {
        let beside = annotations.path.with_file_name(name);
        given.clone().or_else(|| beside.is_file().then_some(beside))
    };
    let difficulty = find(&arguments.difficulty, DIFFICULTY_FILE);
    let gamed = find(&arguments.gamed, GAMED_FILE);
    let (Some(difficulty), Some(gamed)) = (&difficulty, &gamed) else {
        let missing = [
            (
                difficulty,
                DIFFICULTY_FILE,
                "--difficulty",
                "how hard each instruction is",
            ),
            (
                gamed,
                GAMED_FILE,
                "--gamed",
                "verdicts on the baseline told to be verbose or concise",
            ),
        ];
        for (_, name, flag, what) in missing.iter().filter(|(found, ..)| found.is_none()) {
            note(&format!(
                "no length-controlled win rate: {name} is missing ({what}; CC BY-NC 4.0). Download it from the data set \
                 tatsu-lab/alpaca_eval and give it with {flag} FILE, or put it beside {}",
                annotations.path.display()
            ));
        }
        return Ok(None);
    };
    let difficulties = Difficulties::read(Path::new(difficulty))?;
    let gamed = Gamed::read(Path::new(gamed))?;
    LengthControl::fit(annotations, &difficulties, &gamed, arguments.regularization).map(Some)
}

fn table(figures: &Figures) -> String {
    let plain = &figures.plain;
    let mut lines = vec![
        (
            "win rate",
            format!("{:.2} ± {:.2}", plain.win_rate, plain.standard_error),
        ),
        (
            "length-controlled",
            match (
                figures.length_controlled_win_rate,
                figures.lc_standard_error,
            ) {
                (Some(win_rate), Some(error)) => format!("{win_rate:.2} ± {error:.2}"),
                _ => "—".to_owned(),
            },
        ),
        (
            "discrete win rate",
            format!("{:.2}", plain.discrete_win_rate),
        ),
        (
            "wins, draws, losses",
            format!(
                "{}, {}, {} of {}",
                plain.n_wins, plain.n_draws, plain.n_wins_base, plain.n
            ),
        ),
        ("average length", plain.avg_length.to_string()),
    ];
    if let Some(model) = &figures.model {
        lines.insert(0, ("model", model.clone()));
    }
    if let Some(warning) = &figures.warning {
        lines.push(("warning", warning.clone()));
    }
    lines
        .iter()
        .map(|(name, value)| format!("{name:<20} {value}\n"))
        .collect()
}
