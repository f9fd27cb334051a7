//! `sims-model bench`: how fast a model samples.

use std::ops::ControlFlow;
use std::time::Instant;

use serde::Serialize;
use sims_model::Hook;
use sims_model::generate::{BatchLimits, Progress, Request, SampleKey, SamplingParams, generate};
use sims_steering::SteeringHook;

use crate::open::{Model, ModelArgs, print_json};

/// Time batched sampling
///
/// Prompts are made-up tokens of one length, all different, and no token stops a response, so that every run does the
/// same work. One short run warms up; each measured round covers prefill and decode. With a steering, each round
/// measures without it and with it. `benches/generate.sh` and `benches/gpu.sh` run it in turn with other engines.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sims-model bench --model data/tiny --batch 64 --threads 2\n  \
                  sims-model bench --model data/tiny --dtype bf16 --rounds 5 --json\n  \
                  sims-model bench --model data/tiny --steering accepted.safetensors --rounds 9"
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Responses that decode together; several sizes are timed one after another
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "64")]
    batch: Vec<usize>,
    /// Responses to each prompt, in one batch; the prompt is computed once
    #[arg(long, value_name = "N", default_value_t = 1)]
    samples: usize,
    /// Tokens of each prompt
    #[arg(long, value_name = "N", default_value_t = 32)]
    prompt_tokens: usize,
    /// Tokens of each response
    #[arg(long, value_name = "N", default_value_t = 64)]
    new_tokens: usize,
    /// Prompt rows of a forward pass
    #[arg(long, value_name = "N", default_value_t = 1024)]
    prefill_rows: usize,
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

/// One measurement, as printed by `--json`.
#[derive(Debug, Serialize)]
struct Round {
    engine: &'static str,
    batch: usize,
    seconds: f64,
    prompt_tokens: usize,
    new_tokens: usize,
    new_tokens_per_second: f64,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let (model, mut hook) = args.model.open()?;
    for &batch in &args.batch {
        args.round(&model, hook.as_mut(), batch, 2)?;
        for round in 0..args.rounds {
            // Which one comes first alternates, lest the second profit from the first.
            let mut order = vec![false];
            if hook.is_some() {
                order.insert(round % 2, true);
            }
            for steered in order {
                let hook = hook.as_mut().filter(|_| steered);
                let round = args.round(&model, hook, batch, args.new_tokens)?;
                args.print(&round)?;
            }
        }
    }
    Ok(())
}

impl Args {
    fn print(&self, round: &Round) -> anyhow::Result<()> {
        if self.json {
            return print_json(round);
        }
        let Round {
            engine,
            seconds,
            new_tokens,
            new_tokens_per_second,
            ..
        } = round;
        print_line!(
            "{engine}: {new_tokens} tokens in {seconds:.3} s: {new_tokens_per_second:.0} tokens/s"
        );
        Ok(())
    }

    fn round(
        &self,
        model: &Model,
        hook: Option<&mut SteeringHook>,
        batch: usize,
        max_new_tokens: usize,
    ) -> anyhow::Result<Round> {
        let engine = if hook.is_some() {
            "sims, steered"
        } else {
            "sims"
        };
        let sampling = SamplingParams {
            temperature: self.temperature,
            max_new_tokens,
            ..SamplingParams::default()
        };
        // Slots are given out in blocks, so there are some more than tokens.
        let slots = batch * (self.prompt_tokens + max_new_tokens + 128);
        let limits = BatchLimits {
            max_sequences: batch,
            max_prefill_rows: self.prefill_rows,
            max_slots: BatchLimits::default().max_slots.max(slots),
            ..BatchLimits::default()
        };
        let requests = self.requests(batch, model.decoder.config().vocab_size);
        let mut done = Progress::default();
        let start = Instant::now();
        generate(
            &model.decoder,
            &requests,
            &sampling,
            &limits,
            hook.map(|hook| hook as &mut dyn Hook),
            &mut |progress| {
                done = progress;
                ControlFlow::Continue(())
            },
        )?;
        let seconds = start.elapsed().as_secs_f64();
        Ok(Round {
            engine,
            batch,
            seconds,
            prompt_tokens: done.prompt_tokens,
            new_tokens: done.new_tokens,
            new_tokens_per_second: done.new_tokens as f64 / seconds,
        })
    }

    /// Prompts that the script for the other engine makes too.
    fn requests(&self, batch: usize, vocab_size: usize) -> Vec<Request> {
        let token =
            |prompt: usize, position: usize| ((7 * prompt + 13 * position + 3) % vocab_size) as u32;
        let prompts = batch.div_ceil(self.samples.max(1));
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
