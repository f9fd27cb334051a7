//! Resumable state of a training run, and the finished model's files.
//!
//! A checkpoint is one safetensors file: every parameter with both of its moments, and the
//! counters as JSON in the metadata. It replaces the one before it by a rename, so an interrupted
//! write leaves the old one.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use candle_core::{Device, Tensor};
use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};

use super::adamw::{AdamW, Moments};
use super::network::{Network, Parameter};
use super::record::Totals;
use super::tensors::with_elements;
use super::{Settings, TrainError};

/// Name of the checkpoint in the output directory.
pub(super) const CHECKPOINT: &str = "checkpoint.safetensors";
const KEY: &str = "toyworld-training";

/// The counters of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// What the run was started with; resuming with other settings is refused.
    pub(super) settings: Settings,
    /// Steps done.
    pub(super) step: u64,
    /// Tokens seen.
    pub(super) tokens: u64,
    /// Index of the next document.
    pub(super) next_document: u64,
    /// Wall-clock seconds spent in all sittings.
    pub(super) seconds: f64,
    /// Processor seconds spent in all sittings.
    pub(super) core_seconds: f64,
    /// Training losses since the last row of the log.
    pub(super) totals: Totals,
}

/// Writes `bytes` to `path` by way of a temporary file and a rename.
///
/// # Errors
/// With the path, when the file cannot be written.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), TrainError> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|source| TrainError::Io {
        path: path.to_owned(),
        source,
    })
}

fn to_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|x| x.to_le_bytes()).collect()
}

fn from_bytes(bytes: &[u8]) -> Vec<f32> {
    bytes
        .chunks_exact(4)
        .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        .collect()
}

fn write_tensors(
    path: &Path,
    tensors: &BTreeMap<String, (Vec<usize>, Vec<u8>)>,
    metadata: HashMap<String, String>,
) -> Result<(), TrainError> {
    let bad = |source| TrainError::Tensors {
        path: path.to_owned(),
        source,
    };
    let views = tensors
        .iter()
        .map(|(name, (shape, bytes))| {
            Ok((name, TensorView::new(Dtype::F32, shape.clone(), bytes)?))
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(bad)?;
    let bytes = safetensors::serialize(views, Some(metadata)).map_err(bad)?;
    write_atomically(path, &bytes)
}

/// Writes the checkpoint into `dir`.
///
/// # Errors
/// When it cannot be written.
pub(super) fn save(
    dir: &Path,
    progress: &Progress,
    parameters: &[Parameter],
    adamw: &AdamW,
) -> Result<(), TrainError> {
    let mut tensors = BTreeMap::new();
    for (p, moments) in parameters.iter().zip(adamw.moments()) {
        let shape = p.var.dims().to_vec();
        let value = with_elements(&p.var, to_bytes)?;
        tensors.insert(p.name.clone(), (shape.clone(), value));
        tensors.insert(
            format!("{}.m", p.name),
            (shape.clone(), to_bytes(&moments.first)),
        );
        tensors.insert(format!("{}.v", p.name), (shape, to_bytes(&moments.second)));
    }
    let json = serde_json::to_string(progress).expect("counters are plain numbers");
    write_tensors(
        &dir.join(CHECKPOINT),
        &tensors,
        HashMap::from([(KEY.to_owned(), json)]),
    )
}

/// Reads the checkpoint of `dir` into the parameters and the optimizer; `None` when there is none.
///
/// # Errors
/// When the file is damaged or belongs to a run with other settings.
pub(super) fn restore(
    dir: &Path,
    settings: &Settings,
    parameters: &[Parameter],
    adamw: &mut AdamW,
) -> Result<Option<Progress>, TrainError> {
    let path = dir.join(CHECKPOINT);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(TrainError::Io { path, source }),
    };
    let damaged = |reason: String| TrainError::Checkpoint {
        path: path.clone(),
        reason,
    };
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| damaged(e.to_string()))?;
    let json = metadata.metadata().as_ref().and_then(|m| m.get(KEY));
    let json = json.ok_or_else(|| damaged("it holds no counters".to_owned()))?;
    let progress: Progress = serde_json::from_str(json).map_err(|e| damaged(e.to_string()))?;
    if progress.settings != *settings {
        return Err(TrainError::OtherSettings { path });
    }
    let tensors = SafeTensors::deserialize(&bytes).map_err(|e| damaged(e.to_string()))?;
    let read = |name: &str, shape: &[usize]| {
        let view = tensors.tensor(name).map_err(|e| damaged(e.to_string()))?;
        if view.shape() != shape || view.dtype() != Dtype::F32 {
            return Err(damaged(format!("{name} has shape {:?}", view.shape())));
        }
        Ok(from_bytes(view.data()))
    };
    let mut moments = Vec::with_capacity(parameters.len());
    for p in parameters {
        let shape = p.var.dims();
        p.var.set(&Tensor::from_vec(
            read(&p.name, shape)?,
            shape,
            &Device::Cpu,
        )?)?;
        moments.push(Moments {
            first: read(&format!("{}.m", p.name), shape)?,
            second: read(&format!("{}.v", p.name), shape)?,
        });
    }
    adamw.set_moments(moments);
    Ok(Some(progress))
}

/// Writes `model.safetensors` and `config.json` as Hugging Face's Llama reads them.
///
/// # Errors
/// When a file cannot be written.
pub(super) fn write_model(dir: &Path, network: &Network, end: u32) -> Result<(), TrainError> {
    let tensors = network
        .hugging_face_tensors()?
        .into_iter()
        .map(|(name, (shape, data))| (name, (shape, to_bytes(&data))))
        .collect();
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    write_tensors(&dir.join("model.safetensors"), &tensors, metadata)?;
    let size = network.size();
    let config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": size.vocab_size,
        "hidden_size": size.hidden_size,
        "intermediate_size": size.intermediate_size,
        "num_hidden_layers": size.num_hidden_layers,
        "num_attention_heads": size.num_attention_heads(),
        "num_key_value_heads": size.num_attention_heads(),
        "head_dim": size.hidden_size / size.num_attention_heads(),
        "max_position_embeddings": size.max_position_embeddings,
        "hidden_act": "silu",
        "rms_norm_eps": size.rms_norm_eps,
        "rope_theta": size.rope_theta,
        "attention_bias": false,
        "mlp_bias": false,
        "tie_word_embeddings": true,
        "bos_token_id": null,
        "eos_token_id": end,
        "torch_dtype": "float32",
    });
    write_json(&dir.join("config.json"), &config)
}

/// Writes pretty-printed JSON with a final newline.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn write_json(path: &Path, value: &serde_json::Value) -> Result<(), TrainError> {
    write_atomically(path, format!("{value:#}\n").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::super::batch::{Batch, Example, Kind};
    use super::super::network::NetworkSize;
    use super::*;

    /// Logits that transformers 5.23 computed in f32 from the very files this test writes, with
    /// `LlamaForCausalLM.from_pretrained(dir)(torch.tensor([tokens])).logits[0, -1, :8]`.
    const TRANSFORMERS: [f32; 8] = [
        1.056783, -2.055498, -1.024695, -0.3932475, -0.3090007, 1.769944, 3.030703, -1.213649,
    ];

    #[test]
    fn written_model_gives_the_logits_that_transformers_gives() -> Result<(), TrainError> {
        let size = NetworkSize {
            vocab_size: 40,
            hidden_size: 64,
            ..NetworkSize::tiny(40)
        };
        let network = Network::new(size, 11)?;
        // Larger than the initial weights, so that attention and positions matter.
        for p in network.parameters().iter().filter(|p| p.decays) {
            p.var.set(&(p.var.as_tensor() * 8.0)?)?;
        }
        let dir = tempfile::tempdir().expect("temporary directory");
        write_model(dir.path(), &network, 4)?;
        let tokens: Vec<u32> = (0..60).map(|i| (i * i + 3 * i) % 40).collect();
        let example = Example {
            weights: vec![1.0; 60],
            tokens,
            kind: Kind::Chat,
        };
        let logits = network.logits(&Batch::pack(&[example])?)?;
        let last = logits.narrow(0, 59, 1)?.flatten_all()?.to_vec1::<f32>()?;
        for (i, (own, theirs)) in last.iter().zip(TRANSFORMERS).enumerate() {
            // Six blocks of f32 sums in another order.
            assert!(
                (own - theirs).abs() < 1e-4,
                "token {i}: {own} instead of {theirs}"
            );
        }
        Ok(())
    }
}
