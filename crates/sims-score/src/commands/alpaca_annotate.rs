//! `sims score alpaca-annotate`: the judge's preferences over an OpenAI-compatible interface.

use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use sims_endpoint::{ApiKey, Endpoint, Pace, Patience, SettingNames};
use sims_score::ScoreError;
use sims_score::alpaca::annotate::{Annotator, Progress, kept_beside};
use sims_score::alpaca::outputs;
use sims_score::alpaca::template::Template;

use super::note;

/// How often progress is mentioned where there is no bar.
const MENTION_EVERY: Duration = Duration::from_secs(30);

/// Ask a judge for its preferences and write annotations.json
///
/// One request an instruction: one token, its five likeliest values with log-probabilities. The order of the two
/// outputs is the official one. Answers are kept beside the result, in a file that ends in .answers.jsonl: a run that
/// was stopped, or that a failure ended, asks only what is missing when it is run again.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Outputs of the model under test
    #[arg(long, value_name = "FILE")]
    outputs: PathBuf,
    /// Outputs of the baseline; the result has their order
    #[arg(long, value_name = "FILE")]
    baseline_outputs: PathBuf,
    /// The question: text with {instruction}, {output_1} (the output shown first, named m) and {output_2} (named M),
    /// messages marked as <|im_start|>system … <|im_end|>; official numbers need upstream's alpaca_eval_clf.txt
    #[arg(long, value_name = "FILE")]
    template: PathBuf,
    /// The address that /chat/completions is added to
    #[arg(long, value_name = "URL")]
    endpoint: String,
    /// The judge's name there
    #[arg(long, value_name = "NAME")]
    model: String,
    /// Where the annotations go
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Environment variable that holds the key; unset for servers that ask for none
    #[arg(long, value_name = "NAME", default_value = "OPENAI_API_KEY")]
    key_variable: String,
    /// Requests under way at a time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: u16,
    /// Most requests a minute; 0 for no limit
    #[arg(long, value_name = "N", default_value_t = 0)]
    requests_per_minute: u32,
    /// Times that a request is sent before the run gives up, with growing pauses
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    attempts: u32,
    /// Write a row without a preference where the judge names neither output, as the official program does
    #[arg(long)]
    allow_missing: bool,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let baseline = outputs::read(&arguments.baseline_outputs)?;
    let model = outputs::read(&arguments.outputs)?;
    let annotator = Annotator {
        endpoint: endpoint(arguments)?,
        model: arguments.model.clone(),
        template: Template::read(&arguments.template)?,
        concurrency: arguments.concurrency.into(),
        allow_missing: arguments.allow_missing,
    };
    let interrupted = stop_on_signals()?;
    let mut display = Display::default();
    let annotated = annotator.annotate(
        &baseline,
        &model,
        &kept_beside(&arguments.out),
        &mut |progress| {
            display.show(progress);
            if interrupted.load(Ordering::Relaxed) {
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        },
    );
    // What was paid is said however the run ended.
    display.end();
    let annotated = annotated?;
    if annotated.rows.is_empty() {
        let message = format!(
            "no instruction is one of those of {}; the texts have to be equal",
            arguments.baseline_outputs.display()
        );
        return Err(ScoreError::file(&arguments.outputs, message).into());
    }
    if annotated.unanswered > 0 {
        note(&format!(
            "{}: {} of the baseline's {} instructions have no output",
            arguments.outputs.display(),
            annotated.unanswered,
            baseline.len()
        ));
    }
    let missing = annotated.rows.iter().filter(|row| row.preference.is_none());
    match missing.count() {
        0 => {}
        missing => note(&format!("{missing} rows have no preference")),
    }
    outputs::write(&arguments.out, &annotated.rows)?;
    Ok(())
}

fn endpoint(arguments: &Arguments) -> anyhow::Result<Endpoint> {
    let key = std::env::var(&arguments.key_variable).ok();
    let names = SettingNames {
        key: arguments.key_variable.clone(),
        address: "--endpoint",
        model: "--model",
    };
    Ok(Endpoint::new(
        &arguments.endpoint,
        key.filter(|key| !key.trim().is_empty()).map(ApiKey::new),
        Patience {
            attempts: arguments.attempts,
            ..Patience::default()
        },
        Pace::new(arguments.requests_per_minute),
        names,
    )?)
}

/// Returns a flag that Ctrl-C sets; a second Ctrl-C ends the program without waiting for answers under way.
fn stop_on_signals() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let raised = flag.clone();
    ctrlc::set_handler(move || {
        if raised.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
    })
    .context("cannot handle Ctrl-C")?;
    Ok(flag)
}

/// Shows how far a run is: a bar on a terminal, a line now and then elsewhere.
#[derive(Default)]
struct Display {
    bar: Option<ProgressBar>,
    last_mention: Option<Instant>,
    progress: Progress,
}

impl Display {
    fn show(&mut self, progress: Progress) {
        self.progress = progress;
        let Progress {
            missing, answered, ..
        } = progress;
        if std::io::stderr().is_terminal() {
            let bar = self.bar.get_or_insert_with(|| bar(missing));
            bar.set_position(answered as u64);
            return;
        }
        let last = self.last_mention.get_or_insert_with(Instant::now);
        if last.elapsed() >= MENTION_EVERY {
            *last = Instant::now();
            note(&format!("{answered} of {missing} answers"));
        }
    }

    /// Removes the bar and says what the answers took.
    fn end(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let Progress {
            answered,
            kept,
            tokens,
            ..
        } = self.progress;
        if answered > 0 || kept > 0 {
            note(&format!(
                "{answered} answers took {} tokens of prompts and {} of answers; {kept} were kept from before",
                tokens.prompt, tokens.completion
            ));
        }
    }
}

fn bar(total: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("annotate {wide_bar} {pos}/{len} [{elapsed} < {eta}]")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(total as u64).with_style(style)
}
