//! The stage: contrast pairs and a model in, a steering and its fit report out.

use crate::compose::{Composed, compose};
use crate::error::TrainError;
use crate::params::{Labels, Relation, TrainParams};
use crate::report::{self, length};
use crate::traced_inputs::{bad_input, traced_model, warn_of_identical};
use crate::trial::{Figures, Trial};
use sims_artifact::{Digest, ModelManifest, read_prompts};
use sims_extract::PositionSet;
use sims_extract::sequence::{PlannedPair, Planner};
use sims_model::numerics_class;
use sims_stage::{Interrupted, Numerics, Role, Stage, StageIo};
use sims_steering::bipo::{Trained, train};
use sims_steering::preference::PreferenceOdds;
use sims_steering::{Compose, FitError, FitSummary, LayerFit, Steering};
use std::ops::ControlFlow;

/// What the steering and its report call the operator.
pub(crate) const OPERATOR: &str = "bipo";

/// The train stage.
pub struct Train;

impl Stage for Train {
    const NAME: &'static str = "train";
    const ABOUT: &'static str =
        "Trains a steering vector on preferences, through the frozen model (BiPO)";
    const EXAMPLES: &'static str = "Examples:
  sims-train --pairs pairs.parquet --prompts train.parquet --model data/tiny --layers 3 --learning-rate 0.01 --out trained
  sims-train --pairs pairs.parquet --prompts train.parquet --model data/tiny --incumbent accepted.safetensors --out trained";
    const BEHAVIOUR: u32 = 1;
    const NUMERICS: Numerics = Numerics::Model(numerics_class);
    type Params = TrainParams;

    fn inputs() -> Vec<Role> {
        vec![
            Role::required("pairs", "pairs@1", "The contrast pairs"),
            Role::required("prompts", "prompts@1", "The prompts that the pairs answer"),
            Role::required("model", "model", "The model to steer"),
            Role::optional(
                "incumbent",
                "steering@1",
                "The steering of the round before, for compose stack",
            ),
        ]
    }

    fn outputs() -> Vec<Role> {
        vec![
            Role::required(
                "steering",
                "steering@1",
                "The trained steering, incumbent included",
            ),
            Role::required(
                "fit-report",
                "fit-report@1",
                "Figures of the training, by layer",
            ),
        ]
    }

    fn run(params: &TrainParams, io: &mut StageIo) -> anyhow::Result<()> {
        params.check().map_err(bad_input)?;
        let pairs = io.read("pairs")?;
        let prompts = read_prompts(io.input("prompts")?)?;
        let model = traced_model(io)?;
        let manifest = ModelManifest::of_dir(io.input("model")?)?.digest;
        let incumbent = open_incumbent(params, io, &manifest)?;
        let planned = Planner::new(&model, &prompts, PositionSet::Response, 1, params.seed)
            .plan(&pairs)
            .map_err(bad_input)?;
        warn_of_identical(&planned, io);
        let job = Job {
            params,
            odds: PreferenceOdds::new(
                model.decoder(),
                &params.layers(model.decoder().config().num_hidden_layers),
                params.edited.into(),
                incumbent.as_ref(),
            )
            .map_err(|error| classified(error.into()))?,
        };
        let trial = job.prepare(&planned, io)?;
        let trained = job.train(&trial, io)?;
        let figures = trial
            .figures(&job.odds, &trained, params)
            .map_err(|error| classified(error.into()))?;
        let config = model.decoder().config();
        let base = incumbent.unwrap_or_else(|| {
            Steering::identity(manifest, config.hidden_size, config.num_hidden_layers)
        });
        job.publish(&trial, &trained, &figures, &base, io)
    }
}

/// The settings and what is trained.
struct Job<'a> {
    params: &'a TrainParams,
    odds: PreferenceOdds<'a>,
}

impl Job<'_> {
    fn prepare(&self, planned: &[PlannedPair], io: &mut StageIo) -> anyhow::Result<Trial> {
        let bar = io.progress("prepare", planned.len() as u64);
        let trial = Trial::new(&self.odds, planned, self.params, &|| bar.inc(1));
        io.check_interrupted()?;
        let trial = trial.map_err(classified)?;
        let (fit, held_out) = trial.pairs();
        io.count("pairs", (fit + held_out) as f64);
        Ok(trial)
    }

    fn train(&self, trial: &Trial, io: &StageIo) -> anyhow::Result<Trained> {
        let (fit, held_out) = (trial.fit(), trial.held_out());
        let batches = fit.len().div_ceil(self.params.batch_pairs as usize);
        let bar = io.progress("train", (batches * self.params.epochs as usize) as u64);
        let mut progress = || {
            bar.inc(1);
            match io.interrupted() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let options = self.params.options();
        match train(&self.odds, &fit, &held_out, &options, &mut progress) {
            Err(FitError::Interrupted) => Err(Interrupted.into()),
            trained => Ok(trained.map_err(|error| classified(error.into()))?),
        }
    }

    fn publish(
        &self,
        trial: &Trial,
        trained: &Trained,
        figures: &Figures,
        base: &Steering,
        io: &mut StageIo,
    ) -> anyhow::Result<()> {
        let params = self.params;
        let state_norms: Vec<f64> = figures
            .layers
            .iter()
            .map(|layer| layer.state_norm)
            .collect();
        let layers = self.odds.layers();
        let Composed { steering, shifts } = compose(
            base,
            layers,
            &trained.vectors,
            &state_norms,
            params.max_shift,
        )
        .map_err(classified)?;
        let fits: Vec<LayerFit> = layers
            .iter()
            .zip(&figures.layers)
            .zip(&shifts)
            .map(|((&layer, states), &(cap_factor, shift))| LayerFit {
                layer,
                state_norm: states.state_norm,
                difference_norm: length(states.difference.iter().copied()),
                shift: Some(shift),
                class_gap: None,
                cap_factor,
            })
            .collect();
        let signal = figures.signal();
        if signal.is_low() && !params.allow_low_signal {
            io.warn(format!(
                "low signal: held-out responses are told apart with an area under the curve of {:.3} [{:.3}, {:.3}], \
                 exchanged labels reach {:.3} on average; the steering is written all the same, and steer-eval with \
                 gate standard refuses it at the signal gate, with gate none it does not",
                signal.auroc, signal.ci_low, signal.ci_high, signal.shuffled
            ));
        }
        for fit in fits.iter().filter(|fit| fit.cap_factor < 1.0) {
            io.warn(format!(
                "layer {}: this round's vector was shortened to {:.2} of its length to keep the accumulated shift \
                 within {} of the state norm",
                fit.layer, fit.cap_factor, params.max_shift
            ));
        }
        let (fit_prompts, held_out_prompts) = trial.prompts();
        let rows = report::rows(&fits, figures, trained, (fit_prompts, held_out_prompts));
        let summary = FitSummary {
            round: params.round,
            seed: params.seed,
            positions: "response".to_owned(),
            labels: match params.labels {
                Labels::Ranked => "ranked".to_owned(),
                Labels::Shuffled => "shuffled".to_owned(),
            },
            step: 1.0,
            pairs: trial.pairs().0 + trial.pairs().1,
            fit_prompts,
            held_out_prompts,
            signal,
            layers: fits,
        };
        let relation = match params.compose {
            Relation::Stack => Compose::Stack,
            Relation::Replace => Compose::Replace,
        };
        let steering = steering.described(OPERATOR, relation, summary);
        steering.save(&io.output("steering"))?;
        io.write("fit-report", &rows)
    }
}

/// Opens the incumbent that the vectors come on top of; one that changes nothing counts as none.
fn open_incumbent(
    params: &TrainParams,
    io: &StageIo,
    model: &Digest,
) -> anyhow::Result<Option<Steering>> {
    let path = match (params.compose, io.optional_input("incumbent")) {
        (Relation::Stack, Some(path)) => path,
        _ => return Ok(None),
    };
    let steering = Steering::load(path).map_err(bad_input)?;
    if steering.model() != model {
        return Err(bad_input(TrainError::OtherModel {
            incumbent: *steering.model(),
            model: *model,
        })
        .into());
    }
    Ok((!steering.is_identity()).then_some(steering))
}

/// Tells the user's mistakes from failures of the training itself.
fn classified(error: TrainError) -> anyhow::Error {
    match error {
        TrainError::Fit(FitError::Diverged { .. }) => error.into(),
        error => bad_input(error).into(),
    }
}
