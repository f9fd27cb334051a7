//! Trains a steering vector on preferences, through the frozen model.
//!
//! [`Train`] is the stage. It stands where `extract` and `fit` stand otherwise: contrast pairs in, a steering and its
//! fit report out. The objective and its optimiser are `sims_steering::bipo`; here are what they learn from
//! ([`Trial`] prepares pairs and splits them by prompt), the figures of the result, and its place on the incumbent.

mod compose;
mod error;
mod pairs;
mod params;
mod report;
mod stage;
mod traced_inputs;
mod trial;

pub use compose::{Composed, compose};
pub use error::TrainError;
pub use pairs::SplitPairs;
pub use params::{Edited, Labels, Relation, TrainParams};
pub use stage::Train;
pub use traced_inputs::{bad_input, traced_model, warn_of_identical};
pub use trial::{Figures, LayerFigures, Trial};
