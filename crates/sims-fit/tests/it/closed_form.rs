//! The operators without a network: principal direction, probe direction and linear transport.

use crate::planted::{Bench, Planted};
use crate::{cosine, norm, summary, vector};
use sims_steering::{EditCounts, Operator};

/// Returns the fit report's figure of the layer steered.
fn figure(bench: &Bench, out: &str, metric: &str) -> f64 {
    let mut rows = bench.report(out).into_iter();
    let row = rows.find(|row| row.metric == metric && row.selected);
    row.unwrap_or_else(|| panic!("no figure {metric}")).value
}

#[test]
fn the_principal_direction_is_as_long_as_asked() {
    let bench = Bench::new(&Planted::default());
    bench.succeeds("out", &["--operator", "pca", "--shift", "0.1"]);
    let steering = bench.steering("out");
    let added = vector(&steering, 2);
    assert!(cosine(&added, &bench.direction()) > 0.98);
    let fit = summary(&steering);
    assert!((norm(&added) / fit.layers[0].state_norm - 0.1).abs() < 1e-6);
    assert_eq!(fit.step, 0.1);
    assert!(fit.signal.auroc > 0.95 && fit.signal.beats_shuffled);
    assert!(figure(&bench, "out", "explained") > 0.5);
    assert_eq!(figure(&bench, "out", "agreeing-pairs"), 1.0);
    assert!(figure(&bench, "out", "cosine-to-difference") > 0.98);
    assert!(
        bench
            .refuses(&["--operator", "pca", "--shift", "0"])
            .contains("shift is 0")
    );
}

#[test]
fn states_without_an_axis_are_refused_with_a_way_out() {
    // 24 components need 1.5/24 along one of them; the pairs of noise have no more than their neighbours.
    let bench = Bench::new(&Planted {
        prompts: 4000,
        gap: 0.0,
        ..Planted::default()
    });
    let message = bench.refuses(&["--operator", "pca"]);
    assert!(
        message.contains(
            "layer 1: the differences between chosen and rejected states have no dominant axis"
        ) && message.contains("`mean-difference` needs none"),
        "{message}"
    );
}

#[test]
fn the_probe_is_as_long_as_the_classes_are_apart_along_it() {
    let bench = Bench::new(&Planted::default());
    bench.succeeds("out", &["--operator", "probe", "--step", "0.5"]);
    let steering = bench.steering("out");
    let added = vector(&steering, 2);
    // The planted gap is 4.
    assert!((norm(&added) / (0.5 * 4.0) - 1.0).abs() < 0.05);
    let along = figure(&bench, "out", "cosine-to-difference");
    assert!(along > 0.95 && (cosine(&added, &bench.direction()) - along).abs() < 0.05);
}

/// Rejected states, all of them, end with the mean of the chosen ones; half the way at half the strength.
#[test]
fn transport_moves_rejected_states_onto_the_chosen() {
    let bench = Bench::new(&Planted::default());
    for line in ["quantiles", "gaussian"] {
        let arguments = ["--operator", "act", "--step", "1", "--line", line];
        bench.succeeds("out", &arguments);
        let steering = bench.steering("out");
        let [edit] = steering.edits(2) else {
            panic!("layer 2 has other edits than one")
        };
        assert!(matches!(edit.operator, Operator::AffineTransport(_)));
        let (chosen, rejected) = bench.states(2);
        let direction = bench.direction();
        let mean = |states: &[Vec<f32>], strength: f64| -> f64 {
            let along = |state: &Vec<f32>| -> f64 {
                let mut state = state.clone();
                edit.apply(&mut state, strength, &mut EditCounts::default());
                state
                    .iter()
                    .zip(&direction)
                    .map(|(&x, d)| f64::from(x) * d)
                    .sum()
            };
            states.iter().map(along).sum::<f64>() / states.len() as f64
        };
        let (target, before) = (mean(&chosen, 0.0), mean(&rejected, 0.0));
        assert!((mean(&rejected, 1.0) - target).abs() < 0.02 * (target - before));
        let half = (target + before) / 2.0;
        assert!((mean(&rejected, 0.5) - half).abs() < 0.02 * (target - before));
        // Means of 48 held-out rows of 24 components are about 0.1 gaps apart by chance.
        assert!(figure(&bench, "out", "gap-left") < 0.2);
        assert!(figure(&bench, "out", "inside-support") > 0.95);
        assert!((figure(&bench, "out", "transport-shift") - 0.4).abs() < 0.1);
    }
    let message = bench.refuses(&["--operator", "act", "--step", "1.5"]);
    assert!(
        message.contains("step is 1.5, but must be at most 1 for act"),
        "{message}"
    );
}

#[test]
fn a_transport_is_one_of_a_limited_number() {
    let bench = Bench::new(&Planted::default());
    let act = ["--operator", "act", "--layers", "2"];
    bench.succeeds("first", &act);
    let first = bench.out("first").join("steering.safetensors");
    bench.read_under(&first);
    let incumbent = ["--incumbent", first.to_str().unwrap()];
    bench.succeeds("second", &[&act[..], &incumbent].concat());
    assert_eq!(bench.steering("second").edits(2).len(), 2);
    let limit = [&act[..], &incumbent, &["--max-depth", "1"]].concat();
    let warnings = bench.succeeds("full", &limit);
    assert!(
        warnings[0].contains("max-depth rotations and transports"),
        "{warnings:?}"
    );
    assert_eq!(bench.steering("full").edits(2).len(), 1);
}
