//! `sims compare`: runs against the first, prompt by prompt.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use sims_compare::{Comparison, RunScores, Settings, WhichRound, compare};
use sims_stats::equivalence::Verdict;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EXAMPLES: &str = "\
Examples:
  sims compare runs/quickstart runs/operator-pca
  sims compare runs/quickstart runs/operator-pca runs/operator-probe --metric judged --margin 0.03
  sims compare runs/quickstart runs/operator-pca --metric length_tokens --margin 1 --detect 0.5
  sims compare runs/quickstart runs/random-pairs runs/bipo runs/best-of-10 --round last
  sims compare runs/a runs/b --round 1 --json | jq '.[].difference'";

/// Compare runs with the first one, prompt by prompt
///
/// Says how large the difference is, whether it could be chance, whether it is too small to matter, and how
/// many prompts it takes to see one.
#[derive(Debug, Parser)]
#[command(name = "sims compare", version, after_help = EXAMPLES)]
struct Arguments {
    /// Folders of runs; the first is what the others are compared with
    #[arg(required = true, num_args = 2.., value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// `gold` (gold_win), `judged` (self_judge_win), or any metric of a scores.parquet
    #[arg(long, default_value = "gold")]
    metric: String,
    /// The round of every run: each one's last accepted, its last (what was kept by then), or a number
    #[arg(long, value_name = "accepted|last|N", default_value = "accepted")]
    round: WhichRound,
    /// Differences within plus and minus this do not matter, in the metric's unit
    #[arg(long, default_value_t = 0.02)]
    margin: f64,
    /// Say how many prompts show a difference of this size
    #[arg(long, value_name = "DIFFERENCE", default_value_t = 0.03)]
    detect: f64,
    /// Seed of the bootstrap and the permutations
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print one JSON array with an object a comparison
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _nobody_listens = writeln!(io::stderr().lock(), "error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let runs = arguments
        .runs
        .iter()
        .map(|run| RunScores::read(run, arguments.round, &arguments.metric))
        .collect::<Result<Vec<_>, _>>()?;
    let settings = Settings {
        margin: arguments.margin,
        detect: arguments.detect,
        seed: arguments.seed,
    };
    let comparisons = compare(&runs, settings)?;
    let mut out = io::stdout().lock();
    let written = if arguments.json {
        writeln!(out, "{}", serde_json::to_string_pretty(&comparisons)?)
    } else if let [comparison] = &comparisons[..] {
        show(&mut out, comparison, settings)
    } else {
        show_all(&mut out, &comparisons, settings)
    };
    match written {
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => Ok(written?),
    }
}

/// One line a comparison, in Markdown.
fn show_all(out: &mut impl Write, all: &[Comparison], settings: Settings) -> io::Result<()> {
    let Some(first) = all.first() else {
        return Ok(());
    };
    writeln!(
        out,
        "{} against {} round {} ({:.3})\n",
        first.metric, first.baseline, first.baseline_round, first.baseline_mean
    )?;
    let within = format!("within ±{}", settings.margin);
    writeln!(
        out,
        "| run | round | mean | difference | p, Holm | {within} |"
    )?;
    writeln!(out, "|---|---|---|---|---|---|")?;
    for c in all {
        let d = c.difference;
        writeln!(
            out,
            "| {} | {} | {:.3} | {:+.3} [{:+.3}, {:+.3}] | {:.4} | {} |",
            c.run,
            c.round,
            c.mean,
            d.estimate,
            d.low,
            d.high,
            c.p_value_holm,
            verdict(c)
        )?;
    }
    Ok(())
}

/// Says whether the difference is too small to matter.
fn verdict(c: &Comparison) -> &'static str {
    match c.equivalence.outcome.verdict {
        Verdict::Equivalent => "yes",
        Verdict::Different => "no",
        Verdict::Undecided => "undecided",
    }
}

fn show(out: &mut impl Write, c: &Comparison, settings: Settings) -> io::Result<()> {
    writeln!(
        out,
        "{} round {} against {} round {}: {} on {} prompts",
        c.run, c.round, c.baseline, c.baseline_round, c.metric, c.prompts
    )?;
    if c.unpaired > 0 {
        writeln!(out, "  {} prompts of one run only are left out", c.unpaired)?;
    }
    let d = c.difference;
    writeln!(
        out,
        "  difference   {:+.4} [{:+.4}, {:+.4}]  ({:.4} against {:.4})",
        d.estimate, d.low, d.high, c.mean, c.baseline_mean
    )?;
    writeln!(
        out,
        "  by chance?   p = {:.4}, {:.4} after Holm's correction",
        c.p_value, c.p_value_holm
    )?;
    let tests = c.equivalence;
    let verdict = verdict(c);
    let interval = tests.outcome.difference;
    writeln!(
        out,
        "  within {:.4}? {verdict}: 90 % interval [{:+.4}, {:+.4}], p = {:.4}",
        settings.margin, interval.low, interval.high, tests.p_value
    )?;
    match c.prompts_needed {
        Some(n) => writeln!(
            out,
            "  {n} prompts show a difference of {} (5 %, power 80 %)",
            settings.detect
        ),
        None => writeln!(out, "  the difference is the same on every prompt"),
    }
}
