//! What the model families call their tensors.

/// The names of a family's tensors.
///
/// Names of a block's tensors are relative to the block (`model.layers.0.` before them); absent norms are `None`.
#[derive(Debug, PartialEq, Eq)]
pub struct WeightNames {
    /// What stands before `embed_tokens`, `layers` and `norm`; the first that the checkpoint has.
    pub prefixes: &'static [&'static str],
    /// What the names of tensors that are not the decoder's start with.
    pub others: &'static [&'static str],
    /// The norm before attention.
    pub attention_norm: Option<&'static str>,
    /// The norm of attention's output, before it is added to the residual stream.
    pub attention_post_norm: Option<&'static str>,
    /// The norm before the MLP.
    pub mlp_norm: Option<&'static str>,
    /// The norm of the MLP's output, before it is added to the residual stream.
    pub mlp_post_norm: Option<&'static str>,
    /// Queries, keys and values: one fused projection, or three.
    pub qkv: &'static [&'static str],
    /// The MLP's gate and up projection: one fused projection, or two.
    pub gate_up: &'static [&'static str],
    /// The experts, where layers have them.
    pub experts: Option<ExpertNames>,
}

/// The names of a mixture of experts.
#[derive(Debug, PartialEq, Eq)]
pub struct ExpertNames {
    /// The projection that scores the experts.
    pub router: &'static str,
    /// What stands before an expert's number.
    pub experts: &'static str,
    /// An expert's gate and up projection.
    pub gate_up: [&'static str; 2],
    /// An expert's down projection.
    pub down: &'static str,
}

impl WeightNames {
    /// Returns the number of norms of a block, those of queries and keys aside.
    pub(super) fn norms(&self) -> usize {
        [
            self.attention_norm,
            self.attention_post_norm,
            self.mlp_norm,
            self.mlp_post_norm,
        ]
        .iter()
        .flatten()
        .count()
    }
}

const SEPARATE_QKV: &[&str] = &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
const SEPARATE_GATE_UP: &[&str] = &["mlp.gate_proj", "mlp.up_proj"];

pub(super) const LLAMA_NAMES: WeightNames = WeightNames {
    prefixes: &["model."],
    others: &[],
    attention_norm: Some("input_layernorm"),
    attention_post_norm: None,
    mlp_norm: Some("post_attention_layernorm"),
    mlp_post_norm: None,
    qkv: SEPARATE_QKV,
    gate_up: SEPARATE_GATE_UP,
    experts: None,
};
pub(super) const GEMMA_NAMES: WeightNames = WeightNames {
    attention_post_norm: Some("post_attention_layernorm"),
    mlp_norm: Some("pre_feedforward_layernorm"),
    mlp_post_norm: Some("post_feedforward_layernorm"),
    ..LLAMA_NAMES
};
/// Gemma 3 with a vision tower, which is passed over; the two orders of names are those of the hub and of transformers 5.
pub(super) const GEMMA3_NAMES: WeightNames = WeightNames {
    prefixes: &["language_model.model.", "model.language_model."],
    others: &[
        "vision_tower.",
        "multi_modal_projector.",
        "model.vision_tower.",
        "model.multi_modal_projector.",
    ],
    ..GEMMA_NAMES
};
pub(super) const OLMO2_NAMES: WeightNames = WeightNames {
    attention_norm: None,
    attention_post_norm: Some("post_attention_layernorm"),
    mlp_norm: None,
    mlp_post_norm: Some("post_feedforward_layernorm"),
    ..LLAMA_NAMES
};
pub(super) const PHI3_NAMES: WeightNames = WeightNames {
    qkv: &["self_attn.qkv_proj"],
    gate_up: &["mlp.gate_up_proj"],
    ..LLAMA_NAMES
};
pub(super) const MIXTRAL_NAMES: WeightNames = WeightNames {
    experts: Some(ExpertNames {
        router: "block_sparse_moe.gate",
        experts: "block_sparse_moe.experts",
        gate_up: ["w1", "w3"],
        down: "w2",
    }),
    ..LLAMA_NAMES
};
pub(super) const QWEN3_MOE_NAMES: WeightNames = WeightNames {
    experts: Some(ExpertNames {
        router: "mlp.gate",
        experts: "mlp.experts",
        gate_up: ["gate_proj", "up_proj"],
        down: "down_proj",
    }),
    ..LLAMA_NAMES
};
