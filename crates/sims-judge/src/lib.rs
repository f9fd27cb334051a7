//! Compares responses pairwise.
//!
//! [`Judge`] is the stage: it plans which responses of a prompt meet ([`schedule`], or [`adaptive`] in rounds),
//! asks a judge ([`PairJudge`]) which of two is better in both orders, and writes one row a comparison and order
//! ([`verdict`]). Beside them it writes how far the judge can be trusted: what its comparisons say
//! ([`reliability`]), and how it fares where the better answer is known ([`controls`]).
//! [`open()`] makes a judge for whoever has answers to compare; each judge has a file of its own, the
//! frozen model itself ([`self_judge`]) first of all.
//!
//! The judge never sees a steering: one that drifts with the policy would make scores of different
//! rounds incomparable.

pub mod adaptive;
pub mod annotations;
mod asking;
pub mod biases;
pub mod comparison;
pub mod controls;
mod damage;
pub mod diagnostics;
pub mod ensemble;
mod error;
mod figures;
pub mod http;
pub mod limits;
pub mod noisy;
pub mod open;
mod order_split;
pub mod pairrm;
mod params;
mod plan;
pub mod planted;
mod question;
pub mod rating;
pub mod reliability;
mod rounds;
pub mod sanitise;
pub mod schedule;
pub mod second_opinion;
pub mod self_judge;
mod stage;
pub mod template;
pub mod verdict;

pub use comparison::{Answer, Comparison, Judged, PairJudge};
pub use error::JudgeError;
pub use open::{JudgeInputs, open};
pub use pairrm::PairRm;
pub use params::{JudgeKind, JudgeParams, Missing, WeightType};
pub use sanitise::Sanitiser;
pub use schedule::Schedule;
pub use self_judge::SelfJudge;
pub use stage::Judge;
pub use verdict::{BothOrders, Preference};
