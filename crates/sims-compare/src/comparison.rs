//! What the paired figures of two runs say.

use sims_stats::equivalence::{OneSidedTests, two_one_sided_tests};
use sims_stats::permutation::{holm, sign_flip_p_value};
use sims_stats::power::Design;
use sims_stats::{Bootstrap, Interval};

use crate::{CompareError, RunScores};

/// How runs are compared.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Half-width of what counts as no difference, in the metric's unit.
    pub margin: f64,
    /// The difference that a comparison should be able to see, in the metric's unit.
    pub detect: f64,
    /// Seed of the bootstrap and the permutations.
    pub seed: u64,
}

/// One run against the first.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Comparison {
    /// The first run.
    pub baseline: String,
    /// Its round.
    pub baseline_round: u32,
    /// The run that is compared.
    pub run: String,
    /// Its round.
    pub round: u32,
    /// The metric.
    pub metric: String,
    /// Prompts that both were measured on.
    pub prompts: usize,
    /// Prompts that only one was measured on, which are left out.
    pub unpaired: usize,
    /// Mean of the first run.
    pub baseline_mean: f64,
    /// Mean of the run.
    pub mean: f64,
    /// Run minus first run, with the 95 % interval of the paired bootstrap.
    pub difference: Interval,
    /// Two-sided p-value of the sign-flip test.
    pub p_value: f64,
    /// The same, corrected for all comparisons (Holm).
    pub p_value_holm: f64,
    /// Whether the difference is too small to matter, at 5 %.
    pub equivalence: OneSidedTests,
    /// Prompts that show `detect` at 5 % with 80 % power; null where the runs never differ.
    pub prompts_needed: Option<u64>,
}

/// Permutations of the sign-flip test.
const PERMUTATIONS: usize = 10_000;

/// Compares each further run with the first.
///
/// # Errors
/// Runs without a common prompt, fewer than two of them, or settings out of range.
pub fn compare(runs: &[RunScores], settings: Settings) -> Result<Vec<Comparison>, CompareError> {
    let Some((baseline, others)) = runs.split_first() else {
        return Ok(Vec::new());
    };
    let mut comparisons = others
        .iter()
        .map(|run| one(baseline, run, settings))
        .collect::<Result<Vec<_>, _>>()?;
    let p_values: Vec<f64> = comparisons.iter().map(|c| c.p_value).collect();
    for (comparison, corrected) in comparisons.iter_mut().zip(holm(&p_values)?) {
        comparison.p_value_holm = corrected;
    }
    Ok(comparisons)
}

fn one(
    baseline: &RunScores,
    run: &RunScores,
    settings: Settings,
) -> Result<Comparison, CompareError> {
    let (before, after): (Vec<f64>, Vec<f64>) = baseline
        .by_prompt
        .iter()
        .filter_map(|(id, &before)| Some((before, *run.by_prompt.get(id)?)))
        .unzip();
    if before.is_empty() {
        return Err(CompareError::NothingInCommon {
            first: baseline.run.clone(),
            second: run.run.clone(),
        });
    }
    let differences: Vec<f64> = after.iter().zip(&before).map(|(a, b)| a - b).collect();
    let difference = Bootstrap::seeded(settings.seed).mean(&differences)?;
    let p_value = sign_flip_p_value(&differences, PERMUTATIONS, settings.seed)?;
    let n = differences.len() as f64;
    let squares = differences
        .iter()
        .map(|d| (d - difference.estimate).powi(2));
    let sd = (squares.sum::<f64>() / (n - 1.0)).sqrt();
    let equivalence = two_one_sided_tests(&differences, settings.margin, 0.05)?;
    let prompts_needed = if sd > 0.0 {
        Some(Design::default().prompts_for_mean(settings.detect, sd)?)
    } else {
        None
    };
    let mean = |values: &[f64]| values.iter().sum::<f64>() / n;
    Ok(Comparison {
        baseline: baseline.run.clone(),
        baseline_round: baseline.round,
        run: run.run.clone(),
        round: run.round,
        metric: run.metric.clone(),
        prompts: differences.len(),
        unpaired: baseline.by_prompt.len() + run.by_prompt.len() - 2 * differences.len(),
        baseline_mean: mean(&before),
        mean: mean(&after),
        difference,
        p_value,
        p_value_holm: p_value,
        equivalence,
        prompts_needed,
    })
}
