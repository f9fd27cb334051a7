//! `sims-model forward`: logits and every block's output for a list of tokens.

use std::ops::ControlFlow;
use std::path::PathBuf;

use serde_json::json;
use sims_artifact::tensors::{StoredDtype, TensorSpec, TensorWriter};
use sims_model::capture::{CaptureRequest, hidden_states};
use sims_model::score::ScoreLimits;
use sims_model::softmax::log_sum_exp;
use sims_model::{Batch, Decoder, Hook, KvCache};
use sims_steering::SteeringHook;

use crate::exit::bad_input;
use crate::open::{Model, ModelArgs, print_json};

/// Logits that are computed and written at a time.
const CHUNK_LOGITS: usize = 1 << 23;

/// Most probable next tokens that are printed.
const SHOWN: usize = 5;

/// Write the logits and the output of every block for a list of tokens
///
/// The file holds `logits` [tokens, vocabulary] and, for every block, `block.{i}` [tokens, hidden]: the residual stream
/// that the next block reads, before the final norm, after the steering's edit.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sims-model forward --model data/tiny --tokens 1,2,3 --out states.safetensors\n  \
                  sims-model forward --model data/tiny --tokens 1,2,3 --steering accepted.safetensors --out steered.safetensors"
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Token ids, separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',', required = true)]
    tokens: Vec<u32>,
    /// First position that the steering edits [default: the last, as when a prompt is answered]
    #[arg(long, value_name = "POSITION")]
    edit_from: Option<usize>,
    /// Safetensors file to write, f32
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Print one JSON object about what was written
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let (model, mut hook) = args.model.open()?;
    model.check_tokens(&args.tokens)?;
    let edit_from = args.edit_from.unwrap_or(args.tokens.len() - 1);
    let config = model.decoder.config();
    if args.tokens.len() > config.max_position_embeddings {
        let limit = config.max_position_embeddings;
        return Err(bad_input(format!(
            "{} tokens do not fit the model's context of {limit}",
            args.tokens.len()
        )));
    }
    let metadata = json!({
        "tokens": args.tokens,
        "edit_from": edit_from,
        "steered": hook.is_some(),
    });
    let mut writer = TensorWriter::create(
        &args.out,
        specs(&model.decoder, args.tokens.len()),
        &metadata,
    )?;
    write_blocks(
        &model.decoder,
        &args.tokens,
        edit_from,
        hook.as_mut(),
        &mut writer,
    )?;
    let last = write_logits(
        &model.decoder,
        &args.tokens,
        edit_from,
        hook.as_mut(),
        &mut writer,
    )?;
    writer.publish()?;
    print_summary(args, &model, &last)
}

/// The tensors of the file.
fn specs(decoder: &Decoder, tokens: usize) -> Vec<TensorSpec> {
    let spec = |name: String, width| TensorSpec {
        name,
        dtype: StoredDtype::F32,
        shape: vec![tokens, width],
    };
    let config = decoder.config();
    let blocks = (0..config.num_hidden_layers)
        .map(|layer| spec(format!("block.{layer}"), config.hidden_size));
    blocks
        .chain([spec("logits".to_owned(), config.vocab_size)])
        .collect()
}

/// Writes every block's output.
fn write_blocks(
    decoder: &Decoder,
    tokens: &[u32],
    edit_from: usize,
    hook: Option<&mut SteeringHook>,
    writer: &mut TensorWriter,
) -> anyhow::Result<()> {
    let layers: Vec<usize> = (0..decoder.config().num_hidden_layers).collect();
    let request = CaptureRequest {
        tokens: tokens.to_vec(),
        positions: (0..tokens.len()).collect(),
        edit_from,
    };
    let mut states = Vec::new();
    let mut sink = |captured: sims_model::capture::HiddenStates| {
        states = captured.layers;
        ControlFlow::Continue(())
    };
    let hook = hook.map(|hook| hook as &mut dyn Hook);
    hidden_states(
        decoder,
        &[request],
        &layers,
        &ScoreLimits::for_decoder(decoder),
        hook,
        &mut sink,
    )?;
    for (layer, values) in states.iter().enumerate() {
        writer.write_rows(&format!("block.{layer}"), 0, values)?;
    }
    Ok(())
}

/// Writes the logits of every position and returns those of the last.
fn write_logits(
    decoder: &Decoder,
    tokens: &[u32],
    edit_from: usize,
    hook: Option<&mut SteeringHook>,
    writer: &mut TensorWriter,
) -> anyhow::Result<Vec<f32>> {
    let mut batch = Batch::default();
    batch.push(tokens, Vec::new(), 0, edit_from);
    let mut cache = KvCache::new(decoder, tokens.len());
    let hidden = decoder.forward(&batch, &mut cache, hook.map(|hook| hook as &mut dyn Hook))?;
    let vocab_size = decoder.config().vocab_size;
    let rows = (CHUNK_LOGITS / vocab_size).max(1);
    let mut last = Vec::new();
    for start in (0..tokens.len()).step_by(rows) {
        let count = rows.min(tokens.len() - start);
        let logits = decoder.logits(&hidden.narrow(0, start, count)?.contiguous()?)?;
        let values = logits.flatten_all()?.to_vec1::<f32>()?;
        writer.write_rows("logits", start, &values)?;
        last = values[values.len() - vocab_size..].to_vec();
    }
    Ok(last)
}

/// Says what was written and which tokens come next.
fn print_summary(args: &Args, model: &Model, last: &[f32]) -> anyhow::Result<()> {
    let config = model.decoder.config();
    if args.json {
        return print_json(&json!({
            "out": args.out,
            "tokens": args.tokens.len(),
            "layers": config.num_hidden_layers,
            "hidden": config.hidden_size,
            "vocabulary": config.vocab_size,
        }));
    }
    print_line!(
        "wrote {}: logits and {} blocks",
        args.out.display(),
        config.num_hidden_layers
    );
    let sums = log_sum_exp(last)?;
    let mut order: Vec<usize> = (0..last.len()).collect();
    order.sort_by(|&a, &b| last[b].total_cmp(&last[a]));
    print_line!("most probable next tokens:");
    for &token in order.iter().take(SHOWN) {
        let text = model.decode(&[token as u32])?;
        print_line!(
            "{token:>8}  {:.4}  {text:?}",
            sums.log_probability(last[token]).exp()
        );
    }
    Ok(())
}
