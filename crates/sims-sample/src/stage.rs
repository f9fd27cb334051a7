//! The stage: tables in, table out.

use std::ops::ControlFlow;
use std::path::Path;

use anyhow::Context;
use sims_artifact::tables::{PromptRow, RankingRow, ResponseRow};
use sims_artifact::{Digest, ModelManifest};
use sims_model::generate::{BatchLimits, Progress, SamplingParams};
use sims_model::language_model::set_threads;
use sims_model::{
    Adapter, DeviceChoice, Hook, LanguageModel, LoadOptions, ModelError, memory, numerics_class,
};
use sims_stage::{BadInput, Interrupted, Numerics, Role, Stage, StageIo, Units};
use sims_steering::{AdapterFile, Steering};

use crate::lead::Lead;
use crate::priority::prioritised;
use crate::{BASE_POLICY, Draws, EncodedPrompt, Selection, encode_prompts};

sims_stage::choice! {
    /// The type that weights are held in
    pub enum WeightType {
        /// 32-bit floats
        F32 = "f32",
        /// The upper half of a 32-bit float
        Bf16 = "bf16",
    }
}

sims_stage::params! {
    /// Which prompts are answered, and how responses are sampled.
    pub struct SampleParams {
        /// Responses a prompt
        samples: u32 = 10,
        /// Divides the logits; 0 takes the most probable token
        temperature: f64 = 0.9,
        /// Keep the fewest most probable tokens whose probabilities sum to this; 1 keeps all
        top_p: f64 = 1.0,
        /// Keep this many of the most probable tokens; 0 keeps all
        top_k: u32 = 0,
        /// Drop tokens less probable than this times the most probable; 0 keeps all
        min_p: f64 = 0.0,
        /// Makes tokens that occurred less probable; 1 is off
        repetition_penalty: f64 = 1.0,
        /// Longest response. Unit: tokens
        max_new_tokens: u32 = 40,
        /// Prompts a shard, cut from the prompts in the order of their ids; 0 takes all prompts
        shard_size: u32 = 0,
        /// Which shard, from 1; 0 takes the one with the round's number
        shard: u32 = 0,
        /// Take only prompts of this split; empty takes all
        split: String = String::new(),
        /// Share of the prompts that are answered where there is a pilot: those that promise the clearest contrast
        pilot_share: f64 = 0.5,
        /// The round, from 1
        round: u32 = 1,
        /// Seed of every random stream
        seed: u64 = 0,
        /// The type that weights are held in
        dtype: WeightType = WeightType::F32,
    }
    optional {
        /// A system message before every prompt
        system: String,
    }
}

/// The sample stage.
pub struct Sample;

impl Stage for Sample {
    const NAME: &'static str = "sample";
    const ABOUT: &'static str =
        "Samples several responses a prompt from the base or the steered model";
    const EXAMPLES: &'static str = "Examples:
  sims-sample --prompts train.parquet --model data/tiny --samples 10 --out base
  sims-sample --prompts train.parquet --model data/tiny --steering accepted.safetensors --shard-size 500 --round 2 --out r2
  sims-sample --prompts eval.parquet --model data/tiny --adapter tuned/adapter.safetensors --out tuned-answers";
    const BEHAVIOUR: u32 = 2;
    const NUMERICS: Numerics = Numerics::Model(numerics_class);
    // Which prompts are answered is decided here, and a unit's digest holds the prompt.
    const UNITS: Option<Units> = Some(Units {
        inputs: &["prompts", "pilot"],
        params: &["shard-size", "shard", "split", "pilot-share"],
    });
    type Params = SampleParams;

    fn inputs() -> Vec<Role> {
        vec![
            Role::required("prompts", "prompts@1", "The prompts to answer"),
            Role::required("model", "model", "The model that answers"),
            Role::optional(
                "pilot",
                "ranking@1",
                "A ranking of a few responses to each of these prompts, which says what prompts are worth all samples",
            ),
            Role::optional(
                "steering",
                "steering@1",
                "The steering to answer with; none for the base model",
            ),
            Role::optional(
                "examples",
                "prompts@1",
                "A conversation, in a table of one row, that goes before every prompt: examples of good answers",
            ),
            Role::optional(
                "adapter",
                "adapter@1",
                "Low-rank changes to merge into the model's weights; none for the model as it is",
            ),
            Role::optional(
                "settings",
                "settings@1",
                "What earlier rounds changed: how much hotter to sample",
            ),
        ]
    }

    fn outputs() -> Vec<Role> {
        vec![Role::required(
            "responses",
            "responses@1",
            "The responses, by prompt id and sample index",
        )]
    }

    fn run(params: &SampleParams, io: &mut StageIo) -> anyhow::Result<()> {
        if params.samples == 0 {
            return Err(
                BadInput::new("samples is 0, but every prompt needs at least 1 response").into(),
            );
        }
        let mut params = params.clone();
        if let Some(settings) = io.settings()? {
            params.temperature += settings.temperature_rise;
        }
        let mut prompts = params
            .selection()
            .of(io.read("prompts")?)
            .map_err(bad_input)?;
        if io.optional_input("pilot").is_some() {
            let before = prompts.len();
            let pilot: Vec<RankingRow> = io.read("pilot")?;
            prompts = prioritised(prompts, &pilot, params.pilot_share).map_err(bad_input)?;
            io.count("prompts_left_out", (before - prompts.len()) as f64);
        }
        let lead = Lead::read(params.system.as_deref(), io)?;
        for prompt in &mut prompts {
            lead.put_before(prompt).map_err(bad_input)?;
        }
        let units: Vec<Digest> = prompts.iter().map(unit).collect();
        // Opened once something has to be sampled.
        let mut sampler: Option<Sampler> = None;
        let samples = params.samples as usize;
        let mut sample = |io: &mut StageIo, chunk: &[usize]| {
            let sampler = match &mut sampler {
                Some(sampler) => sampler,
                none => none.insert(Sampler::open(&params, &prompts, io)?),
            };
            let rows = sampler.draw(&params, chunk, io)?;
            Ok(rows.chunks(samples).map(<[_]>::to_vec).collect())
        };
        let rows = io.chunked_rows("responses", &units, &mut sample)?.concat();
        report(&rows, io);
        io.write("responses", &rows)
    }
}

/// Names all that a prompt's responses depend on beside what is common to all prompts.
fn unit(prompt: &PromptRow) -> Digest {
    let content = serde_json::to_vec(&(&prompt.prompt_id, &prompt.messages));
    Digest::derived(
        "sims 2026 sampled prompt",
        &content.expect("a prompt is plain data"),
    )
}

/// The policy, and all prompts as it reads them.
struct Sampler {
    policy: Policy,
    prompts: Vec<EncodedPrompt>,
}

impl Sampler {
    /// Opens the policy and encodes every prompt, so that one that cannot be answered is found at once.
    fn open(
        params: &SampleParams,
        prompts: &[PromptRow],
        io: &mut StageIo,
    ) -> anyhow::Result<Self> {
        let policy = Policy::open(io, params.dtype)?;
        let max_new_tokens = params.max_new_tokens as usize;
        let prompts = encode_prompts(&policy.model, prompts, max_new_tokens).map_err(bad_input)?;
        Ok(Self { policy, prompts })
    }

    /// Samples the responses to the prompts at `chunk`, prompt by prompt.
    fn draw(
        &self,
        params: &SampleParams,
        chunk: &[usize],
        io: &mut StageIo,
    ) -> anyhow::Result<Vec<ResponseRow>> {
        let Policy {
            name,
            model,
            steering,
        } = &self.policy;
        let prompts: Vec<EncodedPrompt> = chunk.iter().map(|&i| self.prompts[i].clone()).collect();
        let draws = Draws {
            policy: name.clone(),
            indices: 0..params.samples,
            seed: params.seed,
            round: params.round,
            sampling: params.sampling(model),
            limits: batch_limits(model, io),
        };
        report_limits(&draws.limits, io);
        let mut hook = steering.as_ref().map(Steering::hook);
        let hook = hook.as_mut().map(|hook| hook as &mut dyn Hook);
        draw(model, &prompts, &draws, hook, io)
    }
}

impl SampleParams {
    fn selection(&self) -> Selection {
        let shard = if self.shard == 0 {
            self.round
        } else {
            self.shard
        };
        Selection {
            split: self.split.clone(),
            shard_size: self.shard_size as usize,
            shard: shard as usize,
        }
    }

    fn sampling(&self, model: &LanguageModel) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature as f32,
            top_k: self.top_k as usize,
            top_p: self.top_p as f32,
            min_p: self.min_p as f32,
            repetition_penalty: self.repetition_penalty as f32,
            max_new_tokens: self.max_new_tokens as usize,
            stop_tokens: model.generation_config().eos_token_ids.clone(),
        }
    }
}

/// What answers: the model, its weights as they are or with an adapter merged, and what steers it.
struct Policy {
    /// Value of the `policy` column.
    name: String,
    model: LanguageModel,
    steering: Option<Steering>,
}

impl Policy {
    fn open(io: &StageIo, dtype: WeightType) -> anyhow::Result<Self> {
        set_threads(io.threads()).ok(); // Fails only where threads run already; results do not depend on them.
        let device: DeviceChoice = io.device().parse().map_err(bad_input)?;
        let options = LoadOptions {
            devices: device.open().map_err(bad_input)?,
            dtype: dtype.to_string().parse().map_err(bad_input)?,
        };
        let path = io.input("model")?;
        let (adapter, steering) =
            match (io.optional_input("adapter"), io.optional_input("steering")) {
                (None, None) => (None, None),
                (adapter, steering) => {
                    let digest = ModelManifest::of_dir(path)?.digest;
                    (
                        adapter
                            .map(|path| open_adapter(path, &digest))
                            .transpose()?,
                        open_steering(steering, &digest)?,
                    )
                }
            };
        let merged = adapter.as_ref().map(|(adapter, _)| adapter);
        let model = LanguageModel::load_adapted(path, &options, merged).map_err(bad_input)?;
        let names: Vec<String> = adapter
            .map(|(_, name)| name)
            .into_iter()
            .chain(steering.as_ref().map(|(_, name)| name.clone()))
            .collect();
        Ok(Self {
            name: match &names[..] {
                [] => BASE_POLICY.to_owned(),
                names => names.join("-"),
            },
            model,
            steering: steering.map(|(steering, _)| steering),
        })
    }
}

/// Reads an adapter of the model with digest `model`, and names its policy.
///
/// # Errors
/// A file that is none, or one of another model.
pub fn open_adapter(path: &Path, model: &Digest) -> anyhow::Result<(Adapter, String)> {
    let file = AdapterFile::load(path, model).map_err(bad_input)?;
    let policy = format!("adapted-{}", Digest::of_file(path)?.short(12));
    Ok((file.adapter, policy))
}

/// Opens the steering, if one was given that does anything, and names its policy.
fn open_steering(
    path: Option<&Path>,
    model: &Digest,
) -> anyhow::Result<Option<(Steering, String)>> {
    let Some(path) = path else {
        return Ok(None);
    };
    let steering = Steering::load(path).map_err(bad_input)?;
    steering.check_model(model).map_err(bad_input)?;
    if steering.is_identity() {
        return Ok(None);
    }
    let policy = format!("steered-{}", Digest::of_file(path)?.short(12));
    Ok(Some((steering, policy)))
}

/// Limits that fit the memory; a batch size that was asked for goes before what would be chosen.
fn batch_limits(model: &LanguageModel, io: &StageIo) -> BatchLimits {
    let fitting = BatchLimits::for_decoder(model.decoder());
    match io.batch_size() {
        0 => fitting,
        max_sequences => BatchLimits {
            max_sequences,
            ..fitting
        },
    }
}

fn report_limits(limits: &BatchLimits, io: &mut StageIo) {
    io.count("batch_sequences", limits.max_sequences as f64);
    io.count("batch_prompt_rows", limits.max_prefill_rows as f64);
    io.count("batch_kv_slots", limits.max_slots as f64);
}

fn draw(
    model: &LanguageModel,
    prompts: &[EncodedPrompt],
    draws: &Draws,
    hook: Option<&mut dyn Hook>,
    io: &mut StageIo,
) -> anyhow::Result<Vec<ResponseRow>> {
    let bar = io.progress("sample", prompts.len() as u64 * draws.indices.len() as u64);
    let mut last = Progress::default();
    let mut report = |progress: Progress| {
        last = progress;
        bar.set(progress.finished as u64);
        if io.interrupted() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let rows = match draws.from(model, prompts, hook, &mut report) {
        Ok(rows) => rows,
        Err(_) if io.interrupted() => return Err(Interrupted.into()),
        Err(error @ ModelError::Setting { .. }) => return Err(bad_input(error).into()),
        Err(error) => return Err(error).context("sampling failed"),
    };
    io.count("prompt_tokens_computed", last.prompt_tokens as f64);
    io.count("new_tokens", last.new_tokens as f64);
    io.count("repeated_tokens", last.repeated_tokens as f64);
    if let Some(warning) = memory::warning(last.halvings) {
        io.warn(warning);
    }
    // Two for each parameter and token: a multiplication and an addition.
    let tokens = (last.prompt_tokens + last.new_tokens + last.repeated_tokens) as f64;
    io.count(
        "estimated_flops",
        2.0 * model.decoder().config().parameters() as f64 * tokens,
    );
    Ok(rows)
}

fn report(rows: &[ResponseRow], io: &mut StageIo) {
    let truncated = rows
        .iter()
        .filter(|row| row.finish_reason == "length")
        .count();
    let empty = rows.iter().filter(|row| row.text.trim().is_empty()).count();
    io.count("responses_truncated", truncated as f64);
    io.count("responses_empty", empty as f64);
    if truncated == rows.len() && !rows.is_empty() {
        io.warn("no response ended by itself; max-new-tokens may be too small, or the model has no end token");
    }
}

/// Wraps what is wrong with the input, cause chain and all.
fn bad_input<E: std::error::Error + Send + Sync + 'static>(error: E) -> BadInput {
    BadInput::new(format!("{:#}", anyhow::Error::new(error)))
}
