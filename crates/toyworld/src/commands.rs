//! The commands of the world's own tool beside training: prompt sets, acceptance test, the judge's quality.

use std::path::PathBuf;

use anyhow::Context as _;
use sims_artifact::tables::PromptRow;
use sims_artifact::{read_table, write_table};
use sims_model::{LanguageModel, LoadOptions};
use sims_stats::Bootstrap;

use crate::acceptance::{ContextReport, Settings, acceptance, careful_examples};
use crate::judge_quality::{JudgeQuality, judge_quality};
use crate::policies::Tasks;
use crate::prompts::{PromptSets, SetSizes};
use crate::world::World;

/// Write a world's prompt sets: train, dev, eval, unseen, neutral
#[derive(Debug, Clone, clap::Args)]
pub struct PromptsArgs {
    /// World that the prompts are of
    #[arg(long, default_value = "default", value_parser = clap::builder::PossibleValuesParser::new(World::NAMES))]
    pub world: String,
    /// Folder for the Parquet files
    #[arg(long)]
    pub out: PathBuf,
    /// Seed of the draw
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Sizes of the sets
    #[command(flatten)]
    pub sizes: SetSizes,
}

impl PromptsArgs {
    /// Writes the sets and returns their paths.
    ///
    /// # Errors
    /// When the world has too few prompts or a file cannot be written.
    pub fn run(&self) -> anyhow::Result<Vec<PathBuf>> {
        let world = World::by_name(&self.world).context("no such world")?;
        std::fs::create_dir_all(&self.out)
            .with_context(|| format!("cannot create {}", self.out.display()))?;
        Ok(PromptSets::draw(&world, &self.sizes, self.seed)?.write(&self.out)?)
    }
}

/// Write a conversation of two careful exchanges, to go before prompts
#[derive(Debug, Clone, clap::Args)]
pub struct ExamplesArgs {
    /// World whose writer answers
    #[arg(long, default_value = "default", value_parser = clap::builder::PossibleValuesParser::new(World::NAMES))]
    pub world: String,
    /// The Parquet file (prompts@1, one row)
    #[arg(long)]
    pub out: PathBuf,
    /// Seed of the draw
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

impl ExamplesArgs {
    /// Writes the conversation.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn run(&self) -> anyhow::Result<()> {
        let world = World::by_name(&self.world).context("no such world")?;
        Ok(write_table(
            &self.out,
            &[careful_examples(&world, self.seed)],
        )?)
    }
}

/// Hold a judge's judgments against gold and print its quality as JSON
#[derive(Debug, Clone, clap::Args)]
pub struct JudgeQualityArgs {
    /// World whose gold score is meant
    #[arg(long, default_value = "default", value_parser = clap::builder::PossibleValuesParser::new(World::NAMES))]
    pub world: String,
    /// The judgments (judgments@1)
    #[arg(long)]
    pub judgments: PathBuf,
    /// The responses that were judged (responses@1)
    #[arg(long)]
    pub responses: PathBuf,
    /// The prompts that were answered (prompts@1)
    #[arg(long)]
    pub prompts: PathBuf,
    /// Seed of the bootstrap
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
}

impl JudgeQualityArgs {
    /// Measures the judge.
    ///
    /// # Errors
    /// When a table cannot be read or the tables do not belong together.
    pub fn run(&self) -> anyhow::Result<JudgeQuality> {
        let world = World::by_name(&self.world).context("no such world")?;
        let tasks = Tasks::read(world, &read_table(&self.prompts)?)?;
        let responses = read_table(&self.responses)?;
        let judgments = read_table(&self.judgments)?;
        Ok(judge_quality(
            &tasks,
            &responses,
            &judgments,
            &Bootstrap::seeded(self.seed),
        )?)
    }
}

/// Try whether careful exchanges as context make a model answer better; print figures as JSON
#[derive(Debug, Clone, clap::Args)]
pub struct AcceptanceArgs {
    /// World that the model learnt
    #[arg(long, default_value = "default", value_parser = clap::builder::PossibleValuesParser::new(World::NAMES))]
    pub world: String,
    /// Folder of the model
    #[arg(long)]
    pub model: PathBuf,
    /// Prompts to answer (prompts@1)
    #[arg(long, default_value = "data/toyworld/dev.parquet")]
    pub prompts: PathBuf,
    /// Use only so many prompts, from the top; 0 for all
    #[arg(long, default_value_t = 0)]
    pub limit: usize,
    /// Answers a prompt and context
    #[arg(long, default_value_t = 4)]
    pub draws: u32,
    /// Sampling temperature; 0 is greedy
    #[arg(long, default_value_t = 0.9)]
    pub temperature: f32,
    /// Longest answer, in tokens
    #[arg(long, default_value_t = 40)]
    pub max_new_tokens: usize,
    /// Seed of contexts and samples
    #[arg(long, default_value_t = 79)]
    pub seed: u64,
}

impl AcceptanceArgs {
    /// Runs the test; `progress` gets each finished context's name.
    ///
    /// # Errors
    /// When model or prompts cannot be read, or do not belong to the world.
    pub fn run(&self, progress: &mut dyn FnMut(&str)) -> anyhow::Result<Vec<ContextReport>> {
        let world = World::by_name(&self.world).context("no such world")?;
        let mut prompts: Vec<PromptRow> = read_table(&self.prompts)?;
        if self.limit > 0 {
            prompts.truncate(self.limit);
        }
        let model = LanguageModel::load(&self.model, &LoadOptions::default())?;
        let settings = Settings {
            draws: self.draws,
            temperature: self.temperature,
            max_new_tokens: self.max_new_tokens,
            seed: self.seed,
        };
        acceptance(&model, &world, &prompts, &settings, progress)
    }
}
