//! Pipeline files as trees that remember where everything was written.

mod diagnostic;
mod node;
mod overlay;
mod parse;
mod variants;

pub use diagnostic::{Diagnostic, Diagnostics, Location, SourceFile, nearest};
pub use node::{Entry, Map, Node, Yaml};
pub(crate) use overlay::is_full_form;
pub use overlay::load;
#[cfg(test)]
pub(crate) use parse::parse;
pub(crate) use variants::{Variant, variants};
