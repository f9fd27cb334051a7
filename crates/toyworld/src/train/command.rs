//! The `toyworld train` command.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;

use anyhow::Context as _;

use super::{Example, Job, Kind, NetworkSize, Outcome, Settings, train};
use crate::corpus::{DocumentKind, document};
use crate::tokenizer_files::write_tokenizer;
use crate::vocab;
use crate::world::World;

/// Train the tiny model of a world, from scratch or from the checkpoint in the output directory
#[derive(Debug, Clone, clap::Args)]
pub struct TrainArgs {
    /// World to learn
    #[arg(long, default_value = "default", value_parser = clap::builder::PossibleValuesParser::new(World::NAMES))]
    pub world: String,
    /// Directory of the model, its checkpoint and its loss curve
    #[arg(long)]
    pub out: PathBuf,
    /// Tokens to train on, as in 24e6
    #[arg(long, default_value = "24e6", value_parser = parse_count)]
    pub tokens: u64,
    /// Seed of the weights and of the text
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Threads; the result does not depend on them
    #[arg(long, default_value_t = 2)]
    pub workers: usize,
    /// Largest number of tokens a step
    #[arg(long, default_value_t = 2048)]
    pub tokens_per_step: usize,
    /// Parts of a step whose gradients are summed in order
    #[arg(long, default_value_t = 2)]
    pub micro_batches: usize,
    /// Highest learning rate
    #[arg(long, default_value_t = 2.5e-3)]
    pub learning_rate: f64,
}

/// Reads a whole positive number, also in the form `24e6`.
fn parse_count(text: &str) -> Result<u64, String> {
    match text.parse::<f64>() {
        Ok(n) if (1.0..1e15).contains(&n) && n.fract() == 0.0 => Ok(n as u64),
        _ => Err("expected a whole number of at least 1, such as 24e6".to_owned()),
    }
}

impl TrainArgs {
    /// Trains until done or until `stop` is set; `command` is recorded with the model.
    ///
    /// # Errors
    /// When a setting is out of range or the run fails.
    pub fn run(
        &self,
        command: &str,
        stop: &AtomicBool,
        report: &mut dyn FnMut(&str),
    ) -> anyhow::Result<Outcome> {
        let world = World::by_name(&self.world).context("no such world")?;
        anyhow::ensure!(
            self.micro_batches >= 1,
            "--micro-batches must be at least 1"
        );
        let mut settings = Settings::new(
            &self.world,
            self.seed,
            self.tokens,
            NetworkSize::tiny(vocab::SIZE),
        );
        settings.tokens_per_step = self.tokens_per_step;
        settings.micro_batches = self.micro_batches;
        settings.optimization.peak = self.learning_rate;
        let source = |seed, index| {
            let document = document(&world, seed, index);
            let kind = match document.kind {
                DocumentKind::Chat => Kind::Chat,
                DocumentKind::Comparison => Kind::Comparison,
                DocumentKind::Check => Kind::Check,
            };
            Example {
                tokens: document.tokens,
                weights: document.weights,
                kind,
            }
        };
        let outcome = train(
            &Job {
                settings: &settings,
                source: &source,
                dir: &self.out,
                workers: self.workers,
                end: vocab::END,
                command,
            },
            stop,
            report,
        )?;
        if outcome == Outcome::Finished {
            write_tokenizer(&self.out)?;
        }
        Ok(outcome)
    }
}
