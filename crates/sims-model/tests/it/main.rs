//! The engine as its users see it, on small random models.

mod bad_model;
mod capture;
mod fixtures;
mod generation;
mod gguf;
mod gpu;
mod heads;
mod invariance;
mod memory;
mod parity;
mod random_model;
mod scoring;
