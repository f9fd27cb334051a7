//! Random streams by name.
//!
//! Every draw of a fit has its own stream, named by what it is drawn for, so that no result depends on the
//! order in which work is done.

use sims_stats::random::{Stream, key_of};

/// Opens the stream for `label` under `seed`.
pub(crate) fn stream(seed: u64, label: &str) -> Stream {
    Stream::new(seed, key_of(label))
}

/// Standard normal draws.
pub(crate) trait NormalDraw {
    /// Draws a standard normal number (Box–Muller, one of the pair).
    fn normal(&mut self) -> f64;
}

impl NormalDraw for Stream {
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.next_f64()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.next_f64()).cos()
    }
}
