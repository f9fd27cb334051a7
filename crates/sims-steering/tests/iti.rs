//! Attention heads: the fit against scikit-learn, and the shift as a hook, composed, backed off and saved.

use serde::Deserialize;
use sims_artifact::Digest;
use sims_model::{Batch, Decoder, Device, Dtype, Hook, Kernels, KvCache, Segment, Tensor};
use sims_steering::iti::{self, HeadDirection};
use sims_steering::{
    Additive, Compose, Edit, HeadShift, Operator, PairedStates, Steering, SteeringError,
};
use std::path::PathBuf;

const LAYERS: usize = 3;
const HEAD_DIM: usize = 8;
const WIDTH: usize = 48;

#[derive(Deserialize)]
struct Reference {
    head_dim: usize,
    fit: usize,
    positive: Vec<f32>,
    negative: Vec<f32>,
    heads: Vec<Head>,
}

#[derive(Deserialize)]
struct Head {
    probe: Vec<f64>,
    accuracy: f64,
    direction: Vec<f64>,
    deviation: f64,
}

fn close(found: &[f64], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() < tolerance,
            "{found}, not {expected}"
        );
    }
}

#[test]
fn heads_are_fitted_as_scikit_learn_and_numpy_fit_them() {
    let reference: Reference = serde_json::from_str(include_str!("reference/iti.json")).unwrap();
    let width = reference.heads.len() * reference.head_dim;
    let rows = reference.positive.len() / width;
    let numbers: Vec<u32> = (0..rows as u32).collect();
    let states = PairedStates::new(
        width,
        &reference.positive,
        &reference.negative,
        &numbers,
        &numbers,
    )
    .unwrap();
    let fit: Vec<usize> = (0..reference.fit).collect();
    let held_out: Vec<usize> = (reference.fit..rows).collect();
    let along = HeadDirection::MeanDifference;
    let found = iti::fit(&states, reference.head_dim, &fit, &held_out, along).unwrap();
    assert_eq!(found.len(), reference.heads.len());
    for (index, (found, expected)) in found.iter().zip(&reference.heads).enumerate() {
        assert_eq!(found.head, index);
        close(&found.probe, &expected.probe, 1e-5);
        close(&found.direction, &expected.direction, 1e-9);
        close(&[found.deviation], &[expected.deviation], 1e-9);
        close(&[found.accuracy], &[expected.accuracy], 1e-12);
    }
    let along = HeadDirection::Probe;
    let by_probe = iti::fit(&states, reference.head_dim, &fit, &held_out, along).unwrap();
    for (found, expected) in by_probe.iter().zip(&reference.heads) {
        let weights = &expected.probe[..reference.head_dim];
        let norm = weights.iter().map(|w| w * w).sum::<f64>().sqrt();
        let unit: Vec<f64> = weights.iter().map(|w| w / norm).collect();
        close(&found.direction, &unit, 1e-5);
    }
    assert!(iti::fit(&states, reference.head_dim, &fit, &[], along).is_err());
}

/// Shifts heads 1 and 4.
fn shift(scale: f32) -> HeadShift {
    let component = |j: usize| match j / HEAD_DIM {
        1 | 4 => scale * (1.0 + j as f32).sin(),
        _ => 0.0,
    };
    HeadShift::new(HEAD_DIM, (0..WIDTH).map(component).collect()).unwrap()
}

fn identity() -> Steering {
    Steering::identity(Digest::of_bytes(b"model"), WIDTH, LAYERS)
}

fn steering(layers: &[usize]) -> Steering {
    let mut steering = identity();
    for &layer in layers {
        steering.push_heads(layer, shift(0.3)).unwrap();
    }
    steering
}

fn decoder(kernels: Kernels) -> Decoder {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../sims-model/tests/fixtures/llama-gqa-untied");
    Decoder::load(&folder, &[Device::Cpu], Dtype::F32, kernels).unwrap()
}

fn bits(decoder: &Decoder, prompts: &[Vec<u32>], hook: Option<&mut dyn Hook>) -> Vec<Vec<u32>> {
    let mut batch = Batch::default();
    for prompt in prompts {
        let start = batch.tokens.len();
        batch.push(prompt, Vec::new(), start, prompt.len() - 3);
    }
    let mut cache = KvCache::new(decoder, batch.tokens.len());
    let hidden = decoder.forward(&batch, &mut cache, hook).unwrap();
    let logits: Vec<Vec<f32>> = decoder.logits(&hidden).unwrap().to_vec2().unwrap();
    let bits = |row: &Vec<f32>| row.iter().map(|x| x.to_bits()).collect();
    logits.iter().map(bits).collect()
}

fn prompts() -> Vec<Vec<u32>> {
    [30, 7, 18]
        .iter()
        .map(|&length| (0..length).map(|i| (length + 5 * i) % 151).collect())
        .collect()
}

#[test]
fn shifts_depend_on_no_batch_and_vanish_at_strength_zero() {
    let decoder = decoder(Kernels::Fastest);
    let steering = steering(&[0, 2]);
    let alone: Vec<Vec<u32>> = prompts()
        .iter()
        .flat_map(|prompt| {
            bits(
                &decoder,
                std::slice::from_ref(prompt),
                Some(&mut steering.hook()),
            )
        })
        .collect();
    let mut hook = steering.hook().measuring();
    let together = bits(&decoder, &prompts(), Some(&mut hook));
    assert_eq!(together, alone);
    // Three rows of three prompts at two layers.
    assert_eq!((hook.counts().rows, hook.counts().edited), (18, 18));
    assert_eq!((hook.applications(), hook.sizes().unwrap().rows), (2, 18));
    let plain = bits(&decoder, &prompts(), None);
    assert_eq!(together[..27], plain[..27], "rows before the mask");
    assert_ne!(together[27..30], plain[27..30]);

    let off = steering.scaled(0.0).unwrap();
    assert!(off.is_identity() && off.hook().is_identity() && !steering.is_identity());
    assert!(!off.hook().wants_heads(0) && !steering.keeps_norms());
    assert!(steering.hook().check_applied().is_err());
}

/// Heads and residual stream at one layer, on both forms of the decoder.
#[test]
fn heads_and_blocks_are_edited_in_one_pass() {
    let mut steering = steering(&[1]);
    let vector = (0..WIDTH).map(|j| 0.2 * (j as f32).cos()).collect();
    let additive = Operator::Additive(Additive::new(vector).unwrap());
    steering.push(1, Edit::new(additive)).unwrap();
    assert_eq!(steering.layers(), [1]);
    let [fast, plain] = [Kernels::Fastest, Kernels::Candle].map(|kernels| {
        let mut hook = steering.hook();
        let bits = bits(&decoder(kernels), &prompts(), Some(&mut hook));
        assert_eq!(hook.applications(), 2);
        bits
    });
    for (fast, plain) in fast.iter().flatten().zip(plain.iter().flatten()) {
        let difference = f32::from_bits(*fast) - f32::from_bits(*plain);
        assert!(difference.abs() < 1e-4, "{difference}");
    }
}

#[test]
fn shifts_stack_and_back_off_to_the_incumbent() {
    let incumbent = steering(&[0, 1]).scaled(0.5).unwrap();
    let stacked = incumbent.stack(&steering(&[1, 2])).unwrap();
    assert_eq!(stacked.layers(), [0, 1, 2]);
    assert_eq!(stacked.compose(), Compose::Stack);
    let component = |steering: &Steering, layer: usize| {
        steering.head_shift(layer).unwrap().vector()[HEAD_DIM] / shift(0.3).vector()[HEAD_DIM]
    };
    let near = |found: f32, expected: f32| assert!((found - expected).abs() < 1e-6, "{found}");
    for (layer, expected) in [(0, 0.5), (1, 1.5), (2, 1.0)] {
        near(component(&stacked, layer), expected);
    }
    let weaker = stacked.back_off(Some(&incumbent), 0.25).unwrap();
    for (layer, expected) in [(0, 0.5), (1, 0.75), (2, 0.25)] {
        near(component(&weaker, layer), expected);
    }
    assert_eq!(stacked.changed_layers(Some(&incumbent)).unwrap(), [1, 2]);
    let narrow = stacked.at_layers(Some(&incumbent), &[2]).unwrap();
    for (layer, expected) in [(0, 0.5), (1, 0.5), (2, 1.0)] {
        near(component(&narrow, layer), expected);
    }
    let stranger = steering(&[2]).stack(&identity()).unwrap();
    let error = stranger.back_off(Some(&incumbent), 0.5).unwrap_err();
    assert!(matches!(error, SteeringError::NotStacked { layer: 0 }));
    assert_eq!(shift(1.0).heads(), [1, 4]);
}

/// T21 for heads, and a steering without them keeps its bytes.
#[test]
fn shifts_are_saved_and_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("steering.safetensors");
    let steering = steering(&[0, 2]).scaled(0.7).unwrap();
    steering.save(&path).unwrap();
    let loaded = Steering::load(&path).unwrap();
    assert_eq!(loaded, steering);
    assert_eq!(loaded.head_shift(2).unwrap().head_dim(), HEAD_DIM);
    identity().save(&path).unwrap();
    let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
    assert!(!text.contains("head_dim"));
}

#[test]
fn shifts_that_do_not_fit_are_refused() {
    assert!(HeadShift::new(HEAD_DIM, vec![f32::NAN; WIDTH]).is_err());
    assert!(HeadShift::new(HEAD_DIM, vec![1.0; WIDTH - 1]).is_err());
    let mut steering = identity();
    assert!(steering.push_heads(LAYERS, shift(1.0)).is_err());
    let narrow = HeadShift::new(HEAD_DIM, vec![1.0; HEAD_DIM]).unwrap();
    steering.push_heads(1, narrow).unwrap();
    assert!(steering.push_heads(1, shift(1.0)).is_err());
    let heads = Tensor::zeros((1, WIDTH), candle_core::DType::F32, &Device::Cpu).unwrap();
    let segment = Segment {
        rows: 0..1,
        position: 0,
        context: vec![],
        slots: 0..1,
        edit_from: 0,
        is_repeated: false,
    };
    let error = steering.hook().on_heads(1, &[segment], &heads).unwrap_err();
    assert!(error.to_string().contains("heads of 8 numbers"), "{error}");
}
