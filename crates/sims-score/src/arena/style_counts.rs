//! How long answers are and how much markdown they hold, as files give it.

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::Value;

use super::battles::{name_of, question_id};
use super::markdown;
use crate::ScoreError;
use crate::records::{Record, Records};

/// Tokens, headers, list items and bold spans of one answer.
pub type Counts = [f64; 4];

/// The counts of all answers that files tell of.
#[derive(Debug, Default)]
pub struct StyleCounts {
    /// Of one answer: by model and question.
    answers: HashMap<(String, String), Counts>,
    /// Of the baseline's and the model's answer, by model and question.
    pairs: HashMap<(String, String), [Counts; 2]>,
    /// Models that files of pairs are about.
    paired: Vec<String>,
}

/// The columns of a file of pairs, without `_baseline` or `_model`.
const PAIR_COLUMNS: [&str; 4] = ["tokens", "headers", "lists", "bold"];
/// The keys of the official answers' metadata.
const METADATA: [&str; 4] = ["token_len", "header_count", "list_count", "bold_count"];

impl StyleCounts {
    /// Reads files of either kind.
    ///
    /// A table of pairs has `question_id` and, for the baseline and for the model, `tokens_…`,
    /// `headers_…`, `lists_…` and `bold_…`. Answers in the official JSON Lines name their model and
    /// carry `conv_metadata` or `metadata`; without it tokens come from `token_len` and the markdown
    /// is counted.
    ///
    /// # Errors
    /// A file that cannot be read, or lacks a count.
    pub fn read(paths: &[PathBuf]) -> Result<Self, ScoreError> {
        let mut counts = Self::default();
        for path in paths {
            let records = Records::read(path)?;
            if records.has("tokens_baseline") {
                counts.add_pairs(&records)?;
            } else {
                counts.add_answers(&records)?;
            }
        }
        Ok(counts)
    }

    /// Returns the counts of the baseline's and of the model's answer to a question.
    ///
    /// `alone` tells that no other model is scored: a single table of pairs is then about this one,
    /// whatever its name.
    #[must_use]
    pub fn of(
        &self,
        baseline: &str,
        model: &str,
        question: &str,
        alone: bool,
    ) -> Option<[Counts; 2]> {
        let pair = |model: &str| self.pairs.get(&(model.to_owned(), question.to_owned()));
        let answer = |model: &str| self.answers.get(&(model.to_owned(), question.to_owned()));
        match self.paired.as_slice() {
            [only] if alone => pair(only).copied(),
            _ => pair(model).copied(),
        }
        .or_else(|| Some([*answer(baseline)?, *answer(model)?]))
    }

    fn add_pairs(&mut self, records: &Records) -> Result<(), ScoreError> {
        let name = name_of(records.path(), ".style");
        for record in records.iter() {
            let mut pair = [[0.0; 4]; 2];
            for (counts, side) in pair.iter_mut().zip(["baseline", "model"]) {
                for (count, column) in counts.iter_mut().zip(PAIR_COLUMNS) {
                    *count = f64::from(record.count(&format!("{column}_{side}"))?);
                }
            }
            let question = question_id(records, &record)?;
            self.pairs.insert((name.clone(), question), pair);
        }
        self.paired.push(name);
        Ok(())
    }

    fn add_answers(&mut self, records: &Records) -> Result<(), ScoreError> {
        let column = ["model_id", "model"]
            .into_iter()
            .find(|column| records.has(column))
            .ok_or_else(|| records.without(&["tokens_baseline", "model_id", "model"]))?;
        for record in records.iter() {
            let key = (
                record.text(column)?.to_owned(),
                question_id(records, &record)?,
            );
            self.answers.insert(key, counts_of_answer(&record)?);
        }
        Ok(())
    }
}

fn counts_of_answer(record: &Record<'_>) -> Result<Counts, ScoreError> {
    if let Some((column, metadata)) = ["conv_metadata", "metadata"]
        .into_iter()
        .find_map(|column| Some((column, record.get(column)?)))
    {
        let mut counts = [0.0; 4];
        for (count, key) in counts.iter_mut().zip(METADATA) {
            *count = total(&metadata[key])
                .ok_or_else(|| record.cell(column, format!("`{key}` is no count")))?;
        }
        return Ok(counts);
    }
    let turn = record.get("choices").map(|choices| &choices[0]["turns"][0]);
    let answer =
        turn.and_then(|turn| Some((turn["content"].as_str()?, turn["token_len"].as_f64()?)));
    let (text, tokens) = answer.ok_or_else(|| {
        record.error("the answer has neither metadata nor a text with its `token_len`")
    })?;
    let elements = markdown::count(text);
    let markdown = [elements.headers, elements.list_items, elements.bold].map(f64::from);
    Ok([tokens, markdown[0], markdown[1], markdown[2]])
}

/// Returns a count, which may be spread over kinds.
fn total(value: &Value) -> Option<f64> {
    match value {
        Value::Object(kinds) => kinds.values().map(Value::as_f64).sum(),
        value => value.as_f64(),
    }
}
