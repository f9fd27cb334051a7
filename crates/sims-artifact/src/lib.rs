//! Artifact schemas, Parquet and safetensors files, digests and the content-addressed store
