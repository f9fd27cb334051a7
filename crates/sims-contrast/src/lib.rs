//! Selects contrast pairs: a better and a worse response to the same prompt.
//!
//! The steering is fitted to the difference between the two sides, so whatever else tells them apart
//! (length, loops, a cut-off end) would be learned as well. Most of this crate is about keeping such
//! pairs out, each with its reason:
//!
//! 1. [`candidate`]: the responses to a prompt, best first. The control strategy `random` shuffles
//!    them instead and never looks at a score.
//! 2. [`response_filters`]: what is wrong with a single response ([`text_quality`] for its text).
//! 3. [`extremes`]: the best and the worst of what is left; [`policy`]: further or weighted pairs.
//! 4. [`pair_filters`], then [`length_balance`] over the whole round.
//! 5. [`bank`]: for contrast sampling, this round's pairs compete with those of earlier rounds;
//!    [`diversity`]: a selection that covers the prompts.
//!
//! [`contrast()`] does all of it; [`ContrastStage`] reads and writes the tables.

pub mod bank;
pub mod candidate;
mod contrast;
pub mod diversity;
pub mod extremes;
mod figures;
pub mod length_balance;
pub mod pair_filters;
mod params;
pub mod policy;
mod reason;
pub mod response_filters;
mod stage;
pub mod text_quality;

pub use contrast::{Contrast, ContrastError, Tables, contrast};
pub use figures::Figures;
pub use params::{
    ContrastParams, LengthBalance, MarginReference, MarginRule, PairPolicy, Strategy, TruncatedRule,
};
pub use reason::{DropCounts, Reason};
pub use stage::ContrastStage;

#[cfg(test)]
mod fixtures;
