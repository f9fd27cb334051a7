//! The GPUs that estimates are made for, and how much of them is used: every constant of the model of cost.

/// A GPU by its data sheet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Card {
    /// The name on the command line.
    pub name: &'static str,
    /// The name on the data sheet.
    pub product: &'static str,
    /// Memory. Unit: bytes.
    pub memory: f64,
    /// Peak of dense bf16 products. Unit: FLOP/s.
    pub bf16: f64,
    /// Peak of f32 products without tensor cores. Unit: FLOP/s.
    pub f32: f64,
    /// Peak of the memory's bandwidth. Unit: bytes/s.
    pub bandwidth: f64,
}

/// NVIDIA's data sheets of H100 (2024, column SXM) and H200 (2024, column SXM): the same processor, another memory.
/// They give bf16 with sparsity; dense is half of it.
pub const CARDS: [Card; 2] = [
    Card {
        name: "h100",
        product: "NVIDIA H100 SXM 80 GB",
        memory: 80e9,
        bf16: 989e12,
        f32: 67e12,
        bandwidth: 3.35e12,
    },
    Card {
        name: "h200",
        product: "NVIDIA H200 SXM 141 GB",
        memory: 141e9,
        bf16: 989e12,
        f32: 67e12,
        bandwidth: 4.8e12,
    },
];

/// Share of the peak that reading reaches: assumed, in the range that is published for large products of 7B to 70B
/// models (PaLM, arXiv 2204.02311, reports 0.46 in training).
pub const READING: f64 = 0.4;

/// Share of the bandwidth that a step of writing reaches while it reads weights and cache: assumed.
pub const WRITING: f64 = 0.5;

/// Kernels that a step launches for every block: six of our own and four products (`ARCHITECTURE.md`).
pub const LAUNCHES_A_BLOCK: f64 = 10.0;

/// What a launch takes without a CUDA graph, its output's allocation included: assumed, the usual order of magnitude.
/// Unit: seconds.
pub const LAUNCH: f64 = 10e-6;

/// How fast weights come from a disk to the card, once for every stage: assumed. Unit: bytes/s.
pub const LOADING: f64 = 2e9;

/// Responses that are written at once, and rows that are read at once, at most: the engine's own limits on a GPU
/// (`sims-model/src/memory.rs`).
pub const MOST_SEQUENCES: f64 = 256.0;
/// See [`MOST_SEQUENCES`].
pub const MOST_ROWS: f64 = 4096.0;
/// The fewest rows that activations are cut down to, also the engine's own.
pub const FEWEST_ROWS: f64 = 64.0;

/// Share of the free memory that the engine takes.
pub const MEMORY_SHARE: f64 = 7.0 / 8.0;

impl Card {
    /// Returns the card of that name.
    pub fn named(name: &str) -> Option<Self> {
        CARDS.into_iter().find(|card| card.name == name)
    }

    /// Returns the peak for weights of a type.
    pub fn peak(&self, dtype: Dtype) -> f64 {
        match dtype {
            Dtype::F32 => self.f32,
            Dtype::Bf16 => self.bf16,
        }
    }
}

/// The type that weights are held in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dtype {
    /// 32-bit floats.
    F32,
    /// The upper half of a 32-bit float.
    Bf16,
}

impl Dtype {
    /// Returns the name that stages know it by.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}
