//! BiPO through whole models: against PyTorch, against finite differences, and on a planted preference.

use serde::Deserialize;
use sims_model::score::{ScoreLimits, ScoreRequest, response_logprobs};
use sims_model::{Decoder, Device, Dtype, Kernels};
use sims_steering::bipo::{BipoOptions, batch_gradient, times, train};
use sims_steering::preference::{EditedPositions, Preference, PreferenceOdds, PreparedPair};
use sims_steering::{Additive, Edit, FitError, Operator, Steering};
use std::collections::BTreeMap;
use std::f64::consts::LN_2;
use std::ops::ControlFlow;
use std::path::PathBuf;

const LAYER: usize = 1;
const BETA: f64 = 0.1;

#[derive(Deserialize)]
struct Case {
    prompt: Vec<u32>,
    chosen: Vec<u32>,
    rejected: Vec<u32>,
    reference: [f64; 2],
    plus: Loss,
    minus: Loss,
}

#[derive(Deserialize)]
struct Loss {
    loss: f64,
    gradient: Vec<f64>,
}

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../sims-model/tests/fixtures")
        .join(name)
}

fn decoder(name: &str, kernels: Kernels) -> Decoder {
    Decoder::load(&folder(name), &[Device::Cpu], Dtype::F32, kernels).unwrap()
}

fn llama() -> Decoder {
    decoder("llama-gqa-untied", Kernels::Candle)
}

fn vector(width: usize) -> Vec<f32> {
    (0..width).map(|j| 0.2 * (1.0 + j as f32).sin()).collect()
}

fn pair(prompt: &[u32], chosen: &[u32], rejected: &[u32]) -> Preference {
    Preference {
        pair_id: "pair".to_owned(),
        prompt: prompt.to_vec(),
        chosen: chosen.to_vec(),
        rejected: rejected.to_vec(),
    }
}

fn odds<'a>(
    decoder: &'a Decoder,
    layers: &[usize],
    positions: EditedPositions,
) -> PreferenceOdds<'a> {
    PreferenceOdds::new(decoder, layers, positions, None).unwrap()
}

/// Eight prompts, after each of which token 5 is to be preferred to token 9.
fn planted(odds: &PreferenceOdds<'_>) -> Vec<PreparedPair> {
    (0..8)
        .map(|n| {
            let prompt: Vec<u32> = (0..5 + n % 3).map(|i| 20 + 3 * n + 7 * i).collect();
            odds.prepare(&pair(&prompt, &[5, 30], &[9, 30])).unwrap()
        })
        .collect()
}

fn quick(seed: u64) -> BipoOptions {
    BipoOptions {
        learning_rate: 0.05,
        warmup_steps: 10,
        batch_pairs: 4,
        // 200 steps.
        max_epochs: 100,
        patience: 100,
        seed,
        ..BipoOptions::default()
    }
}

fn go_on() -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Loss and gradient of every family, mixtures of experts included.
#[test]
fn losses_and_gradients_match_pytorch() {
    let cases: BTreeMap<String, Case> =
        serde_json::from_str(include_str!("reference/bipo.json")).unwrap();
    for (name, case) in cases {
        let decoder = decoder(&name, Kernels::Candle);
        let odds = odds(&decoder, &[LAYER], EditedPositions::All);
        let prepared = odds
            .prepare(&pair(&case.prompt, &case.chosen, &case.rejected))
            .unwrap();
        for (found, expected) in prepared.reference().iter().zip(case.reference) {
            assert!((found - expected).abs() < 1e-4 * expected.abs(), "{name}");
        }
        let vectors = [vector(odds.hidden_size())];
        for (sign, expected) in [(1.0, &case.plus), (-1.0, &case.minus)] {
            let (loss, gradient) =
                batch_gradient(&odds, &[&prepared], &vectors, sign, BETA).unwrap();
            let error = (loss - expected.loss).abs();
            assert!(
                error < 1e-4 * expected.loss,
                "{name}: {loss}, not {}",
                expected.loss
            );
            let size = expected
                .gradient
                .iter()
                .fold(0.0f64, |size, x| size.max(x.abs()));
            for (j, (found, expected)) in gradient.iter().zip(&expected.gradient).enumerate() {
                let error = (found - expected).abs();
                assert!(
                    error < 1e-4 * size,
                    "{name}, {j}: {found}, not {expected} of {size}"
                );
            }
        }
    }
}

/// The traced pass and the kernels that a loop samples with give the same log-probabilities.
#[test]
fn log_probabilities_are_those_of_the_fast_path() {
    let cases: BTreeMap<String, Case> =
        serde_json::from_str(include_str!("reference/bipo.json")).unwrap();
    for (name, case) in cases {
        let (traced, fast) = (
            decoder(&name, Kernels::Candle),
            decoder(&name, Kernels::Fastest),
        );
        let odds = odds(&traced, &[LAYER], EditedPositions::FromPromptEnd);
        let prepared = odds
            .prepare(&pair(&case.prompt, &case.chosen, &case.rejected))
            .unwrap();
        let sequences =
            [&case.chosen, &case.rejected].map(|response| [&case.prompt[..], response].concat());
        let requests = [0, 1].map(|i| ScoreRequest::new(&sequences[i], case.prompt.len()));
        let digest = sims_artifact::Digest::of_bytes(b"model");
        let width = odds.hidden_size();
        let mut steering = Steering::identity(digest, width, traced.config().num_hidden_layers);
        let additive = Additive::new(vector(width)).unwrap();
        steering
            .push(LAYER, Edit::new(Operator::Additive(additive)))
            .unwrap();
        let mut hook = steering.hook();
        let limits = ScoreLimits::default();
        let plain = response_logprobs(&fast, &requests, &limits, None, &mut |_| {
            ControlFlow::Continue(())
        });
        let steered = response_logprobs(&fast, &requests, &limits, Some(&mut hook), &mut |_| {
            ControlFlow::Continue(())
        });
        let (plain, steered) = (plain.unwrap(), steered.unwrap());
        let sum = |logprobs: &[f32]| logprobs.iter().map(|&x| f64::from(x)).sum::<f64>();
        for (found, expected) in prepared.reference().iter().zip(&plain.0) {
            assert!((found - sum(expected)).abs() < 1e-4, "{name}");
        }
        let expected =
            (sum(&steered.0[0]) - sum(&plain.0[0])) - (sum(&steered.0[1]) - sum(&plain.0[1]));
        let [chosen, rejected] = odds.log_ratios(&[&prepared], &[vector(width)]).unwrap()[0];
        let found = chosen - rejected;
        assert!(
            (found - expected).abs() < 2e-4,
            "{name}: {found}, not {expected}"
        );
    }
}

/// T17: the gradient is that of finite differences, for two layers at once and under an incumbent.
#[test]
fn gradients_match_finite_differences() {
    let decoder = llama();
    let mut incumbent = Steering::identity(
        sims_artifact::Digest::of_bytes(b"model"),
        decoder.config().hidden_size,
        decoder.config().num_hidden_layers,
    );
    for layer in 0..3 {
        let additive = Additive::new(vector(decoder.config().hidden_size)).unwrap();
        incumbent
            .push(layer, Edit::new(Operator::Additive(additive)))
            .unwrap();
    }
    let positions = EditedPositions::FromPromptEnd;
    let odds = PreferenceOdds::new(&decoder, &[1, 0], positions, Some(&incumbent)).unwrap();
    assert_eq!(odds.layers(), [0, 1]);
    let pairs = planted(&odds);
    let pairs: Vec<&PreparedPair> = pairs.iter().collect();
    let width = odds.hidden_size();
    let vectors = [vector(width), times(&[vector(width)], -0.5).remove(0)];
    let (_, gradient) = batch_gradient(&odds, &pairs, &vectors, -1.0, BETA).unwrap();
    for direction in 0..6 {
        let along = |j: usize| (((direction + 1) * (j + 2)) as f64).sin();
        let loss = |step: f64| {
            let moved: Vec<Vec<f32>> = vectors
                .iter()
                .enumerate()
                .map(|(index, vector)| {
                    (0..width)
                        .map(|j| vector[j] + (step * along(index * width + j)) as f32)
                        .collect()
                })
                .collect();
            batch_gradient(&odds, &pairs, &moved, -1.0, BETA).unwrap().0
        };
        let found: f64 = gradient.iter().enumerate().map(|(j, g)| g * along(j)).sum();
        // Five points: the error falls with the fourth power of the step, and f32 allows no smaller one.
        let h = 4e-3;
        let expected = (8.0 * (loss(h) - loss(-h)) - (loss(2.0 * h) - loss(-2.0 * h))) / (12.0 * h);
        let size = gradient.iter().map(|g| g * g).sum::<f64>().sqrt();
        assert!(
            (found - expected).abs() < 1e-3 * size,
            "{direction}: {found}, not {expected}"
        );
    }
}

/// T17: 200 steps teach a planted preference, +v raises and -v lowers its odds, and the weights keep their bits.
#[test]
fn a_planted_preference_is_learnt() {
    let decoder = llama();
    let traced = decoder.traced().unwrap();
    let logits = || {
        let mut batch = sims_model::Batch::default();
        batch.push(&[4, 40, 77], Vec::new(), 0, 0);
        let hidden = traced.embed(&batch).unwrap();
        let hidden = traced.blocks(&batch, &hidden, 0..3).unwrap();
        let logits = traced.logits(&hidden).unwrap();
        let logits: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
        logits.into_iter().map(f32::to_bits).collect::<Vec<_>>()
    };
    let before = logits();
    let odds = odds(&decoder, &[LAYER], EditedPositions::All);
    let pairs = planted(&odds);
    let pairs: Vec<&PreparedPair> = pairs.iter().collect();
    let trained = train(&odds, &pairs, &pairs, &quick(3), &mut go_on).unwrap();
    let least = trained.losses[trained.best_epoch];
    assert!(least.held_out < 0.5 * LN_2, "{least:?}");
    for (sign, learnt) in [
        (1.0, &trained.vectors),
        (-1.0, &times(&trained.vectors, -1.0)),
    ] {
        for [chosen, rejected] in odds.log_ratios(&pairs, learnt).unwrap() {
            assert!(
                sign * (chosen - rejected) > 1.0,
                "{sign}: {chosen}, {rejected}"
            );
        }
    }
    assert_eq!(logits(), before);
}

/// The same seed gives the same bits on any number of threads; another one does not.
#[test]
fn training_repeats() {
    let decoder = llama();
    let odds = odds(&decoder, &[LAYER], EditedPositions::FromPromptEnd);
    let pairs = planted(&odds);
    let pairs: Vec<&PreparedPair> = pairs.iter().collect();
    let run = |threads: usize, seed: u64| {
        let options = BipoOptions {
            max_epochs: 3,
            ..quick(seed)
        };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build()
            .unwrap()
            .install(|| train(&odds, &pairs, &pairs, &options, &mut go_on))
            .unwrap()
    };
    assert_eq!(run(1, 5), run(3, 5));
    assert_ne!(run(1, 5).vectors, run(1, 6).vectors);
}

#[test]
fn what_teaches_nothing_is_refused() {
    let decoder = llama();
    let odds = odds(&decoder, &[LAYER], EditedPositions::All);
    // Held out, the preference is the other way round.
    let (fit, held_out) = (
        odds.prepare(&pair(&[20, 21, 22], &[5, 30], &[9, 30]))
            .unwrap(),
        odds.prepare(&pair(&[20, 21, 22], &[9, 30], &[5, 30]))
            .unwrap(),
    );
    let options = BipoOptions {
        max_epochs: 5,
        ..quick(1)
    };
    let error = train(&odds, &[&fit], &[&held_out], &options, &mut go_on).unwrap_err();
    assert!(matches!(error, FitError::NoGain { .. }), "{error}");
    let error = train(&odds, &[&fit], &[], &options, &mut go_on).unwrap_err();
    assert!(matches!(error, FitError::EmptyClass { .. }), "{error}");
    let stop = &mut || ControlFlow::Break(());
    let error = train(&odds, &[&fit], &[&fit], &options, stop).unwrap_err();
    assert!(matches!(error, FitError::Interrupted), "{error}");
    let wild = BipoOptions {
        learning_rate: 1e38,
        warmup_steps: 0,
        ..options
    };
    let error = train(&odds, &[&fit], &[&fit], &wild, &mut go_on).unwrap_err();
    assert!(matches!(error, FitError::Diverged { .. }), "{error}");
}

#[test]
fn decoders_and_layers_that_cannot_be_trained_are_refused() {
    let fast = decoder("llama-gqa-untied", Kernels::Fastest);
    let refused = |decoder: &Decoder, layers: &[usize], incumbent: Option<&Steering>| {
        PreferenceOdds::new(decoder, layers, EditedPositions::All, incumbent)
            .err()
            .unwrap()
            .to_string()
    };
    assert!(refused(&fast, &[1], None).contains("candle's kernels"));
    let decoder = llama();
    assert!(refused(&decoder, &[3], None).contains("layer 3 is out of range"));
    let width = decoder.config().hidden_size;
    let mut incumbent = Steering::identity(sims_artifact::Digest::of_bytes(b"model"), width, 3);
    let additive = Additive::new(vector(width)).unwrap();
    let edit = Edit {
        preserve_norm: true,
        ..Edit::new(Operator::Additive(additive))
    };
    incumbent.push(2, edit).unwrap();
    let message = refused(&decoder, &[1], Some(&incumbent));
    assert!(
        message.contains("at layer 2 the incumbent does more than add"),
        "{message}"
    );
}
