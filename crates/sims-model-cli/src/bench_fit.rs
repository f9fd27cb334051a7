//! `sims-model bench-fit`: how fast a plane and an angle network are fitted.

use std::time::Instant;

use serde::Serialize;
use sims_model::DeviceChoice;
use sims_model::language_model::set_threads;
use sims_steering::hpr::{self, HprOptions, Normal};
use sims_steering::{DeviceStates, PairedStates};

use crate::exit::bad_input;
use crate::open::print_json;

/// Time the fit of the operator hpr at one layer
///
/// States are made up: pairs on either side of a plane. A fifth of the pairs is held out, and measured after each
/// epoch as the stage does. `benches/fit.sh` runs it in turn with PyTorch.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sims-model bench-fit --hidden 512 --pairs 200\n  \
                  sims-model bench-fit --hidden 4096 --pairs 1000 --rows 2 --epochs 1 --threads 2 --json"
)]
pub(crate) struct Args {
    /// Width of the states
    #[arg(long, value_name = "N", default_value_t = 4096)]
    hidden: usize,
    /// Contrast pairs
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pairs: usize,
    /// Rows a pair
    #[arg(long, value_name = "N", default_value_t = 2)]
    rows: usize,
    /// Passes over the fit half
    #[arg(long, value_name = "N", default_value_t = 1)]
    epochs: usize,
    /// Where the network is trained: cpu, or cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: DeviceChoice,
    /// Worker threads; 0 for every core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Measured rounds
    #[arg(long, value_name = "N", default_value_t = 1)]
    rounds: usize,
    /// Print one JSON object a round
    #[arg(long)]
    json: bool,
}

/// One measurement, as printed by `--json`; a token is a position pair of the fit half in one epoch.
#[derive(Debug, Serialize)]
struct Round {
    engine: &'static str,
    seconds: f64,
    steps: usize,
    tokens_per_second: f64,
    probe_accuracy: f64,
    angle_error: f64,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    for (flag, value) in [
        ("hidden", args.hidden),
        ("rows", args.rows),
        ("epochs", args.epochs),
    ] {
        if value == 0 {
            return Err(bad_input(format!("--{flag} must be at least 1")));
        }
    }
    if args.pairs < 5 {
        return Err(bad_input(
            "--pairs must be at least 5, of which one is held out",
        ));
    }
    set_threads(args.threads)?;
    let (chosen, rejected) = states(args.pairs * args.rows, args.hidden);
    let numbers: Vec<u32> = (0..args.pairs * args.rows)
        .map(|row| (row / args.rows) as u32)
        .collect();
    let states = PairedStates::new(args.hidden, &chosen, &rejected, &numbers, &numbers)?;
    let device = args
        .device
        .open()?
        .into_iter()
        .find(|device| !device.is_cpu());
    let upload = |device| DeviceStates::upload(args.hidden, &chosen, &rejected, device);
    let copy = device.as_ref().map(upload).transpose()?;
    let states = states.on_device(copy.as_ref());
    let (held_out, fit): (Vec<usize>, Vec<usize>) =
        (0..numbers.len()).partition(|&row| numbers[row].is_multiple_of(5));
    let options = HprOptions {
        epochs: args.epochs,
        ..HprOptions::faithful(0)
    };
    for _ in 0..args.rounds {
        let start = Instant::now();
        let fitted = hpr::fit(&states, &fit, &held_out, &Normal::Probe, &options)?;
        let seconds = start.elapsed().as_secs_f64();
        let round = Round {
            engine: "sims",
            seconds,
            steps: fit.len().div_ceil(options.batch_pairs) * args.epochs,
            tokens_per_second: (fit.len() * args.epochs) as f64 / seconds,
            probe_accuracy: fitted.held_out.probe_accuracy,
            angle_error: fitted.held_out.angle_error,
        };
        if args.json {
            print_json(&round)?;
        } else {
            print_line!(
                "{:.1} position pairs a second: {} steps in {:.2} s, held-out accuracy {:.3}, angle error {:.4}",
                round.tokens_per_second,
                round.steps,
                seconds,
                round.probe_accuracy,
                round.angle_error
            );
        }
    }
    Ok(())
}

/// Makes up states on either side of a plane, `[rows, hidden]` chosen and rejected.
fn states(rows: usize, hidden: usize) -> (Vec<f32>, Vec<f32>) {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut draw = || {
        // Xorshift: any numbers will do, and many are needed.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let normal: Vec<f32> = (0..hidden).map(|_| 0.2 * draw()).collect();
    let mut class = |sign: f32| -> Vec<f32> {
        (0..rows)
            .flat_map(|_| normal.iter().map(|n| draw() + sign * n).collect::<Vec<_>>())
            .collect()
    };
    (class(1.0), class(-1.0))
}
