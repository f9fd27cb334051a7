//! The forward pass in candle's operations, on any device or several.

use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops::{silu, softmax, softmax_last_dim};

use super::routing::choose;
use super::{call_hook, foreign_cache};
use crate::config::{Activation, LayerConfig};
use crate::gpu::{DeviceKernels, Launcher, MaskedScores, RowPlan};
use crate::kv_cache::Layers;
use crate::rope::RopeTable;
use crate::weights::{BlockWeights, Checkpoint, GatedWeights, MlpWeights, Weights};
use crate::{Batch, Config, Dtype, Hook, KvCache, Result, Segment, Site};

mod blocks;
mod elementwise;
mod linear;
mod traced;

use elementwise::{normed, rms_norm, rotate, scaled, soft_capped};
use linear::{Linear, Place};
pub use traced::TracedDecoder;
pub(super) use traced::untraceable;

/// The weights as tensors, each block's on one of the devices.
pub(super) struct Network {
    config: Config,
    /// The devices, in the order of the blocks that they hold.
    places: Vec<Place>,
    weights: Weights<Place>,
    ropes: Vec<RopeTable>,
    /// The windows that layers attend within, each once.
    windows: Vec<Option<usize>>,
}

/// One decoder block: attention and a gated MLP, each on the residual stream and added to it.
type Block = BlockWeights<Place>;

/// Takes the heads' outputs, `[rows, heads * head_dim]`, and returns what goes on in their place.
type OnHeads<'f> = &'f mut dyn FnMut(Tensor) -> Result<Tensor>;

/// What a forward pass computes once for all blocks of a device.
struct Plan<'a> {
    kernels: Option<&'a DeviceKernels>,
    /// Whether candle is to differentiate the pass: keys and values are then the batch's own rows, not a cache's.
    is_traced: bool,
    /// One entry a rotary embedding: cosines and sines, `[rows, 2, rotary_dim / 2]`.
    ropes: Vec<Tensor>,
    /// `[rows]`, the slot that each row's keys and values go to; for candle's operations `[rows, kv_size]`.
    slots: Tensor,
    /// The segments of one row, where there is a kernel for them.
    single_rows: Option<RowPlan>,
    groups: Vec<Group>,
    /// `[rows]`, where each row of the batch is among the groups' rows and then the single ones; none if they are in
    /// the order of the batch.
    order: Option<Tensor>,
}

/// Segments whose attention is computed together, padded to the longest, with the mask saying what is real.
struct Group {
    segments: usize,
    /// Query rows of the longest segment, `r`.
    rows: usize,
    /// Attended positions of the longest segment, `t`.
    positions: usize,
    /// `[segments * r]`, rows of the batch.
    row_index: Tensor,
    /// `[segments * t]`, slots of the cache.
    slot_index: Tensor,
    mask: Mask,
}

/// Which positions each row of a group attends.
enum Mask {
    /// One entry a window: `[segments, 1, r, t]`, f32, 0 where a row attends a position, -inf elsewhere.
    Added(Vec<Tensor>),
    /// `[segments, 2]`, u32: the position of a segment's first row and its number of rows, for the kernel.
    Spans(Tensor),
}

impl Block {
    /// Returns the residual stream `[rows, hidden_size]` after the block.
    fn forward(
        &self,
        network: &Network,
        layer: &LayerConfig,
        plan: &Plan,
        cache: Option<&(Tensor, Tensor)>,
        hidden: &Tensor,
        on_heads: OnHeads<'_>,
    ) -> Result<Tensor> {
        let Config {
            rms_norm_eps: eps,
            residual_multiplier,
            hidden_act,
            ..
        } = network.config;
        let add = |hidden: &Tensor, output: Tensor, norm: &Option<Tensor>| -> Result<Tensor> {
            let output = normed(plan.kernels, &output, norm, eps)?;
            Ok((hidden + scaled(output, residual_multiplier)?)?)
        };
        let x = normed(plan.kernels, hidden, &self.attention_norm, eps)?;
        let attended = self.attention(network, layer, plan, cache, &x, on_heads)?;
        let (hidden, x) = match (plan.kernels, &self.attention_post_norm, &self.mlp_norm) {
            (Some(kernels), None, Some(weight)) if residual_multiplier == 1.0 => {
                kernels.block.add_rms_norm(hidden, &attended, weight, eps)?
            }
            _ => {
                let hidden = add(hidden, attended, &self.attention_post_norm)?;
                let x = normed(plan.kernels, &hidden, &self.mlp_norm, eps)?;
                (hidden, x)
            }
        };
        let mixed = match &self.mlp {
            MlpWeights::Dense(weights) => gated(plan.kernels, weights, hidden_act, &x)?,
            MlpWeights::Experts { router, experts } => {
                mixture(plan, &network.config, router, experts, &x)?
            }
        };
        add(&hidden, mixed, &self.mlp_post_norm)
    }

    fn attention(
        &self,
        network: &Network,
        layer: &LayerConfig,
        plan: &Plan,
        cache: Option<&(Tensor, Tensor)>,
        normed: &Tensor,
        on_heads: OnHeads<'_>,
    ) -> Result<Tensor> {
        let config = &network.config;
        let (query_size, kv_size) = (config.query_size(), config.key_value_size());
        let (heads, kv_heads, head_dim) = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        );
        let rows = normed.dim(0)?;

        let qkv = self.qkv_proj.forward(normed)?;
        let mut q = qkv.narrow(1, 0, query_size)?;
        let mut k = qkv.narrow(1, query_size, kv_size)?;
        let v = qkv.narrow(1, query_size + kv_size, kv_size)?;
        if let Some((query_norm, key_norm)) = &self.qk_norm {
            // The weight's width says whether the norm runs over a head or over all of them.
            let each = |x: &Tensor, weight: &Tensor| {
                let (rows, size) = x.dims2()?;
                let width = weight.dim(0)?;
                let x = x.contiguous()?.reshape((rows, size / width, width))?;
                Ok::<_, crate::ModelError>(
                    rms_norm(plan.kernels, &x, weight, config.rms_norm_eps)?
                        .reshape((rows, size))?,
                )
            };
            (q, k) = (each(&q, query_norm)?, each(&k, key_norm)?);
        }
        let rope = layer.rope.map(|rope| &plan.ropes[rope]);
        let mut own = None;
        let q = if let (Some(kernels), Some(cache)) = (plan.kernels, cache) {
            let qkv = match self.qk_norm {
                Some(_) => Tensor::cat(&[q, k, v], 1)?,
                None => qkv,
            };
            let sizes = (heads, kv_heads, head_dim);
            let cache = (&cache.0, &cache.1);
            kernels
                .block
                .rotate_and_store(&qkv, rope, &plan.slots, cache, sizes)?
        } else {
            let mut q = q.contiguous()?.reshape((rows, heads, head_dim))?;
            let mut k = k.contiguous()?.reshape((rows, kv_heads, head_dim))?;
            if let Some(turns) = rope {
                (q, k) = (rotate(&q, turns)?, rotate(&k, turns)?);
            }
            let (k, v) = (k.reshape((rows, kv_size))?, v.contiguous()?);
            match cache {
                Some(cache) => {
                    cache.0.scatter_set(&plan.slots, &k, 0)?;
                    cache.1.scatter_set(&plan.slots, &v, 0)?;
                }
                None => own = Some((k, v)),
            }
            q
        };
        let Some(cache) = cache.or(own.as_ref()) else {
            return Err(foreign_cache());
        };
        let attended = plan.attend(network, layer, &q, cache)?;
        self.o_proj.forward(&on_heads(attended)?)
    }
}

/// Returns the output of a gated MLP, `[rows, hidden_size]`.
fn gated(
    kernels: Option<&DeviceKernels>,
    weights: &GatedWeights<Linear>,
    activation: Activation,
    x: &Tensor,
) -> Result<Tensor> {
    let gate_up = weights.gate_up_proj.forward(x)?;
    if let Some(kernels) = kernels {
        let activated = kernels.block.gated_activation(&gate_up, activation)?;
        return weights.down_proj.forward(&activated);
    }
    let gate_up = gate_up.chunk(2, D::Minus1)?;
    let gate = match activation {
        Activation::Silu => silu(&gate_up[0])?,
        Activation::GeluTanh => gate_up[0].contiguous()?.gelu()?,
    };
    weights.down_proj.forward(&(gate * &gate_up[1])?)
}

/// Returns the weighted sum of each row's experts, `[rows, hidden_size]`; the choice is made on the host.
fn mixture(
    plan: &Plan,
    config: &Config,
    router: &Linear,
    experts: &[GatedWeights<Linear>],
    x: &Tensor,
) -> Result<Tensor> {
    let mut out = x.zeros_like()?;
    let Some(settings) = config.experts else {
        return Ok(out);
    };
    let logits = router.forward(x)?.to_dtype(DType::F32)?;
    let mut scores: Vec<Vec<f32>> = logits.to_vec2()?;
    for scores in &mut scores {
        choose(scores, settings.per_token, settings.normalised);
    }
    let traced = plan
        .is_traced
        .then(|| traced::expert_weights(&logits, &scores, settings.normalised))
        .transpose()?;
    for (expert, weights) in experts.iter().enumerate() {
        let (rows, chosen): (Vec<u32>, Vec<f32>) = (0..)
            .zip(&scores)
            .map(|(row, scores)| (row, scores[expert]))
            .filter(|(_, weight)| *weight > 0.0)
            .unzip();
        if rows.is_empty() {
            continue;
        }
        let count = rows.len();
        let rows = Tensor::from_vec(rows, count, x.device())?;
        let chosen = match &traced {
            Some(weights) => weights.index_select(&rows, 0)?.narrow(1, expert, 1)?,
            None => Tensor::from_vec(chosen, (count, 1), x.device())?.to_dtype(x.dtype())?,
        };
        let mixed = gated(
            plan.kernels,
            weights,
            config.hidden_act,
            &x.index_select(&rows, 0)?,
        )?;
        out = out.index_add(&rows, &mixed.broadcast_mul(&chosen)?, 0)?;
    }
    Ok(out)
}

impl Plan<'_> {
    /// Returns attention's output for the rows of the batch, `[rows, heads * head_dim]`.
    ///
    /// `q`: `[rows, heads, head_dim]`, or its last two dimensions as one.
    fn attend(
        &self,
        network: &Network,
        layer: &LayerConfig,
        q: &Tensor,
        cache: &(Tensor, Tensor),
    ) -> Result<Tensor> {
        let groups = self.groups.iter();
        let mut attended = groups
            .map(|group| group.attend(self, network, layer, q, cache))
            .collect::<Result<Vec<_>>>()?;
        if let (Some(kernels), Some(rows)) = (self.kernels, &self.single_rows) {
            let cap = network.config.attn_logit_softcapping.map(f64::from);
            let cache = (&cache.0, &cache.1);
            let out = kernels
                .attention
                .attend(rows, q, cache, layer.window, cap)?;
            attended.push(out);
        }
        let attended = match &attended[..] {
            [one] => one.clone(),
            several => Tensor::cat(several, 0)?,
        };
        Ok(match &self.order {
            Some(order) => attended.index_select(order, 0)?,
            None => attended,
        })
    }
}

impl Group {
    /// Returns attention's output for the group's rows, `[segments * r, heads * head_dim]`.
    fn attend(
        &self,
        plan: &Plan,
        network: &Network,
        layer: &LayerConfig,
        q: &Tensor,
        (keys, values): &(Tensor, Tensor),
    ) -> Result<Tensor> {
        let config = &network.config;
        let (s, r, t) = (self.segments, self.rows, self.positions);
        let (heads, kv_heads, head_dim) = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        );
        let group = heads / kv_heads;
        // [s * r, heads, head_dim] -> [s, kv_heads, group * r, head_dim]
        let q = q
            .index_select(&self.row_index, 0)?
            .reshape((s, r, kv_heads, group, head_dim))?;
        let q = q.permute((0, 2, 3, 1, 4))?.contiguous()?.reshape((
            s,
            kv_heads,
            group * r,
            head_dim,
        ))?;
        // [slots, kv_heads * head_dim] -> [s, kv_heads, t, head_dim]
        let gather = |cache: &Tensor| -> Result<Tensor> {
            let rows = cache
                .index_select(&self.slot_index, 0)?
                .reshape((s, t, kv_heads, head_dim))?;
            Ok(rows.transpose(1, 2)?.contiguous()?)
        };
        let scores = q.matmul(&gather(keys)?.t()?)?.reshape((s, heads, r, t))?;
        let weights = match (&self.mask, plan.kernels) {
            (Mask::Spans(segments), Some(kernels)) => {
                let how = MaskedScores {
                    segments,
                    scale: f64::from(config.attention_scale),
                    window: layer.window,
                    soft_cap: config.attn_logit_softcapping.map(f64::from),
                };
                kernels.block.masked_softmax(&scores, &how)?;
                scores
            }
            (Mask::Added(masks), _) => {
                let scores = scores.to_dtype(DType::F32)?;
                let scores = (scores * f64::from(config.attention_scale))?;
                let scores = soft_capped(scores, config.attn_logit_softcapping)?;
                let windows = &mut network.windows.iter();
                let window = windows.position(|window| *window == layer.window);
                let scores = scores.broadcast_add(&masks[window.unwrap_or(0)])?;
                let weights = match plan.is_traced {
                    // Candle knows no derivative of the other.
                    true => softmax(&scores, D::Minus1)?,
                    false => softmax_last_dim(&scores)?,
                };
                weights.to_dtype(q.dtype())?
            }
            (Mask::Spans(_), None) => unreachable!("spans are made for kernels"),
        };
        let attended = weights
            .reshape((s, kv_heads, group * r, t))?
            .matmul(&gather(values)?)?;
        // [s, kv_heads, group * r, head_dim] -> [s * r, heads * head_dim]
        let attended = attended
            .reshape((s, heads, r, head_dim))?
            .transpose(1, 2)?
            .contiguous()?;
        Ok(attended.reshape((s * r, heads * head_dim))?)
    }
}

impl Network {
    /// Reads the weights, one projection after another; each device takes as many blocks as the next, in order.
    pub(super) fn read(
        checkpoint: Checkpoint,
        config: &Config,
        devices: &[Device],
        dtype: Dtype,
        launcher_of: impl Fn(&Device) -> Result<Option<Arc<dyn Launcher>>>,
    ) -> Result<Self> {
        let place = |device: &Device| {
            // candle's CPU multiplication takes no bf16; there the weights are rounded to it and held in f32.
            let dtype = if dtype == Dtype::Bf16 && !device.is_cpu() {
                DType::BF16
            } else {
                DType::F32
            };
            let launcher = launcher_of(device)?;
            let kernels = launcher.map(|launcher| DeviceKernels::new(&launcher, config, dtype));
            Ok(Place {
                device: device.clone(),
                dtype,
                kernels,
            })
        };
        let places: Vec<Place> = devices.iter().map(place).collect::<Result<_>>()?;
        let mut windows = Vec::new();
        for layer in &config.layers {
            if !windows.contains(&layer.window) {
                windows.push(layer.window);
            }
        }
        let layers = config.num_hidden_layers;
        let weights = Weights::read(checkpoint, config, |layer| {
            &places[place_of(layer, layers, places.len())]
        })?;
        Ok(Self {
            weights,
            places,
            windows,
            ropes: config
                .ropes
                .iter()
                .map(|rope| RopeTable::new(rope, config.max_position_embeddings))
                .collect(),
            config: config.clone(),
        })
    }

    /// Returns the type of hidden states.
    pub(super) fn dtype(&self) -> DType {
        self.places[0].dtype
    }

    fn place_of(&self, layer: usize) -> usize {
        place_of(layer, self.config.num_hidden_layers, self.places.len())
    }

    /// Makes an empty cache, each block's on its device.
    pub(super) fn new_cache(&self, slots: usize) -> Result<Layers> {
        let layers = (0..self.config.num_hidden_layers).map(|layer| {
            let Place { device, dtype, .. } = &self.places[self.place_of(layer)];
            let room = || Tensor::zeros((slots, self.config.key_value_size()), *dtype, device);
            Ok((room()?, room()?))
        });
        Ok(Layers::Tensors(layers.collect::<Result<_>>()?))
    }

    /// As [`Decoder::forward`](super::Decoder::forward), on a checked batch and the first `blocks` blocks.
    pub(super) fn forward(
        &self,
        batch: &Batch,
        cache: &mut KvCache,
        mut hook: Option<&mut dyn Hook>,
        blocks: usize,
    ) -> Result<Tensor> {
        let Some(Layers::Tensors(caches)) = &cache.layers else {
            return Err(foreign_cache());
        };
        if caches.len() != self.weights.blocks.len() {
            return Err(foreign_cache());
        }
        let tokens = self.places[0].index(&batch.tokens)?;
        let hidden = self.weights.embed_tokens.weights_of(&tokens)?;
        let mut hidden = scaled(hidden, self.config.embedding_multiplier)?;
        let mut at = 0;
        let mut plan = self.plan(batch, &self.places[at])?;
        let blocks = self.weights.blocks.iter().zip(caches).take(blocks);
        for (layer, (block, cache)) in blocks.enumerate() {
            if self.place_of(layer) != at {
                at = self.place_of(layer);
                hidden = hidden.to_device(&self.places[at].device)?;
                plan = self.plan(batch, &self.places[at])?;
            }
            let settings = &self.config.layers[layer];
            let mut on_heads = |heads: Tensor| match &mut hook {
                Some(hook) if hook.wants_heads(layer) => {
                    let hook = &mut **hook;
                    let new = call_hook(hook, Site::Heads, layer, &batch.segments, &heads)?;
                    Ok(new.unwrap_or(heads))
                }
                _ => Ok(heads),
            };
            hidden = block.forward(self, settings, &plan, Some(cache), &hidden, &mut on_heads)?;
            if let Some(hook) = hook.as_mut().filter(|hook| hook.wants(layer))
                && let Some(replacement) =
                    call_hook(&mut **hook, Site::Block, layer, &batch.segments, &hidden)?
            {
                hidden = replacement;
            }
        }
        let hidden = hidden.to_device(self.weights.norm.device())?;
        let kernels = self.place_with(self.weights.norm.device()).kernels.as_ref();
        rms_norm(
            kernels,
            &hidden,
            &self.weights.norm,
            self.config.rms_norm_eps,
        )
    }

    /// As [`Decoder::logits`](super::Decoder::logits).
    pub(super) fn logits(&self, hidden_rows: &Tensor) -> Result<Tensor> {
        let head = self.head();
        let rows = hidden_rows.to_device(head.device())?;
        let logits = head.forward(&rows)?.to_dtype(DType::F32)?;
        let logits = scaled(logits, 1.0 / self.config.logits_scaling)?;
        soft_capped(logits, self.config.final_logit_softcapping)
    }

    /// Returns the kernels of the device that logits are on, if it has any.
    pub(super) fn head_kernels(&self) -> Option<&DeviceKernels> {
        self.place_with(self.head().device()).kernels.as_ref()
    }

    fn head(&self) -> &Linear {
        let tied = &self.weights.embed_tokens;
        self.weights.lm_head.as_ref().unwrap_or(tied)
    }

    fn place_with(&self, device: &Device) -> &Place {
        let mut places = self.places.iter();
        places
            .find(|place| place.device.same_device(device))
            .unwrap_or(&self.places[0])
    }

    fn plan<'a>(&'a self, batch: &Batch, place: &'a Place) -> Result<Plan<'a>> {
        let rows = batch.tokens.len();
        let mut ropes = Vec::new();
        for (table, config) in self.ropes.iter().zip(&self.config.ropes) {
            let mut turns = Vec::with_capacity(rows * config.rotary_dim);
            for segment in &batch.segments {
                for position in segment.position..segment.position + segment.len() {
                    let (cos, sin) = table.at(position);
                    turns.extend_from_slice(cos);
                    turns.extend_from_slice(sin);
                }
            }
            let shape = (rows, 2, config.rotary_dim / 2);
            let turns = Tensor::from_vec(turns, shape, &place.device)?;
            ropes.push(match place.kernels {
                Some(_) => turns,
                None => turns.to_dtype(place.dtype)?,
            });
        }
        let segments = batch.segments.iter();
        let slots: Vec<u32> = segments
            .flat_map(|segment| segment.slots.clone())
            .map(|slot| slot as u32)
            .collect();
        let slots = place.index(&slots)?;
        let slots = match place.kernels {
            Some(_) => slots,
            None => slots
                .reshape((rows, 1))?
                .broadcast_as((rows, self.config.key_value_size()))?
                .contiguous()?,
        };
        let (single, several): (Vec<&Segment>, Vec<&Segment>) = batch
            .segments
            .iter()
            .partition(|segment| place.kernels.is_some() && segment.len() == 1);
        let mut groups = Vec::new();
        let mut order = vec![0; rows];
        let mut group_start = 0;
        for segments in similar(&several) {
            let group = self.group(segments, place)?;
            for (i, segment) in segments.iter().enumerate() {
                let start = group_start + i * group.rows;
                for (i, row) in segment.rows.clone().enumerate() {
                    order[row] = (start + i) as u32;
                }
            }
            group_start += group.segments * group.rows;
            groups.push(group);
        }
        for (i, segment) in single.iter().enumerate() {
            order[segment.rows.start] = (group_start + i) as u32;
        }
        // With padding, if only after the last row, there are more rows than the batch has.
        let is_in_order = group_start + single.len() == rows
            && (0..).zip(&order).all(|(row, &index)| row == index);
        let single_rows = if single.is_empty() {
            None
        } else {
            Some(RowPlan::new(single, &place.device)?)
        };
        Ok(Plan {
            kernels: place.kernels.as_ref(),
            is_traced: false,
            ropes,
            slots,
            single_rows,
            groups,
            order: (!is_in_order).then(|| place.index(&order)).transpose()?,
        })
    }

    fn group(&self, segments: &[&Segment], place: &Place) -> Result<Group> {
        let lengths = segments.iter().map(|segment| segment.len());
        let rows = lengths.max().unwrap_or(0);
        let positions = segments
            .iter()
            .map(|segment| segment.position + segment.len())
            .max()
            .unwrap_or(0);
        let mask = match place.kernels {
            Some(_) => Mask::Spans(spans(segments, place)?),
            None => Mask::Added(self.masks(segments, rows, positions, place)?),
        };
        let (mut row_index, mut slot_index) = (Vec::new(), Vec::new());
        for segment in segments {
            // Padding repeats the segment's first row, and its first slot under the mask.
            let padded_rows = segment
                .rows
                .clone()
                .chain(std::iter::repeat(segment.rows.start));
            row_index.extend(padded_rows.take(rows).map(|row| row as u32));
            let slots = segment
                .context
                .iter()
                .chain([&segment.slots])
                .flat_map(Clone::clone);
            let padded_slots = slots.chain(std::iter::repeat(segment.slots.start));
            slot_index.extend(padded_slots.take(positions).map(|slot| slot as u32));
        }
        Ok(Group {
            segments: segments.len(),
            rows,
            positions,
            row_index: place.index(&row_index)?,
            slot_index: place.index(&slot_index)?,
            mask,
        })
    }

    /// Makes what is added to scores, for each window.
    fn masks(
        &self,
        segments: &[&Segment],
        rows: usize,
        positions: usize,
        place: &Place,
    ) -> Result<Vec<Tensor>> {
        let masks = self.windows.iter().map(|window| {
            let mut mask = Vec::with_capacity(segments.len() * rows * positions);
            for segment in segments {
                for row in 0..rows {
                    let end = segment.position + row.min(segment.len() - 1) + 1;
                    let start = end.saturating_sub(window.unwrap_or(end));
                    mask.extend((0..positions).map(|position| {
                        if (start..end).contains(&position) {
                            0.0
                        } else {
                            f32::NEG_INFINITY
                        }
                    }));
                }
            }
            let shape = (segments.len(), 1, rows, positions);
            Ok(Tensor::from_vec(mask, shape, &place.device)?)
        });
        masks.collect()
    }
}

/// Lists where the segments' rows start and how many there are, `[segments, 2]`.
fn spans(segments: &[&Segment], place: &Place) -> Result<Tensor> {
    let numbers: Vec<u32> = segments
        .iter()
        .flat_map(|segment| [segment.position as u32, segment.len() as u32])
        .collect();
    Ok(place.index(&numbers)?.reshape((segments.len(), 2))?)
}

/// Returns which of the places holds a layer: each holds a run of layers, as long as the others' within one.
fn place_of(layer: usize, layers: usize, places: usize) -> usize {
    layer * places / layers
}

/// Splits the segments, in order, into runs whose padding at most doubles the attention's work.
fn similar<'a, 'b>(segments: &'a [&'b Segment]) -> Vec<&'a [&'b Segment]> {
    let mut runs = Vec::new();
    let (mut start, mut work, mut rows, mut positions) = (0, 0, 0, 0);
    for (i, segment) in segments.iter().enumerate() {
        let attended = segment.position + segment.len();
        let padded = (i + 1 - start) * segment.len().max(rows) * attended.max(positions);
        if i > start && padded > 2 * (work + segment.len() * attended) {
            runs.push(&segments[start..i]);
            (start, work, rows, positions) = (i, 0, 0, 0);
        }
        work += segment.len() * attended;
        (rows, positions) = (rows.max(segment.len()), positions.max(attended));
    }
    if start < segments.len() {
        runs.push(&segments[start..]);
    }
    runs
}
