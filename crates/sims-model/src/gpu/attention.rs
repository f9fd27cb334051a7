//! Attention of single query rows over the cache.

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::launch::{Argument, Launch, Launcher, Program};
use super::memory::{new_output, with_addresses};
use crate::{Result, Segment};

/// Positions that one block attends, as in the kernel's source.
const SPLIT: usize = 128;

/// Threads of a block, as in the kernel's source.
const THREADS: u32 = 128;

/// Query heads that one block computes at most, as in the kernel's source.
const HEAD_TILE: usize = 4;

/// The attention kernels of one model.
pub struct Attention {
    launcher: Arc<dyn Launcher>,
    program: Program,
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    scale: f64,
}

/// Which slots the single-row segments of a batch attend, on the device.
pub struct RowPlan {
    /// `segments`, `ranges` and `splits` as the kernel's source describes them, one after another.
    numbers: Tensor,
    segments: usize,
    ranges: usize,
    splits: usize,
}

impl RowPlan {
    /// Lists the slots of `segments`, each of one row.
    ///
    /// # Errors
    /// No room on the device.
    pub fn new<'a>(
        segments: impl IntoIterator<Item = &'a Segment>,
        device: &Device,
    ) -> Result<Self> {
        let (mut rows, mut ranges, mut splits) = (Vec::new(), Vec::new(), Vec::new());
        let mut count = 0;
        for (index, segment) in segments.into_iter().enumerate() {
            let attended = segment.position + 1;
            let (first_range, first_split) = (ranges.len() / 2, splits.len() / 2);
            let mut position = 0;
            for range in segment.context.iter().chain([&segment.slots]) {
                if !range.is_empty() {
                    ranges.extend([position as u32, range.start as u32]);
                    position += range.len();
                }
            }
            for start in (0..attended).step_by(SPLIT) {
                splits.extend([index as u32, start as u32]);
            }
            rows.extend([
                segment.rows.start as u32,
                attended as u32,
                first_range as u32,
                (ranges.len() / 2) as u32,
                first_split as u32,
                (splits.len() / 2) as u32,
                0,
                0,
            ]);
            count += 1;
        }
        let (range_count, split_count) = (ranges.len() / 2, splits.len() / 2);
        let numbers = [rows, ranges, splits].concat();
        Ok(Self {
            numbers: Tensor::new(numbers, device)?,
            segments: count,
            ranges: range_count,
            splits: split_count,
        })
    }

    /// Returns the number of segments.
    pub fn len(&self) -> usize {
        self.segments
    }

    /// Returns whether there are no segments.
    pub fn is_empty(&self) -> bool {
        self.segments == 0
    }
}

impl Attention {
    /// Prepares the kernels for `heads` query heads over `kv_heads`, for tensors of `dtype`.
    ///
    /// `scale` multiplies the products of queries and keys.
    pub fn new(
        launcher: Arc<dyn Launcher>,
        (heads, kv_heads, head_dim): (usize, usize, usize),
        scale: f64,
        dtype: DType,
    ) -> Self {
        let definitions = [
            ("HEAD_DIM", head_dim),
            ("GROUP", heads / kv_heads),
            ("BF16", usize::from(dtype == DType::BF16)),
        ];
        let program = Program::new(
            "attention",
            include_str!("kernels/attention.cu"),
            &definitions,
            true,
        );
        Self {
            launcher,
            program,
            heads,
            kv_heads,
            head_dim,
            scale,
        }
    }

    /// Returns attention's output for the plan's rows, `[segments, heads * head_dim]`.
    ///
    /// `q`: `[rows, heads * head_dim]`, of the whole batch; `cache`: keys and values `[slots, kv_heads * head_dim]`.
    /// `window` is the number of last positions attended, its own included; `soft_cap` is `c` in `c·tanh(score/c)`.
    ///
    /// # Errors
    /// A kernel that cannot be compiled or started.
    pub fn attend(
        &self,
        plan: &RowPlan,
        q: &Tensor,
        (keys, values): (&Tensor, &Tensor),
        window: Option<usize>,
        soft_cap: Option<f64>,
    ) -> Result<Tensor> {
        let (heads, head_dim) = (self.heads, self.head_dim);
        let device = q.device();
        let width = heads * (head_dim + 2);
        let partial = new_output((plan.splits, width), DType::F32, device)?;
        let out = new_output((plan.segments, heads * head_dim), q.dtype(), device)?;
        let ranges = plan.numbers.narrow(0, 8 * plan.segments, 2 * plan.ranges)?;
        let splits_start = 8 * plan.segments + 2 * plan.ranges;
        let splits = plan.numbers.narrow(0, splits_start, 2 * plan.splits)?;
        let reads = [q, keys, values, &plan.numbers, &ranges, &splits];
        with_addresses(&reads, &[&partial, &out], &mut |found| {
            let mut arguments: Vec<_> =
                found[..7].iter().map(|&at| Argument::Address(at)).collect();
            arguments.extend([
                Argument::int(self.kv_heads),
                Argument::Float(self.scale as f32),
                Argument::int(window.unwrap_or(0)),
                Argument::Float(soft_cap.unwrap_or(0.0) as f32),
            ]);
            let tiles = (heads / self.kv_heads).div_ceil(HEAD_TILE);
            let split = Launch {
                program: &self.program,
                function: "attend_split",
                grid: [plan.splits, self.kv_heads * tiles, 1],
                threads: THREADS,
                arguments: &arguments,
            };
            let [partial, segments, out] = [found[6], found[3], found[7]].map(Argument::Address);
            let combine = Launch {
                program: &self.program,
                function: "attend_combine",
                grid: [plan.segments, heads, 1],
                threads: THREADS,
                arguments: &[partial, segments, out],
            };
            // SAFETY: the arguments are those of the kernels, the plan covers `q` and the cache, and memory is given
            // back in the order of launches.
            unsafe {
                self.launcher.launch(&split)?;
                self.launcher.launch(&combine)
            }
        })?;
        Ok(out)
    }
}
