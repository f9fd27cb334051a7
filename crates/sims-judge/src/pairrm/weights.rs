//! The weights of `model.safetensors`, as tensors.

use std::path::Path;

use candle_core::{D, Tensor};
use sims_model::weights::Checkpoint;
use sims_model::{Device, Dtype, Result};

use super::config::PairRmConfig;
use super::refused;
use crate::JudgeError;

/// What the encoder's tensors are named under: PairRM-hf's wrapper, transformers' own wrappers, the encoder alone.
const PREFIXES: [&str; 3] = ["pretrained_model.", "deberta.", ""];

/// Where the head's linear layers may stand in its sequence, between dropout and activation.
const HEAD_LAYERS: usize = 8;

/// A linear layer.
pub(super) struct Linear {
    /// `[out, in]`, f32.
    weight: Tensor,
    /// `[out]`, f32.
    bias: Tensor,
}

impl Linear {
    /// Computes `x · weightᵀ + bias`; `x`: `[rows, in]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.matmul(&self.weight.t()?)?.broadcast_add(&self.bias)?)
    }
}

/// A layer norm.
pub(super) struct Norm {
    weight: Tensor,
    bias: Tensor,
    eps: f32,
}

impl Norm {
    /// Norms each row of `x`, `[rows, width]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        debug_assert_eq!(x.dim(D::Minus1)?, self.weight.elem_count());
        let x = x.contiguous()?;
        Ok(candle_nn::ops::layer_norm(
            &x,
            &self.weight,
            &self.bias,
            self.eps,
        )?)
    }
}

/// The file, each of whose tensors is to be taken once.
pub(super) struct Weights {
    checkpoint: Checkpoint,
    prefix: &'static str,
    /// The names of the head's two linear layers.
    pub(super) head: [String; 2],
    eps: f32,
    device: Device,
}

impl Weights {
    /// Opens the weights in `folder`, for `device`, and checks that all are there.
    ///
    /// # Errors
    /// [`JudgeError::PairRm`] with the names of the tensors that are missing, and what opening the file returns.
    pub(super) fn open(
        folder: &Path,
        config: &PairRmConfig,
        device: &Device,
    ) -> std::result::Result<Self, JudgeError> {
        let path = folder.join("model.safetensors");
        let checkpoint = Checkpoint::open(folder, Dtype::F32)?;
        let embeddings = |prefix: &&str| {
            checkpoint.contains(&format!("{prefix}embeddings.word_embeddings.weight"))
        };
        let Some(prefix) = PREFIXES.into_iter().find(embeddings) else {
            return Err(refused(
                &path,
                format!(
                    "there is no tensor embeddings.word_embeddings.weight, neither by itself nor under {} or {}",
                    PREFIXES[0], PREFIXES[1]
                ),
            ));
        };
        let head = head_names(&path, &checkpoint)?;
        let missing: Vec<String> = names(config, prefix, &head)
            .into_iter()
            .filter(|name| !checkpoint.contains(name))
            .collect();
        if !missing.is_empty() {
            let message = format!(
                "{} tensors are missing: {}",
                missing.len(),
                missing.join(", ")
            );
            return Err(refused(&path, message));
        }
        Ok(Self {
            checkpoint,
            prefix,
            head,
            eps: config.layer_norm_eps,
            device: device.clone(),
        })
    }

    /// Takes a matrix of the encoder, `[rows, columns]`.
    pub(super) fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Tensor> {
        self.tensor(&format!("{}{name}.weight", self.prefix), &[rows, columns])
    }

    /// Takes a linear layer of the encoder.
    pub(super) fn linear(&mut self, name: &str, inputs: usize, outputs: usize) -> Result<Linear> {
        self.linear_named(&format!("{}{name}", self.prefix), inputs, outputs)
    }

    /// Takes a linear layer by its whole name.
    pub(super) fn linear_named(
        &mut self,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<Linear> {
        Ok(Linear {
            weight: self.tensor(&format!("{name}.weight"), &[outputs, inputs])?,
            bias: self.tensor(&format!("{name}.bias"), &[outputs])?,
        })
    }

    /// Takes a layer norm of the encoder.
    pub(super) fn norm(&mut self, name: &str, width: usize) -> Result<Norm> {
        let name = format!("{}{name}", self.prefix);
        Ok(Norm {
            weight: self.tensor(&format!("{name}.weight"), &[width])?,
            bias: self.tensor(&format!("{name}.bias"), &[width])?,
            eps: self.eps,
        })
    }

    /// Checks that no tensor is left over.
    ///
    /// # Errors
    /// As [`Checkpoint::finish`].
    pub(super) fn finish(self) -> Result<()> {
        // Constants that old versions of transformers stored, and that nothing reads.
        let constant = format!("{}embeddings.position_ids", self.prefix);
        self.checkpoint.finish(&[constant.as_str()])
    }

    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let values = self.checkpoint.tensor(name, shape)?;
        Ok(Tensor::from_vec(values, shape, &self.device)?)
    }
}

/// Returns the names of the head's two linear layers: `head_layer.1` and `head_layer.4` as published.
fn head_names(
    path: &Path,
    checkpoint: &Checkpoint,
) -> std::result::Result<[String; 2], JudgeError> {
    let names = (0..HEAD_LAYERS).map(|place| format!("head_layer.{place}"));
    let found: Vec<String> = names
        .filter(|name| checkpoint.contains(&format!("{name}.weight")))
        .collect();
    <[String; 2]>::try_from(found).map_err(|found| {
        let message = format!(
            "the head must be two linear layers, such as head_layer.1 and head_layer.4, but {} are there",
            found.len()
        );
        refused(path, message)
    })
}

/// Returns the names of all tensors.
fn names(config: &PairRmConfig, prefix: &str, head: &[String; 2]) -> Vec<String> {
    let embeddings = ["embeddings.word_embeddings", "encoder.rel_embeddings"];
    let mut biased: Vec<String> = ["embeddings.LayerNorm", "encoder.LayerNorm"]
        .map(|part| format!("{prefix}{part}"))
        .to_vec();
    for layer in 0..config.num_hidden_layers {
        let parts = [
            "attention.self.query_proj",
            "attention.self.key_proj",
            "attention.self.value_proj",
            "attention.output.dense",
            "attention.output.LayerNorm",
            "intermediate.dense",
            "output.dense",
            "output.LayerNorm",
        ];
        biased.extend(parts.map(|part| format!("{prefix}encoder.layer.{layer}.{part}")));
    }
    biased.extend(head.iter().cloned());
    let weights = embeddings.map(|part| format!("{prefix}{part}.weight"));
    let both = |part: String| [format!("{part}.weight"), format!("{part}.bias")];
    weights
        .into_iter()
        .chain(biased.into_iter().flat_map(both))
        .collect()
}
