//! Rows of many sequences, one after another, with what each attends.

use std::ops::Range;

/// A run of consecutive positions of one sequence within a batch.
///
/// Row `i` of the segment attends the slots of `context` in order, then the segment's own rows up to
/// and including itself. `context` holds every earlier position of the sequence exactly once, so its
/// ranges add up to `position` slots; it may name slots that other segments of the same batch write,
/// since every block writes all keys and values before it attends: a tree of shared prefixes is one
/// batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The rows of the batch that the segment covers.
    pub rows: Range<usize>,
    /// The position, in its sequence, of the first row.
    pub position: usize,
    /// The KV slots attended before the segment itself, in the order of their positions.
    pub context: Vec<Range<usize>>,
    /// The KV slots that the rows' keys and values are written to, as many as there are rows.
    pub slots: Range<usize>,
    /// The first position whose hidden state a hook may edit; `usize::MAX` for none.
    pub edit_from: usize,
}

impl Segment {
    /// Returns the number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Returns whether the segment has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Returns the rows of the batch whose hidden states a hook may edit.
    pub fn edit_rows(&self) -> Range<usize> {
        let skipped = self.edit_from.saturating_sub(self.position).min(self.len());
        self.rows.start + skipped..self.rows.end
    }
}

/// The tokens of one forward pass and how they group into segments.
///
/// The segments' `rows` tile `0..tokens.len()` in order; no two segments share a slot.
/// There is no padding: sequences of different lengths simply have different numbers of rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Batch {
    /// One token id a row.
    pub tokens: Vec<u32>,
    /// The segments, in the order of their rows.
    pub segments: Vec<Segment>,
}

impl Batch {
    /// Appends a segment of `tokens`, giving it the next rows.
    ///
    /// `slots_start` is the first of the consecutive slots that its keys and values are written to;
    /// the position of its first row is the number of slots in `context`.
    pub fn push(
        &mut self,
        tokens: &[u32],
        context: Vec<Range<usize>>,
        slots_start: usize,
        edit_from: usize,
    ) {
        let row = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.segments.push(Segment {
            rows: row..row + tokens.len(),
            position: context.iter().map(|range| range.len()).sum(),
            context,
            slots: slots_start..slots_start + tokens.len(),
            edit_from,
        });
    }
}
