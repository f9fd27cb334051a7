//! The stage: hidden states in, a steering and its fit report out.

use crate::compose::{Composed, LayerEdit, Limits, check_origin, compose};
use crate::condition::ConditionStates;
use crate::error::FitStageError;
use crate::layer::{Halves, LayerFigures, measure, shuffled_areas, signal};
use crate::params::{FitParams, Labels, Relation, Rule};
use crate::report::Report;
use crate::states::StatesFile;
use crate::{OperatorChoice, heads, operators, weights};
use anyhow::Context;
use candle_core::Device;
use sims_artifact::Digest;
use sims_model::{DeviceChoice, numerics_class};
use sims_stage::{BadInput, Numerics, Role, Stage, StageIo};
use sims_steering::layer_selection::{SelectionRule, select};
use sims_steering::paired_states::shuffled_labels;
use sims_steering::{
    Compose, FitError, FitSummary, LayerFit, Operator, PromptSplit, Signal, Steering, SteeringError,
};
use std::sync::Arc;

/// The fit stage.
pub struct Fit;

impl Stage for Fit {
    const NAME: &'static str = "fit";
    const ABOUT: &'static str = "Fits a steering function to hidden states";
    const EXAMPLES: &'static str = "Examples:
  sims-fit --states states.safetensors --index index.parquet --step 0.25 --out fitted
  sims-fit --states states.safetensors --index index.parquet --incumbent accepted.safetensors --operator hpr-target --out fitted";
    const BEHAVIOUR: u32 = 2;
    // On the CPU a fit is pure data work; a device's products round in their own way.
    const NUMERICS: Numerics = Numerics::Model(|device| match numerics_class(device) {
        "cpu" => "",
        class => class,
    });
    type Params = FitParams;

    fn inputs() -> Vec<Role> {
        vec![
            Role::required(
                "states",
                "states@1",
                "Hidden states of chosen and rejected responses",
            ),
            Role::required("index", "index@1", "What each row of the states belongs to"),
            Role::optional(
                "pairs",
                "pairs@1",
                "The pairs, whose weights the mean difference reads; all weigh the same without",
            ),
            Role::optional(
                "incumbent",
                "steering@1",
                "The steering of the round before, under which the states were read; for compose stack",
            ),
            Role::optional(
                "settings",
                "settings@1",
                "What earlier rounds changed: a shorter step, fewer layers",
            ),
            Role::optional(
                "inside",
                "states@1",
                "Prompt states of prompts to steer; with the next three, the round's edits are done on such alone",
            ),
            Role::optional("inside-index", "index@1", "What each of these belongs to"),
            Role::optional(
                "outside",
                "states@1",
                "Prompt states of prompts to leave alone",
            ),
            Role::optional("outside-index", "index@1", "What each of these belongs to"),
        ]
    }

    fn outputs() -> Vec<Role> {
        vec![
            Role::required(
                "steering",
                "steering@1",
                "The fitted steering, incumbent included",
            ),
            Role::required("fit-report", "fit-report@1", "Figures of the fit, by layer"),
        ]
    }

    fn run(params: &FitParams, io: &mut StageIo) -> anyhow::Result<()> {
        let params = &match io.settings()? {
            Some(settings) => params.within(&settings),
            None => params.clone(),
        };
        params.check().map_err(bad_input)?;
        let index = io.read("index")?;
        let mut states = StatesFile::open(io.input("states")?, &index).map_err(classified)?;
        if io.optional_input("pairs").is_some() {
            let pairs = io.read("pairs")?;
            states.set_weights(weights::of_pairs(&pairs, states.pair_ids()).map_err(bad_input)?);
        }
        states.limit(params.max_rows as usize, params.seed);
        states.set_device(open_device(io)?);
        io.count("rows", index.len() as f64);
        io.count("rows_read", states.prompts().len() as f64);
        let incumbent = open_incumbent(params, io)?;
        let origin = incumbent
            .as_ref()
            .map(|(steering, digest)| (steering, *digest));
        check_origin(states.header(), origin).map_err(bad_input)?;

        let condition_states = ConditionStates::open(io).map_err(bad_condition)?;
        let job = Job::new(params, &states).map_err(classified)?;
        match (params.operator, states.header().heads) {
            (OperatorChoice::Iti, Some(_)) if condition_states.is_some() => {
                return Err(bad_input(SteeringError::UnconditionalHeads).into());
            }
            (OperatorChoice::Iti, Some(shape)) => {
                let incumbent = incumbent.as_ref().map(|(steering, _)| steering);
                return job.fit_heads(shape.head_dim, incumbent, io);
            }
            (OperatorChoice::Iti, None) | (_, Some(_)) => {
                return Err(bad_input(FitStageError::Site {
                    site: if states.header().heads.is_some() {
                        "heads"
                    } else {
                        "block"
                    },
                    operator: params.operator.to_string(),
                })
                .into());
            }
            (_, None) => {}
        }
        let candidates = job.measure_layers(io)?;
        let selected = job.select(&candidates);
        let lowest = selected.iter().copied().min().unwrap_or(0);
        let condition = condition_states
            .map(|given| given.fit(&states, lowest, params).map_err(classified))
            .transpose()?;
        let fitted = job.fit_layers(&candidates, &selected, io)?;
        let incumbent = incumbent.as_ref().map(|(steering, _)| steering);
        let mut edits: Vec<LayerEdit> = fitted.iter().map(|fit| fit.edit.clone()).collect();
        if let Some(fitted) = &condition {
            let condition = Arc::new(fitted.condition.clone());
            for edit in &mut edits {
                edit.fitted.edit.condition = Some(condition.clone());
            }
        }
        let limits = Limits {
            max_shift: params.max_shift,
            max_depth: params.max_depth as usize,
            fresh: params.fresh.unwrap_or(false),
        };
        let composed = compose(incumbent, &edits, states.header(), limits).map_err(classified)?;
        let mut report = Report::new(params, job.counts);
        if let Some(condition) = &condition {
            report.add_condition(condition);
        }
        job.publish(&candidates, &fitted, incumbent, composed, report, io)
    }
}

/// Opens the device that fits compute on; none is the host.
fn open_device(io: &StageIo) -> anyhow::Result<Option<Device>> {
    let choice: DeviceChoice = io.device().parse().map_err(bad_input)?;
    let devices = choice.open().map_err(bad_input)?;
    Ok(devices.into_iter().next().filter(|device| !device.is_cpu()))
}

/// The settings and the split that every layer shares.
pub(crate) struct Job<'a> {
    pub(crate) params: &'a FitParams,
    pub(crate) states: &'a StatesFile,
    /// By pair: whether the labels are exchanged.
    pub(crate) labels: Vec<bool>,
    pub(crate) halves: Halves,
    /// Prompts in the fit half and held out.
    pub(crate) counts: (usize, usize),
}

/// A steered layer and what is known of it.
struct FittedLayer {
    edit: LayerEdit,
    signal: Signal,
    shuffled: Vec<f64>,
}

impl<'a> Job<'a> {
    fn new(params: &'a FitParams, states: &'a StatesFile) -> Result<Self, FitStageError> {
        let labels = match params.labels {
            Labels::Ranked => vec![false; states.pair_ids().len()],
            Labels::Shuffled => {
                let ids = states.pair_ids().iter().map(String::as_str);
                shuffled_labels(ids, params.seed, "labels")
            }
        };
        let prompt_ids: Vec<&str> = states.prompt_ids().iter().map(String::as_str).collect();
        let split = PromptSplit::new(&prompt_ids, params.held_out, params.seed)
            .map_err(FitStageError::Split)?;
        let (fit, held_out) = split.rows(states.prompts());
        Ok(Self {
            params,
            states,
            labels,
            halves: Halves { fit, held_out },
            counts: split.counts(),
        })
    }

    /// Returns the layers asked for, or all that were extracted, in ascending order.
    pub(crate) fn layers(&self) -> Vec<usize> {
        let mut layers: Vec<usize> = match self.params.layers.0.is_empty() {
            true => self.states.header().layers.clone(),
            false => self
                .params
                .layers
                .0
                .iter()
                .map(|&layer| layer as usize)
                .collect(),
        };
        layers.sort_unstable();
        layers.dedup();
        layers
    }

    /// Measures the layers.
    fn measure_layers(&self, io: &StageIo) -> anyhow::Result<Vec<LayerFigures>> {
        let layers = self.layers();
        let bar = io.progress("measure layers", layers.len() as u64);
        let mut figures = Vec::with_capacity(layers.len());
        for layer in layers {
            io.check_interrupted()?;
            let read = self.states.read(layer).map_err(classified)?;
            let at = FitStageError::at(layer);
            let states = self.states.paired(&read).map_err(&at).map_err(classified)?;
            let states = states.with_flipped(&self.labels);
            figures.push(
                measure(layer, &states, &self.halves, self.params)
                    .map_err(&at)
                    .map_err(classified)?,
            );
            bar.inc(1);
        }
        Ok(figures)
    }

    /// Returns the layers to steer: those asked for, or the best, best first.
    fn select(&self, candidates: &[LayerFigures]) -> Vec<usize> {
        let scores: Vec<_> = candidates.iter().map(LayerFigures::score).collect();
        let rule = match self.params.selection {
            Rule::Contrast => SelectionRule::Contrast,
            Rule::Auroc => SelectionRule::Auroc,
            Rule::ProbeAccuracy => SelectionRule::ProbeAccuracy,
        };
        if self.params.layers.0.is_empty() {
            select(
                &scores,
                rule,
                self.params.top_k as usize,
                self.params.spread as usize,
            )
        } else {
            select(&scores, rule, scores.len(), 0)
        }
    }

    fn fit_layers(
        &self,
        candidates: &[LayerFigures],
        selected: &[usize],
        io: &StageIo,
    ) -> anyhow::Result<Vec<FittedLayer>> {
        let bar = io.progress("fit", selected.len() as u64);
        let mut fitted = Vec::with_capacity(selected.len());
        for figures in selected
            .iter()
            .filter_map(|layer| candidates.iter().find(|figures| figures.layer == *layer))
        {
            io.check_interrupted()?;
            fitted.push(self.fit_layer(figures).map_err(classified)?);
            bar.inc(1);
        }
        Ok(fitted)
    }

    fn fit_layer(&self, figures: &LayerFigures) -> Result<FittedLayer, FitStageError> {
        let layer = figures.layer;
        let at = FitStageError::at(layer);
        let read = self.states.read(layer)?;
        let states = self
            .states
            .paired(&read)
            .map_err(&at)?
            .with_flipped(&self.labels);
        let edit = operators::fit(&states, &self.halves, figures, self.params).map_err(&at)?;
        let shuffled = shuffled_areas(
            &states,
            &self.halves,
            &self.labels,
            self.states.pair_ids(),
            self.params,
        )
        .map_err(&at)?;
        Ok(FittedLayer {
            edit: LayerEdit {
                layer,
                fitted: edit,
                state_norm: figures.difference.state_norm,
            },
            signal: signal(figures, &shuffled),
            shuffled,
        })
    }

    fn publish(
        &self,
        candidates: &[LayerFigures],
        fitted: &[FittedLayer],
        incumbent: Option<&Steering>,
        composed: Composed,
        mut report: Report<'_>,
        io: &mut StageIo,
    ) -> anyhow::Result<()> {
        for figures in candidates {
            let selected = fitted.iter().any(|fit| fit.edit.layer == figures.layer);
            report.add_layer(figures, selected);
        }
        let mut layers = Vec::new();
        for (fit, &(cap_factor, shift)) in fitted.iter().zip(&composed.shifts) {
            let layer = fit.edit.layer;
            let difference = candidates
                .iter()
                .find(|figures| figures.layer == layer)
                .map(|f| &f.difference);
            let summary = LayerFit {
                layer,
                state_norm: fit.edit.state_norm,
                difference_norm: difference.map_or(0.0, |difference| difference.norm()),
                shift,
                class_gap: fit.edit.fitted.class_gap,
                cap_factor,
            };
            report.add_fit(&summary, &fit.edit.fitted, &fit.shuffled);
            let before = incumbent.and_then(|incumbent| incumbent.additive_shift(layer));
            if let (Some(before), Some(difference)) = (before, difference) {
                report.add_turn(layer, &difference.vector, &before);
            }
            layers.push(summary);
        }
        let best = fitted.first().context("no layer was selected")?.signal;
        self.warn(fitted, &layers, best, io);
        let steering = self.described(composed.steering, best, layers);
        steering.save(&io.output("steering"))?;
        io.write("fit-report", report.rows())
    }

    /// Fits the attention heads instead of layers.
    fn fit_heads(
        &self,
        head_dim: usize,
        incumbent: Option<&Steering>,
        io: &mut StageIo,
    ) -> anyhow::Result<()> {
        let fitted = heads::fit(self, head_dim).map_err(classified)?;
        let steering = heads::compose(self, incumbent, &fitted.shifts).map_err(classified)?;
        self.warn(&[], &[], fitted.signal, io);
        let steering = self.described(steering, fitted.signal, fitted.layers);
        steering.save(&io.output("steering"))?;
        io.write("fit-report", &fitted.rows)
    }

    /// Says in the steering how it was fitted.
    fn described(&self, steering: Steering, signal: Signal, layers: Vec<LayerFit>) -> Steering {
        let summary = FitSummary {
            round: self.params.round,
            seed: self.params.seed,
            positions: self.states.header().positions.clone(),
            labels: self.params.labels.to_string(),
            step: self.step(),
            pairs: self.states.pair_ids().len(),
            fit_prompts: self.counts.0,
            held_out_prompts: self.counts.1,
            signal,
            layers,
        };
        let relation = match self.params.compose {
            Relation::Stack => Compose::Stack,
            Relation::Replace => Compose::Replace,
        };
        steering.described(self.params.operator.to_string(), relation, summary)
    }

    /// Returns the factor that the operator moves by.
    fn step(&self) -> f64 {
        match self.params.operator {
            OperatorChoice::MeanDifference
            | OperatorChoice::Random
            | OperatorChoice::HprTarget
            | OperatorChoice::Probe
            | OperatorChoice::Act => self.params.step,
            OperatorChoice::Pca => self.params.shift,
            OperatorChoice::Hpr | OperatorChoice::HprCapped => self.params.angle_scale,
            OperatorChoice::Iti => self.params.head_strength,
        }
    }

    fn warn(&self, fitted: &[FittedLayer], layers: &[LayerFit], best: Signal, io: &mut StageIo) {
        if best.is_low() && !self.params.allow_low_signal {
            io.warn(format!(
                "low signal: held-out states are told apart with an area under the curve of {:.3} [{:.3}, {:.3}], \
                 shuffled labels reach {:.3} on average; the steering is written all the same, and steer-eval with \
                 gate standard refuses it at the signal gate, with gate none it does not",
                best.auroc, best.ci_low, best.ci_high, best.shuffled
            ));
        }
        for (layer, fit) in layers.iter().zip(fitted) {
            if layer.cap_factor == 1.0 {
                continue;
            }
            io.warn(match fit.edit.fitted.edit.operator {
                Operator::Additive(_) => format!(
                    "layer {}: this round's part was shortened to {:.2} of its length to keep the accumulated \
                     shift within {} of the state norm",
                    layer.layer, layer.cap_factor, self.params.max_shift
                ),
                _ => format!(
                    "layer {}: this round's edit was left out, since the incumbent has max-depth rotations and \
                     transports there ({}); raise max-depth or fit with compose replace",
                    layer.layer, self.params.max_depth
                ),
            });
        }
        for fit in fitted {
            let Some(network) = &fit.edit.fitted.network else {
                continue;
            };
            if network.angle_error >= network.constant_error {
                io.warn(format!(
                    "layer {}: the angle network's held-out error {:.4} is not below that of a constant angle, {:.4}",
                    fit.edit.layer, network.angle_error, network.constant_error
                ));
            }
        }
    }
}

/// Opens the incumbent that the fit builds on; one that changes nothing counts as none.
fn open_incumbent(params: &FitParams, io: &StageIo) -> anyhow::Result<Option<(Steering, Digest)>> {
    let path = match (params.compose, io.optional_input("incumbent")) {
        (Relation::Stack, Some(path)) => path,
        _ => return Ok(None),
    };
    let steering = Steering::load(path).map_err(bad_input)?;
    if steering.is_identity() {
        return Ok(None);
    }
    Ok(Some((steering, Digest::of_file(path)?)))
}

/// Names what is wrong with the inputs of a condition; a file that cannot be read keeps its own error.
fn bad_condition(error: anyhow::Error) -> anyhow::Error {
    match error.downcast::<FitStageError>() {
        Ok(error) => classified(error),
        Err(error) => error,
    }
}

/// Tells the user's mistakes from failures of the fit itself.
fn classified(error: FitStageError) -> anyhow::Error {
    match error {
        FitStageError::Layer {
            error: FitError::Diverged { .. } | FitError::Operator(_),
            ..
        } => error.into(),
        FitStageError::Artifact(error) => error.into(),
        error => bad_input(error).into(),
    }
}

/// Wraps what is wrong with the input, cause chain and all.
fn bad_input<E: std::error::Error + Send + Sync + 'static>(error: E) -> BadInput {
    BadInput::new(format!("{:#}", anyhow::Error::new(error)))
}
