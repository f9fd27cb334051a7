//! The tables that leave the stage: `choices-scores` and `metrics`.

use sims_artifact::tables::{ChoiceScoreRow, MetricRow};
use sims_stats::normal_quantile;

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
/// changes as `TASK/METRIC_difference`.
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
            rows.push(MetricRow {
                metric: format!("{}_difference", name("")),
                value: steered.difference.estimate,
                ci_low: Some(steered.difference.low),
                ci_high: Some(steered.difference.high),
                n: figures.n as u64,
                method: PAIRED.to_owned(),
                baseline: "base".to_owned(),
            });
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
