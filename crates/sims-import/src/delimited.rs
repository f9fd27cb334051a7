//! Comma- and tab-separated values with a header.

use std::sync::atomic::AtomicU64;

use csv::{ErrorKind, ReaderBuilder, StringRecord};
use serde_json::{Map, Value};
use sims_artifact::ArtifactError;

use crate::columns::{Column, Kind, Mapping};
use crate::reader::{PromptFile, Visit};
use crate::{ImportError, Record};

/// Reads one record a row; quoted cells may span lines.
pub(crate) fn rows(
    file: &PromptFile,
    delimiter: u8,
    read_bytes: &AtomicU64,
    visit: Visit<'_>,
) -> Result<Option<Mapping>, ImportError> {
    let mut reader = ReaderBuilder::new()
        .delimiter(delimiter)
        .from_reader(file.text(read_bytes)?);
    let header = reader.headers().map_err(|e| csv_error(file, e))?.clone();
    if header.is_empty() {
        return Ok(None);
    }
    let columns: Vec<Column> = header
        .iter()
        .map(|name| Column {
            name: name.to_owned(),
            kind: Kind::Text,
        })
        .collect();
    let mapping = Mapping::choose(file.path(), &columns, file.columns(), true)?;
    let wanted: Vec<usize> = (0..header.len())
        .filter(|&index| mapping.reads(&header[index]))
        .collect();
    let (mut row, mut any) = (StringRecord::new(), false);
    while reader
        .read_record(&mut row)
        .map_err(|e| csv_error(file, e))?
    {
        any = true;
        let cells: Map<String, Value> = wanted
            .iter()
            .map(|&index| (header[index].to_owned(), Value::from(&row[index])))
            .collect();
        let line = row.position().map_or(0, csv::Position::line);
        visit(&mapping, Record::of(cells, &mapping, &file.place(line))?)?;
    }
    Ok(any.then_some(mapping))
}

fn csv_error(file: &PromptFile, error: csv::Error) -> ImportError {
    let line = error.position().map_or(1, csv::Position::line);
    let message = error.to_string();
    match error.into_kind() {
        ErrorKind::Io(source) => ArtifactError::io("read", file.path(), source).into(),
        ErrorKind::UnequalLengths {
            expected_len, len, ..
        } => ImportError::Malformed {
            place: file.place(line),
            message: format!(
                "{len} cells where the header has {expected_len}; put cells that hold the separator or a line \
                 break into double quotes"
            ),
        },
        ErrorKind::Utf8 { err, .. } => ImportError::Malformed {
            place: file.place(line),
            message: format!(
                "cell {} is not UTF-8 from its byte {} on; convert the file, for example with \
                 `iconv -f WINDOWS-1252 -t UTF-8`",
                err.field() + 1,
                err.valid_up_to() + 1
            ),
        },
        _ => ImportError::Malformed {
            place: file.place(line),
            message,
        },
    }
}
