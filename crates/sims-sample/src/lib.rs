//! Samples several responses a prompt from the base or the steered model.
//!
//! [`Sample`] is the stage. Its parts serve other stages too: [`Selection`] picks a split and a shard
//! of a prompts table, [`priority`] what a pilot promises of them, [`encode_prompts`] turns prompts into tokens, and [`Draws`] draws responses
//! from any policy; [`open_adapter`] opens what changes a model's weights. A response depends on its prompt, seed, round and index alone, never on what was
//! sampled beside it.

pub mod draw;
pub mod encode;
mod lead;
pub mod priority;
pub mod selection;
mod stage;

pub use draw::{BASE_POLICY, Draws};
pub use encode::{EncodeError, EncodedPrompt, encode_prompts, prompt_tokens};
pub use selection::{Selection, SelectionError};
pub use stage::{Sample, SampleParams, WeightType, open_adapter};
