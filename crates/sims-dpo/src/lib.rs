//! Fine-tunes a low-rank adapter on preferences: the baseline that steering is compared with.
//!
//! [`Dpo`] is the stage: the contrast pairs that steering is fitted to in, an adapter of the same model out, which
//! `sample` and `steer-eval` merge into the weights. The objective and its optimiser are `sims_steering::dpo`.

mod error;
mod params;
mod report;
mod stage;

pub use error::DpoError;
pub use params::DpoParams;
pub use stage::Dpo;
