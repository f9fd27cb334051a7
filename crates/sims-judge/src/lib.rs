//! Compares responses pairwise with the frozen model as its own judge.
//!
//! [`Judge`] is the stage: it plans which responses of a prompt meet ([`schedule`], or [`adaptive`] in rounds), asks the model
//! which of two is better in both orders ([`self_judge`]), and writes one row a comparison and order
//! ([`verdict`]). Beside them it writes how far the judge can be trusted: what its comparisons say
//! ([`reliability`]), and how it fares where the better answer is known ([`controls`]).
//! [`SelfJudge`] alone serves whoever has texts to compare.
//!
//! The judge never sees a steering: one that drifts with the policy would make scores of different
//! rounds incomparable.

pub mod adaptive;
pub mod controls;
mod damage;
pub mod diagnostics;
mod error;
pub mod limits;
mod order_split;
mod plan;
pub mod reliability;
mod rounds;
pub mod sanitise;
pub mod schedule;
pub mod self_judge;
mod stage;
pub mod template;
pub mod verdict;

pub use error::JudgeError;
pub use sanitise::Sanitiser;
pub use schedule::Schedule;
pub use self_judge::{Comparison, Judged, SelfJudge};
pub use stage::{Judge, JudgeKind, JudgeParams, WeightType};
pub use verdict::{BothOrders, Preference};
