//! The one door into the residual stream.

use candle_core::Tensor;

use crate::{Result, Segment};

/// Reads or replaces the residual stream after decoder blocks.
///
/// The decoder calls [`on_block`](Hook::on_block) after every block that the hook wants, in the order
/// of the layers. Reading states and writing steered ones are both hooks. With no hook installed there
/// is no cost; a hook that wants none of the layers is refused, so that no hook is silently idle.
pub trait Hook {
    /// Returns whether the hook is to be called after block `layer` (0-based).
    fn wants(&self, layer: usize) -> bool;

    /// Takes the output of block `layer`, and may return what replaces it.
    ///
    /// `hidden`: `[rows, hidden_size]`, f32 on the CPU and the decoder's dtype elsewhere; the residual
    /// stream before the next block (before the final norm for the last). `segments` says which row is
    /// which position, and from which position on a row may be edited
    /// ([`Segment::edit_rows`]). A replacement has the same shape, dtype and device.
    ///
    /// # Errors
    /// Whatever stops the forward pass; the decoder adds nothing to it.
    fn on_block(
        &mut self,
        layer: usize,
        segments: &[Segment],
        hidden: &Tensor,
    ) -> Result<Option<Tensor>>;
}
