//! Which output the judge sees first.

use crate::mersenne_twister::MersenneTwister;

/// Tells whether the model's output is shown first, a fair coin that depends on the instruction alone.
#[must_use]
pub fn is_switched(instruction: &str) -> bool {
    let seed = format!("is_switched_outputs{instruction}0");
    MersenneTwister::from_text(&seed).next_f64() >= 0.5
}
