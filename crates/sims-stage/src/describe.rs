//! What a stage says about itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::run::Stage;

/// A named input or output of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// The name: a flag for an input, a file name for an output.
    pub name: &'static str,
    /// The schema id, such as `responses@1`; `model` for a model folder.
    pub schema: &'static str,
    /// Whether the stage cannot run without it.
    pub required: bool,
    /// Whether it may be given several times.
    pub many: bool,
    /// What it is, for `--help`.
    pub help: &'static str,
}

impl Role {
    /// An input or output that must be there.
    pub const fn required(name: &'static str, schema: &'static str, help: &'static str) -> Self {
        Self {
            name,
            schema,
            required: true,
            many: false,
            help,
        }
    }

    /// An input that may be left out.
    pub const fn optional(name: &'static str, schema: &'static str, help: &'static str) -> Self {
        Self {
            required: false,
            ..Self::required(name, schema, help)
        }
    }

    /// Returns the same role, to be given any number of times.
    pub const fn many(self) -> Self {
        Self { many: true, ..self }
    }

    /// Whether the artifact is a safetensors file rather than a table.
    pub fn is_tensors(&self) -> bool {
        is_tensors(self.schema)
    }
}

fn is_tensors(schema: &str) -> bool {
    ["states@", "steering@", "adapter@"]
        .iter()
        .any(|kind| schema.starts_with(kind))
}

/// What the output bytes of a stage depend on beside its inputs and parameters.
#[derive(Debug, Clone, Copy)]
pub enum Numerics {
    /// Nothing: pure data work, the same bytes everywhere.
    Exact,
    /// The arithmetic of a model's forward pass; the function tells the class of a `--device`.
    Model(fn(&str) -> &'static str),
}

impl Numerics {
    /// Returns the numerics class on `device` (`cpu`, `auto` or `cuda[:N[,M]]`); empty for exact stages.
    pub fn class(self, device: &str) -> &'static str {
        match self {
            Self::Exact => "",
            Self::Model(class_of) => class_of(crate::parts::devices(device)[0]),
        }
    }
}

/// The JSON that `STAGE describe` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Description {
    /// The stage's name, such as `sample`.
    pub stage: String,
    /// One sentence on what it does.
    #[serde(default)]
    pub about: String,
    /// Raised whenever the same inputs would give other bytes.
    pub behaviour: u32,
    /// Inputs by role.
    pub inputs: BTreeMap<String, RoleDescription>,
    /// Outputs by role.
    pub outputs: BTreeMap<String, RoleDescription>,
    /// JSON Schema of the parameters, with defaults and help.
    pub params: Value,
    /// Numerics class that the output bytes depend on; empty for pure data stages.
    #[serde(default)]
    pub numerics: String,
    /// What the units of its work make up for, if it works in chunks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<UnitsDescription>,
}

/// The inputs and parameters that matter to a unit of a stage's work only as the unit's digest says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitsDescription {
    /// Roles of inputs.
    #[serde(default)]
    pub inputs: Vec<String>,
    /// Names of parameters.
    #[serde(default)]
    pub params: Vec<String>,
}

/// An input or output in a [`Description`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleDescription {
    /// The schema id; `model` for a model folder.
    pub schema: String,
    /// Whether the stage cannot run without the input, or always writes the output.
    #[serde(default)]
    pub required: bool,
    /// Whether there may be several.
    #[serde(default)]
    pub many: bool,
    /// What it is.
    #[serde(default)]
    pub help: String,
}

impl RoleDescription {
    /// Returns the extension of its file: `safetensors` or `parquet`.
    pub fn extension(&self) -> &'static str {
        extension(&self.schema)
    }
}

/// Returns the file extension of artifacts of `schema`.
pub(crate) fn extension(schema: &str) -> &'static str {
    if is_tensors(schema) {
        "safetensors"
    } else {
        "parquet"
    }
}

impl Description {
    /// Describes stage `S` as it runs on `device`.
    pub fn of<S: Stage>(device: &str) -> Self {
        let described = |roles: Vec<Role>| {
            roles
                .into_iter()
                .map(|role| {
                    let description = RoleDescription {
                        schema: role.schema.to_owned(),
                        required: role.required,
                        many: role.many,
                        help: role.help.to_owned(),
                    };
                    (role.name.to_owned(), description)
                })
                .collect()
        };
        Self {
            stage: S::NAME.to_owned(),
            about: S::ABOUT.to_owned(),
            behaviour: S::BEHAVIOUR,
            inputs: described(S::inputs()),
            outputs: described(S::outputs()),
            params: without_null(schemars::schema_for!(S::Params).to_value()),
            numerics: S::NUMERICS.class(device).to_owned(),
            units: S::UNITS.map(|units| UnitsDescription {
                inputs: units.inputs.iter().map(|&role| role.to_owned()).collect(),
                params: units.params.iter().map(|&name| name.to_owned()).collect(),
            }),
        }
    }
}

/// Takes `null` from what parameters may be: one without a default is left out, never null.
fn without_null(mut schema: Value) -> Value {
    let is_null = |form: &Value| form == "null" || form["type"] == "null";
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    for property in properties.into_iter().flat_map(|all| all.values_mut()) {
        for keyword in ["type", "anyOf"] {
            if let Some(Value::Array(forms)) = property.get_mut(keyword) {
                forms.retain(|form| !is_null(form));
            }
        }
        if let Some(Value::Array(types)) = property.get("type")
            && let [only] = &types[..]
        {
            property["type"] = only.clone();
        }
    }
    schema
}
