//! The forward pass in candle's operations, on any device.

use candle_core::{D, DType, Device, Tensor};
use candle_nn::ops::{silu, softmax_last_dim};

use super::{call_hook, foreign_cache};
use crate::kv_cache::Layers;
use crate::rope::RopeTable;
use crate::weights::{BlockTensors, OuterTensors, Projection};
use crate::{Batch, Config, Dtype, Hook, KvCache, Result, Segment};

/// The weights as tensors on a device.
pub(super) struct Network {
    config: Config,
    device: Device,
    dtype: DType,
    embed_tokens: Tensor,
    blocks: Vec<Block>,
    norm: Tensor,
    lm_head: Linear,
    rope: RopeTable,
}

/// A linear layer: weight `[in_features, out_features]`, bias `[out_features]`.
struct Linear {
    weight: Tensor,
    bias: Option<Tensor>,
}

/// One decoder block: attention and a gated MLP, each on the norm of the residual stream and added to it.
struct Block {
    input_layernorm: Tensor,
    qkv_proj: Linear,
    o_proj: Linear,
    post_attention_layernorm: Tensor,
    gate_up_proj: Linear,
    down_proj: Linear,
}

/// What a forward pass computes once for all blocks.
struct Plan {
    /// `[rows, 1, head_dim / 2]`.
    cos: Tensor,
    /// `[rows, 1, head_dim / 2]`.
    sin: Tensor,
    /// `[rows, kv_size]`, the slot that each row's keys and values go to.
    slots: Tensor,
    groups: Vec<Group>,
    /// `[rows]`, where each row of the batch is among the groups' rows.
    order: Tensor,
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
    /// `[segments, 1, r, t]`, f32: 0 where a row attends a position, -inf elsewhere.
    mask: Tensor,
}

impl Linear {
    fn new(projection: Projection, device: &Device, dtype: DType) -> Result<Self> {
        let Projection {
            out_features,
            in_features,
            weight,
            bias,
        } = projection;
        let weight =
            Tensor::from_vec(weight, (out_features, in_features), device)?.to_dtype(dtype)?;
        let bias = bias
            .map(|bias| Tensor::new(bias, device)?.to_dtype(dtype))
            .transpose()?;
        Ok(Self {
            weight: weight.t()?,
            bias,
        })
    }

    /// `x`: `[rows, in_features]`; returns `[rows, out_features]`.
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let product = x.matmul(&self.weight)?;
        Ok(match &self.bias {
            Some(bias) => product.broadcast_add(bias)?,
            None => product,
        })
    }
}

impl Block {
    /// Returns the residual stream `[rows, hidden_size]` after the block.
    fn forward(
        &self,
        network: &Network,
        plan: &Plan,
        cache: &(Tensor, Tensor),
        hidden: &Tensor,
    ) -> Result<Tensor> {
        let normed = network.rms_norm(hidden, &self.input_layernorm)?;
        let hidden = (hidden + self.attention(network, plan, cache, &normed)?)?;
        let normed = network.rms_norm(&hidden, &self.post_attention_layernorm)?;
        let gate_up = self.gate_up_proj.forward(&normed)?.chunk(2, D::Minus1)?;
        let activated = (silu(&gate_up[0])? * &gate_up[1])?;
        Ok((hidden + self.down_proj.forward(&activated)?)?)
    }

    fn attention(
        &self,
        network: &Network,
        plan: &Plan,
        cache: &(Tensor, Tensor),
        normed: &Tensor,
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
        let q = qkv
            .narrow(1, 0, query_size)?
            .reshape((rows, heads, head_dim))?;
        let k = qkv
            .narrow(1, query_size, kv_size)?
            .reshape((rows, kv_heads, head_dim))?;
        let v = qkv.narrow(1, query_size + kv_size, kv_size)?.contiguous()?;
        let q = rotate(&q, &plan.cos, &plan.sin)?;
        let k = rotate(&k, &plan.cos, &plan.sin)?.reshape((rows, kv_size))?;
        cache.0.scatter_set(&plan.slots, &k, 0)?;
        cache.1.scatter_set(&plan.slots, &v, 0)?;

        let attended = plan
            .groups
            .iter()
            .map(|group| group.attend(config, &q, cache))
            .collect::<Result<Vec<_>>>()?;
        let attended = Tensor::cat(&attended, 0)?.index_select(&plan.order, 0)?;
        self.o_proj.forward(&attended)
    }
}

impl Group {
    /// Returns attention's output for the group's rows, `[segments * r, heads * head_dim]`.
    fn attend(
        &self,
        config: &Config,
        q: &Tensor,
        (keys, values): &(Tensor, Tensor),
    ) -> Result<Tensor> {
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
        let scores = q.matmul(&gather(keys)?.t()?)?.to_dtype(DType::F32)?;
        let scores = (scores * (1.0 / (head_dim as f64).sqrt()))?.reshape((s, heads, r, t))?;
        let weights = softmax_last_dim(&scores.broadcast_add(&self.mask)?)?.to_dtype(q.dtype())?;
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
    /// Moves the weights to the device, one block after another.
    pub(super) fn new(
        config: &Config,
        device: &Device,
        dtype: Dtype,
        outer: OuterTensors,
        blocks: impl Iterator<Item = Result<BlockTensors>>,
    ) -> Result<Self> {
        // candle's CPU multiplication takes no bf16; there the weights are rounded to it and held in f32.
        let dtype = if dtype == Dtype::Bf16 && !device.is_cpu() {
            DType::BF16
        } else {
            DType::F32
        };
        let linear = |projection| Linear::new(projection, device, dtype);
        let vector = |values: Vec<f32>| Tensor::new(values, device)?.to_dtype(dtype);
        let blocks = blocks.map(|tensors| {
            let tensors = tensors?;
            Ok(Block {
                input_layernorm: vector(tensors.input_layernorm)?,
                qkv_proj: linear(tensors.qkv_proj)?,
                o_proj: linear(tensors.o_proj)?,
                post_attention_layernorm: vector(tensors.post_attention_layernorm)?,
                gate_up_proj: linear(tensors.gate_up_proj)?,
                down_proj: linear(tensors.down_proj)?,
            })
        });
        let shape = (config.vocab_size, config.hidden_size);
        let embed_tokens = Tensor::from_vec(outer.embed_tokens, shape, device)?.to_dtype(dtype)?;
        let head = match outer.lm_head {
            Some(head) => Tensor::from_vec(head, shape, device)?.to_dtype(dtype)?,
            None => embed_tokens.clone(),
        };
        Ok(Self {
            blocks: blocks.collect::<Result<_>>()?,
            lm_head: Linear {
                weight: head.t()?,
                bias: None,
            },
            embed_tokens,
            norm: vector(outer.norm)?,
            rope: RopeTable::new(config),
            config: config.clone(),
            device: device.clone(),
            dtype,
        })
    }

    /// Returns the type of hidden states.
    pub(super) fn dtype(&self) -> DType {
        self.dtype
    }

    /// Makes an empty cache.
    pub(super) fn new_cache(&self, slots: usize) -> Result<Layers> {
        let room = || {
            Tensor::zeros(
                (slots, self.config.key_value_size()),
                self.dtype,
                &self.device,
            )
        };
        let layers = self.blocks.iter().map(|_| Ok((room()?, room()?)));
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
        let Some(Layers::Tensors(layers)) = &cache.layers else {
            return Err(foreign_cache());
        };
        if layers.len() != self.blocks.len() {
            return Err(foreign_cache());
        }
        let plan = self.plan(batch)?;
        let mut hidden = self
            .embed_tokens
            .index_select(&self.index(&batch.tokens)?, 0)?;
        for (layer, (block, cache)) in self.blocks.iter().zip(layers).enumerate().take(blocks) {
            hidden = block.forward(self, &plan, cache, &hidden)?;
            if let Some(hook) = hook.as_mut().filter(|hook| hook.wants(layer))
                && let Some(replacement) = call_hook(&mut **hook, layer, &batch.segments, &hidden)?
            {
                hidden = replacement;
            }
        }
        self.rms_norm(&hidden, &self.norm)
    }

    /// As [`Decoder::logits`](super::Decoder::logits).
    pub(super) fn logits(&self, hidden_rows: &Tensor) -> Result<Tensor> {
        Ok(self.lm_head.forward(hidden_rows)?.to_dtype(DType::F32)?)
    }

    /// Returns `x / sqrt(mean(x²) + eps) * weight` of each row, the mean in f32.
    fn rms_norm(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let x = x.to_dtype(DType::F32)?;
        let mean_square = x.sqr()?.mean_keepdim(D::Minus1)?;
        let scale = (mean_square + f64::from(self.config.rms_norm_eps))?
            .sqrt()?
            .recip()?;
        Ok(x.broadcast_mul(&scale)?
            .to_dtype(self.dtype)?
            .broadcast_mul(weight)?)
    }

    fn index(&self, values: &[u32]) -> Result<Tensor> {
        Ok(Tensor::new(values, &self.device)?)
    }

    fn plan(&self, batch: &Batch) -> Result<Plan> {
        let half = self.config.head_dim / 2;
        let (mut cos, mut sin, mut slots) = (Vec::new(), Vec::new(), Vec::new());
        for segment in &batch.segments {
            for (position, slot) in (segment.position..).zip(segment.slots.clone()) {
                let (row_cos, row_sin) = self.rope.at(position);
                cos.extend_from_slice(row_cos);
                sin.extend_from_slice(row_sin);
                slots.push(slot as u32);
            }
        }
        let rows = slots.len();
        let table =
            |values| Tensor::from_vec(values, (rows, 1, half), &self.device)?.to_dtype(self.dtype);
        let slots = self.index(&slots)?.reshape((rows, 1))?;
        let slots = slots
            .broadcast_as((rows, self.config.key_value_size()))?
            .contiguous()?;
        let mut groups = Vec::new();
        let mut order = Vec::new();
        let mut group_start = 0;
        for segments in similar(&batch.segments) {
            let group = self.group(segments)?;
            for (i, segment) in segments.iter().enumerate() {
                let start = group_start + i * group.rows;
                order.extend((start..start + segment.len()).map(|row| row as u32));
            }
            group_start += group.segments * group.rows;
            groups.push(group);
        }
        Ok(Plan {
            cos: table(cos)?,
            sin: table(sin)?,
            slots,
            groups,
            order: self.index(&order)?,
        })
    }

    fn group(&self, segments: &[Segment]) -> Result<Group> {
        let rows = segments.iter().map(Segment::len).max().unwrap_or(0);
        let positions = segments
            .iter()
            .map(|segment| segment.position + segment.len())
            .max()
            .unwrap_or(0);
        let (mut row_index, mut slot_index, mut mask) = (Vec::new(), Vec::new(), Vec::new());
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
            for row in 0..rows {
                let attended = segment.position + row.min(segment.len() - 1) + 1;
                mask.extend((0..positions).map(|position| {
                    if position < attended {
                        0.0
                    } else {
                        f32::NEG_INFINITY
                    }
                }));
            }
        }
        Ok(Group {
            segments: segments.len(),
            rows,
            positions,
            row_index: self.index(&row_index)?,
            slot_index: self.index(&slot_index)?,
            mask: Tensor::from_vec(mask, (segments.len(), 1, rows, positions), &self.device)?,
        })
    }
}

/// Splits the segments, in order, into runs whose padding at most doubles the attention's work.
fn similar(segments: &[Segment]) -> Vec<&[Segment]> {
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

/// Turns each pair of dimensions `i` and `i + head_dim / 2` by its angle, as transformers' `rotate_half` does.
///
/// `x`: `[rows, heads, head_dim]`; `cos` and `sin`: `[rows, 1, head_dim / 2]`.
fn rotate(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor> {
    let halves = x.chunk(2, D::Minus1)?;
    let (first, second) = (&halves[0], &halves[1]);
    let turned = [
        (first.broadcast_mul(cos)? - second.broadcast_mul(sin)?)?,
        (second.broadcast_mul(cos)? + first.broadcast_mul(sin)?)?,
    ];
    Ok(Tensor::cat(&turned, D::Minus1)?)
}
