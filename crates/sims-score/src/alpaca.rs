//! AlpacaEval 2.0 (Dubois and others 2024, arXiv 2404.04475): 805 instructions, answered by a baseline
//! and by the model under test, and a judge's preference between the two.
//!
//! [`Annotations`] reads the verdicts, [`win_rate`] gives the plain figures, [`length_control`] those
//! that a difference in length does not move. [`preference`] and [`order`] are the rules by which the
//! verdicts come about, [`annotate`] asks for them, [`judged`] takes those of this project's judges.

pub mod annotate;
mod annotations;
mod folds;
pub mod judged;
mod kept_answers;
pub mod length_control;
pub mod order;
pub mod outputs;
pub mod preference;
mod reference;
pub mod template;
pub mod win_rate;

pub use annotations::{Annotation, Annotations};
pub use folds::fold_of_rows;
pub use length_control::LengthControl;
pub use reference::{DIFFICULTY_FILE, Difficulties, GAMED_FILE, Gamed, GamedRow};
pub use win_rate::WinRate;

/// Number of instructions, which average lengths are divided by.
pub const INSTRUCTIONS: usize = 805;
