//! The subcommands.

pub(crate) mod alpaca;
pub(crate) mod alpaca_annotate;
pub(crate) mod alpaca_judged;
pub(crate) mod alpaca_outputs;
pub(crate) mod arena_hard;

use std::io::Write;

/// Says something that is not the result.
fn note(message: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{message}");
}
