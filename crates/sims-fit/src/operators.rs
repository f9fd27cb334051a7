//! From a layer's states to the edit that steers it.

use crate::layer::{Halves, LayerFigures};
use crate::params::{Edge, FitParams, Line, NormalChoice, OperatorChoice, Pooling, TargetAngle};
use sims_steering::hpr::{self, HprFigures, HprOptions, Normal};
use sims_steering::linear_transport::{self, Form, Pool};
use sims_steering::principal_direction;
use sims_steering::random_direction;
use sims_steering::real::norm;
use sims_steering::{Additive, AngleRule, Edit, FitError, Householder, Operator, PairedStates};

/// A fitted edit and what its fit found.
#[derive(Debug, Clone, PartialEq)]
pub struct FittedEdit {
    /// The edit, at strength 1.
    pub edit: Edit,
    /// Angle between the mean elevations of the classes in radians, for the rotations.
    pub class_gap: Option<f64>,
    /// Held-out figures of the angle network, where there is one.
    pub network: Option<HprFigures>,
    /// What else the operator's own fit found.
    pub figures: Vec<OperatorFigure>,
}

/// A figure of the fit report that only one operator has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct OperatorFigure {
    /// Name of the figure.
    pub metric: &'static str,
    /// Whether it is of the held-out half.
    pub is_held_out: bool,
    /// The figure.
    pub value: f64,
}

/// Fits the operator that the parameters ask for.
///
/// # Errors
/// What the fit says; [`FitError::AngleUnderfit`] for `hpr-capped` alone, since `hpr` keeps the published rules.
pub fn fit(
    states: &PairedStates<'_>,
    halves: &Halves,
    figures: &LayerFigures,
    params: &FitParams,
) -> Result<FittedEdit, FitError> {
    let fitted = match params.operator {
        OperatorChoice::MeanDifference => addition(figures.difference.scaled(params.step))?,
        OperatorChoice::Random => addition(random(figures, params))?,
        OperatorChoice::Hpr => faithful(states, halves, params)?,
        OperatorChoice::HprCapped => capped(states, halves, figures, params)?,
        OperatorChoice::HprTarget => target(states, halves, figures, params)?,
        OperatorChoice::Pca => principal(states, halves, figures, params)?,
        OperatorChoice::Probe => probe(figures, params)?,
        OperatorChoice::Act => transport(states, halves, params)?,
        OperatorChoice::Iti => return Err(FitError::NotHeads),
    };
    let edit = Edit {
        preserve_norm: params.preserve_norm,
        ..fitted.edit
    };
    Ok(FittedEdit { edit, ..fitted })
}

/// Wraps a steering vector, `[hidden]`.
fn addition(vector: Vec<f32>) -> Result<FittedEdit, FitError> {
    Ok(FittedEdit {
        edit: Edit::new(Operator::Additive(Additive::new(vector)?)),
        class_gap: None,
        network: None,
        figures: Vec::new(),
    })
}

/// Adds the first principal direction, `shift` mean state norms long.
fn principal(
    states: &PairedStates<'_>,
    halves: &Halves,
    figures: &LayerFigures,
    params: &FitParams,
) -> Result<FittedEdit, FitError> {
    let principal = match &figures.principal {
        Some(principal) => principal.clone(),
        None => principal_direction::fit(states, &halves.fit, params.seed)?,
    };
    let length = params.shift * figures.difference.state_norm;
    let vector = scaled(&principal.direction, length);
    let figure = |metric, value| OperatorFigure {
        metric,
        is_held_out: false,
        value,
    };
    Ok(FittedEdit {
        figures: vec![
            figure("explained", principal.explained),
            figure("agreeing-pairs", principal.agreeing),
            figure(
                "cosine-to-difference",
                cosine(&principal.direction, &figures.difference.vector),
            ),
        ],
        ..addition(vector)?
    })
}

/// Adds the probe's direction, as far as `step` of the class difference along it.
fn probe(figures: &LayerFigures, params: &FitParams) -> Result<FittedEdit, FitError> {
    let difference = &figures.difference;
    let along = cosine(&figures.probe, &difference.vector);
    // The classes' means stand along the probe in the order that it separates them by, unless it found nothing.
    let length = params.step * difference.norm() * along.max(0.0);
    let unit = length / norm(&figures.probe);
    Ok(FittedEdit {
        figures: vec![OperatorFigure {
            metric: "cosine-to-difference",
            is_held_out: false,
            value: along,
        }],
        ..addition(scaled(&figures.probe, unit))?
    })
}

/// Moves each coordinate `step` of the way along its line.
fn transport(
    states: &PairedStates<'_>,
    halves: &Halves,
    params: &FitParams,
) -> Result<FittedEdit, FitError> {
    let form = match params.line {
        Line::Quantiles => Form::Quantiles,
        Line::Gaussian => Form::Gaussian,
    };
    let pool = match params.pool {
        Pooling::Rows => Pool::Rows,
        Pooling::Mean => Pool::Mean,
    };
    let fitted = linear_transport::fit(states, &halves.fit, form, pool)?;
    let found = fitted.figures(states, &halves.held_out)?;
    let figure = |metric, value| OperatorFigure {
        metric,
        is_held_out: true,
        value,
    };
    Ok(FittedEdit {
        edit: Edit {
            strength: params.step,
            ..Edit::new(Operator::AffineTransport(fitted.operator()?))
        },
        class_gap: None,
        network: None,
        figures: vec![
            figure("transport-shift", found.shift),
            figure("inside-support", found.inside),
            figure("gap-left", found.gap_left),
        ],
    })
}

fn scaled(vector: &[f64], factor: f64) -> Vec<f32> {
    vector.iter().map(|x| (factor * x) as f32).collect()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let product: f64 = a.iter().zip(b).map(|(x, y)| x * y).sum();
    product / (norm(a) * norm(b))
}

/// Draws the control's vector, as long as the one of mean-difference; `[hidden]`.
///
/// Every layer and round has its own.
fn random(figures: &LayerFigures, params: &FitParams) -> Vec<f32> {
    let difference = &figures.difference;
    let label = format!("random layer {} round {}", figures.layer, params.round);
    let norm = params.step * difference.norm();
    random_direction::draw(difference.vector.len(), norm, params.seed, &label)
        .into_iter()
        .map(|x| x as f32)
        .collect()
}

fn faithful(
    states: &PairedStates<'_>,
    halves: &Halves,
    params: &FitParams,
) -> Result<FittedEdit, FitError> {
    let options = HprOptions {
        epochs: params.epochs as usize,
        ..HprOptions::faithful(params.seed)
    };
    let fitted = hpr::fit(
        states,
        &halves.fit,
        &halves.held_out,
        &Normal::Probe,
        &options,
    )?;
    let gap = hpr::elevations(states, &halves.fit, &fitted.normal)?.gap();
    let angle = AngleRule::Net {
        net: fitted.net,
        input_scale: fitted.input_scale,
        scale: params.angle_scale,
    };
    let operator = Householder::new(fitted.normal, 0.0, angle, None, None)?;
    Ok(rotation(operator, gap, Some(fitted.held_out)))
}

fn capped(
    states: &PairedStates<'_>,
    halves: &Halves,
    figures: &LayerFigures,
    params: &FitParams,
) -> Result<FittedEdit, FitError> {
    let options = HprOptions {
        epochs: params.epochs as usize,
        ..HprOptions::sound(params.seed)
    };
    let normal = match params.normal {
        NormalChoice::MeanDifference => Normal::Given(figures.difference.scaled(1.0)),
        NormalChoice::Probe => Normal::Probe,
    };
    let fitted = hpr::fit(states, &halves.fit, &halves.held_out, &normal, &options)?;
    let elevations = hpr::elevations(states, &halves.fit, &fitted.normal)?;
    let angle = AngleRule::Net {
        net: fitted.net,
        input_scale: fitted.input_scale,
        scale: params.angle_scale,
    };
    let operator = Householder::new(
        fitted.normal,
        edge(params, elevations.chosen),
        angle,
        cap(params.kappa),
        cap(params.max_angle),
    )?;
    Ok(rotation(operator, elevations.gap(), Some(fitted.held_out)))
}

fn target(
    states: &PairedStates<'_>,
    halves: &Halves,
    figures: &LayerFigures,
    params: &FitParams,
) -> Result<FittedEdit, FitError> {
    let normal: Vec<f32> = match params.normal {
        NormalChoice::MeanDifference => figures.difference.scaled(1.0),
        NormalChoice::Probe => figures.probe.iter().map(|&w| w as f32).collect(),
    };
    let elevations = hpr::elevations(states, &halves.fit, &normal)?;
    let angle = match params.angle {
        // Classes that stand in the wrong order leave nothing to turn by.
        TargetAngle::ClassGap => AngleRule::Fixed {
            angle: params.step * elevations.gap().max(0.0),
        },
        TargetAngle::Remaining => AngleRule::Remaining {
            target: elevations.chosen,
            scale: params.step,
        },
    };
    let edge = edge(params, elevations.chosen);
    let operator = Householder::new(normal, edge, angle, None, cap(params.max_angle))?;
    Ok(rotation(operator, elevations.gap(), None))
}

fn rotation(operator: Householder, gap: f64, network: Option<HprFigures>) -> FittedEdit {
    FittedEdit {
        edit: Edit::new(Operator::Householder(operator)),
        class_gap: Some(gap),
        network,
        figures: Vec::new(),
    }
}

/// Returns the elevation up to which states are edited.
fn edge(params: &FitParams, chosen_elevation: f64) -> f64 {
    match (params.edit_if, params.normal) {
        (Edge::BelowTarget, _) | (Edge::Auto, NormalChoice::MeanDifference) => chosen_elevation,
        (Edge::BelowPlane, _) | (Edge::Auto, NormalChoice::Probe) => 0.0,
    }
}

/// Reads 0 as no cap.
fn cap(value: f64) -> Option<f64> {
    (value > 0.0).then_some(value)
}
