//! The stage: pairs and a model in, hidden states and their index out.

use crate::error::ExtractError;
use crate::sequence::{PlannedPair, PlannedSequence, Planner, PositionSet};
use crate::states::{RunError, StatesForm, assemble, index, write_states};
use crate::token_means;
use anyhow::Context;
use serde_json::json;
use sims_artifact::tables::{PairRow, PromptRow};
use sims_artifact::tensors::StoredDtype;
use sims_artifact::{Digest, ModelManifest, read_prompts};
use sims_model::language_model::set_threads;
use sims_model::score::ScoreLimits;
use sims_model::{
    DeviceChoice, Hook, LanguageModel, LoadOptions, ModelError, Site, memory, numerics_class,
};
use sims_sample::WeightType;
use sims_stage::{BadInput, Interrupted, List, Numerics, Role, Stage, StageIo, Units};
use sims_steering::{Steering, layer_selection};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;

sims_stage::choice! {
    /// Which hidden states of a sequence are read
    pub enum Positions {
        /// The response's tokens, the same index in both responses
        Response = "response",
        /// The same, each state less the mean state of its token over both responses of all pairs
        ResponseCentred = "response-centred",
        /// The positions that produce the response's tokens
        Predictive = "predictive",
        /// The end-of-turn token after the response
        End = "end",
        /// The last token of the same prompt asked again after the response
        Reask = "reask",
        /// The mean of the prompt's tokens but the last, one row a prompt: what a condition of fit is made of
        Prompt = "prompt",
    }
}

sims_stage::choice! {
    /// How hidden states are stored
    pub enum StatesType {
        /// 32-bit floats
        F32 = "f32",
        /// Half the size; angles are good to about 0.004 rad
        Bf16 = "bf16",
    }
}

sims_stage::choice! {
    /// What is read of a layer
    pub enum StatesSite {
        /// The block's output
        Block = "block",
        /// What its attention heads put out, for the operator iti
        Heads = "heads",
    }
}

sims_stage::params! {
    /// Which hidden states are read.
    pub struct ExtractParams {
        /// Which hidden states of a sequence are read
        positions: Positions = Positions::Reask,
        /// What is read of a layer
        site: StatesSite = StatesSite::Block,
        /// Layers to read, from 0; empty takes 2 to L-2 of L (at least L-3 and L-2)
        layers: List<u32> = List(Vec::new()),
        /// Most rows a pair, drawn at random, for the positions response, response-centred and predictive
        rows_per_pair: u32 = 32,
        /// The type that hidden states are stored in
        states_dtype: StatesType = StatesType::F32,
        /// The type that weights are held in
        dtype: WeightType = WeightType::F32,
        /// Seed of the draw of rows
        seed: u64 = 0,
    }
}

/// The extract stage.
pub struct Extract;

impl Stage for Extract {
    const NAME: &'static str = "extract";
    const ABOUT: &'static str = "Extracts hidden states of chosen and rejected responses";
    const EXAMPLES: &'static str = "Examples:
  sims-extract --pairs pairs.parquet --prompts train.parquet --model data/tiny --out states
  sims-extract --pairs pairs.parquet --prompts train.parquet --model data/tiny --steering accepted.safetensors --positions response --layers 3,4 --out states";
    const BEHAVIOUR: u32 = 3;
    const NUMERICS: Numerics = Numerics::Model(numerics_class);
    // A unit's digest holds tokens and positions, which is all that these decide.
    const UNITS: Option<Units> = Some(Units {
        inputs: &["pairs", "prompts"],
        params: &["positions", "rows-per-pair", "seed"],
    });
    type Params = ExtractParams;

    fn inputs() -> Vec<Role> {
        vec![
            Role::optional(
                "pairs",
                "pairs@1",
                "The contrast pairs; positions prompt can do without, and then reads every prompt",
            ),
            Role::required("prompts", "prompts@1", "The prompts that the pairs answer"),
            Role::required("model", "model", "The model whose states are read"),
            Role::optional(
                "steering",
                "steering@1",
                "The steering to read them under, when the fit is stacked on it; none for the base model",
            ),
        ]
    }

    fn outputs() -> Vec<Role> {
        vec![
            Role::required(
                "states",
                "states@1",
                "Hidden states of both classes, by layer",
            ),
            Role::required("index", "index@1", "What each row of the states belongs to"),
        ]
    }

    fn run(params: &ExtractParams, io: &mut StageIo) -> anyhow::Result<()> {
        if params.rows_per_pair == 0 {
            return Err(
                BadInput::new("rows-per-pair is 0, but a pair needs at least 1 row").into(),
            );
        }
        let pairs: Option<Vec<PairRow>> = match io.optional_input("pairs") {
            Some(_) => Some(io.read("pairs")?),
            None => None,
        };
        let prompts = read_prompts(io.input("prompts")?)?;
        let model = load_model(io, params.dtype)?;
        let manifest = ModelManifest::of_dir(io.input("model")?)?.digest;
        let layers = params
            .layers(model.decoder().config().num_hidden_layers)
            .map_err(bad_input)?;
        let steering = open_steering(io, &manifest)?;
        let positions = params.positions.into();
        let planner = Planner::new(
            &model,
            &prompts,
            positions,
            params.rows_per_pair as usize,
            params.seed,
        );
        let planned = match (params.positions, &pairs) {
            (Positions::Prompt, pairs) => {
                let wanted = asked_prompts(&planner, &prompts, pairs.as_deref());
                planner.plan_prompts(&wanted.map_err(bad_input)?)
            }
            (_, Some(pairs)) => planner.plan(pairs),
            (positions, None) => {
                return Err(BadInput::new(format!(
                    "positions {positions} reads the states of contrast pairs, but no pairs are given; only prompt \
                     can do without"
                ))
                .into());
            }
        };
        let planned = planned.map_err(bad_input)?;
        report(&planned, io);

        let config = model.decoder().config();
        let site = params.site.into();
        let mut metadata = json!({
                "format": 1,
                "model": manifest,
                "hidden_size": config.hidden_size,
                "num_hidden_layers": config.num_hidden_layers,
                "layers": layers,
                "positions": params.positions.to_string(),
                "dtype": params.states_dtype.to_string(),
                "steering": steering.as_ref().map(|(_, digest)| digest),
        });
        if site == Site::Heads {
            metadata["heads"] = json!({
                "num_attention_heads": config.num_attention_heads,
                "head_dim": config.head_dim,
            });
        }
        let form = StatesForm {
            site,
            dtype: params.states_dtype.into(),
            metadata,
        };
        let steering = steering.as_ref().map(|(steering, _)| steering);
        let units: Vec<Digest> = planned.iter().map(unit).collect();
        let mut extract = |io: &mut StageIo, chunk: &[usize], path: &Path| {
            let pairs: Vec<&PlannedPair> = chunk.iter().map(|&i| &planned[i]).collect();
            run_model(&model, &pairs, &layers, steering, (path, &form), io)?;
            Ok(pairs.iter().map(|pair| pair.rows()).collect())
        };
        let places = io.chunks("states", "states@1", &units, &mut extract)?;
        let path = io.output("states");
        assemble(&path, &places, &layers, form.site.width(config), &form)?;
        let index = index(&planned);
        if params.positions == Positions::ResponseCentred {
            token_means::centre(&path, &index, &layers, params.states_dtype.into())?;
        }
        io.write("index", &index)
    }
}

/// Names all that the states of a pair depend on beside what is common to all pairs.
fn unit(pair: &PlannedPair) -> Digest {
    let sequence = |sequence: &PlannedSequence| {
        json!([
            sequence.tokens,
            sequence.positions,
            sequence.edit_from,
            sequence.is_pooled
        ])
    };
    let content = json!([sequence(&pair.chosen), sequence(&pair.rejected)]);
    Digest::derived("sims 2026 extracted pair", content.to_string().as_bytes())
}

/// Returns the prompts that the pairs answer, each once, or all of them.
fn asked_prompts<'a>(
    planner: &Planner<'a>,
    prompts: &'a [PromptRow],
    pairs: Option<&[PairRow]>,
) -> Result<Vec<&'a PromptRow>, ExtractError> {
    let Some(pairs) = pairs else {
        return Ok(prompts.iter().collect());
    };
    let mut seen = BTreeSet::new();
    let mut asked = Vec::new();
    for pair in pairs {
        if seen.insert(&pair.prompt_id) {
            asked.push(planner.prompt_of(pair)?);
        }
    }
    Ok(asked)
}

impl ExtractParams {
    /// Returns the layers to read, in ascending order.
    fn layers(&self, num_hidden_layers: usize) -> Result<Vec<usize>, ExtractError> {
        if num_hidden_layers < 2 {
            return Err(ExtractError::OneBlock);
        }
        let last = num_hidden_layers - 2;
        if self.layers.0.is_empty() {
            return Ok(layer_selection::candidates(num_hidden_layers).collect());
        }
        let mut layers: Vec<usize> = self.layers.0.iter().map(|&layer| layer as usize).collect();
        layers.sort_unstable();
        if let Some(&layer) = layers.iter().find(|&&layer| layer > last) {
            return Err(ExtractError::Layer {
                layer,
                last,
                num_hidden_layers,
            });
        }
        if let Some(twice) = layers.windows(2).find(|two| two[0] == two[1]) {
            return Err(ExtractError::RepeatedLayer { layer: twice[0] });
        }
        Ok(layers)
    }
}

impl From<Positions> for PositionSet {
    fn from(positions: Positions) -> Self {
        match positions {
            Positions::Response | Positions::ResponseCentred => Self::Response,
            Positions::Predictive => Self::Predictive,
            Positions::End => Self::End,
            Positions::Reask => Self::Reask,
            Positions::Prompt => Self::Prompt,
        }
    }
}

impl From<StatesSite> for Site {
    fn from(site: StatesSite) -> Self {
        match site {
            StatesSite::Block => Self::Block,
            StatesSite::Heads => Self::Heads,
        }
    }
}

impl From<StatesType> for StoredDtype {
    fn from(dtype: StatesType) -> Self {
        match dtype {
            StatesType::F32 => Self::F32,
            StatesType::Bf16 => Self::Bf16,
        }
    }
}

fn load_model(io: &StageIo, dtype: WeightType) -> anyhow::Result<LanguageModel> {
    set_threads(io.threads()).map_err(bad_input)?;
    let device: DeviceChoice = io.device().parse().map_err(bad_input)?;
    let options = LoadOptions {
        devices: device.open().map_err(bad_input)?,
        dtype: dtype.to_string().parse().map_err(bad_input)?,
    };
    Ok(LanguageModel::load(io.input("model")?, &options).map_err(bad_input)?)
}

/// Opens the steering and takes its digest; one that changes nothing counts as none.
fn open_steering(io: &StageIo, model: &Digest) -> anyhow::Result<Option<(Steering, Digest)>> {
    let Some(path) = io.optional_input("steering") else {
        return Ok(None);
    };
    let steering = Steering::load(path).map_err(bad_input)?;
    steering.check_model(model).map_err(bad_input)?;
    if steering.is_identity() {
        return Ok(None);
    }
    Ok(Some((steering, Digest::of_file(path)?)))
}

fn report(planned: &[PlannedPair], io: &mut StageIo) {
    let without_rows = planned.iter().filter(|pair| pair.rows() == 0).count();
    io.count("pairs", planned.len() as f64);
    io.count("pairs_without_rows", without_rows as f64);
    let identical = planned
        .iter()
        .filter(|pair| pair.is_identical() && !pair.chosen.is_pooled)
        .count();
    io.count("identical_pairs", identical as f64);
    if identical > 0 {
        io.warn(format!(
            "{identical} of {} pairs have two identical responses, whose states carry no contrast",
            planned.len()
        ));
    }
    if planned.iter().any(|pair| pair.chosen.is_pooled) {
        if without_rows > 0 {
            io.warn(format!(
                "{without_rows} of {} prompts have one token, and no state that a condition reads",
                planned.len()
            ));
        }
    } else if without_rows > 0 {
        io.warn(format!(
            "{without_rows} of {} pairs have no position to read: one response is a prefix of the other",
            planned.len()
        ));
    }
}

fn run_model(
    model: &LanguageModel,
    planned: &[&PlannedPair],
    layers: &[usize],
    steering: Option<&Steering>,
    (path, form): (&Path, &StatesForm),
    io: &mut StageIo,
) -> anyhow::Result<()> {
    let limits = match io.batch_size() {
        0 => ScoreLimits::for_decoder(model.decoder()),
        // Sequences here are about a hundred rows; the limit itself is in rows.
        sequences => ScoreLimits {
            max_rows: sequences * 128,
        },
    };
    let mut hook = steering.map(Steering::hook);
    let with_rows = planned.iter().filter(|pair| pair.rows() > 0).count();
    let bar = io.progress("extract", with_rows as u64);
    let mut progress = || {
        bar.inc(1);
        if io.interrupted() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let run = write_states(
        model.decoder(),
        planned,
        layers,
        hook.as_mut().map(|hook| hook as &mut dyn Hook),
        &limits,
        (path, form),
        &mut progress,
    );
    let counted = match run {
        Ok(counted) => counted,
        Err(_) if io.interrupted() => return Err(Interrupted.into()),
        Err(RunError::Extract(error)) => return Err(bad_input(error).into()),
        Err(RunError::Model(error @ ModelError::Setting { .. })) => {
            return Err(bad_input(error).into());
        }
        Err(error) => return Err(error).context("extraction failed"),
    };
    // A steering below the lowest layer read is applied; one above it is never reached, and changes nothing.
    let highest = layers.last().copied().unwrap_or(0);
    if let (Some(hook), Some(steering)) = (&hook, steering)
        && with_rows > 0
        && steering.layers().iter().any(|&layer| layer <= highest)
    {
        hook.check_applied()?;
    }
    io.count("batch_rows", limits.max_rows as f64);
    if let Some(warning) = memory::warning(counted.halvings) {
        io.warn(warning);
    }
    io.count("tokens_computed", counted.computed as f64);
    io.count("tokens_total", counted.total as f64);
    // Two for each parameter and token: a multiplication and an addition. The blocks above the last layer read,
    // and the head, do not run.
    let parameters = model.decoder().config().parameters() as f64;
    io.count(
        "estimated_flops",
        2.0 * parameters * counted.computed as f64,
    );
    Ok(())
}

/// Wraps what is wrong with the input, cause chain and all.
fn bad_input<E: std::error::Error + Send + Sync + 'static>(error: E) -> BadInput {
    BadInput::new(format!("{:#}", anyhow::Error::new(error)))
}
