//! Responses scored against gold, by policy and prompt, and compared with a baseline.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use sims_artifact::tables::{PromptRow, ResponseRow};
use sims_stats::win_rate::mean_win;
use sims_stats::{Bootstrap, Interval, StatsError};

use crate::families::{Family, Task};
use crate::gold::{Answer, Gold};
use crate::vocab;
use crate::world::World;

/// Why responses cannot be scored.
#[derive(Debug, thiserror::Error)]
pub enum ScoringError {
    /// A prompt asks for nothing that the world knows.
    #[error("prompt {prompt_id} is not of the world `{world}`: {text:?}")]
    ForeignPrompt {
        /// The prompt.
        prompt_id: String,
        /// The world.
        world: &'static str,
        /// What the prompt says.
        text: String,
    },
    /// A response answers a prompt that is not in the prompt table.
    #[error("response {response_id} answers prompt {prompt_id}, which is not among the prompts")]
    UnknownPrompt {
        /// The response.
        response_id: String,
        /// Its prompt.
        prompt_id: String,
    },
    /// A figure could not be estimated.
    #[error(transparent)]
    Stats(#[from] StatsError),
}

/// The tasks behind a prompt table.
#[derive(Debug, Clone)]
pub struct Tasks {
    world: World,
    by_prompt: HashMap<String, Task>,
}

/// A response's gold score beside its place.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredResponse {
    /// The response's sample index.
    pub draw: u32,
    /// Its gold score.
    pub gold: Gold,
    /// Its length in tokens, the end mark not counted.
    pub length: usize,
}

/// All scored responses of a policy: draws by prompt.
pub type Scored = BTreeMap<String, Vec<ScoredResponse>>;

impl Tasks {
    /// Reads the tasks of `prompts`: the last message of each.
    ///
    /// # Errors
    /// [`ScoringError::ForeignPrompt`] when a prompt is not of the world.
    pub fn read(world: World, prompts: &[PromptRow]) -> Result<Self, ScoringError> {
        let task = |row: &PromptRow| {
            let text = row.messages.last().map_or("", |m| m.content.as_str());
            let task = Task::parse_text(text).ok_or_else(|| ScoringError::ForeignPrompt {
                prompt_id: row.prompt_id.clone(),
                world: world.name,
                text: text.chars().take(80).collect(),
            })?;
            Ok((row.prompt_id.clone(), task))
        };
        let by_prompt = prompts
            .iter()
            .map(task)
            .collect::<Result<_, ScoringError>>()?;
        Ok(Self { world, by_prompt })
    }

    /// Returns the family of a prompt.
    pub fn family(&self, prompt_id: &str) -> Option<Family> {
        self.by_prompt.get(prompt_id).map(|task| task.family)
    }

    /// Scores the text of draw `draw` to a prompt; `None` when the prompt is not known.
    pub fn score_text(&self, prompt_id: &str, draw: u32, text: &str) -> Option<ScoredResponse> {
        let task = self.by_prompt.get(prompt_id)?;
        let tokens = vocab::encode(text);
        let gold = Gold::of(&self.world, task, &Answer::read(&tokens));
        Some(ScoredResponse {
            draw,
            gold,
            length: tokens.len(),
        })
    }

    /// Scores one response.
    ///
    /// # Errors
    /// [`ScoringError::UnknownPrompt`] when its prompt is not known.
    pub fn score(&self, response: &ResponseRow) -> Result<ScoredResponse, ScoringError> {
        let ResponseRow {
            prompt_id,
            response_id,
            sample_index,
            text,
            ..
        } = response;
        self.score_text(prompt_id, *sample_index, text)
            .ok_or_else(|| ScoringError::UnknownPrompt {
                response_id: response_id.clone(),
                prompt_id: prompt_id.clone(),
            })
    }

    /// Scores responses and groups them by policy and prompt, draws in order.
    ///
    /// # Errors
    /// As [`Tasks::score`].
    pub fn score_all(
        &self,
        responses: &[ResponseRow],
    ) -> Result<BTreeMap<String, Scored>, ScoringError> {
        let mut out: BTreeMap<String, Scored> = BTreeMap::new();
        for response in responses {
            let prompts = out.entry(response.policy.clone()).or_default();
            prompts
                .entry(response.prompt_id.clone())
                .or_default()
                .push(self.score(response)?);
        }
        for draws in out.values_mut().flat_map(BTreeMap::values_mut) {
            draws.sort_by_key(|d| d.draw);
        }
        Ok(out)
    }
}

/// A number read off a scored response.
pub type Figure = fn(&ScoredResponse) -> f64;

/// The figures of a response, by name.
pub const FIGURES: [(&str, Figure); 9] = [
    ("score", |r| r.gold.score),
    ("content", |r| r.gold.content),
    ("format", |r| r.gold.format),
    ("concise", |r| r.gold.concise),
    ("manners", |r| r.gold.manners),
    ("right", |r| f64::from(u8::from(r.gold.right))),
    ("padded", |r| f64::from(u8::from(r.gold.padded))),
    ("loop", |r| f64::from(u8::from(r.gold.looping))),
    ("length", |r| r.length as f64),
];

/// Returns the mean of a figure over each prompt's draws, in the order of prompts.
pub fn prompt_means(scored: &Scored, figure: Figure) -> Vec<f64> {
    let mean =
        |draws: &Vec<ScoredResponse>| draws.iter().map(figure).sum::<f64>() / draws.len() as f64;
    scored.values().map(mean).collect()
}

/// Returns the mean win of `left` over `right` for each prompt that both answer, ties half, over all pairs of draws.
pub fn prompt_wins<'a>(left: &'a Scored, right: &Scored, figure: Figure) -> Vec<(&'a str, f64)> {
    let values = |draws: &[ScoredResponse]| draws.iter().map(figure).collect::<Vec<f64>>();
    left.iter()
        .filter_map(|(prompt, draws)| {
            let against = right.get(prompt)?;
            mean_win(&values(draws), &values(against)).map(|win| (prompt.as_str(), win))
        })
        .collect()
}

/// Returns the win rate of `left` over `right` with its bootstrap interval over prompts, and their number.
///
/// # Errors
/// [`ScoringError::Stats`] when no prompt is answered by both.
pub fn win_rate(
    left: &Scored,
    right: &Scored,
    figure: Figure,
    bootstrap: &Bootstrap,
) -> Result<(Interval, u64), ScoringError> {
    let wins: Vec<f64> = prompt_wins(left, right, figure)
        .into_iter()
        .map(|(_, win)| win)
        .collect();
    Ok((bootstrap.mean(&wins)?, wins.len() as u64))
}

/// Returns the families that `scored` has answers to, in the order of [`Family::ALL`].
pub fn families(tasks: &Tasks, scored: &Scored) -> Vec<Family> {
    let found: BTreeSet<Family> = scored
        .keys()
        .filter_map(|prompt| tasks.family(prompt))
        .collect();
    found.into_iter().collect()
}
