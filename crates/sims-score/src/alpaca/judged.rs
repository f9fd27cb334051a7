//! AlpacaEval with a judge of this project: outputs as tables that `sims-judge` reads, and its judgments as annotations.
//!
//! Such a judge is shown both orders, and the preference is the mean of its log-odds; the official annotator is shown
//! one. The numbers are comparable with each other, not with the official ones.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use serde_json::Value;
use sims_artifact::read_table;
use sims_artifact::tables::{JudgmentRow, Message, PromptRow, ResponseRow, response_id};

use super::annotate::{DRAW, OfficialAnnotation};
use super::outputs::{ModelOutput, paired};
use crate::ScoreError;

/// The name that the tables give the judge's instructions as a set.
const SPLIT: &str = "eval";

/// Outputs as tables: one prompt an instruction, and two responses to each.
#[derive(Debug, Clone, PartialEq)]
pub struct Tables {
    /// The prompts, in the order of the baseline's outputs.
    pub prompts: Vec<PromptRow>,
    /// The baseline's response with sample index 0, then the model's with 1.
    pub responses: Vec<ResponseRow>,
}

/// Makes tables of the instructions that both answered.
///
/// # Errors
/// The instruction that comes twice: judgments name prompts, so that one of a kind can be told apart.
pub fn tables(baseline: &[ModelOutput], model: &[ModelOutput]) -> Result<Tables, String> {
    let mut tables = Tables {
        prompts: Vec::new(),
        responses: Vec::new(),
    };
    let mut seen = HashSet::new();
    for (baseline, model) in paired(baseline, model) {
        let prompt = prompt_of(baseline);
        if !seen.insert(prompt.prompt_id.clone()) {
            return Err(format!(
                "the instruction `{}` comes twice; judges of this project need each once",
                baseline.instruction
            ));
        }
        let id = prompt.prompt_id.clone();
        tables.prompts.push(prompt);
        for (sample_index, output) in [(0, baseline), (1, model)] {
            tables
                .responses
                .push(response_of(&id, sample_index, output));
        }
    }
    Ok(tables)
}

fn prompt_of(output: &ModelOutput) -> PromptRow {
    let messages = vec![Message::user(&output.instruction)];
    PromptRow::new(messages, SPLIT, &output.dataset)
}

fn response_of(prompt_id: &str, sample_index: u32, output: &ModelOutput) -> ResponseRow {
    // Nobody here sampled the text: its bytes stand for its tokens, so that another text has another id.
    let bytes: Vec<u32> = output.output.bytes().map(u32::from).collect();
    ResponseRow {
        prompt_id: prompt_id.to_owned(),
        response_id: response_id(prompt_id, &output.generator, sample_index, &bytes),
        round: 0,
        sample_index,
        policy: output.generator.clone(),
        text: output.output.clone(),
        token_ids: bytes,
        prompt_tokens: 0,
        finish_reason: "stop".to_owned(),
        logprob_sum: 0.0,
        seed: 0,
    }
}

/// Makes annotations of the judgments in a `judgments@1` table, in the order of the baseline's outputs.
///
/// The preference is `1 + σ(m)`, `m` the mean over both orders of the log-odds that the model's output is the better one;
/// equal outputs are a draw. A pair of which an order is invalid has no preference, if `allow_missing`.
///
/// # Errors
/// A table that cannot be read, a pair that it does not have or has twice, and without `allow_missing` one without a valid
/// verdict; each with the instruction.
pub fn annotations(
    judgments: &Path,
    baseline: &[ModelOutput],
    model: &[ModelOutput],
    allow_missing: bool,
) -> Result<Vec<OfficialAnnotation>, ScoreError> {
    let rows: Vec<JudgmentRow> = read_table(judgments)?;
    let fault = |instruction: &str, message: &str| {
        let start: String = instruction.chars().take(60).collect();
        ScoreError::file(judgments, format!("`{start}`: {message}"))
    };
    let mut by_pair: HashMap<(&str, &str), Vec<&JudgmentRow>> = HashMap::new();
    for row in &rows {
        let pair = (row.response_a.as_str(), row.response_b.as_str());
        by_pair.entry(pair).or_default().push(row);
    }
    let mut annotations = Vec::new();
    for (baseline, model) in paired(baseline, model) {
        let id = prompt_of(baseline).prompt_id;
        let [a, b] = [(0, baseline), (1, model)]
            .map(|(sample_index, output)| response_of(&id, sample_index, output).response_id);
        let orders = by_pair.get(&(a.as_str(), b.as_str()));
        let orders = orders.map_or(&[][..], Vec::as_slice);
        let preference = match orders {
            _ if baseline.output == model.output => Some(DRAW),
            [] => {
                let message = "the table has no judgment of these outputs; judge the tables that alpaca-tables made of \
                               them";
                return Err(fault(&baseline.instruction, message));
            }
            [one, other] if one.order != other.order => match is_valid(one) && is_valid(other) {
                true => Some(1.0 + 1.0 / (1.0 + ((one.raw + other.raw) / 2.0).exp())),
                false => None,
            },
            _ => {
                let message = "the table does not have exactly one judgment of each order";
                return Err(fault(&baseline.instruction, message));
            }
        };
        if preference.is_none() && !allow_missing {
            let message = "the judge gave no valid verdict; --allow-missing writes such rows without a preference";
            return Err(fault(&baseline.instruction, message));
        }
        let annotator = orders
            .first()
            .map_or_else(String::new, |row| row.judge.clone());
        let outputs = (baseline, model);
        annotations.push(OfficialAnnotation::new(
            outputs,
            annotator,
            preference,
            Value::Null,
        ));
    }
    Ok(annotations)
}

fn is_valid(row: &JudgmentRow) -> bool {
    row.verdict != "invalid"
}
