//! Watches the loop for what goes wrong over rounds, and acts on it.
//!
//! [`Guard`] is the stage. It comes last in a round: it condenses what the other stages wrote into a
//! few [`figures`], holds them against fixed limits and against the first round ([`detectors`]), and
//! turns what fired into what follows ([`actions`]): the round is rolled back, the next one samples
//! hotter, steps shorter, steers fewer layers or balances lengths, or the loop ends.
//!
//! The gates of `steer-eval` ask whether one steering is fit to be accepted. They cannot see a judge
//! that slowly turns, samples that grow alike, or gains that stopped: that takes more than one round.

pub mod actions;
pub mod detectors;
pub mod figures;
mod params;
mod stage;

pub use params::{Act, GuardParams};
pub use stage::Guard;
