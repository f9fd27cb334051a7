//! How much memory there is, how much a decoder takes, and what batch fits.
//!
//! Everything here is an estimate that decides how much runs at once: it changes no result. What it gets wrong is
//! answered where memory runs out, by a smaller batch.

use std::fs;
use std::path::{Component, Path, PathBuf};

use candle_core::Device;

use crate::config::LayerConfig;
use crate::generate::BatchLimits;
use crate::ops::lanes::LANES;
use crate::score::ScoreLimits;
use crate::{Config, Decoder, Dtype, ModelError, Result};

/// The longest attended context that the activations of a device are estimated for.
const USUAL_CONTEXT: usize = 2048;

/// The fewest rows that the activations of a pass are cut down to in advance.
const FEWEST_ROWS: usize = 64;

/// Below this a buffer is taken without asking first.
const SMALL_BYTES: usize = 16 << 20;

/// Bytes that a decoder takes, by what they grow with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footprint {
    /// The weights.
    pub weights: usize,
    /// The keys and values of one position, at all layers.
    pub kv_slot: usize,
    /// The intermediate results of one row of a forward pass.
    pub row: usize,
    /// The logits of one row.
    pub logits_row: usize,
}

impl Footprint {
    /// Returns the footprint on the CPU's own kernels: matrices, keys and values in `dtype`, the rest in f32.
    pub fn on_cpu(config: &Config, dtype: Dtype) -> Self {
        let padded_head = config.head_dim.next_multiple_of(LANES);
        let kv_heads = config.num_key_value_heads;
        let qkv = config.query_size() + 2 * config.key_value_size();
        let width = 4 * config.hidden_size + qkv + config.query_size() + 3 * widest(config);
        let slot = config.num_hidden_layers * kv_heads * (config.head_dim + padded_head);
        Self {
            weights: weights(config, dtype),
            kv_slot: bytes_of(dtype) * slot,
            row: 4 * width,
            // Once in the kernel's buffer and once with the caller.
            logits_row: 8 * config.vocab_size,
        }
    }

    /// Returns the footprint in candle's operations on another device, all but sums in `dtype`.
    pub fn on_device(config: &Config, dtype: Dtype) -> Self {
        let bytes = bytes_of(dtype);
        let (kv, query) = (config.key_value_size(), config.query_size());
        let width = 6 * config.hidden_size + 3 * (query + 2 * kv) + 4 * widest(config);
        let attended = config.max_position_embeddings.min(USUAL_CONTEXT);
        // Scores, masked scores and weights in f32; the gathered keys and values of a decode step's rows.
        let attention = 12 * config.num_attention_heads * attended + 4 * bytes * kv * attended;
        Self {
            weights: weights(config, dtype),
            kv_slot: 2 * bytes * config.num_hidden_layers * kv,
            row: bytes * width + attention,
            logits_row: (4 + bytes) * config.vocab_size,
        }
    }

    /// Returns what a run with these limits takes at most, the weights included.
    ///
    /// `context` is the model's longest sequence: no response has more slots.
    pub fn planned(&self, limits: &BatchLimits, context: usize) -> usize {
        let slots = limits
            .max_slots
            .min(limits.max_sequences.saturating_mul(context));
        self.weights
            .saturating_add(self.kv_slot.saturating_mul(slots))
            .saturating_add(self.activations(limits))
    }

    /// Returns what the rows of one pass take.
    fn activations(&self, limits: &BatchLimits) -> usize {
        let prefill = self.row.saturating_mul(limits.max_prefill_rows);
        prefill.saturating_add((self.row + self.logits_row).saturating_mul(limits.max_sequences))
    }
}

/// How a kind of device is used.
#[derive(Debug, Clone, Copy)]
struct Caps {
    /// Throughput saturates here.
    sequences: usize,
    rows: usize,
    /// Parts in eight of the free memory that a run may take.
    eighths: usize,
}

impl Caps {
    fn of(device: &Device) -> Self {
        if device.is_cpu() {
            // Other programs need the CPU's memory too.
            Self {
                sequences: 64,
                rows: 1024,
                eighths: 4,
            }
        } else {
            Self {
                sequences: 256,
                rows: 4096,
                eighths: 7,
            }
        }
    }

    fn budget(self, free: usize) -> usize {
        free / 8 * self.eighths
    }
}

impl BatchLimits {
    /// Returns limits that fit what `decoder`'s device has free now; the defaults where that is not known.
    ///
    /// At most 64 sequences and 1 024 prompt rows on the CPU, 256 and 4 096 elsewhere: more is no faster.
    pub fn for_decoder(decoder: &Decoder) -> Self {
        let caps = Caps::of(decoder.device());
        let context = decoder.config().max_position_embeddings;
        match free_for(decoder) {
            Some(free) => Self::fitting(caps, &decoder.footprint(), context, free),
            None => Self::default(),
        }
    }

    fn fitting(caps: Caps, footprint: &Footprint, context: usize, free: usize) -> Self {
        let budget = caps.budget(free);
        let mut limits = Self {
            max_sequences: caps.sequences,
            max_prefill_rows: caps.rows,
            ..Self::default()
        };
        // A pass takes a quarter at most, so that slots are left for its rows.
        while footprint.activations(&limits) > budget / 4 {
            if limits.max_prefill_rows > FEWEST_ROWS {
                limits.max_prefill_rows /= 2;
            } else if limits.max_sequences > 1 {
                limits.max_sequences /= 2;
            } else {
                break;
            }
        }
        let slots = |bytes: usize| {
            bytes.saturating_sub(footprint.activations(&limits)) / footprint.kv_slot.max(1)
        };
        // One sequence may take more than a fair part of the memory: it can run in no other way.
        limits.max_slots = slots(budget)
            .min(limits.max_sequences.saturating_mul(context))
            .max(slots(free).min(context));
        limits
    }
}

impl ScoreLimits {
    /// Returns limits that fit what `decoder`'s device has free now; the defaults where that is not known.
    ///
    /// At most 1 024 rows a pass on the CPU, 4 096 elsewhere: more is no faster.
    pub fn for_decoder(decoder: &Decoder) -> Self {
        let caps = Caps::of(decoder.device());
        match free_for(decoder) {
            Some(free) => Self::fitting(caps, &decoder.footprint(), free),
            None => Self::default(),
        }
    }

    fn fitting(caps: Caps, footprint: &Footprint, free: usize) -> Self {
        let mut max_rows = caps.rows;
        let bytes = footprint.row + footprint.kv_slot;
        while max_rows > FEWEST_ROWS && max_rows.saturating_mul(bytes) > caps.budget(free) / 2 {
            max_rows /= 2;
        }
        Self { max_rows }
    }
}

/// Returns the bytes that `device` has free, or `None` where they cannot be read.
///
/// For the CPU: what Linux calls available, and what the limits of the process's control groups leave of it.
pub fn free_bytes(device: &Device) -> Option<usize> {
    match device {
        Device::Cpu => free_on_host(Path::new("/")),
        #[cfg(feature = "cuda")]
        Device::Cuda(device) => {
            let (free, _) = device.cuda_stream().context().mem_get_info().ok()?;
            Some(free)
        }
        _ => None,
    }
}

/// Returns what to tell the user after memory ran out `halvings` times, if it did.
pub fn warning(halvings: usize) -> Option<String> {
    let times = if halvings == 1 {
        "once"
    } else {
        "several times"
    };
    (halvings > 0).then(|| {
        format!(
            "memory ran out and the batch was halved {times}; a smaller --batch-size saves the attempts"
        )
    })
}

/// Returns what all devices of a decoder have free together, as far as an even share of the blocks can use it.
fn free_for(decoder: &Decoder) -> Option<usize> {
    let devices = decoder.devices();
    let free = devices.iter().map(free_bytes);
    let least = free.collect::<Option<Vec<_>>>()?.into_iter().min()?;
    least.checked_mul(devices.len())
}

/// Checks that a buffer of `bytes` could be taken now, without touching it.
///
/// # Errors
/// [`ModelError::OutOfMemory`] when it could not, which the caller can survive; taking it would abort the process.
pub(crate) fn check_room(bytes: Option<usize>, what: &str) -> Result<()> {
    let refuse = |size: String| {
        Err(ModelError::OutOfMemory {
            message: format!("{size} for {what}"),
        })
    };
    match bytes {
        Some(bytes) if bytes < SMALL_BYTES => Ok(()),
        Some(bytes) => match Vec::<u8>::new().try_reserve_exact(bytes) {
            Ok(()) => Ok(()),
            Err(_) => refuse(format!("{} MiB", bytes >> 20)),
        },
        None => refuse("more bytes than there are addresses".to_owned()),
    }
}

/// Returns whether an operation failed because the device has no memory left.
pub(crate) fn is_out_of_memory(error: &candle_core::Error) -> bool {
    // The drivers' errors arrive boxed; their words are all that is left of them.
    let text = error.to_string().to_ascii_lowercase();
    ["out of memory", "out_of_memory", "alloc_failed"]
        .iter()
        .any(|words| text.contains(words))
}

/// Bytes of the weights: matrices in `dtype`, vectors in f32.
fn weights(config: &Config, dtype: Dtype) -> usize {
    let embeddings = if config.tie_word_embeddings { 1 } else { 2 };
    let blocks = config.layers.iter().map(|layer| matrices(config, layer));
    let matrices = embeddings * config.vocab_size * config.hidden_size + blocks.sum::<usize>();
    bytes_of(dtype) * matrices + 4 * config.parameters().saturating_sub(matrices)
}

/// Elements of the matrices of one block.
fn matrices(config: &Config, layer: &LayerConfig) -> usize {
    let (hidden, query, kv) = (
        config.hidden_size,
        config.query_size(),
        config.key_value_size(),
    );
    let mlp = match config.experts.filter(|_| layer.sparse) {
        Some(experts) => experts.count * (hidden + 3 * hidden * experts.intermediate_size),
        None => 3 * hidden * config.intermediate_size,
    };
    2 * hidden * (query + kv) + mlp
}

/// Width of a row in the widest MLP: the dense one, or the experts that a row goes to.
fn widest(config: &Config) -> usize {
    let experts = config.experts;
    let sparse = experts.map_or(0, |experts| experts.per_token * experts.intermediate_size);
    config.intermediate_size.max(sparse)
}

fn bytes_of(dtype: Dtype) -> usize {
    match dtype {
        Dtype::F32 => 4,
        Dtype::Bf16 => 2,
    }
}

/// Reads the free memory of the machine whose file system is at `root`.
fn free_on_host(root: &Path) -> Option<usize> {
    let available = field(&root.join("proc/meminfo"), "MemAvailable:")? * 1024;
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let left = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        if controllers.is_empty() {
            left_in_groups(&root.join("sys/fs/cgroup"), path, &UNIFIED)
        } else if controllers.split(',').any(|name| name == "memory") {
            left_in_groups(&root.join("sys/fs/cgroup/memory"), path, &LEGACY)
        } else {
            None
        }
    });
    left.chain([available]).min()
}

/// The files in which a version of control groups keeps its figures.
struct GroupFiles {
    limit: &'static str,
    used: &'static str,
    /// Field of `memory.stat` with the cached files that the kernel drops before it refuses memory.
    reclaimable: &'static str,
}

const UNIFIED: GroupFiles = GroupFiles {
    limit: "memory.max",
    used: "memory.current",
    reclaimable: "inactive_file ",
};

const LEGACY: GroupFiles = GroupFiles {
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    reclaimable: "total_inactive_file ",
};

/// Returns what the group at `path` and those above it leave, or `None` if none has a limit.
///
/// In a container the path may be the host's; then only the mounted root is there to be read.
fn left_in_groups(mount: &Path, path: &str, files: &GroupFiles) -> Option<usize> {
    let mut folder = PathBuf::from(mount);
    let mut folders = vec![folder.clone()];
    for part in Path::new(path).components() {
        if let Component::Normal(part) = part {
            folder.push(part);
            folders.push(folder.clone());
        }
    }
    let number = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<usize>().ok();
    let left = folders.iter().filter_map(|folder| {
        let limit = number(folder.join(files.limit))?;
        let used = number(folder.join(files.used))?;
        let reclaimable = field(&folder.join("memory.stat"), files.reclaimable).unwrap_or(0);
        Some(limit.saturating_sub(used.saturating_sub(reclaimable)))
    });
    left.min()
}

/// Reads the number behind `name` at the start of a line.
fn field(path: &Path, name: &str) -> Option<usize> {
    let text = fs::read_to_string(path).ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(tied: bool) -> Config {
        let text = format!(
            r#"{{"model_type": "llama", "vocab_size": 1000, "hidden_size": 64, "intermediate_size": 100,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "tie_word_embeddings": {tied}}}"#
        );
        Config::parse(&text, Path::new("config.json")).expect("valid")
    }

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("has one")).expect("made");
            fs::write(path, text).expect("written");
        }
    }

    #[test]
    fn weights_count_by_their_type() {
        for tied in [true, false] {
            let parameters = config(tied).parameters();
            let cpu = |dtype| Footprint::on_cpu(&config(tied), dtype);
            assert_eq!(cpu(Dtype::F32).weights, 4 * parameters);
            // Two norms a block and the last.
            let vectors = 5 * 64;
            assert_eq!(cpu(Dtype::Bf16).weights, 2 * (parameters + vectors));
            let device = Footprint::on_device(&config(tied), Dtype::Bf16);
            assert_eq!(device.weights, cpu(Dtype::Bf16).weights);
        }
        let cpu = Footprint::on_cpu(&config(true), Dtype::Bf16);
        assert_eq!(cpu.kv_slot, 2 * 2 * 32 * 2);
    }

    #[test]
    fn the_batch_shrinks_with_the_memory() {
        let footprint = Footprint::on_cpu(&config(true), Dtype::F32);
        let caps = Caps::of(&Device::Cpu);
        let fit = |free| BatchLimits::fitting(caps, &footprint, 4096, free);
        let roomy = fit(1 << 40);
        assert_eq!((roomy.max_sequences, roomy.max_prefill_rows), (64, 1024));
        assert_eq!(roomy.max_slots, 64 * 4096);
        let mut before = roomy;
        for shift in (10..34).rev() {
            let limits = fit(1 << shift);
            assert!(limits.max_sequences <= before.max_sequences && limits.max_sequences > 0);
            assert!(limits.max_prefill_rows <= before.max_prefill_rows);
            assert!(limits.max_slots <= before.max_slots);
            let taken = footprint.planned(&limits, 4096) - footprint.weights;
            assert!(taken <= 1 << shift || limits.max_slots == 0, "{limits:?}");
            before = limits;
        }
        assert_eq!(before.max_sequences, 1);
        let rows = |free| ScoreLimits::fitting(caps, &footprint, free).max_rows;
        assert_eq!((rows(1 << 40), rows(1 << 20)), (1024, 64));
    }

    #[test]
    fn the_least_of_all_limits_is_free() {
        let root = tempfile::tempdir().expect("made");
        let root = root.path();
        assert_eq!(free_on_host(root), None);
        write(
            root,
            &[(
                "proc/meminfo",
                "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n",
            )],
        );
        assert_eq!(free_on_host(root), Some(8_192_000));
        write(
            root,
            &[
                ("proc/self/cgroup", "0::/user/job\n"),
                ("sys/fs/cgroup/user/memory.max", "7000000\n"),
                ("sys/fs/cgroup/user/memory.current", "3000000\n"),
                (
                    "sys/fs/cgroup/user/memory.stat",
                    "file 9\ninactive_file 1000000\n",
                ),
                ("sys/fs/cgroup/user/job/memory.max", "max\n"),
                ("sys/fs/cgroup/user/job/memory.current", "2000000\n"),
            ],
        );
        assert_eq!(free_on_host(root), Some(5_000_000));
        write(
            root,
            &[
                ("proc/self/cgroup", "5:cpu,memory:/gone\n1:name=systemd:/\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "4000000\n"),
                ("sys/fs/cgroup/memory/memory.usage_in_bytes", "3500000\n"),
                (
                    "sys/fs/cgroup/memory/memory.stat",
                    "total_inactive_file 250000\n",
                ),
            ],
        );
        assert_eq!(free_on_host(root), Some(750_000));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_memory() {
        assert!(free_bytes(&Device::Cpu).is_some_and(|free| free > 0));
    }

    #[test]
    fn a_buffer_beyond_all_memory_is_refused() {
        check_room(Some(1 << 25), "a test").expect("fits");
        let message = |bytes| {
            check_room(bytes, "a test")
                .expect_err("refused")
                .to_string()
        };
        assert_eq!(
            message(Some(1 << 60)),
            "out of memory: 1099511627776 MiB for a test"
        );
        assert_eq!(
            message(None),
            "out of memory: more bytes than there are addresses for a test"
        );
    }

    #[test]
    fn the_words_of_drivers_are_known() {
        for (text, expected) in [
            (
                "DriverError(CUDA_ERROR_OUT_OF_MEMORY, \"out of memory\")",
                true,
            ),
            ("CublasError(CUBLAS_STATUS_ALLOC_FAILED)", true),
            ("shape mismatch in matmul", false),
        ] {
            let error = candle_core::Error::msg(text);
            assert_eq!(is_out_of_memory(&error), expected, "{text}");
            let error = ModelError::from(error);
            assert_eq!(matches!(error, ModelError::OutOfMemory { .. }), expected);
        }
    }
}
