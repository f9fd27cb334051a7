//! A model directory, opened: decoder, tokenizer, templates and generation defaults.

use std::path::{Path, PathBuf};

use candle_core::Device;

use crate::{ChatTemplate, Decoder, Dtype, JudgeTemplate, Result, Tokenizer};

/// How to load a model.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where the weights go.
    pub device: Device,
    /// The type that weights are held in.
    pub dtype: Dtype,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            device: Device::Cpu,
            dtype: Dtype::F32,
        }
    }
}

/// The device that a user asks for: `auto`, `cpu`, `cuda` or `cuda:N`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device if this build and machine have one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA device with this number.
    Cuda(usize),
}

/// The defaults of `generation_config.json`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// Tokens that end a response.
    pub eos_token_ids: Vec<u32>,
}

/// A Hugging Face model directory, opened.
pub struct LanguageModel {
    directory: PathBuf,
    decoder: Decoder,
    tokenizer: Tokenizer,
    generation_config: GenerationConfig,
}

impl LanguageModel {
    /// Opens the model in `directory`.
    ///
    /// # Errors
    /// A [`ModelError`](crate::ModelError) with the file, and where it applies the key or tensor, at fault.
    pub fn load(_directory: &Path, _options: &LoadOptions) -> Result<Self> {
        todo!()
    }

    /// Returns the directory that the model was opened from.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the decoder.
    pub fn decoder(&self) -> &Decoder {
        &self.decoder
    }

    /// Returns the tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Returns the chat template.
    ///
    /// # Errors
    /// [`ModelError::Template`](crate::ModelError::Template) when the model has none.
    pub fn chat_template(&self) -> Result<&ChatTemplate> {
        todo!()
    }

    /// Returns the generation defaults.
    pub fn generation_config(&self) -> &GenerationConfig {
        &self.generation_config
    }

    /// Returns the judge template that comes with the model, if one does.
    pub fn judge_template(&self) -> Option<&JudgeTemplate> {
        todo!()
    }
}
