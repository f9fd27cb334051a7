//! Fits on a device of candle's against the host's own: the same states, here on candle's CPU device.

use candle_core::Device;
use sims_stats::random::Stream;
use sims_steering::hpr::{self, HprOptions, Normal};
use sims_steering::iti::{self, HeadDirection};
use sims_steering::linear_transport::{self, Form, Pool};
use sims_steering::moments::Averaging;
use sims_steering::separation::Scores;
use sims_steering::{
    DeviceStates, FitError, PairedStates, mean_difference, principal_direction, probe,
};

const HIDDEN: usize = 24;

/// Pairs of one to four rows whose chosen states lie further along a direction; some pairs are flipped.
struct Data {
    positive: Vec<f32>,
    negative: Vec<f32>,
    pairs: Vec<u32>,
    flipped: Vec<bool>,
    weights: Vec<f64>,
}

fn data(count: u32) -> Data {
    let mut stream = Stream::new(5, 0);
    let direction: Vec<f64> = (0..HIDDEN).map(|_| stream.next_f64() - 0.5).collect();
    let mut data = Data {
        positive: Vec::new(),
        negative: Vec::new(),
        pairs: Vec::new(),
        flipped: Vec::new(),
        weights: Vec::new(),
    };
    for pair in 0..count {
        let is_flipped = pair % 5 == 3;
        for _ in 0..1 + pair % 4 {
            for &along in &direction {
                let mut draw =
                    |sign: f64| (3.0 * (stream.next_f64() - 0.5) + 1.0 + sign * 0.6 * along) as f32;
                let (chosen, rejected) = (draw(1.0), draw(-1.0));
                let (positive, negative) = match is_flipped {
                    true => (rejected, chosen),
                    false => (chosen, rejected),
                };
                data.positive.push(positive);
                data.negative.push(negative);
            }
            data.pairs.push(pair);
        }
        data.flipped.push(is_flipped);
        data.weights.push(stream.next_f64());
    }
    data
}

impl Data {
    fn states(&self) -> PairedStates<'_> {
        let pairs = &self.pairs;
        PairedStates::new(HIDDEN, &self.positive, &self.negative, pairs, pairs)
            .unwrap()
            .with_flipped(&self.flipped)
    }

    fn copy(&self) -> DeviceStates {
        DeviceStates::upload(HIDDEN, &self.positive, &self.negative, &Device::Cpu).unwrap()
    }

    /// Rows to fit and rows held out, by pair.
    fn halves(&self) -> (Vec<usize>, Vec<usize>) {
        (0..self.pairs.len()).partition(|&row| !self.pairs[row].is_multiple_of(5))
    }
}

fn close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    let size = expected.iter().fold(0.0f64, |size, x| size.max(x.abs()));
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= tolerance * size, "{a}, not {b}");
    }
}

#[test]
fn mean_differences_agree() {
    let (data, (rows, _)) = (data(60), data(60).halves());
    let copy = data.copy();
    for averaging in [Averaging::TwoLevel, Averaging::Flat] {
        let no_weight = vec![0.0; 60];
        for weights in [&[][..], &data.weights, &no_weight] {
            let host = data.states().with_weights(weights);
            let expected = mean_difference::fit(&host, &rows, averaging).unwrap();
            let device = host.on_device(Some(&copy));
            let found = mean_difference::fit(&device, &rows, averaging).unwrap();
            close(&found.vector, &expected.vector, 1e-12);
            close(&[found.state_norm], &[expected.state_norm], 1e-12);
        }
    }
    let none = mean_difference::fit(&data.states().on_device(Some(&copy)), &[], Averaging::Flat);
    assert!(matches!(none, Err(FitError::EmptyClass { .. })));
}

#[test]
fn directions_and_scores_agree() {
    let (data, (rows, held_out)) = (data(80), data(80).halves());
    let copy = data.copy();
    let (host, device) = (data.states(), data.states().on_device(Some(&copy)));

    let expected = probe::fit(&host, &rows, 1.0).unwrap().weight;
    let found = probe::fit(&device, &rows, 1.0).unwrap().weight;
    close(&found, &expected, 1e-7);

    let expected = principal_direction::fit(&host, &rows, 2).unwrap();
    let found = principal_direction::fit(&device, &rows, 2).unwrap();
    close(&found.direction, &expected.direction, 1e-9);
    close(&[found.explained], &[expected.explained], 1e-12);
    assert_eq!(found.agreeing, expected.agreeing);

    let scores = |states| Scores::along(&expected.direction, states, &held_out).unwrap();
    assert_eq!(
        scores(&host).auroc().unwrap(),
        scores(&device).auroc().unwrap()
    );
    assert_eq!(
        scores(&host).pair_accuracy().unwrap(),
        scores(&device).pair_accuracy().unwrap()
    );
}

#[test]
fn transports_agree() {
    let (data, (rows, _)) = (data(60), data(60).halves());
    let copy = data.copy();
    let (host, device) = (data.states(), data.states().on_device(Some(&copy)));
    for form in [Form::Quantiles, Form::Gaussian] {
        for pool in [Pool::Rows, Pool::Mean] {
            let expected = linear_transport::fit(&host, &rows, form, pool).unwrap();
            let found = linear_transport::fit(&device, &rows, form, pool).unwrap();
            close(&found.scale, &expected.scale, 1e-11);
            close(&found.shift, &expected.shift, 1e-11);
            assert_eq!(found.low, expected.low);
            assert_eq!(found.high, expected.high);
        }
    }
}

#[test]
fn heads_agree() {
    let (data, (rows, held_out)) = (data(80), data(80).halves());
    let copy = data.copy();
    let (host, device) = (data.states(), data.states().on_device(Some(&copy)));
    for along in [HeadDirection::MeanDifference, HeadDirection::Probe] {
        let expected = iti::fit(&host, 8, &rows, &held_out, along).unwrap();
        let found = iti::fit(&device, 8, &rows, &held_out, along).unwrap();
        assert_eq!(found.len(), 3);
        for (found, expected) in found.iter().zip(&expected) {
            close(&found.probe, &expected.probe, 1e-7);
            close(&found.direction, &expected.direction, 1e-7);
            assert_eq!(found.accuracy, expected.accuracy);
        }
    }
}

/// The host's gradients are written out, the device's are candle's: two derivations of one training.
#[test]
fn angle_networks_agree() {
    let (data, (rows, held_out)) = (data(120), data(120).halves());
    let copy = data.copy();
    let (host, device) = (data.states(), data.states().on_device(Some(&copy)));
    let difference = mean_difference::fit(&host, &rows, Averaging::Flat).unwrap();
    for normal in [Normal::Probe, Normal::Given(difference.scaled(1.0))] {
        for options in [HprOptions::faithful(3), HprOptions::sound(3)] {
            let options = HprOptions {
                refuse_underfit: false,
                ..options
            };
            let fit = |states| hpr::fit(states, &rows, &held_out, &normal, &options).unwrap();
            let (expected, found) = (fit(&host), fit(&device));
            assert_eq!(found.epoch, expected.epoch);
            let figures = |fit: &hpr::HprFit| {
                let held_out = fit.held_out;
                [
                    held_out.cross_entropy,
                    held_out.angle_error,
                    held_out.constant_error,
                    held_out.rejected_angle,
                    held_out.chosen_angle,
                ]
            };
            close(&figures(&found), &figures(&expected), 1e-4);
            let wide =
                |values: &[f32]| -> Vec<f64> { values.iter().map(|&x| f64::from(x)).collect() };
            close(&wide(&found.normal), &wide(&expected.normal), 1e-3);
            for (found, expected) in found.net.layers.iter().zip(&expected.net.layers) {
                close(&wide(&found.weight), &wide(&expected.weight), 2e-3);
            }
            assert_eq!(found, fit(&device), "the same seed gives the same bits");
        }
    }
}

#[test]
fn nothing_to_fit_is_refused() {
    let data = data(40);
    let rows: Vec<usize> = (0..data.pairs.len()).collect();
    let copy = DeviceStates::upload(HIDDEN, &data.positive, &data.positive, &Device::Cpu).unwrap();
    let same = PairedStates::new(
        HIDDEN,
        &data.positive,
        &data.positive,
        &data.pairs,
        &data.pairs,
    );
    let same = same.unwrap().on_device(Some(&copy));
    let errors = [
        mean_difference::fit(&same, &rows, Averaging::Flat).map(|_| ()),
        probe::fit(&same, &rows, 1.0).map(|_| ()),
        principal_direction::fit(&same, &rows, 1).map(|_| ()),
        linear_transport::fit(&same, &rows, Form::Quantiles, Pool::Rows).map(|_| ()),
    ];
    for error in errors {
        assert!(
            matches!(error, Err(FitError::IdenticalClasses { .. })),
            "{error:?}"
        );
    }
}
