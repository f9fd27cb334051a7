//! `sims-model bench-lengths`: how fast a model samples responses that end at very different lengths.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;
use sims_model::generate::{
    BatchLimits, Generation, Progress, Request, SampleKey, SamplingParams, generate,
};

use crate::open::{ExecutionArgs, Model, print_json};

/// A temperature at which every token is about as probable as any other, whatever the model.
const FLAT: f32 = 1000.0;

/// Time sampling of responses of very different lengths
///
/// Prompts are made-up tokens of one length, all different. Tokens are drawn almost evenly and one in `mean-tokens` of
/// the vocabulary stops a response, so that lengths are about geometric; they are the same in every run. Only tokens
/// up to a stop count as sampled. `benches/lengths.sh` runs the kinds of batches in turn.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sims-model bench-lengths --model data/tiny --threads 2\n  \
                  sims-model bench-lengths --model data/tiny --batches padded --rounds 5 --json"
)]
pub(crate) struct Args {
    /// Hugging Face directory of the model
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    #[command(flatten)]
    execution: ExecutionArgs,
    /// Prompts, each with one response
    #[arg(long, value_name = "N", default_value_t = 256)]
    prompts: usize,
    /// Responses that decode together; 0 chooses by the memory
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch: usize,
    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 16)]
    prompt_tokens: usize,
    /// Mean length of a response, were it not for the longest
    #[arg(long, value_name = "N", default_value_t = 32)]
    mean_tokens: usize,
    /// Longest response
    #[arg(long, value_name = "N", default_value_t = 240)]
    max_new_tokens: usize,
    /// Most KV slots; 0 chooses by the memory
    #[arg(long, value_name = "N", default_value_t = 0)]
    slots: usize,
    /// How prompts share the batch
    #[arg(long, value_enum, default_value_t = Batches::Refilled)]
    batches: Batches,
    /// Measured rounds
    #[arg(long, value_name = "N", default_value_t = 1)]
    rounds: usize,
    /// Print one JSON object a round
    #[arg(long)]
    json: bool,
}

/// How prompts share the batch.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Batches {
    /// Waiting prompts take the places of responses that end
    #[default]
    Refilled,
    /// Each batch runs until its longest response ends; responses that end leave it smaller
    Drained,
    /// Each batch runs until its longest response ends; those that end sooner run on to no use
    Padded,
}

#[derive(Debug, Default, Serialize)]
struct Round {
    batches: Batches,
    seconds: f64,
    prompt_tokens: usize,
    new_tokens: usize,
    sampled_tokens: usize,
    repeated_tokens: usize,
    preemptions: usize,
    forward_passes: usize,
    longest: usize,
    new_tokens_per_second: f64,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let model = args.execution.open(&args.model)?;
    args.round(&model, 2)?;
    for _ in 0..args.rounds {
        let round = args.round(&model, args.max_new_tokens)?;
        if args.json {
            print_json(&round)?;
        } else {
            let Round {
                batches,
                seconds,
                new_tokens,
                longest,
                new_tokens_per_second,
                ..
            } = round;
            print_line!(
                "{batches:?}: {new_tokens} tokens, the longest response {longest}, in {seconds:.3} s: \
                 {new_tokens_per_second:.0} tokens/s"
            );
        }
    }
    Ok(())
}

impl Args {
    fn round(&self, model: &Model, max_new_tokens: usize) -> anyhow::Result<Round> {
        let vocab_size = model.decoder.config().vocab_size;
        let sampling = SamplingParams {
            temperature: FLAT,
            max_new_tokens,
            stop_tokens: (0..vocab_size as u32)
                .step_by(self.mean_tokens.max(1))
                .collect(),
            ..SamplingParams::default()
        };
        let mut limits = BatchLimits::for_decoder(&model.decoder);
        if self.batch > 0 {
            limits.max_sequences = self.batch;
        }
        if self.slots > 0 {
            limits.max_slots = self.slots;
        }
        let requests = self.requests(vocab_size);
        let together = match self.batches {
            Batches::Refilled => requests.len().max(1),
            Batches::Drained | Batches::Padded => limits.max_sequences,
        };
        let mut round = Round {
            batches: self.batches,
            ..Round::default()
        };
        for requests in requests.chunks(together) {
            let mut sampling = sampling.clone();
            if self.batches == Batches::Padded {
                // Without stop tokens, as long as the longest response is with them.
                let (lengths, _) = run_requests(model, requests, &sampling, &limits)?;
                sampling.max_new_tokens = lengths.iter().copied().max().unwrap_or(1);
                sampling.stop_tokens.clear();
                let start = Instant::now();
                let (_, (done, passes)) = run_requests(model, requests, &sampling, &limits)?;
                round.add(&lengths, done, passes, start);
            } else {
                let start = Instant::now();
                let (lengths, (done, passes)) = run_requests(model, requests, &sampling, &limits)?;
                round.add(&lengths, done, passes, start);
            }
        }
        round.new_tokens_per_second = round.new_tokens as f64 / round.seconds;
        Ok(round)
    }

    fn requests(&self, vocab_size: usize) -> Vec<Request> {
        let token =
            |prompt: usize, position: usize| ((7 * prompt + 13 * position + 3) % vocab_size) as u32;
        let request = |prompt: usize| Request {
            prompt: (0..self.prompt_tokens)
                .map(|position| token(prompt, position))
                .collect(),
            samples: vec![SampleKey::new(0, 0, &prompt.to_string(), 0)],
        };
        (0..self.prompts).map(request).collect()
    }
}

impl Round {
    /// Adds a run whose responses have these useful lengths.
    fn add(&mut self, lengths: &[usize], done: Progress, passes: usize, start: Instant) {
        self.seconds += start.elapsed().as_secs_f64();
        self.new_tokens += lengths.iter().sum::<usize>();
        self.longest = lengths.iter().copied().fold(self.longest, usize::max);
        self.sampled_tokens += done.new_tokens;
        self.prompt_tokens += done.prompt_tokens;
        self.repeated_tokens += done.repeated_tokens;
        self.preemptions += done.preemptions;
        self.forward_passes += passes;
    }
}

/// Samples; returns the lengths of the responses, what was done and in how many forward passes.
fn run_requests(
    model: &Model,
    requests: &[Request],
    sampling: &SamplingParams,
    limits: &BatchLimits,
) -> anyhow::Result<(Vec<usize>, (Progress, usize))> {
    let (mut done, mut passes) = (Progress::default(), 0);
    let mut report = |progress| {
        done = progress;
        passes += 1;
        ControlFlow::Continue(())
    };
    let generations = generate(
        &model.decoder,
        requests,
        sampling,
        limits,
        None,
        &mut report,
    )?;
    let length = |generation: &Generation| generation.token_ids.len();
    let lengths = generations.iter().flatten().map(length).collect();
    Ok((lengths, (done, passes)))
}
