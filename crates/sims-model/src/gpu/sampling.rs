//! The choice of tokens on the device, so that no row of logits leaves it.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::launch::{Argument, Launch, Launcher, Program};
use super::memory::{new_output, with_addresses};
use crate::Result;
use crate::sampler::{Choice, SamplingParams};
use crate::softmax::{LogSumExp, LogitsError};

/// Threads of a block, as in the kernel's source.
const THREADS: u32 = 1024;

/// What sums of weights are counted in, as in the kernel's source: 2⁻⁴⁴.
const UNIT: f64 = 1.0 / (1_u64 << 44) as f64;

/// The largest vocabulary whose weights sum to less than 2⁶³ units.
const LARGEST_VOCABULARY: usize = 1 << 18;

/// Chooses tokens from rows of logits on the device.
pub struct SamplingKernel {
    launcher: Arc<dyn Launcher>,
    program: Program,
}

impl SamplingKernel {
    /// Prepares the kernel.
    pub fn new(launcher: Arc<dyn Launcher>) -> Self {
        let text = include_str!("kernels/sampling.cu");
        Self {
            launcher,
            // The weights are to be the host's, bit for bit.
            program: Program::new("sampling", text, &[("BF16", 0)], false),
        }
    }

    /// Returns whether the kernel can sample so: a repetition penalty is the host's business.
    pub fn takes(&self, params: &SamplingParams, vocab_size: usize) -> bool {
        !params.has_repetition_penalty() && vocab_size <= LARGEST_VOCABULARY
    }

    /// Chooses a token from each row of `logits` (`[rows, vocab]`, f32) as [`Sampler`](crate::sampler::Sampler) does.
    ///
    /// `uniforms`: a number in `[0, 1)` for each row. Only the choices are copied to the host.
    ///
    /// # Errors
    /// A kernel that cannot be compiled or started; within, a row that is no distribution.
    pub fn choose(
        &self,
        logits: &Tensor,
        params: &SamplingParams,
        uniforms: &[f64],
    ) -> Result<Vec<std::result::Result<Choice, LogitsError>>> {
        let (rows, vocab) = logits.dims2()?;
        let device = logits.device();
        let uniforms = Tensor::new(uniforms, device)?;
        let out = new_output((rows, 6), DType::U32, device)?;
        with_addresses(&[logits, &uniforms], &[&out], &mut |found| {
            let [logits, uniforms, out] = [0, 1, 2].map(|i| Argument::Address(found[i]));
            let launch = Launch {
                program: &self.program,
                function: "choose",
                grid: [rows, 1, 1],
                threads: THREADS,
                arguments: &[
                    logits,
                    uniforms,
                    out,
                    Argument::int(vocab),
                    Argument::Float(params.temperature),
                    Argument::int(params.top_k.min(vocab)),
                    Argument::Float(params.top_p),
                    Argument::Float(params.min_p),
                ],
            };
            // SAFETY: the arguments are the kernel's, over tensors of these sizes.
            unsafe { self.launcher.launch(&launch) }
        })?;
        Ok(out
            .to_vec2::<u32>()?
            .iter()
            .map(|row| choice(row))
            .collect())
    }
}

/// Reads the kernel's line for a row.
fn choice(line: &[u32]) -> std::result::Result<Choice, LogitsError> {
    let [token, logit, max, status, low, high] = line else {
        unreachable!("a line has six numbers");
    };
    match status {
        0 => {
            let total = (u64::from(*high) << 32) | u64::from(*low);
            let plain = LogSumExp {
                max: f32::from_bits(*max),
                total: total as f64 * UNIT,
            };
            Ok(Choice {
                token: *token,
                log_probability: plain.log_probability(f32::from_bits(*logit)),
            })
        }
        1 => Err(LogitsError::NotFinite {
            token: *token as usize,
        }),
        _ => Err(LogitsError::NothingLeft),
    }
}
