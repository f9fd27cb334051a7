//! Trains a tiny Llama on a world's text, from scratch, on a few processor cores.
//!
//! Read `network` for the model, `run` for the loop. Candle's autograd records the
//! network; the ops that matter are written here with their gradients (`linear`, `attention`,
//! `rms_norm`, `swiglu`, `cross_entropy`) and work on packed documents without padding. A step is
//! always split into the same micro-batches, whose gradients are summed in order, so a run gives
//! the same bits for any number of workers, interrupted or not, on one kind of processor.

mod adamw;
mod attention;
mod batch;
mod checkpoint;
mod command;
mod cross_entropy;
mod init;
mod linear;
mod matmul;
mod network;
mod record;
mod rms_norm;
mod run;
mod swiglu;
mod tensors;
#[cfg(test)]
mod testing;
mod vectorised;

use std::path::PathBuf;

pub use adamw::Optimization;
pub use batch::{Example, Kind, Source};
pub use command::TrainArgs;
pub use network::NetworkSize;
pub use run::{Job, Outcome, Settings, train};

/// What can go wrong in training.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A tensor operation failed.
    #[error("tensor operation failed")]
    Tensor(#[from] candle_core::Error),
    /// A file could not be read or written.
    #[error("cannot read or write {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A tensor file could not be built.
    #[error("cannot build {path}")]
    Tensors {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: safetensors::SafeTensorError,
    },
    /// A checkpoint is damaged.
    #[error("checkpoint {path} is damaged: {reason}; delete it to start again")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A checkpoint belongs to a run with other settings.
    #[error("checkpoint {path} belongs to a run with other settings; choose another directory")]
    OtherSettings {
        /// The file.
        path: PathBuf,
    },
    /// The loss or its gradient stopped being a number.
    #[error("the gradient is not finite at step {step}")]
    NotFinite {
        /// The step, 0-based.
        step: u64,
    },
}
