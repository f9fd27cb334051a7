//! What a table is, and reading one from Parquet with checks.

use std::fs::File;
use std::path::Path;

use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde::{Serialize, de::DeserializeOwned};

use crate::ArtifactError;
use crate::schema::TableSchema;

/// The Parquet metadata key that names the schema.
pub(crate) const SCHEMA_KEY: &str = "sims.schema";

/// A row type that is one kind of artifact.
pub trait Table: Serialize + DeserializeOwned {
    /// Name and version, such as `responses@1`.
    const SCHEMA: &'static str;
    /// Returns the full description.
    fn schema() -> TableSchema;
}

/// Reads all rows of the table at `path`.
///
/// A file made by another tool is welcome when it has the columns (64-bit or view strings and
/// lists included); further columns are ignored.
///
/// # Errors
/// If the file is absent, cut short, of another schema, lacks a column, or has a null where a
/// value is required; the message names file, column and row.
pub fn read_table<T: Table>(path: &Path) -> Result<Vec<T>, ArtifactError> {
    let reader = open(path)?;
    check_schema_id(path, &reader, T::SCHEMA)?;
    let wanted = T::schema();
    let found = reader.schema().clone();
    for column in &wanted.columns {
        let Some((_, field)) = found.fields().find(column.name) else {
            return Err(ArtifactError::MissingColumn {
                path: path.to_owned(),
                column: column.name.to_owned(),
                schema: T::SCHEMA,
                found: found
                    .fields()
                    .iter()
                    .map(|f| f.name().as_str())
                    .collect::<Vec<_>>()
                    .join(", "),
            });
        };
        if !compatible(column.field.data_type(), field.data_type()) {
            return Err(ArtifactError::Decode {
                path: path.to_owned(),
                schema: T::SCHEMA,
                message: format!(
                    "column `{}` is {}, not {}",
                    column.name,
                    field.data_type(),
                    column.kind
                ),
            });
        }
    }
    let not_parquet = |message: String| ArtifactError::NotParquet {
        path: path.to_owned(),
        message,
    };
    let mut rows = Vec::new();
    for batch in reader.build().map_err(|e| not_parquet(e.to_string()))? {
        let batch = batch.map_err(|e| not_parquet(e.to_string()))?;
        check_nulls(path, &batch, &wanted, rows.len(), T::SCHEMA)?;
        let batch = project(&batch, &wanted);
        let mut decoded: Vec<T> =
            serde_arrow::from_record_batch(&batch).map_err(|e| ArtifactError::Decode {
                path: path.to_owned(),
                schema: T::SCHEMA,
                message: e.to_string(),
            })?;
        rows.append(&mut decoded);
    }
    Ok(rows)
}

/// Returns the schema id that the Parquet file at `path` carries, if any.
///
/// # Errors
/// If the file is absent or not a whole Parquet file.
pub fn schema_id_of(path: &Path) -> Result<Option<String>, ArtifactError> {
    Ok(schema_id(&open(path)?))
}

type Reader = ParquetRecordBatchReaderBuilder<File>;

fn open(path: &Path) -> Result<Reader, ArtifactError> {
    let file = File::open(path).map_err(|e| ArtifactError::io("open", path, e))?;
    ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| ArtifactError::NotParquet {
        path: path.to_owned(),
        message: e.to_string(),
    })
}

fn schema_id(reader: &Reader) -> Option<String> {
    let metadata = reader.metadata().file_metadata().key_value_metadata()?;
    metadata
        .iter()
        .find(|kv| kv.key == SCHEMA_KEY)?
        .value
        .clone()
}

fn check_schema_id(
    path: &Path,
    reader: &Reader,
    expected: &'static str,
) -> Result<(), ArtifactError> {
    match schema_id(reader) {
        Some(found) if found != expected => Err(ArtifactError::WrongSchema {
            path: path.to_owned(),
            expected,
            found,
        }),
        _ => Ok(()),
    }
}

/// Whether a column stored as `found` can be read as `wanted`.
fn compatible(wanted: &DataType, found: &DataType) -> bool {
    use DataType::{
        Boolean, Float32, Float64, Int8, Int16, Int32, Int64, LargeList, LargeUtf8, List, Struct,
        UInt8, UInt16, UInt32, UInt64, Utf8, Utf8View,
    };
    match (wanted, found) {
        (Utf8, Utf8 | LargeUtf8 | Utf8View) | (Boolean, Boolean) | (Float64, Float64 | Float32) => {
            true
        }
        (UInt32 | UInt64, UInt8 | UInt16 | UInt32 | UInt64 | Int8 | Int16 | Int32 | Int64) => true,
        (List(inner), List(other) | LargeList(other)) => {
            compatible(inner.data_type(), other.data_type())
        }
        (Struct(fields), Struct(others)) => fields.iter().all(|field| {
            others
                .find(field.name())
                .is_some_and(|(_, other)| compatible(field.data_type(), other.data_type()))
        }),
        _ => false,
    }
}

fn check_nulls(
    path: &Path,
    batch: &RecordBatch,
    wanted: &TableSchema,
    first_row: usize,
    schema: &'static str,
) -> Result<(), ArtifactError> {
    for column in wanted.columns.iter().filter(|c| !c.nullable) {
        let Some(values) = batch.column_by_name(column.name) else {
            continue;
        };
        if values.null_count() > 0 {
            let row = (0..values.len()).find(|&i| values.is_null(i)).unwrap_or(0);
            return Err(ArtifactError::NullValue {
                path: path.to_owned(),
                column: column.name.to_owned(),
                row: first_row + row,
                schema,
            });
        }
    }
    Ok(())
}

/// Keeps the wanted columns only, since rows refuse unknown ones.
fn project(batch: &RecordBatch, wanted: &TableSchema) -> RecordBatch {
    let keep: Vec<usize> = (0..batch.num_columns())
        .filter(|&i| {
            wanted
                .columns
                .iter()
                .any(|c| c.name == batch.schema().field(i).name())
        })
        .collect();
    batch
        .project(&keep)
        .expect("the indices come from the batch itself")
}

/// Declares a row type with its schema: one source for Rust, Parquet and the schema file.
macro_rules! table {
    (
        $(#[doc = $table_doc:literal])+
        $name:ident = $id:literal {
            $( $(#[doc = $doc:literal])+ $column:ident : $kind:ty, )+
        }
    ) => {
        $(#[doc = $table_doc])+
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $column: $kind, )+
        }

        impl $crate::Table for $name {
            const SCHEMA: &'static str = $id;

            fn schema() -> $crate::schema::TableSchema {
                $crate::schema::TableSchema {
                    id: $id,
                    description: concat!($($table_doc,)+).trim().to_owned(),
                    columns: vec![$(
                        $crate::schema::ColumnSchema::of::<$kind>(stringify!($column), concat!($($doc,)+)),
                    )+],
                }
            }
        }
    };
}
pub(crate) use table;

#[cfg(test)]
mod tests {
    use arrow_array::{ArrayRef, Float64Array, StringArray, UInt32Array};

    use std::sync::Arc;

    use parquet::arrow::ArrowWriter;
    use parquet::basic::Compression;
    use parquet::file::properties::WriterProperties;

    use super::*;
    use crate::tables::{Message, PromptRow, ScoreRow};
    use crate::write_table;

    fn prompts(n: usize) -> Vec<PromptRow> {
        (0..n)
            .map(|i| {
                PromptRow::new(
                    vec![Message::user(format!("question {i}"))],
                    "train",
                    "test",
                )
            })
            .collect()
    }

    /// Columns by name, in order.
    type Columns = Vec<(&'static str, ArrayRef)>;

    #[test]
    fn rows_survive_a_round_trip_and_bytes_repeat() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (
            folder.path().join("a.parquet"),
            folder.path().join("b.parquet"),
        );
        let rows = prompts(1000);
        write_table(&a, &rows).unwrap();
        write_table(&b, &rows).unwrap();
        assert_eq!(read_table::<PromptRow>(&a).unwrap(), rows);
        assert_eq!(std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
        assert_eq!(schema_id_of(&a).unwrap().as_deref(), Some("prompts@1"));
    }

    #[test]
    fn empty_tables_keep_their_schema() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("empty.parquet");
        write_table::<ScoreRow>(&path, &[]).unwrap();
        assert!(read_table::<ScoreRow>(&path).unwrap().is_empty());
        let error = read_table::<PromptRow>(&path).unwrap_err().to_string();
        assert!(
            error.contains("holds `scores@1`, but `prompts@1` is needed"),
            "{error}"
        );
    }

    #[test]
    fn a_truncated_file_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cut.parquet");
        write_table(&path, &prompts(100)).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for keep in [0, 3, bytes.len() / 2, bytes.len() - 1] {
            std::fs::write(&path, &bytes[..keep]).unwrap();
            let error = read_table::<PromptRow>(&path).unwrap_err().to_string();
            assert!(
                error.contains("cut.parquet is not a readable Parquet file"),
                "{error}"
            );
        }
    }

    /// Writes two rows of scores as another tool would: no schema id, columns as `change` leaves them.
    fn foreign_scores(path: &Path, change: impl FnOnce(&mut Vec<(&'static str, ArrayRef)>)) {
        let text = || Arc::new(StringArray::from(vec!["x", "y"])) as ArrayRef;
        let mut columns = vec![
            ("prompt_id", text()),
            ("policy", text()),
            (
                "draw",
                Arc::new(UInt32Array::from(vec![Some(0), None])) as ArrayRef,
            ),
            ("metric", text()),
            (
                "value",
                Arc::new(Float64Array::from(vec![0.5, 1.5])) as ArrayRef,
            ),
        ];
        change(&mut columns);
        let nullable = columns.into_iter().map(|(name, array)| (name, array, true));
        let batch = RecordBatch::try_from_iter_with_nullable(nullable).unwrap();
        // Other tools compress with snappy unless told otherwise.
        let snappy = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .build();
        let file = File::create(path).unwrap();
        let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(snappy)).unwrap();
        writer.write(&batch).unwrap();
        writer.close().unwrap();
    }

    /// Puts another array into a column.
    fn set(columns: &mut [(&'static str, ArrayRef)], name: &str, array: ArrayRef) {
        let column = columns.iter_mut().find(|(column, _)| *column == name);
        column.expect("scores have this column").1 = array;
    }

    #[test]
    fn a_table_of_another_tool_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.parquet");
        foreign_scores(&path, |columns| {
            let note = Arc::new(StringArray::from(vec!["a", "b"]));
            columns.insert(0, ("note", note));
        });
        let rows: Vec<ScoreRow> = read_table(&path).unwrap();
        assert_eq!((rows[0].draw, rows[1].draw), (Some(0), None));
        assert_eq!(rows[1].value, 1.5);
    }

    #[test]
    fn columns_that_do_not_fit_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("scores.parquet");
        let refused = |change: &dyn Fn(&mut Columns)| {
            foreign_scores(&path, change);
            let message = read_table::<ScoreRow>(&path).unwrap_err().to_string();
            assert!(message.contains("scores.parquet"), "{message}");
            assert!(message.contains("`scores@1`"), "{message}");
            message
        };
        let message = refused(&|columns| columns.retain(|(name, _)| *name != "metric"));
        assert!(
            message.contains("no column `metric`")
                && message.ends_with("its columns are prompt_id, policy, draw, value"),
            "{message}"
        );

        let holes: ArrayRef = Arc::new(Float64Array::from(vec![Some(0.5), None]));
        let message = refused(&|columns| set(columns, "value", holes.clone()));
        assert!(
            message.contains("column `value` is null in row 1"),
            "{message}"
        );

        let words: ArrayRef = Arc::new(StringArray::from(vec!["much", "little"]));
        let message = refused(&|columns| set(columns, "value", words.clone()));
        assert!(message.contains("column `value` is Utf8, not"), "{message}");
        // A number where an id belongs.
        let numbers: ArrayRef = Arc::new(UInt32Array::from(vec![1, 2]));
        let message = refused(&|columns| set(columns, "prompt_id", numbers.clone()));
        assert!(
            message.contains("column `prompt_id` is UInt32, not"),
            "{message}"
        );
        // Of a column that fits by its type, a value that does not.
        let negative: ArrayRef = Arc::new(arrow_array::Int64Array::from(vec![0, -1]));
        let message = refused(&|columns| set(columns, "draw", negative.clone()));
        assert!(
            message.contains("draw") && message.contains("out of range"),
            "{message}"
        );
    }
}
