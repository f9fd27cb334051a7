//! The stage: from tables and a candidate to the accepted steering and its figures.

use std::path::Path;

use sims_artifact::tables::{DecisionRow, PromptRow, ResponseRow, ScoreRow};
use sims_artifact::{Digest, ModelManifest, read_table};
use sims_judge::JudgeInputs;
use sims_judge::open::open_two;
use sims_judge::template::request_text;
use sims_model::language_model::set_threads;
use sims_model::{DeviceChoice, LanguageModel, LoadOptions, memory, numerics_class};
use sims_sample::{BASE_POLICY, encode_prompts, open_adapter};
use sims_stage::{BadInput, Numerics, Role, Stage, StageIo};
use sims_stats::split::held_out_by_group;
use sims_steering::Steering;

use crate::answers::{Answers, at, base_answers, content};
use crate::back_off::{Outcome, Setting, grid, runs, search};
use crate::constraints::Constraints;
use crate::evaluation::{Adapted, Cost, Evaluation, Policy, Side};
use crate::neutral::NeutralText;
use crate::params::LayerSearch;
use crate::report::{Metrics, text_scores, win_scores};
use crate::text_figures::split_draws;
use crate::trial::{Assessment, Trials, accept_gates, assess, changed_layers, hard_gates, noise};
use crate::{Gate, SteerEvalParams};

/// Fewest prompts of a part on which a gate's reading means much.
const FEW_PROMPTS: usize = 32;

/// The steer-eval stage.
pub struct SteerEval;

impl Stage for SteerEval {
    const NAME: &'static str = "steer-eval";
    const ABOUT: &'static str =
        "Evaluates a steering against the base model and decides whether to accept it";
    const EXAMPLES: &'static str = "Examples:
  sims-steer-eval --prompts validation.parquet --model data/tiny --steering steering.safetensors --out evaluated
  sims-steer-eval --prompts eval.parquet --model data/tiny --steering accepted.safetensors --gate none --out test
  sims-steer-eval --prompts eval.parquet --model data/tiny --adapter adapter.safetensors --gate none --out tuned";
    const BEHAVIOUR: u32 = 6;
    const NUMERICS: Numerics = Numerics::Model(numerics_class);
    type Params = SteerEvalParams;

    fn inputs() -> Vec<Role> {
        vec![
            Role::required(
                "prompts",
                "prompts@1",
                "Prompts that no contrast pair came from",
            ),
            Role::required(
                "model",
                "model",
                "The model, which is also the judge unless another is chosen",
            ),
            Role::optional(
                "steering",
                "steering@1",
                "The candidate; none only where an adapter is",
            ),
            Role::optional(
                "adapter",
                "adapter@1",
                "Low-rank changes of the candidate's weights, for gate none: they have no strength to back off to",
            ),
            Role::optional(
                "incumbent",
                "steering@1",
                "What stays if the candidate is refused; none is the base",
            ),
            Role::optional(
                "base-responses",
                "responses@1",
                "The base's draws; drawn here if not given",
            ),
            Role::optional(
                "neutral",
                "prompts@1",
                "Plain texts, a single message each, to measure drift on; without them no gate guards against it",
            ),
            Role::optional(
                "constraints",
                "constraints@1",
                "What prompts ask of the form of a response, as Parquet or JSON lines; measured, no gate (docs/side-effects.md)",
            ),
            Role::optional(
                "pairrm",
                "model",
                "Judge pairrm: the folder of llm-blender/PairRM-hf",
            ),
        ]
    }

    fn outputs() -> Vec<Role> {
        vec![
            Role::required(
                "accepted",
                "steering@1",
                "The candidate at the strength that passed, or the incumbent",
            ),
            Role::required("decision", "decision@2", "One row a gate and attempt"),
            Role::required(
                "metrics",
                "metrics@1",
                "Figures about the accepted steering",
            ),
            Role::required(
                "scores",
                "scores@1",
                "One row a prompt, policy, draw and metric",
            ),
            Role::required("responses", "responses@1", "The draws behind the figures"),
        ]
    }

    fn run(params: &SteerEvalParams, io: &mut StageIo) -> anyhow::Result<()> {
        params.check()?;
        let prompts = params
            .selection()
            .of(io.read("prompts")?)
            .map_err(bad_input)?;
        let model = load_model(params, io)?;
        let digest = ModelManifest::of_dir(io.input("model")?)?.digest;
        let adapted = load_adapted(params, io, &digest)?;
        let candidate = match (io.optional_input("steering"), &adapted) {
            (Some(path), _) => load_steering(path, &digest)?,
            (None, Some(adapted)) => {
                let config = adapted.model.decoder().config();
                Steering::identity(digest, config.hidden_size, config.num_hidden_layers)
            }
            (None, None) => {
                let message = "there is no candidate: give a steering, an adapter or both";
                return Err(BadInput::new(message).into());
            }
        };
        let incumbent = match io.optional_input("incumbent") {
            Some(path) => {
                Some(load_steering(path, &digest)?).filter(|steering| !steering.is_identity())
            }
            None => None,
        };
        let finished = {
            let models = (&model, adapted.as_ref());
            let (evaluation, base) = prepare(params, io, models, &digest, &prompts)?;
            decide(evaluation, base, &candidate, incumbent)?
        };
        write(finished, io)
    }
}

/// All that the stage leaves behind.
struct Finished {
    accepted: Steering,
    /// How many prompts the metrics rest on.
    prompts: u64,
    decisions: Vec<DecisionRow>,
    metrics: Metrics,
    scores: Vec<ScoreRow>,
    responses: Vec<ResponseRow>,
    cost: Cost,
    parameters: usize,
    warnings: Vec<String>,
}

fn load_model(params: &SteerEvalParams, io: &StageIo) -> anyhow::Result<LanguageModel> {
    set_threads(io.threads()).ok(); // Fails only where threads run already; results do not depend on them.
    let options = load_options(params, io)?;
    Ok(LanguageModel::load(io.input("model")?, &options).map_err(bad_input)?)
}

fn load_options(params: &SteerEvalParams, io: &StageIo) -> anyhow::Result<LoadOptions> {
    let device: DeviceChoice = io.device().parse().map_err(bad_input)?;
    Ok(LoadOptions {
        devices: device.open().map_err(bad_input)?,
        dtype: params.dtype.to_string().parse().map_err(bad_input)?,
    })
}

/// Opens the model once more with the adapter merged, if one was given.
fn load_adapted(
    params: &SteerEvalParams,
    io: &StageIo,
    digest: &Digest,
) -> anyhow::Result<Option<Adapted>> {
    let Some(path) = io.optional_input("adapter") else {
        return Ok(None);
    };
    if params.gate != Gate::None {
        let message = "an adapter has no strength that a gate could back off to: give gate none";
        return Err(BadInput::new(message).into());
    }
    let (adapter, name) = open_adapter(path, digest)?;
    let options = load_options(params, io)?;
    let model = LanguageModel::load_adapted(io.input("model")?, &options, Some(&adapter));
    Ok(Some(Adapted {
        model: model.map_err(bad_input)?,
        name,
    }))
}

fn load_steering(path: &Path, model: &Digest) -> anyhow::Result<Steering> {
    let steering = Steering::load(path).map_err(bad_input)?;
    steering.check_model(model).map_err(bad_input)?;
    Ok(steering)
}

/// Sets up the evaluation and gets the base's answers, from the table if one was given.
fn prepare<'a>(
    params: &'a SteerEvalParams,
    io: &'a StageIo,
    (model, adapted): (&'a LanguageModel, Option<&'a Adapted>),
    digest: &'a Digest,
    prompts: &[PromptRow],
) -> anyhow::Result<(Evaluation<'a>, Answers)> {
    let inputs = JudgeInputs {
        model: Some((model, digest)),
        pairrm: io.optional_input("pairrm").map(Path::to_owned),
        device: io.device().parse().map_err(bad_input)?,
        sequences: io.batch_size(),
        round: params.round,
        ..JudgeInputs::default()
    };
    let neutral = match io.optional_input("neutral") {
        Some(path) => {
            NeutralText::encode_all(model, &read_table(path)?, params.neutral_context as usize)?
        }
        None => Vec::new(),
    };
    let (judge, second_judge) =
        open_two(&params.judge(), params.second_judge, &inputs).map_err(bad_input)?;
    let constraints = match io.optional_input("constraints") {
        Some(path) => Constraints::read(path)?,
        None => Constraints::default(),
    };
    let mut evaluation = Evaluation {
        params,
        io,
        model,
        adapted,
        judge,
        second_judge,
        prompts: encode_prompts(model, prompts, params.max_new_tokens as usize)
            .map_err(bad_input)?,
        requests: prompts
            .iter()
            .map(|prompt| request_text(&prompt.messages))
            .collect(),
        neutral,
        constraints,
        cost: Cost::default(),
    };
    let base = match io.optional_input("base-responses") {
        Some(path) => {
            let ids: Vec<String> = prompts
                .iter()
                .map(|prompt| prompt.prompt_id.clone())
                .collect();
            base_answers(read_table(path)?, &ids, params.draws as usize)?
        }
        None => {
            let all: Vec<usize> = (0..prompts.len()).collect();
            evaluation
                .draw(BASE_POLICY, None, Side::Base, &all)?
                .answers
        }
    };
    Ok((evaluation, base))
}

/// Runs the gates, or only measures, and gathers what was found.
fn decide(
    mut evaluation: Evaluation<'_>,
    base: Answers,
    candidate: &Steering,
    incumbent: Option<Steering>,
) -> anyhow::Result<Finished> {
    // The name of a policy is the digest of its file, so the file is written to learn it.
    let file = evaluation.io.output("accepted");
    let name = move |steering: &Steering| -> anyhow::Result<String> {
        steering.save(&file)?;
        Ok(format!("steered-{}", Digest::of_file(&file)?.short(12)))
    };
    let incumbent = match incumbent {
        Some(steering) => Some(Policy {
            name: name(&steering)?,
            steering,
        }),
        None => None,
    };
    match evaluation.params.gate {
        Gate::None => measure(&mut evaluation, base, candidate, incumbent, &name),
        Gate::Standard => try_strengths(&mut evaluation, base, candidate, incumbent, &name),
    }
}

/// Accepts the candidate as it is and measures it on every prompt.
fn measure(
    evaluation: &mut Evaluation<'_>,
    base: Answers,
    candidate: &Steering,
    incumbent: Option<Policy>,
    name: &dyn Fn(&Steering) -> anyhow::Result<String>,
) -> anyhow::Result<Finished> {
    let all: Vec<usize> = (0..evaluation.prompts.len()).collect();
    check_base(&base, &all)?;
    let policy = Policy {
        name: evaluation.candidate_name(candidate, name(candidate)?),
        steering: candidate.clone(),
    };
    let mut assessment = assess(evaluation, policy, Side::Candidate, all.clone(), &base)?;
    if let Some(incumbent) = &incumbent {
        let other = evaluation.draw(
            &incumbent.name,
            Some(&incumbent.steering),
            Side::Incumbent,
            &all,
        )?;
        let answers = &assessment.drawn.answers;
        let wins = evaluation.wins("against incumbent", &all, answers, &other.answers)?;
        assessment.wins_against_incumbent = Some(wins);
        assessment.incumbent_answers = Some(other.answers);
    }
    let noise = noise(evaluation, &base)?;
    let mut gates = hard_gates(evaluation, &assessment, &base, &noise)?;
    gates.extend(accept_gates(evaluation, &assessment, candidate)?);
    let mut finished = finish(evaluation, assessment, Vec::new(), &base)?;
    let setting = Setting {
        layers: changed_layers(candidate, incumbent.as_ref())?,
        strength: 1.0,
    };
    finished.decisions = gates
        .into_iter()
        .map(|gate| gate.into_row(1, "all", &setting, "accept"))
        .collect();
    finished
        .metrics
        .plain("accepted_strength", 1.0, finished.prompts);
    Ok(finished)
}

/// Looks for a strength that passes the gates; the incumbent, or nothing, stays when none does.
fn try_strengths(
    evaluation: &mut Evaluation<'_>,
    base: Answers,
    candidate: &Steering,
    incumbent: Option<Policy>,
    name: &dyn Fn(&Steering) -> anyhow::Result<String>,
) -> anyhow::Result<Finished> {
    let parts = split(evaluation)?;
    for part in &parts {
        check_base(&base, part)?;
    }
    let confirmation = parts[1].clone();
    let few = parts.iter().any(|part| part.len() < FEW_PROMPTS);
    let unguarded = evaluation.neutral.is_empty();
    let params = evaluation.params;
    let changed = changed_layers(candidate, incumbent.as_ref())?;
    let layer_sets = match params.layer_search {
        LayerSearch::Runs if changed.len() > 1 => runs(&changed),
        _ => vec![changed],
    };
    let settings = grid(&layer_sets, &params.back_off.0);
    let mut trials = Trials::new(
        evaluation,
        &base,
        candidate,
        incumbent.as_ref(),
        parts,
        name,
    );
    let Outcome {
        accepted,
        decisions,
    } = search(&settings, |part, setting| trials.run(part, setting))?;

    // The confirmation comes last; the selection's draws at the same strength are kept beside it.
    let mut tried = accepted
        .as_ref()
        .map_or(Vec::new(), |setting| trials.into_assessments(setting));
    let assessment = match tried.pop() {
        Some(confirmed) => confirmed,
        None => {
            let (policy, side) = match incumbent {
                Some(incumbent) => (incumbent, Side::Incumbent),
                None => (no_steering(candidate, name)?, Side::Candidate),
            };
            assess(evaluation, policy, side, confirmation.clone(), &base)?
        }
    };
    let mut finished = finish(evaluation, assessment, tried, &base)?;
    finished.decisions = decisions;
    finished.metrics.plain(
        "accepted_strength",
        accepted.as_ref().map_or(0.0, |setting| setting.strength),
        finished.prompts,
    );
    if let Some((first, second)) = split_draws(&at(&base, &confirmation)) {
        let wins = evaluation.wins("base against base", &confirmation, &first, &second)?;
        finished.metrics.base_against_base(&wins)?;
        finished.cost = evaluation.cost;
    }
    if accepted.is_none() {
        finished
            .warnings
            .push("no setting passed the gates; the steering from before stays".to_owned());
    }
    if unguarded {
        finished.warnings.push(
            "no neutral texts are given, so the gates perplexity, neutral-kl and neutral-kl-p99 are not read: \
             nothing guards against drift on other text"
                .to_owned(),
        );
    }
    if few {
        finished.warnings.push(format!(
            "a part of the prompts has fewer than {FEW_PROMPTS}, too few for the gates to mean much"
        ));
    }
    Ok(finished)
}

/// Returns the policy of a steering that does nothing, for the candidate's model.
fn no_steering(
    candidate: &Steering,
    name: &dyn Fn(&Steering) -> anyhow::Result<String>,
) -> anyhow::Result<Policy> {
    let steering = Steering::identity(
        *candidate.model(),
        candidate.hidden_size(),
        candidate.num_hidden_layers(),
    );
    Ok(Policy {
        name: name(&steering)?,
        steering,
    })
}

/// Splits the prompts into those that choose the strength and those that confirm it, by their ids.
fn split(evaluation: &Evaluation<'_>) -> anyhow::Result<[Vec<usize>; 2]> {
    let params = evaluation.params;
    let ids: Vec<&str> = evaluation
        .prompts
        .iter()
        .map(|prompt| prompt.prompt_id.as_str())
        .collect();
    let confirms = held_out_by_group(&ids, 1.0 - params.selection_share, params.seed);
    let part = |confirming: bool| -> Vec<usize> {
        (0..ids.len())
            .filter(|&index| confirms[index] == confirming)
            .collect()
    };
    let parts = [part(false), part(true)];
    if parts.iter().any(Vec::is_empty) {
        return Err(BadInput::new(format!(
            "the standard gate needs prompts to choose a strength and others to confirm it, but there is only {}",
            ids.len()
        ))
        .into());
    }
    Ok(parts)
}

/// Refuses a base that says nothing: no length, no repetition and no preference could be held against it.
fn check_base(base: &Answers, indices: &[usize]) -> Result<(), BadInput> {
    let mut answers = indices.iter().flat_map(|&index| &base[index]);
    if answers.any(|answer| !content(answer).is_empty()) {
        return Ok(());
    }
    Err(BadInput::new(format!(
        "the base model's answers to {} prompts are all empty, so there is nothing to compare with; \
         look at `max-new-tokens`, the chat template and the end tokens, or at the table given as base-responses",
        indices.len()
    )))
}

/// Gathers the figures of what is accepted; `earlier` are draws of the same policy on other prompts.
fn finish(
    evaluation: &mut Evaluation<'_>,
    assessment: Assessment,
    earlier: Vec<Assessment>,
    base: &Answers,
) -> anyhow::Result<Finished> {
    let rule = evaluation.params.loop_rule();
    let constraints = &evaluation.constraints;
    let mut metrics = Metrics::new(evaluation.bootstrap(), rule, constraints.clone());
    metrics.assessment(&assessment, base)?;
    second_opinion(evaluation, &assessment, base, &mut metrics)?;

    let constraints = &evaluation.constraints;
    let mut scores = text_scores(base, &rule, constraints);
    let mut responses: Vec<ResponseRow> = base.iter().flatten().cloned().collect();
    for part in earlier.iter().chain([&assessment]) {
        scores.extend(text_scores(&part.drawn.answers, &rule, constraints));
        scores.extend(win_scores(part));
        responses.extend(part.drawn.answers.iter().flatten().cloned());
    }
    Ok(Finished {
        prompts: assessment.indices.len() as u64,
        accepted: assessment.policy.steering,
        decisions: Vec::new(),
        metrics,
        scores,
        responses,
        cost: evaluation.cost,
        parameters: evaluation.model.decoder().config().parameters(),
        warnings: strangers(evaluation).into_iter().collect(),
    })
}

/// Returns a warning where constraints are given, but not for any of the prompts.
fn strangers(evaluation: &Evaluation<'_>) -> Option<String> {
    let constraints = &evaluation.constraints;
    let mut prompts = evaluation.prompts.iter();
    let is_met = prompts.any(|prompt| !constraints.of(&prompt.prompt_id).is_empty());
    (!constraints.is_empty() && !is_met).then(|| {
        "no row of constraints is about one of the prompts, so adherence to a format is not measured; \
         prompt_id has to be that of the table of prompts"
            .to_owned()
    })
}

/// Adds what the second judge, if there is one, makes of the same answers.
fn second_opinion(
    evaluation: &mut Evaluation<'_>,
    assessment: &Assessment,
    base: &Answers,
    metrics: &mut Metrics,
) -> anyhow::Result<()> {
    let (indices, answers) = (&assessment.indices, &assessment.drawn.answers);
    let base = at(base, indices);
    if let Some(wins) = evaluation.second_wins("against base", indices, answers, &base)? {
        metrics.second_wins(&wins, "base")?;
    }
    if let Some(other) = &assessment.incumbent_answers
        && let Some(wins) = evaluation.second_wins("against incumbent", indices, answers, other)?
    {
        metrics.second_wins(&wins, "incumbent")?;
    }
    Ok(())
}

fn write(finished: Finished, io: &mut StageIo) -> anyhow::Result<()> {
    finished.accepted.save(&io.output("accepted"))?;
    io.write("decision", &finished.decisions)?;
    io.write("metrics", &finished.metrics.into_rows())?;
    io.write("scores", &finished.scores)?;
    io.write("responses", &finished.responses)?;
    let Cost {
        prompt_tokens,
        new_tokens,
        repeated_tokens,
        neutral_tokens,
        batch_sequences,
        halvings,
        judge,
    } = finished.cost;
    if let Some(warning) = memory::warning(halvings + judge.halvings) {
        io.warn(warning);
    }
    io.count("batch_sequences", batch_sequences as f64);
    io.count("repeated_tokens", repeated_tokens as f64);
    io.count("prompt_tokens_computed", prompt_tokens as f64);
    io.count("new_tokens", new_tokens as f64);
    io.count("neutral_tokens_computed", neutral_tokens as f64);
    io.count("judge_tokens_computed", judge.computed as f64);
    io.count("judge_tokens_without_sharing", judge.total as f64);
    // Two for each parameter and token: a multiplication and an addition.
    let sampled = prompt_tokens + new_tokens + repeated_tokens;
    let tokens = (sampled + neutral_tokens + judge.computed) as f64;
    io.count("estimated_flops", 2.0 * finished.parameters as f64 * tokens);
    finished
        .warnings
        .into_iter()
        .for_each(|warning| io.warn(warning));
    Ok(())
}

/// Wraps what is wrong with the input, cause chain and all.
fn bad_input<E: std::error::Error + Send + Sync + 'static>(error: E) -> BadInput {
    BadInput::new(format!("{:#}", anyhow::Error::new(error)))
}
