//! Samples several responses a prompt from the base or the steered model
