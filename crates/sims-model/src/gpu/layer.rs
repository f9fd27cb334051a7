//! What a decoder block does between its products.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::launch::{Argument, Launch, Launcher, Program};
use super::memory::{new_output, with_addresses};
use crate::Result;
use crate::config::Activation;

/// Threads of a block, as in the kernels' source.
const THREADS: usize = 256;

/// Most blocks of a kernel that loops over its elements.
const MOST_BLOCKS: usize = 8192;

/// How scores become attention weights.
#[derive(Debug, Clone, Copy)]
pub struct MaskedScores<'a> {
    /// `[segments, 2]`, u32: position of a segment's first row, and its number of rows.
    pub segments: &'a Tensor,
    /// Multiplies the scores.
    pub scale: f64,
    /// Number of last positions attended, its own included.
    pub window: Option<usize>,
    /// `c` in `c·tanh(score/c)`.
    pub soft_cap: Option<f64>,
}

/// The kernels between the products.
pub struct BlockKernels {
    launcher: Arc<dyn Launcher>,
    program: Program,
}

impl BlockKernels {
    /// Prepares the kernels for tensors of `dtype`.
    pub fn new(launcher: Arc<dyn Launcher>, dtype: DType) -> Self {
        let definitions = [("BF16", usize::from(dtype == DType::BF16))];
        let text = include_str!("kernels/layer.cu");
        Self {
            launcher,
            program: Program::new("layer", text, &definitions, true),
        }
    }

    /// Returns `x + delta`, and its RMS norm times `weight`.
    ///
    /// `x`, `delta`: `[rows, width]`; `weight`: `[width]`, f32.
    ///
    /// # Errors
    /// A kernel that cannot be compiled or started, as for all methods here.
    pub fn add_rms_norm(
        &self,
        x: &Tensor,
        delta: &Tensor,
        weight: &Tensor,
        eps: f32,
    ) -> Result<(Tensor, Tensor)> {
        let (rows, width) = x.dims2()?;
        let sum = new_output((rows, width), x.dtype(), x.device())?;
        let normed = new_output((rows, width), x.dtype(), x.device())?;
        with_addresses(&[x, delta, weight], &[&sum, &normed], &mut |found| {
            let [x, delta, weight, sum, normed] =
                [0, 1, 2, 3, 4].map(|i| Argument::Address(found[i]));
            let tail = [Argument::int(width), Argument::Float(eps)];
            self.start(
                "add_rms_norm",
                [rows, 1, 1],
                &[&[x, delta, weight, sum, normed], &tail[..]].concat(),
            )
        })?;
        Ok((sum, normed))
    }

    /// Returns the RMS norm of `x` over its last dimension times `weight`.
    pub fn rms_norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor> {
        let width = weight.dim(0)?;
        let rows = x.elem_count() / width;
        let normed = new_output(x.shape(), x.dtype(), x.device())?;
        with_addresses(&[x, weight], &[&normed], &mut |found| {
            let [x, weight, normed] = [0, 1, 2].map(|i| Argument::Address(found[i]));
            let none = Argument::Address(0);
            let tail = [Argument::int(width), Argument::Float(eps)];
            self.start(
                "add_rms_norm",
                [rows, 1, 1],
                &[&[x, none, weight, none, normed], &tail[..]].concat(),
            )
        })?;
        Ok(normed)
    }

    /// Rotates queries and keys, and writes keys and values to the cache; returns the queries.
    ///
    /// `qkv`: `[rows, (heads + 2 * kv_heads) * head_dim]`; `turns`: `[rows, 2, pairs]`, f32, cosines and sines of the
    /// angles by which dimension `i` of a head turns with dimension `i + pairs`, nothing if none turns; `slots`:
    /// `[rows]`, u32.
    pub fn rotate_and_store(
        &self,
        qkv: &Tensor,
        turns: Option<&Tensor>,
        slots: &Tensor,
        (keys, values): (&Tensor, &Tensor),
        (heads, kv_heads, head_dim): (usize, usize, usize),
    ) -> Result<Tensor> {
        let rows = qkv.dim(0)?;
        let pairs = turns.map_or(Ok(0), |turns| turns.dim(2))?;
        // Where nothing turns, the kernel is given an address and reads nothing there.
        let turns = turns.unwrap_or(slots);
        let q = new_output((rows, heads * head_dim), qkv.dtype(), qkv.device())?;
        with_addresses(&[qkv, turns, slots], &[&q, keys, values], &mut |found| {
            let mut arguments: Vec<_> = found.iter().map(|&at| Argument::Address(at)).collect();
            arguments.extend([heads, kv_heads, head_dim, pairs].map(Argument::int));
            self.start("rotate_and_store", [rows, 1, 1], &arguments)
        })?;
        Ok(q)
    }

    /// Returns `activation(gate) * up` of `gate_up`, `[rows, 2 * width]`.
    pub fn gated_activation(&self, gate_up: &Tensor, activation: Activation) -> Result<Tensor> {
        let (rows, both) = gate_up.dims2()?;
        let (width, count) = (both / 2, rows * both / 2);
        let out = new_output((rows, width), gate_up.dtype(), gate_up.device())?;
        with_addresses(&[gate_up], &[&out], &mut |found| {
            let number = match activation {
                Activation::Silu => 0,
                Activation::GeluTanh => 1,
            };
            self.start(
                "gated_activation",
                [count.div_ceil(THREADS).min(MOST_BLOCKS), 1, 1],
                &[
                    Argument::Address(found[0]),
                    Argument::Address(found[1]),
                    Argument::Long(count as i64),
                    Argument::int(width),
                    Argument::Int(number),
                ],
            )
        })?;
        Ok(out)
    }

    /// Turns `scores`, `[segments, heads, queries, positions]`, into attention weights in place.
    ///
    /// A row attends the positions up to its own; query rows beyond a segment's repeat its last.
    pub fn masked_softmax(&self, scores: &Tensor, how: &MaskedScores<'_>) -> Result<()> {
        let (segments, heads, queries, positions) = scores.dims4()?;
        with_addresses(&[how.segments], &[scores], &mut |found| {
            self.start(
                "masked_softmax",
                [queries, heads, segments],
                &[
                    Argument::Address(found[1]),
                    Argument::Address(found[0]),
                    Argument::int(positions),
                    Argument::Float(how.scale as f32),
                    Argument::int(how.window.unwrap_or(0)),
                    Argument::Float(how.soft_cap.unwrap_or(0.0) as f32),
                ],
            )
        })
    }

    fn start(
        &self,
        function: &'static str,
        grid: [usize; 3],
        arguments: &[Argument],
    ) -> Result<()> {
        let launch = Launch {
            program: &self.program,
            function,
            grid,
            threads: THREADS as u32,
            arguments,
        };
        // SAFETY: each caller passes the kernel's parameters in order, over tensors of the sizes that it is told, and
        // memory is given back in the order of launches.
        unsafe { self.launcher.launch(&launch) }
    }
}
