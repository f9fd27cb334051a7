//! Writing a table as Parquet: the same rows always give the same bytes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::{FieldRef, Schema};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterPropertiesBuilder, WriterVersion};

use crate::atomic_file::AtomicFile;
use crate::table::SCHEMA_KEY;
use crate::{ArtifactError, Table};

/// Rows a row group: fixed, since it decides the bytes.
const ROW_GROUP_ROWS: usize = 65_536;

/// Writes `rows` to `path` as Parquet, atomically.
///
/// The same rows always give the same bytes: settings, row-group size and creator are pinned.
///
/// # Errors
/// If the file cannot be written.
pub fn write_table<T: Table>(path: &Path, rows: &[T]) -> Result<(), ArtifactError> {
    let mut writer = TableWriter::create(path)?;
    for chunk in rows.chunks(ROW_GROUP_ROWS) {
        writer.write_group(chunk)?;
    }
    writer.finish()
}

/// Writes `batch` to `path` as Parquet, atomically: a table for people, which is no artifact and has no schema id.
///
/// The same columns always give the same bytes, as with [`write_table`].
///
/// # Errors
/// If the file cannot be written.
pub fn write_columns(path: &Path, batch: &RecordBatch) -> Result<(), ArtifactError> {
    let file = AtomicFile::create(path)?;
    let mut writer = ArrowWriter::try_new(file, batch.schema(), Some(pinned().build()))
        .map_err(|e| write_error(path, &e))?;
    writer.write(batch).map_err(|e| write_error(path, &e))?;
    writer
        .into_inner()
        .map_err(|e| write_error(path, &e))?
        .publish()
}

/// The settings that decide the bytes.
fn pinned() -> WriterPropertiesBuilder {
    WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_created_by("sims".to_owned())
        .set_compression(Compression::ZSTD(
            ZstdLevel::try_new(3).expect("zstd has this level"),
        ))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
}

/// Writes a table row by row, for tables that are larger than memory.
///
/// The bytes are those of [`write_table`]; the file appears when it is finished.
pub struct TableWriter<T: Table> {
    path: PathBuf,
    fields: Vec<FieldRef>,
    writer: ArrowWriter<AtomicFile>,
    /// Rows of the row group to come.
    pending: Vec<T>,
}

impl<T: Table> TableWriter<T> {
    /// Starts a table that will be published at `path`.
    ///
    /// # Errors
    /// If the folder cannot be made or written.
    pub fn create(path: &Path) -> Result<Self, ArtifactError> {
        let fields = T::schema().fields();
        let schema = Arc::new(Schema::new(fields.clone()));
        let id = KeyValue::new(SCHEMA_KEY.to_owned(), T::SCHEMA.to_owned());
        let properties = pinned().set_key_value_metadata(Some(vec![id])).build();
        let writer = ArrowWriter::try_new(AtomicFile::create(path)?, schema, Some(properties))
            .map_err(|e| write_error(path, &e))?;
        Ok(Self {
            path: path.to_owned(),
            fields,
            writer,
            pending: Vec::new(),
        })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// If the disk is full.
    pub fn push(&mut self, row: T) -> Result<(), ArtifactError> {
        self.pending.push(row);
        if self.pending.len() < ROW_GROUP_ROWS {
            return Ok(());
        }
        let group = std::mem::take(&mut self.pending);
        self.write_group(&group)
    }

    /// Writes what is left and gives the file its name.
    ///
    /// # Errors
    /// If the disk is full or the file cannot be renamed.
    pub fn finish(mut self) -> Result<(), ArtifactError> {
        let group = std::mem::take(&mut self.pending);
        if !group.is_empty() {
            self.write_group(&group)?;
        }
        let file = self.writer.into_inner();
        file.map_err(|e| write_error(&self.path, &e))?.publish()
    }

    fn write_group(&mut self, rows: &[T]) -> Result<(), ArtifactError> {
        let batch =
            serde_arrow::to_record_batch(&self.fields, &rows).map_err(|e| encode_error::<T>(&e))?;
        self.writer
            .write(&batch)
            .map_err(|e| write_error(&self.path, &e))
    }
}

fn encode_error<T: Table>(error: &dyn std::fmt::Display) -> ArtifactError {
    ArtifactError::Encode {
        schema: T::SCHEMA,
        message: error.to_string(),
    }
}

/// Parquet wraps operating-system errors; this brings them back so that a full disk is named.
fn write_error(path: &Path, error: &parquet::errors::ParquetError) -> ArtifactError {
    let source = match error {
        parquet::errors::ParquetError::External(inner) => {
            inner.downcast_ref::<std::io::Error>().map(|io| {
                io.raw_os_error().map_or_else(
                    || std::io::Error::new(io.kind(), io.to_string()),
                    std::io::Error::from_raw_os_error,
                )
            })
        }
        _ => None,
    };
    ArtifactError::io(
        "write",
        path,
        source.unwrap_or_else(|| std::io::Error::other(error.to_string())),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::{Message, PromptRow};

    #[test]
    fn rows_one_by_one_give_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let (whole, by_row) = (
            folder.path().join("w.parquet"),
            folder.path().join("r.parquet"),
        );
        for n in [0, 3, ROW_GROUP_ROWS + 1] {
            let rows: Vec<PromptRow> = (0..n)
                .map(|i| PromptRow::new(vec![Message::user(format!("q{i}"))], "train", "test"))
                .collect();
            write_table(&whole, &rows).unwrap();
            let mut writer = TableWriter::create(&by_row).unwrap();
            for row in rows {
                writer.push(row).unwrap();
            }
            writer.finish().unwrap();
            assert!(std::fs::read(&whole).unwrap() == std::fs::read(&by_row).unwrap());
        }
    }
}
