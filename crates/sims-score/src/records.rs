//! Rows of CSV, Parquet, JSON and JSON Lines files, whoever wrote them.
//!
//! The files of a benchmark carry no schema: every value is checked where it is used, and an error names
//! the file, the row and the column.

use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Map, Value};
use sims_artifact::ArtifactError;

use crate::ScoreError;

/// The rows of a file; there is at least one.
#[derive(Debug)]
pub struct Records {
    path: PathBuf,
    /// Every column that some row has, in the order in which they are met.
    columns: Vec<String>,
    rows: Vec<Map<String, Value>>,
}

/// One row of a file.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    file: &'a Records,
    row: usize,
    values: &'a Map<String, Value>,
}

impl Records {
    /// Reads the file at `path`; its name says whether it is `.csv`, `.parquet`, `.json` or `.jsonl`.
    ///
    /// # Errors
    /// If it cannot be read, is not what its name says, or has no rows.
    pub fn read(path: &Path) -> Result<Self, ScoreError> {
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
        let rows = match extension {
            "csv" => read_csv(path),
            "parquet" => read_parquet(path),
            "json" => read_json(path),
            "jsonl" => read_json_lines(path),
            _ => Err(ScoreError::file(
                path,
                "the name of the file must end in .csv, .parquet, .json or .jsonl",
            )),
        }?;
        if rows.is_empty() {
            return Err(ScoreError::file(path, "the file has no rows"));
        }
        let mut columns: Vec<String> = Vec::new();
        for column in rows.iter().flat_map(Map::keys) {
            if !columns.contains(column) {
                columns.push(column.clone());
            }
        }
        Ok(Self {
            path: path.to_owned(),
            columns,
            rows,
        })
    }

    /// Returns the file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the number of rows.
    pub fn count(&self) -> usize {
        self.rows.len()
    }

    /// Returns the rows in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = Record<'_>> {
        self.rows.iter().enumerate().map(|(row, values)| Record {
            file: self,
            row,
            values,
        })
    }

    /// Tells whether any row has this column.
    pub fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|known| known == column)
    }

    /// Returns the error that none of these columns is there.
    pub fn without(&self, columns: &[&str]) -> ScoreError {
        ScoreError::MissingColumn {
            path: self.path.clone(),
            column: columns.join("` or `"),
            found: self.columns.join(", "),
        }
    }
}

impl<'a> Record<'a> {
    /// Returns the row's number, from 0.
    pub fn row(&self) -> usize {
        self.row
    }

    /// Returns a value, unless it is null, an empty field or absent.
    pub fn get(&self, column: &str) -> Option<&'a Value> {
        let value = self.values.get(column)?;
        let empty = value.is_null() || value.as_str().is_some_and(str::is_empty);
        (!empty).then_some(value)
    }

    /// Returns a number; none for a value that is absent, null or NaN.
    ///
    /// # Errors
    /// If no row has the column, or the value is not a number.
    pub fn number(&self, column: &str) -> Result<Option<f64>, ScoreError> {
        let Some(value) = self.get(column) else {
            return self.absent(column).map(|()| None);
        };
        let number = match value {
            Value::String(text) => text.trim().parse().ok(),
            value => value.as_f64(),
        };
        match number {
            Some(number) if f64::is_nan(number) => Ok(None),
            Some(number) => Ok(Some(number)),
            None => Err(self.cell(column, format!("{value} is not a number"))),
        }
    }

    /// Returns a finite number.
    ///
    /// # Errors
    /// If it is absent, NaN, infinite or not a number.
    pub fn finite(&self, column: &str) -> Result<f64, ScoreError> {
        match self.number(column)? {
            Some(number) if number.is_finite() => Ok(number),
            Some(number) => Err(self.cell(column, format!("{number} is not finite"))),
            None => Err(self.cell(column, "a number is needed here".to_owned())),
        }
    }

    /// Returns a whole number from zero up.
    ///
    /// # Errors
    /// If it is anything else.
    pub fn count(&self, column: &str) -> Result<u32, ScoreError> {
        let number = self.finite(column)?;
        if number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number) {
            return Ok(number as u32);
        }
        Err(self.cell(column, format!("{number} is not a count: 0, 1, 2, …")))
    }

    /// Returns a text, which may be empty.
    ///
    /// # Errors
    /// If it is absent, null or not a text.
    pub fn text(&self, column: &str) -> Result<&'a str, ScoreError> {
        match self.values.get(column) {
            Some(Value::String(text)) => Ok(text),
            Some(Value::Null) => Err(self.cell(column, "a text is needed here".to_owned())),
            Some(value) => Err(self.cell(column, format!("{value} is not a text"))),
            None => {
                self.absent(column)?;
                Err(self.cell(column, "a text is needed here".to_owned()))
            }
        }
    }

    /// Returns the error that this row is not what was asked for.
    pub fn error(&self, message: impl Into<String>) -> ScoreError {
        ScoreError::Row {
            path: self.file.path.clone(),
            row: self.row,
            message: message.into(),
        }
    }

    /// Returns the error that a value of this row is not what was asked for.
    pub fn cell(&self, column: &str, message: String) -> ScoreError {
        ScoreError::Cell {
            path: self.file.path.clone(),
            row: self.row,
            column: column.to_owned(),
            message,
        }
    }

    /// Passes a value that is absent in this row, not a column that no row has.
    fn absent(&self, column: &str) -> Result<(), ScoreError> {
        if self.file.has(column) {
            Ok(())
        } else {
            Err(self.file.without(&[column]))
        }
    }
}

fn read_text(path: &Path) -> Result<String, ScoreError> {
    let bytes = std::fs::read(path).map_err(|e| ArtifactError::io("read", path, e))?;
    String::from_utf8(bytes).map_err(|_| ScoreError::file(path, "the file is not text in UTF-8"))
}

fn read_csv(path: &Path) -> Result<Vec<Map<String, Value>>, ScoreError> {
    let text = read_text(path)?;
    let not_csv = |e: csv::Error| ScoreError::file(path, format!("not a CSV table: {e}"));
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let columns = reader.headers().map_err(not_csv)?.clone();
    reader
        .records()
        .map(|record| {
            let record = record.map_err(not_csv)?;
            Ok(columns
                .iter()
                .zip(&record)
                .map(|(column, field)| (column.to_owned(), Value::from(field)))
                .collect())
        })
        .collect()
}

fn read_json(path: &Path) -> Result<Vec<Map<String, Value>>, ScoreError> {
    serde_json::from_str(&read_text(path)?).map_err(|e| {
        ScoreError::file(
            path,
            format!("not an array of JSON objects (cut short?): {e}"),
        )
    })
}

fn read_json_lines(path: &Path) -> Result<Vec<Map<String, Value>>, ScoreError> {
    read_text(path)?
        .lines()
        .filter(|line| !line.trim().is_empty())
        .enumerate()
        .map(|(row, line)| {
            serde_json::from_str(line).map_err(|e| ScoreError::Row {
                path: path.to_owned(),
                row,
                message: format!("not a JSON object (cut short?): {e}"),
            })
        })
        .collect()
}

fn read_parquet(path: &Path) -> Result<Vec<Map<String, Value>>, ScoreError> {
    let not_parquet = |message: String| ArtifactError::NotParquet {
        path: path.to_owned(),
        message,
    };
    let file = File::open(path).map_err(|e| ArtifactError::io("open", path, e))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(ParquetRecordBatchReaderBuilder::build)
        .map_err(|e| not_parquet(e.to_string()))?;
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|e| not_parquet(e.to_string()))?;
        let decoded: Vec<Map<String, Value>> = serde_arrow::from_record_batch(&batch)
            .map_err(|e| ScoreError::file(path, format!("a column of an unknown type: {e}")))?;
        rows.extend(decoded);
    }
    Ok(rows)
}
