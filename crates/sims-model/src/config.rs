//! What `config.json` says about the architecture, in both of its generations.

/// The architecture of a decoder; fields keep their Hugging Face names.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The family's name.
    pub model_type: String,
    /// The number of token embeddings.
    pub vocab_size: usize,
    /// The width of the residual stream.
    pub hidden_size: usize,
    /// The width of the gated MLP.
    pub intermediate_size: usize,
    /// The number of blocks.
    pub num_hidden_layers: usize,
    /// The number of query heads.
    pub num_attention_heads: usize,
    /// The number of key and value heads, a divisor of the query heads.
    pub num_key_value_heads: usize,
    /// The width of one head.
    pub head_dim: usize,
    /// The number of positions the model was made for; longer sequences are refused.
    pub max_position_embeddings: usize,
}
