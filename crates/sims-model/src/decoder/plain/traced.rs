//! The forward pass in a form that candle can differentiate by what is added to the residual stream or to weights.
//!
//! The weights are constants, so the graph begins where a caller adds a variable: blocks before that cost no
//! more than without. Keys and values are rows of the batch itself, since writes to a cache are not traced.

use std::borrow::Cow;
use std::ops::Range;

use candle_core::{D, Device, Tensor};
use candle_nn::ops::softmax;

use super::elementwise::{rms_norm, scaled};
use super::{Block, Network, Plan};
use crate::adapter::{Fused, LinearLayer, Module, fault};
use crate::weights::MlpWeights;
use crate::{Batch, ModelError, Result};

/// A decoder's forward pass in parts, each of candle's operations that have a derivative; for every family.
///
/// Rows of a batch attend rows of the same batch: every segment's slots are its rows.
pub struct TracedDecoder<'a> {
    network: &'a Network,
    blocks: Cow<'a, [Block]>,
}

/// What is added to some outputs of a linear layer: `scale · (x · Aᵀ) · Bᵀ`.
#[derive(Clone)]
pub(super) struct LowRankChange {
    scale: f64,
    first_output: usize,
    /// `[in_features, rank]`.
    a: Tensor,
    /// `[rank, outputs]`.
    b: Tensor,
}

impl LowRankChange {
    /// `x`: `[rows, in_features]`; `product`: `[rows, out_features]`.
    pub(super) fn add_to(&self, x: &Tensor, product: Tensor) -> Result<Tensor> {
        let change = (x.matmul(&self.a)?.matmul(&self.b)? * self.scale)?;
        let (width, outputs) = (product.dim(1)?, change.dim(1)?);
        let after = width - self.first_output - outputs;
        Ok((product + change.pad_with_zeros(1, self.first_output, after)?)?)
    }
}

impl<'a> TracedDecoder<'a> {
    pub(in crate::decoder) fn new(network: &'a Network) -> Result<Self> {
        match network.places[0].kernels {
            None => Ok(Self {
                network,
                blocks: Cow::Borrowed(&network.weights.blocks),
            }),
            Some(_) => Err(untraceable()),
        }
    }

    /// Returns the same pass with low-rank changes of linear layers, not merged: each adds `scale · (x · Aᵀ) · Bᵀ`.
    ///
    /// `changes`: the layer, A `[rank, in_features]` and B `[out_features, rank]`, f32 on the pass's device; weights stay shared.
    ///
    /// # Errors
    /// [`ModelError::Adapter`] for a layer that the model does not have; shapes show in [`blocks`](Self::blocks).
    pub fn adapted(&self, scale: f64, changes: &[(&Module, Tensor, Tensor)]) -> Result<Self> {
        let mut blocks = self.blocks.to_vec();
        for (module, a, b) in changes {
            let linear = LinearLayer::of(&self.network.config, module)?;
            let block = &mut blocks[module.layer];
            let place = match (linear.fused, &mut block.mlp) {
                (Fused::Qkv, _) => &mut block.qkv_proj,
                (Fused::Output, _) => &mut block.o_proj,
                (Fused::GateUp, MlpWeights::Dense(mlp)) => &mut mlp.gate_up_proj,
                (Fused::Down, MlpWeights::Dense(mlp)) => &mut mlp.down_proj,
                (_, MlpWeights::Experts { .. }) => {
                    return Err(fault(module, "the layer has experts".to_owned()));
                }
            };
            place.changes.push(LowRankChange {
                scale,
                first_output: linear.first_output,
                a: a.t()?,
                b: b.t()?,
            });
        }
        Ok(Self {
            network: self.network,
            blocks: Cow::Owned(blocks),
        })
    }

    /// Returns the device that the pass computes on.
    pub fn device(&self) -> &Device {
        &self.network.places[0].device
    }

    /// Returns the input of block 0, `[rows, hidden_size]`.
    ///
    /// # Errors
    /// [`ModelError::Batch`] for a batch that breaks a rule of [`Batch`], or whose slots are not its rows.
    pub fn embed(&self, batch: &Batch) -> Result<Tensor> {
        self.check(batch)?;
        let tokens = self.network.places[0].index(&batch.tokens)?;
        let hidden = self.network.weights.embed_tokens.weights_of(&tokens)?;
        scaled(hidden, self.network.config.embedding_multiplier)
    }

    /// Returns the residual stream after the blocks `layers` (0-based), `[rows, hidden_size]`.
    ///
    /// `hidden`: the input of the first of them, of the batch's rows.
    ///
    /// # Errors
    /// As [`embed`](Self::embed), and [`ModelError::Setting`] for blocks that the decoder does not have.
    pub fn blocks(&self, batch: &Batch, hidden: &Tensor, layers: Range<usize>) -> Result<Tensor> {
        self.check(batch)?;
        let network = self.network;
        let Some(blocks) = self.blocks.get(layers.clone()) else {
            let message = format!(
                "{layers:?} are not among the model's {} layers",
                network.config.num_hidden_layers
            );
            return Err(ModelError::Setting {
                setting: "layers",
                message,
            });
        };
        let plan = Plan {
            is_traced: true,
            ..network.plan(batch, &network.places[0])?
        };
        let mut hidden = hidden.clone();
        for (block, settings) in blocks.iter().zip(&network.config.layers[layers]) {
            hidden = block.forward(network, settings, &plan, None, &hidden, &mut Ok)?;
        }
        Ok(hidden)
    }

    /// Returns the logits `[n, vocab_size]`, f32, of rows `[n, hidden_size]` of the last block's output.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] when the rows have another shape.
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        let norm = &self.network.weights.norm;
        let normed = rms_norm(None, hidden, norm, self.network.config.rms_norm_eps)?;
        self.network.logits(&normed)
    }

    fn check(&self, batch: &Batch) -> Result<()> {
        batch.check(&self.network.config)?;
        let rows = batch.tokens.len();
        for (index, segment) in batch.segments.iter().enumerate() {
            let is_inside = segment.context.iter().all(|range| range.end <= rows);
            if segment.slots != segment.rows || !is_inside {
                let message = "a traced pass has no cache: slots have to be the batch's rows";
                return Err(ModelError::Batch {
                    segment: index,
                    message: message.to_owned(),
                });
            }
        }
        Ok(())
    }
}

/// Returns the weights of each row's experts, `[rows, experts]`, 0 for those that were not chosen.
///
/// `logits`: `[rows, experts]`; `chosen`: the weights that the choice gave, which say where 0 is.
pub(super) fn expert_weights(
    logits: &Tensor,
    chosen: &[Vec<f32>],
    normalised: bool,
) -> Result<Tensor> {
    let mask: Vec<f32> = chosen
        .iter()
        .flatten()
        .map(|&weight| f32::from(weight > 0.0))
        .collect();
    let mask = Tensor::from_vec(mask, logits.shape(), logits.device())?;
    let weights = (softmax(logits, D::Minus1)? * mask)?;
    Ok(match normalised {
        true => weights.broadcast_div(&weights.sum_keepdim(D::Minus1)?)?,
        false => weights,
    })
}

/// The error for a decoder that candle cannot differentiate.
pub(in crate::decoder) fn untraceable() -> ModelError {
    ModelError::Setting {
        setting: "kernels",
        message: "gradients need candle's kernels on one device".to_owned(),
    }
}
