//! `sims-model bench-extract`: how fast hidden states are read.

use std::ops::ControlFlow;
use std::time::Instant;

use serde::Serialize;
use sims_model::Hook;
use sims_model::capture::{CaptureRequest, hidden_states};
use sims_model::score::ScoreLimits;
use sims_steering::SteeringHook;

use crate::exit::bad_input;
use crate::open::{Model, ModelArgs, print_json};

/// Time the extraction of hidden states
///
/// Reads the state of each sequence's last token at the asked layers. Sequences are made-up tokens of mixed lengths
/// without common beginnings. One round warms up. `benches/extract.sh` runs it in turn with another engine.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sims-model bench-extract --model data/tiny --layers 3,4\n  \
                  sims-model bench-extract --model data/tiny --layers 2,3,4 --sequences 512 --rounds 5 --json"
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Layers to read, from 0, separated by commas
    #[arg(long, value_name = "LAYERS", value_delimiter = ',', required = true)]
    layers: Vec<usize>,
    /// Sequences of a round
    #[arg(long, value_name = "N", default_value_t = 128)]
    sequences: usize,
    /// Tokens of the shortest sequence
    #[arg(long, value_name = "N", default_value_t = 16)]
    shortest: usize,
    /// Tokens of the longest sequence
    #[arg(long, value_name = "N", default_value_t = 128)]
    longest: usize,
    /// Rows of a forward pass
    #[arg(long, value_name = "N", default_value_t = 1024)]
    max_rows: usize,
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
    seconds: f64,
    sequences: usize,
    tokens: usize,
    tokens_per_second: f64,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    if args.shortest == 0 || args.longest < args.shortest {
        return Err(bad_input("--longest is below --shortest, or that is 0"));
    }
    let (model, mut hook) = args.model.open()?;
    args.round(&model, hook.as_mut())?;
    for _ in 0..args.rounds {
        let round = args.round(&model, hook.as_mut())?;
        if args.json {
            print_json(&round)?;
        } else {
            let Round {
                seconds,
                sequences,
                tokens,
                tokens_per_second,
                ..
            } = round;
            print_line!(
                "{sequences} sequences, {tokens} tokens in {seconds:.3} s: {tokens_per_second:.0} tokens/s"
            );
        }
    }
    Ok(())
}

impl Args {
    fn round(&self, model: &Model, hook: Option<&mut SteeringHook>) -> anyhow::Result<Round> {
        let requests = self.requests(model.decoder.config().vocab_size);
        let mut states = Vec::new();
        let start = Instant::now();
        let count = hidden_states(
            &model.decoder,
            &requests,
            &self.layers,
            &ScoreLimits {
                max_rows: self.max_rows,
            },
            hook.map(|hook| hook as &mut dyn Hook),
            &mut |found| {
                states.push(found.layers);
                ControlFlow::Continue(())
            },
        )?;
        let seconds = start.elapsed().as_secs_f64();
        Ok(Round {
            engine: "sims",
            seconds,
            sequences: states.len(),
            tokens: count.computed,
            tokens_per_second: count.computed as f64 / seconds,
        })
    }

    /// Sequences that the script for the other engine makes too.
    fn requests(&self, vocab_size: usize) -> Vec<CaptureRequest> {
        let token = |sequence: usize, position: usize| {
            ((7 * sequence + 13 * position + 3) % vocab_size) as u32
        };
        let request = |sequence: usize| {
            let length = self.shortest + 37 * sequence % (self.longest - self.shortest + 1);
            CaptureRequest {
                tokens: (0..length).map(|i| token(sequence, i)).collect(),
                positions: vec![length - 1],
                edit_from: 0,
            }
        };
        (0..self.sequences).map(request).collect()
    }
}
