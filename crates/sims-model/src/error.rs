//! What can go wrong between a model directory and its logits.

use std::path::PathBuf;

use crate::memory::is_out_of_memory;
use crate::softmax::LogitsError;

/// The result of this crate's operations.
pub type Result<T> = std::result::Result<T, ModelError>;

/// An error of this crate, by what the caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file of the model directory cannot be read.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A file of the model directory is absent.
    #[error("{path} is missing: {needed_for}")]
    MissingFile {
        /// The file that was looked for.
        path: PathBuf,
        /// What it is needed for.
        needed_for: &'static str,
    },
    /// A JSON file of the model directory does not parse or has a value of the wrong type.
    #[error("{path} is not valid")]
    Json {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
    /// `config.json` lacks a key or has a value that this decoder does not compute.
    #[error("{path}: {key}: {message}")]
    Config {
        /// The file.
        path: PathBuf,
        /// The key, with dots between levels.
        key: String,
        /// What is wrong and what would be accepted.
        message: String,
    },
    /// A safetensors file is cut off or malformed.
    #[error("{path} is not a complete safetensors file")]
    WeightFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: safetensors::SafeTensorError,
    },
    /// A GGUF file is cut off within its header, or is none.
    #[error("{path} is not a complete GGUF file: {message}")]
    GgufFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A tensor of a GGUF file is not whole, not finite, or stored in a format that is not read.
    #[error("{path}: tensor {tensor} {message}")]
    GgufTensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// What is wrong.
        message: String,
    },
    /// A tensor that the config calls for is in no file.
    #[error("{path}: tensor {tensor} is missing")]
    MissingTensor {
        /// The file or index that should name it.
        path: PathBuf,
        /// The tensor's checkpoint name.
        tensor: String,
    },
    /// A file holds a tensor that the config does not call for.
    #[error("{path}: tensor {tensor} has no place in a model of this config")]
    ExtraTensor {
        /// The file.
        path: PathBuf,
        /// The tensor's checkpoint name.
        tensor: String,
    },
    /// A tensor's shape is not the one that the config implies.
    #[error("{path}: tensor {tensor} has shape {found:?}, the config implies {expected:?}")]
    TensorShape {
        /// The file.
        path: PathBuf,
        /// The tensor's checkpoint name.
        tensor: String,
        /// The shape that the config implies.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor is stored in a type that is not read.
    #[error("{path}: tensor {tensor} is stored as {found}; F32, F16 and BF16 are read")]
    TensorDtype {
        /// The file.
        path: PathBuf,
        /// The tensor's checkpoint name.
        tensor: String,
        /// The type in the file.
        found: String,
    },
    /// A weight is NaN or infinite.
    #[error("{path}: tensor {tensor} has the value {value} at element {element}")]
    NonFiniteWeight {
        /// The file.
        path: PathBuf,
        /// The tensor's checkpoint name.
        tensor: String,
        /// The flat index of the first such element.
        element: usize,
        /// NaN or an infinity.
        value: f32,
    },
    /// Two tensors that the config calls one and the same differ.
    #[error(
        "{path}: the config ties lm_head.weight to the embedding, but the file's two tensors differ"
    )]
    UntiedHead {
        /// The file.
        path: PathBuf,
    },
    /// An adapter does not fit the model.
    #[error("adapter: {module}: {message}")]
    Adapter {
        /// The linear layer.
        module: String,
        /// What is wrong, and what the model has.
        message: String,
    },
    /// The tokenizer cannot be read, or fails on a text.
    #[error("tokenizer: {message}")]
    Tokenizer {
        /// The tokenizer library's own words.
        message: String,
    },
    /// The tokenizer can make ids that the model has no embedding for.
    #[error("{path} knows {tokenizer} tokens, but the model's vocab_size is {model}")]
    VocabularyMismatch {
        /// The tokenizer file.
        path: PathBuf,
        /// One more than the highest id of the tokenizer.
        tokenizer: usize,
        /// The config's `vocab_size`.
        model: usize,
    },
    /// A chat or judge template is absent, malformed, or fails on these messages.
    #[error("{template} template: {message}")]
    Template {
        /// Which template: `chat` or `judge`.
        template: &'static str,
        /// What is wrong.
        message: String,
    },
    /// A batch breaks one of the rules that [`Batch`](crate::Batch) states.
    #[error("segment {segment}: {message}")]
    Batch {
        /// The segment's index in the batch.
        segment: usize,
        /// The rule it breaks, with the values.
        message: String,
    },
    /// A sequence is longer than the model's context.
    #[error("a sequence of {tokens} tokens does not fit the model's context of {limit}")]
    TooLong {
        /// The sequence's length in tokens.
        tokens: usize,
        /// The config's `max_position_embeddings`.
        limit: usize,
    },
    /// One of several sequences is longer than the model's context.
    #[error("sequence {sequence} of {tokens} tokens does not fit the model's context of {limit}")]
    SequenceTooLong {
        /// The sequence's index in the request.
        sequence: usize,
        /// Its length in tokens.
        tokens: usize,
        /// The config's `max_position_embeddings`.
        limit: usize,
    },
    /// A prompt leaves no room in the model's context for its response.
    #[error(
        "prompt {request} of {prompt_tokens} tokens and {max_new_tokens} new ones do not fit the model's context of {limit}"
    )]
    PromptTooLong {
        /// The index of the request.
        request: usize,
        /// The prompt's length in tokens.
        prompt_tokens: usize,
        /// The most tokens that a response may have.
        max_new_tokens: usize,
        /// The config's `max_position_embeddings`.
        limit: usize,
    },
    /// No token can be chosen from a row of logits.
    #[error("request {request}, sample {sample}, new token {step}")]
    Sampling {
        /// The index of the request.
        request: usize,
        /// The index of the sample in the request.
        sample: usize,
        /// The index of the token in the response.
        step: usize,
        /// What is wrong with the logits.
        #[source]
        source: LogitsError,
    },
    /// No probability can be read from a row of logits.
    #[error("sequence {sequence}, position {position}")]
    Scoring {
        /// The sequence's index in the request.
        sequence: usize,
        /// The position whose next token is scored.
        position: usize,
        /// What is wrong with the logits.
        #[source]
        source: LogitsError,
    },
    /// A request has no tokens to run.
    #[error("sequence {sequence} is empty")]
    EmptySequence {
        /// The sequence's index in the request.
        sequence: usize,
    },
    /// A setting is out of its range.
    #[error("{setting}: {message}")]
    Setting {
        /// The setting's name.
        setting: &'static str,
        /// What is wrong with its value.
        message: String,
    },
    /// A hook failed, or gave back a tensor of another shape or type.
    #[error("hook at layer {layer}: {message}")]
    Hook {
        /// The 0-based layer.
        layer: usize,
        /// What went wrong.
        message: String,
    },
    /// A hook was handed over that wants none of the decoder's layers, and so would do nothing.
    #[error("the hook wants none of the decoder's {layers} layers")]
    IdleHook {
        /// The decoder's number of layers.
        layers: usize,
    },
    /// The device asked for cannot be opened.
    #[error("device {device} cannot be used: {message}")]
    Device {
        /// The device as asked for.
        device: String,
        /// The cause.
        message: String,
    },
    /// The caller asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// The device has no memory left for what was asked of it; less at once may fit.
    #[error("out of memory: {message}")]
    OutOfMemory {
        /// What did not fit.
        message: String,
    },
    /// A tensor operation failed: a fault of this crate.
    #[error(transparent)]
    Tensor(candle_core::Error),
}

impl From<candle_core::Error> for ModelError {
    fn from(error: candle_core::Error) -> Self {
        if is_out_of_memory(&error) {
            let message = error.to_string();
            Self::OutOfMemory { message }
        } else {
            Self::Tensor(error)
        }
    }
}
