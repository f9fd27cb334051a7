//! The stage protocol: describe, flags, inputs and outputs, progress, summary.
//!
//! A stage is an executable: files in, files out. This crate turns a type that implements
//! [`Stage`] into such an executable with [`main`]; the runner knows stages only through what it
//! prints here, so a stage may as well be a script in another language.
//!
//! - `STAGE describe` prints a [`Description`] as JSON.
//! - `STAGE --ROLE PATH… --PARAM VALUE… --out DIR` does the work: every output is written to a
//!   temporary place and moved into `DIR` at the end, `summary.json` last.
//! - A stage whose description has `units` works in [chunks](StageIo::chunks), which outlive it.
//! - Exit code 0; 2 for wrong usage or bad input; 75 for a failure worth retrying; 1 for the rest.
//!
//! Flags, pipeline keys and the JSON Schema come from one struct, made with [`params!`].

mod chunks;
mod describe;
mod energy;
mod exit;
mod io;
mod params;
mod parts;
mod progress;
mod run;
mod summary;

pub use chunks::{ChunkNote, Compute, ComputeRows, Place, Units};
pub use describe::{Description, Numerics, Role, RoleDescription, UnitsDescription};
pub use energy::Energy;
pub use exit::{BadInput, Interrupted, Retryable};
pub use io::StageIo;
pub use params::List;
pub use progress::Progress;
pub use run::{Stage, main};
pub use summary::Summary;

#[doc(hidden)]
pub use {clap, schemars, serde};
