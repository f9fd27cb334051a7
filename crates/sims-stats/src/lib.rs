//! The statistics of the loop: how sure a figure is, who wins, and whether text repeats itself.
//!
//! Numbers in, numbers out: nothing here reads a file, knows an artifact or keeps state. Every
//! random quantity comes from a counter-based [`random::Stream`], so a result depends on its seed
//! and its data only: never on threads, and for means and permutations not on the order of the
//! data either.
//!
//! - Intervals and tests: [`bootstrap`], [`permutation`], [`mcnemar`], [`proportion`], [`roc`], [`student_t`].
//! - Before and after a measurement: [`power`] says how many prompts show a difference, [`equivalence`]
//!   whether there is none that matters, [`seeds`] what holds over repeated runs.
//! - Comparisons: [`win_rate`], [`bradley_terry`], [`least_squares`], [`completion`], [`agreement`], [`correlation`].
//! - Regression: [`logistic`], soft targets and row weights, with or without a penalty.
//! - Chance levels: [`noise_range`], what best-minus-worst looks like when scores are noise.
//! - Token sequences: [`bleu`], [`diversity`], [`loops`], [`shingles`].
//! - Held-out halves that never share a prompt: [`split`].

pub mod agreement;
pub mod bleu;
pub mod bootstrap;
pub mod bradley_terry;
mod cholesky;
pub mod completion;
pub mod correlation;
pub mod diversity;
pub mod equivalence;
mod error;
pub mod least_squares;
pub mod logistic;
pub mod loops;
pub mod mcnemar;
pub mod noise_range;
mod normal;
pub mod permutation;
pub mod power;
pub mod proportion;
mod quadrature;
pub mod random;
pub mod roc;
pub mod seeds;
pub mod shingles;
pub mod split;
pub mod student_t;
pub mod win_rate;

pub use bootstrap::{Bootstrap, Interval};
pub use error::StatsError;
pub use normal::{normal_cdf, normal_quantile};

use error::finite;
