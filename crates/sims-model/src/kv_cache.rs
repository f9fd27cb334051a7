//! Keys and values of the positions computed so far, owned by the caller.

use std::sync::Mutex;

use candle_core::Tensor;

use crate::ops::attention::LayerCache;
use crate::{Batch, Decoder, ModelError, Result};

/// Preallocated room for the keys and values of a number of slots, at every layer.
///
/// A slot holds one position of one sequence. Which slot is whose is the caller's business
/// ([`Segment`](crate::Segment) names them); consecutive positions in consecutive slots are fastest. The
/// cache refuses slots beyond its end, and contexts over slots that were never written. Keys are stored
/// after the rotation. A cache serves the decoder it was made for, one forward pass at a time.
pub struct KvCache {
    /// Made by the first forward pass, which can report that the device has no room.
    pub(crate) layers: Option<Layers>,
    slots: usize,
    /// Whether a slot was written, up to the last that was.
    written: Vec<bool>,
    /// Queries, keys and values of the current batch.
    pub(crate) qkv: Vec<f32>,
    pub(crate) scratch: ScratchPool,
}

/// The keys and values, one element a layer.
pub(crate) enum Layers {
    /// In the layout of the CPU kernels.
    Packed(Vec<LayerCache>),
    /// As keys and values `[slots, kv_heads * head_dim]`, in the decoder's dtype on its device.
    Tensors(Vec<(Tensor, Tensor)>),
}

impl KvCache {
    /// Makes room for `slots` positions of `decoder`, on its device.
    ///
    /// The first forward pass takes the memory, and fails with [`ModelError::OutOfMemory`] if there is not enough.
    pub fn new(_decoder: &Decoder, slots: usize) -> Self {
        Self {
            layers: None,
            slots,
            written: Vec::new(),
            qkv: Vec::new(),
            scratch: ScratchPool::default(),
        }
    }

    /// Returns the number of slots.
    pub fn slots(&self) -> usize {
        self.slots
    }

    /// Returns whether a forward pass has taken the memory for the slots.
    pub(crate) fn is_made(&self) -> bool {
        self.layers.is_some()
    }

    /// Checks a batch's slots and contexts against the cache, and marks its slots as written.
    pub(crate) fn admit(&mut self, batch: &Batch) -> Result<()> {
        let refuse = |segment: usize, message: String| Err(ModelError::Batch { segment, message });
        for (index, segment) in batch.segments.iter().enumerate() {
            let slots = self.slots();
            for range in segment.context.iter().chain([&segment.slots]) {
                if range.start > range.end || range.end > slots {
                    return refuse(
                        index,
                        format!("slots {range:?} are not within the cache's {slots}"),
                    );
                }
            }
            if self.written.len() < segment.slots.end {
                self.written.resize(segment.slots.end, false);
            }
            self.written[segment.slots.clone()].fill(true);
        }
        for (index, segment) in batch.segments.iter().enumerate() {
            for range in &segment.context {
                let known = range.start..range.end.min(self.written.len());
                let written = self.written.get(known).unwrap_or_default();
                let beyond = (written.len() < range.len()).then_some(written.len());
                if let Some(slot) = written.iter().position(|written| !written).or(beyond) {
                    return refuse(
                        index,
                        format!("context slot {} was never written", range.start + slot),
                    );
                }
            }
        }
        Ok(())
    }
}

/// Buffers that live from one forward pass to the next, so that a step allocates nothing.
#[derive(Default)]
pub struct ScratchPool {
    idle: Mutex<Vec<Scratch>>,
}

/// The intermediate results of the rows that one thread is at.
#[derive(Default)]
pub struct Scratch {
    pub(crate) normed: Vec<f32>,
    pub(crate) attended: Vec<f32>,
    pub(crate) gate_up: Vec<f32>,
    pub(crate) activated: Vec<f32>,
    pub(crate) output: Vec<f32>,
    pub(crate) scores: Vec<f32>,
}

impl ScratchPool {
    /// Calls `f` with buffers that no other thread has.
    pub(crate) fn with<R>(&self, f: impl FnOnce(&mut Scratch) -> R) -> R {
        let mut scratch = self.lock().pop().unwrap_or_default();
        let result = f(&mut scratch);
        self.lock().push(scratch);
        result
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Scratch>> {
        self.idle
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Returns the first `len` elements of a buffer, grown if need be; their values are whatever was there.
pub(crate) fn sized(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}
