//! The prompt sets of a world: steering, development, evaluation, unseen families, neutral text.
//!
//! Evaluation prompts (development, evaluation, unseen, neutral) are of the one in sixteen that the corpus
//! never shows, steering prompts are not, so the sets are disjoint and the model has seen no evaluation prompt.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use sims_artifact::tables::{Message, PromptRow};
use sims_artifact::{ArtifactError, write_table};

use crate::corpus::draw_task;
use crate::families::Family;
use crate::random::Random;
use crate::vocab::{self, Token};
use crate::world::World;
use crate::writer::Writer;

/// Random stream of the prompt sets.
const PROMPT_STREAM: u64 = 0x70726f6d;
/// Draws without a new prompt after which a set counts as exhausted.
const PATIENCE: usize = 10_000;
/// Shortest neutral text, in tokens: perplexity is taken after the first 32.
const NEUTRAL_LENGTH: std::ops::RangeInclusive<usize> = 64..=160;

/// How many prompts each set has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::Args)]
pub struct SetSizes {
    /// Steering prompts
    #[arg(long, default_value_t = 20_000)]
    pub train: usize,
    /// Development prompts
    #[arg(long, default_value_t = 500)]
    pub dev: usize,
    /// Evaluation prompts
    #[arg(long, default_value_t = 805)]
    pub eval: usize,
    /// Prompts of the two families kept out of everything else
    #[arg(long, default_value_t = 300)]
    pub unseen: usize,
    /// Neutral texts
    #[arg(long, default_value_t = 200)]
    pub neutral: usize,
}

/// The prompt sets of one world.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptSets {
    /// Sets by the name of their file.
    pub sets: Vec<(&'static str, Vec<PromptRow>)>,
}

/// Why prompt sets could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PromptsError {
    /// The world has fewer distinct prompts than asked for.
    #[error("{set}: only {found} distinct prompts found, {wanted} asked for")]
    Exhausted {
        /// The set.
        set: &'static str,
        /// Prompts found.
        found: usize,
        /// Prompts asked for.
        wanted: usize,
    },
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] ArtifactError),
}

impl PromptSets {
    /// Draws all sets; a pure function of its arguments.
    ///
    /// # Errors
    /// [`PromptsError::Exhausted`] when a set wants more distinct prompts than the world has.
    pub fn draw(world: &World, sizes: &SetSizes, seed: u64) -> Result<Self, PromptsError> {
        let mut seen = HashSet::new();
        let mut set = |name: &'static str, families, held_out, wanted, stream| {
            let random = &mut Random::new(seed, PROMPT_STREAM, stream);
            let mut rows = Vec::with_capacity(wanted);
            let mut misses = 0;
            while rows.len() < wanted && misses < PATIENCE {
                let task = draw_task(world, families, held_out, random);
                let prompt = task.prompt();
                if seen.insert(prompt.clone()) {
                    misses = 0;
                    rows.push(prompt_row(world, name, task.family.name(), "user", &prompt));
                } else {
                    misses += 1;
                }
            }
            match rows.len() {
                found if found < wanted => Err(PromptsError::Exhausted {
                    set: name,
                    found,
                    wanted,
                }),
                _ => Ok((name, rows)),
            }
        };
        let mut sets = vec![
            set("eval", Family::SEEN, true, sizes.eval, 0)?,
            set("dev", Family::SEEN, true, sizes.dev, 1)?,
            set("unseen", Family::UNSEEN, true, sizes.unseen, 2)?,
            set("train", Family::SEEN, false, sizes.train, 3)?,
        ];
        sets.push(("neutral", neutral(world, sizes.neutral, seed)));
        Ok(Self { sets })
    }

    /// Writes one `NAME.parquet` a set into `dir` and returns the paths.
    ///
    /// # Errors
    /// [`PromptsError::Write`] when a file cannot be written.
    pub fn write(&self, dir: &Path) -> Result<Vec<PathBuf>, PromptsError> {
        self.sets
            .iter()
            .map(|(name, rows)| {
                let path = dir.join(format!("{name}.parquet"));
                write_table(&path, rows)?;
                Ok(path)
            })
            .collect()
    }
}

fn prompt_row(world: &World, split: &str, family: &str, role: &str, tokens: &[Token]) -> PromptRow {
    let messages = vec![Message::new(role, vocab::decode(tokens))];
    PromptRow::new(messages, split, format!("toyworld/{}/{family}", world.name))
}

/// Draws neutral texts: whole documents of average writers, chat marks included, for perplexity.
///
/// Each is one message that is plain text: it is not put through the chat template again.
fn neutral(world: &World, n: usize, seed: u64) -> Vec<PromptRow> {
    let random = &mut Random::new(seed, PROMPT_STREAM, 4);
    let mut rows = Vec::with_capacity(n);
    while rows.len() < n {
        let writer = Writer::draw(world, random);
        let mut text = Vec::new();
        for _ in 0..4 {
            let task = draw_task(world, Family::SEEN, true, random);
            text.push(vocab::USER);
            text.extend(task.prompt());
            text.push(vocab::ASSISTANT);
            text.extend(writer.answer(world, &task, random).tokens);
            text.push(vocab::END);
        }
        if NEUTRAL_LENGTH.contains(&text.len()) {
            rows.push(prompt_row(world, "neutral", "chat", "user", &text));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::families::Task;

    const SIZES: SetSizes = SetSizes {
        train: 20_000,
        dev: 500,
        eval: 805,
        unseen: 300,
        neutral: 20,
    };

    #[test]
    fn sets_are_disjoint_full_and_of_their_families() {
        for world in [World::default_world(), World::hard()] {
            let PromptSets { sets } =
                PromptSets::draw(&world, &SIZES, 1).expect("the world is large enough");
            let sizes: Vec<(&str, usize)> = sets
                .iter()
                .map(|(name, rows)| (*name, rows.len()))
                .collect();
            assert_eq!(
                sizes,
                [
                    ("eval", 805),
                    ("dev", 500),
                    ("unseen", 300),
                    ("train", 20_000),
                    ("neutral", 20)
                ]
            );
            let mut ids = HashSet::new();
            for (name, rows) in &sets[..4] {
                let families = if *name == "unseen" {
                    Family::UNSEEN
                } else {
                    Family::SEEN
                };
                for row in rows {
                    assert!(
                        ids.insert(row.prompt_id.clone()),
                        "{row:?} stands in two sets"
                    );
                    let task =
                        Task::parse_text(&row.messages[0].content).expect("a prompt of the world");
                    assert!(families.contains(&task.family));
                    assert!(row.source.ends_with(task.family.name()));
                }
            }
        }
    }

    #[test]
    fn sets_are_functions_of_the_seed() {
        let sizes = SetSizes {
            train: 200,
            dev: 20,
            eval: 30,
            unseen: 10,
            neutral: 5,
        };
        let world = World::default_world();
        let draw = |seed| PromptSets::draw(&world, &sizes, seed).expect("small sets");
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }
}
