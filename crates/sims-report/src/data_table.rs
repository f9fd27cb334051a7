//! A table of the report: the same rows on the page and as a Parquet file.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Float64Array, RecordBatch, StringArray, UInt64Array};
use sims_artifact::write_columns;

use crate::ReportError;
use crate::number::number;

/// The values of a column.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// Texts; empty where there is none.
    Text(Vec<String>),
    /// Figures; null where there is none.
    Number(Vec<Option<f64>>),
    /// Whole numbers.
    Count(Vec<u64>),
    /// Yes or no.
    Flag(Vec<bool>),
}

/// A column with its name in snake case.
#[derive(Debug, Clone, PartialEq)]
pub struct Field {
    /// The name.
    pub name: &'static str,
    /// The values, one a row.
    pub values: Values,
}

/// A table of the report.
#[derive(Debug, Clone, PartialEq)]
pub struct DataTable {
    /// The name, which is also the name of its file without the ending.
    pub name: &'static str,
    /// The columns.
    pub fields: Vec<Field>,
    /// How many rows it has.
    pub rows: usize,
}

/// A table in the making over rows of one type.
pub struct Columns<'a, R> {
    rows: &'a [R],
    table: DataTable,
}

impl DataTable {
    /// Starts a table of `rows`, without columns.
    pub fn of<'a, R>(name: &'static str, rows: &'a [R]) -> Columns<'a, R> {
        Columns {
            rows,
            table: Self {
                name,
                fields: Vec::new(),
                rows: rows.len(),
            },
        }
    }

    /// Returns the name of its file.
    pub fn file(&self) -> String {
        format!("{}.parquet", self.name)
    }

    /// Returns the cells of a row as texts.
    pub fn row(&self, row: usize) -> Vec<String> {
        let cell = |field: &Field| match &field.values {
            Values::Text(values) => values[row].clone(),
            Values::Number(values) => values[row].map_or_else(String::new, number),
            Values::Count(values) => values[row].to_string(),
            Values::Flag(values) => if values[row] { "yes" } else { "no" }.to_owned(),
        };
        self.fields.iter().map(cell).collect()
    }

    /// Returns the rows as JSON objects.
    pub fn objects(&self) -> Vec<serde_json::Value> {
        let cell = |field: &Field, row: usize| -> serde_json::Value {
            match &field.values {
                Values::Text(values) => values[row].as_str().into(),
                Values::Number(values) => values[row].into(),
                Values::Count(values) => values[row].into(),
                Values::Flag(values) => values[row].into(),
            }
        };
        let object = |row: usize| {
            let cells = self
                .fields
                .iter()
                .map(|field| (field.name.to_owned(), cell(field, row)));
            cells.collect::<serde_json::Map<_, _>>().into()
        };
        (0..self.rows).map(object).collect()
    }

    fn batch(&self) -> Result<RecordBatch, ReportError> {
        let columns = self.fields.iter().map(|field| {
            let (values, nullable): (ArrayRef, bool) = match &field.values {
                Values::Text(values) => (Arc::new(StringArray::from_iter_values(values)), false),
                Values::Number(values) => (Arc::new(Float64Array::from(values.clone())), true),
                Values::Count(values) => (Arc::new(UInt64Array::from(values.clone())), false),
                Values::Flag(values) => (Arc::new(BooleanArray::from(values.clone())), false),
            };
            (field.name, values, nullable)
        });
        Ok(RecordBatch::try_from_iter_with_nullable(columns)?)
    }

    /// Writes the table into `folder` as Parquet, and returns the file.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<PathBuf, ReportError> {
        let path = folder.join(self.file());
        write_columns(&path, &self.batch()?)?;
        Ok(path)
    }
}

impl<'a, R> Columns<'a, R> {
    fn push(mut self, name: &'static str, values: Values) -> Self {
        self.table.fields.push(Field { name, values });
        self
    }

    /// Adds a column of texts.
    pub fn text<T: Into<String>>(self, name: &'static str, of: impl Fn(&'a R) -> T) -> Self {
        let values = self.rows.iter().map(|row| of(row).into()).collect();
        self.push(name, Values::Text(values))
    }

    /// Adds a column of figures.
    pub fn number<T: Into<Option<f64>>>(self, name: &'static str, of: impl Fn(&'a R) -> T) -> Self {
        let values = self.rows.iter().map(|row| of(row).into()).collect();
        self.push(name, Values::Number(values))
    }

    /// Adds a column of whole numbers.
    pub fn count<T: Into<u64>>(self, name: &'static str, of: impl Fn(&'a R) -> T) -> Self {
        let values = self.rows.iter().map(|row| of(row).into()).collect();
        self.push(name, Values::Count(values))
    }

    /// Adds a column of yes and no.
    pub fn flag(self, name: &'static str, of: impl Fn(&'a R) -> bool) -> Self {
        let values = self.rows.iter().map(of).collect();
        self.push(name, Values::Flag(values))
    }

    /// Returns the table.
    pub fn done(self) -> DataTable {
        self.table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_the_same_on_the_page_and_in_the_file() {
        let rows = [("loops", Some(0.25), true), ("<length>", None, false)];
        let table = DataTable::of("side_effects", &rows)
            .text("gate", |row| row.0)
            .number("value", |row| row.1)
            .count("round", |_| 2_u32)
            .flag("passed", |row| row.2)
            .done();
        assert_eq!(table.row(0), ["loops", "0.250", "2", "yes"]);
        assert_eq!(table.row(1), ["<length>", "", "2", "no"]);
        let batch = table.batch().unwrap();
        let values = batch.column_by_name("value").unwrap();
        let expected: ArrayRef = Arc::new(Float64Array::from(vec![Some(0.25), None]));
        assert_eq!(values, &expected);
    }

    #[test]
    fn a_table_without_rows_keeps_its_columns_and_bytes_repeat() {
        let table = DataTable::of("signals", &[] as &[u32])
            .count("round", |round| *round)
            .done();
        let folder = tempfile::tempdir().unwrap();
        let path = table.write(folder.path()).unwrap();
        assert_eq!(path, folder.path().join("signals.parquet"));
        let bytes = std::fs::read(&path).unwrap();
        table.write(folder.path()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        assert_eq!(table.batch().unwrap().num_columns(), 1);
    }
}
