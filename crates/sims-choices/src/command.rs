//! The same as a subcommand that prints what it found, for `sims score choices`.

use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Map, Value, json};
use sims_artifact::tables::ChoicesRow;
use sims_model::language_model::set_threads;

use crate::ChoicesParams;
use crate::evaluate::ChoiceScore;
use crate::metrics::{Estimate, Figures, Metric};
use crate::prompt::varying_texts;
use crate::session::{Evaluated, Session, Sources};

/// Score multiple choice by log-likelihood, as lm-evaluation-harness does
#[derive(Debug, Clone, Args)]
pub struct ChoicesArgs {
    /// Questions and their choices, as Parquet or JSON lines (docs/choices.md)
    #[arg(long, value_name = "FILE")]
    pub tasks: PathBuf,
    /// The model
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Steers the model; the base model is scored beside it
    #[arg(long, value_name = "FILE")]
    pub steering: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Also print every question's scores (as JSON)
    #[arg(long, requires = "json")]
    pub details: bool,
    /// Where to compute: auto, cpu, cuda or cuda:N,M
    #[arg(long, default_value = "auto")]
    pub device: String,
    /// Worker threads; 0 for every core
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// Sequences at once; 0 chooses
    #[arg(long, default_value_t = 0)]
    pub batch_size: usize,
    /// How questions are put.
    #[command(flatten)]
    pub params: ChoicesParams,
}

/// Scores the tasks and writes what was found to `out`, warnings to stderr.
///
/// # Errors
/// [`sims_stage::BadInput`] for files and settings that cannot be scored with; what the model or `out` returns.
pub fn run(args: &ChoicesArgs, out: &mut dyn Write) -> anyhow::Result<()> {
    if args.threads > 0 {
        set_threads(args.threads).ok(); // Fails only where threads run already; results do not depend on them.
    }
    let sources = Sources {
        tasks: &args.tasks,
        model: &args.model,
        steering: args.steering.as_deref(),
    };
    let session = Session::open(&args.params, &sources, &args.device, args.batch_size)?;
    let evaluated = session.evaluate(&mut |_| ControlFlow::Continue(()))?;
    for warning in &evaluated.warnings {
        // Nothing can be done when stderr is closed.
        let _ = writeln!(std::io::stderr().lock(), "warning: {warning}");
    }
    if args.json {
        let found = to_json(&session, &evaluated, args);
        writeln!(out, "{}", serde_json::to_string_pretty(&found)?)?;
    } else {
        write_table(&evaluated.figures, out)?;
    }
    Ok(())
}

/// Returns the figures by task and by group; with a steering, those of the base and the differences below them.
fn to_json(session: &Session<'_>, evaluated: &Evaluated, args: &ChoicesArgs) -> Value {
    let of = |is_group: bool| -> Map<String, Value> {
        let wanted = evaluated.figures.iter().filter(|f| f.is_group == is_group);
        wanted
            .map(|figures| (figures.name.clone(), figures_json(figures).into()))
            .collect()
    };
    let mut found = json!({ "tasks": of(false) });
    let groups = of(true);
    if !groups.is_empty() {
        found["groups"] = groups.into();
    }
    if let Some(policy) = &session.policy {
        found["policy"] = policy.as_str().into();
    }
    if args.details {
        found["details"] = details(session, evaluated, args.params.mutual_information).into();
    }
    found
}

fn figures_json(figures: &Figures) -> Map<String, Value> {
    let mut object = Map::new();
    let (mut base, mut difference, mut mcnemar) = (Map::new(), Map::new(), Map::new());
    object.insert("n".to_owned(), figures.n.into());
    for figure in &figures.figures {
        match &figure.steered {
            None => insert(&mut object, figure.metric, &figure.base),
            Some(steered) => {
                insert(&mut object, figure.metric, &steered.estimate);
                insert(&mut base, figure.metric, &figure.base);
                let interval = steered.difference;
                let value = json!({
                    "value": interval.estimate, "ci_low": interval.low, "ci_high": interval.high,
                });
                difference.insert(figure.metric.name().to_owned(), value);
                if let Some(only) = steered.discordance {
                    let value = json!({
                        "steered_only": only.first_only, "base_only": only.second_only,
                        "p_value": only.exact().p_value,
                    });
                    mcnemar.insert(figure.metric.name().to_owned(), value);
                }
            }
        }
    }
    if !base.is_empty() {
        object.insert("base".to_owned(), base.into());
        object.insert("difference".to_owned(), difference.into());
    }
    if !mcnemar.is_empty() {
        object.insert("mcnemar".to_owned(), mcnemar.into());
    }
    object
}

fn insert(object: &mut Map<String, Value>, metric: Metric, estimate: &Estimate) {
    object.insert(metric.name().to_owned(), estimate.value.into());
    object.insert(format!("{metric}_stderr"), estimate.stderr.into());
}

/// Returns one object a task, question and policy.
fn details(session: &Session<'_>, evaluated: &Evaluated, unconditional: bool) -> Vec<Value> {
    let mut all = Vec::new();
    for (task, scores) in session.tasks.iter().zip(&evaluated.scores) {
        let metrics = Metric::of(task, unconditional);
        let policies = session.policies(scores);
        for (index, question) in task.questions.iter().enumerate() {
            for (policy, scores) in &policies {
                let mut object = detail(question, &scores[index]);
                object.insert("policy".to_owned(), (*policy).into());
                for metric in &metrics {
                    let value = metric.of_question(question, &scores[index]);
                    object.insert(metric.name().to_owned(), value.into());
                }
                all.push(object.into());
            }
        }
    }
    all
}

fn detail(question: &ChoicesRow, scores: &[ChoiceScore]) -> Map<String, Value> {
    let choice = |(score, text): (&ChoiceScore, &String)| {
        let mut choice = json!({
            "loglikelihood": score.loglikelihood,
            "is_greedy": score.is_greedy,
            "tokens": score.tokens,
            "characters": text.chars().count(),
            "bytes": text.len(),
        });
        if let Some(unconditional) = score.unconditional {
            choice["unconditional"] = unconditional.into();
        }
        choice
    };
    let choices = scores.iter().zip(varying_texts(question)).map(choice);
    let mut object = Map::new();
    object.insert("task".to_owned(), question.task.as_str().into());
    object.insert("doc_id".to_owned(), question.doc_id.as_str().into());
    object.insert("gold".to_owned(), question.gold.into());
    object.insert("choices".to_owned(), choices.collect());
    object
}

/// Writes one line a task or group and metric.
fn write_table(all: &[Figures], out: &mut dyn Write) -> std::io::Result<()> {
    let width = all.iter().map(|figures| figures.name.chars().count()).max();
    let width = width.unwrap_or(0);
    for figures in all {
        for figure in &figures.figures {
            let (name, n) = (&figures.name, figures.n);
            let shown = figure
                .steered
                .map_or(figure.base, |steered| steered.estimate);
            let spread = shown
                .stderr
                .map_or(String::new(), |stderr| format!(" ± {stderr:.4}"));
            let metric = figure.metric.name();
            write!(
                out,
                "{name:<width$}  {metric:<15}  {:.4}{spread}  n {n}",
                shown.value
            )?;
            if let Some(steered) = figure.steered {
                let interval = steered.difference;
                write!(
                    out,
                    "  base {:.4}, difference {:+.4} [{:+.4}, {:+.4}]",
                    figure.base.value, interval.estimate, interval.low, interval.high
                )?;
                if let Some(only) = steered.discordance {
                    write!(
                        out,
                        ", right by one alone {} to {}, McNemar p {:.4}",
                        only.first_only,
                        only.second_only,
                        only.exact().p_value
                    )?;
                }
            }
            writeln!(out)?;
        }
    }
    Ok(())
}
