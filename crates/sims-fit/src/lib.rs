//! Fits a steering function to hidden states.
//!
//! [`Fit`] is the stage. [`states`] opens what extraction wrote, [`layer`] measures one layer and checks it
//! against shuffled labels, [`condition`] tells prompts to steer from others, [`operators`] turns a layer's states into an edit, and [`compose`] puts the edits on
//! top of the incumbent. States of one layer are in memory at a time, at most `max-rows` rows of them.

pub mod compose;
pub mod condition;
mod error;
pub mod heads;
pub mod layer;
pub mod operators;
mod params;
mod report;
mod stage;
pub mod states;
pub mod weights;

pub use error::FitStageError;
pub use params::{
    Averaged, Direction, Edge, FitParams, HeadsAlong, Labels, Line, NormalChoice, OperatorChoice,
    Pooling, Relation, Rule, TargetAngle,
};
pub use stage::Fit;
