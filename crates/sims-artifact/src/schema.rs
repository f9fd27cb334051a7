//! What an artifact looks like, in a form that people and programs read.

use std::sync::Arc;

use arrow_schema::{DataType, Field, FieldRef, Fields};
use serde::Serialize;

use crate::tables::Message;

/// One column of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ColumnSchema {
    /// The column's name.
    pub name: &'static str,
    /// Its type in words: `string`, `u32`, `list<u32>`, …
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Whether a value may be absent.
    pub nullable: bool,
    /// The unit of the values, where they have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// What the column means.
    pub meaning: String,
    /// The Arrow field that stores it.
    #[serde(skip)]
    pub field: FieldRef,
}

impl ColumnSchema {
    /// Describes column `name` of Rust type `T`; `doc` is its doc comment, whose last sentence may be `Unit: X.`.
    pub fn of<T: ColumnValue>(name: &'static str, doc: &str) -> Self {
        let doc = doc.trim();
        let (meaning, unit) = match doc.split_once("Unit:") {
            Some((meaning, unit)) => (meaning, Some(unit.trim().trim_end_matches('.').to_owned())),
            None => (doc, None),
        };
        Self {
            name,
            kind: T::KIND,
            nullable: T::NULLABLE,
            unit,
            meaning: meaning.trim().to_owned(),
            field: Arc::new(Field::new(name, T::data_type(), T::NULLABLE)),
        }
    }
}

/// One kind of table, such as `responses@1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TableSchema {
    /// Name and version.
    pub id: &'static str,
    /// What one row is.
    pub description: String,
    /// The columns, in file order.
    pub columns: Vec<ColumnSchema>,
}

impl TableSchema {
    /// Returns the Arrow fields in file order.
    pub fn fields(&self) -> Vec<FieldRef> {
        self.columns.iter().map(|c| c.field.clone()).collect()
    }
}

/// One tensor, or family of tensors, of a safetensors artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorColumn {
    /// The tensor's name; `{i}` stands for a layer.
    pub name: &'static str,
    /// Its dimensions by name.
    pub shape: &'static str,
    /// The types it may have.
    pub dtype: &'static str,
    /// What it holds.
    pub meaning: &'static str,
}

/// One kind of safetensors artifact, such as `states@1`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TensorsSchema {
    /// Name and version.
    pub id: &'static str,
    /// What the file is.
    pub description: &'static str,
    /// Its tensors.
    pub tensors: Vec<TensorColumn>,
    /// What the canonical JSON under the metadata key `sims` says.
    pub metadata: &'static str,
}

/// A Rust type that can be a column.
pub trait ColumnValue {
    /// The type in words, for the schema file.
    const KIND: &'static str;
    /// Whether a value may be absent.
    const NULLABLE: bool = false;
    /// The Arrow type that stores it.
    fn data_type() -> DataType;
}

macro_rules! scalar_column {
    ($($rust:ty => $kind:literal, $arrow:expr;)*) => {$(
        impl ColumnValue for $rust {
            const KIND: &'static str = $kind;
            fn data_type() -> DataType { $arrow }
        }
    )*};
}

scalar_column! {
    String => "string", DataType::Utf8;
    u32 => "u32", DataType::UInt32;
    u64 => "u64", DataType::UInt64;
    f64 => "f64", DataType::Float64;
    bool => "bool", DataType::Boolean;
    Vec<u32> => "list<u32>", DataType::List(Arc::new(Field::new("element", DataType::UInt32, false)));
    Vec<String> => "list<string>", DataType::List(Arc::new(Field::new("element", DataType::Utf8, false)));
    Vec<Message> => "list<struct<role: string, content: string>>", DataType::List(Arc::new(Field::new(
        "element",
        DataType::Struct(Fields::from(vec![
            Field::new("role", DataType::Utf8, false),
            Field::new("content", DataType::Utf8, false),
        ])),
        false,
    )));
}

impl<T: ColumnValue> ColumnValue for Option<T> {
    const KIND: &'static str = T::KIND;
    const NULLABLE: bool = true;
    fn data_type() -> DataType {
        T::data_type()
    }
}
