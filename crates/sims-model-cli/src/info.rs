//! `sims-model info`: the figures of a model, from its config and the headers of its weight files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context;
use memmap2::Mmap;
use safetensors::SafeTensors;
use serde::Serialize;
use serde_json::Value;
use sims_artifact::{Digest, ModelManifest};
use sims_model::generate::BatchLimits;
use sims_model::gguf::{GgufFile, is_gguf};
use sims_model::memory::Footprint;
use sims_model::{Config, Dtype};

use crate::exit::bad_input;
use crate::open::print_json;

/// Print a model's architecture, size and digest
///
/// Weights count in the type that they would be held in; the planned size is the most that sampling in the default
/// batch takes on a CPU.
///
/// The digest covers the files that decide what the model computes; a steering names the model that it belongs to by
/// it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sims-model info data/tiny\n  \
                  sims-model info data/tiny --json")]
pub(crate) struct Args {
    /// Hugging Face directory of the model, or GGUF file
    #[arg(value_name = "DIR")]
    model: PathBuf,
    /// Type that the weights would be held in: f32 or bf16
    #[arg(long = "dtype", default_value_t)]
    held: Dtype,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What is known about a model.
#[derive(Debug, Serialize)]
struct Info {
    /// The class that config.json names.
    architecture: String,
    layers: usize,
    /// Width of the residual stream.
    hidden: usize,
    heads: usize,
    key_value_heads: usize,
    head_size: usize,
    feed_forward: usize,
    vocabulary: usize,
    /// Longest sequence, in tokens.
    context: usize,
    tied_embeddings: bool,
    /// Distinct weights; a tied head counts once.
    parameters: usize,
    /// Size of the weights as stored.
    bytes: usize,
    /// Type that most of the weights are stored in.
    dtype: String,
    /// Bytes of the weights on the CPU, in the type asked for.
    weight_bytes: usize,
    /// Bytes of one position's keys and values, at all layers.
    kv_bytes_per_token: usize,
    /// Bytes of the weights, and of the slots and rows of the default batch, at most.
    planned_bytes: usize,
    digest: Digest,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let info = Info::of(&args.model, args.held)?;
    if args.json {
        return print_json(&info);
    }
    let fields = serde_json::to_value(&info)?;
    for (name, value) in fields.as_object().into_iter().flatten() {
        let text = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        print_line!("{:<16} {text}", name.replace('_', " "));
    }
    Ok(())
}

impl Info {
    fn of(directory: &Path, held: Dtype) -> anyhow::Result<Self> {
        let config = Config::open(directory)?;
        let manifest = ModelManifest::of_dir(directory)?;
        let weights = Weights::of(directory, config.tie_word_embeddings)?;
        let mut footprint = Footprint::on_cpu(&config, held);
        if is_gguf(directory) {
            // Matrices stay as they are stored.
            footprint.weights = weights.bytes;
        }
        let context = config.max_position_embeddings;
        Ok(Self {
            weight_bytes: footprint.weights,
            kv_bytes_per_token: footprint.kv_slot,
            planned_bytes: footprint.planned(&BatchLimits::default(), context),
            architecture: architecture(directory)?.unwrap_or_else(|| config.model_type.clone()),
            layers: config.num_hidden_layers,
            hidden: config.hidden_size,
            heads: config.num_attention_heads,
            key_value_heads: config.num_key_value_heads,
            head_size: config.head_dim,
            feed_forward: config.intermediate_size,
            vocabulary: config.vocab_size,
            context: config.max_position_embeddings,
            tied_embeddings: config.tie_word_embeddings,
            parameters: weights.parameters,
            bytes: weights.bytes,
            dtype: weights.dtype,
            digest: manifest.digest,
        })
    }
}

/// Sums over the headers of the weight files.
struct Weights {
    parameters: usize,
    bytes: usize,
    dtype: String,
}

impl Weights {
    fn of(directory: &Path, tied: bool) -> anyhow::Result<Self> {
        let (mut parameters, mut bytes) = (0, 0);
        let mut bytes_by_dtype: BTreeMap<String, usize> = BTreeMap::new();
        if is_gguf(directory) {
            for tensor in GgufFile::open(directory)?.weights()? {
                parameters += tensor.elements;
                bytes += tensor.bytes;
                *bytes_by_dtype
                    .entry(tensor.format.to_string().to_lowercase())
                    .or_default() += tensor.bytes;
            }
            return Ok(Self::new(parameters, bytes, bytes_by_dtype));
        }
        for name in weight_files(directory)? {
            let path = directory.join(name);
            let file = File::open(&path)
                .map_err(|error| bad_input(format!("cannot read {}: {error}", path.display())))?;
            // SAFETY: the file is only read, and nothing writes to a model directory in use.
            let map = unsafe { Mmap::map(&file) }
                .with_context(|| format!("cannot map {}", path.display()))?;
            let tensors = SafeTensors::deserialize(&map).map_err(|error| {
                bad_input(format!(
                    "{} is not a complete safetensors file: {error}",
                    path.display()
                ))
            })?;
            for (name, tensor) in tensors.iter() {
                let size = tensor.data().len();
                bytes += size;
                *bytes_by_dtype
                    .entry(format!("{:?}", tensor.dtype()).to_lowercase())
                    .or_default() += size;
                if !(tied && name == "lm_head.weight") {
                    parameters += tensor.shape().iter().product::<usize>();
                }
            }
        }
        Ok(Self::new(parameters, bytes, bytes_by_dtype))
    }

    fn new(parameters: usize, bytes: usize, bytes_by_dtype: BTreeMap<String, usize>) -> Self {
        let dtype = bytes_by_dtype.into_iter().max_by_key(|(_, size)| *size);
        Self {
            parameters,
            bytes,
            dtype: dtype.map_or_else(String::new, |(dtype, _)| dtype),
        }
    }
}

/// Names of the weight files: the one, or those that the index lists.
fn weight_files(directory: &Path) -> anyhow::Result<BTreeSet<String>> {
    let index = directory.join("model.safetensors.index.json");
    if directory.join("model.safetensors").exists() || !index.exists() {
        return Ok(BTreeSet::from(["model.safetensors".to_owned()]));
    }
    let files = read_json(&index)?;
    let names = files["weight_map"].as_object().into_iter().flatten();
    Ok(names
        .filter_map(|(_, file)| file.as_str().map(str::to_owned))
        .collect())
}

/// The first of the architectures that config.json lists; none for a GGUF file.
fn architecture(directory: &Path) -> anyhow::Result<Option<String>> {
    if is_gguf(directory) {
        return Ok(None);
    }
    let config = read_json(&directory.join("config.json"))?;
    Ok(config["architectures"][0].as_str().map(str::to_owned))
}

fn read_json(path: &Path) -> anyhow::Result<Value> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| bad_input(format!("cannot read {}: {error}", path.display())))?;
    serde_json::from_str(&text)
        .map_err(|error| bad_input(format!("{} is not valid: {error}", path.display())))
}
