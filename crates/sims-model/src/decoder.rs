//! The decoder: tokens and a KV cache in, hidden states and logits out.
//!
//! One forward pass, in two forms: `fast` on the CPU's own kernels, `plain` in candle's operations.
//! The plain form runs on every device, and is what tests hold the fast one against. On a CUDA device it calls
//! own kernels ([`gpu`](crate::gpu)) between the products.

mod fast;
mod plain;
mod routing;

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use crate::gpu::{Launcher, SamplingKernel, launcher_of};
use crate::memory::{Footprint, check_room};
use crate::ops::InstructionSet;
use crate::sampler::SamplingParams;
use crate::weights::Checkpoint;
use crate::{Adapter, Batch, Config, Hook, KvCache, ModelError, Result, Segment, Site};

pub use plain::TracedDecoder;

/// The type that weights are held in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 32-bit floats.
    #[default]
    F32,
    /// The upper half of a 32-bit float. On the CPU weights, keys and values are stored so, and the inputs
    /// of each linear layer are rounded to it; hidden states and sums stay f32.
    Bf16,
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

impl FromStr for Dtype {
    type Err = ModelError;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => Err(ModelError::Setting {
                setting: "dtype",
                message: format!("`{text}` is neither f32 nor bf16"),
            }),
        }
    }
}

/// Which implementation computes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Kernels {
    /// The fastest on the device: own kernels on the CPU and on CUDA devices.
    #[default]
    Fastest,
    /// The CPU's own kernels, compiled for these instructions.
    Cpu(InstructionSet),
    /// Candle's operations.
    Candle,
}

/// A decoder with its weights; immutable, so it can be shared by threads.
pub struct Decoder {
    config: Config,
    /// In the order of the blocks that they hold; at least one.
    devices: Vec<Device>,
    dtype: Dtype,
    network: Network,
}

/// The weights, in the form that the kernels take.
enum Network {
    Fast(fast::Network),
    Plain(plain::Network),
}

impl Decoder {
    /// Reads `config.json` and the weights in `directory`, or a GGUF file.
    ///
    /// With several devices each holds a run of blocks, and the residual stream goes from one to the next.
    ///
    /// # Errors
    /// A [`ModelError`] with the file and the key or tensor at fault, or [`ModelError::Setting`] for kernels
    /// that the device does not run, no device, or more of them than blocks.
    pub fn load(
        directory: &Path,
        devices: &[Device],
        dtype: Dtype,
        kernels: Kernels,
    ) -> Result<Self> {
        let launcher_of = launchers(kernels);
        Self::load_with(directory, devices, dtype, kernels, None, launcher_of)
    }

    /// As [`load`](Self::load), with an adapter merged into the weights.
    ///
    /// # Errors
    /// As [`load`](Self::load), and [`ModelError::Adapter`] for one that does not fit the model.
    pub fn load_adapted(
        directory: &Path,
        devices: &[Device],
        dtype: Dtype,
        kernels: Kernels,
        adapter: &Adapter,
    ) -> Result<Self> {
        let launcher_of = launchers(kernels);
        Self::load_with(
            directory,
            devices,
            dtype,
            kernels,
            Some(adapter),
            launcher_of,
        )
    }

    /// Reads a decoder in f32 that runs what is written for CUDA devices on the CPU; for tests of that.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_emulated(directory: &Path, launcher: &Arc<dyn Launcher>) -> Result<Self> {
        let launcher_of = |_: &Device| Ok(Some(launcher.clone()));
        Self::load_with(
            directory,
            &[Device::Cpu],
            Dtype::F32,
            Kernels::Candle,
            None,
            launcher_of,
        )
    }

    fn load_with(
        directory: &Path,
        devices: &[Device],
        dtype: Dtype,
        kernels: Kernels,
        adapter: Option<&Adapter>,
        launcher_of: impl Fn(&Device) -> Result<Option<Arc<dyn Launcher>>>,
    ) -> Result<Self> {
        let config = Config::open(directory)?;
        let setting = |setting, message: String| Err(ModelError::Setting { setting, message });
        if devices.is_empty() || devices.len() > config.num_hidden_layers {
            let message = format!(
                "{} devices for a model of {} blocks; give from 1 to as many as there are blocks",
                devices.len(),
                config.num_hidden_layers
            );
            return setting("device", message);
        }
        let mut checkpoint = Checkpoint::open(directory, dtype)?;
        if let Some(adapter) = adapter {
            checkpoint.adapt(adapter, &config)?;
        }
        let set = match (kernels, devices) {
            (Kernels::Fastest, [Device::Cpu]) => Some(InstructionSet::detect()),
            (Kernels::Cpu(set), [Device::Cpu]) => Some(set),
            (Kernels::Fastest | Kernels::Candle, _) => None,
            (Kernels::Cpu(_), _) => {
                let message = "the CPU's kernels run on one cpu device only".to_owned();
                return setting("kernels", message);
            }
        };
        let network = match set {
            Some(set) => Network::Fast(fast::Network::read(checkpoint, &config, set, dtype)?),
            None => Network::Plain(plain::Network::read(
                checkpoint,
                &config,
                devices,
                dtype,
                launcher_of,
            )?),
        };
        Ok(Self {
            config,
            devices: devices.to_vec(),
            dtype,
            network,
        })
    }

    /// Runs the batch through every block, writing its keys and values to `cache`.
    ///
    /// Returns the hidden states after the final norm: `[rows, hidden_size]`, f32 on the CPU and the
    /// decoder's dtype elsewhere. `hook` is called after each block that it wants.
    ///
    /// # Errors
    /// [`ModelError::Batch`] when the batch breaks a rule of [`Batch`] or does not fit the cache,
    /// [`ModelError::TooLong`] beyond the model's context, [`ModelError::OutOfMemory`] when the device has no room
    /// for the cache or the rows, and whatever the hook returns.
    pub fn forward(
        &self,
        batch: &Batch,
        cache: &mut KvCache,
        hook: Option<&mut dyn Hook>,
    ) -> Result<Tensor> {
        self.run(batch, cache, hook, self.config.num_hidden_layers)
    }

    /// Runs the batch through the blocks up to `last_layer` (0-based) for what `hook` reads there.
    ///
    /// The cache then holds keys and values of these blocks alone: later passes over its slots must not go further.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), and [`ModelError::Setting`] for a layer that the decoder does not have.
    pub fn forward_through(
        &self,
        batch: &Batch,
        cache: &mut KvCache,
        hook: &mut dyn Hook,
        last_layer: usize,
    ) -> Result<()> {
        let layers = self.config.num_hidden_layers;
        if last_layer >= layers {
            let message = format!("{last_layer} is not one of the model's {layers} layers");
            return Err(ModelError::Setting {
                setting: "last_layer",
                message,
            });
        }
        self.run(batch, cache, Some(hook), last_layer + 1)?;
        Ok(())
    }

    /// Runs the first `blocks` blocks and the final norm.
    fn run(
        &self,
        batch: &Batch,
        cache: &mut KvCache,
        hook: Option<&mut dyn Hook>,
        blocks: usize,
    ) -> Result<Tensor> {
        batch.check(&self.config)?;
        cache.admit(batch)?;
        if hook.as_ref().is_some_and(|hook| {
            !(0..blocks).any(|layer| hook.wants(layer) || hook.wants_heads(layer))
        }) {
            return Err(ModelError::IdleHook { layers: blocks });
        }
        let footprint = self.footprint();
        if cache.layers.is_none() {
            if self.device().is_cpu() {
                let bytes = cache.slots().checked_mul(footprint.kv_slot);
                check_room(bytes, "keys and values")?;
            }
            cache.layers = Some(match &self.network {
                Network::Fast(network) => network.new_cache(cache.slots()),
                Network::Plain(network) => network.new_cache(cache.slots())?,
            });
        }
        if self.device().is_cpu() {
            let bytes = batch.tokens.len().checked_mul(footprint.row);
            check_room(bytes, "a forward pass")?;
        }
        match &self.network {
            Network::Fast(network) => network.forward(batch, cache, hook, blocks),
            Network::Plain(network) => network.forward(batch, cache, hook, blocks),
        }
    }

    /// Returns the logits `[n, vocab_size]`, f32, of rows `[n, hidden_size]` that [`forward`](Self::forward) returned.
    ///
    /// # Errors
    /// [`ModelError::Tensor`] when the rows have another shape, dtype or device, [`ModelError::OutOfMemory`] when there
    /// is no room for the logits.
    pub fn logits(&self, hidden_rows: &Tensor) -> Result<Tensor> {
        if self.device().is_cpu() {
            let rows = hidden_rows.elem_count() / self.config.hidden_size;
            let bytes = rows.checked_mul(self.footprint().logits_row);
            check_room(bytes, "logits")?;
        }
        match &self.network {
            Network::Fast(network) => network.logits(hidden_rows),
            Network::Plain(network) => network.logits(hidden_rows),
        }
    }

    /// Returns the forward pass that candle can differentiate; the decoder has to be read with [`Kernels::Candle`], on
    /// one device.
    ///
    /// # Errors
    /// [`ModelError::Setting`] for other kernels or several devices.
    pub fn traced(&self) -> Result<TracedDecoder<'_>> {
        match (&self.network, &self.devices[..]) {
            (Network::Plain(network), [_]) => TracedDecoder::new(network),
            _ => Err(plain::untraceable()),
        }
    }

    /// Returns what chooses tokens on the device that logits are on, if it can under these parameters.
    pub(crate) fn sampling_kernel(&self, params: &SamplingParams) -> Option<&SamplingKernel> {
        let Network::Plain(network) = &self.network else {
            return None;
        };
        let kernel = &network.head_kernels()?.sampling;
        kernel
            .takes(params, self.config.vocab_size)
            .then_some(kernel)
    }

    /// Returns the model's config.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the device that the first block is on.
    pub fn device(&self) -> &Device {
        &self.devices[0]
    }

    /// Returns the devices, in the order of the blocks that they hold.
    pub fn devices(&self) -> &[Device] {
        &self.devices
    }

    /// Returns the type that the weights are held in.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Returns an estimate of the memory that the decoder takes.
    pub fn footprint(&self) -> Footprint {
        match &self.network {
            Network::Fast(network) => Footprint {
                weights: network.weight_bytes(),
                ..Footprint::on_cpu(&self.config, self.dtype)
            },
            Network::Plain(network) => {
                let dtype = if network.dtype() == DType::BF16 {
                    Dtype::Bf16
                } else {
                    Dtype::F32
                };
                Footprint::on_device(&self.config, dtype)
            }
        }
    }

    /// Returns the bytes that the keys and values of one position take, at all layers.
    pub fn kv_slot_bytes(&self) -> usize {
        self.footprint().kv_slot
    }

    /// Returns the bytes that the CPU kernels' matrices take, in memory or in the file's mapping; none for other forms.
    pub fn weight_bytes(&self) -> Option<usize> {
        match &self.network {
            Network::Fast(network) => Some(network.weight_bytes()),
            Network::Plain(_) => None,
        }
    }

    /// Returns the type of hidden states: f32 on the CPU, the weights' elsewhere.
    pub fn hidden_dtype(&self) -> DType {
        match &self.network {
            Network::Fast(_) => DType::F32,
            Network::Plain(network) => network.dtype(),
        }
    }
}

/// What makes a device's own kernels, if it is one for them.
type LauncherOf = fn(&Device) -> Result<Option<Arc<dyn Launcher>>>;

/// Returns what makes own kernels where `kernels` asks for them.
fn launchers(kernels: Kernels) -> LauncherOf {
    match kernels {
        Kernels::Fastest => launcher_of,
        Kernels::Cpu(_) | Kernels::Candle => |_: &Device| Ok(None),
    }
}

/// Calls the hook at a site of `layer`, and checks what it returns.
fn call_hook(
    hook: &mut dyn Hook,
    site: Site,
    layer: usize,
    segments: &[Segment],
    hidden: &Tensor,
) -> Result<Option<Tensor>> {
    let replacement = match site {
        Site::Block => hook.on_block(layer, segments, hidden)?,
        Site::Heads => hook.on_heads(layer, segments, hidden)?,
    };
    if let Some(new) = &replacement
        && (new.shape() != hidden.shape()
            || new.dtype() != hidden.dtype()
            || !new.device().same_device(hidden.device()))
    {
        let message = format!(
            "it returned {:?} {:?} on {:?} in place of {:?} {:?} on {:?}",
            new.dtype(),
            new.shape(),
            new.device().location(),
            hidden.dtype(),
            hidden.shape(),
            hidden.device().location(),
        );
        return Err(ModelError::Hook { layer, message });
    }
    Ok(replacement)
}

/// The error for a cache that is not of the kind, depth or width that a network writes.
fn foreign_cache() -> ModelError {
    ModelError::Setting {
        setting: "cache",
        message: "it was made for another decoder".to_owned(),
    }
}
