//! The stage: tables in, tables out.

use std::path::Path;

use sims_artifact::tables::{JudgmentRow, MetricRow};
use sims_artifact::{Digest, ModelManifest, read_prompts};
use sims_model::language_model::set_threads;
use sims_model::{DeviceChoice, LanguageModel, LoadOptions, numerics_class};
use sims_stage::{BadInput, Numerics, Role, Stage, StageIo, Units};
use sims_stats::Bootstrap;

use crate::Schedule;
use crate::annotations::AnnotatedPairs;
use crate::asking::{Answers, Asking, CUT, Purpose};
use crate::comparison::{Comparison, PairJudge};
use crate::controls::{self, Control, IDENTICAL_MAX_DIFFERENCE};
use crate::figures::Evidence;
use crate::limits::Unreliable;
use crate::open::{JudgeInputs, open};
use crate::params::{JudgeParams, Missing, WeightType};
use crate::plan::{Pair, answered, pairs, prompts_by_id, responses_by_prompt, round};
use crate::reliability::{JudgedPair, Reliability};
use crate::rounds;
use crate::verdict::BothOrders;

/// The judge stage.
pub struct Judge;

impl Stage for Judge {
    const NAME: &'static str = "judge";
    const ABOUT: &'static str =
        "Compares responses pairwise, with the frozen model as its own judge or another";
    const EXAMPLES: &'static str = "Example:
  sims-judge --prompts train.parquet --responses responses.parquet --model data/tiny --meets 4 --out judged";
    const BEHAVIOUR: u32 = 4;
    const NUMERICS: Numerics = Numerics::Model(numerics_class);
    // A unit's digest holds the texts compared and the round; the rest decides which are, and what is made of them.
    const UNITS: Option<Units> = Some(Units {
        inputs: &["prompts", "responses", "second"],
        params: &[
            "controls",
            "retest",
            "min-coverage",
            "unreliable",
            "max-flip-rate",
            "min-control-accuracy",
            "concurrency",
            "requests-per-minute",
            "token-budget",
        ],
    });
    type Params = JudgeParams;

    fn inputs() -> Vec<Role> {
        vec![
            Role::required("prompts", "prompts@1", "The prompts that were answered"),
            Role::required("responses", "responses@1", "The responses to compare"),
            Role::optional(
                "model",
                "model",
                "The model that judges, without steering; judges that ask none do without",
            ),
            Role::optional(
                "annotations",
                "judgments@1",
                "Judge file: annotated pairs, one row a pair and order",
            ),
            Role::optional(
                "ratings",
                "ratings@1",
                "Judge file: ratings of single responses",
            ),
            Role::optional(
                "pairrm",
                "model",
                "Judge pairrm: the folder of llm-blender/PairRM-hf",
            ),
            Role::optional(
                "second",
                "judgments@1",
                "Another judge's judgments, to measure agreement with",
            ),
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
        params.check()?;
        set_threads(io.threads()).ok(); // Fails only where threads run already; results do not depend on them.
        let prompts = prompts_by_id(read_prompts(io.input("prompts")?)?);
        let groups = responses_by_prompt(io.read("responses")?, &prompts)?;
        let planned = pairs(params, &groups, &prompts)?;
        let alone = groups.values().filter(|group| group.len() < 2).count();
        if alone > 0 {
            io.warn(format!(
                "{alone} prompts have a single response and are not judged"
            ));
        }

        let model = match params.needs_model() {
            true => load_model(io, params.dtype)?,
            false => None,
        };
        let judge: Box<dyn PairJudge + '_> = {
            let path = |role| io.optional_input(role).map(Path::to_owned);
            let inputs = JudgeInputs {
                model: model.as_ref().map(|(model, digest)| (model, digest)),
                annotations: path("annotations"),
                ratings: path("ratings"),
                pairrm: path("pairrm"),
                device: io.device().parse().map_err(bad_input)?,
                sequences: io.batch_size(),
                round: round(&groups),
            };
            open(params, &inputs).map_err(bad_input)?
        };
        let planned = annotated(params, judge.as_ref(), planned, io)?;
        let controls = match judge.reads_texts() {
            true => controls::plan(
                &answered(&groups, &prompts),
                params.controls as usize,
                params.seed,
            ),
            false => Vec::new(),
        };
        let mut asking = Asking {
            judge: judge.as_ref(),
            round: round(&groups),
            io,
        };
        let mut ask_pairs = |pairs: &[Pair<'_>]| {
            let comparisons: Vec<Comparison<'_>> =
                pairs.iter().flat_map(Pair::comparisons).collect();
            asking.ask(Purpose::Judge, &comparisons)
        };
        let mut sureness = Vec::new();
        let (pairs, judged) = if params.schedule == Schedule::Adaptive {
            let rounds = rounds::judge(params, &groups, &prompts, &mut ask_pairs)?;
            sureness = rounds.rows(&Bootstrap::seeded(params.seed))?;
            asking.io.count("rounds", rounds.count as f64);
            let judged = Answers {
                preferences: rounds.preferences,
                members: Vec::new(),
            };
            (rounds.pairs, judged)
        } else {
            let judged = ask_pairs(&planned)?;
            (planned, judged)
        };
        let retested = &pairs[..first_prompts(&pairs, params.retest.unwrap_or(0))];
        let comparisons: Vec<Comparison<'_>> =
            retested.iter().flat_map(Pair::comparisons).collect();
        let again = asking.ask(Purpose::Retest, &comparisons)?;
        let comparisons: Vec<Comparison<'_>> =
            controls.iter().flat_map(Control::comparisons).collect();
        let controlled = asking.ask(Purpose::Controls, &comparisons)?;

        io.count("pairs", pairs.len() as f64);
        io.count("controls", controls.len() as f64);
        let (rows, read) = read(params, judge.id(), &pairs, &judged);
        let cut = io.counted(CUT).round() as usize;
        let evidence = Evidence {
            pairs: &read,
            second: second(io.optional_input("second"), &read)?,
            members: &judged.members,
            again: BothOrders::of(&again.preferences).collect(),
            controls: (&controls, &controlled.preferences),
        };
        let mut figures = evidence.rows(params.min_coverage, &Bootstrap::seeded(params.seed))?;
        figures.extend(sureness);
        for figure in &figures {
            io.count(&figure.metric, figure.value);
        }
        let reliability = Reliability::of(&read, params.min_coverage);
        warn(&reliability, cut, &figures, io);
        hold_to_limits(params, &figures, io)?;
        io.write("judgments", &rows)?;
        io.write("reliability", &figures)
    }
}

/// Loads the model where one is given, with its manifest digest.
fn load_model(io: &StageIo, dtype: WeightType) -> anyhow::Result<Option<(LanguageModel, Digest)>> {
    let Some(path) = io.optional_input("model") else {
        return Ok(None);
    };
    let device: DeviceChoice = io.device().parse().map_err(bad_input)?;
    let options = LoadOptions {
        devices: device.open().map_err(bad_input)?,
        dtype: dtype.to_string().parse().map_err(bad_input)?,
    };
    let model = LanguageModel::load(path, &options).map_err(bad_input)?;
    Ok(Some((model, ModelManifest::of_dir(path)?.digest)))
}

/// Leaves out the pairs that the judge knows nothing of, where the parameters ask for it.
fn annotated<'a>(
    params: &JudgeParams,
    judge: &dyn PairJudge,
    pairs: Vec<Pair<'a>>,
    io: &mut StageIo,
) -> Result<Vec<Pair<'a>>, BadInput> {
    if params.missing != Some(Missing::Skip) {
        return Ok(pairs);
    }
    let planned = pairs.len();
    let known: Vec<Pair<'a>> = pairs
        .into_iter()
        .filter(|pair| pair.comparisons().iter().all(|asked| judge.knows(asked)))
        .collect();
    if known.is_empty() {
        return Err(BadInput::new(format!(
            "none of the {planned} pairs is annotated; do the annotations belong to these responses?"
        )));
    }
    io.count("pairs_not_annotated", (planned - known.len()) as f64);
    Ok(known)
}

/// Returns how many pairs the first prompts have.
fn first_prompts(pairs: &[Pair<'_>], prompts: u32) -> usize {
    let of_prompts = pairs.chunk_by(|left, right| left.a.prompt_id == right.a.prompt_id);
    of_prompts.take(prompts as usize).map(<[_]>::len).sum()
}

/// Reads what another judge says of the same pairs; nothing without its table.
fn second(
    table: Option<&Path>,
    pairs: &[JudgedPair<'_>],
) -> anyhow::Result<Vec<Option<BothOrders>>> {
    let Some(table) = table else {
        return Ok(Vec::new());
    };
    let second = AnnotatedPairs::read(table).map_err(bad_input)?;
    let both = |pair: &JudgedPair<'_>| {
        Some(BothOrders {
            ab: second.find(pair.prompt_id, pair.a, pair.b)?,
            ba: second.find(pair.prompt_id, pair.b, pair.a)?,
        })
    };
    let found: Vec<Option<BothOrders>> = pairs.iter().map(both).collect();
    if found.iter().all(Option::is_none) {
        return Err(BadInput::new(format!(
            "{} has none of the {} pairs that were judged; does it belong to these responses?",
            table.display(),
            pairs.len()
        ))
        .into());
    }
    Ok(found)
}

/// Wraps what is wrong with the input, cause chain and all.
fn bad_input<E: std::error::Error + Send + Sync + 'static>(error: E) -> BadInput {
    BadInput::new(format!("{:#}", anyhow::Error::new(error)))
}

/// Returns the rows of the judgments table, and the pairs as the judge's reliability is read from them.
fn read<'a>(
    params: &JudgeParams,
    judge: &str,
    pairs: &[Pair<'a>],
    judged: &Answers,
) -> (Vec<JudgmentRow>, Vec<JudgedPair<'a>>) {
    let mut rows = Vec::with_capacity(judged.preferences.len());
    let mut read = Vec::with_capacity(pairs.len());
    for (pair, orders) in pairs.iter().zip(BothOrders::of(&judged.preferences)) {
        rows.extend(orders.rows(pair.a, pair.b, judge, params.min_coverage));
        read.push(JudgedPair {
            prompt_id: &pair.a.prompt_id,
            a: &pair.a.response_id,
            b: &pair.b.response_id,
            equal_texts: pair.a.text == pair.b.text,
            lengths: pair.lengths(),
            policies: [&pair.a.policy, &pair.b.policy],
            orders,
        });
    }
    (rows, read)
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
    let missed = params.limits().missed(figures);
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
