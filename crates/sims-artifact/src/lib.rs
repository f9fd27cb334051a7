//! Artifact schemas, Parquet and safetensors files, digests and the content-addressed store.
//!
//! Everything that a stage reads or writes is described here: [`tables`] has one row type a
//! Parquet artifact, [`tensors`] reads and writes safetensors, [`digest`] names bytes by their
//! BLAKE3 hash and [`store`] keeps them. Nothing here knows what a stage computes.
//!
//! Start with [`tables`] for the data and [`store`] for where it lives.

pub mod atomic_file;
pub mod canonical_json;
pub mod digest;
mod error;
pub mod model_manifest;
mod prompts;
pub mod schema;
pub mod store;
mod table;
mod table_writer;
pub mod tables;
pub mod tensors;

pub use canonical_json::canonical_json;
pub use digest::Digest;
pub use error::ArtifactError;
pub use model_manifest::ModelManifest;
pub use prompts::read_prompts;
pub use table::{Table, read_table, schema_id_of};
pub use table_writer::{TableWriter, write_columns, write_table};
pub use tensors::{TensorData, TensorFile, TensorSpec, TensorWriter, write_tensors};
