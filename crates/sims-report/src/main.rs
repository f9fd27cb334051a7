//! `sims report`: the metrics of a run, round by round.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use sims_artifact::atomic_file::write_atomically;
use sims_pipeline::pipeline::{AbsentFiles, Pipeline, axis_and_choice, workspace_of};
use sims_report::metrics::Figure;
use sims_report::parts::spent::Prices;
use sims_report::parts::{Parts, cost, gain};
use sims_report::run::Run;
use sims_report::{
    ReportError, chart, cost_table, curve, gate, html, markdown, metrics, run_folder, seeds, table,
};

/// Show the metrics of a run, round by round
#[derive(Parser)]
#[command(
    name = "sims report",
    version,
    after_help = "Examples:\n  sims report pipelines/quickstart.yaml\n  sims report pipelines/quickstart.yaml --metric win_rate\n  sims report pipelines/*.yaml --metric gold_win_rate\n  sims report pipelines/sweeps/curve.yaml --curve --svg curve.svg\n  sims report runs/quickstart --json | jq '.[] | select(.round == 3)'\n  sims report pipelines/quickstart.yaml --html report.html --tables report-tables\n  sims report pipelines/quickstart.yaml pipelines/ablations/lora-dpo.yaml --cost --price-per-core-hour 0.05\n  sims report pipelines/quickstart.yaml --markdown - >> \"$GITHUB_STEP_SUMMARY\"\n  sims report pipelines/quickstart.yaml --metric gold_win_rate --against baseline.json"
)]
struct Arguments {
    /// Pipeline files, or folders of runs
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// Keep the metric of this name, or else those whose name contains it; one metric of several
    /// runs becomes one table
    #[arg(long)]
    metric: Option<String>,
    /// Hold that metric of one run against those that `--json` wrote into FILE, round by round; one that fell below
    /// its recorded interval ends the command with 1
    #[arg(long, value_name = "FILE", requires = "metric")]
    against: Option<PathBuf>,
    /// Show what a search over layers and strengths tried, instead of the metrics
    #[arg(long, conflicts_with_all = ["metric", "against"])]
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
    /// Write the whole report of one run as an HTML file that needs nothing else
    #[arg(long, value_name = "FILE", conflicts_with_all = ["metric", "curve", "json", "against"])]
    html: Option<PathBuf>,
    /// Write the report of one run in short as Markdown; `-` is standard output
    #[arg(long, value_name = "FILE", conflicts_with_all = ["metric", "curve", "json", "against"])]
    markdown: Option<PathBuf>,
    /// Write every table of the report of one run into this folder as Parquet
    #[arg(long, value_name = "DIR", conflicts_with_all = ["metric", "curve", "json", "against"])]
    tables: Option<PathBuf>,
    /// Show what the runs took by node and round, and what each point of gain over the base model cost
    #[arg(long, conflicts_with_all = ["curve", "html", "markdown", "tables", "against"])]
    cost: bool,
    /// What an hour of one GPU costs; without prices no money is shown
    #[arg(long, value_name = "PRICE", value_parser = price)]
    price_per_gpu_hour: Option<f64>,
    /// What an hour of one CPU core costs
    #[arg(long, value_name = "PRICE", value_parser = price)]
    price_per_core_hour: Option<f64>,
    /// What a million tokens, read or written, of an HTTP judge cost
    #[arg(long, value_name = "PRICE", value_parser = price)]
    price_per_million_tokens: Option<f64>,
    /// Written before amounts, such as $ or EUR
    #[arg(long, value_name = "TEXT", default_value = "")]
    currency: String,
    /// Answers that the cost of a gain is counted with; each costs best of K its further samples
    #[arg(long, value_name = "N", default_value_t = 1000)]
    answers: u32,
    /// The seed that the pipelines were run with, when not their own
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Of a pipeline that varies, only the runs with this choice: AXIS=CHOICE, or seed=N
    #[arg(long, value_name = "AXIS=CHOICE", value_parser = axis_and_choice)]
    only: Vec<(String, String)>,
    /// The folder that holds the runs; by default `runs` beside the pipeline's workspace
    #[arg(long = "runs", value_name = "DIR")]
    folder: Option<PathBuf>,
    /// Accepted like everywhere else; reports read the published views, not the store
    #[arg(long, value_name = "DIR", hide = true)]
    store: Option<PathBuf>,
}

impl Arguments {
    fn prices(&self) -> Prices {
        Prices {
            gpu_hour: self.price_per_gpu_hour,
            core_hour: self.price_per_core_hour,
            million_tokens: self.price_per_million_tokens,
            currency: self.currency.clone(),
        }
    }
}

/// Reads a price.
fn price(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(price) if f64::is_finite(price) && price >= 0.0 => Ok(price),
        _ => Err("give a number that is not negative, such as 2.50".to_owned()),
    }
}

fn main() -> ExitCode {
    match report(&Arguments::parse()) {
        Ok(passed) => ExitCode::from(u8::from(!passed)),
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
        for Named { title, folder, .. } in locate(target, arguments)? {
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

/// Writes the page, the Markdown and the tables of one run.
fn write_files(arguments: &Arguments) -> anyhow::Result<()> {
    let (target, found) = one_run(arguments, "--html, --markdown and --tables are")?;
    let run = Run::load(
        found.title,
        &found.folder,
        target,
        found.pipeline,
        arguments.seed,
    )?;
    let parts = Parts::of(&run, arguments.prices(), arguments.answers)?;
    if let Some(path) = &arguments.html {
        write_atomically(path, html::render(&run, &parts)?.as_bytes())?;
    }
    if let Some(folder) = &arguments.tables {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        for table in parts.tables(&run) {
            table.write(folder)?;
        }
    }
    match &arguments.markdown {
        None => {}
        Some(path) if path.as_os_str() == "-" => {
            write!(
                std::io::stdout().lock(),
                "{}",
                markdown::render(&run, &parts)
            )?;
        }
        Some(path) => write_atomically(path, markdown::render(&run, &parts).as_bytes())?,
    }
    Ok(())
}

/// Shows what each run took, and what the gains of all of them cost.
fn show_costs(arguments: &Arguments) -> anyhow::Result<()> {
    let prices = arguments.prices();
    let (mut tables, mut gains) = (Vec::new(), Vec::new());
    for target in &arguments.runs {
        for found in locate(target, arguments)? {
            let run = Run::load(
                found.title,
                &found.folder,
                target,
                found.pipeline,
                arguments.seed,
            )?;
            let metric = arguments.metric.as_deref();
            let metric = metric.unwrap_or_else(|| gain::metric_of(&run));
            gains.extend(gain::gains(&run, metric, arguments.answers, &prices));
            tables.push((run.name.clone(), cost::stages(&run, &prices)));
        }
    }
    let mut out = std::io::stdout().lock();
    if arguments.json {
        let costs = tables.iter().flat_map(|(name, stages)| {
            let rows = cost::table(stages).objects();
            rows.into_iter().map(move |mut row| {
                row["run"] = name.as_str().into();
                row
            })
        });
        let all = serde_json::json!({
            "cost": costs.collect::<Vec<_>>(),
            "gain": gain::table(&gains).objects(),
        });
        writeln!(out, "{}", serde_json::to_string_pretty(&all)?)?;
        return Ok(());
    }
    for (name, stages) in &tables {
        writeln!(out, "{}", cost_table::render(name, stages, &prices))?;
    }
    write!(
        out,
        "{}",
        cost_table::render_gains(&gains, arguments.answers, &prices)
    )?;
    Ok(())
}

/// Does what was asked for; `false` when a figure fell.
fn report(arguments: &Arguments) -> anyhow::Result<bool> {
    if let (Some(recorded), Some(metric)) = (&arguments.against, &arguments.metric) {
        return hold_against(arguments, recorded, metric);
    }
    if arguments.cost {
        show_costs(arguments)?;
    } else if arguments.curve {
        show_curves(arguments)?;
    } else if arguments.html.is_some() || arguments.markdown.is_some() || arguments.tables.is_some()
    {
        write_files(arguments)?;
    } else {
        show_metrics(arguments)?;
    }
    Ok(true)
}

/// Holds one run against recorded figures; `false` when one fell below its interval.
fn hold_against(arguments: &Arguments, recorded: &Path, metric: &str) -> anyhow::Result<bool> {
    let (target, run) = one_run(arguments, "--against is")?;
    let files = run_folder::metrics_files(&run.folder, &target.display().to_string())?;
    let figures = metrics::figures(&metrics::query(&files, None)?)?;
    let checks = gate::checks(&figures, recorded, metric)?;
    let mut out = std::io::stdout().lock();
    if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&checks)?)?;
    }
    for check in &checks {
        let line = check.in_words();
        if !check.passed {
            writeln!(std::io::stderr(), "error: {line} in {}", recorded.display())?;
        } else if !arguments.json {
            writeln!(out, "{line}")?;
        }
    }
    Ok(checks.iter().all(|check| check.passed))
}

/// Returns the run that the command is about, with the argument that named it.
fn one_run<'a>(arguments: &'a Arguments, what: &str) -> anyhow::Result<(&'a Path, Named)> {
    let mut named = Vec::new();
    for target in &arguments.runs {
        let found = locate(target, arguments)?;
        named.extend(found.into_iter().map(|found| (target.as_path(), found)));
    }
    let count = named.len();
    match (named.pop(), count) {
        (Some(one), 1) => Ok(one),
        _ => anyhow::bail!(
            "{what} about one run, but {count} are named; name the folder of one of them"
        ),
    }
}

/// Shows the metrics, round by round.
fn show_metrics(arguments: &Arguments) -> anyhow::Result<()> {
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
                    writeln!(std::io::stderr(), "{}: no finished round yet", run.title)?;
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
fn with_means(runs: Vec<(&Named, Vec<Figure>)>) -> anyhow::Result<Vec<(String, Vec<Figure>)>> {
    let mut all = Vec::new();
    for family in runs.chunk_by(|(run, _), (next, _)| run.family() == next.family()) {
        all.extend(
            family
                .iter()
                .map(|(run, figures)| (run.title.clone(), figures.clone())),
        );
        if let [(first, _), _, ..] = family {
            let figures: Vec<_> = family
                .iter()
                .map(|(_, figures)| figures.as_slice())
                .collect();
            let title = format!("{}, mean of {} seeds", first.family(), family.len());
            all.push((title, seeds::mean_over_seeds(&figures)?));
        }
    }
    Ok(all)
}

impl Named {
    /// Returns the name without the seed.
    fn family(&self) -> &str {
        self.pipeline
            .as_ref()
            .map_or(&self.title, |pipeline| &pipeline.family)
    }
}

/// A run that the user named.
struct Named {
    title: String,
    folder: PathBuf,
    /// The pipeline; none where its folder was named.
    pipeline: Option<Pipeline>,
}

/// Returns runs: one by its folder, or all that a pipeline file stands for.
fn locate(target: &Path, arguments: &Arguments) -> anyhow::Result<Vec<Named>> {
    if target.is_dir() {
        let name = target.file_name().unwrap_or(target.as_os_str());
        return Ok(vec![Named {
            title: name.to_string_lossy().into_owned(),
            folder: target.to_owned(),
            pipeline: None,
        }]);
    }
    let current = std::env::current_dir().context("cannot find the current folder")?;
    let mut pipelines = Pipeline::load(target, arguments.seed, &current, AbsentFiles::Refuse)?;
    pipelines.retain(|pipeline| pipeline.has(&arguments.only));
    anyhow::ensure!(
        !pipelines.is_empty(),
        "no run of {} has what --only asks for",
        target.display()
    );
    let runs = arguments
        .folder
        .clone()
        .unwrap_or_else(|| workspace_of(target).join("runs"));
    let named = pipelines.into_iter().map(|pipeline| Named {
        title: pipeline.name.clone(),
        folder: runs.join(&pipeline.name),
        pipeline: Some(pipeline),
    });
    Ok(named.collect())
}
