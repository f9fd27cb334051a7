//! Times prefill and greedy decoding of one batch of random prompts.
//!
//! `cargo run --release -p sims-model --example forward_speed -- MODEL_DIR BATCH PROMPT NEW [f32|bf16] [candle]`
//!
//! Prints tokens a second of the best of five runs; `RAYON_NUM_THREADS` sets the threads.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use sims_model::decoder::Kernels;
use sims_model::{Batch, Decoder, Device, Dtype, KvCache, Result};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize| arguments.get(i).and_then(|text| text.parse::<usize>().ok());
    let (Some(directory), Some(batch), Some(prompt), Some(new)) =
        (arguments.first(), number(1), number(2), number(3))
    else {
        eprintln!("usage: forward_speed MODEL_DIR BATCH PROMPT NEW [f32|bf16] [candle]");
        return ExitCode::from(2);
    };
    let dtype = if arguments.iter().any(|text| text == "bf16") {
        Dtype::Bf16
    } else {
        Dtype::F32
    };
    let kernels = if arguments.iter().any(|text| text == "candle") {
        Kernels::Candle
    } else {
        Kernels::Fastest
    };
    match measure(Path::new(directory), (dtype, kernels), batch, prompt, new) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(
    directory: &Path,
    (dtype, kernels): (Dtype, Kernels),
    batch: usize,
    prompt: usize,
    new: usize,
) -> Result<()> {
    let decoder = Decoder::load(directory, &[Device::Cpu], dtype, kernels)?;
    let vocab = decoder.config().vocab_size;
    let (mut prefill_secs, mut decode_secs) = (f64::MAX, f64::MAX);
    for _ in 0..5 {
        let mut cache = KvCache::new(&decoder, batch * (prompt + new));
        let slot = |sequence: usize| sequence * (prompt + new);
        let mut prefill = Batch::default();
        for sequence in 0..batch {
            let tokens: Vec<u32> = (0..prompt)
                .map(|i| ((sequence * 31 + i * 17) % vocab) as u32)
                .collect();
            prefill.push(&tokens, vec![], slot(sequence), usize::MAX);
        }
        let start = Instant::now();
        let hidden = decoder.forward(&prefill, &mut cache, None)?;
        let last: Vec<u32> = (0..batch)
            .map(|sequence| ((sequence + 1) * prompt - 1) as u32)
            .collect();
        let last = sims_model::Tensor::new(last, decoder.device())?;
        let mut tokens = best(&decoder.logits(&hidden.index_select(&last, 0)?)?.to_vec2()?);
        prefill_secs = prefill_secs.min(start.elapsed().as_secs_f64());
        let start = Instant::now();
        for step in 0..new {
            let mut batch = Batch::default();
            for (sequence, token) in tokens.iter().enumerate() {
                let written = slot(sequence)..slot(sequence) + prompt + step;
                batch.push(
                    &[*token],
                    std::iter::once(written.clone()).collect(),
                    written.end,
                    usize::MAX,
                );
            }
            let hidden = decoder.forward(&batch, &mut cache, None)?;
            tokens = best(&decoder.logits(&hidden)?.to_vec2()?);
        }
        decode_secs = decode_secs.min(start.elapsed().as_secs_f64());
    }
    println!(
        "{} parameters, {dtype}, {kernels:?}: prefill {:.0} tokens/s, decode {:.0} tokens/s",
        decoder.config().parameters(),
        (batch * prompt) as f64 / prefill_secs,
        (batch * new) as f64 / decode_secs,
    );
    Ok(())
}

/// Returns the greatest logit's token of each row.
fn best(logits: &[Vec<f32>]) -> Vec<u32> {
    let greatest = |row: &Vec<f32>| {
        (0..row.len())
            .max_by(|&a, &b| row[a].total_cmp(&row[b]))
            .unwrap_or(0)
    };
    logits.iter().map(|row| greatest(row) as u32).collect()
}
