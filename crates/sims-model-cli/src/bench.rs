//! `sims-model bench`: how fast a model samples.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;
use sims_model::generate::{BatchLimits, Progress, Request, SampleKey, SamplingParams, generate};

use crate::open::{ExecutionArgs, Model, print_json};

/// Time batched sampling
///
/// Prompts are made-up tokens of one length, all different, and no token stops a response, so that every run does the
/// same work. One short run warms up; each measured round covers prefill and decode. `benches/generate.sh` runs it in
/// turn with another engine.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sims-model bench --model data/tiny --batch 64 --threads 2\n  \
                  sims-model bench --model data/tiny --dtype bf16 --rounds 5 --json"
)]
pub(crate) struct Args {
    /// Hugging Face directory of the model
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    #[command(flatten)]
    execution: ExecutionArgs,
    /// Responses that decode together
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch: usize,
    /// Responses to each prompt, in one batch; the prompt is computed once
    #[arg(long, value_name = "N", default_value_t = 1)]
    samples: usize,
    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 32)]
    prompt_tokens: usize,
    /// Tokens of each response
    #[arg(long, value_name = "N", default_value_t = 64)]
    new_tokens: usize,
    /// Divides the logits; 0 takes the most probable token
    #[arg(long, default_value_t = 0.9)]
    temperature: f32,
    /// Measured rounds
    #[arg(long, value_name = "N", default_value_t = 1)]
    rounds: usize,
    /// Print one JSON object a round
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Round {
    engine: &'static str,
    seconds: f64,
    prompt_tokens: usize,
    new_tokens: usize,
    new_tokens_per_second: f64,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let model = args.execution.open(&args.model)?;
    args.round(&model, 2)?;
    for _ in 0..args.rounds {
        let round = args.round(&model, args.new_tokens)?;
        if args.json {
            print_json(&round)?;
        } else {
            let Round {
                seconds,
                new_tokens,
                new_tokens_per_second,
                ..
            } = round;
            print_line!(
                "{new_tokens} tokens in {seconds:.3} s: {new_tokens_per_second:.0} tokens/s"
            );
        }
    }
    Ok(())
}

impl Args {
    fn round(&self, model: &Model, max_new_tokens: usize) -> anyhow::Result<Round> {
        let sampling = SamplingParams {
            temperature: self.temperature,
            max_new_tokens,
            ..SamplingParams::default()
        };
        let limits = BatchLimits {
            max_sequences: self.batch,
            ..BatchLimits::default()
        };
        let requests = self.requests(model.decoder.config().vocab_size);
        let mut done = Progress::default();
        let start = Instant::now();
        generate(
            &model.decoder,
            &requests,
            &sampling,
            &limits,
            None,
            &mut |progress| {
                done = progress;
                ControlFlow::Continue(())
            },
        )?;
        let seconds = start.elapsed().as_secs_f64();
        Ok(Round {
            engine: "sims",
            seconds,
            prompt_tokens: done.prompt_tokens,
            new_tokens: done.new_tokens,
            new_tokens_per_second: done.new_tokens as f64 / seconds,
        })
    }

    /// Prompts that the script for the other engine makes too.
    fn requests(&self, vocab_size: usize) -> Vec<Request> {
        let token =
            |prompt: usize, position: usize| ((7 * prompt + 13 * position + 3) % vocab_size) as u32;
        let prompts = self.batch.div_ceil(self.samples.max(1));
        let request = |prompt: usize| Request {
            prompt: (0..self.prompt_tokens)
                .map(|position| token(prompt, position))
                .collect(),
            samples: (0..self.samples.max(1) as u32)
                .map(|sample| SampleKey::new(0, 0, &prompt.to_string(), sample))
                .collect(),
        };
        (0..prompts).map(request).collect()
    }
}
