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

use crate::adapter::{LowRank, fault};
use crate::config::{ExpertNames, read_text};
use crate::gguf::{GgufFile, GgufWeights, is_gguf};
use crate::ops::quantized::QuantizedLinear;
use crate::{Adapter, Config, Dtype, ModelError, Result};

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
    /// What is added to a tensor when it is read, with its factor.
    changes: BTreeMap<String, (LowRank, f64)>,
    /// The one GGUF file that stands for all of this.
    gguf: Option<GgufWeights>,
    dtype: Dtype,
}

impl Checkpoint {
    /// Opens `model.safetensors`, or the shards that `model.safetensors.index.json` names, in `directory`; or a
    /// GGUF file.
    ///
    /// Values are rounded to `dtype` when they are read.
    ///
    /// # Errors
    /// [`ModelError::MissingFile`], [`ModelError::Io`], [`ModelError::WeightFile`] for a truncated or
    /// malformed file, [`ModelError::MissingTensor`] where the index and a shard disagree.
    pub fn open(directory: &Path, dtype: Dtype) -> Result<Self> {
        if is_gguf(directory) {
            return Ok(Self {
                path: directory.into(),
                shards: Vec::new(),
                places: BTreeMap::new(),
                taken: BTreeSet::new(),
                changes: BTreeMap::new(),
                gguf: Some(GgufWeights::new(GgufFile::open(directory)?)?),
                dtype,
            });
        }
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
            changes: BTreeMap::new(),
            gguf: None,
            dtype,
        })
    }

    /// Merges an adapter into the weights that are read from here on, before they are rounded to the dtype.
    ///
    /// # Errors
    /// [`ModelError::Adapter`] for one that does not fit the model, and for a GGUF file, whose blocks cannot be added to.
    pub fn adapt(&mut self, adapter: &Adapter, config: &Config) -> Result<()> {
        adapter.check(config)?;
        let prefix = self.prefix(config);
        for (module, change) in &adapter.modules {
            let name = format!("{prefix}{module}.weight");
            if self.gguf.is_some() {
                let message = "a GGUF file's weights stay in blocks, which nothing can be added to: give the model in \
                               safetensors";
                return Err(fault(module, message.to_owned()));
            }
            let change = (change.clone(), adapter.scale());
            self.changes.insert(name, change);
        }
        Ok(())
    }

    /// Returns what stands before the decoder's tensors.
    fn prefix(&self, config: &Config) -> &'static str {
        let prefixes = config.names.prefixes;
        let has = |prefix: &&&str| self.contains(&format!("{prefix}embed_tokens.weight"));
        prefixes.iter().find(has).unwrap_or(&prefixes[0])
    }

    /// Returns whether a file holds `name`.
    pub fn contains(&self, name: &str) -> bool {
        let places = || self.places.contains_key(name);
        self.gguf
            .as_ref()
            .map_or_else(places, |gguf| gguf.contains(name))
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
        if let Some(gguf) = &mut self.gguf {
            return gguf.append(name, shape, self.dtype, values);
        }
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
        // What was read is copied: without this the pages of the whole file stay resident beside the copy.
        #[cfg(unix)]
        // SAFETY: the mapping is a file's and never written; a page that is read again comes from the file.
        let _ = unsafe {
            shard.bytes.unchecked_advise_range(
                memmap2::UncheckedAdvice::DontNeed,
                shard.data_start + info.data_offsets.0,
                data.len(),
            )
        };
        let read = &mut values[start..];
        if let (Some((change, scale)), [_, in_features]) = (self.changes.get(name), shape) {
            change.add_to(read, *in_features, *scale);
        }
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

    /// Checks that every tensor of the files was read, those aside whose names start with one of `others`.
    ///
    /// The constant `rotary_emb.inv_freq` that old checkpoints carry is passed over.
    ///
    /// # Errors
    /// [`ModelError::ExtraTensor`] with the first that was not.
    pub fn finish(self, others: &[&str]) -> Result<()> {
        if let Some(gguf) = self.gguf {
            return gguf.finish();
        }
        let left = self.places.into_iter().find(|(name, _)| {
            !self.taken.contains(name)
                && !name.ends_with("rotary_emb.inv_freq")
                && !others.iter().any(|other| name.starts_with(other))
        });
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
        for (name, outputs) in parts.iter().filter(|_| checkpoint.gguf.is_none()) {
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

/// Reads several linear layers over the same inputs as one into a network's form.
fn read_linear<F: Form>(
    form: &F,
    checkpoint: &mut Checkpoint,
    parts: &[(String, usize)],
    in_features: usize,
    biased: bool,
) -> Result<F::Linear> {
    let dtype = checkpoint.dtype;
    let blocks = checkpoint
        .gguf
        .as_mut()
        .map(|gguf| gguf.quantized(parts, in_features, dtype));
    let Some(blocks) = blocks.transpose()?.flatten() else {
        return form.linear(Projection::read(checkpoint, parts, in_features, biased)?);
    };
    let mut bias = biased.then(Vec::new);
    if let Some(bias) = &mut bias {
        for (name, outputs) in parts {
            checkpoint.append(&format!("{name}.bias"), &[*outputs], bias)?;
        }
    }
    form.blocks(QuantizedLinear::new(blocks, bias))
}

/// How a network holds its weights.
///
/// Tensors are read and handed over one by one, so that loading holds no more than one of them twice.
pub trait Form {
    /// A linear layer.
    type Linear;
    /// The weight of a norm.
    type Vector;

    /// Takes the weights of a linear layer.
    ///
    /// # Errors
    /// Whatever the device reports.
    fn linear(&self, projection: Projection) -> Result<Self::Linear>;

    /// Takes a linear layer whose weights are stored as ggml blocks.
    ///
    /// # Errors
    /// Whatever the device reports.
    fn blocks(&self, layer: QuantizedLinear) -> Result<Self::Linear>;

    /// Takes the weight of a norm.
    ///
    /// # Errors
    /// Whatever the device reports.
    fn vector(&self, values: Vec<f32>) -> Result<Self::Vector>;
}

/// The weights of one decoder block; projections over the same input are fused.
pub struct BlockWeights<F: Form> {
    /// The norm before attention, `[hidden_size]`.
    pub attention_norm: Option<F::Vector>,
    /// Queries, keys and values, in this order.
    pub qkv_proj: F::Linear,
    /// The norms of queries and of keys, of the widths that [`Config::qk_norm_sizes`] gives.
    pub qk_norm: Option<(F::Vector, F::Vector)>,
    /// Attention's output.
    pub o_proj: F::Linear,
    /// The norm of attention's output, `[hidden_size]`.
    pub attention_post_norm: Option<F::Vector>,
    /// The norm before the MLP, `[hidden_size]`.
    pub mlp_norm: Option<F::Vector>,
    /// The MLP, or what stands for it.
    pub mlp: MlpWeights<F::Linear>,
    /// The norm of the MLP's output, `[hidden_size]`.
    pub mlp_post_norm: Option<F::Vector>,
}

impl<F: Form<Linear: Clone, Vector: Clone>> Clone for BlockWeights<F> {
    fn clone(&self) -> Self {
        Self {
            attention_norm: self.attention_norm.clone(),
            qkv_proj: self.qkv_proj.clone(),
            qk_norm: self.qk_norm.clone(),
            o_proj: self.o_proj.clone(),
            attention_post_norm: self.attention_post_norm.clone(),
            mlp_norm: self.mlp_norm.clone(),
            mlp: self.mlp.clone(),
            mlp_post_norm: self.mlp_post_norm.clone(),
        }
    }
}

/// The weights between two norms of the MLP.
#[derive(Clone)]
pub enum MlpWeights<L> {
    /// One gated MLP.
    Dense(GatedWeights<L>),
    /// A mixture of gated MLPs.
    Experts {
        /// The projection that scores the experts, `[experts, hidden_size]`.
        router: L,
        /// The experts.
        experts: Vec<GatedWeights<L>>,
    },
}

/// A gated MLP.
#[derive(Clone)]
pub struct GatedWeights<L> {
    /// The gate and then the up projection.
    pub gate_up_proj: L,
    /// The output.
    pub down_proj: L,
}

impl<F: Form> BlockWeights<F> {
    /// Reads block `layer` into a network's form.
    fn read(
        checkpoint: &mut Checkpoint,
        config: &Config,
        prefix: &str,
        layer: usize,
        form: &F,
    ) -> Result<Self> {
        let names = config.names;
        let name = |part: &str| format!("{prefix}layers.{layer}.{part}");
        let (hidden, query, kv) = (
            config.hidden_size,
            config.query_size(),
            config.key_value_size(),
        );
        let mut norm = |part: Option<&str>, width: usize| {
            let read = part.map(|part| read_norm(checkpoint, config, &name(part), width));
            read.transpose()?
                .map(|values| form.vector(values))
                .transpose()
        };
        let attention_norm = norm(names.attention_norm, hidden)?;
        let attention_post_norm = norm(names.attention_post_norm, hidden)?;
        let mlp_norm = norm(names.mlp_norm, hidden)?;
        let mlp_post_norm = norm(names.mlp_post_norm, hidden)?;
        let qk_norm = match config.qk_norm_sizes() {
            None => None,
            Some((query_norm, key_norm)) => norm(Some("self_attn.q_norm"), query_norm)?
                .zip(norm(Some("self_attn.k_norm"), key_norm)?),
        };
        let qkv = parts(names.qkv, &[query, kv, kv], name);
        let qkv_proj = read_linear(form, checkpoint, &qkv, hidden, config.qkv_bias)?;
        let o_proj = [(name("self_attn.o_proj"), hidden)];
        let o_proj = read_linear(form, checkpoint, &o_proj, query, config.o_bias)?;
        let mlp = match (&names.experts, config.experts) {
            (Some(expert_names), Some(experts)) if config.layers[layer].sparse => {
                let router = [(name(expert_names.router), experts.count)];
                MlpWeights::Experts {
                    router: read_linear(form, checkpoint, &router, hidden, false)?,
                    experts: (0..experts.count)
                        .map(|expert| {
                            read_expert(
                                checkpoint,
                                expert_names,
                                |part| name(&format!("{}.{expert}.{part}", expert_names.experts)),
                                (hidden, experts.intermediate_size),
                                form,
                            )
                        })
                        .collect::<Result<_>>()?,
                }
            }
            _ => {
                let ffn = config.intermediate_size;
                let gate_up = parts(names.gate_up, &[ffn, ffn], name);
                let gate_up_proj =
                    read_linear(form, checkpoint, &gate_up, hidden, config.mlp_bias)?;
                let down = [(name("mlp.down_proj"), hidden)];
                MlpWeights::Dense(GatedWeights {
                    gate_up_proj,
                    down_proj: read_linear(form, checkpoint, &down, ffn, config.mlp_bias)?,
                })
            }
        };
        Ok(Self {
            attention_norm,
            qkv_proj,
            qk_norm,
            o_proj,
            attention_post_norm,
            mlp_norm,
            mlp,
            mlp_post_norm,
        })
    }
}

/// Reads one expert.
fn read_expert<F: Form>(
    checkpoint: &mut Checkpoint,
    names: &ExpertNames,
    name: impl Fn(&str) -> String,
    (hidden, ffn): (usize, usize),
    form: &F,
) -> Result<GatedWeights<F::Linear>> {
    let gate_up = names.gate_up.map(|part| (name(part), ffn));
    let down = [(name(names.down), hidden)];
    Ok(GatedWeights {
        gate_up_proj: read_linear(form, checkpoint, &gate_up, hidden, false)?,
        down_proj: read_linear(form, checkpoint, &down, ffn, false)?,
    })
}

/// Pairs the names of projections with their outputs; a single name stands for all of them, fused.
fn parts(names: &[&str], outputs: &[usize], name: impl Fn(&str) -> String) -> Vec<(String, usize)> {
    match names {
        [fused] => vec![(name(fused), outputs.iter().sum())],
        names => names
            .iter()
            .zip(outputs)
            .map(|(part, &outputs)| (name(part), outputs))
            .collect(),
    }
}

/// Reads the weight of a norm, with the 1 that some families leave out of it.
fn read_norm(
    checkpoint: &mut Checkpoint,
    config: &Config,
    name: &str,
    width: usize,
) -> Result<Vec<f32>> {
    let mut values = checkpoint.tensor(&format!("{name}.weight"), &[width])?;
    if config.norm_adds_one {
        values.iter_mut().for_each(|value| *value += 1.0);
    }
    Ok(values)
}

/// All weights of a decoder, in a network's form.
pub struct Weights<F: Form> {
    /// The token embeddings, `[vocab_size, hidden_size]`, as a linear layer whose rows are looked up.
    pub embed_tokens: F::Linear,
    /// The blocks, in order.
    pub blocks: Vec<BlockWeights<F>>,
    /// The norm after the last block, `[hidden_size]`.
    pub norm: F::Vector,
    /// The head, `[vocab_size, hidden_size]`; none where it is the embedding.
    pub lm_head: Option<F::Linear>,
}

impl<F: Form> Weights<F> {
    /// Reads a checkpoint; `form_of` gives the form of each block's weights, those outside being of the first
    /// (the embedding) and the last block's (norm and head).
    ///
    /// # Errors
    /// As [`Checkpoint::append`]; [`ModelError::UntiedHead`] where a head that the config ties to the embedding is
    /// stored too and differs; [`ModelError::ExtraTensor`] for a tensor that has no place.
    pub fn read<'f>(
        mut checkpoint: Checkpoint,
        config: &Config,
        form_of: impl Fn(usize) -> &'f F,
    ) -> Result<Self>
    where
        F: 'f,
    {
        let layers = config.num_hidden_layers;
        let (first, last) = (form_of(0), form_of(layers - 1));
        let prefix = checkpoint.prefix(config);
        let (embedding, head) = (
            (format!("{prefix}embed_tokens"), config.vocab_size),
            ("lm_head".to_owned(), config.vocab_size),
        );
        let hidden = config.hidden_size;
        let embed_tokens = if config.tie_word_embeddings && checkpoint.contains("lm_head.weight") {
            let embed_tokens = Projection::read(&mut checkpoint, &[embedding], hidden, false)?;
            let stored =
                Projection::read(&mut checkpoint, std::slice::from_ref(&head), hidden, false)?;
            if stored.weight != embed_tokens.weight {
                return Err(ModelError::UntiedHead {
                    path: checkpoint.path.clone(),
                });
            }
            first.linear(embed_tokens)?
        } else {
            read_linear(first, &mut checkpoint, &[embedding], hidden, false)?
        };
        let lm_head = if config.tie_word_embeddings {
            None
        } else {
            Some(read_linear(last, &mut checkpoint, &[head], hidden, false)?)
        };
        let norm = read_norm(&mut checkpoint, config, &format!("{prefix}norm"), hidden)?;
        let blocks = (0..layers)
            .map(|layer| BlockWeights::read(&mut checkpoint, config, prefix, layer, form_of(layer)))
            .collect::<Result<_>>()?;
        checkpoint.finish(config.names.others)?;
        Ok(Self {
            embed_tokens,
            blocks,
            norm: last.vector(norm)?,
            lm_head,
        })
    }
}
