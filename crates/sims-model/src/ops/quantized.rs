//! The linear layer whose weights stay ggml blocks, where the file's mapping has them.
//!
//! Blocks run along an output's inputs, the kernel wants the weights of 64 outputs for one input side by
//! side. So for each panel of 64 outputs the blocks of 256 inputs at a time become f32 in a scratch that
//! stays in the cache, all rows are multiplied with them, and their sums wait in memory for the next 256.
//! Each sum adds its products in the order of the inputs, one fused multiply-add at a time: the result is
//! the same bits as that of a [`PackedLinear`] of the unpacked weights.

mod format;
mod unpack;

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

pub use format::{ALIGNMENT, BlockFormat};

use super::InstructionSet;
use super::lanes::{Kernel, LANES, Lanes};
use super::linear::{PackedLinear, Spread, Write};
use super::shared_slice::SharedSlice;

/// Outputs of one panel.
const PANEL: usize = 64;
/// Inputs whose weights are unpacked at a time: the longest block, and a whole number of every other.
const RUN: usize = 256;

/// Bytes that several owners hold, such as a mapped file.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// Which row of a stored matrix is which of the matrix that is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowOrder {
    /// The same.
    Same,
    /// Within each head of this many rows, those of the two halves lie alternately: a rotary embedding that
    /// turns neighbouring dimensions has its weights so, and this decoder turns dimension `i` with `i + half`.
    Interleaved {
        /// Rows of one head, even.
        head_dim: usize,
    },
}

impl RowOrder {
    /// Returns the stored row that is `row`.
    pub fn stored(self, row: usize) -> usize {
        match self {
            Self::Same => row,
            Self::Interleaved { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                let half = head_dim / 2;
                head * head_dim + within % half * 2 + within / half
            }
        }
    }
}

/// A matrix `[rows, columns]` stored as ggml blocks along its rows.
#[derive(Clone)]
pub struct BlockMatrix {
    bytes: SharedBytes,
    range: Range<usize>,
    format: BlockFormat,
    rows: usize,
    columns: usize,
    order: RowOrder,
}

impl BlockMatrix {
    /// Takes `range` of `bytes` for a matrix.
    ///
    /// # Errors
    /// What is wrong with it: rows that are not whole blocks, bytes too few or many or not aligned, an order
    /// of heads that are not whole, numbers that are not finite.
    pub fn new(
        bytes: SharedBytes,
        range: Range<usize>,
        format: BlockFormat,
        [rows, columns]: [usize; 2],
        order: RowOrder,
    ) -> Result<Self, String> {
        if let RowOrder::Interleaved { head_dim } = order
            && (head_dim == 0 || head_dim % 2 != 0 || rows % head_dim != 0)
        {
            return Err(format!(
                "has {rows} rows, which are not whole heads of {head_dim}"
            ));
        }
        let row_bytes = format.bytes_of(columns).ok_or_else(|| {
            let block = format.block_len();
            format!("has rows of {columns}, which {format} does not store: its blocks are {block}")
        })?;
        let blocks = (*bytes).as_ref().get(range.clone());
        let blocks = blocks.filter(|blocks| row_bytes.checked_mul(rows) == Some(blocks.len()));
        let blocks = blocks.ok_or_else(|| "is not within the file".to_owned())?;
        if !blocks.as_ptr().addr().is_multiple_of(ALIGNMENT) {
            return Err(format!("does not start at a multiple of {ALIGNMENT} bytes"));
        }
        // Each part is a whole number of rows, so that its first element is easily found.
        let rows_at_once = (1 << 20) / row_bytes.max(1) + 1;
        let parts = blocks.par_chunks(rows_at_once * row_bytes).enumerate();
        let wrong = parts.find_map_first(|(part, blocks)| {
            Some(part * rows_at_once * columns + format.first_not_finite(blocks)?)
        });
        if let Some(element) = wrong {
            return Err(format!("is NaN or infinite at element {element}"));
        }
        Ok(Self {
            bytes,
            range,
            format,
            rows,
            columns,
            order,
        })
    }

    /// Returns the number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Returns how the numbers are stored.
    pub fn format(&self) -> BlockFormat {
        self.format
    }

    /// Returns which stored row is which.
    pub fn order(&self) -> RowOrder {
        self.order
    }

    /// Returns the bytes that the blocks take.
    pub fn bytes(&self) -> usize {
        self.range.len()
    }

    /// Returns the blocks, in the stored order of the rows.
    pub fn stored_blocks(&self) -> &[u8] {
        &(*self.bytes).as_ref()[self.range.clone()]
    }

    /// Returns the blocks of a row.
    fn row(&self, row: usize) -> &[u8] {
        let row_bytes = self.range.len() / self.rows;
        &self.stored_blocks()[self.order.stored(row) * row_bytes..][..row_bytes]
    }

    /// Returns the blocks, row after row in the order that is meant.
    pub fn blocks_in_order(&self) -> Vec<u8> {
        (0..self.rows)
            .flat_map(|row| self.row(row))
            .copied()
            .collect()
    }

    /// Writes the numbers of a row, `[columns]`.
    ///
    /// # Panics
    /// When there is no such row.
    pub fn unpack_row(&self, row: usize, out: &mut [f32]) {
        self.format.unpack(self.row(row), out);
    }

    /// Returns the numbers of all rows, `[rows, columns]`.
    pub fn unpack(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.rows * self.columns];
        let rows = values.par_chunks_mut(self.columns.max(1)).enumerate();
        rows.for_each(|(row, values)| self.unpack_row(row, values));
        values
    }
}

/// A linear layer whose weights are ggml blocks; several matrices over the same inputs make one layer.
pub struct QuantizedLinear {
    in_features: usize,
    out_features: usize,
    parts: Vec<BlockMatrix>,
    bias: Option<Vec<f32>>,
}

/// A linear layer on the CPU: its weights packed, or as ggml blocks.
pub enum Linear {
    /// In the layout of the kernels.
    Packed(PackedLinear),
    /// As they are stored.
    Quantized(QuantizedLinear),
}

impl Linear {
    /// Returns the number of inputs.
    pub fn in_features(&self) -> usize {
        match self {
            Self::Packed(layer) => layer.in_features(),
            Self::Quantized(layer) => layer.in_features(),
        }
    }

    /// Returns the number of outputs.
    pub fn out_features(&self) -> usize {
        match self {
            Self::Packed(layer) => layer.out_features(),
            Self::Quantized(layer) => layer.out_features(),
        }
    }

    /// Returns the bytes that the weights take.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Packed(layer) => layer.bytes(),
            Self::Quantized(layer) => layer.bytes(),
        }
    }

    /// Writes the weights of one output, `[in_features]`, as an embedding is looked up.
    pub fn weights_of(&self, output: usize, weights: &mut [f32]) {
        match self {
            Self::Packed(layer) => layer.weights_of(output, weights),
            Self::Quantized(layer) => layer.weights_of(output, weights),
        }
    }

    /// Computes `x · weightᵀ + bias`, f32 sums.
    ///
    /// `x`: `[rows, in_features]`; `out`: `[rows, out_features]`, both f32.
    pub fn forward(
        &self,
        set: InstructionSet,
        x: &[f32],
        out: &mut [f32],
        write: Write,
        spread: Spread,
    ) {
        match self {
            Self::Packed(layer) => layer.forward(set, x, out, write, spread),
            Self::Quantized(layer) => layer.forward(set, x, out, write, spread),
        }
    }
}

/// What one thread unpacks weights to and keeps sums in.
struct Scratch {
    /// `[16, RUN]`, the weights of sixteen outputs as they are stored.
    rows: Box<[[f32; RUN]; LANES]>,
    /// `[RUN, 64]`, the weights of a panel.
    weights: Box<[[f32; PANEL]; RUN]>,
    /// `[rows, 64]`.
    sums: Vec<[f32; PANEL]>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        rows: Box::new([[0.0; RUN]; LANES]),
        weights: Box::new([[0.0; PANEL]; RUN]),
        sums: Vec::new(),
    });
}

impl QuantizedLinear {
    /// Makes a layer of the outputs of `parts`, one after another.
    ///
    /// # Panics
    /// When the parts do not have as many inputs as each other, or there are none.
    pub fn new(parts: Vec<BlockMatrix>, bias: Option<Vec<f32>>) -> Self {
        let in_features = parts[0].columns();
        assert!(parts.iter().all(|part| part.columns() == in_features));
        Self {
            in_features,
            out_features: parts.iter().map(BlockMatrix::rows).sum(),
            parts,
            bias,
        }
    }

    /// Returns the number of inputs.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Returns the number of outputs.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// Returns the bytes that the blocks take.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(BlockMatrix::bytes).sum()
    }

    /// Computes `x · weightᵀ + bias`, f32 sums.
    ///
    /// `x`: `[rows, in_features]`; `out`: `[rows, out_features]`, both f32.
    pub fn forward(
        &self,
        set: InstructionSet,
        x: &[f32],
        out: &mut [f32],
        write: Write,
        spread: Spread,
    ) {
        debug_assert_eq!(x.len() / self.in_features, out.len() / self.out_features);
        let out = SharedSlice::new(out);
        // Different panels write different outputs, as PanelProduct requires.
        let panel = |panel: usize| {
            SCRATCH.with_borrow_mut(|scratch| {
                set.run(PanelProduct {
                    layer: self,
                    x,
                    first: panel * PANEL,
                    scratch,
                    write,
                    out,
                });
            });
        };
        let panels = self.out_features.div_ceil(PANEL);
        match spread {
            Spread::OneThread => (0..panels).for_each(panel),
            Spread::AllThreads => (0..panels).into_par_iter().for_each(panel),
        }
    }

    /// Returns the matrices, whose outputs follow one another.
    pub fn parts(&self) -> &[BlockMatrix] {
        &self.parts
    }

    /// Returns the weights, `[out_features, in_features]`.
    pub fn unpack(&self) -> Vec<f32> {
        self.parts.iter().flat_map(BlockMatrix::unpack).collect()
    }

    /// Returns the biases.
    pub fn bias(&self) -> Option<&[f32]> {
        self.bias.as_deref()
    }

    /// Writes the weights of one output, `[in_features]`, as an embedding is looked up.
    ///
    /// # Panics
    /// When there is no such output.
    pub fn weights_of(&self, output: usize, weights: &mut [f32]) {
        let (format, blocks) = self.output(output).expect("an output of the layer");
        format.unpack(blocks, weights);
    }

    /// Returns the stored weights of an output: their format and blocks.
    fn output(&self, mut output: usize) -> Option<(BlockFormat, &[u8])> {
        for part in &self.parts {
            if output < part.rows() {
                return Some((part.format(), part.row(output)));
            }
            output -= part.rows();
        }
        None
    }
}

/// The product of all rows with one panel. No other thread may write outputs `first..first + 64` meanwhile.
struct PanelProduct<'a> {
    layer: &'a QuantizedLinear,
    /// `[rows, in_features]`.
    x: &'a [f32],
    /// The panel's first output.
    first: usize,
    scratch: &'a mut Scratch,
    write: Write,
    /// `[rows, out_features]`.
    out: SharedSlice<'a, f32>,
}

impl Kernel for PanelProduct<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(mut self, lanes: L) {
        let n = self.layer.in_features;
        let rows = self.x.len() / n;
        self.scratch.sums.clear();
        self.scratch.sums.resize(rows, [0.0; PANEL]);
        let tile_rows = if L::SUMS >= 24 { 6 } else { 3 };
        for start in (0..n).step_by(RUN) {
            let run = start..n.min(start + RUN);
            self.unpack(lanes, run.clone());
            let mut row = 0;
            while row < rows {
                // A row alone takes all 64 outputs at once, to have sums enough for the multiplier's latency.
                match (rows - row).min(tile_rows) {
                    1 => self.tile::<L, 1, 4>(lanes, row, run.clone()),
                    2 if L::SUMS < 24 => self.tile::<L, 2, 2>(lanes, row, run.clone()),
                    3 if L::SUMS < 24 => self.tile::<L, 3, 2>(lanes, row, run.clone()),
                    2 => self.tile::<L, 2, 4>(lanes, row, run.clone()),
                    3 => self.tile::<L, 3, 4>(lanes, row, run.clone()),
                    4 => self.tile::<L, 4, 4>(lanes, row, run.clone()),
                    5 => self.tile::<L, 5, 4>(lanes, row, run.clone()),
                    _ => self.tile::<L, 6, 4>(lanes, row, run.clone()),
                }
                row += tile_rows.min(rows - row);
            }
        }
        for row in 0..rows {
            self.write(row);
        }
    }
}

impl PanelProduct<'_> {
    /// Unpacks the weights of the inputs `run` of the panel's outputs; those past the last output are zero.
    #[inline(always)]
    fn unpack<L: Lanes>(&mut self, lanes: L, run: Range<usize>) {
        let Scratch { rows, weights, .. } = &mut *self.scratch;
        for group in 0..PANEL / LANES {
            for (lane, values) in rows.iter_mut().enumerate() {
                let values = &mut values[..run.len()];
                match self.layer.output(self.first + group * LANES + lane) {
                    Some((format, blocks)) => {
                        let bytes =
                            |inputs: usize| inputs / format.block_len() * format.block_bytes();
                        let blocks = &blocks[bytes(run.start)..bytes(run.end)];
                        unpack::unpack(lanes, format, blocks, values);
                    }
                    None => values.fill(0.0),
                }
            }
            for first in (0..run.len()).step_by(LANES) {
                let mut tile = [lanes.splat(0.0); LANES];
                for lane in 0..LANES {
                    tile[lane] = lanes.load(&rows[lane].as_chunks::<LANES>().0[first / LANES]);
                }
                let tile = lanes.transpose(tile);
                for i in 0..LANES {
                    // Past the end of a run that is no whole number of sixteen, what was there is turned along.
                    let weights = weights[first + i].as_chunks_mut::<LANES>().0;
                    lanes.store(tile[i], &mut weights[group]);
                }
            }
        }
    }

    /// Adds the products of the inputs `run` to the sums of `R` rows from `row` on, `W` times sixteen outputs
    /// at a time.
    #[inline(always)]
    fn tile<L: Lanes, const R: usize, const W: usize>(
        &mut self,
        lanes: L,
        row: usize,
        run: Range<usize>,
    ) {
        let n = self.layer.in_features;
        let mut x: [&[f32]; R] = [&[]; R];
        for (r, x) in x.iter_mut().enumerate() {
            *x = &self.x[(row + r) * n..(row + r + 1) * n][run.clone()];
        }
        let Scratch { weights, sums, .. } = &mut *self.scratch;
        let weights = &weights[..run.len()];
        let kept = &mut sums[row..row + R];
        for first in (0..PANEL / LANES).step_by(W) {
            if self.first + first * LANES >= self.layer.out_features {
                break;
            }
            let mut sums = [[lanes.splat(0.0); W]; R];
            for r in 0..R {
                let kept = kept[r].as_chunks::<LANES>().0;
                for w in 0..W {
                    sums[r][w] = lanes.load(&kept[first + w]);
                }
            }
            for (input, weights) in weights.iter().enumerate() {
                let columns = weights.as_chunks::<LANES>().0;
                let mut weights = [lanes.splat(0.0); W];
                for w in 0..W {
                    weights[w] = lanes.load(&columns[first + w]);
                }
                for r in 0..R {
                    // SAFETY: `input` is below the length of `weights`, which is that of every `x[r]`.
                    let x = lanes.splat(unsafe { *x[r].get_unchecked(input) });
                    for w in 0..W {
                        sums[r][w] = lanes.mul_add(x, weights[w], sums[r][w]);
                    }
                }
            }
            for r in 0..R {
                let kept = kept[r].as_chunks_mut::<LANES>().0;
                for w in 0..W {
                    lanes.store(sums[r][w], &mut kept[first + w]);
                }
            }
        }
    }

    /// Writes the panel's outputs of a row.
    #[inline(always)]
    fn write(&self, row: usize) {
        let outputs = self.layer.out_features;
        let panel = self.first..outputs.min(self.first + PANEL);
        let (start, end) = (row * outputs + panel.start, row * outputs + panel.end);
        // SAFETY: these outputs belong to this panel, which no other thread writes.
        let out = unsafe { self.out.part(start..end) };
        let bias = self.layer.bias.as_ref().map(|bias| &bias[panel]);
        for (i, out) in out.iter_mut().enumerate() {
            let mut v = self.scratch.sums[row][i];
            if let Some(bias) = bias {
                v += bias[i];
            }
            *out = match self.write {
                Write::Store => v,
                Write::Add => *out + v,
            };
        }
    }
}

#[cfg(test)]
mod tests;
