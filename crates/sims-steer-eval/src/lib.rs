//! Evaluates a steering function against the base model and decides whether to accept it.
//!
//! [`SteerEval`] is the stage. It draws answers of the base and of the steered model to the same
//! prompts, lets the frozen model judge them ([`win_rate`]), looks at what the judge does not see
//! ([`text_figures`], [`content_figures`], [`neutral`]), and holds it all against the gates ([`gates`]). [`back_off`] looks
//! for a strength that passes; when none does, the incumbent stays.
//!
//! The truth about the answers is not to be had here: nothing inside the loop reads it.

pub mod answers;
pub mod back_off;
pub mod constraints;
pub mod content_figures;
mod evaluation;
pub mod gates;
pub mod neutral;
mod params;
pub mod refusals;
mod report;
mod stage;
pub mod text_figures;
mod trial;
pub mod win_rate;

pub use params::{Curve, Gate, LayerSearch, SteerEvalParams};
pub use stage::SteerEval;
