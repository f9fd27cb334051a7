//! The adapter file: tensors under PEFT's names, and one metadata key with canonical JSON.
//!
//! Tensors are `base_model.model.model.layers.{i}.{module}.lora_A.weight`, `[rank, in]`, and `….lora_B.weight`,
//! `[out, rank]`. The same adapter always gives the same bytes.

use crate::random::stream;
use serde::{Deserialize, Serialize};
use sims_artifact::{ArtifactError, Digest, TensorData, TensorFile, write_tensors};
use sims_model::{Adapter, Config, LinearLayer, LowRank, ModelError, Module};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The format this program writes, and the only one it reads.
const FORMAT: u64 = 1;
/// What PEFT puts before the names of a causal language model's modules.
const PREFIX: &str = "base_model.model.model.";

/// An adapter file that cannot be read, or does not belong to the model at hand.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// The adapter was trained on another model.
    #[error(
        "the adapter was trained on the model with digest {expected}, but this model has {found}; give the model that \
         it was trained on, or train one on this model"
    )]
    OtherModel {
        /// Digest of the adapter's model.
        expected: Digest,
        /// Digest of the model at hand.
        found: Digest,
    },
    /// Metadata or tensors do not make sense.
    #[error("{path} is not a valid adapter file: {message}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// Reading or writing the file failed.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

/// How an adapter was trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FineTuning {
    /// Factor of the log-odds in the loss.
    pub beta: f64,
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Seed of A's start, of the split and of the order.
    pub seed: u64,
    /// `ranked`, or `shuffled` for the control.
    pub labels: String,
    /// Pairs, fit and held out.
    pub pairs: usize,
    /// Prompts to learn from.
    pub fit_prompts: usize,
    /// Prompts held out.
    pub held_out_prompts: usize,
    /// Passes over the pairs.
    pub epochs: usize,
    /// The pass whose adapter was kept, from 1.
    pub best_epoch: usize,
    /// Its mean loss on held-out pairs.
    pub held_out_loss: f64,
    /// Share of held-out pairs whose log-odds it raises.
    pub held_out_accuracy: f64,
}

/// An adapter, the model that it belongs to, and how it came to be.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterFile {
    /// Manifest digest of the model.
    pub model: Digest,
    /// What it was trained with: `lora-dpo`.
    pub method: String,
    /// The names of the layers that were asked for.
    pub targets: Vec<String>,
    /// The changes.
    pub adapter: Adapter,
    /// How it was trained.
    pub fit: FineTuning,
}

/// The metadata of an adapter file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: u64,
    method: String,
    rank: usize,
    alpha: f64,
    targets: Vec<String>,
    model: Digest,
    fit: FineTuning,
}

impl AdapterFile {
    /// Writes the file, atomically; equal adapters give equal bytes.
    ///
    /// # Errors
    /// [`AdapterError::Artifact`] if writing fails.
    pub fn save(&self, path: &Path) -> Result<(), AdapterError> {
        let mut tensors = BTreeMap::new();
        let rank = self.adapter.rank;
        for (module, LowRank { a, b }) in &self.adapter.modules {
            let a = TensorData::matrix(rank, a.len() / rank, a.clone());
            let b = TensorData::matrix(b.len() / rank, rank, b.clone());
            tensors.insert(format!("{PREFIX}{module}.lora_A.weight"), a);
            tensors.insert(format!("{PREFIX}{module}.lora_B.weight"), b);
        }
        let header = Header {
            format: FORMAT,
            method: self.method.clone(),
            rank,
            alpha: self.adapter.alpha,
            targets: self.targets.clone(),
            model: self.model,
            fit: self.fit.clone(),
        };
        let metadata = serde_json::to_value(header)
            .map_err(|error| invalid(path, format!("its metadata cannot be written: {error}")))?;
        Ok(write_tensors(path, &tensors, &metadata)?)
    }

    /// Reads an adapter for the model with digest `model`; whether it has its layers shows when it is merged.
    ///
    /// # Errors
    /// [`AdapterError::Artifact`] if the file cannot be read, [`AdapterError::Invalid`] for another format and for
    /// tensors that are no pairs of the header's rank, [`AdapterError::OtherModel`].
    pub fn load(path: &Path, model: &Digest) -> Result<Self, AdapterError> {
        let file = TensorFile::open(path)?;
        let metadata = file.metadata();
        let format = metadata.get("format").and_then(serde_json::Value::as_u64);
        if format != Some(FORMAT) {
            let found = format.map_or("none".to_owned(), |format| format.to_string());
            let message = format!("its adapter format is {found}; this program reads {FORMAT}");
            return Err(invalid(path, message));
        }
        let header: Header = serde_json::from_value(metadata.clone())
            .map_err(|error| invalid(path, format!("its metadata: {error}")))?;
        if header.rank == 0 || !header.alpha.is_finite() {
            let message = format!("its rank is {}, its alpha {}", header.rank, header.alpha);
            return Err(invalid(path, message));
        }
        if header.model != *model {
            return Err(AdapterError::OtherModel {
                expected: header.model,
                found: *model,
            });
        }
        Ok(Self {
            adapter: Adapter {
                rank: header.rank,
                alpha: header.alpha,
                modules: read_modules(&file, path, header.rank)?,
            },
            model: header.model,
            method: header.method,
            targets: header.targets,
            fit: header.fit,
        })
    }
}

fn read_modules(
    file: &TensorFile,
    path: &Path,
    rank: usize,
) -> Result<BTreeMap<Module, LowRank>, AdapterError> {
    let mut modules: BTreeMap<Module, LowRank> = BTreeMap::new();
    for name in file.names() {
        let (module, is_a) = parse(&name)
            .ok_or_else(|| invalid(path, format!("tensor {name} is no part of an adapter")))?;
        let tensor = file.read(&name)?;
        let fits = match tensor.shape[..] {
            [rows, columns] => [columns, rows][usize::from(is_a)] == rank,
            _ => false,
        };
        if !fits {
            let message = format!(
                "{name} has the shape {:?}, the rank is {rank}",
                tensor.shape
            );
            return Err(invalid(path, message));
        }
        let change = modules.entry(module).or_insert_with(|| LowRank {
            a: Vec::new(),
            b: Vec::new(),
        });
        match is_a {
            true => change.a = tensor.values,
            false => change.b = tensor.values,
        }
    }
    let halved = modules
        .iter()
        .find(|(_, change)| change.a.is_empty() || change.b.is_empty());
    match halved {
        Some((module, _)) => Err(invalid(path, format!("{module} has only one of A and B"))),
        None => Ok(modules),
    }
}

/// Reads a tensor's name: the module, and whether it is A.
fn parse(name: &str) -> Option<(Module, bool)> {
    let module = name.strip_prefix(PREFIX)?.strip_prefix("layers.")?;
    let (module, is_a) = match module.strip_suffix(".lora_A.weight") {
        Some(module) => (module, true),
        None => (module.strip_suffix(".lora_B.weight")?, false),
    };
    let (layer, part) = module.split_once('.')?;
    let module = Module {
        layer: layer.parse().ok()?,
        part: part.to_owned(),
    };
    Some((module, is_a))
}

/// Starts an adapter that changes nothing: B is 0, and A uniform in `±1/√in`, as PEFT draws it.
///
/// `targets`: the last part of the layers' names, such as `q_proj`; each is adapted in every block that has it.
///
/// # Errors
/// [`ModelError::Adapter`] for a name that no block has.
pub fn initial_adapter(
    config: &Config,
    targets: &[String],
    rank: usize,
    alpha: f64,
    seed: u64,
) -> Result<Adapter, ModelError> {
    let mut modules = BTreeMap::new();
    for target in targets {
        let before = modules.len();
        for layer in 0..config.num_hidden_layers {
            let linears = LinearLayer::all(config, layer).into_iter();
            for linear in linears.filter(|linear| short(linear.part) == target) {
                let module = Module {
                    layer,
                    part: linear.part.to_owned(),
                };
                let mut draws = stream(seed, &format!("lora {module}"));
                let bound = 1.0 / (linear.in_features as f64).sqrt();
                let a = (0..rank * linear.in_features)
                    .map(|_| (bound * (2.0 * draws.next_f64() - 1.0)) as f32)
                    .collect();
                let b = vec![0.0; linear.out_features * rank];
                modules.insert(module, LowRank { a, b });
            }
        }
        if modules.len() == before {
            let known = LinearLayer::all(config, 0);
            let known: Vec<&str> = known.iter().map(|linear| short(linear.part)).collect();
            return Err(ModelError::Adapter {
                module: target.clone(),
                message: format!(
                    "no block has it, or it is named twice; block 0 has {}",
                    known.join(", ")
                ),
            });
        }
    }
    Ok(Adapter {
        rank,
        alpha,
        modules,
    })
}

/// Returns the last part of a name.
fn short(part: &str) -> &str {
    part.rsplit('.').next().unwrap_or(part)
}

fn invalid(path: &Path, message: impl Into<String>) -> AdapterError {
    AdapterError::Invalid {
        path: path.to_owned(),
        message: message.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> AdapterFile {
        let module = |layer, part: &str| Module {
            layer,
            part: part.to_owned(),
        };
        let change = |inputs: usize, outputs: usize| LowRank {
            a: (0..2 * inputs).map(|i| i as f32).collect(),
            b: (0..2 * outputs).map(|i| -(i as f32)).collect(),
        };
        let modules = [
            (module(10, "self_attn.q_proj"), change(3, 4)),
            (module(2, "mlp.down_proj"), change(5, 3)),
        ];
        AdapterFile {
            model: Digest::of_bytes(b"model"),
            method: "lora-dpo".to_owned(),
            targets: vec!["q_proj".to_owned(), "down_proj".to_owned()],
            adapter: Adapter {
                rank: 2,
                alpha: 4.0,
                modules: BTreeMap::from(modules),
            },
            fit: FineTuning {
                beta: 0.1,
                learning_rate: 1e-3,
                seed: 7,
                labels: "ranked".to_owned(),
                pairs: 40,
                fit_prompts: 32,
                held_out_prompts: 8,
                epochs: 3,
                best_epoch: 2,
                held_out_loss: 0.5,
                held_out_accuracy: 0.875,
            },
        }
    }

    #[test]
    fn files_survive_a_round_trip_and_bytes_repeat() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adapter.safetensors");
        file().save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let model = Digest::of_bytes(b"model");
        assert_eq!(AdapterFile::load(&path, &model).unwrap(), file());
        file().save(&path).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        let names = TensorFile::open(&path).unwrap().names();
        assert!(names.contains(
            &"base_model.model.model.layers.10.self_attn.q_proj.lora_A.weight".to_owned()
        ));
        let error = AdapterFile::load(&path, &Digest::of_bytes(b"other")).unwrap_err();
        assert!(matches!(error, AdapterError::OtherModel { .. }), "{error}");
    }

    #[test]
    fn files_that_are_no_adapters_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("adapter.safetensors");
        file().save(&path).unwrap();
        let open = TensorFile::open(&path).unwrap();
        let metadata = open.metadata().clone();
        let tensors: BTreeMap<String, TensorData> = open
            .names()
            .into_iter()
            .map(|name| (name.clone(), open.read(&name).unwrap()))
            .collect();
        let name = "base_model.model.model.layers.2.mlp.down_proj.lora_A.weight";
        let refused = |tensors: &BTreeMap<String, TensorData>, metadata: &serde_json::Value| {
            let path = folder.path().join("bad.safetensors");
            write_tensors(&path, tensors, metadata).unwrap();
            let model = Digest::of_bytes(b"model");
            AdapterFile::load(&path, &model).unwrap_err().to_string()
        };
        let mut halved = tensors.clone();
        halved.remove(name);
        let message = refused(&halved, &metadata);
        assert!(
            message.contains("layers.2.mlp.down_proj has only one"),
            "{message}"
        );
        let mut turned = tensors.clone();
        turned.get_mut(name).unwrap().shape.reverse();
        let message = refused(&turned, &metadata);
        assert!(message.contains("[5, 2], the rank is 2"), "{message}");
        let mut strange = tensors.clone();
        strange.insert("norm".to_owned(), TensorData::vector(vec![1.0]));
        let message = refused(&strange, &metadata);
        assert!(message.contains("norm is no part"), "{message}");
        let message = refused(&tensors, &serde_json::Value::Null);
        assert!(message.contains("its adapter format is none"), "{message}");
        let mut flat = metadata.clone();
        flat["rank"] = 0.into();
        assert!(refused(&tensors, &flat).contains("its rank is 0"));
    }
}
