//! The tree of a pipeline file.

use serde_json::{Number, Value};

use super::{Diagnostic, Location};

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Yaml,
    /// Where it begins.
    pub at: Location,
}

/// A YAML value.
#[derive(Debug, Clone, PartialEq)]
pub enum Yaml {
    /// Nothing, `null` or `~`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// An integer or a finite float.
    Number(Number),
    /// A text.
    String(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping.
    Map(Map),
}

/// A mapping in the order it was written; keys are unique.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Map {
    /// The entries.
    pub entries: Vec<Entry>,
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key was written.
    pub key_at: Location,
    /// The value.
    pub value: Node,
}

impl Map {
    /// Returns the entry of `key`.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// Returns the keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.key.as_str())
    }
}

impl Yaml {
    /// Says in words what kind of value this is.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Number(number) if number.is_f64() => "a number",
            Self::Number(_) => "an integer",
            Self::String(_) => "a text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

impl Node {
    /// Says that `key` should hold `wanted` but holds this.
    pub fn wrong_type(&self, key: &str, wanted: &str) -> Diagnostic {
        Diagnostic::new(
            &self.at,
            format!("`{key}` must be {wanted}, but is {}", self.value.kind()),
        )
    }

    /// Returns the mapping under `key`; nothing counts as an empty one.
    ///
    /// # Errors
    /// If it is another kind of value.
    pub fn as_map(&self, key: &str) -> Result<&Map, Diagnostic> {
        const EMPTY: &Map = &Map {
            entries: Vec::new(),
        };
        match &self.value {
            Yaml::Map(map) => Ok(map),
            Yaml::Null => Ok(EMPTY),
            _ => Err(self.wrong_type(key, "a mapping")),
        }
    }

    /// Returns the text under `key`.
    ///
    /// # Errors
    /// If it is another kind of value.
    pub fn as_text(&self, key: &str) -> Result<&str, Diagnostic> {
        match &self.value {
            Yaml::String(text) => Ok(text),
            _ => Err(self.wrong_type(key, "a text")),
        }
    }

    /// Returns the integer under `key`, which is not negative.
    ///
    /// # Errors
    /// If it is another kind of value.
    pub fn as_integer(&self, key: &str) -> Result<u64, Diagnostic> {
        match &self.value {
            Yaml::Number(number) if number.is_u64() => Ok(number.as_u64().unwrap_or_default()),
            Yaml::Number(number) => Err(Diagnostic::new(
                &self.at,
                format!("`{key}` must be an integer from 0, but is {number}"),
            )),
            _ => Err(self.wrong_type(key, "an integer")),
        }
    }

    /// Converts to JSON, forgetting the places.
    pub fn to_json(&self) -> Value {
        match &self.value {
            Yaml::Null => Value::Null,
            Yaml::Bool(value) => Value::Bool(*value),
            Yaml::Number(number) => Value::Number(number.clone()),
            Yaml::String(text) => Value::String(text.clone()),
            Yaml::List(items) => Value::Array(items.iter().map(Self::to_json).collect()),
            Yaml::Map(map) => Value::Object(
                map.entries
                    .iter()
                    .map(|entry| (entry.key.clone(), entry.value.to_json()))
                    .collect(),
            ),
        }
    }
}
