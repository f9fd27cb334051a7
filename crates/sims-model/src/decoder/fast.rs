//! The forward pass on the CPU's own kernels.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::{call_hook, foreign_cache};
use crate::kv_cache::{Layers, ScratchPool, sized};
use crate::ops::InstructionSet;
use crate::ops::attention::{Appender, HeadShape, LayerCache, attend};
use crate::ops::linear::{PackedLinear, Spread, Write};
use crate::ops::norm::rms_norm;
use crate::ops::swiglu::silu_mul;
use crate::rope::RopeTable;
use crate::weights::{BlockTensors, OuterTensors, Projection};
use crate::{Batch, Config, Dtype, Hook, KvCache, Result, Segment};

/// The weights, packed, and what the kernels need besides.
pub(super) struct Network {
    embed_tokens: Vec<f32>,
    blocks: Vec<Block>,
    norm: Vec<f32>,
    lm_head: PackedLinear,
    settings: Settings,
    rope: RopeTable,
}

/// What all blocks share.
#[derive(Clone, Copy)]
struct Settings {
    set: InstructionSet,
    hidden_size: usize,
    heads: HeadShape,
    eps: f32,
}

/// One decoder block: attention and a gated MLP, each on the norm of the residual stream and added to it.
struct Block {
    input_layernorm: Vec<f32>,
    qkv_proj: PackedLinear,
    o_proj: PackedLinear,
    post_attention_layernorm: Vec<f32>,
    gate_up_proj: PackedLinear,
    down_proj: PackedLinear,
}

/// Rows that one thread takes through half a block.
struct Chunk<'a> {
    /// The first of the batch's rows that it covers.
    first_row: usize,
    /// `[rows, hidden_size]`, the residual stream.
    hidden: &'a mut [f32],
    /// `[rows, qkv_size]`.
    qkv: &'a mut [f32],
}

/// What the rows of a batch share.
#[derive(Clone, Copy)]
struct Shared<'a> {
    settings: Settings,
    segments: &'a [Segment],
    scratch: &'a ScratchPool,
    spread: Spread,
}

impl Block {
    /// Queries, keys and values from the norm of the residual stream; keys and values go to the cache.
    fn project(&self, shared: Shared, rope: &RopeTable, cache: Appender, chunk: &mut Chunk) {
        let Settings {
            set,
            hidden_size,
            eps,
            ..
        } = shared.settings;
        let rows = chunk.first_row..chunk.first_row + chunk.hidden.len() / hidden_size;
        shared.scratch.with(|scratch| {
            let normed = sized(&mut scratch.normed, chunk.hidden.len());
            rms_norm(set, chunk.hidden, &self.input_layernorm, eps, normed);
            self.qkv_proj
                .forward(set, normed, chunk.qkv, Write::Store, shared.spread);
        });
        // SAFETY: `Batch::check` has seen to it that no two rows share a slot, and chunks do not share rows.
        unsafe { cache.append(set, rope, shared.segments, rows, chunk.qkv) };
    }

    /// Attention and the MLP, each added to the residual stream.
    fn mix(&self, shared: Shared, cache: &LayerCache, chunk: &mut Chunk) {
        let Settings {
            set,
            hidden_size,
            heads,
            eps,
        } = shared.settings;
        let spread = shared.spread;
        let n = chunk.hidden.len() / hidden_size;
        let rows = chunk.first_row..chunk.first_row + n;
        shared.scratch.with(|scratch| {
            let attended = sized(&mut scratch.attended, n * heads.query_size());
            attend(
                set,
                cache,
                shared.segments,
                rows,
                chunk.qkv,
                attended,
                (spread, shared.scratch),
            );
            self.o_proj
                .forward(set, attended, chunk.hidden, Write::Add, spread);

            let normed = sized(&mut scratch.normed, chunk.hidden.len());
            rms_norm(
                set,
                chunk.hidden,
                &self.post_attention_layernorm,
                eps,
                normed,
            );
            let gate_up = sized(&mut scratch.gate_up, n * self.gate_up_proj.out_features());
            self.gate_up_proj
                .forward(set, normed, gate_up, Write::Store, spread);
            let activated = sized(&mut scratch.activated, n * self.down_proj.in_features());
            silu_mul(set, gate_up, self.down_proj.in_features(), activated);
            self.down_proj
                .forward(set, activated, chunk.hidden, Write::Add, spread);
        });
    }

    fn bytes(&self) -> usize {
        [
            &self.qkv_proj,
            &self.o_proj,
            &self.gate_up_proj,
            &self.down_proj,
        ]
        .map(PackedLinear::bytes)
        .iter()
        .sum()
    }
}

impl Network {
    /// Packs the weights, one block after another, so that only one block is held twice.
    pub(super) fn new(
        config: &Config,
        set: InstructionSet,
        dtype: Dtype,
        outer: OuterTensors,
        blocks: impl Iterator<Item = Result<BlockTensors>>,
    ) -> Result<Self> {
        let pack = |projection| PackedLinear::pack(projection, dtype);
        let blocks = blocks.map(|tensors| {
            let tensors = tensors?;
            Ok(Block {
                input_layernorm: tensors.input_layernorm,
                qkv_proj: pack(tensors.qkv_proj),
                o_proj: pack(tensors.o_proj),
                post_attention_layernorm: tensors.post_attention_layernorm,
                gate_up_proj: pack(tensors.gate_up_proj),
                down_proj: pack(tensors.down_proj),
            })
        });
        let lm_head = Projection {
            out_features: config.vocab_size,
            in_features: config.hidden_size,
            weight: outer.lm_head.unwrap_or_else(|| outer.embed_tokens.clone()),
            bias: None,
        };
        Ok(Self {
            blocks: blocks.collect::<Result<_>>()?,
            embed_tokens: outer.embed_tokens,
            norm: outer.norm,
            lm_head: pack(lm_head),
            settings: Settings {
                set,
                hidden_size: config.hidden_size,
                heads: HeadShape::new(config),
                eps: config.rms_norm_eps,
            },
            rope: RopeTable::new(config),
        })
    }

    /// Makes an empty cache.
    pub(super) fn new_cache(&self, slots: usize) -> Layers {
        Layers::Packed(
            self.blocks
                .iter()
                .map(|_| LayerCache::new(self.settings.heads, slots))
                .collect(),
        )
    }

    /// As [`Decoder::forward`](super::Decoder::forward), on a checked batch and the first `blocks` blocks.
    pub(super) fn forward(
        &self,
        batch: &Batch,
        cache: &mut KvCache,
        mut hook: Option<&mut dyn Hook>,
        blocks: usize,
    ) -> Result<Tensor> {
        let KvCache {
            layers: Some(Layers::Packed(layers)),
            qkv,
            scratch,
            ..
        } = cache
        else {
            return Err(foreign_cache());
        };
        if layers.len() != self.blocks.len() || layers[0].shape() != self.settings.heads {
            return Err(foreign_cache());
        }
        let rows = batch.tokens.len();
        let qkv = sized(qkv, rows * self.settings.heads.qkv_size());
        let (chunk_rows, spread) = self.division(rows);
        let shared = Shared {
            settings: self.settings,
            segments: &batch.segments,
            scratch,
            spread,
        };

        let mut hidden = self.embed(&batch.tokens);
        let mut next = 0;
        while next < blocks {
            // The blocks up to the next that the hook wants run without leaving the pool.
            let wanted = hook
                .as_ref()
                .and_then(|hook| (next..blocks).find(|&layer| hook.wants(layer)));
            let end = wanted.map_or(blocks, |layer| layer + 1);
            in_pool(chunk_rows < rows || spread == Spread::AllThreads, || {
                let mut chunks = self.split(&mut hidden, qkv, chunk_rows);
                for (block, cache) in self.blocks[next..end].iter().zip(&mut layers[next..end]) {
                    let appender = cache.appender();
                    each(&mut chunks, |chunk| {
                        block.project(shared, &self.rope, appender, chunk)
                    });
                    each(&mut chunks, |chunk| block.mix(shared, cache, chunk));
                }
            });
            if let (Some(hook), Some(layer)) = (&mut hook, wanted) {
                let tensor =
                    Tensor::from_slice(&hidden, (rows, self.settings.hidden_size), &Device::Cpu)?;
                if let Some(replacement) = call_hook(&mut **hook, layer, &batch.segments, &tensor)?
                {
                    hidden = replacement.flatten_all()?.to_vec1()?;
                }
            }
            next = end;
        }
        let mut normed = vec![0.0; hidden.len()];
        rms_norm(
            self.settings.set,
            &hidden,
            &self.norm,
            self.settings.eps,
            &mut normed,
        );
        Ok(Tensor::from_vec(
            normed,
            (rows, self.settings.hidden_size),
            &Device::Cpu,
        )?)
    }

    /// As [`Decoder::logits`](super::Decoder::logits).
    pub(super) fn logits(&self, hidden_rows: &Tensor) -> Result<Tensor> {
        let (rows, _) = hidden_rows.dims2()?;
        let hidden = hidden_rows
            .reshape((rows, self.settings.hidden_size))?
            .flatten_all()?
            .to_vec1::<f32>()?;
        let vocab_size = self.lm_head.out_features();
        let mut logits = vec![0.0; rows * vocab_size];
        let (chunk_rows, spread) = self.division(rows);
        let product = |(x, out): (&[f32], &mut [f32])| {
            self.lm_head
                .forward(self.settings.set, x, out, Write::Store, spread);
        };
        let inputs = hidden.chunks(chunk_rows * self.settings.hidden_size);
        in_pool(chunk_rows < rows || spread == Spread::AllThreads, || {
            let mut chunks: Vec<_> = inputs
                .zip(logits.chunks_mut(chunk_rows * vocab_size))
                .collect();
            each(&mut chunks, |(x, out)| product((x, out)));
        });
        Ok(Tensor::from_vec(logits, (rows, vocab_size), &Device::Cpu)?)
    }

    /// Returns the embeddings of the tokens, `[rows, hidden_size]`.
    fn embed(&self, tokens: &[u32]) -> Vec<f32> {
        let size = self.settings.hidden_size;
        tokens
            .iter()
            .flat_map(|&token| &self.embed_tokens[token as usize * size..][..size])
            .copied()
            .collect()
    }

    /// Returns the rows of a chunk, and whether the threads divide chunks or, with one chunk, outputs and heads.
    ///
    /// A thread that takes its own rows through half a block meets no other on the way, and keeps
    /// intermediate results in its cache; but it reads all weights. That pays when they fit its cache too,
    /// or when it has rows enough to compute longer than it reads.
    fn division(&self, rows: usize) -> (usize, Spread) {
        const CACHED_BYTES: usize = 2 << 20;
        const ROWS_PER_READ: usize = 24;
        const MOST_ROWS: usize = 48;
        const TILE_ROWS: usize = 6;
        let threads = rayon::current_num_threads();
        let cached = self
            .blocks
            .iter()
            .all(|block| block.bytes() <= CACHED_BYTES);
        let per_thread = rows.div_ceil(threads).max(1).next_multiple_of(TILE_ROWS);
        if threads == 1 {
            (rows.clamp(1, MOST_ROWS), Spread::OneThread)
        } else if cached || per_thread >= ROWS_PER_READ {
            (per_thread.min(MOST_ROWS), Spread::OneThread)
        } else {
            (rows.max(1), Spread::AllThreads)
        }
    }

    /// Splits the residual stream and the room for queries, keys and values into chunks of rows.
    fn split<'a>(&self, hidden: &'a mut [f32], qkv: &'a mut [f32], rows: usize) -> Vec<Chunk<'a>> {
        let hidden = hidden.chunks_mut(rows * self.settings.hidden_size);
        let qkv = qkv.chunks_mut(rows * self.settings.heads.qkv_size());
        let chunks = hidden.zip(qkv).enumerate();
        chunks
            .map(|(i, (hidden, qkv))| Chunk {
                first_row: i * rows,
                hidden,
                qkv,
            })
            .collect()
    }
}

/// Calls `f` with each chunk, on as many threads as there are.
fn each<T: Send>(chunks: &mut [T], f: impl Fn(&mut T) + Send + Sync) {
    match chunks {
        [chunk] => f(chunk),
        chunks => chunks.par_iter_mut().for_each(f),
    }
}

/// Runs `work` on a thread of the pool if it is to use several: regions that start there start fast.
fn in_pool(parallel: bool, work: impl FnOnce() + Send) {
    if parallel && rayon::current_thread_index().is_none() {
        rayon::scope(|_| work());
    } else {
        work();
    }
}
