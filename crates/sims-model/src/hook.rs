//! The one door into the residual stream and the attention heads.

use candle_core::Tensor;

use crate::{Config, Result, Segment};

/// Reads or replaces the residual stream after decoder blocks, and what attention heads put out.
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

    /// Returns whether the hook is to be called on the heads of block `layer` (0-based); by default on none.
    fn wants_heads(&self, _layer: usize) -> bool {
        false
    }

    /// Takes what the attention heads of block `layer` put out, and may return what replaces it.
    ///
    /// `heads`: `[rows, num_attention_heads * head_dim]`, head by head: the input of the attention's output
    /// projection. Otherwise as [`on_block`](Self::on_block), which comes after it.
    ///
    /// # Errors
    /// Whatever stops the forward pass; the decoder adds nothing to it.
    fn on_heads(
        &mut self,
        _layer: usize,
        _segments: &[Segment],
        _heads: &Tensor,
    ) -> Result<Option<Tensor>> {
        Ok(None)
    }
}

/// A place in a block where a hook reads or replaces.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Site {
    /// The block's output, `[rows, hidden_size]`.
    #[default]
    Block,
    /// The attention heads' outputs, `[rows, num_attention_heads * head_dim]`.
    Heads,
}

impl Site {
    /// Returns the width of a row there.
    pub fn width(self, config: &Config) -> usize {
        match self {
            Self::Block => config.hidden_size,
            Self::Heads => config.query_size(),
        }
    }
}
