//! Parquet, batch by batch; only the wanted columns are decoded.

use std::sync::atomic::{AtomicU64, Ordering};

use arrow_array::cast::AsArray;
use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use serde_json::{Map, Value};

use crate::columns::{Column, Kind, Mapping};
use crate::reader::{PromptFile, Visit};
use crate::{ImportError, Record};

/// Rows decoded at once.
const BATCH_ROWS: usize = 1024;

/// Reads one record a row.
pub(crate) fn rows(
    file: &PromptFile,
    read_bytes: &AtomicU64,
    visit: Visit<'_>,
) -> Result<Option<Mapping>, ImportError> {
    let unreadable = |message: String| ImportError::Unreadable {
        path: file.path().to_owned(),
        format: "Parquet",
        message,
    };
    // Without the writer's own Arrow types every text is `Utf8` and every list `List`.
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(file.file()?, options)
        .map_err(|e| unreadable(format!("{e} (cut short or damaged?)")))?;
    let schema = builder.schema().clone();
    let columns: Vec<Column> = schema
        .fields()
        .iter()
        .map(|field| Column {
            name: field.name().clone(),
            kind: kind_of(field.data_type()),
        })
        .collect();
    let mapping = Mapping::choose(file.path(), &columns, file.columns(), false)?;
    let wanted = (0..columns.len()).filter(|&index| mapping.reads(&columns[index].name));
    let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
    let total = builder.metadata().file_metadata().num_rows().max(1) as u64;
    let batches = builder
        .with_projection(mask)
        .with_batch_size(BATCH_ROWS)
        .build()
        .map_err(|e| unreadable(e.to_string()))?;
    let (mut number, mut counted) = (0, 0);
    for batch in batches {
        let batch = batch.map_err(|e| {
            unreadable(format!(
                "{e}; if its compression is not supported, write it again with snappy or zstd"
            ))
        })?;
        for row in 0..batch.num_rows() {
            number += 1;
            let record = Record::of(cells(&batch, row), &mapping, &file.place(number))?;
            visit(&mapping, record)?;
        }
        let read = (u128::from(file.bytes()) * u128::from(number) / u128::from(total)) as u64;
        read_bytes.fetch_add(read - counted, Ordering::Relaxed);
        counted = read;
    }
    Ok((number > 0).then_some(mapping))
}

fn kind_of(data_type: &DataType) -> Kind {
    match data_type {
        DataType::Utf8 => Kind::Text,
        DataType::List(item)
            if matches!(item.data_type(), DataType::Utf8 | DataType::Struct(_)) =>
        {
            Kind::Turns
        }
        DataType::Binary => Kind::Other("bytes without a text annotation".to_owned()),
        other => Kind::Other(other.to_string()),
    }
}

fn cells(batch: &RecordBatch, row: usize) -> Map<String, Value> {
    let schema = batch.schema_ref();
    let columns = schema.fields().iter().zip(batch.columns());
    columns
        .map(|(field, column)| (field.name().clone(), value_of(column, row)))
        .collect()
}

/// Returns a text, or a list of texts and objects of texts, as JSON; anything else is null.
fn value_of(array: &dyn Array, row: usize) -> Value {
    if array.is_null(row) {
        return Value::Null;
    }
    if let Some(texts) = array.as_string_opt::<i32>() {
        return Value::from(texts.value(row));
    }
    if let Some(lists) = array.as_list_opt::<i32>() {
        let items = lists.value(row);
        return (0..items.len()).map(|i| value_of(&items, i)).collect();
    }
    if let Some(object) = array.as_struct_opt() {
        let columns = object.fields().iter().zip(object.columns());
        let entries = columns.map(|(field, column)| (field.name().clone(), value_of(column, row)));
        return Value::Object(entries.collect());
    }
    Value::Null
}
