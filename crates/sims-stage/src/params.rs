//! Parameters: one declaration gives flags, pipeline keys, JSON Schema and defaults.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// Declares a stage's parameters.
///
/// Each field has a doc comment (its help), a type with `Display` and `FromStr`, and a default.
/// Those after `optional` have no default: they are `None` and no part of what a run is known by
/// unless they are given, so that adding one changes no earlier run.
/// The calling crate needs `clap`, `serde` and `schemars` among its dependencies.
///
/// ```ignore
/// sims_stage::params! {
///     /// How responses are sampled.
///     pub struct SampleParams {
///         /// Responses a prompt
///         samples: u32 = 10,
///     }
///     optional {
///         /// Stop after this many tokens
///         budget: u32,
///     }
/// }
/// ```
#[macro_export]
macro_rules! params {
    (
        $(#[doc = $doc:literal])+
        pub struct $name:ident {
            $( $(#[doc = $field_doc:literal])+ $field:ident : $kind:ty = $default:expr ),* $(,)?
        }
        $( optional {
            $( $(#[doc = $optional_doc:literal])+ $optional:ident : $optional_kind:ty ),* $(,)?
        } )?
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, PartialEq, clap::Args, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
        pub struct $name {
            $(
                $(#[doc = $field_doc])+
                #[arg(long, default_value_t = $default, action = clap::ArgAction::Set, allow_negative_numbers = true)]
                pub $field: $kind,
            )*
            $($(
                $(#[doc = $optional_doc])+
                #[arg(long, action = clap::ArgAction::Set, allow_negative_numbers = true)]
                #[serde(skip_serializing_if = "Option::is_none")]
                pub $optional: Option<$optional_kind>,
            )*)?
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )* $($( $optional: None, )*)? }
            }
        }
    };
}

/// Declares a parameter that is one of several words.
///
/// ```ignore
/// sims_stage::choice! {
///     /// Which pairs are compared.
///     pub enum Schedule {
///         /// Every pair
///         All = "all",
///     }
/// }
/// ```
#[macro_export]
macro_rules! choice {
    (
        $(#[doc = $doc:literal])+
        pub enum $name:ident {
            $( $(#[doc = $variant_doc:literal])+ $variant:ident = $text:literal ),+ $(,)?
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        pub enum $name {
            $( $(#[doc = $variant_doc])+ #[serde(rename = $text)] $variant, )+
        }

        impl $name {
            /// Every choice, as it is written.
            pub const CHOICES: &'static [&'static str] = &[$($text),+];
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self { $( Self::$variant => $text, )+ })
            }
        }

        impl std::str::FromStr for $name {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                match text {
                    $( $text => Ok(Self::$variant), )+
                    _ => Err(format!("`{text}` is not one of {}", Self::CHOICES.join(", "))),
                }
            }
        }
    };
}

/// A list of values: `a,b,c` on the command line, a sequence in a pipeline file.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct List<T>(pub Vec<T>);

impl<T: fmt::Display> fmt::Display for List<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, item) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            item.fmt(f)?;
        }
        Ok(())
    }
}

impl<T: FromStr> FromStr for List<T>
where
    T::Err: fmt::Display,
{
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',')
            .map(str::trim)
            .filter(|item| !item.is_empty())
            .map(|item| item.parse().map_err(|e| format!("`{item}`: {e}")))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl<T: JsonSchema> JsonSchema for List<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("List_of_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "array", "items": generator.subschema_for::<T>()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_parse_what_they_print() {
        let list: List<u32> = "1, 2,3".parse().unwrap();
        assert_eq!(list, List(vec![1, 2, 3]));
        assert_eq!(list.to_string().parse::<List<u32>>().unwrap(), list);
        assert_eq!("".parse::<List<u32>>().unwrap(), List(vec![]));
        assert!("1,x".parse::<List<u32>>().unwrap_err().contains("`x`"));
    }
}
