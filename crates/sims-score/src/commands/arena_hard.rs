//! `sims score arena-hard`: Arena-Hard v0.1 and v2.0.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, ValueEnum};
use serde::Serialize;
use sims_score::arena::Version;
use sims_score::arena::battles::{self, Battles, Settings};
use sims_score::arena::position::Position;
use sims_score::arena::score::Score;
use sims_score::arena::style::{Control, StyleControl, StyleScore};
use sims_score::arena::style_counts::StyleCounts;

use super::note;

/// Arena-Hard: scores against the baseline, with intervals
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Judgments (the official JSON Lines) or battles (`question_id`, `winner` and optionally `count`)
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    judgments: Vec<PathBuf>,
    /// The model that all others are compared with
    #[arg(long, value_name = "NAME")]
    baseline: String,
    /// Whose rules apply
    #[arg(long, value_enum, default_value = "v0.1")]
    version: VersionName,
    /// Count only questions of this category; v2.0 scores each by itself
    #[arg(long, value_name = "NAME")]
    category: Option<String>,
    /// Hold style equal: tables of token and markdown counts, or the official answers of baseline and models
    #[arg(long, value_name = "FILE", num_args = 1..)]
    style: Vec<PathBuf>,
    /// Which parts of style are held equal
    #[arg(long, value_enum, num_args = 1.., default_values = ["length", "markdown"], requires = "style")]
    control: Vec<ControlName>,
    /// Resamples behind an interval; upstream takes 100
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    resamples: u32,
    /// Resamples behind an interval at equal style; upstream takes 100
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..))]
    style_resamples: u32,
    /// Add how far the judge contradicts itself when the answers change places
    #[arg(long)]
    details: bool,
    /// Print one JSON array, with an object a model
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum VersionName {
    #[value(name = "v0.1")]
    V01,
    #[value(name = "v2.0")]
    V20,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ControlName {
    Length,
    Markdown,
}

/// What is printed of a model.
#[derive(Serialize)]
struct Line {
    #[serde(flatten)]
    score: Score,
    #[serde(skip_serializing_if = "Option::is_none")]
    style: Option<Style>,
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<Position>,
}

#[derive(Serialize)]
struct Style {
    #[serde(flatten)]
    score: StyleScore,
    coefficients: BTreeMap<&'static str, f64>,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let settings = Settings {
        version: match arguments.version {
            VersionName::V01 => Version::V01,
            VersionName::V20 => Version::V20,
        },
        baseline: arguments.baseline.clone(),
        category: arguments.category.clone(),
    };
    let models = battles::read(&arguments.judgments, &settings)?;
    let controlled = control(arguments, &models, settings.version)?;
    let mut lines = Vec::new();
    for (index, model) in models.iter().enumerate() {
        if model.invalid_games > 0 {
            note(&format!(
                "{}: {} games of {} have no label that counts",
                model.path.display(),
                model.invalid_games,
                model.model
            ));
        }
        let position = arguments
            .details
            .then(|| Position::of(&model.games))
            .transpose()
            .context("position consistency")?
            .flatten();
        lines.push(Line {
            score: Score::of(model, settings.version, arguments.resamples as usize)?,
            style: controlled.as_ref().map(|controlled| Style {
                score: controlled.scores[index].clone(),
                coefficients: controlled.coefficients.iter().copied().collect(),
            }),
            position,
        });
    }
    lines.sort_by(|left, right| right.score.score.total_cmp(&left.score.score));
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&lines)?)?;
    } else {
        write!(out, "{}", table(&lines))?;
    }
    Ok(())
}

fn control(
    arguments: &Arguments,
    models: &[Battles],
    version: Version,
) -> anyhow::Result<Option<StyleControl>> {
    if arguments.style.is_empty() {
        return Ok(None);
    }
    let controls: Vec<Control> = arguments
        .control
        .iter()
        .map(|control| match control {
            ControlName::Length => Control::Length,
            ControlName::Markdown => Control::Markdown,
        })
        .collect();
    let counts = StyleCounts::read(&arguments.style)?;
    let controlled = StyleControl::fit(
        models,
        &arguments.baseline,
        &counts,
        &controls,
        version,
        arguments.style_resamples as usize,
    )?;
    Ok(Some(controlled))
}

fn table(lines: &[Line]) -> String {
    let width = lines.iter().map(|line| line.score.model.chars().count());
    let width = width.max().unwrap_or(0).max("model".len());
    let mut text = format!(
        "{:<width$}  {:>6}  {:<15}  {:<15}  {}\n",
        "model", "score", "interval", "by question", "wins, ties, losses"
    );
    for line in lines {
        let score = &line.score;
        let range = |low: f64, high: f64| format!("[{low:.2}, {high:.2}]");
        let _ = writeln!(
            text,
            "{:<width$}  {:>6.2}  {:<15}  {:<15}  {}, {}, {}",
            score.model,
            score.score,
            range(score.ci_low, score.ci_high),
            range(score.question_ci_low, score.question_ci_high),
            score.n_wins,
            score.n_ties,
            score.n_losses
        );
        if let Some(style) = &line.style {
            let interval = range(style.score.ci_low, style.score.ci_high);
            let _ = writeln!(
                text,
                "{:<width$}  {:>6.2}  {interval}",
                "  at equal style", style.score.score
            );
        }
        if let Some(position) = &line.position {
            let _ = writeln!(
                text,
                "  both orders agree on the winner in {} of {} questions, on the label in {} ({} excluded); \
                 the answer shown first wins {} of {} decided games (p = {:.2e})",
                position.agree_on_sign,
                position.questions,
                position.agree_on_label,
                position.excluded,
                position.won_by_first,
                position.decisive_games,
                position.p_value
            );
        }
    }
    text
}
