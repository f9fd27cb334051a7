//! The stage: tables in, tables out.

use std::ops::ControlFlow;

use anyhow::Context;
use sims_artifact::tables::{JudgmentRow, MetricRow};
use sims_artifact::{ModelManifest, read_prompts};
use sims_model::language_model::set_threads;
use sims_model::score::ScoreLimits;
use sims_model::{DeviceChoice, LanguageModel, LoadOptions, memory, numerics_class};
use sims_stage::{BadInput, Interrupted, Numerics, Role, Stage, StageIo};
use sims_stats::Bootstrap;

use crate::controls::{self, Control, IDENTICAL_MAX_DIFFERENCE};
use crate::limits::{Limits, Unreliable};
use crate::plan::{Pair, answered, pairs, prompts_by_id, responses_by_prompt};
use crate::reliability::{JudgedPair, Reliability};
use crate::rounds;
use crate::template::choose;
use crate::verdict::BothOrders;
use crate::{Comparison, JudgeError, Judged, Schedule, SelfJudge};

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
        /// Pairs a prompt that are judged under `adaptive`; 18 of the 45 of ten responses usually say what all say
        budget: u32 = 18,
        /// Pairs a prompt in a round of `adaptive`, after the opening in which each response meets two others
        round_pairs: u32 = 4,
        /// The judge's prompt: auto (the model's own if it has one), ab-1, or the version of the model's own
        template: String = "auto".to_owned(),
        /// Least probability on the verdict tokens; below it a comparison is invalid
        min_coverage: f64 = 0.5,
        /// Prompts with controls, comparisons whose better answer is known; 0 for none
        controls: u32 = 64,
        /// What follows when the judge misses one of the two limits below
        unreliable: Unreliable = Unreliable::Warn,
        /// Largest share of pairs in which the slot, not the response, decides
        max_flip_rate: f64 = 0.4,
        /// Least share of controls in which a response is preferred to another prompt's
        min_control_accuracy: f64 = 0.9,
        /// The type that weights are held in
        dtype: WeightType = WeightType::F32,
        /// Seed of the circulant designs, the controls and the intervals
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
    const BEHAVIOUR: u32 = 3;
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
        vec![
            Role::required("judgments", "judgments@1", "One row a comparison and order"),
            Role::required(
                "reliability",
                "metrics@1",
                "How far the judge can be trusted, one row a figure",
            ),
        ]
    }

    fn run(params: &JudgeParams, io: &mut StageIo) -> anyhow::Result<()> {
        check(params)?;
        let prompts = prompts_by_id(read_prompts(io.input("prompts")?)?);
        let groups = responses_by_prompt(io.read("responses")?, &prompts)?;
        let planned = pairs(params, &groups, &prompts)?;
        let controls = controls::plan(
            &answered(&groups, &prompts),
            params.controls as usize,
            params.seed,
        );
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
        let limits = judge.limits(io.batch_size());
        io.count("batch_rows", limits.max_rows as f64);
        let mut ask = |pairs: &[Pair<'_>]| {
            let comparisons: Vec<Comparison<'_>> =
                pairs.iter().flat_map(Pair::comparisons).collect();
            compare(&judge, "judge", &comparisons, &limits, io)
        };
        let mut sureness = Vec::new();
        let (pairs, judged) = if params.schedule == Schedule::Adaptive {
            let rounds = rounds::judge(params, &groups, &prompts, &mut ask)?;
            sureness = rounds.rows(&Bootstrap::seeded(params.seed))?;
            io.count("rounds", rounds.count as f64);
            (rounds.pairs, rounds.judged)
        } else {
            let judged = ask(&planned)?;
            (planned, judged)
        };
        let comparisons: Vec<Comparison<'_>> =
            controls.iter().flat_map(Control::comparisons).collect();
        let controlled = compare(&judge, "controls", &comparisons, &limits, io)?;
        let mut tokens = judged.tokens;
        tokens.add(controlled.tokens);
        if let Some(warning) = memory::warning(tokens.halvings) {
            io.warn(warning);
        }
        // Two for each parameter and token: a multiplication and an addition.
        let parameters = model.decoder().config().parameters() as f64;
        io.count("estimated_flops", 2.0 * parameters * tokens.computed as f64);
        io.count("tokens_computed", tokens.computed as f64);
        io.count("tokens_without_sharing", tokens.total as f64);

        io.count("pairs", pairs.len() as f64);
        io.count("comparisons_cut_to_fit", judged.cut as f64);
        io.count("controls", controls.len() as f64);
        let (rows, reliability) = read(params, judge.id(), &pairs, &judged);
        let mut figures = reliability.rows(&Bootstrap::seeded(params.seed))?;
        figures.extend(sureness);
        figures.extend(controls::rows(
            &controls,
            &controlled.preferences,
            params.min_coverage,
        )?);
        for figure in &figures {
            io.count(&figure.metric, figure.value);
        }
        warn(&reliability, judged.cut, &figures, io);
        hold_to_limits(params, &figures, io)?;
        io.write("judgments", &rows)?;
        io.write("reliability", &figures)
    }
}

fn check(params: &JudgeParams) -> Result<(), BadInput> {
    if params.schedule == Schedule::Circulant && params.meets < 2 {
        return Err(BadInput::new(format!(
            "meets is {}, but each response must meet at least 2 others for all to be connected",
            params.meets
        )));
    }
    if params.schedule == Schedule::Adaptive && params.round_pairs == 0 {
        return Err(BadInput::new(
            "round-pairs is 0, but a round needs at least 1 pair a prompt",
        ));
    }
    if !(0.0..=1.0).contains(&params.min_coverage) {
        return Err(BadInput::new(format!(
            "min-coverage is {}, but a probability is between 0 and 1",
            params.min_coverage
        )));
    }
    limits(params).check()
}

fn limits(params: &JudgeParams) -> Limits {
    Limits {
        max_flip_rate: params.max_flip_rate,
        min_control_accuracy: params.min_control_accuracy,
    }
}

fn load_model(io: &StageIo, dtype: WeightType) -> anyhow::Result<LanguageModel> {
    set_threads(io.threads()).ok(); // Fails only where threads run already; results do not depend on them.
    let device: DeviceChoice = io.device().parse().map_err(bad_input)?;
    let options = LoadOptions {
        devices: device.open().map_err(bad_input)?,
        dtype: dtype.to_string().parse().map_err(bad_input)?,
    };
    let model = LanguageModel::load(io.input("model")?, &options).map_err(bad_input)?;
    Ok(model)
}

/// Wraps what is wrong with the input, cause chain and all.
fn bad_input<E: std::error::Error + Send + Sync + 'static>(error: E) -> BadInput {
    BadInput::new(format!("{:#}", anyhow::Error::new(error)))
}

fn compare(
    judge: &SelfJudge<'_>,
    label: &str,
    comparisons: &[Comparison<'_>],
    limits: &ScoreLimits,
    io: &mut StageIo,
) -> anyhow::Result<Judged> {
    if comparisons.is_empty() {
        return Ok(Judged::default());
    }
    let progress = io.progress(label, comparisons.len() as u64);
    let mut report = |done: usize| {
        progress.set(done as u64);
        if io.interrupted() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    match judge.compare(comparisons, limits, &mut report) {
        Ok(judged) => Ok(judged),
        Err(_) if io.interrupted() => Err(Interrupted.into()),
        Err(error @ JudgeError::RequestTooLong { .. }) => Err(bad_input(error).into()),
        Err(error) => Err(error).context("judging failed"),
    }
}

/// Returns the rows of the judgments table, and what the judgments say about the judge.
fn read(
    params: &JudgeParams,
    judge: &str,
    pairs: &[Pair<'_>],
    judged: &Judged,
) -> (Vec<JudgmentRow>, Reliability) {
    let mut rows = Vec::with_capacity(judged.preferences.len());
    let mut read = Vec::with_capacity(pairs.len());
    for (pair, orders) in pairs.iter().zip(judged.preferences.chunks_exact(2)) {
        let orders = BothOrders {
            ab: orders[0],
            ba: orders[1],
        };
        rows.extend(orders.rows(pair.a, pair.b, judge, params.min_coverage));
        read.push(JudgedPair {
            prompt_id: &pair.a.prompt_id,
            a: &pair.a.response_id,
            b: &pair.b.response_id,
            equal_texts: pair.a.text == pair.b.text,
            orders,
        });
    }
    (rows, Reliability::of(&read, params.min_coverage))
}

/// Says what makes the judgments worth little.
fn warn(reliability: &Reliability, cut: usize, figures: &[MetricRow], io: &mut StageIo) {
    let all = reliability.diagnostics();
    let pairs = all.pairs;
    if reliability.equal_texts() == pairs {
        io.warn("all responses of every prompt are identical, so every comparison is a tie");
    } else if all.indifferent_share() == 1.0 {
        io.warn("the judge has no preference in any comparison; nothing can be ranked by it");
    }
    if all.invalid > 0 {
        io.warn(format!(
            "{} of {pairs} comparisons are invalid: the judge put too little probability on its verdict tokens",
            all.invalid
        ));
    }
    if cut > 0 {
        io.warn(format!(
            "the answers of {cut} comparisons were cut to fit the model's context"
        ));
    }
    let difference = figures
        .iter()
        .find(|row| row.metric == IDENTICAL_MAX_DIFFERENCE && row.value != 0.0);
    if let Some(row) = difference {
        io.warn(format!(
            "a response is preferred to itself by up to {} nats; a verdict must depend on its transcript alone",
            row.value
        ));
    }
}

/// Warns of a judge beyond the limits or refuses it, as the parameters say.
fn hold_to_limits(
    params: &JudgeParams,
    figures: &[MetricRow],
    io: &mut StageIo,
) -> Result<(), BadInput> {
    let missed = limits(params).missed(figures);
    if missed.is_empty() {
        return Ok(());
    }
    let missed = format!("the judge is unreliable: {}", missed.join("; "));
    match params.unreliable {
        Unreliable::Warn => {
            io.warn(format!("{missed}; a ranking by it may mislead"));
            Ok(())
        }
        Unreliable::Refuse => Err(BadInput::new(format!(
            "{missed}; judge with another model or template, move the limit, or go on with --unreliable warn"
        ))),
    }
}
