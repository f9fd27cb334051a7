//! `sims report`: the metrics of a run, round by round.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use sims_pipeline::pipeline::{Pipeline, workspace_of};
use sims_report::metrics::Figure;
use sims_report::{ReportError, chart, curve, metrics, run_folder, seeds, table};

/// Show the metrics of a run, round by round
#[derive(Parser)]
#[command(
    name = "sims report",
    version,
    after_help = "Examples:\n  sims report pipelines/quickstart.yaml\n  sims report pipelines/quickstart.yaml --metric win_rate\n  sims report pipelines/*.yaml --metric gold_win_rate\n  sims report pipelines/sweeps/curve.yaml --curve --svg curve.svg\n  sims report runs/quickstart --json | jq '.[] | select(.round == 3)'"
)]
struct Arguments {
    /// Pipeline files, or folders of runs
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// Keep the metric of this name, or else those whose name contains it; one metric of several
    /// runs becomes one table
    #[arg(long)]
    metric: Option<String>,
    /// Show what a search over layers and strengths tried, instead of the metrics
    #[arg(long, conflicts_with = "metric")]
    curve: bool,
    /// Draw that curve into this SVG file
    #[arg(long, value_name = "FILE", requires = "curve")]
    svg: Option<PathBuf>,
    /// The round of the curve
    #[arg(long, value_name = "N", default_value_t = 1, requires = "curve")]
    round: u32,
    /// Print one JSON array, with an object a round and metric
    #[arg(long)]
    json: bool,
    /// The seed that the pipelines were run with, when not their own
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// The folder that holds the runs; by default `runs` beside the pipeline's workspace
    #[arg(long = "runs", value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Accepted like everywhere else; reports read the published views, not the store
    #[arg(long, value_name = "DIR", hide = true)]
    store: Option<PathBuf>,
}

fn main() -> ExitCode {
    match report(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads the report, `head` say, has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr().lock(), "error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Shows and draws the search of one round of each run.
fn show_curves(arguments: &Arguments) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let round = arguments.round;
    let mut objects = Vec::new();
    for target in &arguments.runs {
        for Run {
            name: title,
            folder,
            ..
        } in locate(target, arguments)?
        {
            let decision = folder.join(format!("round-{round}/decision.parquet"));
            if !decision.is_file() {
                anyhow::bail!(
                    "{} is not there: run the pipeline as far as steer-eval of round {round} first",
                    decision.display()
                );
            }
            let points = curve::points(&decision)?;
            if let Some(svg) = &arguments.svg {
                chart::write(&points, &format!("{title}, round {round}"), svg)?;
            }
            if arguments.json {
                for point in &points {
                    let mut object = serde_json::to_value(point)?;
                    object["run"] = title.as_str().into();
                    objects.push(object);
                }
            } else {
                writeln!(out, "{title}, round {round}\n{}", curve::render(&points))?;
            }
        }
    }
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&objects)?)?;
    }
    Ok(())
}

fn report(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.curve {
        return show_curves(arguments);
    }
    let mut out = std::io::stdout().lock();
    let mut all = Vec::new();
    for target in &arguments.runs {
        let mut found = Vec::new();
        let runs = locate(target, arguments)?;
        for run in &runs {
            let files = match run_folder::metrics_files(&run.folder, &target.display().to_string())
            {
                // Of many runs some may not have begun.
                Err(ReportError::NothingFinished { .. }) if runs.len() > 1 => {
                    writeln!(std::io::stderr(), "{}: no finished round yet", run.name)?;
                    continue;
                }
                files => files?,
            };
            let frame = metrics::query(&files, arguments.metric.as_deref())?;
            found.push((run, metrics::figures(&frame)?));
        }
        all.extend(with_means(found)?);
    }
    if arguments.json {
        let several = all.len() > 1;
        let mut objects = Vec::new();
        for (title, figures) in &all {
            for figure in figures {
                let mut object = serde_json::to_value(figure)?;
                if several {
                    object["run"] = title.as_str().into();
                }
                objects.push(object);
            }
        }
        writeln!(out, "{}", serde_json::to_string_pretty(&objects)?)?;
    } else if let (Some(metric), true) = (&arguments.metric, all.len() > 1) {
        write!(out, "{}", table::render_comparison(metric, &all))?;
    } else {
        for (title, figures) in &all {
            writeln!(out, "{}", table::render(title, figures))?;
        }
    }
    Ok(())
}

/// Puts the mean over its seeds behind the runs of each pipeline.
fn with_means(runs: Vec<(&Run, Vec<Figure>)>) -> anyhow::Result<Vec<(String, Vec<Figure>)>> {
    let mut all = Vec::new();
    for family in runs.chunk_by(|(run, _), (next, _)| run.family == next.family) {
        all.extend(
            family
                .iter()
                .map(|(run, figures)| (run.name.clone(), figures.clone())),
        );
        if let [(first, _), _, ..] = family {
            let figures: Vec<_> = family
                .iter()
                .map(|(_, figures)| figures.as_slice())
                .collect();
            let title = format!("{}, mean of {} seeds", first.family, family.len());
            all.push((title, seeds::mean_over_seeds(&figures)?));
        }
    }
    Ok(all)
}

/// A run to report on.
struct Run {
    name: String,
    /// The name without the seed.
    family: String,
    folder: PathBuf,
}

/// Returns the run in a folder, or all that a pipeline file stands for.
fn locate(target: &Path, arguments: &Arguments) -> anyhow::Result<Vec<Run>> {
    if target.is_dir() {
        let name = target.file_name().unwrap_or(target.as_os_str());
        let name = name.to_string_lossy().into_owned();
        return Ok(vec![Run {
            family: name.clone(),
            name,
            folder: target.to_owned(),
        }]);
    }
    let current = std::env::current_dir().context("cannot find the current folder")?;
    let pipelines = Pipeline::load(target, arguments.seed, &current)?;
    let runs = arguments
        .folder
        .clone()
        .unwrap_or_else(|| workspace_of(target).join("runs"));
    let located = pipelines.into_iter().map(|pipeline| Run {
        folder: runs.join(&pipeline.name),
        name: pipeline.name,
        family: pipeline.family,
    });
    Ok(located.collect())
}
