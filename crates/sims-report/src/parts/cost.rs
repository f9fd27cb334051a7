//! What every stage took, and what it warned of.

use super::spent::{Prices, Spent};
use crate::data_table::DataTable;
use crate::run::Run;

/// What one stage of one round took.
#[derive(Debug, Clone, PartialEq)]
pub struct StageCost {
    /// The round; 0 for a stage that runs once.
    pub round: u32,
    /// The node of the pipeline.
    pub node: String,
    /// The stage's own name.
    pub stage: String,
    /// What it took.
    pub spent: Spent,
    /// Peak resident memory. Unit: bytes.
    pub peak_memory: u64,
    /// The device that computed, as it was asked for.
    pub device: String,
}

/// What one stage warned of.
#[derive(Debug, Clone, PartialEq)]
pub struct Warning {
    /// The round; 0 for a stage that runs once.
    pub round: u32,
    /// The node of the pipeline.
    pub node: String,
    /// The warning.
    pub text: String,
}

/// Returns what every stage took, once and by round.
pub fn stages(run: &Run, prices: &Prices) -> Vec<StageCost> {
    run.summaries()
        .map(|(round, stage)| StageCost {
            round,
            node: stage.node.clone(),
            stage: stage.stage.clone(),
            spent: Spent::of(stage, prices),
            peak_memory: stage.peak_memory_bytes,
            device: stage.device.clone(),
        })
        .collect()
}

/// Returns the sum over the stages that `wanted` says.
pub fn total(stages: &[StageCost], wanted: impl Fn(&StageCost) -> bool) -> Spent {
    Spent::sum(
        stages
            .iter()
            .filter(|stage| wanted(stage))
            .map(|stage| &stage.spent),
    )
}

/// Returns the rounds that have costs, in order; 0 for what runs once.
pub fn rounds(stages: &[StageCost]) -> Vec<u32> {
    let mut rounds: Vec<u32> = stages.iter().map(|stage| stage.round).collect();
    rounds.sort_unstable();
    rounds.dedup();
    rounds
}

/// Returns the nodes that have costs, the one that took longest first.
pub fn nodes(stages: &[StageCost]) -> Vec<&str> {
    let mut nodes: Vec<&str> = Vec::new();
    for stage in stages {
        if !nodes.contains(&stage.node.as_str()) {
            nodes.push(&stage.node);
        }
    }
    let seconds = |node: &str| total(stages, |stage| stage.node == node).seconds;
    nodes.sort_by(|a, b| seconds(b).total_cmp(&seconds(a)));
    nodes
}

/// Returns what the stages warned of, and why one of them ended the loop.
pub fn warnings(run: &Run) -> Vec<Warning> {
    run.summaries()
        .flat_map(|(round, stage)| {
            let stop = stage
                .stop
                .iter()
                .map(|why| format!("the loop ends here: {why}"));
            let texts = stage.warnings.iter().cloned().chain(stop);
            texts.map(move |text| Warning {
                round,
                node: stage.node.clone(),
                text,
            })
        })
        .collect()
}

/// Returns the costs as a table.
pub fn table(stages: &[StageCost]) -> DataTable {
    DataTable::of("cost", stages)
        .count("round", |stage| stage.round)
        .text("node", |stage| stage.node.as_str())
        .text("stage", |stage| stage.stage.as_str())
        .number("seconds", |stage| stage.spent.seconds)
        .number("tokens_generated", |stage| stage.spent.generated)
        .number("tokens_read", |stage| stage.spent.read)
        .number("api_tokens", |stage| stage.spent.api_tokens)
        .number("estimated_flops", |stage| stage.spent.flops)
        .number("gpu_hours", |stage| stage.spent.gpu_hours)
        .number("core_hours", |stage| stage.spent.core_hours)
        .number("joules", |stage| stage.spent.joules)
        .number("money", |stage| stage.spent.money)
        .count("peak_memory_bytes", |stage| stage.peak_memory)
        .text("device", |stage| stage.device.as_str())
        .done()
}

pub(super) fn warnings_table(warnings: &[Warning]) -> DataTable {
    DataTable::of("warnings", warnings)
        .count("round", |warning| warning.round)
        .text("node", |warning| warning.node.as_str())
        .text("warning", |warning| warning.text.as_str())
        .done()
}
