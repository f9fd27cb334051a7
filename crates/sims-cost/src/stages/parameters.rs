//! Parameters of a stage by name, whatever their spelling.

use serde_json::{Map, Value};

use crate::card::Dtype;

/// The parameters of a stage.
#[derive(Debug, Clone, Copy)]
pub struct Parameters<'a>(pub &'a Map<String, Value>);

impl<'a> Parameters<'a> {
    fn get(self, name: &str) -> Option<&'a Value> {
        self.0
            .get(name)
            .or_else(|| self.0.get(&name.replace('-', "_")))
    }

    /// Returns a number; 0 where there is none.
    pub fn number(self, name: &str) -> f64 {
        self.get(name).and_then(Value::as_f64).unwrap_or(0.0)
    }

    /// Returns a text; empty where there is none.
    pub fn text(self, name: &str) -> &'a str {
        self.get(name).and_then(Value::as_str).unwrap_or_default()
    }

    /// Returns how many entries a list has.
    pub fn entries(self, name: &str) -> usize {
        self.get(name).and_then(Value::as_array).map_or(0, Vec::len)
    }

    /// Tells whether a list of texts has an entry.
    pub fn lists(self, name: &str, entry: &str) -> bool {
        let list = self.get(name).and_then(Value::as_array);
        list.is_some_and(|list| list.iter().any(|item| item == entry))
    }

    /// Returns the type of the weights; f32 where the stage has no choice.
    pub fn dtype(self) -> Dtype {
        match self.text("dtype") {
            "bf16" => Dtype::Bf16,
            _ => Dtype::F32,
        }
    }
}
