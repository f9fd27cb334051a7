//! `sims-model perplexity`: how well a model predicts plain texts.

use std::ops::ControlFlow;
use std::path::PathBuf;

use serde::Serialize;
use sims_artifact::read_table;
use sims_artifact::tables::PromptRow;
use sims_model::Hook;
use sims_model::score::{ScoreLimits, ScoreRequest, response_logprobs};

use crate::exit::bad_input;
use crate::open::{Model, ModelArgs, print_json};

/// Print the perplexity of plain texts
///
/// Each prompt of the file has one message, whose content is read as a document: without a chat template, with the
/// tokens that the tokenizer itself puts before a text. Every token but the first is predicted from those before it; a
/// steering edits every position. The perplexity is exp(total negative log-likelihood / predicted tokens).
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sims-model perplexity --model data/tiny --prompts data/toyworld/neutral.parquet\n  \
                  sims-model perplexity --model data/tiny --prompts data/toyworld/neutral.parquet --steering accepted.safetensors --json"
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    /// Texts, as a prompts table
    #[arg(long, value_name = "FILE")]
    prompts: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Perplexity {
    perplexity: f64,
    /// Mean negative log-likelihood of a token, in nats.
    nats_per_token: f64,
    /// Tokens predicted.
    tokens: usize,
    texts: usize,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let rows: Vec<PromptRow> = read_table(&args.prompts)?;
    if rows.is_empty() {
        return Err(bad_input(format!(
            "{} has no texts",
            args.prompts.display()
        )));
    }
    let (model, mut hook) = args.model.open()?;
    let texts = rows
        .iter()
        .map(|row| text_tokens(&model, row))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let requests: Vec<ScoreRequest<'_>> = texts
        .iter()
        .map(|tokens| ScoreRequest::new(tokens, 1))
        .collect();
    let (logprobs, _) = response_logprobs(
        &model.decoder,
        &requests,
        &ScoreLimits::for_decoder(&model.decoder),
        hook.as_mut().map(|hook| hook as &mut dyn Hook),
        &mut |_| ControlFlow::Continue(()),
    )?;
    let tokens = logprobs.iter().map(Vec::len).sum::<usize>();
    let total: f64 = logprobs
        .iter()
        .flatten()
        .map(|&logprob| f64::from(logprob))
        .sum();
    let nats_per_token = -total / tokens as f64;
    let result = Perplexity {
        perplexity: nats_per_token.exp(),
        nats_per_token,
        tokens,
        texts: texts.len(),
    };
    if args.json {
        return print_json(&result);
    }
    print_line!(
        "perplexity {:.4} over {tokens} tokens of {} texts",
        result.perplexity,
        result.texts
    );
    Ok(())
}

/// The tokens of a row's only message.
fn text_tokens(model: &Model, row: &PromptRow) -> anyhow::Result<Vec<u32>> {
    let [message] = &row.messages[..] else {
        let count = row.messages.len();
        return Err(bad_input(format!(
            "prompt {} has {count} messages; a text has one",
            row.prompt_id
        )));
    };
    let tokens = model.tokenizer()?.encode_document(&message.content)?;
    if tokens.len() < 2 {
        return Err(bad_input(format!(
            "the text of prompt {} has fewer than two tokens",
            row.prompt_id
        )));
    }
    Ok(tokens)
}
