//! Reads the records of a file one after another, whatever its format.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sims_artifact::ArtifactError;

use crate::columns::{ColumnFlags, Mapping};
use crate::format::{BYTE_ORDER_MARK, Format};
use crate::{ImportError, Place, Record, delimited, json, parquet_file};

/// A file of prompts.
#[derive(Debug, Clone)]
pub struct PromptFile {
    path: Arc<PathBuf>,
    format: Format,
    columns: ColumnFlags,
    bytes: u64,
}

/// Takes a record and the columns that it was read from; an error ends the reading.
pub(crate) type Visit<'a> = &'a mut dyn FnMut(&Mapping, Record) -> Result<(), ImportError>;

impl PromptFile {
    /// Looks at the file at `path`; `format` says what it is where its name and first bytes do not.
    ///
    /// # Errors
    /// As [`Format::of`].
    pub fn open(
        path: &Path,
        format: Option<Format>,
        columns: &ColumnFlags,
    ) -> Result<Self, ImportError> {
        let found = Format::of(path);
        let format = match (format, found) {
            (Some(format), Ok(_) | Err(ImportError::UnknownFormat { .. })) => format,
            (_, found) => found?,
        };
        let metadata = path
            .metadata()
            .map_err(|e| ArtifactError::io("read", path, e))?;
        Ok(Self {
            path: Arc::new(path.to_owned()),
            format,
            columns: columns.clone(),
            bytes: metadata.len(),
        })
    }

    /// Returns the file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the file's size. Unit: bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reads every record in order; `read_bytes` follows how much of the file has been read.
    ///
    /// # Errors
    /// A record that cannot be read, with its place; a file without records; the first error of `visit`.
    pub fn read(
        &self,
        read_bytes: &AtomicU64,
        visit: &mut dyn FnMut(&Mapping, Record) -> Result<(), ImportError>,
    ) -> Result<Mapping, ImportError> {
        let mapping = match self.format {
            Format::Jsonl => json::lines(self, read_bytes, visit)?,
            Format::Json => json::array(self, read_bytes, visit)?,
            Format::Csv => delimited::rows(self, b',', read_bytes, visit)?,
            Format::Tsv => delimited::rows(self, b'\t', read_bytes, visit)?,
            Format::Parquet => parquet_file::rows(self, read_bytes, visit)?,
        };
        mapping.ok_or_else(|| ImportError::NoRecords {
            path: self.path().to_owned(),
        })
    }

    pub(crate) fn columns(&self) -> &ColumnFlags {
        &self.columns
    }

    /// Returns the place of a record.
    #[must_use]
    pub fn place(&self, number: u64) -> Place {
        Place {
            file: Arc::clone(&self.path),
            unit: match self.format {
                Format::Jsonl | Format::Csv | Format::Tsv => "line",
                Format::Json => "record",
                Format::Parquet => "row",
            },
            number,
        }
    }

    pub(crate) fn file(&self) -> Result<File, ImportError> {
        let file = File::open(self.path());
        Ok(file.map_err(|e| ArtifactError::io("open", self.path(), e))?)
    }

    /// Opens the file as text: without a byte order mark, counting what is read.
    pub(crate) fn text<'a>(&self, read_bytes: &'a AtomicU64) -> Result<Text<'a>, ImportError> {
        let mut text = BufReader::with_capacity(
            1 << 20,
            Counted {
                file: self.file()?,
                read_bytes,
            },
        );
        let start = text.fill_buf();
        let start = start.map_err(|e| ArtifactError::io("read", self.path(), e))?;
        if start.starts_with(BYTE_ORDER_MARK) {
            text.consume(BYTE_ORDER_MARK.len());
        }
        Ok(text)
    }
}

/// A text file, read with a buffer.
pub(crate) type Text<'a> = BufReader<Counted<'a>>;

/// A file that says how much of it has been read.
pub(crate) struct Counted<'a> {
    file: File,
    read_bytes: &'a AtomicU64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.read_bytes.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}
