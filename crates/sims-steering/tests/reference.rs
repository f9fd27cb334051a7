//! Operators and fits against NumPy and scikit-learn; `reference/make_reference.py` made the numbers.

use serde::Deserialize;
use sims_steering::angle_net::{AngleNet, Linear};
use sims_steering::condition_fit::{self, PromptStates};
use sims_steering::linear_transport::{self, Form, Pool};
use sims_steering::moments::Averaging;
use sims_steering::separation::Scores;
use sims_steering::{
    Edit, EditCounts, Householder, Operator, PairedStates, mean_difference, principal_direction,
    probe,
};

#[derive(Deserialize)]
struct Reference {
    householder: HouseholderCases,
    fits: FitCases,
    condition: ConditionCases,
}

/// Two halves, the fit half first.
#[derive(Deserialize)]
struct ConditionCases {
    hidden: usize,
    inside: [Vec<f32>; 2],
    outside: [Vec<f32>; 2],
    center: Vec<f64>,
    direction: Vec<f64>,
    held_out_cosines: Vec<f64>,
    best_f1: f64,
    best_thresholds: Vec<f64>,
}

#[derive(Deserialize)]
struct HouseholderCases {
    normal: Vec<f32>,
    layers: Vec<Layer>,
    input_scale: f64,
    states: Vec<f32>,
    angles: Vec<f64>,
    edited: Vec<f64>,
}

#[derive(Deserialize)]
struct Layer {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

#[derive(Deserialize)]
struct FitCases {
    hidden: usize,
    pairs: Vec<u32>,
    positive: Vec<f32>,
    negative: Vec<f32>,
    mean_difference: Vec<f64>,
    flat_mean_difference: Vec<f64>,
    state_norm: f64,
    inverse_penalty: f64,
    probe: Vec<f64>,
    probe_accuracy: f64,
    auroc: f64,
    principal_direction: Vec<f64>,
    explained: f64,
    agreeing: f64,
    few_principal_direction: Vec<f64>,
    transport_quantiles: Transport,
    transport_pooled: Transport,
    transport_gaussian: Transport,
    transported: Vec<f64>,
}

#[derive(Deserialize)]
struct Transport {
    scale: Vec<f64>,
    shift: Vec<f64>,
    low: Vec<f32>,
    high: Vec<f32>,
}

fn reference() -> Reference {
    serde_json::from_str(include_str!("reference/reference.json")).expect("the fixture is valid")
}

fn close(ours: &[f64], theirs: &[f64], tolerance: f64) {
    assert_eq!(ours.len(), theirs.len());
    let size = theirs.iter().fold(0.0f64, |size, x| size.max(x.abs()));
    for (a, b) in ours.iter().zip(theirs) {
        assert!(
            (a - b).abs() <= tolerance * size,
            "{a} against {b}, largest {size}"
        );
    }
}

/// The reference is in f64 by way of the mirror image; ours predicts and stores in f32.
#[test]
fn faithful_hpr_equals_numpy() {
    let cases = reference().householder;
    let hidden = cases.normal.len();
    let layers = cases
        .layers
        .into_iter()
        .map(|l| Linear {
            weight: l.weight,
            bias: l.bias,
        })
        .collect();
    let net = AngleNet { layers };
    let scaled: Vec<f32> = cases
        .states
        .iter()
        .map(|&x| (f64::from(x) * cases.input_scale) as f32)
        .collect();
    close(&net.angles(&scaled), &cases.angles, 1e-6);

    let operator = Householder::faithful(cases.normal.clone(), net, cases.input_scale).unwrap();
    let mut edited = cases.states.clone();
    let mut counts = EditCounts::default();
    Edit::new(Operator::Householder(operator)).apply(&mut edited, 1.0, &mut counts);
    let edited_f64: Vec<f64> = edited.iter().map(|&x| f64::from(x)).collect();
    close(&edited_f64, &cases.edited, 2e-6);
    let (mut below, mut above) = (0, 0);
    for (before, after) in cases
        .states
        .chunks_exact(hidden)
        .zip(edited.chunks_exact(hidden))
    {
        let product: f32 = before.iter().zip(&cases.normal).map(|(a, w)| a * w).sum();
        if product > 0.0 {
            assert_eq!(before, after);
            above += 1;
        } else {
            below += 1;
        }
    }
    assert_eq!(counts.edited, below);
    assert!(above > 5 && below > 5);
}

#[test]
fn mean_difference_equals_numpy() {
    let cases = reference().fits;
    let states = cases.states();
    let rows = cases.rows();
    let fitted = mean_difference::fit(&states, &rows, Averaging::TwoLevel).unwrap();
    close(&fitted.vector, &cases.mean_difference, 1e-12);
    close(&[fitted.state_norm], &[cases.state_norm], 1e-12);
    let flat = mean_difference::fit(&states, &rows, Averaging::Flat).unwrap();
    close(&flat.vector, &cases.flat_mean_difference, 1e-12);
}

#[test]
fn probe_equals_scikit_learn() {
    let cases = reference().fits;
    let (states, rows) = (cases.states(), cases.rows());
    let fitted = probe::fit(&states, &rows, cases.inverse_penalty).unwrap();
    close(&fitted.weight, &cases.probe, 1e-6);
    let right = rows
        .iter()
        .map(|&row| {
            let product = |state: &[f32]| -> f64 {
                state
                    .iter()
                    .zip(&fitted.weight)
                    .map(|(&x, w)| f64::from(x) * w)
                    .sum()
            };
            usize::from(product(states.chosen(row)) > 0.0)
                + usize::from(product(states.rejected(row)) <= 0.0)
        })
        .sum::<usize>();
    let accuracy = right as f64 / (2 * rows.len()) as f64;
    close(&[accuracy], &[cases.probe_accuracy], 1e-12);
}

#[test]
fn area_under_the_curve_equals_scikit_learn() {
    let cases = reference().fits;
    let scores = Scores::along(&cases.mean_difference, &cases.states(), &cases.rows()).unwrap();
    let auroc = scores.auroc().unwrap();
    close(&[auroc.estimate], &[cases.auroc], 1e-12);
    assert!(auroc.low < auroc.estimate && auroc.estimate < auroc.high && auroc.low > 0.5);
}

#[test]
fn principal_direction_equals_numpy() {
    let cases = reference().fits;
    let fitted = principal_direction::fit(&cases.states(), &cases.rows(), 3).unwrap();
    close(&fitted.direction, &cases.principal_direction, 1e-9);
    close(&[fitted.explained], &[cases.explained], 1e-12);
    close(&[fitted.agreeing], &[cases.agreeing], 1e-12);
    // Six pairs of ten components.
    let few: Vec<usize> = cases
        .rows()
        .into_iter()
        .filter(|&row| cases.pairs[row] < 6)
        .collect();
    let fitted = principal_direction::fit(&cases.states(), &few, 3).unwrap();
    close(&fitted.direction, &cases.few_principal_direction, 1e-9);
}

#[test]
fn transport_equals_numpy() {
    let cases = reference().fits;
    for (form, pool, expected) in [
        (Form::Quantiles, Pool::Rows, &cases.transport_quantiles),
        (Form::Quantiles, Pool::Mean, &cases.transport_pooled),
        (Form::Gaussian, Pool::Rows, &cases.transport_gaussian),
    ] {
        let fitted = linear_transport::fit(&cases.states(), &cases.rows(), form, pool).unwrap();
        close(&fitted.scale, &expected.scale, 1e-10);
        close(&fitted.shift, &expected.shift, 1e-10);
        if form == Form::Quantiles {
            assert_eq!((&fitted.low, &fitted.high), (&expected.low, &expected.high));
            continue;
        }
        assert!(fitted.low.iter().all(|&low| low == f32::MIN));
    }
    // The map applied at 0.3 to states of which some lie outside its support; stored in f32.
    let fitted =
        linear_transport::fit(&cases.states(), &cases.rows(), Form::Quantiles, Pool::Rows).unwrap();
    let edit = Edit::new(Operator::AffineTransport(fitted.operator().unwrap()));
    let mut states = cases.positive.clone();
    edit.apply(&mut states, 0.3, &mut EditCounts::default());
    let unchanged = states.iter().zip(&cases.positive).filter(|(a, b)| a == b);
    assert!((1..states.len() / 10).contains(&unchanged.count()));
    let states: Vec<f64> = states.iter().map(|&x| f64::from(x)).collect();
    close(&states, &cases.transported, 1e-6);
}

#[test]
fn condition_equals_scikit_learn() {
    let cases = reference().condition;
    let half = |half: usize| PromptStates {
        inside: cases.inside[half].chunks_exact(cases.hidden).collect(),
        outside: cases.outside[half].chunks_exact(cases.hidden).collect(),
    };
    let fitted = condition_fit::fit(2, &half(0), &half(1)).unwrap();
    let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
    close(&wide(fitted.block.center()), &cases.center, 1e-6);
    close(&wide(fitted.block.direction()), &cases.direction, 1e-6);
    let held_out = [half(1).inside, half(1).outside].concat();
    let cosines: Vec<f64> = held_out
        .iter()
        .map(|state| fitted.block.similarity(&wide(state)))
        .collect();
    close(&cosines, &cases.held_out_cosines, 1e-6);
    close(&[fitted.held_out_f1], &[cases.best_f1], 1e-12);
    assert!(cases.best_thresholds.contains(&fitted.block.threshold()));
    assert!((0.6..1.0).contains(&fitted.held_out_f1));
}

impl FitCases {
    fn states(&self) -> PairedStates<'_> {
        PairedStates::new(
            self.hidden,
            &self.positive,
            &self.negative,
            &self.pairs,
            &self.pairs,
        )
        .unwrap()
    }

    fn rows(&self) -> Vec<usize> {
        (0..self.pairs.len()).collect()
    }
}
