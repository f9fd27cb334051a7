//! The architectures of GGUF files, and what their tensors are called in a Hugging Face checkpoint.

/// An architecture that llama.cpp names and this decoder computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Architecture {
    Gemma2,
    Gemma3,
    Granite,
    /// Llama, and Mistral and Mixtral, which it does not tell apart.
    Llama,
    Olmo2,
    Phi3,
    Qwen2,
    Qwen3,
    Qwen3Moe,
    SmolLm3,
}

/// Every architecture, with the name in `general.architecture`.
const ARCHITECTURES: [(&str, Architecture); 10] = [
    ("gemma2", Architecture::Gemma2),
    ("gemma3", Architecture::Gemma3),
    ("granite", Architecture::Granite),
    ("llama", Architecture::Llama),
    ("olmo2", Architecture::Olmo2),
    ("phi3", Architecture::Phi3),
    ("qwen2", Architecture::Qwen2),
    ("qwen3", Architecture::Qwen3),
    ("qwen3moe", Architecture::Qwen3Moe),
    ("smollm3", Architecture::SmolLm3),
];

/// Tensors that hold settings of the rotary embedding, not weights.
pub(super) const FREQUENCY_TENSORS: [&str; 3] = [
    "rope_freqs.weight",
    "rope_factors_long.weight",
    "rope_factors_short.weight",
];

/// Where a tensor of the checkpoint is in the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The file's name of the tensor.
    pub(super) tensor: String,
    /// Which matrix of the tensor, if it is one of several experts'.
    pub(super) expert: Option<usize>,
    /// Whether the rows of each head are interleaved.
    pub(super) interleaved: bool,
}

impl Architecture {
    /// Returns the architecture of this name.
    ///
    /// # Errors
    /// Which there are.
    pub(super) fn of(name: &str) -> Result<Self, String> {
        let found = ARCHITECTURES.iter().find(|(known, _)| *known == name);
        found.map(|(_, architecture)| *architecture).ok_or_else(|| {
            let known = ARCHITECTURES.map(|(known, _)| known).join(", ");
            format!("`{name}` is not one of {known}")
        })
    }

    /// Returns the name in `general.architecture`, with which the keys of its settings begin.
    pub(super) fn name(self) -> &'static str {
        let found = ARCHITECTURES.iter().find(|(_, known)| *known == self);
        found.map_or("", |(name, _)| name)
    }

    /// Returns whether the queries' and keys' rows are stored for a rotary embedding of neighbouring dimensions.
    fn interleaves(self) -> bool {
        matches!(self, Self::Llama | Self::Granite | Self::SmolLm3)
    }

    /// Returns where the tensor `name` of the checkpoint is; none for a name that the architecture does not have.
    pub(super) fn place(self, name: &str) -> Option<Place> {
        let outer = match name {
            "model.embed_tokens.weight" => Some("token_embd.weight"),
            "model.norm.weight" => Some("output_norm.weight"),
            "lm_head.weight" => Some("output.weight"),
            _ => None,
        };
        if let Some(tensor) = outer {
            return Some(Place {
                tensor: tensor.to_owned(),
                expert: None,
                interleaved: false,
            });
        }
        let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
        let (part, kind) = part.rsplit_once('.')?;
        let (part, expert) = match part.split_once("experts.") {
            None => (part.to_owned(), None),
            Some((before, after)) => {
                let (expert, part) = after.split_once('.')?;
                (
                    format!("{before}experts.{part}"),
                    Some(expert.parse().ok()?),
                )
            }
        };
        let in_block = self.part(&part)?;
        Some(Place {
            tensor: format!("blk.{layer}.{in_block}.{kind}"),
            expert,
            interleaved: self.interleaves() && matches!(in_block, "attn_q" | "attn_k"),
        })
    }

    /// Returns what the file calls a part of a block.
    fn part(self, part: &str) -> Option<&'static str> {
        Some(match part {
            "input_layernorm" => "attn_norm",
            "self_attn.q_proj" => "attn_q",
            "self_attn.k_proj" => "attn_k",
            "self_attn.v_proj" => "attn_v",
            "self_attn.o_proj" => "attn_output",
            "self_attn.q_norm" => "attn_q_norm",
            "self_attn.k_norm" => "attn_k_norm",
            "self_attn.qkv_proj" => "attn_qkv",
            "post_attention_layernorm" => match self {
                Self::Gemma2 | Self::Gemma3 | Self::Olmo2 => "post_attention_norm",
                _ => "ffn_norm",
            },
            "pre_feedforward_layernorm" => "ffn_norm",
            "post_feedforward_layernorm" => "post_ffw_norm",
            // The fused gate and up projection goes by the name of the second.
            "mlp.gate_up_proj" => "ffn_up",
            "mlp.gate" | "block_sparse_moe.gate" => "ffn_gate_inp",
            "mlp.experts.gate_proj" | "block_sparse_moe.experts.w1" => "ffn_gate_exps",
            "mlp.experts.up_proj" | "block_sparse_moe.experts.w3" => "ffn_up_exps",
            "mlp.experts.down_proj" | "block_sparse_moe.experts.w2" => "ffn_down_exps",
            "mlp.gate_proj" => "ffn_gate",
            "mlp.up_proj" => "ffn_up",
            "mlp.down_proj" => "ffn_down",
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_are_found_by_their_checkpoint_names() {
        let place = |architecture: Architecture, name| {
            let place = architecture.place(name)?;
            Some((place.tensor, place.expert, place.interleaved))
        };
        let llama = Architecture::Llama;
        assert_eq!(
            place(llama, "model.embed_tokens.weight"),
            Some(("token_embd.weight".to_owned(), None, false))
        );
        assert_eq!(
            place(llama, "model.layers.12.self_attn.q_proj.weight"),
            Some(("blk.12.attn_q.weight".to_owned(), None, true))
        );
        assert_eq!(
            place(Architecture::Qwen2, "model.layers.0.self_attn.k_proj.bias"),
            Some(("blk.0.attn_k.bias".to_owned(), None, false))
        );
        assert_eq!(
            place(llama, "model.layers.0.self_attn.rotary_emb.inv_freq"),
            None
        );
        assert_eq!(place(llama, "blk.0.attn_q.weight"), None);
    }

    #[test]
    fn an_unknown_architecture_is_named() {
        assert_eq!(
            Architecture::of("mamba"),
            Err("`mamba` is not one of gemma2, gemma3, granite, llama, olmo2, phi3, qwen2, qwen3, qwen3moe, smollm3".to_owned())
        );
        for (name, architecture) in ARCHITECTURES {
            assert_eq!(Architecture::of(name), Ok(architecture));
            assert_eq!(architecture.name(), name);
        }
    }
}
