//! The linear layer with packed weights.
//!
//! Weights are packed once, at load, into panels of 64 outputs: for each input the 64 weights lie side
//! by side. One tile of the product is a few rows by up to 64 outputs, all of whose sums stay in
//! registers. Each sum adds its products in a fixed order, one fused multiply-add at a time, whatever the
//! tile, so that a row's outputs do not depend on the rows beside it: in f32 in the order of the inputs, in
//! bf16 by pairs of inputs, the second of a pair before the first.

use rayon::prelude::*;

use super::InstructionSet;
use super::bf16;
use super::lanes::{Kernel, LANES, Lanes};
use super::shared_slice::SharedSlice;
use crate::Dtype;
use crate::weights::Projection;

/// Outputs of one panel.
const PANEL: usize = 64;

/// Bytes of a line of the cache.
const LINE: usize = 64;

/// Bytes of half a [`PanelRow`]. The first two tiles of a panel fetch the next one, a half each.
const HALF: usize = 2 * LINE;

/// A linear layer whose weights are packed for the CPU, in f32 or bf16.
pub struct PackedLinear {
    in_features: usize,
    out_features: usize,
    panels: Panels,
    bias: Option<Vec<f32>>,
}

/// The packed weights: for each panel and each input, 64 outputs; those past the last output are zero.
enum Panels {
    /// `[panels, in_features]`.
    F32(Vec<[f32; PANEL]>),
    /// `[panels, in_features / 2]`, pairs of inputs; an odd number of inputs ends in a pair with zero.
    Bf16(Vec<[u32; PANEL]>),
}

/// What happens to the outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// They replace what was there.
    Store,
    /// They are added to what was there, as to the residual stream.
    Add,
}

/// Whether a layer uses the calling thread alone or all of the current rayon pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// The calling thread; others are at other rows.
    OneThread,
    /// All threads of the pool.
    AllThreads,
}

impl PackedLinear {
    /// Packs a layer's weights; with [`Dtype::Bf16`] they are rounded to it, and inputs will be.
    pub fn pack(projection: Projection, dtype: Dtype) -> Self {
        let Projection {
            out_features,
            in_features,
            weight,
            bias,
        } = projection;
        let panel_weight = |panel: usize, input: usize, lane: usize| {
            let output = panel * PANEL + lane;
            if output < out_features && input < in_features {
                weight[output * in_features + input]
            } else {
                0.0
            }
        };
        let rows = |step: usize| {
            let inputs = move |panel| (0..in_features).step_by(step).map(move |i| (panel, i));
            (0..out_features.div_ceil(PANEL)).flat_map(inputs)
        };
        let panels = match dtype {
            Dtype::F32 => Panels::F32({
                let mut all = Vec::with_capacity(out_features.div_ceil(PANEL) * in_features);
                all.extend(rows(1).map(|(panel, input)| {
                    std::array::from_fn(|lane| panel_weight(panel, input, lane))
                }));
                all
            }),
            Dtype::Bf16 => Panels::Bf16({
                let mut all =
                    Vec::with_capacity(out_features.div_ceil(PANEL) * in_features.div_ceil(2));
                all.extend(rows(2).map(|(panel, input)| {
                    std::array::from_fn(|lane| {
                        let weight = |input| panel_weight(panel, input, lane);
                        bf16::pair(weight(input), weight(input + 1))
                    })
                }));
                all
            }),
        };
        Self {
            in_features,
            out_features,
            panels,
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

    /// Returns the bytes that the packed weights take.
    pub fn bytes(&self) -> usize {
        match &self.panels {
            Panels::F32(rows) => size_of_val(rows.as_slice()),
            Panels::Bf16(rows) => size_of_val(rows.as_slice()),
        }
    }

    /// Writes the weights of one output, `[in_features]`, as an embedding is looked up.
    pub fn weights_of(&self, output: usize, weights: &mut [f32]) {
        let (panel, lane) = (output / PANEL, output % PANEL);
        match &self.panels {
            Panels::F32(panels) => {
                let n = self.in_features;
                for (weight, row) in weights.iter_mut().zip(&panels[panel * n..]) {
                    *weight = row[lane];
                }
            }
            Panels::Bf16(panels) => {
                let n = self.in_features.div_ceil(2);
                for (pair, row) in weights.chunks_mut(2).zip(&panels[panel * n..]) {
                    let bits = row[lane];
                    for (weight, bits) in pair.iter_mut().zip([bits << 16, bits & 0xffff_0000]) {
                        *weight = f32::from_bits(bits);
                    }
                }
            }
        }
    }

    /// Computes `x · weightᵀ + bias`, f32 sums; bf16 weights are multiplied with inputs rounded to bf16.
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
        match &self.panels {
            Panels::F32(weights) => self.product(set, x, weights, out, write, spread),
            Panels::Bf16(weights) => bf16::with_pairs(set, x, self.in_features, |x| {
                self.product(set, x, weights, out, write, spread);
            }),
        }
    }

    /// The product, with the inputs in the form that the panels take.
    fn product<P: PanelRow>(
        &self,
        set: InstructionSet,
        x: &[P::Input],
        weights: &[P],
        out: &mut [f32],
        write: Write,
        spread: Spread,
    ) {
        let out = SharedSlice::new(out);
        let panels = self.out_features.div_ceil(PANEL);
        let n = weights.len() / panels;
        // Different panels write different outputs, as PanelProduct requires.
        let panel = |panel: usize| {
            set.run(PanelProduct {
                layer: self,
                x,
                first: panel * PANEL,
                weights: &weights[panel * n..(panel + 1) * n],
                next: weights.as_ptr().wrapping_add((panel + 1) * n),
                write,
                out,
            });
        };
        match spread {
            Spread::OneThread => (0..panels).for_each(panel),
            Spread::AllThreads => (0..panels).into_par_iter().for_each(panel),
        }
    }
}

/// The weights of one step of the sums within a panel: of one input, or of a pair.
trait PanelRow: Copy + Sync {
    /// What they are multiplied with.
    type Input: Copy + Sync;

    /// Adds to `sums[r][w]` the products of `x[r]` with outputs `16 * (first + w)` and on of the panel.
    fn mul_add<L: Lanes, const R: usize, const W: usize>(
        &self,
        lanes: L,
        first: usize,
        x: [Self::Input; R],
        sums: &mut [[L::V; W]; R],
    );
}

impl PanelRow for [f32; PANEL] {
    type Input = f32;

    #[inline(always)]
    fn mul_add<L: Lanes, const R: usize, const W: usize>(
        &self,
        lanes: L,
        first: usize,
        x: [f32; R],
        sums: &mut [[L::V; W]; R],
    ) {
        let columns = self.as_chunks::<LANES>().0;
        let mut weights = [lanes.splat(0.0); W];
        for w in 0..W {
            weights[w] = lanes.load(&columns[first + w]);
        }
        for r in 0..R {
            let x = lanes.splat(x[r]);
            for w in 0..W {
                sums[r][w] = lanes.mul_add(x, weights[w], sums[r][w]);
            }
        }
    }
}

impl PanelRow for [u32; PANEL] {
    type Input = u32;

    #[inline(always)]
    fn mul_add<L: Lanes, const R: usize, const W: usize>(
        &self,
        lanes: L,
        first: usize,
        x: [u32; R],
        sums: &mut [[L::V; W]; R],
    ) {
        let columns = self.as_chunks::<LANES>().0;
        let mut weights = [&columns[first]; W];
        for w in 0..W {
            weights[w] = &columns[first + w];
        }
        lanes.mul_add_pairs(x, weights, sums);
    }
}

/// The product of all rows with one panel. No other thread may write outputs `first..first + 64` meanwhile.
struct PanelProduct<'a, P: PanelRow> {
    layer: &'a PackedLinear,
    /// `[rows, weights]`.
    x: &'a [P::Input],
    /// The panel's first output.
    first: usize,
    /// One element a step of the sums.
    weights: &'a [P],
    /// Where the next panel's weights start, if there is one.
    next: *const P,
    write: Write,
    /// `[rows, out_features]`.
    out: SharedSlice<'a, f32>,
}

impl<P: PanelRow> Kernel for PanelProduct<'_, P> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let tile_rows = if L::SUMS >= 24 { 6 } else { 3 };
        let rows = self.x.len() / self.weights.len();
        let tiles = rows.div_ceil(tile_rows);
        let mut row = 0;
        for tile in 0..tiles {
            // Rows are shared out evenly: a tile of few has not sums enough for the multiplier's latency, for
            // which a row alone takes all 64 outputs at once.
            let tile_rows = (rows - row).div_ceil(tiles - tile);
            let next = self
                .next
                .wrapping_byte_add(tile.min(1) * HALF * self.weights.len());
            match tile_rows {
                1 => self.tile::<L, 1, 4>(lanes, row, next),
                2 if L::SUMS < 24 => self.tile::<L, 2, 2>(lanes, row, next),
                3 if L::SUMS < 24 => self.tile::<L, 3, 2>(lanes, row, next),
                2 => self.tile::<L, 2, 4>(lanes, row, next),
                3 => self.tile::<L, 3, 4>(lanes, row, next),
                4 => self.tile::<L, 4, 4>(lanes, row, next),
                5 => self.tile::<L, 5, 4>(lanes, row, next),
                _ => self.tile::<L, 6, 4>(lanes, row, next),
            }
            row += tile_rows;
        }
    }
}

impl<P: PanelRow> PanelProduct<'_, P> {
    /// Computes `R` rows from `row` on, `W` times sixteen outputs at a time.
    ///
    /// Several rows take longer to compute than the weights to arrive, so meanwhile the half panel at `next` is
    /// fetched. One row waits for its own weights, which the machine foresees.
    #[inline(always)]
    fn tile<L: Lanes, const R: usize, const W: usize>(&self, lanes: L, row: usize, next: *const P) {
        let n = self.weights.len();
        let rows = self.x[row * n..(row + R) * n].as_ptr();
        for first in (0..PANEL / LANES).step_by(W) {
            let outputs = self.first + first * LANES;
            if outputs >= self.layer.out_features {
                break;
            }
            let mut sums = [[lanes.splat(0.0); W]; R];
            for (i, weights) in self.weights.iter().enumerate() {
                // SAFETY: `rows` starts `R` rows of `n` elements, and `i` is below `n`.
                let x = std::array::from_fn(|r| unsafe { *rows.add(r * n + i) });
                if R > 1 {
                    let line = next.wrapping_byte_add(i * HALF);
                    lanes.prefetch(line.cast());
                    lanes.prefetch(line.wrapping_byte_add(LINE).cast());
                }
                weights.mul_add::<L, R, W>(lanes, first, x, &mut sums);
            }
            for (r, sums) in sums.iter().enumerate() {
                for (w, sums) in sums.iter().enumerate() {
                    self.write(lanes, row + r, outputs + w * LANES, *sums);
                }
            }
        }
    }

    /// Writes up to sixteen outputs of a row, from `output` on.
    #[inline(always)]
    fn write<L: Lanes>(&self, lanes: L, row: usize, output: usize, sums: L::V) {
        let end = self.layer.out_features.min(output + LANES);
        if output >= end {
            return;
        }
        let start = row * self.layer.out_features;
        // SAFETY: these outputs belong to this panel, which no other thread writes.
        let out = unsafe { self.out.part(start + output..start + end) };
        if let Some(out) = out.first_chunk_mut::<LANES>() {
            let mut v = sums;
            if let Some(bias) = self
                .layer
                .bias
                .as_ref()
                .and_then(|bias| bias[output..end].first_chunk())
            {
                v = lanes.add(v, lanes.load(bias));
            }
            if self.write == Write::Add {
                v = lanes.add(lanes.load(out), v);
            }
            lanes.store(v, out);
        } else {
            let mut v = sums;
            if let Some(bias) = &self.layer.bias {
                v = lanes.add(v, lanes.load_part(&bias[output..end], 0.0));
            }
            if self.write == Write::Add {
                v = lanes.add(lanes.load_part(out, 0.0), v);
            }
            lanes.store_part(v, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn projection(out_features: usize, in_features: usize) -> Projection {
        let weight = (0..out_features * in_features)
            .map(|i| ((i * 37) % 101) as f32 * 0.01 - 0.5)
            .collect();
        let bias = Some((0..out_features).map(|i| i as f32 * 0.1).collect());
        Projection {
            out_features,
            in_features,
            weight,
            bias,
        }
    }

    fn inputs(rows: usize, n: usize) -> Vec<f32> {
        (0..rows * n)
            .map(|i| ((i * 53) % 97) as f32 * 0.02 - 1.0)
            .collect()
    }

    /// An input or weight as the layer's arithmetic takes it.
    fn rounded(x: f32, dtype: Dtype) -> f32 {
        match dtype {
            Dtype::F32 => x,
            Dtype::Bf16 => half::bf16::from_f32(x).to_f32(),
        }
    }

    fn forward(layer: &PackedLinear, set: InstructionSet, x: &[f32], spread: Spread) -> Vec<f32> {
        let mut out = vec![1.0; x.len() / layer.in_features() * layer.out_features()];
        layer.forward(set, x, &mut out, Write::Add, spread);
        out
    }

    #[test]
    fn product_is_the_sequential_sum_of_fused_products() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let (outputs, inputs_len) = (75, 33);
            let reference = projection(outputs, inputs_len);
            let x = inputs(8, inputs_len);
            let layer = PackedLinear::pack(projection(outputs, inputs_len), dtype);
            let found = forward(&layer, InstructionSet::detect(), &x, Spread::OneThread);
            for row in 0..8 {
                for output in 0..outputs {
                    let mut sum = 0f32;
                    let order = (0..inputs_len).map(|i| match dtype {
                        Dtype::F32 => i,
                        // The second of a pair before the first; the last is alone.
                        Dtype::Bf16 if i == inputs_len - 1 => i,
                        Dtype::Bf16 => i ^ 1,
                    });
                    for i in order {
                        let weight = rounded(reference.weight[output * inputs_len + i], dtype);
                        sum = rounded(x[row * inputs_len + i], dtype).mul_add(weight, sum);
                    }
                    let expected = 1.0 + (sum + output as f32 * 0.1);
                    assert_eq!(found[row * outputs + output].to_bits(), expected.to_bits());
                }
            }
        }
    }

    #[test]
    fn rows_threads_and_instruction_sets_do_not_change_a_bit() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let layer = PackedLinear::pack(projection(200, 40), dtype);
            let x = inputs(17, 40);
            let expected = forward(&layer, InstructionSet::detect(), &x, Spread::OneThread);
            for set in InstructionSet::available() {
                for spread in [Spread::OneThread, Spread::AllThreads] {
                    assert_eq!(forward(&layer, set, &x, spread), expected, "{}", set.name());
                }
                for rows in 1..8 {
                    let part = forward(&layer, set, &x[5 * 40..(5 + rows) * 40], Spread::OneThread);
                    assert_eq!(
                        part,
                        expected[5 * 200..(5 + rows) * 200],
                        "{rows} rows, {}",
                        set.name()
                    );
                }
            }
        }
    }
}
