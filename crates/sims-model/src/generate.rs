//! Samples responses: many prompts, K samples of each, in one ragged batch that refills itself.
//!
//! The rows of a prompt run once, whatever the number of its samples. Each unfinished response adds one row to every
//! decode step and leaves the batch the moment it ends; waiting prompts take its place (`scheduler`). A response
//! depends on its prompt, its [`SampleKey`] and the parameters only: batch limits, how much memory there is and the
//! order of requests change nothing.

mod outcome;
mod scheduler;

use std::ops::ControlFlow;

use candle_core::Tensor;

use crate::sampler::Sampler;
use crate::{Decoder, Hook, KvCache, ModelError, Result};
use outcome::Outcome;
use scheduler::{Scheduler, Step};

pub use crate::rng::SampleKey;
pub use crate::sampler::SamplingParams;

/// A prompt and the samples wanted of it.
#[derive(Debug, Clone)]
pub struct Request {
    /// Token ids of the prompt, the assistant header included.
    pub prompt: Vec<u32>,
    /// One key a response.
    pub samples: Vec<SampleKey>,
}

/// Why a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// A stop token was sampled; it is the last of the token ids.
    Stop,
    /// `max_new_tokens` tokens were sampled without a stop token.
    Length,
}

impl FinishReason {
    /// Returns the word for it in the responses table: `stop` or `length`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

/// A sampled response.
#[derive(Debug, Clone, PartialEq)]
pub struct Generation {
    /// The sampled tokens, the stop token included if one was sampled.
    pub token_ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// Sum of the tokens' natural log-probabilities under the model (with its hook), before penalty, temperature and
    /// filters.
    pub logprob_sum: f64,
}

/// How much may run at once; it changes speed and memory, never a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Most responses that decode together.
    pub max_sequences: usize,
    /// Most prompt rows that join one forward pass; a longer prompt is prefilled in pieces.
    pub max_prefill_rows: usize,
    /// Most KV slots, but for filling the last blocks; a run that needs fewer allocates fewer. When a run could use
    /// more, responses that find none stop and resume later.
    pub max_slots: usize,
    /// KV slots that a sequence is given at a time. Multiples of 16 suit the CPU's kernels.
    pub slots_per_block: usize,
}

impl Default for BatchLimits {
    /// 64 responses at once, 1 024 prompt rows a pass, 32 768 slots in blocks of 16.
    fn default() -> Self {
        Self {
            max_sequences: 64,
            max_prefill_rows: 1024,
            max_slots: 32_768,
            slots_per_block: 16,
        }
    }
}

/// What has been done so far, handed to the callback after every forward pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Responses that are complete.
    pub finished: usize,
    /// Responses asked for.
    pub total: usize,
    /// Prompt rows computed. Samples of one prompt share them, so this is less than what separate runs would need.
    pub prompt_tokens: usize,
    /// Tokens sampled.
    pub new_tokens: usize,
    /// Rows, of prompts and responses, computed again because their slots had been given up.
    pub repeated_tokens: usize,
    /// How often the youngest prompt or response gave its slots up to an older one.
    pub preemptions: usize,
    /// How often memory ran out and the limits were halved.
    pub halvings: usize,
}

/// Samples a response for every key of every request.
///
/// The result has one list a request, in the order of its `samples`. `hook` may edit positions from the last prompt
/// token on (`edit_from` is the prompt's length less one). `progress` is called after every forward pass;
/// [`ControlFlow::Break`] stops the run.
///
/// A forward pass that finds no memory is repeated with half the limits ([`Progress::halvings`]). Rows that run again,
/// then or when a response resumes ([`Progress::repeated_tokens`]), are marked so for the hook, except those of the
/// pass that failed.
///
/// # Errors
/// An empty prompt ([`ModelError::EmptySequence`]), one that leaves no room for `max_new_tokens`
/// ([`ModelError::PromptTooLong`]), parameters or limits out of range ([`ModelError::Setting`]), logits without a
/// distribution ([`ModelError::Sampling`]), an interrupt ([`ModelError::Interrupted`]), a single sequence that finds no
/// memory ([`ModelError::OutOfMemory`]), and whatever the decoder or the hook returns.
pub fn generate(
    decoder: &Decoder,
    requests: &[Request],
    params: &SamplingParams,
    limits: &BatchLimits,
    mut hook: Option<&mut dyn Hook>,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Vec<Vec<Generation>>> {
    let mut sampler = Sampler::new(params)?;
    check_prompts(
        requests,
        params.max_new_tokens,
        decoder.config().max_position_embeddings,
    )?;
    let mut scheduler = Scheduler::new(requests, params, limits)?;
    let mut cache = KvCache::new(decoder, scheduler.slots());
    while let Some(step) = scheduler.next_step() {
        let made_cache = !cache.is_made();
        let borrowed = hook.as_mut().map(|hook| &mut **hook as &mut dyn Hook);
        let outcome = match run_step(decoder, &step, &mut cache, borrowed, params, &scheduler) {
            Ok(outcome) => outcome,
            Err(ModelError::OutOfMemory { message }) => {
                // The old cache goes before the new one is made.
                drop(cache);
                scheduler.shrink(&step, made_cache, &message)?;
                cache = KvCache::new(decoder, scheduler.slots());
                continue;
            }
            Err(error) => return Err(error),
        };
        scheduler.accept(&step, outcome, &mut sampler)?;
        if progress(scheduler.progress()).is_break() {
            return Err(ModelError::Interrupted);
        }
    }
    Ok(scheduler.into_generations())
}

/// Runs a step and returns what its `logit_rows` come to.
fn run_step(
    decoder: &Decoder,
    step: &Step,
    cache: &mut KvCache,
    hook: Option<&mut dyn Hook>,
    params: &SamplingParams,
    scheduler: &Scheduler<'_>,
) -> Result<Outcome> {
    let hidden = decoder.forward(&step.batch, cache, hook)?;
    if step.logit_rows.is_empty() {
        return Ok(Outcome::nothing());
    }
    let rows = select_rows(&hidden, &step.logit_rows)?;
    Outcome::of_rows(decoder, &rows, params, &scheduler.uniforms(step))
}

/// Returns the given rows of `[rows, width]`, in their order; no copy when they are all of them.
pub(crate) fn select_rows(tensor: &Tensor, rows: &[usize]) -> Result<Tensor> {
    let is_whole =
        rows.len() == tensor.dim(0)? && rows.iter().enumerate().all(|(i, &row)| i == row);
    if is_whole {
        return Ok(tensor.clone());
    }
    let index: Vec<u32> = rows.iter().map(|&row| row as u32).collect();
    let index = Tensor::from_vec(index, rows.len(), tensor.device())?;
    Ok(tensor.index_select(&index, 0)?)
}

/// Refuses prompts that are empty or leave no room for a response.
fn check_prompts(requests: &[Request], max_new_tokens: usize, limit: usize) -> Result<()> {
    for (index, request) in requests.iter().enumerate() {
        let prompt_tokens = request.prompt.len();
        if prompt_tokens == 0 {
            return Err(ModelError::EmptySequence { sequence: index });
        }
        if prompt_tokens.saturating_add(max_new_tokens) > limit {
            return Err(ModelError::PromptTooLong {
                request: index,
                prompt_tokens,
                max_new_tokens,
                limit,
            });
        }
    }
    Ok(())
}
