//! One decoder with hooks for many model families: config, weights, tokenizer, KV cache, generation.
//!
//! Start at [`LanguageModel`], which opens a Hugging Face directory, and at [`Decoder::forward`],
//! which is the whole computation. Rows of many sequences are laid one after another without
//! padding ([`Batch`]); keys and values live in a [`KvCache`] that the caller owns; a [`Hook`] reads
//! or replaces the residual stream after any block. Nothing here knows about steering or judging.
//!
//! On the CPU the decoder runs on own kernels ([`ops`]), whose result for a row does not depend on
//! the batch around it, the number of threads or the instruction set. On other devices it runs on
//! candle's operations.

pub mod adapter;
pub mod batch;
pub mod capture;
pub mod chat_template;
pub mod config;
pub mod decoder;
pub mod error;
pub mod generate;
pub mod gguf;
pub mod gpu;
pub mod hook;
pub mod judge_template;
pub mod kv_cache;
pub mod language_model;
pub mod memory;
pub mod ops;
mod prefix_tree;
pub mod rng;
pub mod rope;
pub mod sampler;
pub mod score;
pub mod slots;
pub mod softmax;
pub mod tokenizer;
pub mod weights;

pub use adapter::{Adapter, LinearLayer, LowRank, Module};
pub use batch::{Batch, Segment};
pub use candle_core::{Device, Tensor};
pub use chat_template::{ChatMessage, ChatTemplate};
pub use config::Config;
pub use decoder::{Decoder, Dtype, Kernels, TracedDecoder};
pub use error::{ModelError, Result};
pub use hook::{Hook, Site};
pub use judge_template::JudgeTemplate;
pub use kv_cache::KvCache;
pub use language_model::{
    DeviceChoice, GenerationConfig, LanguageModel, LoadOptions, numerics_class,
};
pub use tokenizer::Tokenizer;
