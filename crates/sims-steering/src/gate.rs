//! Decides conditions during forward passes: means of prompt states, and which sequences they let through.
//!
//! A sequence is known by the KV slot of the last prompt token that no steering edits. There the prompt's mean is
//! complete, and there its verdict stays until the slot is given to another prompt, which decides anew when it is
//! computed. A prompt may come in several segments, of one batch or of many, and share its beginning with others.

use crate::condition::Condition;
use candle_core::{DType, Device, Tensor};
use sims_model::{ModelError, Segment};
use std::collections::HashMap;
use std::sync::Arc;

/// The conditions of a hook and what is known of the prompts in the cache.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate {
    conditions: Vec<Arc<Condition>>,
    /// By condition, block of it, and KV slot.
    prompts: Vec<Vec<HashMap<usize, Prompt>>>,
}

/// The beginning of a prompt, up to the token whose keys and values are in a slot.
#[derive(Debug, Clone)]
struct Prompt {
    tokens: usize,
    /// Sum of the states, `[hidden]`, in the order of the tokens.
    sum: Vec<f64>,
    holds: bool,
}

impl Gate {
    /// Returns the number of a condition, which is the same for equal ones.
    pub(crate) fn add(&mut self, condition: &Arc<Condition>) -> usize {
        if let Some(known) = self.conditions.iter().position(|known| known == condition) {
            return known;
        }
        self.conditions.push(condition.clone());
        let blocks = condition.blocks().iter().map(|_| HashMap::new());
        self.prompts.push(blocks.collect());
        self.conditions.len() - 1
    }

    /// Returns whether a condition reads the states of a layer.
    pub(crate) fn reads(&self, layer: usize) -> bool {
        let mut blocks = self.conditions.iter().flat_map(|c| c.blocks());
        blocks.any(|block| block.layer() == layer)
    }

    /// Takes the states that the segments hold of prompts at a layer.
    ///
    /// `hidden`: `[rows, hidden]`, before any edit.
    pub(crate) fn read(
        &mut self,
        layer: usize,
        segments: &[Segment],
        hidden: &Tensor,
    ) -> Result<(), ModelError> {
        // What was in these slots is gone, so that no more is kept than there are prompts in the cache.
        for (condition, prompts) in self.conditions.iter().zip(&mut self.prompts) {
            for (block, prompts) in condition.blocks().iter().zip(prompts) {
                if block.layer() == layer {
                    for slot in segments.iter().flat_map(|segment| segment.slots.clone()) {
                        prompts.remove(&slot);
                    }
                }
            }
        }
        // A segment may go on from another one of the same batch, which begins earlier.
        let mut order: Vec<&Segment> = segments
            .iter()
            .filter(|segment| prompt_rows(segment) > 0)
            .collect();
        order.sort_by_key(|segment| segment.position);
        for segment in order {
            let rows = prompt_rows(segment);
            // Only prompts are copied from a device, and each once.
            let states = hidden
                .narrow(0, segment.rows.start, rows)?
                .to_device(&Device::Cpu)?
                .to_dtype(DType::F32)?
                .flatten_all()?
                .to_vec1::<f32>()?;
            let before = segment.context.last().map(|range| range.end - 1);
            let slot = segment.slots.start + rows - 1;
            for (condition, prompts) in self.conditions.iter().zip(&mut self.prompts) {
                for (block, prompts) in condition.blocks().iter().zip(prompts) {
                    if block.layer() != layer {
                        continue;
                    }
                    let known = before.and_then(|slot| prompts.get(&slot));
                    let known = known.filter(|known| known.tokens == segment.position);
                    let mut sum = match known {
                        Some(known) => known.sum.clone(),
                        None if segment.position == 0 => vec![0.0; block.direction().len()],
                        None => return Err(unseen(layer, segment.position)),
                    };
                    let width = sum.len();
                    for row in states.chunks_exact(width) {
                        sum.iter_mut()
                            .zip(row)
                            .for_each(|(sum, &x)| *sum += f64::from(x));
                    }
                    let tokens = segment.position + rows;
                    let mean: Vec<f64> = sum.iter().map(|sum| sum / tokens as f64).collect();
                    let holds = block.holds(&mean);
                    let prompt = Prompt { tokens, sum, holds };
                    prompts.insert(slot, prompt);
                }
            }
        }
        Ok(())
    }

    /// Returns, by condition, whether it holds for the prompt of a segment with rows to edit at a layer.
    ///
    /// A prompt of one token has no state that is read: its conditions do not hold.
    pub(crate) fn holds(&self, layer: usize, segment: &Segment) -> Result<Vec<bool>, ModelError> {
        let Some(last) = segment.edit_from.checked_sub(1) else {
            return Ok(vec![false; self.conditions.len()]);
        };
        let slot = slot_of(segment, last).ok_or_else(|| unseen(layer, segment.edit_from))?;
        let verdict = |prompts: &Vec<HashMap<usize, Prompt>>| {
            let mut holds = false;
            for prompts in prompts {
                match prompts.get(&slot) {
                    Some(prompt) if prompt.tokens == segment.edit_from => holds |= prompt.holds,
                    _ => return Err(unseen(layer, segment.edit_from)),
                }
            }
            Ok(holds)
        };
        self.prompts.iter().map(verdict).collect()
    }
}

/// Returns how many rows of a segment are of a prompt and never edited.
fn prompt_rows(segment: &Segment) -> usize {
    segment.edit_rows().start - segment.rows.start
}

/// Returns the KV slot of a position that a segment holds or attends.
fn slot_of(segment: &Segment, position: usize) -> Option<usize> {
    let mut before = 0;
    for range in segment.context.iter().chain([&segment.slots]) {
        if position < before + range.len() {
            return Some(range.start + position - before);
        }
        before += range.len();
    }
    None
}

fn unseen(layer: usize, tokens: usize) -> ModelError {
    ModelError::Hook {
        layer,
        message: format!(
            "a condition needs the first {tokens} prompt tokens, which this hook did not see: use one hook from the \
             prompt on"
        ),
    }
}

#[cfg(test)]
#[expect(clippy::single_range_in_vec_init, reason = "a context of one range")]
#[path = "gate_tests.rs"]
mod tests;
