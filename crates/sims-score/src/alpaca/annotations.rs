//! The judge's verdicts on one model.

use std::path::{Path, PathBuf};

use crate::ScoreError;
use crate::records::{Record, Records};

/// A verdict on one instruction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Annotation {
    /// How much the model is preferred to the baseline, from 0 to 1; none where there is no verdict.
    pub share: Option<f64>,
    /// Length of the baseline's output. Unit: Unicode code points.
    pub baseline_length: f64,
    /// Length of the model's output. Unit: Unicode code points.
    pub model_length: f64,
}

/// The verdicts on one model, in the order of their file.
#[derive(Debug)]
pub struct Annotations {
    /// The file.
    pub path: PathBuf,
    /// One verdict an instruction.
    pub rows: Vec<Annotation>,
    /// The model, where the file names it.
    pub model: Option<String>,
    /// Whether the model under test is the baseline itself.
    pub is_baseline: bool,
    /// Rows without a preference, and rows whose preference is none of 0 and 1 to 2.
    pub dropped: usize,
}

impl Annotations {
    /// Reads `preference` (1 for the baseline, 2 for the model, 0 or 1.5 for a draw) and the outputs
    /// or their lengths: `output_1` and `output_2`, or `length_1` and `length_2`.
    ///
    /// # Errors
    /// A file or column that cannot be read, fewer than two preferences, more than one model.
    pub fn read(path: &Path) -> Result<Self, ScoreError> {
        let records = Records::read(path)?;
        let rows = records
            .iter()
            .map(|record| {
                Ok(Annotation {
                    share: share(record.number("preference")?),
                    baseline_length: length(&records, &record, "1")?,
                    model_length: length(&records, &record, "2")?,
                })
            })
            .collect::<Result<Vec<_>, ScoreError>>()?;
        let judged = rows.iter().filter(|row| row.share.is_some()).count();
        if judged < 2 {
            return Err(ScoreError::file(
                path,
                format!(
                    "{judged} rows have a preference from 1 (the baseline's output is better) to 2 \
                     (the model's); at least two are needed"
                ),
            ));
        }
        let model = only(&records, "generator_2")?;
        let baseline = only(&records, "generator_1")?;
        Ok(Self {
            path: path.to_owned(),
            dropped: rows.len() - judged,
            rows,
            is_baseline: model.is_some() && model == baseline,
            model,
        })
    }

    /// Returns the shares of the rows that have one.
    pub fn shares(&self) -> impl Iterator<Item = f64> {
        self.rows.iter().filter_map(|row| row.share)
    }
}

/// Returns a preference's share for the model, if it is one.
fn share(preference: Option<f64>) -> Option<f64> {
    match preference? {
        0.0 => Some(0.5),
        preference => (1.0..=2.0)
            .contains(&preference)
            .then_some(preference - 1.0),
    }
}

/// Returns the length of output `which`, as given or as counted.
fn length(records: &Records, record: &Record<'_>, which: &str) -> Result<f64, ScoreError> {
    let (length, output) = (format!("length_{which}"), format!("output_{which}"));
    if records.has(&length) {
        return record.count(&length).map(f64::from);
    }
    if records.has(&output) {
        return Ok(record.text(&output)?.chars().count() as f64);
    }
    Err(records.without(&[&output, &length]))
}

/// Returns the one value of a column, if the file has the column.
fn only(records: &Records, column: &str) -> Result<Option<String>, ScoreError> {
    if !records.has(column) {
        return Ok(None);
    }
    let mut first: Option<&str> = None;
    for record in records.iter() {
        let value = record.text(column)?;
        let expected = *first.get_or_insert(value);
        if value != expected {
            return Err(record.cell(
                column,
                format!("`{value}` after `{expected}`; give a file with one of each"),
            ));
        }
    }
    Ok(first.map(str::to_owned))
}
