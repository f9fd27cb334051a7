//! A model directory, opened: decoder, tokenizer, templates and generation defaults.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use candle_core::Device;
use serde_json::{Map, Value};

use crate::config::{read_text, token_ids};
use crate::decoder::Kernels;
use crate::gguf::is_gguf;
use crate::{
    Adapter, ChatTemplate, Config, Decoder, Dtype, JudgeTemplate, ModelError, Result, Tokenizer,
};

/// How to load a model.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Where the weights go; of several, each holds a run of blocks.
    pub devices: Vec<Device>,
    /// The type that weights are held in.
    pub dtype: Dtype,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            devices: vec![Device::Cpu],
            dtype: Dtype::F32,
        }
    }
}

/// The device that a user asks for: `auto`, `cpu`, `cuda`, `cuda:N`, or several as `cuda:0,1`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first CUDA device if this build and machine have one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The CUDA devices with these numbers; of several, each holds a run of blocks.
    Cuda(Vec<usize>),
}

impl DeviceChoice {
    /// Opens the devices, of which there is at least one.
    ///
    /// # Errors
    /// [`ModelError::Device`] for a CUDA device that this build or machine does not have.
    pub fn open(&self) -> Result<Vec<Device>> {
        let refused = |error: candle_core::Error| {
            ModelError::Device {
            device: self.to_string(),
            message: match cfg!(feature = "cuda") {
                true => error.to_string(),
                false => "this program was built without CUDA; build it with --features sims-model/cuda, or \
                          choose cpu"
                    .to_owned(),
            },
        }
        };
        match self {
            Self::Auto => Ok(vec![Device::new_cuda(0).unwrap_or(Device::Cpu)]),
            Self::Cpu => Ok(vec![Device::Cpu]),
            Self::Cuda(numbers) => numbers
                .iter()
                .map(|&number| Device::new_cuda(number).map_err(refused))
                .collect(),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
                write!(f, "cuda:{}", numbers.join(","))
            }
        }
    }
}

impl FromStr for DeviceChoice {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self> {
        let numbers = |text: &str| {
            let numbers: Option<Vec<usize>> =
                text.split(',').map(|number| number.parse().ok()).collect();
            // A device that is named twice would hold two runs of blocks.
            numbers
                .filter(|numbers| (1..numbers.len()).all(|i| !numbers[..i].contains(&numbers[i])))
        };
        match text {
            "auto" => Some(Self::Auto),
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(vec![0])),
            _ => text.strip_prefix("cuda:").and_then(numbers).map(Self::Cuda),
        }
        .ok_or_else(|| {
            let message = format!("`{text}` is none of auto, cpu, cuda, cuda:N, cuda:N,M");
            ModelError::Setting {
                setting: "device",
                message,
            }
        })
    }
}

/// Returns the class of the arithmetic on `device`: `cuda`, or `cpu` for any other text.
///
/// Bytes that a forward pass decides are equal within a class. `auto` is resolved as
/// [`DeviceChoice::open`] resolves it, so that what a CUDA device computed is never taken for the CPU's.
pub fn numerics_class(device: &str) -> &'static str {
    match device.parse() {
        Ok(DeviceChoice::Cuda(_)) => "cuda",
        Ok(choice @ DeviceChoice::Auto)
            if choice.open().is_ok_and(|opened| opened[0].is_cuda()) =>
        {
            "cuda"
        }
        _ => "cpu",
    }
}

/// Sets how many threads the CPU kernels and the tokenizer use; for the start of a program.
///
/// Results do not depend on it. Without it, `RAYON_NUM_THREADS` or the machine decides.
///
/// # Errors
/// [`ModelError::Setting`] when the threads are running already.
pub fn set_threads(threads: usize) -> Result<()> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads)
        .build_global()
        .map_err(|error| ModelError::Setting {
            setting: "threads",
            message: error.to_string(),
        })
}

/// The defaults of `generation_config.json`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// Tokens that end a response.
    pub eos_token_ids: Vec<u32>,
}

impl GenerationConfig {
    /// Reads `generation_config.json` in `directory`, or takes the end-of-text tokens that `config` names.
    ///
    /// # Errors
    /// [`ModelError::Json`] or [`ModelError::Config`] for a file that does not parse.
    pub fn open(directory: &Path, config: &Config) -> Result<Self> {
        Ok(Self::read(directory)?.unwrap_or_else(|| Self::from(config)))
    }

    /// Reads `generation_config.json` in `directory`, where it exists and names end-of-text tokens.
    fn read(directory: &Path) -> Result<Option<Self>> {
        let path = directory.join("generation_config.json");
        if !path.exists() {
            return Ok(None);
        }
        let text = read_text(&path, "it names the tokens that end a response")?;
        let keys: Map<String, Value> =
            serde_json::from_str(&text).map_err(|source| ModelError::Json {
                path: path.clone(),
                source,
            })?;
        let eos_token_ids = token_ids(&keys, "eos_token_id", &path)?;
        Ok((!eos_token_ids.is_empty()).then_some(Self { eos_token_ids }))
    }
}

impl From<&Config> for GenerationConfig {
    fn from(config: &Config) -> Self {
        Self {
            eos_token_ids: config.eos_token_ids.clone(),
        }
    }
}

/// A Hugging Face model directory or GGUF file, opened.
pub struct LanguageModel {
    directory: PathBuf,
    decoder: Decoder,
    tokenizer: Tokenizer,
    chat_template: Option<ChatTemplate>,
    generation_config: GenerationConfig,
    judge_template: Option<JudgeTemplate>,
}

impl LanguageModel {
    /// Opens the model in `directory`, or a GGUF file.
    ///
    /// # Errors
    /// A [`ModelError`] with the file, and where it applies the key or tensor, at fault.
    pub fn load(directory: &Path, options: &LoadOptions) -> Result<Self> {
        Self::load_with(directory, options, Kernels::Fastest)
    }

    /// As [`load`](Self::load), with a decoder that runs on the kernels given.
    ///
    /// # Errors
    /// As [`load`](Self::load), and [`ModelError::Setting`] for kernels that the device does not run.
    pub fn load_with(directory: &Path, options: &LoadOptions, kernels: Kernels) -> Result<Self> {
        Self::open(directory, || {
            Decoder::load(directory, &options.devices, options.dtype, kernels)
        })
    }

    /// As [`load`](Self::load), with an adapter merged into the weights, if there is one.
    ///
    /// # Errors
    /// As [`load`](Self::load), and [`ModelError::Adapter`] for one that does not fit the model.
    pub fn load_adapted(
        directory: &Path,
        options: &LoadOptions,
        adapter: Option<&Adapter>,
    ) -> Result<Self> {
        let Some(adapter) = adapter else {
            return Self::load(directory, options);
        };
        let (devices, kernels) = (&options.devices, Kernels::Fastest);
        Self::open(directory, || {
            Decoder::load_adapted(directory, devices, options.dtype, kernels, adapter)
        })
    }

    fn open(directory: &Path, decoder: impl FnOnce() -> Result<Decoder>) -> Result<Self> {
        // The small files come first, so that what is wrong with them shows before the weights are read.
        let tokenizer = Tokenizer::open(directory)?;
        let chat_template = ChatTemplate::open(directory)?;
        let judge_template = JudgeTemplate::open(directory)?;
        let generation_config = GenerationConfig::read(directory)?;
        let decoder = decoder()?;
        tokenizer.check_vocabulary(decoder.config().vocab_size)?;
        let generation_config =
            generation_config.unwrap_or_else(|| GenerationConfig::from(decoder.config()));
        tokenizer.check_known(&generation_config.eos_token_ids)?;
        Ok(Self {
            directory: directory.to_owned(),
            decoder,
            tokenizer,
            chat_template,
            generation_config,
            judge_template,
        })
    }

    /// Returns the directory or GGUF file that the model was opened from.
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
    /// [`ModelError::Template`] when the model has none.
    pub fn chat_template(&self) -> Result<&ChatTemplate> {
        self.chat_template.as_ref().ok_or_else(|| {
            let directory = self.directory.display();
            let message = if is_gguf(&self.directory) {
                format!("{directory} has no tokenizer.chat_template")
            } else {
                format!(
                    "{directory} has neither a chat_template.jinja nor one in tokenizer_config.json"
                )
            };
            ModelError::Template {
                template: "chat",
                message,
            }
        })
    }

    /// Returns the generation defaults.
    pub fn generation_config(&self) -> &GenerationConfig {
        &self.generation_config
    }

    /// Returns the judge template that comes with the model, if one does.
    pub fn judge_template(&self) -> Option<&JudgeTemplate> {
        self.judge_template.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_read_as_they_are_written() {
        for (text, choice) in [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda:0", DeviceChoice::Cuda(vec![0])),
            ("cuda:3", DeviceChoice::Cuda(vec![3])),
            ("cuda:0,1", DeviceChoice::Cuda(vec![0, 1])),
        ] {
            assert_eq!(text.parse::<DeviceChoice>().expect("valid"), choice);
            assert_eq!(choice.to_string(), text);
        }
        assert_eq!(
            "cuda".parse::<DeviceChoice>().expect("valid"),
            DeviceChoice::Cuda(vec![0])
        );
        for text in ["cuda:x", "cuda:", "cuda:0,0"] {
            let error = text.parse::<DeviceChoice>().expect_err("refused");
            let expected = format!("device: `{text}` is none of auto, cpu, cuda, cuda:N, cuda:N,M");
            assert_eq!(error.to_string(), expected);
        }
    }

    #[test]
    fn auto_is_a_device_that_opens() {
        let device = DeviceChoice::Auto.open().expect("falls back to the CPU");
        let class = if device[0].is_cuda() { "cuda" } else { "cpu" };
        assert_eq!(numerics_class("auto"), class);
    }

    #[test]
    fn the_numerics_class_is_that_of_the_device() {
        assert_eq!(numerics_class("cpu"), "cpu");
        assert_eq!(numerics_class("cuda:1"), "cuda");
        // A stage refuses such a device before it computes anything.
        assert_eq!(numerics_class("bogus"), "cpu");
    }
}
