//! The forward pass on the CPU's own kernels.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::{call_hook, foreign_cache};
use crate::config::{Activation, LayerConfig};
use crate::kv_cache::{Layers, Scratch, ScratchPool, sized};
use crate::ops::InstructionSet;
use crate::ops::activation::{gated, soft_cap};
use crate::ops::attention::{Appender, HeadShape, LayerCache, Scoring, attend};
use crate::ops::linear::{PackedLinear, Spread, Write};
use crate::ops::norm::{rms_norm, rms_norm_in_place};
use crate::ops::quantized::{Linear, QuantizedLinear};
use crate::rope::RopeTable;
use crate::weights::{
    BlockWeights, Checkpoint, Form, GatedWeights, MlpWeights, Projection, Weights,
};
use crate::{Batch, Config, Dtype, Hook, KvCache, Result, Segment, Site};

mod experts;

/// The weights, packed, and what the kernels need besides.
pub(super) struct Network {
    weights: Weights<Packed>,
    dtype: Dtype,
    layers: Vec<LayerConfig>,
    ropes: Vec<RopeTable>,
    settings: Settings,
    outer: OuterSettings,
}

/// What all blocks share.
#[derive(Clone, Copy)]
struct Settings {
    set: InstructionSet,
    hidden_size: usize,
    heads: HeadShape,
    eps: f32,
    activation: Activation,
    attention_scale: f32,
    attention_cap: Option<f32>,
    residual_multiplier: f32,
    experts: Option<crate::config::ExpertsConfig>,
}

/// What happens outside the blocks.
struct OuterSettings {
    embedding_multiplier: f32,
    logits_scaling: f32,
    logits_cap: Option<f32>,
}

/// Weights in the layout of the CPU kernels.
struct Packed {
    dtype: Dtype,
}

impl Form for Packed {
    type Linear = Linear;
    type Vector = Vec<f32>;

    fn linear(&self, projection: Projection) -> Result<Linear> {
        Ok(Linear::Packed(PackedLinear::pack(projection, self.dtype)))
    }

    fn blocks(&self, layer: QuantizedLinear) -> Result<Linear> {
        Ok(Linear::Quantized(layer))
    }

    fn vector(&self, values: Vec<f32>) -> Result<Vec<f32>> {
        Ok(values)
    }
}

/// One decoder block: attention and a gated MLP, each on the residual stream and added to it.
type Block = BlockWeights<Packed>;

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

impl Shared<'_> {
    /// Returns `x` under the norm, or `x` itself where there is none.
    fn normed<'x>(
        &self,
        x: &'x [f32],
        norm: &Option<Vec<f32>>,
        room: &'x mut Vec<f32>,
    ) -> &'x [f32] {
        let Some(weight) = norm else {
            return x;
        };
        let normed = sized(room, x.len());
        rms_norm(self.settings.set, x, weight, self.settings.eps, normed);
        normed
    }

    /// Adds a projection's output to the residual stream, under the norm and the multiplier that the family has.
    fn add(
        &self,
        projection: &Linear,
        x: &[f32],
        norm: &Option<Vec<f32>>,
        hidden: &mut [f32],
        room: &mut Vec<f32>,
    ) {
        let set = self.settings.set;
        if norm.is_none() && self.settings.residual_multiplier == 1.0 {
            projection.forward(set, x, hidden, Write::Add, self.spread);
            return;
        }
        let out = sized(room, hidden.len());
        projection.forward(set, x, out, Write::Store, self.spread);
        self.add_output(norm, out, hidden);
    }

    /// Adds `out` to the residual stream, under the norm and the multiplier that the family has.
    fn add_output(&self, norm: &Option<Vec<f32>>, out: &mut [f32], hidden: &mut [f32]) {
        if let Some(weight) = norm {
            rms_norm_in_place(self.settings.set, out, weight, self.settings.eps);
        }
        let multiplier = self.settings.residual_multiplier;
        for (hidden, out) in hidden.iter_mut().zip(out) {
            *hidden += multiplier * *out;
        }
    }

    /// Writes the gated activation, `[rows, intermediate_size]`, of rows `x`.
    fn activate<'s>(
        &self,
        weights: &GatedWeights<Linear>,
        x: &[f32],
        gate_up: &mut Vec<f32>,
        activated: &'s mut Vec<f32>,
    ) -> &'s [f32] {
        let Settings {
            set, activation, ..
        } = self.settings;
        let n = x.len() / weights.gate_up_proj.in_features();
        let width = weights.down_proj.in_features();
        let gate_up = sized(gate_up, n * weights.gate_up_proj.out_features());
        weights
            .gate_up_proj
            .forward(set, x, gate_up, Write::Store, self.spread);
        let activated = sized(activated, n * width);
        gated(set, activation, gate_up, width, activated);
        activated
    }
}

impl Block {
    /// Queries, keys and values from the norm of the residual stream; keys and values go to the cache.
    fn project(
        &self,
        shared: Shared,
        rope: Option<&RopeTable>,
        cache: Appender,
        chunk: &mut Chunk,
    ) {
        let Settings {
            set,
            hidden_size,
            heads,
            eps,
            ..
        } = shared.settings;
        let rows = chunk.first_row..chunk.first_row + chunk.hidden.len() / hidden_size;
        shared.scratch.with(|scratch| {
            let normed = shared.normed(chunk.hidden, &self.attention_norm, &mut scratch.normed);
            self.qkv_proj
                .forward(set, normed, chunk.qkv, Write::Store, shared.spread);
        });
        if let Some((query_norm, key_norm)) = &self.qk_norm {
            for qkv in chunk.qkv.chunks_exact_mut(heads.qkv_size()) {
                let (queries, others) = qkv.split_at_mut(heads.query_size());
                rms_norm_in_place(set, queries, query_norm, eps);
                rms_norm_in_place(set, &mut others[..heads.key_size()], key_norm, eps);
            }
        }
        // SAFETY: `Batch::check` has seen to it that no two rows share a slot, and chunks do not share rows.
        unsafe { cache.append(set, rope, shared.segments, rows, chunk.qkv) };
    }

    /// Attention and the MLP, each added to the residual stream.
    fn mix(&self, shared: Shared, layer: &LayerConfig, cache: &LayerCache, chunk: &mut Chunk) {
        let Settings {
            hidden_size, heads, ..
        } = shared.settings;
        let n = chunk.hidden.len() / hidden_size;
        shared.scratch.with(|scratch| {
            let mut room = std::mem::take(&mut scratch.attended);
            let attended = sized(&mut room, n * heads.query_size());
            self.attend(shared, layer, cache, chunk, attended);
            self.finish(shared, attended, chunk, scratch);
            scratch.attended = room;
        });
    }

    /// Writes what the attention heads put out, `[rows, query_size]`.
    fn attend(
        &self,
        shared: Shared,
        layer: &LayerConfig,
        cache: &LayerCache,
        chunk: &Chunk,
        attended: &mut [f32],
    ) {
        let Settings {
            set,
            hidden_size,
            attention_scale,
            attention_cap,
            ..
        } = shared.settings;
        let rows = chunk.first_row..chunk.first_row + chunk.hidden.len() / hidden_size;
        attend(
            set,
            cache,
            (shared.segments, rows),
            chunk.qkv,
            attended,
            Scoring {
                scale: attention_scale,
                soft_cap: attention_cap,
                window: layer.window,
            },
            (shared.spread, shared.scratch),
        );
    }

    /// Projects the heads' outputs onto the residual stream, and adds the MLP's.
    fn finish(&self, shared: Shared, attended: &[f32], chunk: &mut Chunk, scratch: &mut Scratch) {
        let Scratch {
            normed,
            gate_up,
            activated,
            output,
            ..
        } = scratch;
        let norm = &self.attention_post_norm;
        shared.add(&self.o_proj, attended, norm, chunk.hidden, output);

        match &self.mlp {
            MlpWeights::Dense(weights) => {
                let x = shared.normed(chunk.hidden, &self.mlp_norm, normed);
                let activated = shared.activate(weights, x, gate_up, activated);
                let norm = &self.mlp_post_norm;
                shared.add(&weights.down_proj, activated, norm, chunk.hidden, output);
            }
            MlpWeights::Experts { router, experts } => {
                let x = shared.normed(chunk.hidden, &self.mlp_norm, normed);
                let output = sized(output, x.len());
                experts::mix(shared, router, experts, x, output, (gate_up, activated));
                shared.add_output(&self.mlp_post_norm, output, chunk.hidden);
            }
        }
    }

    /// Returns whether some weights are ggml blocks, which are unpacked in each pass.
    fn is_quantized(&self) -> bool {
        let quantized = |layer: &Linear| matches!(layer, Linear::Quantized(_));
        let gated = |weights: &GatedWeights<Linear>| {
            quantized(&weights.gate_up_proj) || quantized(&weights.down_proj)
        };
        let mlp = match &self.mlp {
            MlpWeights::Dense(weights) => gated(weights),
            MlpWeights::Experts { experts, .. } => experts.iter().any(gated),
        };
        mlp || quantized(&self.qkv_proj) || quantized(&self.o_proj)
    }

    /// Returns the bytes of the weights that a row meets, at most.
    fn bytes(&self) -> usize {
        let gated = |weights: &GatedWeights<Linear>| {
            weights.gate_up_proj.bytes() + weights.down_proj.bytes()
        };
        let mlp = match &self.mlp {
            MlpWeights::Dense(weights) => gated(weights),
            MlpWeights::Experts { router, experts } => {
                router.bytes() + experts.iter().map(gated).sum::<usize>()
            }
        };
        self.qkv_proj.bytes() + self.o_proj.bytes() + mlp
    }
}

impl Network {
    /// Reads and packs the weights, one projection after another.
    pub(super) fn read(
        checkpoint: Checkpoint,
        config: &Config,
        set: InstructionSet,
        dtype: Dtype,
    ) -> Result<Self> {
        let form = Packed { dtype };
        Ok(Self {
            weights: Weights::read(checkpoint, config, |_| &form)?,
            dtype,
            layers: config.layers.clone(),
            ropes: config
                .ropes
                .iter()
                .map(|rope| RopeTable::new(rope, config.max_position_embeddings))
                .collect(),
            settings: Settings {
                set,
                hidden_size: config.hidden_size,
                heads: HeadShape::new(config),
                eps: config.rms_norm_eps,
                activation: config.hidden_act,
                attention_scale: config.attention_scale,
                attention_cap: config.attn_logit_softcapping,
                residual_multiplier: config.residual_multiplier,
                experts: config.experts,
            },
            outer: OuterSettings {
                embedding_multiplier: config.embedding_multiplier,
                logits_scaling: config.logits_scaling,
                logits_cap: config.final_logit_softcapping,
            },
        })
    }

    /// Returns the bytes that the matrices take.
    pub(super) fn weight_bytes(&self) -> usize {
        let blocks = self.weights.blocks.iter().map(Block::bytes).sum::<usize>();
        let head = self.weights.lm_head.as_ref().map_or(0, Linear::bytes);
        blocks + self.weights.embed_tokens.bytes() + head
    }

    /// Makes an empty cache.
    pub(super) fn new_cache(&self, slots: usize) -> Layers {
        Layers::Packed(
            self.layers
                .iter()
                .map(|_| LayerCache::new(self.settings.heads, slots, self.dtype))
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
        if layers.len() != self.layers.len()
            || layers[0].kind() != (self.settings.heads, self.dtype)
        {
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
            let wanted = hook.as_ref().and_then(|hook| {
                (next..blocks).find(|&layer| hook.wants(layer) || hook.wants_heads(layer))
            });
            let end = wanted.map_or(blocks, |layer| layer + 1);
            let on_heads =
                wanted.filter(|&layer| hook.as_ref().is_some_and(|hook| hook.wants_heads(layer)));
            in_pool(chunk_rows < rows || spread == Spread::AllThreads, || {
                let mut chunks = self.split(&mut hidden, qkv, chunk_rows);
                for (index, cache) in (next..end).zip(&mut layers[next..end]) {
                    let (block, layer) = (&self.weights.blocks[index], &self.layers[index]);
                    let rope = layer.rope.map(|rope| &self.ropes[rope]);
                    let appender = cache.appender();
                    each(&mut chunks, |chunk| {
                        block.project(shared, rope, appender, chunk)
                    });
                    if on_heads != Some(index) {
                        each(&mut chunks, |chunk| block.mix(shared, layer, cache, chunk));
                    }
                }
            });
            if let (Some(hook), Some(layer)) = (&mut hook, on_heads) {
                let chunks = self.split(&mut hidden, qkv, chunk_rows);
                self.mix_with(&mut **hook, shared, layer, &layers[layer], chunks)?;
            }
            if let (Some(hook), Some(layer)) = (&mut hook, wanted)
                && hook.wants(layer)
            {
                let tensor =
                    Tensor::from_slice(&hidden, (rows, self.settings.hidden_size), &Device::Cpu)?;
                let hook = &mut **hook;
                if let Some(replacement) =
                    call_hook(hook, Site::Block, layer, &batch.segments, &tensor)?
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
            &self.weights.norm,
            self.settings.eps,
            &mut normed,
        );
        Ok(Tensor::from_vec(
            normed,
            (rows, self.settings.hidden_size),
            &Device::Cpu,
        )?)
    }

    /// As [`Block::mix`], with the hook between attention and its output projection.
    fn mix_with(
        &self,
        hook: &mut dyn Hook,
        shared: Shared,
        layer: usize,
        cache: &LayerCache,
        mut chunks: Vec<Chunk<'_>>,
    ) -> Result<()> {
        let (block, settings) = (&self.weights.blocks[layer], &self.layers[layer]);
        let width = self.settings.heads.query_size();
        let rows_of = |chunk: &Chunk| chunk.hidden.len() / self.settings.hidden_size;
        let rows: usize = chunks.iter().map(rows_of).sum();
        let chunk_rows = chunks.first().map_or(1, rows_of);
        let parallel = chunks.len() > 1 || shared.spread == Spread::AllThreads;
        let mut attended = vec![0.0; rows * width];
        in_pool(parallel, || {
            let parts = attended.chunks_mut(chunk_rows * width);
            let mut parts: Vec<_> = chunks.iter().zip(parts).collect();
            each(&mut parts, |(chunk, part)| {
                block.attend(shared, settings, cache, chunk, part);
            });
        });
        let tensor = Tensor::from_slice(&attended, (rows, width), &Device::Cpu)?;
        if let Some(new) = call_hook(hook, Site::Heads, layer, shared.segments, &tensor)? {
            attended = new.flatten_all()?.to_vec1()?;
        }
        in_pool(parallel, || {
            let parts = attended.chunks(chunk_rows * width);
            let mut parts: Vec<_> = chunks.iter_mut().zip(parts).collect();
            each(&mut parts, |(chunk, part)| {
                let scratch = shared.scratch;
                scratch.with(|scratch| block.finish(shared, part, chunk, scratch));
            });
        });
        Ok(())
    }

    /// As [`Decoder::logits`](super::Decoder::logits).
    pub(super) fn logits(&self, hidden_rows: &Tensor) -> Result<Tensor> {
        let (rows, _) = hidden_rows.dims2()?;
        let hidden = hidden_rows
            .reshape((rows, self.settings.hidden_size))?
            .flatten_all()?
            .to_vec1::<f32>()?;
        let head = self
            .weights
            .lm_head
            .as_ref()
            .unwrap_or(&self.weights.embed_tokens);
        let vocab_size = head.out_features();
        let mut logits = vec![0.0; rows * vocab_size];
        let (chunk_rows, spread) = self.division(rows);
        let product = |(x, out): (&[f32], &mut [f32])| {
            head.forward(self.settings.set, x, out, Write::Store, spread);
            if self.outer.logits_scaling != 1.0 {
                let scaling = self.outer.logits_scaling;
                out.iter_mut().for_each(|logit| *logit /= scaling);
            }
            if let Some(cap) = self.outer.logits_cap {
                soft_cap(self.settings.set, cap, out);
            }
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
        let mut hidden = vec![0.0; tokens.len() * size];
        for (&token, row) in tokens.iter().zip(hidden.chunks_exact_mut(size)) {
            self.weights.embed_tokens.weights_of(token as usize, row);
        }
        let multiplier = self.outer.embedding_multiplier;
        if multiplier != 1.0 {
            hidden.iter_mut().for_each(|value| *value *= multiplier);
        }
        hidden
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
        // Unpacking is done for all rows at once, as it takes as long as some ten of them.
        const UNPACKED_ROWS: usize = 256;
        let threads = rayon::current_num_threads();
        let quantized = self.weights.blocks.iter().any(Block::is_quantized);
        let cached = self
            .weights
            .blocks
            .iter()
            .all(|block| block.bytes() <= CACHED_BYTES);
        if quantized && threads > 1 {
            (rows.max(1), Spread::AllThreads)
        } else if threads == 1 || cached || rows.div_ceil(threads) >= ROWS_PER_READ {
            // Every thread gets as many chunks as any other.
            let most = if quantized { UNPACKED_ROWS } else { MOST_ROWS };
            let chunks = threads * rows.div_ceil(threads * most);
            (rows.div_ceil(chunks.max(1)).max(1), Spread::OneThread)
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
