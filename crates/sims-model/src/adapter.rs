//! Low-rank changes of linear layers: `W + alpha/rank · B · A` in the place of `W` (LoRA, Hu et al. 2021, arXiv 2106.09685).
//!
//! An [`Adapter`] is merged into the weights while they are read, so that a merged model runs like any other.

use std::collections::BTreeMap;
use std::fmt;

use rayon::prelude::*;

use crate::{Config, ModelError, Result};

/// A linear layer of a block.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Module {
    /// The block, 0-based.
    pub layer: usize,
    /// Its name in the block, as the checkpoint has it: `self_attn.q_proj`.
    pub part: String,
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "layers.{}.{}", self.layer, self.part)
    }
}

/// The change of one linear layer, without its factor.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRank {
    /// `[rank, in_features]`, row by row.
    pub a: Vec<f32>,
    /// `[out_features, rank]`, row by row.
    pub b: Vec<f32>,
}

impl LowRank {
    /// Adds `scale · B · A` to a weight `[out_features, in_features]`; summed in f64 and rounded once.
    pub(crate) fn add_to(&self, weight: &mut [f32], in_features: usize, scale: f64) {
        let rank = self.a.len() / in_features;
        let rows = weight.par_chunks_mut(in_features);
        rows.zip(self.b.par_chunks(rank))
            .for_each(|(row, factors)| {
                let mut change = vec![0.0; in_features];
                for (&factor, direction) in factors.iter().zip(self.a.chunks(in_features)) {
                    for (sum, &x) in change.iter_mut().zip(direction) {
                        *sum += f64::from(factor) * f64::from(x);
                    }
                }
                for (value, change) in row.iter_mut().zip(change) {
                    *value = (f64::from(*value) + scale * change) as f32;
                }
            });
    }
}

/// Low-rank changes of linear layers, all of one rank.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter {
    /// The inner dimension of every change; at least 1.
    pub rank: usize,
    /// The changes are multiplied by `alpha / rank`.
    pub alpha: f64,
    /// The changes, by layer and name.
    pub modules: BTreeMap<Module, LowRank>,
}

impl Adapter {
    /// Returns what the changes are multiplied by.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// Checks that a model has these layers, in these shapes, and that every value is finite.
    ///
    /// # Errors
    /// [`ModelError::Adapter`] for the first module at fault.
    pub fn check(&self, config: &Config) -> Result<()> {
        for (module, change) in &self.modules {
            let linear = LinearLayer::of(config, module)?;
            for (name, values, shape) in [
                ("A", &change.a, [self.rank, linear.in_features]),
                ("B", &change.b, [linear.out_features, self.rank]),
            ] {
                if values.len() != shape[0] * shape[1] {
                    let found = values.len();
                    let message = format!("{name} has {found} values, not those of {shape:?}");
                    return Err(fault(module, message));
                }
                if values.iter().any(|value| !value.is_finite()) {
                    return Err(fault(module, format!("{name} has a NaN or an infinity")));
                }
            }
        }
        Ok(())
    }
}

/// The layer of a network that a checkpoint's linear layer is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fused {
    /// Queries, keys and values.
    Qkv,
    /// Attention's output.
    Output,
    /// The MLP's gate and up projection.
    GateUp,
    /// The MLP's output.
    Down,
}

/// A linear layer of a block that an adapter can change; experts are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinearLayer {
    /// Its name in the block: `self_attn.q_proj`.
    pub part: &'static str,
    /// The number of inputs.
    pub in_features: usize,
    /// The number of outputs.
    pub out_features: usize,
    /// What it is part of in a network.
    pub fused: Fused,
    /// Where its outputs start there.
    pub first_output: usize,
}

impl LinearLayer {
    /// Lists those of block `layer`, under the names that the family's checkpoints have.
    pub fn all(config: &Config, layer: usize) -> Vec<Self> {
        let (hidden, query, kv, ffn) = (
            config.hidden_size,
            config.query_size(),
            config.key_value_size(),
            config.intermediate_size,
        );
        let mut found = Vec::new();
        let mut add = |names: &[&'static str], in_features, outputs: &[usize], fused| {
            let outputs = match names {
                [_] => vec![outputs.iter().sum()],
                _ => outputs.to_vec(),
            };
            let mut first_output = 0;
            for (&part, out_features) in names.iter().zip(outputs) {
                found.push(Self {
                    part,
                    in_features,
                    out_features,
                    fused,
                    first_output,
                });
                first_output += out_features;
            }
        };
        add(config.names.qkv, hidden, &[query, kv, kv], Fused::Qkv);
        add(&["self_attn.o_proj"], query, &[hidden], Fused::Output);
        if !config.layers[layer].sparse {
            add(config.names.gate_up, hidden, &[ffn, ffn], Fused::GateUp);
            add(&["mlp.down_proj"], ffn, &[hidden], Fused::Down);
        }
        found
    }

    /// Returns the one that `module` names.
    ///
    /// # Errors
    /// [`ModelError::Adapter`] where the model has none of that name.
    pub fn of(config: &Config, module: &Module) -> Result<Self> {
        if module.layer >= config.num_hidden_layers {
            let layers = config.num_hidden_layers;
            return Err(fault(module, format!("the model has {layers} layers")));
        }
        let all = Self::all(config, module.layer);
        let known: Vec<&str> = all.iter().map(|linear| linear.part).collect();
        let found = all.iter().find(|linear| linear.part == module.part);
        found.copied().ok_or_else(|| {
            let known = known.join(", ");
            fault(module, format!("layer {} has {known}", module.layer))
        })
    }
}

/// The error for a change that does not fit.
pub(crate) fn fault(module: &Module, message: String) -> ModelError {
    ModelError::Adapter {
        module: module.to_string(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_the_scaled_product() {
        let change = LowRank {
            a: vec![1.0, 2.0, 3.0, 0.0, -1.0, 0.5],
            b: vec![2.0, 1.0, 0.0, 4.0],
        };
        let mut weight = vec![0.5; 6];
        change.add_to(&mut weight, 3, 0.5);
        // Rows of B · A: (2, 3, 6.5) and (0, -4, 2).
        assert_eq!(weight, [1.5, 2.0, 3.75, 0.5, -1.5, 1.5]);
        let before = weight.clone();
        let none = LowRank {
            b: vec![0.0; 4],
            ..change
        };
        none.add_to(&mut weight, 3, 0.5);
        assert_eq!(weight, before);
    }
}
