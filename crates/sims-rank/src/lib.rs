//! Turns pairwise judgments into a ranking of the responses to each prompt.
//!
//! A judge that prefers whatever it saw first says nothing about the responses, so every pair is
//! judged in both orders and only the part that changes sign with the order counts:
//!
//! 1. [`matrix`]: judgments become one comparison matrix a prompt; invalid ones stay missing.
//! 2. [`score`]: the matrix becomes one score a response (mean win probability, Bradley–Terry, …),
//!    or, as a control, a coin takes the judge's place.
//! 3. [`noise`]: how much scores differ between the two orders, which is noise in any case.
//! 4. [`place`]: scores become ranks; ties are broken by index and flagged.
//!
//! [`rank()`] does all of it; [`RankStage`] reads and writes the tables.

mod best;
mod coin;
mod connected;
pub mod matrix;
pub mod noise;
pub mod place;
mod rank;
pub mod score;
mod sppo;
mod stage;

pub use best::best_responses;
pub use matrix::{ComparisonMatrix, MatrixError};
pub use rank::{Diagnostics, RankError, Ranked, rank};
pub use score::{RankMethod, Score, Scorer};
pub use stage::{RankParams, RankStage};
