//! Extracts hidden states of chosen and rejected responses.
//!
//! [`Extract`] is the stage. Each contrast pair becomes two sequences, teacher-forced exactly as they were
//! sampled ([`sequence`]); which positions of them are read is decided from the token ids alone ([`rows`]), so
//! the sizes of the output are known before the model runs and states are written as they come ([`states`]). [`token_means`] centres them afterwards, where asked.

mod error;
pub mod rows;
pub mod sequence;
mod stage;
pub mod states;
pub mod token_means;

pub use error::ExtractError;
pub use sequence::PositionSet;
pub use stage::{Extract, ExtractParams, Positions, StatesSite, StatesType};
