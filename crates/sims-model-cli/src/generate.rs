//! `sims-model generate`: one response to a prompt or to a list of tokens.

use std::ops::ControlFlow;

use serde::Serialize;
use sims_artifact::tables::{Message, prompt_id};
use sims_model::generate::{
    BatchLimits, FinishReason, Generation, Request, SampleKey, SamplingParams, generate,
};
use sims_model::{ChatMessage, Hook};

use crate::open::{Model, ModelArgs, print_json};

/// Answer one prompt
///
/// With --prompt and a --seed, the response is the one that the sample stage draws first in round 1.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sims-model generate --model data/tiny --prompt 'put in order : 15 9 26 with commas'\n  \
                  sims-model generate --model data/tiny --tokens 1,2,3 --max-new-tokens 20 --temperature 0 --json"
)]
pub(crate) struct Args {
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    input: Input,
    /// Take the prompt as it stands, without the chat template
    #[arg(long, requires = "prompt")]
    raw: bool,
    /// Longest response, in tokens
    #[arg(long, value_name = "N", default_value_t = 64)]
    max_new_tokens: usize,
    /// Divides the logits; 0 takes the most probable token
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Keep this many of the most probable tokens; 0 keeps all
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Keep the fewest most probable tokens whose probabilities sum to this; 1 keeps all
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Drop tokens less probable than this times the most probable; 0 keeps all
    #[arg(long, default_value_t = 0.0)]
    min_p: f32,
    /// Makes tokens that occurred less probable; 1 is off
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Seed of the random stream
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print one JSON object: token_ids, text, finish_reason, prompt_tokens, logprob_sum
    #[arg(long)]
    json: bool,
}

/// What is answered.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Input {
    /// A user's message
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Token ids of the whole prompt, separated by commas
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    tokens: Option<Vec<u32>>,
}

/// The response, as printed by `--json`.
#[derive(Debug, Serialize)]
struct Response {
    token_ids: Vec<u32>,
    text: String,
    finish_reason: &'static str,
    prompt_tokens: usize,
    logprob_sum: f64,
}

/// Runs the subcommand.
pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let (model, mut hook) = args.model.open()?;
    let prompt = args.prompt_tokens(&model)?;
    model.check_tokens(&prompt)?;
    let id = prompt_id(&[Message::user(
        args.input.prompt.as_deref().unwrap_or_default(),
    )]);
    let request = Request {
        prompt,
        samples: vec![SampleKey::new(args.seed, 1, &id, 0)],
    };
    let generations = generate(
        &model.decoder,
        std::slice::from_ref(&request),
        &args.sampling(&model),
        &BatchLimits::for_decoder(&model.decoder),
        hook.as_mut().map(|hook| hook as &mut dyn Hook),
        &mut |_| ControlFlow::Continue(()),
    )?;
    for generation in generations.into_iter().flatten() {
        let response = Response::of(&model, request.prompt.len(), generation)?;
        if args.json {
            print_json(&response)?;
        } else {
            print_line!("{}", response.text);
            let Response {
                finish_reason,
                token_ids,
                logprob_sum,
                ..
            } = &response;
            say_line!(
                "{} tokens, ended by {finish_reason}, log-probability {logprob_sum:.3}",
                token_ids.len()
            );
        }
    }
    Ok(())
}

impl Args {
    /// The prompt's tokens: as given, or the text through the chat template and the tokenizer.
    fn prompt_tokens(&self, model: &Model) -> anyhow::Result<Vec<u32>> {
        let text = match (&self.input.tokens, &self.input.prompt) {
            (Some(tokens), _) => return Ok(tokens.clone()),
            (None, Some(text)) if self.raw => text.clone(),
            (None, text) => {
                let content = text.clone().unwrap_or_default();
                let message = ChatMessage {
                    role: "user".to_owned(),
                    content,
                };
                model.chat_template()?.render(&[message], true)?
            }
        };
        Ok(model.tokenizer()?.encode(&text)?)
    }

    fn sampling(&self, model: &Model) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            max_new_tokens: self.max_new_tokens,
            stop_tokens: model.stop_tokens.clone(),
        }
    }
}

impl Response {
    fn of(model: &Model, prompt_tokens: usize, generation: Generation) -> anyhow::Result<Self> {
        let Generation {
            token_ids,
            finish_reason,
            logprob_sum,
        } = generation;
        // The stop token is no text, even where a tokenizer does not mark it as special.
        let content = match (finish_reason, token_ids.split_last()) {
            (FinishReason::Stop, Some((_, content))) => content,
            _ => &token_ids[..],
        };
        Ok(Self {
            text: model.decode(content)?,
            finish_reason: finish_reason.as_str(),
            prompt_tokens,
            logprob_sum,
            token_ids,
        })
    }
}
