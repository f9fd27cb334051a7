//! Flags that several subcommands take, and how they are opened.

use std::path::{Path, PathBuf};

use sims_artifact::ModelManifest;
use sims_model::{DeviceChoice, Dtype, LanguageModel, LoadOptions};
use sims_steering::{Steering, SteeringHook};

use crate::exit::bad_input;

/// The model, where it runs and with what steering.
#[derive(Debug, clap::Args)]
pub(crate) struct ModelArgs {
    /// Hugging Face directory of the model
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Steering to run the model with
    #[arg(long, value_name = "FILE")]
    pub(crate) steering: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) execution: ExecutionArgs,
}

/// How a model runs; the device and the threads change no result of an f32 run on a CPU.
#[derive(Debug, clap::Args)]
pub(crate) struct ExecutionArgs {
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    device: String,
    /// Type that the weights are held in: f32 or bf16
    #[arg(long, default_value_t)]
    dtype: Dtype,
    /// Worker threads; 0 for every core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

impl ExecutionArgs {
    /// Opens the model in `directory`.
    pub(crate) fn open(&self, directory: &Path) -> anyhow::Result<LanguageModel> {
        rayon::ThreadPoolBuilder::new()
            .num_threads(self.threads)
            .build_global()?;
        let device = self.device.parse::<DeviceChoice>()?.open()?;
        let options = LoadOptions {
            device,
            dtype: self.dtype,
        };
        Ok(LanguageModel::load(directory, &options)?)
    }
}

impl ModelArgs {
    /// Opens the model and, if a steering is given that does anything, its hook.
    ///
    /// # Errors
    /// A model or steering that cannot be used, or a steering that belongs to another model.
    pub(crate) fn open(&self) -> anyhow::Result<(LanguageModel, Option<SteeringHook>)> {
        let steering = self
            .steering
            .as_deref()
            .map(|path| self.open_steering(path))
            .transpose()?;
        let model = self.execution.open(&self.model)?;
        let hook = steering
            .filter(|steering| !steering.is_identity())
            .map(|steering| steering.hook());
        Ok((model, hook))
    }

    fn open_steering(&self, path: &Path) -> anyhow::Result<Steering> {
        let steering = Steering::load(path)?;
        steering.check_model(&ModelManifest::of_dir(&self.model)?.digest)?;
        Ok(steering)
    }
}

/// Refuses token ids that the model has no embedding for, and an empty list.
pub(crate) fn check_tokens(model: &LanguageModel, tokens: &[u32]) -> anyhow::Result<()> {
    let vocab_size = model.decoder().config().vocab_size;
    if tokens.is_empty() {
        return Err(bad_input("--tokens is empty; give at least one token id"));
    }
    match tokens.iter().find(|&&token| token as usize >= vocab_size) {
        Some(token) => Err(bad_input(format!(
            "token {token} is outside the model's vocabulary of {vocab_size}"
        ))),
        None => Ok(()),
    }
}

/// Prints one JSON value on one line of stdout.
pub(crate) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string(value)?);
    Ok(())
}
