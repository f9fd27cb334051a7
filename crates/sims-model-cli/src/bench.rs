//! `sims-model bench`: how fast a model samples.

use std::ops::ControlFlow;
use std::time::Instant;

use serde::Serialize;
use sims_artifact::Digest;
use sims_model::capture::{CaptureRequest, hidden_states};
use sims_model::generate::{BatchLimits, Progress, Request, SampleKey, SamplingParams, generate};
use sims_model::score::ScoreLimits;
use sims_model::{Decoder, Hook};
use sims_steering::angle_net::{AngleNet, Linear};
use sims_steering::{Edit, Householder, Operator, Steering, SteeringHook};

use crate::exit::bad_input;
use crate::open::{Model, ModelArgs, print_json};

/// Time batched sampling, or the reading of hidden states
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
    /// Steer so many layers by rotations with an angle network, all of made-up numbers
    #[arg(long, value_name = "N", conflicts_with = "steering")]
    steered_layers: Option<usize>,
    /// Read the last prompt token's state at every fourth layer instead of sampling
    #[arg(long)]
    states: bool,
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
    if let Some(count) = args.steered_layers {
        hook = Some(made_up_steering(&model.decoder, count)?.hook());
    }
    for &batch in &args.batch {
        args.round(&model, hook.as_mut(), batch, 2)?;
        args.round(&model, None, batch, 2)?;
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
        let tokens = if self.states {
            round.prompt_tokens
        } else {
            round.new_tokens
        };
        print_line!(
            "{}: {tokens} tokens in {:.3} s: {:.0} tokens/s",
            round.engine,
            round.seconds,
            tokens as f64 / round.seconds
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
        let hook = hook.map(|hook| hook as &mut dyn Hook);
        let requests = self.requests(batch, model.decoder.config().vocab_size);
        let start = Instant::now();
        let (prompt_tokens, new_tokens) = if self.states {
            (self.read_states(&model.decoder, &requests, hook)?, 0)
        } else {
            let done = self.sample(&model.decoder, &requests, batch, max_new_tokens, hook)?;
            (done.prompt_tokens, done.new_tokens)
        };
        let seconds = start.elapsed().as_secs_f64();
        Ok(Round {
            engine,
            batch,
            seconds,
            prompt_tokens,
            new_tokens,
            new_tokens_per_second: new_tokens as f64 / seconds,
        })
    }

    fn sample(
        &self,
        decoder: &Decoder,
        requests: &[Request],
        batch: usize,
        max_new_tokens: usize,
        hook: Option<&mut dyn Hook>,
    ) -> anyhow::Result<Progress> {
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
        };
        let mut done = Progress::default();
        generate(
            decoder,
            requests,
            &sampling,
            &limits,
            hook,
            &mut |progress| {
                done = progress;
                ControlFlow::Continue(())
            },
        )?;
        Ok(done)
    }

    /// Returns the number of prompt tokens computed.
    fn read_states(
        &self,
        decoder: &Decoder,
        requests: &[Request],
        hook: Option<&mut dyn Hook>,
    ) -> anyhow::Result<usize> {
        let layers: Vec<usize> = (0..decoder.config().num_hidden_layers).step_by(4).collect();
        let requests: Vec<CaptureRequest> = requests
            .iter()
            .map(|request| CaptureRequest {
                tokens: request.prompt.clone(),
                positions: vec![request.prompt.len() - 1],
                edit_from: request.prompt.len() - 1,
            })
            .collect();
        let limits = ScoreLimits {
            max_rows: self.prefill_rows,
        };
        let sink = &mut |_| ControlFlow::Continue(());
        let count = hidden_states(decoder, &requests, &layers, &limits, hook, sink)?;
        Ok(count.computed)
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

/// A rotation with an angle network at `count` layers spread over the decoder.
fn made_up_steering(decoder: &Decoder, count: usize) -> anyhow::Result<Steering> {
    let config = decoder.config();
    let (hidden, layers) = (config.hidden_size, config.num_hidden_layers);
    if count == 0 || count > layers {
        return Err(bad_input(format!(
            "{count} layers cannot be steered in a model of {layers}"
        )));
    }
    let numbers = |name: &str, count: usize, scale: f64| -> Vec<f32> {
        let key = SampleKey::new(1, 0, name, 0);
        (0..count as u64)
            .map(|i| (scale * (2.0 * key.uniform(i) - 1.0)) as f32)
            .collect()
    };
    let linear = |depth: usize| {
        let inputs = hidden >> depth;
        let outputs = if depth == 3 { 1 } else { inputs / 2 };
        Linear {
            weight: numbers("weight", inputs * outputs, 1.0 / (inputs as f64).sqrt()),
            bias: vec![0.0; outputs],
        }
    };
    let net = AngleNet {
        layers: (0..4).map(linear).collect(),
    };
    let mut steering = Steering::identity(Digest::of_bytes(b"bench"), hidden, layers);
    for index in 0..count {
        let normal = numbers(&index.to_string(), hidden, 1.0);
        let householder = Householder::faithful(normal, net.clone(), 1.0)?;
        let edit = Edit::new(Operator::Householder(householder));
        steering.push(index * layers / count, edit)?;
    }
    Ok(steering)
}
