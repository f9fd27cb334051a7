//! A model's answers in the official form.

use std::collections::{HashMap, VecDeque};
use std::path::Path;

use serde::Serialize;
use sims_artifact::atomic_file::write_atomically;
use sims_artifact::tables::{PromptRow, ResponseRow};
use sims_artifact::{ArtifactError, read_prompts, read_table};

use crate::ScoreError;
use crate::records::Records;

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelOutput {
    /// What was asked.
    pub instruction: String,
    /// What was answered.
    pub output: String,
    /// Who answered.
    pub generator: String,
    /// Where the instruction comes from.
    pub dataset: String,
}

/// Makes the outputs from prompts and the responses with sample index 0, in the order of the prompts.
///
/// The instruction is the last message by the user, the data set the prompt's source.
///
/// # Errors
/// A table that cannot be read, a prompt without a message by the user, without a response or with two.
pub fn from_responses(
    prompts_path: &Path,
    responses_path: &Path,
    generator: &str,
) -> Result<Vec<ModelOutput>, ScoreError> {
    let prompts = read_prompts(prompts_path)?;
    let responses: Vec<ResponseRow> = read_table(responses_path)?;
    let mut texts: HashMap<&str, &str> = HashMap::new();
    for response in responses
        .iter()
        .filter(|response| response.sample_index == 0)
    {
        let id = response.prompt_id.as_str();
        if texts.insert(id, &response.text).is_some() {
            return Err(ScoreError::file(
                responses_path,
                format!(
                    "two responses to prompt {id} have sample index 0; give one policy's of one round"
                ),
            ));
        }
    }
    prompts
        .iter()
        .map(|prompt| {
            let id = &prompt.prompt_id;
            let instruction = instruction_of(prompt).ok_or_else(|| {
                ScoreError::file(
                    prompts_path,
                    format!("prompt {id} has no message by the user"),
                )
            })?;
            let output = texts.get(id.as_str()).ok_or_else(|| {
                ScoreError::file(
                    responses_path,
                    format!(
                        "no response to prompt {id} has sample index 0; sample all prompts first"
                    ),
                )
            })?;
            Ok(ModelOutput {
                instruction: instruction.to_owned(),
                output: (*output).to_owned(),
                generator: generator.to_owned(),
                dataset: prompt.source.clone(),
            })
        })
        .collect()
}

fn instruction_of(prompt: &PromptRow) -> Option<&str> {
    let mut messages = prompt.messages.iter().rev();
    Some(&messages.find(|message| message.role == "user")?.content)
}

/// Pairs the outputs for one instruction, in the order of the baseline's; an instruction that comes twice is answered
/// twice.
pub(super) fn paired<'a>(
    baseline: &'a [ModelOutput],
    model: &'a [ModelOutput],
) -> Vec<(&'a ModelOutput, &'a ModelOutput)> {
    let mut outputs: HashMap<&str, VecDeque<&ModelOutput>> = HashMap::new();
    for output in model {
        let of_instruction = outputs.entry(&output.instruction).or_default();
        of_instruction.push_back(output);
    }
    let pair = |baseline: &'a ModelOutput| {
        let of_instruction = outputs.get_mut(baseline.instruction.as_str())?;
        Some((baseline, of_instruction.pop_front()?))
    };
    baseline.iter().filter_map(pair).collect()
}

/// Reads outputs; the data set is empty where the file names none.
///
/// # Errors
/// A file that cannot be read or lacks `instruction`, `output` or `generator`.
pub fn read(path: &Path) -> Result<Vec<ModelOutput>, ScoreError> {
    Records::read(path)?
        .iter()
        .map(|record| {
            let text = |column| record.text(column).map(str::to_owned);
            Ok(ModelOutput {
                instruction: text("instruction")?,
                output: text("output")?,
                generator: text("generator")?,
                dataset: match record.get("dataset") {
                    Some(_) => text("dataset")?,
                    None => String::new(),
                },
            })
        })
        .collect()
}

/// Writes rows as the official files have them: one JSON array.
///
/// # Errors
/// If the file cannot be written.
pub fn write<T: Serialize>(path: &Path, rows: &[T]) -> Result<(), ScoreError> {
    let mut text = serde_json::to_string_pretty(rows)
        .map_err(|e| ArtifactError::io("write", path, e.into()))?;
    text.push('\n');
    Ok(write_atomically(path, text.as_bytes())?)
}
