//! Single-threaded `f32` matrix product for the trainer's small matrices.
//!
//! All three products of a linear layer (output, input gradient, weight gradient) run through
//! [`matmul`]: the right matrix is packed once into panels of [`PANEL`] columns, a tile of up to
//! 12 rows is held in registers (24 AVX-512 accumulators) and the left matrix is read in place.
//! Every output is one chain of fused multiply-adds in the order of the inner index, so its bits
//! do not depend on the tile it fell into. Training is parallel over micro-batches, so no product
//! is ever split between threads.

/// Columns of a packed panel of the right matrix.
const PANEL: usize = 32;
/// Rows of a register tile.
const TILE: usize = 12;
/// Inner extent that is packed at a time: panels of it stay in the second-level cache.
const INNER: usize = 512;

/// A matrix given by its elements and how to walk them.
#[derive(Clone, Copy)]
pub(super) struct Operand<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    transposed: bool,
}

impl<'a> Operand<'a> {
    /// Views row-major `data` as a matrix of `rows` x `columns`.
    pub(super) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(data.len(), rows * columns, "matrix extent");
        Self {
            data,
            rows,
            columns,
            transposed: false,
        }
    }

    /// Views the transpose of the same elements.
    pub(super) fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            transposed: !self.transposed,
            ..self
        }
    }

    /// Distance in elements between neighbouring rows and between neighbouring columns.
    fn strides(&self) -> (usize, usize) {
        if self.transposed {
            (1, self.rows)
        } else {
            (self.columns, 1)
        }
    }
}

/// Computes `left * right + start`, row-major, where `start` is zero when it is not given.
///
/// `left`: `[m, k]`; `right`: `[k, n]`; `start` and result: `[m, n]`.
pub(super) fn matmul(left: Operand<'_>, right: Operand<'_>, start: Option<&[f32]>) -> Vec<f32> {
    let (m, k, n) = (left.rows, left.columns, right.columns);
    assert_eq!(k, right.rows, "inner extents");
    let mut out = match start {
        Some(start) => {
            assert_eq!(start.len(), m * n, "extent of the starting value");
            start.to_vec()
        }
        None => Vec::with_capacity(m * n),
    };
    let mut accumulate = start.is_some();
    if m * n == 0 || k == 0 {
        out.resize(m * n, 0.0);
        return out;
    }
    let panels = n.div_ceil(PANEL);
    let mut packed = Vec::with_capacity(panels * PANEL * INNER.min(k));
    let (row_stride, column_stride) = left.strides();
    let kernel = Kernel::detect();
    for inner in (0..k).step_by(INNER) {
        let depth = INNER.min(k - inner);
        pack(&right, inner, depth, &mut packed);
        for row in (0..m).step_by(TILE) {
            let rows = TILE.min(m - row);
            for panel in 0..panels {
                let column = panel * PANEL;
                // SAFETY: `left` holds `rows` rows from `row` and `depth` columns from `inner`
                // (extent asserted in `Operand::new`); the panel holds `depth * PANEL` elements;
                // `out` has capacity for `m * n` elements, of which the tile touches `rows` rows
                // and `min(PANEL, n - column)` columns, reading them only when they were written
                // (`accumulate`).
                unsafe {
                    let tile = Tile {
                        depth,
                        left: left
                            .data
                            .as_ptr()
                            .add(row * row_stride + inner * column_stride),
                        left_stride: if left.transposed {
                            column_stride
                        } else {
                            row_stride
                        },
                        panel: packed.as_ptr().add(panel * PANEL * depth),
                        out: out.as_mut_ptr().add(row * n + column),
                        out_stride: n,
                        columns: PANEL.min(n - column),
                        accumulate,
                    };
                    kernel.run(rows, left.transposed, &tile);
                }
            }
        }
        accumulate = true;
    }
    // SAFETY: the capacity is `m * n` and the tiles of the first block wrote every element.
    unsafe { out.set_len(m * n) };
    out
}

/// Packs rows `inner..inner + depth` of `right` into panels `[depth, PANEL]`, padded with zeros.
fn pack(right: &Operand<'_>, inner: usize, depth: usize, packed: &mut Vec<f32>) {
    let n = right.columns;
    packed.clear();
    packed.resize(n.div_ceil(PANEL) * PANEL * depth, 0.0);
    for (panel, out) in packed.chunks_exact_mut(PANEL * depth).enumerate() {
        let column = panel * PANEL;
        let columns = PANEL.min(n - column);
        if right.transposed {
            // Elements of one column lie together: read along them, in blocks of 16.
            for block in (0..depth).step_by(16) {
                let size = 16.min(depth - block);
                for c in 0..columns {
                    let at = (column + c) * right.rows + inner + block;
                    for (d, &x) in right.data[at..at + size].iter().enumerate() {
                        out[(block + d) * PANEL + c] = x;
                    }
                }
            }
        } else {
            for (d, line) in out.chunks_exact_mut(PANEL).enumerate() {
                let at = (inner + d) * n + column;
                line[..columns].copy_from_slice(&right.data[at..at + columns]);
            }
        }
    }
}

/// One register tile: where its operands lie and where its result goes.
struct Tile {
    depth: usize,
    left: *const f32,
    /// Distance between rows of `left`, or between its columns when it is transposed.
    left_stride: usize,
    panel: *const f32,
    out: *mut f32,
    out_stride: usize,
    columns: usize,
    accumulate: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kernel {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    Portable,
}

/// Calls `$name::<rows, transposed>($tile)` for the given run-time values, inside `unsafe`.
macro_rules! tile_of_rows {
    ($name:ident, $rows:expr, $transposed:expr, $tile:expr; $($n:literal)*) => {
        match ($rows, $transposed) {
            $(($n, false) => $name::<$n, false>($tile),
              ($n, true) => $name::<$n, true>($tile),)*
            _ => unreachable!("a tile has 1 to 12 rows"),
        }
    };
}

impl Kernel {
    fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            if std::arch::is_x86_feature_detected!("avx512f") {
                return Self::Avx512;
            }
            if std::arch::is_x86_feature_detected!("avx2")
                && std::arch::is_x86_feature_detected!("fma")
            {
                return Self::Avx2;
            }
        }
        Self::Portable
    }

    /// Runs one tile.
    ///
    /// # Safety
    /// The processor has the kernel's instruction set, and the pointers of `tile` are valid for
    /// `rows` rows, `tile.columns` columns and `tile.depth` inner elements; `tile.out` is
    /// initialised when `tile.accumulate` is set.
    unsafe fn run(self, rows: usize, transposed: bool, tile: &Tile) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                // SAFETY: as this function.
                unsafe { tile_of_rows!(avx512, rows, transposed, tile; 1 2 3 4 5 6 7 8 9 10 11 12) }
            }
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as this function.
            Self::Avx2 => unsafe { avx2(rows, transposed, tile) },
            // SAFETY: as this function.
            Self::Portable => unsafe { portable(rows, transposed, tile) },
        }
    }
}

/// `ROWS` x 32 outputs in registers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
unsafe fn avx512<const ROWS: usize, const TRANSPOSED: bool>(tile: &Tile) {
    use std::arch::x86_64::{
        __mmask16, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps,
        _mm512_set1_ps, _mm512_setzero_ps,
    };
    let low: __mmask16 = if tile.columns >= 16 {
        !0
    } else {
        (1 << tile.columns) - 1
    };
    let high: __mmask16 = match tile.columns {
        32.. => !0,
        17.. => (1 << (tile.columns - 16)) - 1,
        _ => 0,
    };
    // SAFETY: the caller vouches for the pointers; masked lanes are not touched.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
        if tile.accumulate {
            for (row, sum) in sums.iter_mut().enumerate() {
                let at = tile.out.add(row * tile.out_stride);
                sum[0] = _mm512_maskz_loadu_ps(low, at);
                sum[1] = _mm512_maskz_loadu_ps(high, at.wrapping_add(16));
            }
        }
        for p in 0..tile.depth {
            let b0 = _mm512_loadu_ps(tile.panel.add(p * PANEL));
            let b1 = _mm512_loadu_ps(tile.panel.add(p * PANEL + 16));
            for (row, sum) in sums.iter_mut().enumerate() {
                let at = if TRANSPOSED {
                    p * tile.left_stride + row
                } else {
                    row * tile.left_stride + p
                };
                let a = _mm512_set1_ps(*tile.left.add(at));
                sum[0] = _mm512_fmadd_ps(a, b0, sum[0]);
                sum[1] = _mm512_fmadd_ps(a, b1, sum[1]);
            }
        }
        for (row, sum) in sums.iter().enumerate() {
            let at = tile.out.add(row * tile.out_stride);
            _mm512_mask_storeu_ps(at, low, sum[0]);
            _mm512_mask_storeu_ps(at.wrapping_add(16), high, sum[1]);
        }
    }
}

/// Up to 3 rows x 32 columns in registers at a time, 12 rows by turns.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
unsafe fn avx2(rows: usize, transposed: bool, tile: &Tile) {
    // SAFETY: as this function; compiled for AVX2, `mul_add` is one instruction.
    unsafe { by_rows::<3>(rows, transposed, tile) }
}

/// The same arithmetic without vector instructions: `mul_add` is a library call, so it is slow.
unsafe fn portable(rows: usize, transposed: bool, tile: &Tile) {
    // SAFETY: as this function.
    unsafe { by_rows::<1>(rows, transposed, tile) }
}

#[inline(always)]
unsafe fn by_rows<const ROWS: usize>(rows: usize, transposed: bool, tile: &Tile) {
    let (row_stride, depth_stride) = if transposed {
        (1, tile.left_stride)
    } else {
        (tile.left_stride, 1)
    };
    for first in (0..rows).step_by(ROWS) {
        let live = ROWS.min(rows - first);
        let mut sums = [[0.0f32; PANEL]; ROWS];
        // SAFETY: rows beyond `live` repeat the last live row when reading and are not written.
        unsafe {
            if tile.accumulate {
                for (r, sum) in sums.iter_mut().enumerate().take(live) {
                    for (c, s) in sum.iter_mut().enumerate().take(tile.columns) {
                        *s = *tile.out.add((first + r) * tile.out_stride + c);
                    }
                }
            }
            for p in 0..tile.depth {
                let panel = &*tile.panel.add(p * PANEL).cast::<[f32; PANEL]>();
                for (r, sum) in sums.iter_mut().enumerate() {
                    let row = first + r.min(live - 1);
                    let a = *tile.left.add(row * row_stride + p * depth_stride);
                    for (s, b) in sum.iter_mut().zip(panel) {
                        *s = a.mul_add(*b, *s);
                    }
                }
            }
            for (r, sum) in sums.iter().enumerate().take(live) {
                for (c, s) in sum.iter().enumerate().take(tile.columns) {
                    *tile.out.add((first + r) * tile.out_stride + c) = *s;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(n: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        (0..n)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) as f32 / (1 << 24) as f32 - 0.5
            })
            .collect()
    }

    /// The defining sum, as one chain of fused multiply-adds.
    fn plain(left: Operand<'_>, right: Operand<'_>, start: Option<&[f32]>) -> Vec<f32> {
        let at = |o: &Operand<'_>, i: usize, j: usize| {
            let (r, c) = o.strides();
            o.data[i * r + j * c]
        };
        let mut out = vec![0.0; left.rows * right.columns];
        for i in 0..left.rows {
            for j in 0..right.columns {
                let mut sum = start.map_or(0.0, |s| s[i * right.columns + j]);
                for p in 0..left.columns {
                    sum = at(&left, i, p).mul_add(at(&right, p, j), sum);
                }
                out[i * right.columns + j] = sum;
            }
        }
        out
    }

    #[test]
    fn every_layout_and_remainder_gives_the_bits_of_the_plain_sum() {
        for (m, k, n) in [
            (1, 1, 1),
            (12, 32, 32),
            (13, 5, 33),
            (37, 600, 47),
            (30, 1100, 16),
        ] {
            let (a, b) = (numbers(m * k, 1), numbers(k * n, 2));
            let start = numbers(m * n, 3);
            for left in [Operand::new(&a, m, k), Operand::new(&a, k, m).t()] {
                for right in [Operand::new(&b, k, n), Operand::new(&b, n, k).t()] {
                    for start in [None, Some(&start[..])] {
                        assert!(
                            matmul(left, right, start) == plain(left, right, start),
                            "{m} x {k} x {n}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn fallback_kernels_give_the_same_bits() {
        let (rows, depth) = (11, 40);
        let (a, b) = (numbers(rows * depth, 4), numbers(depth * PANEL, 5));
        let columns = 29;
        for transposed in [false, true] {
            let run = |kernel: Kernel| {
                let mut out = vec![0.25; rows * columns];
                let tile = Tile {
                    depth,
                    left: a.as_ptr(),
                    left_stride: if transposed { rows } else { depth },
                    panel: b.as_ptr(),
                    out: out.as_mut_ptr(),
                    out_stride: columns,
                    columns,
                    accumulate: true,
                };
                // SAFETY: extents as allocated above; the kernel is the portable one or detected.
                unsafe { kernel.run(rows, transposed, &tile) };
                out
            };
            let portable = run(Kernel::Portable);
            assert!(run(Kernel::detect()) == portable);
            #[cfg(target_arch = "x86_64")]
            if std::arch::is_x86_feature_detected!("fma") {
                assert!(run(Kernel::Avx2) == portable);
            }
        }
    }
}
