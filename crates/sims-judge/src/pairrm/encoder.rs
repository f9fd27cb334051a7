//! The encoder of DeBERTa-v3 (He et al. 2021, arXiv 2111.09543): attention by content and by relative position.
//!
//! Beside the product of a query and a key, a score has the query's with the embedding of the distance
//! (content to position) and the key's with it (position to content); both embeddings go through the layer's own
//! projections of keys and queries. A sequence runs by itself, without padding, so no mask is needed and its states
//! depend on nothing else.

use candle_core::{D, Tensor};
use candle_nn::ops::softmax_last_dim;
use sims_model::{Device, Result};

use super::buckets::Buckets;
use super::config::PairRmConfig;
use super::weights::{Linear, Norm, Weights};

/// The weights, f32 on one device.
pub(super) struct Encoder {
    /// `[vocab_size, hidden_size]`.
    embeddings: Tensor,
    embedding_norm: Norm,
    layers: Vec<Layer>,
    heads: Heads,
    buckets: Buckets,
    device: Device,
}

/// How a row is shared out among the attention heads.
#[derive(Debug, Clone, Copy)]
struct Heads {
    count: usize,
    size: usize,
}

impl Heads {
    /// Turns `[rows, hidden_size]` into `[heads, rows, head_size]`.
    fn split(self, x: &Tensor) -> Result<Tensor> {
        let rows = x.dim(0)?;
        let x = x.reshape((rows, self.count, self.size))?;
        Ok(x.transpose(0, 1)?.contiguous()?)
    }

    /// Turns `[heads, rows, head_size]` into `[rows, hidden_size]`.
    fn join(self, x: &Tensor) -> Result<Tensor> {
        let rows = x.dim(1)?;
        Ok(x.transpose(0, 1)?.reshape((rows, self.count * self.size))?)
    }
}

/// One block.
struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    /// The distances' embeddings as keys and as queries, `[heads, head_size, 2 * buckets]`.
    position_keys: Tensor,
    position_queries: Tensor,
    attention_output: Linear,
    attention_norm: Norm,
    intermediate: Linear,
    output: Linear,
    output_norm: Norm,
}

/// For each query and key the row of the distances' embeddings, `[heads, tokens, tokens]`, u32.
struct Distances {
    /// Queries first.
    by_query: Tensor,
    /// Keys first.
    by_key: Tensor,
}

impl Encoder {
    /// Takes the encoder's weights.
    ///
    /// # Errors
    /// As [`Checkpoint::tensor`](sims_model::weights::Checkpoint::tensor).
    pub(super) fn read(
        weights: &mut Weights,
        config: &PairRmConfig,
        device: &Device,
    ) -> Result<Self> {
        let hidden = config.hidden_size;
        let buckets = Buckets {
            size: config.position_buckets,
            max_distance: config.max_distance(),
        };
        let heads = Heads {
            count: config.num_attention_heads,
            size: config.head_size(),
        };
        let distances = weights.matrix("encoder.rel_embeddings", 2 * buckets.size, hidden)?;
        let distances = weights
            .norm("encoder.LayerNorm", hidden)?
            .forward(&distances)?;
        Ok(Self {
            embeddings: weights.matrix("embeddings.word_embeddings", config.vocab_size, hidden)?,
            embedding_norm: weights.norm("embeddings.LayerNorm", hidden)?,
            layers: (0..config.num_hidden_layers)
                .map(|layer| Layer::read(weights, config, layer, heads, &distances))
                .collect::<Result<_>>()?,
            heads,
            buckets,
            device: device.clone(),
        })
    }

    /// Returns the last hidden states, `[tokens, hidden_size]`.
    ///
    /// # Errors
    /// What the device reports.
    pub(super) fn forward(&self, ids: &[u32]) -> Result<Tensor> {
        let tokens = ids.len();
        let of_heads = |rows: &Tensor| {
            rows.broadcast_as((self.heads.count, tokens, tokens))?
                .contiguous()
        };
        let rows = Tensor::from_vec(self.buckets.rows(tokens), (tokens, tokens), &self.device)?;
        let distances = Distances {
            by_query: of_heads(&rows)?,
            by_key: of_heads(&rows.t()?)?,
        };
        let ids = Tensor::new(ids, &self.device)?;
        let embedded = self.embeddings.index_select(&ids, 0)?;
        let mut hidden = self.embedding_norm.forward(&embedded)?;
        for layer in &self.layers {
            hidden = layer.forward(&hidden, self.heads, &distances)?;
        }
        Ok(hidden)
    }
}

impl Layer {
    /// Takes the weights of block `layer`; `distances` are the normed embeddings, `[2 * buckets, hidden_size]`.
    fn read(
        weights: &mut Weights,
        config: &PairRmConfig,
        layer: usize,
        heads: Heads,
        distances: &Tensor,
    ) -> Result<Self> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let name = |part: &str| format!("encoder.layer.{layer}.{part}");
        let query = weights.linear(&name("attention.self.query_proj"), hidden, hidden)?;
        let key = weights.linear(&name("attention.self.key_proj"), hidden, hidden)?;
        let positions = |projection: &Linear| -> Result<Tensor> {
            let split = heads.split(&projection.forward(distances)?)?;
            Ok(split.transpose(1, 2)?.contiguous()?)
        };
        Ok(Self {
            position_keys: positions(&key)?,
            position_queries: positions(&query)?,
            query,
            key,
            value: weights.linear(&name("attention.self.value_proj"), hidden, hidden)?,
            attention_output: weights.linear(&name("attention.output.dense"), hidden, hidden)?,
            attention_norm: weights.norm(&name("attention.output.LayerNorm"), hidden)?,
            intermediate: weights.linear(&name("intermediate.dense"), hidden, inner)?,
            output: weights.linear(&name("output.dense"), inner, hidden)?,
            output_norm: weights.norm(&name("output.LayerNorm"), hidden)?,
        })
    }

    fn forward(&self, x: &Tensor, heads: Heads, distances: &Distances) -> Result<Tensor> {
        let attended = heads.join(&self.attend(x, heads, distances)?)?;
        let attended = self.attention_output.forward(&attended)?;
        let x = self.attention_norm.forward(&(attended + x)?)?;
        let inner = self.intermediate.forward(&x)?.gelu_erf()?;
        let output = self.output.forward(&inner)?;
        self.output_norm.forward(&(output + x)?)
    }

    /// Returns each head's output, `[heads, tokens, head_size]`.
    fn attend(&self, x: &Tensor, heads: Heads, distances: &Distances) -> Result<Tensor> {
        let query = heads.split(&self.query.forward(x)?)?;
        let key = heads.split(&self.key.forward(x)?)?;
        let value = heads.split(&self.value.forward(x)?)?;
        let content = query.matmul(&key.transpose(1, 2)?)?;
        let to_position = query
            .matmul(&self.position_keys)?
            .gather(&distances.by_query, D::Minus1)?;
        let from_position = key
            .matmul(&self.position_queries)?
            .gather(&distances.by_key, D::Minus1)?
            .transpose(1, 2)?;
        // Three products are summed, so the variance of a score is three times that of one.
        let scale = 1.0 / (3.0 * heads.size as f64).sqrt();
        let scores = (((content + to_position)? + from_position)? * scale)?;
        Ok(softmax_last_dim(&scores.contiguous()?)?.matmul(&value)?)
    }
}
