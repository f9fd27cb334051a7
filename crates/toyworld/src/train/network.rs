//! The Llama-shaped network being trained: parameters, initial values, forward pass.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Device, Result, Tensor, Var};

use super::attention::{HEAD_DIM, Rotary, attention};
use super::batch::Batch;
use super::cross_entropy::cross_entropy;
use super::init::Normal;
use super::linear::{linear, linear_onto};
use super::rms_norm::rms_norm;
use super::swiglu::swiglu;
use super::tensors::with_elements;

/// Sizes of the network; the names are those of Hugging Face's `config.json`.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct NetworkSize {
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream; heads are 32 wide.
    pub hidden_size: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Longest document.
    pub max_position_embeddings: usize,
    /// Base of RoPE's frequencies.
    pub rope_theta: f64,
    /// Epsilon of RMSNorm.
    pub rms_norm_eps: f64,
}

impl NetworkSize {
    /// Returns the built-in model's sizes for a vocabulary.
    pub fn tiny(vocab_size: usize) -> Self {
        Self {
            vocab_size,
            hidden_size: 128,
            num_hidden_layers: 6,
            intermediate_size: 352,
            max_position_embeddings: 256,
            rope_theta: 10_000.0,
            rms_norm_eps: 1e-5,
        }
    }

    /// Returns the number of attention heads.
    pub fn num_attention_heads(&self) -> usize {
        self.hidden_size / HEAD_DIM
    }
}

/// Shape and elements of a tensor.
pub(super) type Values = (Vec<usize>, Vec<f32>);

/// One trained tensor.
pub(super) struct Parameter {
    /// Unique name; fused tensors have names of their own.
    pub(super) name: String,
    /// The value.
    pub(super) var: Var,
    /// Whether weight decay applies: to matrices, not to norms.
    pub(super) decays: bool,
}

struct Block {
    input_norm: Var,
    /// Query, key and value projections, one above another: `[3 * hidden, hidden]`.
    qkv: Var,
    output: Var,
    post_norm: Var,
    /// Gate and up projections, one above another: `[2 * intermediate, hidden]`.
    gate_up: Var,
    down: Var,
}

/// The network with its parameters; the embedding is also the output matrix.
pub(super) struct Network {
    size: NetworkSize,
    embedding: Var,
    blocks: Vec<Block>,
    norm: Var,
    rotary: Arc<Rotary>,
}

/// Standard deviation of the initial matrices.
const INITIAL_STD: f64 = 0.02;

impl Network {
    /// Makes a network with seeded normal weights.
    ///
    /// Matrices have a standard deviation of 0.02; those that write to the residual stream are
    /// scaled down by `sqrt(2 * layers)`, as in GPT-2.
    ///
    /// # Errors
    /// When the hidden size is not a multiple of the head width.
    pub(super) fn new(size: NetworkSize, seed: u64) -> Result<Self> {
        if size.hidden_size == 0 || !size.hidden_size.is_multiple_of(HEAD_DIM) {
            candle_core::bail!(
                "hidden size {} is not a multiple of {HEAD_DIM}",
                size.hidden_size
            );
        }
        let mut normal = Normal::new(seed);
        let mut matrix = |out: usize, inner: usize, std: f64| {
            let data: Vec<f32> = (0..out * inner)
                .map(|_| (normal.sample() * std) as f32)
                .collect();
            Var::from_vec(data, (out, inner), &Device::Cpu)
        };
        let ones = || {
            Var::from_vec(
                vec![1.0f32; size.hidden_size],
                size.hidden_size,
                &Device::Cpu,
            )
        };
        let (hidden, intermediate) = (size.hidden_size, size.intermediate_size);
        let residual_std = INITIAL_STD / (2.0 * size.num_hidden_layers as f64).sqrt();
        let embedding = matrix(size.vocab_size, hidden, INITIAL_STD)?;
        let blocks = (0..size.num_hidden_layers)
            .map(|_| {
                Ok(Block {
                    input_norm: ones()?,
                    qkv: matrix(3 * hidden, hidden, INITIAL_STD)?,
                    output: matrix(hidden, hidden, residual_std)?,
                    post_norm: ones()?,
                    gate_up: matrix(2 * intermediate, hidden, INITIAL_STD)?,
                    down: matrix(hidden, intermediate, residual_std)?,
                })
            })
            .collect::<Result<_>>()?;
        let rotary = Arc::new(Rotary::new(size.max_position_embeddings, size.rope_theta));
        Ok(Self {
            size,
            embedding,
            blocks,
            norm: ones()?,
            rotary,
        })
    }

    /// Returns the sizes.
    pub(super) fn size(&self) -> &NetworkSize {
        &self.size
    }

    /// Returns the logits of the next token at every row, `[rows, vocab]`, f32.
    ///
    /// # Errors
    /// When a token is outside the vocabulary or a document longer than the context.
    pub(super) fn logits(&self, batch: &Batch) -> Result<Tensor> {
        let eps = self.size.rms_norm_eps as f32;
        let mut h = self.embedding.index_select(&batch.tokens, 0)?;
        for block in &self.blocks {
            let x = rms_norm(&h, &block.input_norm, eps)?;
            let qkv = linear(&x, &block.qkv)?;
            let x = attention(&qkv, batch.documents.clone(), self.rotary.clone())?;
            h = linear_onto(&h, &x, &block.output)?;
            let x = rms_norm(&h, &block.post_norm, eps)?;
            let x = swiglu(&linear(&x, &block.gate_up)?)?;
            h = linear_onto(&h, &x, &block.down)?;
        }
        linear(&rms_norm(&h, &self.norm, eps)?, &self.embedding)
    }

    /// Returns the weighted loss of every row, `[rows]`, f32.
    ///
    /// # Errors
    /// As [`Self::logits`].
    pub(super) fn losses(&self, batch: &Batch) -> Result<Tensor> {
        cross_entropy(
            &self.logits(batch)?,
            batch.targets.clone(),
            batch.weights.clone(),
        )
    }

    /// Returns all parameters in a fixed order.
    pub(super) fn parameters(&self) -> Vec<Parameter> {
        let parameter = |name: String, var: &Var| Parameter {
            name,
            decays: var.rank() > 1,
            var: var.clone(),
        };
        let mut all = vec![parameter("embedding".to_owned(), &self.embedding)];
        for (i, block) in self.blocks.iter().enumerate() {
            for (name, var) in [
                ("input_norm", &block.input_norm),
                ("qkv", &block.qkv),
                ("output", &block.output),
                ("post_norm", &block.post_norm),
                ("gate_up", &block.gate_up),
                ("down", &block.down),
            ] {
                all.push(parameter(format!("blocks.{i}.{name}"), var));
            }
        }
        all.push(parameter("norm".to_owned(), &self.norm));
        all
    }

    /// Returns every tensor under its Hugging Face name, with its shape, fused ones taken apart.
    ///
    /// # Errors
    /// When a tensor cannot be read.
    pub(super) fn hugging_face_tensors(&self) -> Result<BTreeMap<String, Values>> {
        let mut out = BTreeMap::new();
        let mut put = |name: String, var: &Var, parts: &[(&str, usize)]| -> Result<()> {
            let data = with_elements(var, <[f32]>::to_vec)?;
            let width = data.len() / var.dim(0)?;
            let mut row = 0;
            for (part, rows) in parts {
                let shape = if var.rank() == 1 {
                    vec![*rows]
                } else {
                    vec![*rows, width]
                };
                let values = data[row * width..(row + rows) * width].to_vec();
                out.insert(format!("{name}{part}.weight"), (shape, values));
                row += rows;
            }
            Ok(())
        };
        let (hidden, intermediate) = (self.size.hidden_size, self.size.intermediate_size);
        put(
            "model.embed_tokens".to_owned(),
            &self.embedding,
            &[("", self.size.vocab_size)],
        )?;
        put("model.norm".to_owned(), &self.norm, &[("", hidden)])?;
        for (i, block) in self.blocks.iter().enumerate() {
            let layer = format!("model.layers.{i}.");
            put(
                layer.clone() + "input_layernorm",
                &block.input_norm,
                &[("", hidden)],
            )?;
            put(
                layer.clone() + "post_attention_layernorm",
                &block.post_norm,
                &[("", hidden)],
            )?;
            let attention = [("q_proj", hidden), ("k_proj", hidden), ("v_proj", hidden)];
            put(layer.clone() + "self_attn.", &block.qkv, &attention)?;
            put(
                layer.clone() + "self_attn.o_proj",
                &block.output,
                &[("", hidden)],
            )?;
            let mlp = [("gate_proj", intermediate), ("up_proj", intermediate)];
            put(layer.clone() + "mlp.", &block.gate_up, &mlp)?;
            put(layer + "mlp.down_proj", &block.down, &[("", hidden)])?;
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::super::batch::{Example, Kind};
    use super::*;

    fn small() -> NetworkSize {
        NetworkSize {
            vocab_size: 24,
            hidden_size: 64,
            num_hidden_layers: 2,
            intermediate_size: 48,
            max_position_embeddings: 16,
            rope_theta: 1e4,
            rms_norm_eps: 1e-5,
        }
    }

    fn batch() -> Result<Batch> {
        let examples: Vec<Example> = [5usize, 9, 2]
            .iter()
            .map(|&n| Example {
                tokens: (0..n as u32).map(|i| (i * 7 + n as u32) % 24).collect(),
                weights: (0..n).map(|i| [0.1, 1.0, 3.0][i % 3]).collect(),
                kind: Kind::Chat,
            })
            .collect();
        Batch::pack(&examples)
    }

    #[test]
    fn the_tiny_model_has_a_million_and_a_quarter_parameters() -> Result<()> {
        let network = Network::new(NetworkSize::tiny(288), 1)?;
        let count: usize = network
            .parameters()
            .iter()
            .map(|p| p.var.elem_count())
            .sum();
        assert_eq!(count, 1_242_752);
        let tensors = network.hugging_face_tensors()?;
        assert_eq!(
            tensors.values().map(|(_, data)| data.len()).sum::<usize>(),
            count
        );
        assert_eq!(tensors["model.layers.5.mlp.down_proj.weight"].0, [128, 352]);
        Ok(())
    }

    #[test]
    fn gradient_of_the_whole_loss_equals_finite_differences() -> Result<()> {
        let network = Network::new(small(), 3)?;
        // Larger weights than the initial ones, so that every part matters.
        for p in network.parameters().iter().filter(|p| p.decays) {
            p.var.set(&(p.var.as_tensor() * 6.0)?)?;
        }
        let batch = batch()?;
        let loss = || -> Result<f64> {
            with_elements(&network.losses(&batch)?, |l| {
                l.iter().map(|&x| f64::from(x)).sum()
            })
        };
        let grads = network.losses(&batch)?.sum_all()?.backward()?;
        for p in network.parameters() {
            let grad = with_elements(
                grads
                    .get(p.var.as_tensor())
                    .expect("every parameter has a gradient"),
                <[f32]>::to_vec,
            )?;
            let start = with_elements(&p.var, <[f32]>::to_vec)?;
            // Along the gradient itself the change is the largest that a step can give.
            let norm = grad.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
            let step = 2e-3 / norm;
            let at = |sign: f64| -> Result<f64> {
                let moved: Vec<f32> = start
                    .iter()
                    .zip(&grad)
                    .map(|(w, g)| w + (sign * step * f64::from(*g)) as f32)
                    .collect();
                p.var
                    .set(&Tensor::from_vec(moved, p.var.shape(), &Device::Cpu)?)?;
                loss()
            };
            let slope = (at(1.0)? - at(-1.0)?) / (2.0 * step);
            at(0.0)?;
            let relative = (slope / (norm * norm) - 1.0).abs();
            // A central difference of f32 losses of about 100.
            assert!(relative < 0.02, "{}: {relative}", p.name);
        }
        Ok(())
    }

    #[test]
    fn documents_of_a_batch_do_not_see_each_other() -> Result<()> {
        let network = Network::new(small(), 3)?;
        let alone = Example {
            tokens: vec![3, 1, 4, 1, 5],
            weights: vec![1.0; 5],
            kind: Kind::Chat,
        };
        let other = Example {
            tokens: vec![9, 2, 6],
            weights: vec![1.0; 3],
            kind: Kind::Chat,
        };
        let one = network.logits(&Batch::pack(std::slice::from_ref(&alone))?)?;
        let both = network
            .logits(&Batch::pack(&[other, alone])?)?
            .narrow(0, 3, 5)?;
        assert_eq!(one.to_vec2::<f32>()?, both.to_vec2::<f32>()?);
        Ok(())
    }
}
