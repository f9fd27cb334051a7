//! On which prompts the round's edits are done: a condition fitted to the prompts' own states.

use crate::FitStageError;
use crate::params::FitParams;
use crate::states::StatesFile;
use sims_stage::StageIo;
use sims_stats::split::held_out_by_group;
use sims_steering::condition_fit::{self, FittedBlock, PromptStates};
use sims_steering::{Condition, FitError};
use std::collections::BTreeMap;

/// The inputs that a condition is fitted to.
pub(crate) const ROLES: [&str; 4] = ["inside", "inside-index", "outside", "outside-index"];
/// The position set that a condition reads.
const POSITIONS: &str = "prompt";
/// Share of the prompts that thresholds are compared on.
const HELD_OUT: f64 = 0.5;
/// Least number of prompts of each kind in each half.
const MIN_PROMPTS: usize = 8;

/// States of prompts to steer and of prompts to leave alone.
pub(crate) struct ConditionStates {
    inside: StatesFile,
    outside: StatesFile,
}

/// Every layer's block, and the condition made of the best.
#[derive(Debug, Clone, PartialEq)]
pub struct FittedCondition {
    /// By layer.
    pub blocks: Vec<FittedBlock>,
    /// The condition.
    pub condition: Condition,
    /// Prompts of both kinds in the fit half and held out.
    pub counts: (usize, usize),
}

impl ConditionStates {
    /// Opens the four inputs; nothing if none is given.
    ///
    /// # Errors
    /// If some are given and others not, or a file is not one of prompt states.
    pub(crate) fn open(io: &StageIo) -> anyhow::Result<Option<Self>> {
        let missing: Vec<&str> = ROLES
            .into_iter()
            .filter(|role| io.optional_input(role).is_none())
            .collect();
        if missing.len() == ROLES.len() {
            return Ok(None);
        }
        if !missing.is_empty() {
            return Err(FitStageError::HalfACondition { missing }.into());
        }
        let open = |states: &'static str, index: &str| -> anyhow::Result<StatesFile> {
            let index = io.read(index)?;
            let file = StatesFile::open(io.input(states)?, &index)?;
            let positions = &file.header().positions;
            if positions != POSITIONS {
                return Err(FitStageError::NotPromptStates {
                    role: states,
                    positions: positions.clone(),
                }
                .into());
            }
            Ok(file)
        };
        Ok(Some(Self {
            inside: open("inside", "inside-index")?,
            outside: open("outside", "outside-index")?,
        }))
    }

    /// Fits a condition that is decided at `lowest_edit` or below.
    ///
    /// `states`: what the steering itself is fitted to.
    ///
    /// # Errors
    /// [`FitStageError::OtherConditionModel`], [`FitStageError::InsideAndOutside`], [`FitStageError::Split`],
    /// [`FitStageError::NoConditionLayer`], [`FitStageError::WeakCondition`], and what the fit of a layer says.
    pub(crate) fn fit(
        &self,
        states: &StatesFile,
        lowest_edit: usize,
        params: &FitParams,
    ) -> Result<FittedCondition, FitStageError> {
        for file in [&self.inside, &self.outside] {
            if file.header().model != states.header().model {
                return Err(FitStageError::OtherConditionModel {
                    condition: file.header().model,
                    states: states.header().model,
                });
            }
        }
        let inside = Rows::new(&self.inside, params.seed);
        let outside = Rows::new(&self.outside, params.seed);
        let mut ids = self.inside.prompt_ids().iter();
        if let Some(id) = ids.find(|id| self.outside.prompt_ids().contains(id)) {
            return Err(FitStageError::InsideAndOutside {
                prompt_id: id.clone(),
            });
        }
        let least = |half: usize| inside.halves[half].len().min(outside.halves[half].len());
        let (fit, held_out) = (least(0), least(1));
        if fit < MIN_PROMPTS || held_out < MIN_PROMPTS {
            return Err(FitStageError::Split(FitError::TooFewPrompts {
                fit,
                held_out,
                min_fit: MIN_PROMPTS,
                min_held_out: MIN_PROMPTS,
            }));
        }
        let layers: Vec<usize> = self
            .inside
            .header()
            .layers
            .iter()
            .copied()
            .filter(|layer| self.outside.header().layers.contains(layer))
            .filter(|&layer| layer <= lowest_edit)
            .collect();
        let mut blocks = Vec::new();
        for &layer in &layers {
            blocks.push(self.fit_layer(layer, &inside, &outside)?);
        }
        let best = blocks.iter().reduce(|best, block| {
            if block.held_out_f1 > best.held_out_f1 {
                block
            } else {
                best
            }
        });
        let Some(best) = best else {
            return Err(FitStageError::NoConditionLayer {
                inside: self.inside.header().layers.clone(),
                outside: self.outside.header().layers.clone(),
                lowest_edit,
            });
        };
        if best.held_out_f1 < params.condition_f1 {
            return Err(FitStageError::WeakCondition {
                layer: best.block.layer(),
                f1: best.held_out_f1,
                least: params.condition_f1,
            });
        }
        let both = |half: usize| inside.halves[half].len() + outside.halves[half].len();
        Ok(FittedCondition {
            condition: Condition::new(vec![best.block.clone()])?,
            counts: (both(0), both(1)),
            blocks,
        })
    }

    fn fit_layer(
        &self,
        layer: usize,
        inside: &Rows,
        outside: &Rows,
    ) -> Result<FittedBlock, FitStageError> {
        let (inside_states, outside_states) = (self.inside.read(layer)?, self.outside.read(layer)?);
        let hidden = self.inside.header().hidden_size;
        let half = |half: usize| PromptStates {
            inside: inside.of(half, inside_states.chosen(), hidden),
            outside: outside.of(half, outside_states.chosen(), hidden),
        };
        condition_fit::fit(layer, &half(0), &half(1)).map_err(FitStageError::at(layer))
    }
}

/// The first row of each prompt, by half.
struct Rows {
    halves: [Vec<usize>; 2],
}

impl Rows {
    fn new(states: &StatesFile, seed: u64) -> Self {
        let held_out = held_out_by_group(states.prompt_ids(), HELD_OUT, seed);
        let mut first: BTreeMap<u32, usize> = BTreeMap::new();
        for (row, &prompt) in states.prompts().iter().enumerate() {
            first.entry(prompt).or_insert(row);
        }
        let mut halves = [Vec::new(), Vec::new()];
        for (prompt, row) in first {
            halves[usize::from(held_out[prompt as usize])].push(row);
        }
        Self { halves }
    }

    fn of<'a>(&self, half: usize, states: &'a [f32], hidden: usize) -> Vec<&'a [f32]> {
        let rows = self.halves[half].iter();
        rows.map(|row| &states[row * hidden..(row + 1) * hidden])
            .collect()
    }
}
