//! What every stage took, and what it warned of.

use crate::data_table::DataTable;
use crate::run::{Run, StageSummary};

/// What one stage of one round took.
#[derive(Debug, Clone, PartialEq)]
pub struct StageCost {
    /// The round; 0 for a stage that runs once.
    pub round: u32,
    /// The node of the pipeline.
    pub node: String,
    /// The stage's own name.
    pub stage: String,
    /// Wall-clock time of the run that computed it. Unit: seconds.
    pub seconds: f64,
    /// Tokens sampled.
    pub generated: f64,
    /// Tokens read: prompts, comparisons, teacher forcing, after shared beginnings.
    pub read: f64,
    /// Estimated work.
    pub flops: Option<f64>,
    /// Peak resident memory. Unit: bytes.
    pub peak_memory: u64,
    /// The device that computed.
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

impl StageCost {
    /// Returns all tokens that went through the model.
    pub fn tokens(&self) -> f64 {
        self.generated + self.read
    }

    fn of(round: u32, stage: &StageSummary) -> Self {
        let counts = |names: &[&str]| {
            let found = names.iter().filter_map(|name| stage.counts.get(*name));
            // The sum of nothing is minus zero otherwise.
            0.0 + found.sum::<f64>()
        };
        Self {
            round,
            node: stage.node.clone(),
            stage: stage.stage.clone(),
            seconds: stage.seconds,
            generated: counts(&["new_tokens"]),
            read: counts(&[
                "prompt_tokens_computed",
                "tokens_computed",
                "judge_tokens_computed",
            ]),
            flops: stage.counts.get("estimated_flops").copied(),
            peak_memory: stage.peak_memory_bytes,
            device: stage.device.clone(),
        }
    }
}

/// Returns what every stage took, once and by round.
pub fn stages(run: &Run) -> Vec<StageCost> {
    run.summaries()
        .map(|(round, stage)| StageCost::of(round, stage))
        .collect()
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
        .number("seconds", |stage| stage.seconds)
        .number("tokens_generated", |stage| stage.generated)
        .number("tokens_read", |stage| stage.read)
        .number("estimated_flops", |stage| stage.flops)
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
