//! The fit stage as a program, on planted states.

mod broken;
mod closed_form;
mod condition;
mod heads;
mod planted;
mod weights;

use planted::{Bench, HIDDEN, LAYERS, Planted};
use sims_steering::{Compose, FitSummary, Operator, Steering};

fn vector(steering: &Steering, layer: usize) -> Vec<f64> {
    steering.additive_shift(layer).unwrap()
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>();
    product(a, b) / (product(a, a) * product(b, b)).sqrt()
}

fn norm(a: &[f64]) -> f64 {
    a.iter().map(|x| x * x).sum::<f64>().sqrt()
}

fn summary(steering: &Steering) -> &FitSummary {
    steering.fit().unwrap()
}

#[test]
fn planted_direction_is_fitted_at_the_layer_with_contrast() {
    let bench = Bench::new(&Planted::default());
    bench.succeeds("out", &["--step", "0.1", "--round", "2"]);
    let steering = bench.steering("out");
    // Both candidate layers are told apart perfectly; layer 2 has twice the contrast of layer 1.
    assert_eq!(steering.layers(), [2]);
    assert_eq!(steering.operator(), "mean-difference");
    assert_eq!(steering.compose(), Compose::Stack);
    let direction = bench.direction();
    assert!(cosine(&vector(&steering, 2), &direction) > 0.98);
    let fit = summary(&steering);
    assert_eq!((fit.round, fit.pairs), (2, 120));
    assert_eq!((fit.fit_prompts, fit.held_out_prompts), (96, 24));
    assert!(fit.signal.auroc > 0.95 && fit.signal.ci_low > 0.8 && fit.signal.beats_shuffled);
    assert!(
        (0.3..0.7).contains(&fit.signal.shuffled),
        "{:?}",
        fit.signal
    );
    let layer = &fit.layers[0];
    // The raw length: a tenth of the difference, not of a unit vector.
    assert!((norm(&vector(&steering, 2)) / (0.1 * layer.difference_norm) - 1.0).abs() < 1e-5);
    assert!(
        (layer.shift.unwrap() * layer.state_norm / norm(&vector(&steering, 2)) - 1.0).abs() < 1e-5
    );

    let report = bench.report("out");
    let find = |layer: u32, metric: &str, split: &str| {
        let row = report.iter().find(|row| {
            (row.layer, row.metric.as_str(), row.split.as_str()) == (layer, metric, split)
        });
        row.unwrap_or_else(|| panic!("no row {layer} {metric} {split}"))
    };
    for layer in [1, 2] {
        assert!(find(layer, "auroc", "held-out").value > 0.9);
        assert!(find(layer, "probe-accuracy", "held-out").value > 0.9);
        assert_eq!(find(layer, "auroc", "held-out").selected, layer == 2);
        assert_eq!(find(layer, "auroc", "held-out").n, 24);
    }
    assert!(find(2, "auroc", "shuffled").value < 0.7);
    assert!(find(2, "contrast", "train").value > find(1, "contrast", "train").value);
}

#[test]
fn shuffled_labels_have_no_signal() {
    let bench = Bench::new(&Planted::default());
    let shuffled = ["--labels", "shuffled"];
    let warnings = bench.succeeds("out", &shuffled);
    assert!(warnings[0].starts_with("low signal"), "{warnings:?}");
    assert!(warnings[0].contains("the steering is written all the same"));
    let steering = bench.steering("out");
    let fit = summary(&steering);
    assert_eq!(fit.labels, "shuffled");
    assert!(fit.signal.is_low(), "{:?}", fit.signal);
    let ranked = bench.succeeds("ranked", &[]);
    assert!(ranked.is_empty(), "{ranked:?}");
    // At its natural length the chance direction is much shorter than the real one.
    let length = |out: &str| summary(&bench.steering(out)).layers[0].difference_norm;
    assert!(length("out") < 0.4 * length("ranked"));
    let quiet = bench.succeeds(
        "quiet",
        &[&shuffled[..], &["--allow-low-signal", "true"]].concat(),
    );
    assert!(quiet.is_empty(), "{quiet:?}");
}

#[test]
fn every_operator_gives_a_steering_and_repeats_its_bytes() {
    let bench = Bench::new(&Planted::default());
    for (operator, extra) in [
        ("mean-difference", &["--preserve-norm", "true"][..]),
        ("random", &[]),
        ("hpr", &[]),
        ("hpr-capped", &["--epochs", "20"]),
        ("hpr-capped", &["--normal", "probe", "--epochs", "20"]),
        ("hpr-target", &[]),
        ("hpr-target", &["--normal", "probe", "--angle", "remaining"]),
        ("pca", &["--preserve-norm", "true"]),
        ("probe", &[]),
        ("act", &[]),
        (
            "act",
            &[
                "--line",
                "gaussian",
                "--pool",
                "mean",
                "--preserve-norm",
                "true",
            ],
        ),
    ] {
        let arguments = [&["--operator", operator, "--top-k", "2"][..], extra].concat();
        bench.succeeds("a", &arguments);
        bench.succeeds("b", &arguments);
        for name in ["steering.safetensors", "fit-report.parquet"] {
            let bytes = |out: &str| std::fs::read(bench.out(out).join(name)).unwrap();
            assert!(bytes("a") == bytes("b"), "{arguments:?}: {name} differs");
        }
        let steering = bench.steering("a");
        assert_eq!(steering.layers(), [1, 2]);
        assert_eq!(steering.operator(), operator);
        assert!(!steering.is_identity());
        steering.check_model(&bench.model()).unwrap();
    }
}

#[test]
fn target_rotation_turns_rejected_states_toward_the_chosen() {
    let bench = Bench::new(&Planted::default());
    bench.succeeds(
        "out",
        &[
            "--operator",
            "hpr-target",
            "--step",
            "1",
            "--max-angle",
            "0",
        ],
    );
    let steering = bench.steering("out");
    let edit = &steering.edits(2)[0];
    let Operator::Householder(rotation) = &edit.operator else {
        panic!("not a rotation")
    };
    let gap = summary(&steering).layers[0].class_gap.unwrap();
    assert!(gap > 0.1, "{gap}");
    let elevation = |state: &[f32]| sims_steering::householder::elevation(state, rotation.normal());
    let mean = |states: &[Vec<f32>]| {
        states.iter().map(|state| elevation(state)).sum::<f64>() / states.len() as f64
    };
    let (chosen, mut rejected) = bench.states(2);
    let before = mean(&rejected);
    for state in &mut rejected {
        edit.apply(state, 1.0, &mut sims_steering::EditCounts::default());
    }
    let (after, target) = (mean(&rejected), mean(&chosen));
    assert!(
        (after - target).abs() < 0.2 * (target - before),
        "{before} {after} {target}"
    );
}

#[test]
fn rounds_stack_up_to_the_longest_shift() {
    let bench = Bench::new(&Planted::default());
    let step = ["--step", "0.3", "--layers", "2", "--max-shift", "10"];
    bench.succeeds("first", &step);
    let first = bench.out("first").join("steering.safetensors");
    let incumbent = ["--incumbent", first.to_str().unwrap()];
    // States of the next round, read under the first one's steering.
    bench.read_under(&first);
    bench.succeeds("second", &[&step[..], &incumbent].concat());
    let (one, two) = (
        vector(&bench.steering("first"), 2),
        vector(&bench.steering("second"), 2),
    );
    assert!(cosine(&one, &two) > 0.999);
    assert!((norm(&two) / norm(&one) - 2.0).abs() < 1e-3);
    let turn = |out: &str| {
        let rows = bench.report(out).into_iter();
        rows.filter(|row| row.metric == "cosine-to-incumbent")
            .map(|row| row.value)
            .collect::<Vec<f64>>()
    };
    assert!(turn("first").is_empty());
    assert!(matches!(turn("second")[..], [cosine] if cosine > 0.999));

    let state_norm = summary(&bench.steering("second")).layers[0].state_norm;
    let limit = 1.5 * norm(&one) / state_norm;
    let capped = [
        "--step",
        "0.3",
        "--layers",
        "2",
        "--max-shift",
        &limit.to_string(),
    ];
    let warnings = bench.succeeds("capped", &[&capped[..], &incumbent].concat());
    assert!(warnings[0].contains("shortened to 0.50"), "{warnings:?}");
    let steering = bench.steering("capped");
    assert!((norm(&vector(&steering, 2)) / norm(&one) - 1.5).abs() < 1e-3);
    assert!((summary(&steering).layers[0].shift.unwrap() / limit - 1.0).abs() < 1e-3);

    // Half a step back keeps the first round whole.
    let weaker = bench
        .steering("second")
        .back_off(Some(&bench.steering("first")), 0.5)
        .unwrap();
    assert!((norm(&vector(&weaker, 2)) / norm(&one) - 1.5).abs() < 1e-3);
}

#[test]
fn the_random_control_is_as_long_as_the_mean_difference_and_points_elsewhere() {
    let bench = Bench::new(&Planted::default());
    let fit = |out: &str, arguments: &[&str]| -> Vec<f64> {
        let warnings = bench.succeeds(out, &[&["--step", "0.1"][..], arguments].concat());
        assert!(warnings.is_empty(), "{warnings:?}");
        // The same layer as the mean difference's: what is read of the states does not change.
        assert_eq!(bench.steering(out).layers(), [2]);
        vector(&bench.steering(out), 2)
    };
    let random = ["--operator", "random"];
    let difference = fit("difference", &[]);
    let control = fit("control", &random);
    assert!((norm(&control) / norm(&difference) - 1.0).abs() < 1e-6);
    let others = [
        difference,
        fit("seed", &[&random[..], &["--seed", "7"]].concat()),
        fit("round", &[&random[..], &["--round", "2"]].concat()),
    ];
    // Cosines of independent directions of 24 components have standard deviation 0.2.
    for other in others {
        let cosine = cosine(&control, &other);
        assert!(cosine.abs() < 0.8, "{cosine}");
    }
    let signal = |out: &str| summary(&bench.steering(out)).signal;
    assert_eq!(signal("control"), signal("difference"));
}

#[test]
fn rotations_stack_up_to_the_largest_depth() {
    let bench = Bench::new(&Planted::default());
    let rotation = ["--operator", "hpr-target", "--layers", "2"];
    bench.succeeds("first", &rotation);
    let first = bench.out("first").join("steering.safetensors");
    bench.read_under(&first);
    let second = |out: &str, depth: &str| {
        let incumbent = ["--incumbent", first.to_str().unwrap(), "--max-depth", depth];
        let warnings = bench.succeeds(out, &[&rotation[..], &incumbent].concat());
        (warnings, bench.steering(out))
    };
    for depth in ["2", "0"] {
        let (warnings, steering) = second(depth, depth);
        assert!(warnings.is_empty(), "{warnings:?}");
        assert_eq!(steering.edits(2).len(), 2);
    }
    let (warnings, steering) = second("full", "1");
    assert!(
        warnings[0].contains("this round's edit was left out"),
        "{warnings:?}"
    );
    assert_eq!(steering.edits(2), bench.steering("first").edits(2));
    assert_eq!(summary(&steering).layers[0].cap_factor, 0.0);

    // Vectors are bounded by their length, not by their number.
    let vectors = ["--layers", "2", "--max-depth", "1"];
    let incumbent = ["--incumbent", first.to_str().unwrap()];
    let warnings = bench.succeeds("vector", &[&vectors[..], &incumbent].concat());
    assert!(warnings.is_empty(), "{warnings:?}");
    assert_eq!(bench.steering("vector").edits(2).len(), 2);
}

/// What is read is bounded, the same at every layer, and enough; a bound that all rows meet changes no byte.
#[test]
fn rows_are_drawn_when_there_are_too_many() {
    let bench = Bench::new(&Planted {
        prompts: 1500,
        ..Planted::default()
    });
    let bytes = |out: &str| std::fs::read(bench.out(out).join("steering.safetensors")).unwrap();
    let rows = |out: &str| {
        let summary = std::fs::read_to_string(bench.out(out).join("summary.json")).unwrap();
        let summary: serde_json::Value = serde_json::from_str(&summary).unwrap();
        let count = |name: &str| summary["counts"][name].as_f64().unwrap();
        (count("rows"), count("rows_read"))
    };
    bench.succeeds("all", &[]);
    bench.succeeds("loose", &["--max-rows", "3000"]);
    assert!(bytes("all") == bytes("loose"));
    assert_eq!(rows("all"), (3000.0, 3000.0));
    let few = ["--max-rows", "400"];
    bench.succeeds("few", &few);
    bench.succeeds("again", &few);
    bench.succeeds("seed", &[&few[..], &["--seed", "5"]].concat());
    assert_eq!(rows("few"), (3000.0, 400.0));
    assert!(bytes("few") == bytes("again") && bytes("few") != bytes("seed"));
    let direction = bench.direction();
    assert!(cosine(&vector(&bench.steering("few"), 2), &direction) > 0.99);
    assert_ne!(bytes("few"), bytes("all"));
}

#[test]
fn states_and_incumbent_must_belong_together() {
    let bench = Bench::new(&Planted::default());
    bench.succeeds("first", &[]);
    let first = bench.out("first").join("steering.safetensors");
    let incumbent = ["--incumbent", first.to_str().unwrap()];
    let message = bench.refuses(&incumbent);
    assert!(
        message.contains("read from the base model") && message.contains("on steering"),
        "{message}"
    );
    // A fit that replaces builds on nothing.
    bench.succeeds(
        "replace",
        &[&incumbent[..], &["--compose", "replace"]].concat(),
    );
    assert_eq!(
        vector(&bench.steering("replace"), 2),
        vector(&bench.steering("first"), 2)
    );
    assert_eq!(bench.steering("replace").compose(), Compose::Replace);
    bench.read_under(&first);
    let message = bench.refuses(&["--compose", "replace"]);
    assert!(
        message.contains("read under steering") && message.contains("on the base model"),
        "{message}"
    );
    bench.succeeds("stack", &incumbent);
    // A steering that does nothing is none.
    let nothing = bench.out("nothing.safetensors");
    Steering::identity(bench.model(), HIDDEN, LAYERS)
        .save(&nothing)
        .unwrap();
    bench.read_from_base();
    bench.succeeds("none", &["--incumbent", nothing.to_str().unwrap()]);
}

#[test]
fn degenerate_states_are_refused_with_the_layer() {
    let constant = Planted {
        noise: 0.0,
        gap: 0.0,
        ..Planted::default()
    };
    let message = Bench::new(&constant).refuses(&[]);
    assert!(
        message.contains("layer 1: chosen and rejected states are identical"),
        "{message}"
    );
    let broken = Planted {
        broken: Some((2, 7)),
        ..Planted::default()
    };
    let message = Bench::new(&broken).refuses(&[]);
    assert!(
        message.contains("layer 2: state 7 is NaN or infinite"),
        "{message}"
    );
    let few = Planted {
        prompts: 20,
        ..Planted::default()
    };
    let message = Bench::new(&few).refuses(&[]);
    assert!(
        message.contains("16 prompts to fit and 4 held out are too few"),
        "{message}"
    );
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let bench = Bench::new(&Planted::default());
    let message = bench.refuses(&["--layers", "0"]);
    assert!(
        message.contains("layer 0 was not extracted; the states hold layers [1, 2]"),
        "{message}"
    );
    let message = bench.refuses(&["--step", "0"]);
    assert!(
        message.contains("step is 0, but must be a positive number"),
        "{message}"
    );
    bench.shorten_index(100);
    let message = bench.refuses(&[]);
    assert!(
        message.contains("240 rows at layer 1, but the index has 100"),
        "{message}"
    );
    bench.shorten_index(0);
    assert!(bench.refuses(&[]).contains("it has no rows"));
}
