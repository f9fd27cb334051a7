//! The tables that leave the stage: `choices-scores` and `metrics`.

use sims_artifact::tables::{ChoiceScoreRow, MetricRow};
use sims_stats::{Interval, normal_quantile};

use crate::evaluate::TaskScores;
use crate::metrics::{Estimate, Figures};
use crate::prompt::varying_texts;
use crate::session::Session;

/// How means and their intervals were computed.
const NORMAL: &str = "mean, normal interval";
/// How a group's were.
const POOLED: &str = "mean over questions, normal interval of the pooled standard error";
/// How a task's standard error was computed.
const STDERR: &str = "sample standard deviation over the root of n";
/// How a group's was.
const POOLED_STDERR: &str = "pooled over tasks";
/// How a difference was computed: over questions, both policies' scores of one kept together.
const PAIRED: &str = "paired-bootstrap";
/// How the chance of a difference was computed where questions are right or wrong.
const MCNEMAR: &str = "mcnemar-exact";
/// How counts were.
const COUNT: &str = "count";

/// Returns one row a task, question, policy and choice.
pub(crate) fn score_rows(session: &Session<'_>, scores: &[TaskScores]) -> Vec<ChoiceScoreRow> {
    let mut rows = Vec::new();
    for (task, scores) in session.tasks.iter().zip(scores) {
        let policies = session.policies(scores);
        for (index, question) in task.questions.iter().enumerate() {
            for (policy, scores) in &policies {
                for (choice, score) in scores[index].iter().enumerate() {
                    let text = &varying_texts(question)[choice];
                    rows.push(ChoiceScoreRow {
                        task: task.name.clone(),
                        doc_id: question.doc_id.clone(),
                        choice: choice as u32,
                        policy: (*policy).to_owned(),
                        loglikelihood: score.loglikelihood,
                        is_greedy: score.is_greedy,
                        characters: text.chars().count() as u32,
                        bytes: text.len() as u32,
                        tokens: score.tokens as u32,
                        cut_tokens: score.cut as u32,
                        unconditional: score.unconditional,
                    });
                }
            }
        }
    }
    rows
}

/// Returns the figures of tasks and groups, named `TASK/METRIC`.
///
/// With a steering they are the steered model's; the base model's follow as `TASK/base_METRIC`, and what the steering
/// changes as `TASK/METRIC_difference`. Where a question is right or wrong, the questions that only one of the models gets
/// right follow as `TASK/METRIC_steered_only` and `TASK/METRIC_base_only`, McNemar's p-value as `TASK/METRIC_mcnemar_p`.
pub(crate) fn metric_rows(all: &[Figures]) -> Vec<MetricRow> {
    let mut rows = Vec::new();
    for figures in all {
        for figure in &figures.figures {
            let metric = figure.metric;
            let name = |prefix: &str| format!("{}/{prefix}{metric}", figures.name);
            let Some(steered) = &figure.steered else {
                rows.extend(estimate_rows(&name(""), &figure.base, figures.is_group));
                continue;
            };
            rows.extend(estimate_rows(
                &name(""),
                &steered.estimate,
                figures.is_group,
            ));
            rows.extend(estimate_rows(
                &name("base_"),
                &figure.base,
                figures.is_group,
            ));
            let Interval {
                estimate,
                low,
                high,
            } = steered.difference;
            let against_base =
                |suffix: &str, value, interval: Option<(f64, f64)>, method: &str| MetricRow {
                    metric: format!("{}_{suffix}", name("")),
                    value,
                    ci_low: interval.map(|(low, _)| low),
                    ci_high: interval.map(|(_, high)| high),
                    n: figures.n as u64,
                    method: method.to_owned(),
                    baseline: "base".to_owned(),
                };
            rows.push(against_base(
                "difference",
                estimate,
                Some((low, high)),
                PAIRED,
            ));
            if let Some(only) = &steered.discordance {
                let counts = [
                    ("steered_only", only.first_only),
                    ("base_only", only.second_only),
                ];
                rows.extend(
                    counts.map(|(name, count)| against_base(name, count as f64, None, COUNT)),
                );
                rows.push(against_base(
                    "mcnemar_p",
                    only.exact().p_value,
                    None,
                    MCNEMAR,
                ));
            }
        }
    }
    rows
}

/// Returns a mean with its interval, and its standard error where it has one.
fn estimate_rows(name: &str, estimate: &Estimate, is_group: bool) -> Vec<MetricRow> {
    let width = estimate
        .stderr
        .map(|stderr| normal_quantile(0.975) * stderr);
    let row = |metric: String, value: f64, width: Option<f64>, method: &str| MetricRow {
        metric,
        value,
        ci_low: width.map(|width| value - width),
        ci_high: width.map(|width| value + width),
        n: estimate.n as u64,
        method: method.to_owned(),
        baseline: String::new(),
    };
    let (mean, spread) = if is_group {
        (POOLED, POOLED_STDERR)
    } else {
        (NORMAL, STDERR)
    };
    let mut rows = vec![row(name.to_owned(), estimate.value, width, mean)];
    if let Some(stderr) = estimate.stderr {
        rows.push(row(format!("{name}_stderr"), stderr, None, spread));
    }
    rows
}
