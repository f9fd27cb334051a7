//! Steering functions: fit, apply as a hook, save and load.
//!
//! A [`Steering`] is data: for each layer a list of [`Edit`]s, one strength, the digest of the model they
//! belong to. [`Steering::hook`] applies it through the engine's hook trait, which is all that this crate
//! knows of the engine. The operators are in [`operator`] and [`householder`]; what they are fitted with is
//! in [`mean_difference`], [`probe`], [`hpr`] and, through the model, [`bipo`], their control in [`random_direction`], and [`layer_selection`] says which layers to steer.
//!
//! [`dpo`] trains what steering is compared with: an adapter of the weights, which [`AdapterFile`] stores.
//!
//! Everything is computed row by row in a fixed order, so results depend neither on batches nor on threads. Fits run on a
//! device of candle's where [`PairedStates::on_device`] gave them their states there.

mod adamw;
mod adapter_file;
pub mod affine_transport;
pub mod angle_net;
pub mod bipo;
mod composition;
pub mod condition;
pub mod condition_fit;
mod dense;
mod device;
mod device_states;
pub mod dpo;
mod error;
mod fit_summary;
mod gate;
mod heads;
pub mod hook;
pub mod householder;
pub mod hpr;
pub mod iti;
pub mod layer_selection;
pub mod linear_transport;
pub mod mean_difference;
pub mod moments;
pub mod operator;
mod pair_batch;
pub mod paired_states;
pub mod preference;
pub mod principal_direction;
pub mod probe;
mod random;
pub mod random_direction;
pub mod real;
pub mod separation;
mod steering;
mod steering_file;
mod symmetric_eigen;

pub use adapter_file::{AdapterError, AdapterFile, FineTuning, initial_adapter};
pub use affine_transport::AffineTransport;
pub use composition::shift_factor;
pub use condition::{Condition, ConditionBlock};
pub use device_states::DeviceStates;
pub use error::{FitError, SteeringError};
pub use fit_summary::{FitSummary, LayerFit, Signal};
pub use heads::HeadShift;
pub use hook::{EditSizes, SteeringHook};
pub use householder::{AngleRule, Householder};
pub use operator::{Additive, Edit, EditCounts, Operator};
pub use paired_states::{PairedStates, PromptSplit};
pub use steering::{Compose, Steering};
