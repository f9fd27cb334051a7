//! The checkpoint's tensors, read from safetensors files and checked one by one.
//!
//! Names are those of the Hugging Face checkpoint. Every tensor that the config calls for is there
//! once, in the shape that it implies, and finite; no tensor is left over.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype as StoredDtype, SafeTensors};

use crate::config::read_text;
use crate::{Config, Dtype, ModelError, Result};

/// One safetensors file, mapped into memory.
struct Shard {
    path: PathBuf,
    bytes: Mmap,
    /// Where the tensors' bytes start.
    data_start: usize,
    metadata: Metadata,
}

impl Shard {
    fn open(path: PathBuf) -> Result<Self> {
        let io = |source| ModelError::Io {
            path: path.clone(),
            source,
        };
        let file = File::open(&path).map_err(io)?;
        // SAFETY: the file is only read; a model directory that another process writes to while it is
        // loaded is not supported.
        let bytes = unsafe { Mmap::map(&file) }.map_err(io)?;
        let (header, metadata) =
            SafeTensors::read_metadata(&bytes).map_err(|source| ModelError::WeightFile {
                path: path.clone(),
                source,
            })?;
        Ok(Self {
            path,
            bytes,
            data_start: header + size_of::<u64>(),
            metadata,
        })
    }

    fn data(&self, info: &TensorInfo) -> &[u8] {
        &self.bytes[self.data_start + info.data_offsets.0..self.data_start + info.data_offsets.1]
    }
}

/// The weight files of a model directory.
pub struct Checkpoint {
    /// What errors about absent tensors name: the index, or the single file.
    path: PathBuf,
    shards: Vec<Shard>,
    /// Which shard holds a tensor.
    places: BTreeMap<String, usize>,
    taken: BTreeSet<String>,
    dtype: Dtype,
}

impl Checkpoint {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names, in `directory`.
    ///
    /// Values are rounded to `dtype` when they are read.
    ///
    /// # Errors
    /// [`ModelError::MissingFile`], [`ModelError::Io`], [`ModelError::WeightFile`] for a truncated or
    /// malformed file, [`ModelError::MissingTensor`] where the index and a shard disagree.
    pub fn open(directory: &Path, dtype: Dtype) -> Result<Self> {
        let single = directory.join("model.safetensors");
        let index = directory.join("model.safetensors.index.json");
        let (path, files) = if single.exists() || !index.exists() {
            let needed_for =
                "it holds the weights, unless a model.safetensors.index.json names their files";
            if !single.exists() {
                return Err(ModelError::MissingFile {
                    path: single,
                    needed_for,
                });
            }
            (single, None)
        } else {
            let files = read_index(&index)?;
            (index, Some(files))
        };
        let names: BTreeSet<String> = match &files {
            None => BTreeSet::from(["model.safetensors".to_owned()]),
            Some(files) => files.values().cloned().collect(),
        };
        let mut shards = Vec::new();
        let mut places = BTreeMap::new();
        for name in &names {
            let file = directory.join(name);
            if !file.exists() {
                let needed_for = "the index names it as a weight file";
                return Err(ModelError::MissingFile {
                    path: file,
                    needed_for,
                });
            }
            let shard = Shard::open(file)?;
            for tensor in shard.metadata.tensors().into_keys() {
                if files
                    .as_ref()
                    .is_none_or(|files| files.get(&tensor) == Some(name))
                {
                    places.insert(tensor, shards.len());
                } else {
                    return Err(ModelError::ExtraTensor {
                        path: shard.path,
                        tensor,
                    });
                }
            }
            shards.push(shard);
        }
        if let Some(tensor) = files
            .iter()
            .flat_map(BTreeMap::keys)
            .find(|tensor| !places.contains_key(*tensor))
        {
            return Err(ModelError::MissingTensor {
                path,
                tensor: tensor.clone(),
            });
        }
        Ok(Self {
            path,
            shards,
            places,
            taken: BTreeSet::new(),
            dtype,
        })
    }

    /// Returns whether a file holds `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Returns the values of the tensor `name`, row by row.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let mut values = Vec::new();
        self.append(name, shape, &mut values)?;
        Ok(values)
    }

    /// Appends the values of the tensor `name` to `values`, so that several can be fused by their rows.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`], [`ModelError::TensorShape`], [`ModelError::TensorDtype`], and
    /// [`ModelError::NonFiniteWeight`] for NaN or an infinity, also one that rounding to the dtype makes.
    pub fn append(&mut self, name: &str, shape: &[usize], values: &mut Vec<f32>) -> Result<()> {
        let (shard, info) = self.find(name, shape)?;
        let start = values.len();
        let data = shard.data(info);
        match info.dtype {
            StoredDtype::F32 => values.extend(chunks(data).map(f32::from_le_bytes)),
            StoredDtype::F16 => {
                values.extend(chunks(data).map(|bytes| f16::from_le_bytes(bytes).to_f32()))
            }
            StoredDtype::BF16 => {
                values.extend(chunks(data).map(|bytes| bf16::from_le_bytes(bytes).to_f32()))
            }
            other => {
                let found = format!("{other:?}");
                return Err(ModelError::TensorDtype {
                    path: shard.path.clone(),
                    tensor: name.to_owned(),
                    found,
                });
            }
        }
        let read = &mut values[start..];
        if self.dtype == Dtype::Bf16 {
            read.iter_mut()
                .for_each(|value| *value = bf16::from_f32(*value).to_f32());
        }
        if let Some(element) = read.iter().position(|value| !value.is_finite()) {
            return Err(ModelError::NonFiniteWeight {
                path: shard.path.clone(),
                tensor: name.to_owned(),
                element,
                value: read[element],
            });
        }
        self.taken.insert(name.to_owned());
        Ok(())
    }

    /// Returns the tensor `name` and the file that holds it, checked to have this shape.
    fn find(&self, name: &str, shape: &[usize]) -> Result<(&Shard, &TensorInfo)> {
        let missing = || ModelError::MissingTensor {
            path: self.path.clone(),
            tensor: name.to_owned(),
        };
        let shard = self
            .places
            .get(name)
            .map(|&index| &self.shards[index])
            .ok_or_else(missing)?;
        let info = shard.metadata.info(name).ok_or_else(missing)?;
        if info.shape != shape {
            return Err(ModelError::TensorShape {
                path: shard.path.clone(),
                tensor: name.to_owned(),
                expected: shape.to_vec(),
                found: info.shape.clone(),
            });
        }
        Ok((shard, info))
    }

    /// Checks that every tensor of the files was read.
    ///
    /// The constant `rotary_emb.inv_freq` that old checkpoints carry is passed over.
    ///
    /// # Errors
    /// [`ModelError::ExtraTensor`] with the first that was not.
    pub fn finish(self) -> Result<()> {
        let left = self
            .places
            .into_iter()
            .find(|(name, _)| !self.taken.contains(name) && !name.ends_with("rotary_emb.inv_freq"));
        left.map_or(Ok(()), |(tensor, shard)| {
            Err(ModelError::ExtraTensor {
                path: self.shards[shard].path.clone(),
                tensor,
            })
        })
    }
}

/// Splits a tensor's bytes into those of its values; safetensors has checked that none are left over.
fn chunks<const N: usize>(data: &[u8]) -> impl Iterator<Item = [u8; N]> {
    data.as_chunks::<N>().0.iter().copied()
}

/// Reads which file holds which tensor.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = read_text(path, "it names the weight files")?;
    let index: Index = serde_json::from_str(&text).map_err(|source| ModelError::Json {
        path: path.into(),
        source,
    })?;
    Ok(index.weight_map)
}

/// A linear layer's weights `[out_features, in_features]`, and biases `[out_features]` if it has them.
pub struct Projection {
    /// The number of outputs.
    pub out_features: usize,
    /// The number of inputs.
    pub in_features: usize,
    /// The weights, one output after another.
    pub weight: Vec<f32>,
    /// The biases.
    pub bias: Option<Vec<f32>>,
}

impl Projection {
    /// Reads several linear layers over the same inputs as one; `parts` are names and output counts.
    fn read(
        checkpoint: &mut Checkpoint,
        parts: &[(String, usize)],
        in_features: usize,
        biased: bool,
    ) -> Result<Self> {
        // Shapes first: memory is taken for what the file holds, whatever the config says.
        for (name, outputs) in parts {
            checkpoint.find(&format!("{name}.weight"), &[*outputs, in_features])?;
        }
        let out_features: usize = parts.iter().map(|(_, outputs)| outputs).sum();
        let mut weight = Vec::with_capacity(out_features * in_features);
        let mut bias = biased.then(Vec::new);
        for (name, outputs) in parts {
            checkpoint.append(
                &format!("{name}.weight"),
                &[*outputs, in_features],
                &mut weight,
            )?;
            if let Some(bias) = &mut bias {
                checkpoint.append(&format!("{name}.bias"), &[*outputs], bias)?;
            }
        }
        Ok(Self {
            out_features,
            in_features,
            weight,
            bias,
        })
    }
}

/// The tensors of one decoder block; projections over the same input are fused.
pub struct BlockTensors {
    /// The weight of the norm before attention, `[hidden_size]`.
    pub input_layernorm: Vec<f32>,
    /// Queries, keys and values, in this order.
    pub qkv_proj: Projection,
    /// Attention's output.
    pub o_proj: Projection,
    /// The weight of the norm before the MLP, `[hidden_size]`.
    pub post_attention_layernorm: Vec<f32>,
    /// The MLP's gate and then its up projection.
    pub gate_up_proj: Projection,
    /// The MLP's output.
    pub down_proj: Projection,
}

impl BlockTensors {
    /// Reads block `layer`.
    ///
    /// # Errors
    /// As [`Checkpoint::append`].
    pub fn read(checkpoint: &mut Checkpoint, config: &Config, layer: usize) -> Result<Self> {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let (hidden, query, kv) = (
            config.hidden_size,
            config.query_size(),
            config.key_value_size(),
        );
        let ffn = config.intermediate_size;
        let qkv = [("q_proj", query), ("k_proj", kv), ("v_proj", kv)]
            .map(|(part, outputs)| (name(&format!("self_attn.{part}")), outputs));
        let gate_up = ["mlp.gate_proj", "mlp.up_proj"].map(|part| (name(part), ffn));
        Ok(Self {
            input_layernorm: checkpoint.tensor(&name("input_layernorm.weight"), &[hidden])?,
            qkv_proj: Projection::read(checkpoint, &qkv, hidden, config.qkv_bias)?,
            o_proj: Projection::read(
                checkpoint,
                &[(name("self_attn.o_proj"), hidden)],
                query,
                config.o_bias,
            )?,
            post_attention_layernorm: checkpoint
                .tensor(&name("post_attention_layernorm.weight"), &[hidden])?,
            gate_up_proj: Projection::read(checkpoint, &gate_up, hidden, config.mlp_bias)?,
            down_proj: Projection::read(
                checkpoint,
                &[(name("mlp.down_proj"), hidden)],
                ffn,
                config.mlp_bias,
            )?,
        })
    }
}

/// The tensors outside the blocks.
pub struct OuterTensors {
    /// The token embeddings, `[vocab_size, hidden_size]`.
    pub embed_tokens: Vec<f32>,
    /// The weight of the norm after the last block, `[hidden_size]`.
    pub norm: Vec<f32>,
    /// The head, `[vocab_size, hidden_size]`; none where it is the embedding.
    pub lm_head: Option<Vec<f32>>,
}

impl OuterTensors {
    /// Reads the tensors outside the blocks.
    ///
    /// # Errors
    /// As [`Checkpoint::append`], and [`ModelError::UntiedHead`] where a head that the config ties to the
    /// embedding is stored too and differs.
    pub fn read(checkpoint: &mut Checkpoint, config: &Config) -> Result<Self> {
        let shape = [config.vocab_size, config.hidden_size];
        let embed_tokens = checkpoint.tensor("model.embed_tokens.weight", &shape)?;
        let norm = checkpoint.tensor("model.norm.weight", &[config.hidden_size])?;
        let lm_head = if !config.tie_word_embeddings || checkpoint.contains("lm_head.weight") {
            Some(checkpoint.tensor("lm_head.weight", &shape)?)
        } else {
            None
        };
        if config.tie_word_embeddings && lm_head.as_ref().is_some_and(|head| *head != embed_tokens)
        {
            return Err(ModelError::UntiedHead {
                path: checkpoint.path.clone(),
            });
        }
        Ok(Self {
            embed_tokens,
            norm,
            lm_head: lm_head.filter(|_| !config.tie_word_embeddings),
        })
    }
}
