//! Rotation, the packed KV cache of one layer, and attention over ranges of its slots.
//!
//! Keys lie in panels of sixteen slots, `[slots / 16, kv_heads * head_dim, 16]`, so that one multiply-add
//! serves sixteen scores and no lanes are summed across; values lie row by row, each head padded to a
//! multiple of sixteen. A score is the sum over the head's dimensions in order; the softmax sums its
//! exponentials in sixteen lanes by position from the row's first one on; an output is the sum over the
//! positions in order, where those before the window weigh nothing. None of this depends on which slots hold
//! the positions, nor on how they group into segments.

use std::ops::Range;

use rayon::prelude::*;

use super::InstructionSet;
use super::activation::soft_capped;
use super::bf16;
use super::exp::exp;
use super::lanes::{Kernel, LANES, Lanes};
use super::linear::Spread;
use super::shared_slice::SharedSlice;
use crate::kv_cache::ScratchPool;
use crate::rope::RopeTable;
use crate::{Config, Dtype, Segment};

/// Query rows of one segment that a unit of work takes together.
const UNIT_ROWS: usize = 4;

/// The shape of the attention heads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadShape {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// The width of a head.
    pub head_dim: usize,
}

impl HeadShape {
    /// Returns the shape of a config's heads.
    pub fn new(config: &Config) -> Self {
        Self {
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
        }
    }

    /// Returns the query heads that share a key and value head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Returns the width of a row of queries, keys and values.
    pub fn qkv_size(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    /// Returns the width of a row of queries, and of attention's output.
    pub fn query_size(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Returns the width of a row of keys.
    pub fn key_size(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Returns the sixteens of lanes that a head's values take.
    fn value_vectors(&self) -> usize {
        self.head_dim.div_ceil(LANES)
    }

    /// Returns the key and value heads that a unit of work takes together: enough for four vectors of values.
    fn unit_heads(&self) -> usize {
        (4 / self.value_vectors()).clamp(1, self.kv_heads)
    }
}

/// How scores become weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scoring {
    /// What dot products are multiplied by.
    pub scale: f32,
    /// The bound of scores.
    pub soft_cap: Option<f32>,
    /// How many positions a row attends at most, itself included.
    pub window: Option<usize>,
}

/// A number as the cache holds it.
pub trait Stored: Copy + Default + Send + Sync {
    /// Rounds to the nearest.
    fn of(x: f32) -> Self;

    /// Returns sixteen lanes.
    fn load<L: Lanes>(lanes: L, x: &[Self; LANES]) -> L::V;
}

impl Stored for f32 {
    #[inline(always)]
    fn of(x: f32) -> Self {
        x
    }

    #[inline(always)]
    fn load<L: Lanes>(lanes: L, x: &[Self; LANES]) -> L::V {
        lanes.load(x)
    }
}

/// The upper half of an f32.
impl Stored for u16 {
    #[inline(always)]
    fn of(x: f32) -> Self {
        bf16::round(x)
    }

    #[inline(always)]
    fn load<L: Lanes>(lanes: L, x: &[Self; LANES]) -> L::V {
        lanes.load_bf16(x)
    }
}

/// The keys and values of one layer, in the decoder's dtype.
pub enum LayerCache {
    /// Numbers of 32 bits.
    F32(Slots<f32>),
    /// Numbers of 16 bits, the upper halves of f32.
    Bf16(Slots<u16>),
}

/// The keys and values of one layer.
pub struct Slots<T> {
    /// `[slots / 16, kv_heads * head_dim, 16]`.
    keys: Vec<T>,
    /// `[slots, kv_heads, value_vectors * 16]`.
    values: Vec<T>,
    shape: HeadShape,
}

impl<T: Stored> Slots<T> {
    fn new(shape: HeadShape, slots: usize) -> Self {
        let zeros = |len| vec![T::default(); len];
        Self {
            keys: zeros(slots.div_ceil(LANES) * LANES * shape.key_size()),
            values: zeros(slots * shape.kv_heads * shape.value_vectors() * LANES),
            shape,
        }
    }

    fn appender(&mut self) -> SlotAppender<'_, T> {
        SlotAppender {
            keys: SharedSlice::new(&mut self.keys),
            values: SharedSlice::new(&mut self.values),
            shape: self.shape,
        }
    }
}

impl LayerCache {
    /// Makes room for `slots` positions.
    pub fn new(shape: HeadShape, slots: usize, dtype: Dtype) -> Self {
        match dtype {
            Dtype::F32 => Self::F32(Slots::new(shape, slots)),
            Dtype::Bf16 => Self::Bf16(Slots::new(shape, slots)),
        }
    }

    /// Returns the shape of the heads and the type of the numbers.
    pub fn kind(&self) -> (HeadShape, Dtype) {
        match self {
            Self::F32(slots) => (slots.shape, Dtype::F32),
            Self::Bf16(slots) => (slots.shape, Dtype::Bf16),
        }
    }

    /// Shares the cache with several threads that each append other slots.
    pub fn appender(&mut self) -> Appender<'_> {
        match self {
            Self::F32(slots) => Appender::F32(slots.appender()),
            Self::Bf16(slots) => Appender::Bf16(slots.appender()),
        }
    }
}

/// A layer's cache while a block writes to it.
#[derive(Clone, Copy)]
pub enum Appender<'a> {
    /// To numbers of 32 bits.
    F32(SlotAppender<'a, f32>),
    /// To numbers of 16 bits.
    Bf16(SlotAppender<'a, u16>),
}

/// A layer's cache while a block writes to it.
#[derive(Clone, Copy)]
pub struct SlotAppender<'a, T> {
    keys: SharedSlice<'a, T>,
    values: SharedSlice<'a, T>,
    shape: HeadShape,
}

impl Appender<'_> {
    /// Rotates queries and keys by their positions, if there is a table, and writes keys and values to the rows' slots.
    ///
    /// `qkv`: `[rows, qkv_size]`, f32, where `rows` are those of the batch; the queries are rotated in place.
    ///
    /// # Safety
    /// No other thread appends or reads the slots of these rows meanwhile.
    pub unsafe fn append(
        self,
        set: InstructionSet,
        rope: Option<&RopeTable>,
        segments: &[Segment],
        rows: Range<usize>,
        qkv: &mut [f32],
    ) {
        match self {
            Self::F32(cache) => set.run(Append {
                cache,
                rope,
                segments,
                rows,
                qkv,
            }),
            Self::Bf16(cache) => set.run(Append {
                cache,
                rope,
                segments,
                rows,
                qkv,
            }),
        }
    }
}

struct Append<'a, T> {
    cache: SlotAppender<'a, T>,
    rope: Option<&'a RopeTable>,
    segments: &'a [Segment],
    rows: Range<usize>,
    qkv: &'a mut [f32],
}

impl<T: Stored> Kernel for Append<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, _lanes: L) {
        let shape = self.cache.shape;
        let value_width = shape.value_vectors() * LANES;
        let rows = segments_of(self.segments, &self.rows).flat_map(|(segment, rows)| {
            rows.map(move |row| {
                (
                    row,
                    segment.position + row - segment.rows.start,
                    segment.slots.start + row - segment.rows.start,
                )
            })
        });
        for (row, position, slot) in rows {
            let qkv =
                &mut self.qkv[(row - self.rows.start) * shape.qkv_size()..][..shape.qkv_size()];
            let (queries_and_keys, values) =
                qkv.split_at_mut(shape.query_size() + shape.key_size());
            if let Some(rope) = self.rope {
                let (cos, sin) = rope.at(position);
                for head in queries_and_keys.chunks_exact_mut(shape.head_dim) {
                    rotate(&mut head[..2 * cos.len()], cos, sin);
                }
            }
            let panel = slot / LANES * shape.key_size();
            for (i, &key) in queries_and_keys[shape.query_size()..].iter().enumerate() {
                // SAFETY: the caller of `append` has this slot to itself, in this lane of the panel.
                unsafe {
                    self.cache
                        .keys
                        .write((panel + i) * LANES + slot % LANES, T::of(key))
                };
            }
            for (head, values) in values.chunks_exact(shape.head_dim).enumerate() {
                let start = (slot * shape.kv_heads + head) * value_width;
                // SAFETY: the caller of `append` has this slot to itself.
                let room = unsafe { self.cache.values.part(start..start + shape.head_dim) };
                for (room, value) in room.iter_mut().zip(values) {
                    *room = T::of(*value);
                }
            }
        }
    }
}

/// Turns each pair of dimensions `i` and `i + rotary_dim / 2` by its angle, as transformers' `rotate_half` does.
#[inline(always)]
fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (first, second) = head.split_at_mut(cos.len());
    for (((x, y), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
        (*x, *y) = (*x * cos - *y * sin, *y * cos + *x * sin);
    }
}

/// Returns the segments that overlap `rows`, each with its rows among them.
fn segments_of<'a>(
    segments: &'a [Segment],
    rows: &Range<usize>,
) -> impl Iterator<Item = (&'a Segment, Range<usize>)> + use<'a> {
    let rows = rows.clone();
    let first = segments.partition_point(|segment| segment.rows.end <= rows.start);
    segments[first..]
        .iter()
        .take_while({
            let end = rows.end;
            move |segment| segment.rows.start < end
        })
        .map(move |segment| {
            (
                segment,
                segment.rows.start.max(rows.start)..segment.rows.end.min(rows.end),
            )
        })
}

/// Attends from the rows' queries to their contexts and themselves: `softmax(q · kᵀ · scale) · v`.
///
/// `qkv`: `[rows, qkv_size]` with rotated queries; `out`: `[rows, query_size]`; both f32, for `rows` of the
/// batch. Every slot attended has been appended.
pub fn attend(
    set: InstructionSet,
    cache: &LayerCache,
    (segments, rows): (&[Segment], Range<usize>),
    qkv: &[f32],
    out: &mut [f32],
    scoring: Scoring,
    (spread, scratch): (Spread, &ScratchPool),
) {
    let (of, threads) = ((segments, rows), (spread, scratch));
    match cache {
        LayerCache::F32(cache) => attend_slots(set, cache, of, qkv, out, scoring, threads),
        LayerCache::Bf16(cache) => attend_slots(set, cache, of, qkv, out, scoring, threads),
    }
}

/// As [`attend`], for one type of numbers.
fn attend_slots<T: Stored>(
    set: InstructionSet,
    cache: &Slots<T>,
    (segments, rows): (&[Segment], Range<usize>),
    qkv: &[f32],
    out: &mut [f32],
    scoring: Scoring,
    (spread, scratch): (Spread, &ScratchPool),
) {
    let shape = cache.shape;
    let first_row = rows.start;
    let out = SharedSlice::new(out);
    let unit =
        |segment: &Segment, rows: Range<usize>, kv_heads: Range<usize>, scores: &mut Vec<f32>| {
            // Different units write other rows or other heads, as `Unit` requires.
            set.run(Unit {
                cache,
                segment,
                rows,
                kv_heads,
                first_row,
                qkv,
                scoring,
                scores,
                out,
            });
        };
    let head_ranges = |all: usize| {
        let step = shape.unit_heads();
        (0..all)
            .step_by(step)
            .map(move |head| head..(head + step).min(all))
    };
    let row_ranges = |rows: Range<usize>| {
        rows.clone()
            .step_by(UNIT_ROWS)
            .map(move |row| row..(row + UNIT_ROWS).min(rows.end))
    };
    match spread {
        Spread::OneThread => scratch.with(|scratch| {
            for (segment, rows) in segments_of(segments, &rows) {
                for rows in row_ranges(rows) {
                    for heads in head_ranges(shape.kv_heads) {
                        unit(segment, rows.clone(), heads, &mut scratch.scores);
                    }
                }
            }
        }),
        Spread::AllThreads => {
            let units: Vec<_> = segments_of(segments, &rows)
                .flat_map(|(segment, rows)| row_ranges(rows).map(move |rows| (segment, rows)))
                .flat_map(|(segment, rows)| {
                    head_ranges(shape.kv_heads).map(move |heads| (segment, rows.clone(), heads))
                })
                .collect();
            units.into_par_iter().for_each(|(segment, rows, heads)| {
                scratch.with(|scratch| unit(segment, rows, heads, &mut scratch.scores));
            });
        }
    }
}

/// A few rows of one segment, and the query heads of a few key and value heads.
///
/// The queries of one key and value head are numbered `row * group + head in group`. No other thread may
/// write these rows' outputs of these heads meanwhile.
struct Unit<'a, T> {
    cache: &'a Slots<T>,
    segment: &'a Segment,
    rows: Range<usize>,
    kv_heads: Range<usize>,
    /// The row of the batch that `qkv` and `out` start at.
    first_row: usize,
    /// `[rows, qkv_size]`.
    qkv: &'a [f32],
    scoring: Scoring,
    /// Room for `[kv_heads, queries, positions]`.
    scores: &'a mut Vec<f32>,
    /// `[rows, query_size]`.
    out: SharedSlice<'a, f32>,
}

impl<T: Stored> Kernel for Unit<'_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let shape = self.cache.shape;
        let queries = self.rows.len() * shape.group();
        // A row of scores keeps the sum of its exponentials in its last element.
        let stride = (self.positions(self.rows.len() - 1) + 1).next_multiple_of(LANES);
        let mut scores = std::mem::take(self.scores);
        scores.resize(
            scores.len().max(self.kv_heads.len() * queries * stride),
            0.0,
        );
        for (head, kv_head) in self.kv_heads.clone().enumerate() {
            let scores = &mut scores[head * queries * stride..][..queries * stride];
            let mut query = 0;
            while query < queries {
                match queries - query {
                    1 => self.score::<L, 1, 4>(lanes, kv_head, query, stride, scores),
                    2 => self.score::<L, 2, 2>(lanes, kv_head, query, stride, scores),
                    3 => self.score::<L, 3, 1>(lanes, kv_head, query, stride, scores),
                    _ => self.score::<L, 4, 1>(lanes, kv_head, query, stride, scores),
                }
                query += 4.min(queries - query);
            }
        }
        for (i, row) in scores[..self.kv_heads.len() * queries * stride]
            .chunks_exact_mut(stride)
            .enumerate()
        {
            let row_in_unit = i % queries / shape.group();
            let first = self.first_position(row_in_unit);
            row[..first].fill(0.0);
            row[stride - 1] = exponentials(lanes, &mut row[first..self.positions(row_in_unit)]);
        }
        self.weigh_all(lanes, queries, &scores, stride);
        *self.scores = scores;
    }
}

impl<T: Stored> Unit<'_, T> {
    /// Returns how many positions lie before the window of the unit's first row; no row attends them.
    #[inline(always)]
    fn skipped(&self) -> usize {
        let all = self.segment.position + self.rows.start - self.segment.rows.start + 1;
        all.saturating_sub(self.scoring.window.unwrap_or(all))
    }

    /// Returns the end of the positions that the unit's row `row` attends, itself included, after the skipped ones.
    #[inline(always)]
    fn positions(&self, row: usize) -> usize {
        let all = self.segment.position + self.rows.start - self.segment.rows.start + row + 1;
        all - self.skipped()
    }

    /// Returns the first position that the unit's row `row` attends, after the skipped ones.
    #[inline(always)]
    fn first_position(&self, row: usize) -> usize {
        let end = self.positions(row);
        end.saturating_sub(self.scoring.window.unwrap_or(end))
    }

    /// Returns the ranges of slots that the unit's rows attend, the segment's own last.
    #[inline(always)]
    fn spans(&self) -> impl Iterator<Item = Range<usize>> {
        let mut skipped = self.skipped();
        let spans = self.segment.context.iter().chain([&self.segment.slots]);
        spans.map(move |span| {
            let before = skipped.min(span.len());
            skipped -= before;
            span.start + before..span.end
        })
    }

    /// Writes `Q` rows of scaled scores, `P` panels of keys at a time.
    #[inline(always)]
    fn score<L: Lanes, const Q: usize, const P: usize>(
        &self,
        lanes: L,
        kv_head: usize,
        first: usize,
        stride: usize,
        scores: &mut [f32],
    ) {
        let shape = self.cache.shape;
        let queries: [&[f32]; Q] = std::array::from_fn(|q| {
            let (row, in_group) = ((first + q) / shape.group(), (first + q) % shape.group());
            let row = self.rows.start - self.first_row + row;
            let head = kv_head * shape.group() + in_group;
            &self.qkv[row * shape.qkv_size() + head * shape.head_dim..][..shape.head_dim]
        });
        let scores = &mut scores[first * stride..(first + Q) * stride];
        let longest = self.positions((first + Q - 1) / shape.group());
        let mut position = 0;
        for span in self.spans() {
            let slots = span.start..span.end.min(span.start + longest - position);
            if slots.is_empty() {
                continue;
            }
            let (mut panel, end) = (slots.start / LANES, slots.end.div_ceil(LANES));
            while panel + P <= end {
                let found = self.dot::<L, Q, P>(lanes, &queries, kv_head, panel);
                for (p, found) in found.iter().enumerate() {
                    self.put::<L, Q>(lanes, *found, panel + p, (&slots, position), stride, scores);
                }
                panel += P;
            }
            while panel < end {
                let found = self.dot::<L, Q, 1>(lanes, &queries, kv_head, panel);
                self.put::<L, Q>(lanes, found[0], panel, (&slots, position), stride, scores);
                panel += 1;
            }
            position += slots.len();
        }
    }

    /// Scales a panel's scores and writes those of its lanes that belong to a span of slots.
    ///
    /// The span's first slot holds `position`; `scores`: `[Q, stride]`, by position.
    #[inline(always)]
    fn put<L: Lanes, const Q: usize>(
        &self,
        lanes: L,
        found: [L::V; Q],
        panel: usize,
        (slots, position): (&Range<usize>, usize),
        stride: usize,
        scores: &mut [f32],
    ) {
        let scale = lanes.splat(self.scoring.scale);
        let from = slots.start.max(panel * LANES);
        let to = slots.end.min((panel + 1) * LANES);
        for q in 0..Q {
            let out = &mut scores[q * stride + position + from - slots.start..][..to - from];
            let mut scaled = lanes.mul(found[q], scale);
            if let Some(cap) = self.scoring.soft_cap {
                scaled = soft_capped(lanes, cap, scaled);
            }
            if let Some(out) = out.first_chunk_mut::<LANES>() {
                lanes.store(scaled, out);
            } else {
                let mut all = [0.0; LANES];
                lanes.store(scaled, &mut all);
                out.copy_from_slice(&all[from % LANES..][..to - from]);
            }
        }
    }

    /// Returns the dot products of `Q` queries with the keys of `P` panels, sixteen a panel.
    #[inline(always)]
    fn dot<L: Lanes, const Q: usize, const P: usize>(
        &self,
        lanes: L,
        queries: &[&[f32]; Q],
        kv_head: usize,
        panel: usize,
    ) -> [[L::V; Q]; P] {
        let shape = self.cache.shape;
        let keys: [&[[T; LANES]]; P] = std::array::from_fn(|p| {
            let start = ((panel + p) * shape.kv_heads + kv_head) * shape.head_dim * LANES;
            self.cache.keys[start..][..shape.head_dim * LANES]
                .as_chunks()
                .0
        });
        let mut sums = [[lanes.splat(0.0); Q]; P];
        for dim in 0..shape.head_dim {
            for p in 0..P {
                // SAFETY: `keys[p]` has `head_dim` elements.
                let keys = T::load(lanes, unsafe { keys[p].get_unchecked(dim) });
                for q in 0..Q {
                    // SAFETY: `queries[q]` has `head_dim` elements.
                    let x = lanes.splat(unsafe { *queries[q].get_unchecked(dim) });
                    sums[p][q] = lanes.mul_add(x, keys, sums[p][q]);
                }
            }
        }
        sums
    }

    /// Writes the outputs, a tile of queries and value vectors at a time.
    #[inline(always)]
    fn weigh_all<L: Lanes>(&self, lanes: L, queries: usize, scores: &[f32], stride: usize) {
        let vectors = self.kv_heads.len() * self.cache.shape.value_vectors();
        let most = if L::SUMS >= 24 { 4 } else { 1 };
        for query in (0..queries).step_by(most) {
            let mut vector = 0;
            while vector < vectors {
                let wide = vectors - vector >= 4;
                match (most.min(queries - query), wide) {
                    (1, true) => self.weigh::<L, 1, 4>(lanes, query, vector, scores, stride),
                    (2, true) => self.weigh::<L, 2, 4>(lanes, query, vector, scores, stride),
                    (3, true) => self.weigh::<L, 3, 4>(lanes, query, vector, scores, stride),
                    (_, true) => self.weigh::<L, 4, 4>(lanes, query, vector, scores, stride),
                    (1, false) => self.weigh::<L, 1, 1>(lanes, query, vector, scores, stride),
                    (2, false) => self.weigh::<L, 2, 1>(lanes, query, vector, scores, stride),
                    (3, false) => self.weigh::<L, 3, 1>(lanes, query, vector, scores, stride),
                    (_, false) => self.weigh::<L, 4, 1>(lanes, query, vector, scores, stride),
                }
                vector += if wide { 4 } else { 1 };
            }
        }
    }

    /// Writes `W` times sixteen outputs of `Q` queries: the values weighted by the exponentials, over their sum.
    #[inline(always)]
    fn weigh<L: Lanes, const Q: usize, const W: usize>(
        &self,
        lanes: L,
        first: usize,
        vector: usize,
        scores: &[f32],
        stride: usize,
    ) {
        let shape = self.cache.shape;
        let queries = self.rows.len() * shape.group();
        let per_head = shape.value_vectors();
        let value_width = shape.kv_heads * per_head;
        let first_vector = self.kv_heads.start * per_head + vector;
        let values = self.cache.values.as_chunks::<LANES>().0;
        let weights: [[&[f32]; W]; Q] = std::array::from_fn(|q| {
            std::array::from_fn(|w| {
                let head = (vector + w) / per_head;
                &scores[(head * queries + first + q) * stride..][..stride]
            })
        });
        let mut sums = [[lanes.splat(0.0); W]; Q];
        let lengths: [usize; Q] =
            std::array::from_fn(|q| self.positions((first + q) / shape.group()));
        let (shortest, longest) = (lengths[0], lengths[Q - 1]);
        assert!(longest < stride);
        let mut position = 0;
        for span in self.spans() {
            let len = span.len().min(longest - position);
            // Up to `shortest` all queries attend, beyond it only those of later rows.
            let joint = len.min(shortest.saturating_sub(position));
            let rows = |i: usize| (span.start + i) * value_width + first_vector;
            for i in 0..joint {
                let row = &values[rows(i)..][..W];
                for q in 0..Q {
                    // SAFETY: the position is below `longest`, and that below the weights' length.
                    unsafe { add_row(lanes, &weights[q], position + i, row, &mut sums[q]) };
                }
            }
            for i in joint..len {
                let row = &values[rows(i)..][..W];
                for q in 0..Q {
                    if position + i < lengths[q] {
                        // SAFETY: as above.
                        unsafe { add_row(lanes, &weights[q], position + i, row, &mut sums[q]) };
                    }
                }
            }
            position += len;
        }
        for q in 0..Q {
            let (row, in_group) = ((first + q) / shape.group(), (first + q) % shape.group());
            for w in 0..W {
                let (head, part) = ((vector + w) / per_head, (vector + w) % per_head);
                let total = weights[q][w][stride - 1];
                let query_head = (self.kv_heads.start + head) * shape.group() + in_group;
                let start = (self.rows.start - self.first_row + row) * shape.query_size()
                    + query_head * shape.head_dim;
                let end = start + shape.head_dim.min((part + 1) * LANES);
                // SAFETY: these rows and heads belong to this unit, which no other thread writes.
                let out = unsafe { self.out.part(start + part * LANES..end) };
                let result = lanes.div(sums[q][w], lanes.splat(total));
                if let Some(out) = out.first_chunk_mut::<LANES>() {
                    lanes.store(result, out);
                } else {
                    lanes.store_part(result, out);
                }
            }
        }
    }
}

/// Adds a row of values, each vector times its own weight at `position`.
///
/// # Safety
/// `position` is within every one of `weights`.
#[inline(always)]
unsafe fn add_row<T: Stored, L: Lanes, const W: usize>(
    lanes: L,
    weights: &[&[f32]; W],
    position: usize,
    row: &[[T; LANES]],
    sums: &mut [L::V; W],
) {
    for w in 0..W {
        // SAFETY: promised by the caller.
        let weight = lanes.splat(unsafe { *weights[w].get_unchecked(position) });
        sums[w] = lanes.mul_add(weight, T::load(lanes, &row[w]), sums[w]);
    }
}

/// Replaces scores by the exponentials of their distances to the greatest, and returns the sum.
#[inline(always)]
fn exponentials<L: Lanes>(lanes: L, scores: &mut [f32]) -> f32 {
    let (blocks, rest) = scores.as_chunks_mut::<LANES>();
    let mut greatest = lanes.load_part(rest, f32::NEG_INFINITY);
    for block in blocks.iter() {
        greatest = lanes.max(greatest, lanes.load(block));
    }
    let greatest = lanes.splat(lanes.greatest(greatest));
    let mut sums = lanes.splat(0.0);
    for block in blocks {
        let e = exp(lanes, lanes.sub(lanes.load(block), greatest));
        lanes.store(e, block);
        sums = lanes.add(sums, e);
    }
    if !rest.is_empty() {
        let e = exp(lanes, lanes.sub(lanes.load_part(rest, 0.0), greatest));
        lanes.store_part(e, rest);
        sums = lanes.add(sums, lanes.load_part(rest, 0.0));
    }
    lanes.sum(sums)
}
