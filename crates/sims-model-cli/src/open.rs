//! Flags that several subcommands take, and how they are opened.

use std::path::{Path, PathBuf};

use sims_artifact::ModelManifest;
use sims_model::decoder::Kernels;
use sims_model::gguf::is_gguf;
use sims_model::language_model::set_threads;
use sims_model::{ChatTemplate, Decoder, DeviceChoice, Dtype, GenerationConfig, Tokenizer};
use sims_steering::{Steering, SteeringHook};

use crate::exit::bad_input;

/// The model, where it runs and with what steering.
#[derive(Debug, clap::Args)]
pub(crate) struct ModelArgs {
    /// Hugging Face directory of the model, or GGUF file
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Steering to run the model with; several are applied in the order given
    #[arg(long, value_name = "FILE")]
    pub(crate) steering: Vec<PathBuf>,
    /// Multiplies a steering's strength; one for each steering, or none
    #[arg(
        long,
        value_name = "FACTOR",
        requires = "steering",
        allow_negative_numbers = true
    )]
    pub(crate) strength: Vec<f64>,
    #[command(flatten)]
    pub(crate) execution: ExecutionArgs,
}

/// How a model runs; the device and the threads change no result of an f32 run on a CPU.
#[derive(Debug, clap::Args)]
pub(crate) struct ExecutionArgs {
    /// auto, cpu, cuda, cuda:N, or cuda:N,M to spread the layers over several
    #[arg(long, default_value = "auto")]
    device: String,
    /// Type that the weights are held in: f32 or bf16
    #[arg(long, default_value_t)]
    dtype: Dtype,
    /// Worker threads; 0 for every core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Compute in the tensor library's operations instead of own kernels, to compare
    #[arg(long)]
    plain_kernels: bool,
}

impl ExecutionArgs {
    /// Opens the model in `directory`, or a GGUF file.
    pub(crate) fn open(&self, directory: &Path) -> anyhow::Result<Model> {
        set_threads(self.threads)?;
        let devices = self.device.parse::<DeviceChoice>()?.open()?;
        let has_tokenizer = is_gguf(directory) || directory.join("tokenizer.json").exists();
        let tokenizer = has_tokenizer
            .then(|| Tokenizer::open(directory))
            .transpose()?;
        let chat_template = ChatTemplate::open(directory)?;
        let decoder = Decoder::load(directory, &devices, self.dtype, self.kernels())?;
        if let Some(tokenizer) = &tokenizer {
            tokenizer.check_vocabulary(decoder.config().vocab_size)?;
        }
        let stop_tokens = GenerationConfig::open(directory, decoder.config())?.eos_token_ids;
        Ok(Model {
            directory: directory.to_owned(),
            decoder,
            tokenizer,
            chat_template,
            stop_tokens,
        })
    }

    fn kernels(&self) -> Kernels {
        if self.plain_kernels {
            Kernels::Candle
        } else {
            Kernels::Fastest
        }
    }
}

/// A model of which only the decoder must be there: token ids go in and out without a tokenizer.
pub(crate) struct Model {
    directory: PathBuf,
    pub(crate) decoder: Decoder,
    tokenizer: Option<Tokenizer>,
    chat_template: Option<ChatTemplate>,
    /// Tokens that end a response.
    pub(crate) stop_tokens: Vec<u32>,
}

impl Model {
    /// Returns the tokenizer, which text needs.
    pub(crate) fn tokenizer(&self) -> anyhow::Result<&Tokenizer> {
        self.tokenizer
            .as_ref()
            .ok_or_else(|| self.lacks("tokenizer.json, which text needs; give token ids"))
    }

    /// Returns the chat template, which a user's message needs.
    pub(crate) fn chat_template(&self) -> anyhow::Result<&ChatTemplate> {
        self.chat_template
            .as_ref()
            .ok_or_else(|| self.lacks("chat template; add --raw to take the prompt as it stands"))
    }

    /// Returns the text of `tokens`, empty where there is no tokenizer.
    pub(crate) fn decode(&self, tokens: &[u32]) -> anyhow::Result<String> {
        Ok(self
            .tokenizer
            .as_ref()
            .map(|tokenizer| tokenizer.decode(tokens))
            .transpose()?
            .unwrap_or_default())
    }

    /// Refuses token ids that the model has no embedding for, and an empty list.
    pub(crate) fn check_tokens(&self, tokens: &[u32]) -> anyhow::Result<()> {
        let vocab_size = self.decoder.config().vocab_size;
        if tokens.is_empty() {
            return Err(bad_input("there are no tokens; give at least one"));
        }
        match tokens.iter().find(|&&token| token as usize >= vocab_size) {
            Some(token) => Err(bad_input(format!(
                "token {token} is outside the model's vocabulary of {vocab_size}"
            ))),
            None => Ok(()),
        }
    }

    fn lacks(&self, what: &str) -> anyhow::Error {
        bad_input(format!("{} has no {what}", self.directory.display()))
    }
}

impl ModelArgs {
    /// Opens the model and, if a steering is given that does anything, its hook.
    ///
    /// # Errors
    /// A model or steering that cannot be used, or a steering that belongs to another model.
    pub(crate) fn open(&self) -> anyhow::Result<(Model, Option<SteeringHook>)> {
        let steering = self.open_steering()?;
        let model = self.execution.open(&self.model)?;
        let hook = steering
            .filter(|steering| !steering.is_identity())
            .map(|steering| steering.hook());
        Ok((model, hook))
    }

    /// Opens the steerings, as one; nothing if none is given.
    fn open_steering(&self) -> anyhow::Result<Option<Steering>> {
        let (files, strengths) = (self.steering.len(), self.strength.len());
        if files == 0 {
            return Ok(None);
        }
        if strengths != 0 && strengths != files {
            return Err(bad_input(format!(
                "{files} --steering have {strengths} --strength; give one for each, or none"
            )));
        }
        let model = ModelManifest::of_dir(&self.model)?.digest;
        let mut steerings = Vec::with_capacity(files);
        for (number, path) in self.steering.iter().enumerate() {
            let steering = Steering::load(path)?;
            steering.check_model(&model)?;
            let strength = self.strength.get(number).copied().unwrap_or(1.0);
            steerings.push((steering, strength));
        }
        Ok(Some(Steering::together(&steerings)?))
    }
}

/// Prints one JSON value on one line of stdout.
pub(crate) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print_line!("{}", serde_json::to_string(value)?);
    Ok(())
}
