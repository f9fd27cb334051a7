//! The stage: tables in, table out.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use anyhow::Context;
use sims_artifact::ModelManifest;
use sims_artifact::tables::{JudgmentRow, PromptRow, ResponseRow};
use sims_model::language_model::set_threads;
use sims_model::{DeviceChoice, LanguageModel, LoadOptions, numerics_class};
use sims_stage::{BadInput, Interrupted, Numerics, Role, Stage, StageIo};

use crate::diagnostics::Diagnostics;
use crate::template::{choose, request_text};
use crate::verdict::BothOrders;
use crate::{Comparison, JudgeError, Judged, Schedule, SelfJudge};

/// Flip rate above which the judge is called unreliable. Unit: share of pairs.
const WORRYING_FLIP_RATE: f64 = 0.4;

sims_stage::choice! {
    /// Who compares
    pub enum JudgeKind {
        /// The frozen model itself
        SelfJudge = "self",
    }
}

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
    /// Which responses are compared, and by whom.
    pub struct JudgeParams {
        /// Who compares
        judge: JudgeKind = JudgeKind::SelfJudge,
        /// Which pairs of a prompt's responses are compared
        schedule: Schedule = Schedule::Circulant,
        /// How many others each response meets under `circulant`; at least 2, so that all are connected
        meets: u32 = 4,
        /// The judge's prompt: auto (the model's own if it has one), ab-1, or the version of the model's own
        template: String = "auto".to_owned(),
        /// Least probability on the verdict tokens; below it a comparison is invalid
        min_coverage: f64 = 0.5,
        /// The type that weights are held in
        dtype: WeightType = WeightType::F32,
        /// Seed of the circulant designs
        seed: u64 = 0,
    }
}

/// The judge stage.
pub struct Judge;

impl Stage for Judge {
    const NAME: &'static str = "judge";
    const ABOUT: &'static str =
        "Compares responses pairwise with the frozen model as its own judge";
    const EXAMPLES: &'static str = "Example:
  sims-judge --prompts train.parquet --responses responses.parquet --model data/tiny --meets 4 --out judged";
    const BEHAVIOUR: u32 = 1;
    const NUMERICS: Numerics = Numerics::Model(numerics_class);
    type Params = JudgeParams;

    fn inputs() -> Vec<Role> {
        vec![
            Role::required("prompts", "prompts@1", "The prompts that were answered"),
            Role::required("responses", "responses@1", "The responses to compare"),
            Role::required("model", "model", "The model that judges, without steering"),
        ]
    }

    fn outputs() -> Vec<Role> {
        vec![Role::required(
            "judgments",
            "judgments@1",
            "One row a comparison and order",
        )]
    }

    fn run(params: &JudgeParams, io: &mut StageIo) -> anyhow::Result<()> {
        check(params)?;
        let prompts = prompts_by_id(io.read::<PromptRow>("prompts")?);
        let groups = responses_by_prompt(io.read("responses")?, &prompts)?;
        let plan = plan(params, &groups, &prompts)?;
        let alone = groups.values().filter(|group| group.len() < 2).count();
        if alone > 0 {
            io.warn(format!(
                "{alone} prompts have a single response and are not judged"
            ));
        }

        let model = load_model(io, params.dtype)?;
        let digest = ModelManifest::of_dir(io.input("model")?)?.digest;
        let judge = choose(&params.template, &model)
            .and_then(|template| SelfJudge::new(&model, &digest, template))
            .map_err(bad_input)?;
        let judged = compare(&judge, &plan, io)?;
        // Two for each parameter and token: a multiplication and an addition.
        let parameters = model.decoder().config().parameters() as f64;
        io.count(
            "estimated_flops",
            2.0 * parameters * judged.tokens.computed as f64,
        );
        write(params, judge.id(), &plan, &judged, io)
    }
}

fn check(params: &JudgeParams) -> Result<(), BadInput> {
    if params.schedule == Schedule::Circulant && params.meets < 2 {
        return Err(BadInput::new(format!(
            "meets is {}, but each response must meet at least 2 others for all to be connected",
            params.meets
        )));
    }
    if !(0.0..=1.0).contains(&params.min_coverage) {
        return Err(BadInput::new(format!(
            "min-coverage is {}, but a probability is between 0 and 1",
            params.min_coverage
        )));
    }
    Ok(())
}

fn prompts_by_id(prompts: Vec<PromptRow>) -> HashMap<String, String> {
    prompts
        .into_iter()
        .map(|prompt| (prompt.prompt_id, request_text(&prompt.messages)))
        .collect()
}

/// Groups responses by prompt, each group in the order of sample indices.
fn responses_by_prompt(
    responses: Vec<ResponseRow>,
    prompts: &HashMap<String, String>,
) -> Result<BTreeMap<String, Vec<ResponseRow>>, BadInput> {
    let mut groups: BTreeMap<String, Vec<ResponseRow>> = BTreeMap::new();
    for response in responses {
        if !prompts.contains_key(&response.prompt_id) {
            return Err(BadInput::new(format!(
                "response {} answers prompt {}, which is not in the prompts table",
                response.response_id, response.prompt_id
            )));
        }
        groups
            .entry(response.prompt_id.clone())
            .or_default()
            .push(response);
    }
    for group in groups.values_mut() {
        group.sort_by(|a, b| {
            (a.sample_index, &a.response_id).cmp(&(b.sample_index, &b.response_id))
        });
        if let Some(twice) = group
            .windows(2)
            .find(|pair| pair[0].response_id == pair[1].response_id)
        {
            return Err(BadInput::new(format!(
                "response {} occurs more than once",
                twice[0].response_id
            )));
        }
    }
    Ok(groups)
}

/// A pair of responses to compare in both orders.
struct Pair<'a> {
    request: &'a str,
    a: &'a ResponseRow,
    b: &'a ResponseRow,
}

fn plan<'a>(
    params: &JudgeParams,
    groups: &'a BTreeMap<String, Vec<ResponseRow>>,
    prompts: &'a HashMap<String, String>,
) -> Result<Vec<Pair<'a>>, BadInput> {
    let mut pairs = Vec::new();
    for (prompt_id, group) in groups {
        let request = prompts.get(prompt_id).map_or("", String::as_str);
        let design =
            params
                .schedule
                .pairs(group.len(), params.meets as usize, params.seed, prompt_id);
        pairs.extend(design.into_iter().map(|(i, j)| Pair {
            request,
            a: &group[i],
            b: &group[j],
        }));
    }
    if pairs.is_empty() {
        return Err(BadInput::new(if groups.is_empty() {
            "the responses table has no rows"
        } else {
            "every prompt has a single response, so there is nothing to compare; sample at least 2 a prompt"
        }));
    }
    Ok(pairs)
}

fn load_model(io: &StageIo, dtype: WeightType) -> anyhow::Result<LanguageModel> {
    set_threads(io.threads()).ok(); // Fails only where threads run already; results do not depend on them.
    let device: DeviceChoice = io.device().parse().map_err(bad_input)?;
    let options = LoadOptions {
        device: device.open().map_err(bad_input)?,
        dtype: dtype.to_string().parse().map_err(bad_input)?,
    };
    let model = LanguageModel::load(io.input("model")?, &options).map_err(bad_input)?;
    Ok(model)
}

/// Wraps what is wrong with the input, cause chain and all.
fn bad_input<E: std::error::Error + Send + Sync + 'static>(error: E) -> BadInput {
    BadInput::new(format!("{:#}", anyhow::Error::new(error)))
}

fn compare(judge: &SelfJudge<'_>, plan: &[Pair<'_>], io: &mut StageIo) -> anyhow::Result<Judged> {
    let comparisons: Vec<Comparison<'_>> = plan
        .iter()
        .flat_map(|pair| [(pair, pair.a, pair.b), (pair, pair.b, pair.a)])
        .map(|(pair, first, second)| Comparison {
            prompt_id: &pair.a.prompt_id,
            request: pair.request,
            first: &first.text,
            second: &second.text,
        })
        .collect();
    let limits = judge.limits(io.batch_size());
    let progress = io.progress("judge", comparisons.len() as u64);
    let mut report = |done: usize| {
        progress.set(done as u64);
        if io.interrupted() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    match judge.compare(&comparisons, &limits, &mut report) {
        Ok(judged) => Ok(judged),
        Err(_) if io.interrupted() => Err(Interrupted.into()),
        Err(error @ JudgeError::RequestTooLong { .. }) => Err(bad_input(error).into()),
        Err(error) => Err(error).context("judging failed"),
    }
}

fn write(
    params: &JudgeParams,
    judge: &str,
    plan: &[Pair<'_>],
    judged: &Judged,
    io: &mut StageIo,
) -> anyhow::Result<()> {
    let mut rows: Vec<JudgmentRow> = Vec::with_capacity(judged.preferences.len());
    let mut diagnostics = Diagnostics::default();
    let mut equal_texts = 0_u64;
    for (pair, orders) in plan.iter().zip(judged.preferences.chunks_exact(2)) {
        let both = BothOrders {
            ab: orders[0],
            ba: orders[1],
        };
        diagnostics.add(&both, params.min_coverage);
        equal_texts += u64::from(pair.a.text == pair.b.text);
        rows.extend(both.rows(pair.a, pair.b, judge, params.min_coverage));
    }
    let coverage = judged
        .preferences
        .iter()
        .map(|one| one.coverage)
        .sum::<f64>();
    io.count("pairs", plan.len() as f64);
    io.count("pairs_with_equal_texts", equal_texts as f64);
    io.count("comparisons_cut_to_fit", judged.cut as f64);
    io.count("tokens_computed", judged.tokens.computed as f64);
    io.count("tokens_without_sharing", judged.tokens.total as f64);
    io.count("mean_coverage", coverage / judged.preferences.len() as f64);
    io.count("invalid_share", diagnostics.invalid_share());
    io.count("flip_rate", diagnostics.flip_rate());
    io.count("position_bias", diagnostics.position_bias());
    io.count("position_bias_share", diagnostics.position_bias_share());
    warn(&diagnostics, judged.cut, equal_texts, io);
    io.write("judgments", &rows)
}

/// Says what makes the judgments worth little.
fn warn(diagnostics: &Diagnostics, cut: usize, equal_texts: u64, io: &mut StageIo) {
    let pairs = diagnostics.pairs;
    if equal_texts == pairs {
        io.warn("all responses of every prompt are identical, so every comparison is a tie");
    } else if diagnostics.indifferent_share() == 1.0 {
        io.warn("the judge has no preference in any comparison; nothing can be ranked by it");
    } else if diagnostics.flip_rate() > WORRYING_FLIP_RATE {
        io.warn(format!(
            "the slot, not the response, decides {:.0} % of the comparisons; a ranking by this judge is mostly noise",
            100.0 * diagnostics.flip_rate()
        ));
    }
    if diagnostics.invalid > 0 {
        io.warn(format!(
            "{} of {pairs} comparisons are invalid: the judge put too little probability on its verdict tokens",
            diagnostics.invalid
        ));
    }
    if cut > 0 {
        io.warn(format!(
            "the answers of {cut} comparisons were cut to fit the model's context"
        ));
    }
}
