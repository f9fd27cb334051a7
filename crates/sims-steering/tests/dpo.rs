//! DPO through whole models with low-rank adapters: against PyTorch, merged and not, and on a planted preference.

use serde::Deserialize;
use sims_model::{
    Adapter, Batch, Decoder, Device, Dtype, Kernels, KvCache, LinearLayer, LowRank, Module,
};
use sims_steering::FitError;
use sims_steering::dpo::{AdaptedOdds, DpoOptions, FineTuned, ReferencedPair, train};
use sims_steering::initial_adapter;
use sims_steering::preference::Preference;
use std::collections::BTreeMap;
use std::f64::consts::LN_2;
use std::ops::ControlFlow;
use std::path::PathBuf;

const RANK: usize = 2;
const ALPHA: f64 = 4.0;
const BETA: f64 = 0.1;

#[derive(Deserialize)]
struct Case {
    pairs: Vec<Pair>,
    loss: f64,
    gradients: BTreeMap<String, Values>,
    losses: Vec<f64>,
    trained: BTreeMap<String, Values>,
    merged_logits: Vec<f32>,
}

#[derive(Deserialize)]
struct Pair {
    prompt: Vec<u32>,
    chosen: Vec<u32>,
    rejected: Vec<u32>,
    reference: [f64; 2],
}

#[derive(Deserialize)]
struct Values {
    a: Vec<f64>,
    b: Vec<f64>,
}

fn cases() -> BTreeMap<String, Case> {
    serde_json::from_str(include_str!("reference/dpo.json")).unwrap()
}

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../sims-model/tests/fixtures")
        .join(name)
}

fn decoder(name: &str) -> Decoder {
    let devices = [Device::Cpu];
    Decoder::load(&folder(name), &devices, Dtype::F32, Kernels::Candle).unwrap()
}

fn preference(prompt: &[u32], chosen: &[u32], rejected: &[u32]) -> Preference {
    Preference {
        pair_id: "pair".to_owned(),
        prompt: prompt.to_vec(),
        chosen: chosen.to_vec(),
        rejected: rejected.to_vec(),
    }
}

/// The adapter that the script starts from: sines, by the number of the module.
fn adapter(decoder: &Decoder, case: &Case) -> Adapter {
    let config = decoder.config();
    let sines = |count: usize, scale: f64, phase: f64| -> Vec<f32> {
        (0..count)
            .map(|i| (scale * (phase + i as f64).sin()) as f32)
            .collect()
    };
    let mut names: Vec<Module> = case.gradients.keys().map(|name| module(name)).collect();
    names.sort();
    let modules = names.into_iter().enumerate().map(|(number, module)| {
        let linear = LinearLayer::of(config, &module).unwrap();
        let a = sines(RANK * linear.in_features, 0.3, number as f64);
        let b = sines(linear.out_features * RANK, 0.1, number as f64 + 0.5);
        (module, LowRank { a, b })
    });
    Adapter {
        rank: RANK,
        alpha: ALPHA,
        modules: modules.collect(),
    }
}

fn module(name: &str) -> Module {
    let (layer, part) = name
        .strip_prefix("layers.")
        .unwrap()
        .split_once('.')
        .unwrap();
    Module {
        layer: layer.parse().unwrap(),
        part: part.to_owned(),
    }
}

fn prepared(odds: &AdaptedOdds<'_>, case: &Case) -> Vec<ReferencedPair> {
    case.pairs
        .iter()
        .map(|pair| {
            let pair = preference(&pair.prompt, &pair.chosen, &pair.rejected);
            odds.prepare(&pair).unwrap()
        })
        .collect()
}

fn go_on() -> ControlFlow<()> {
    ControlFlow::Continue(())
}

/// Asserts that values are within `tolerance` of the largest expected one.
fn assert_close<T: Copy + Into<f64>>(found: &[T], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let size = expected.iter().fold(0.0f64, |size, x| size.max(x.abs()));
    for (index, (&found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found.into() - expected).abs();
        assert!(
            error <= tolerance * size,
            "{what}, {index}: {} and not {expected} of {size}",
            found.into()
        );
    }
}

/// Loss and gradients of every A and B, for fused and separate projections and every kind of linear layer.
#[test]
fn losses_and_gradients_match_pytorch() {
    for (name, case) in cases() {
        let decoder = decoder(&name);
        let odds = AdaptedOdds::new(&decoder).unwrap();
        let pairs = prepared(&odds, &case);
        for (pair, expected) in pairs.iter().zip(&case.pairs) {
            assert_close(&pair.reference(), &expected.reference, 1e-5, &name);
        }
        let pairs: Vec<&ReferencedPair> = pairs.iter().collect();
        let adapter = adapter(&decoder, &case);
        let found = odds.batch_gradient(&pairs, &adapter, BETA).unwrap();
        let error = (found.loss - case.loss).abs();
        assert!(error < 1e-5, "{name}: {} and not {}", found.loss, case.loss);
        let expected = |module: &Module| {
            let Values { a, b } = &case.gradients[&module.to_string()];
            [a, b]
        };
        let all = adapter.modules.keys().flat_map(expected).flatten();
        let norm = all.map(|slope| slope * slope).sum::<f64>().sqrt();
        for (module, slopes) in adapter.modules.keys().zip(found.slopes.chunks(2)) {
            for (slopes, expected) in slopes.iter().zip(expected(module)) {
                assert_eq!(slopes.len(), expected.len(), "{name}: {module}");
                for (found, expected) in slopes.iter().zip(expected) {
                    let error = (found - expected).abs();
                    assert!(
                        error < 1e-5 * norm,
                        "{name}: {module}: {found}, not {expected} of {norm}"
                    );
                }
            }
        }
    }
}

/// Three steps of AdamW under the bound on the gradient's norm and the cosine.
#[test]
fn steps_match_pytorch() {
    for (name, case) in cases() {
        let decoder = decoder(&name);
        let odds = AdaptedOdds::new(&decoder).unwrap();
        let pairs = prepared(&odds, &case);
        let pairs: Vec<&ReferencedPair> = pairs.iter().collect();
        let options = DpoOptions {
            beta: BETA,
            learning_rate: 0.01,
            warmup_steps: 0,
            batch_pairs: 2,
            max_epochs: 3,
            patience: 3,
            max_gradient_norm: 0.05,
            seed: 0,
        };
        let start = adapter(&decoder, &case);
        let tuned = train(&odds, &pairs, &pairs, start, &options, &mut go_on).unwrap();
        let losses: Vec<f64> = tuned
            .epochs
            .iter()
            .map(|epoch| epoch.held_out_loss)
            .collect();
        assert_close(&losses, &case.losses, 1e-4, &name);
        assert_eq!(tuned.best_epoch, 2, "{name}: {losses:?}");
        let mut errors = Vec::new();
        for (module, change) in &tuned.adapter.modules {
            let expected = &case.trained[&module.to_string()];
            for (values, expected) in [(&change.a, &expected.a), (&change.b, &expected.b)] {
                let pairs = values.iter().zip(expected);
                errors.extend(pairs.map(|(&found, expected)| (f64::from(found) - expected).abs()));
            }
        }
        // AdamW divides a slope by its own size, so that where it is all but 0 its rounding counts.
        let beyond = errors.iter().filter(|error| **error >= 1e-4).count();
        let largest = errors.iter().copied().fold(0.0, f64::max);
        assert!(
            beyond * 1000 <= errors.len() && largest < 1e-3,
            "{name}: {beyond} of {} beyond 1e-4, the largest {largest}",
            errors.len()
        );
    }
}

/// Merging gives the logits of PyTorch's W + s·B·A and of the layers beside the weights, on both kinds of kernels.
#[test]
fn a_merged_adapter_is_the_one_beside_the_weights() {
    for (name, case) in cases() {
        let plain = decoder(&name);
        let adapter = adapter(&plain, &case);
        let prompt = &case.pairs[0].prompt;
        let expected: Vec<f64> = case.merged_logits.iter().map(|&x| f64::from(x)).collect();
        for kernels in [Kernels::Fastest, Kernels::Candle] {
            let devices = [Device::Cpu];
            let folder = folder(&name);
            let merged =
                Decoder::load_adapted(&folder, &devices, Dtype::F32, kernels, &adapter).unwrap();
            let mut batch = Batch::default();
            batch.push(prompt, Vec::new(), 0, 0);
            let hidden = merged
                .forward(&batch, &mut KvCache::new(&merged, prompt.len()), None)
                .unwrap();
            let last = hidden.narrow(0, prompt.len() - 1, 1).unwrap();
            let logits = merged.logits(&last.contiguous().unwrap()).unwrap();
            let logits: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
            assert_close(&logits, &expected, 1e-4, &format!("{name}, {kernels:?}"));
        }
        // The reference of the merged model is what the adapter makes of the plain one.
        let devices = [Device::Cpu];
        let merged = Decoder::load_adapted(
            &folder(&name),
            &devices,
            Dtype::F32,
            Kernels::Candle,
            &adapter,
        )
        .unwrap();
        let (beside, merged) = (
            AdaptedOdds::new(&plain).unwrap(),
            AdaptedOdds::new(&merged).unwrap(),
        );
        let pairs = prepared(&beside, &case);
        let pairs: Vec<&ReferencedPair> = pairs.iter().collect();
        let ratios = beside.log_ratios(&pairs, &adapter).unwrap();
        for ((pair, ratios), other) in pairs.iter().zip(ratios).zip(prepared(&merged, &case)) {
            let classes = pair.reference().into_iter().zip(ratios);
            for ((reference, ratio), merged) in classes.zip(other.reference()) {
                let found = reference + ratio;
                let error = (found - merged).abs();
                assert!(error < 1e-3, "{name}: {found}, not {merged}");
            }
        }
    }
}

/// An adapter that changes nothing leaves every bit, in both dtypes.
#[test]
fn an_initial_adapter_changes_no_bit() {
    let folder = folder("llama-gqa-untied");
    let devices = [Device::Cpu];
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let plain = Decoder::load(&folder, &devices, dtype, Kernels::Fastest).unwrap();
        let targets = ["q_proj".to_owned(), "down_proj".to_owned()];
        let adapter = initial_adapter(plain.config(), &targets, 4, 8.0, 1).unwrap();
        let merged =
            Decoder::load_adapted(&folder, &devices, dtype, Kernels::Fastest, &adapter).unwrap();
        let bits = |decoder: &Decoder| -> Vec<u32> {
            let mut batch = Batch::default();
            batch.push(&[4, 40, 77], Vec::new(), 0, 0);
            let hidden = decoder
                .forward(&batch, &mut KvCache::new(decoder, 3), None)
                .unwrap();
            let logits = decoder.logits(&hidden).unwrap();
            let logits: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
            logits.into_iter().map(f32::to_bits).collect()
        };
        assert_eq!(bits(&plain), bits(&merged), "{dtype}");
    }
}

/// Eight prompts, after each of which token 5 is to be preferred to token 9.
fn planted(odds: &AdaptedOdds<'_>) -> Vec<ReferencedPair> {
    (0..8)
        .map(|n| {
            let prompt: Vec<u32> = (0..5 + n % 3).map(|i| 20 + 3 * n + 7 * i).collect();
            odds.prepare(&preference(&prompt, &[5, 30], &[9, 30]))
                .unwrap()
        })
        .collect()
}

fn quick(seed: u64) -> DpoOptions {
    DpoOptions {
        beta: 0.1,
        learning_rate: 0.02,
        warmup_steps: 2,
        batch_pairs: 4,
        max_epochs: 10,
        patience: 10,
        max_gradient_norm: 1.0,
        seed,
    }
}

fn start(decoder: &Decoder, seed: u64) -> Adapter {
    let targets = ["q_proj".to_owned(), "v_proj".to_owned()];
    initial_adapter(decoder.config(), &targets, 4, 8.0, seed).unwrap()
}

/// A preference is learnt; the same seed gives the same bits on any number of threads, another one does not.
#[test]
fn training_learns_and_repeats() {
    let decoder = decoder("llama-gqa-untied");
    let odds = AdaptedOdds::new(&decoder).unwrap();
    let pairs = planted(&odds);
    let pairs: Vec<&ReferencedPair> = pairs.iter().collect();
    let run = |threads: usize, seed: u64| -> FineTuned {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let start = start(&decoder, seed);
        let train = || train(&odds, &pairs, &pairs, start, &quick(seed), &mut go_on);
        pool.build().unwrap().install(train).unwrap()
    };
    let tuned = run(1, 5);
    let best = tuned.epochs[tuned.best_epoch];
    assert!(best.held_out_loss < 0.8 * LN_2, "{best:?}");
    assert_eq!(best.held_out_accuracy, 1.0);
    assert_eq!(run(3, 5), tuned);
    assert_ne!(run(1, 6).adapter, tuned.adapter);
}

#[test]
fn what_teaches_nothing_is_refused() {
    let decoder = decoder("llama-gqa-untied");
    let odds = AdaptedOdds::new(&decoder).unwrap();
    // Held out, the preference is the other way round.
    let (fit, held_out) = (
        odds.prepare(&preference(&[20, 21, 22], &[5, 30], &[9, 30]))
            .unwrap(),
        odds.prepare(&preference(&[20, 21, 22], &[9, 30], &[5, 30]))
            .unwrap(),
    );
    let refused = |held_out: &[&ReferencedPair], options: &DpoOptions, stop: bool| {
        let mut progress = || match stop {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let start = start(&decoder, 1);
        train(&odds, &[&fit], held_out, start, options, &mut progress).unwrap_err()
    };
    let few = DpoOptions {
        max_epochs: 3,
        ..quick(1)
    };
    let error = refused(&[&held_out], &few, false);
    assert!(
        matches!(error, FitError::NoFineTuning { epochs: 3, .. }),
        "{error}"
    );
    let error = refused(&[], &few, false);
    assert!(matches!(error, FitError::EmptyClass { .. }), "{error}");
    let error = refused(&[&fit], &few, true);
    assert!(matches!(error, FitError::Interrupted), "{error}");
    let wild = DpoOptions {
        learning_rate: 1e38,
        warmup_steps: 0,
        ..few
    };
    let error = refused(&[&fit], &wild, false);
    assert!(matches!(error, FitError::Diverged { .. }), "{error}");
}

#[test]
fn adapters_that_do_not_fit_are_refused() {
    let name = "llama-gqa-untied";
    let plain = decoder(name);
    let refused = |adapter: &Adapter| {
        let loaded = Decoder::load_adapted(
            &folder(name),
            &[Device::Cpu],
            Dtype::F32,
            Kernels::Fastest,
            adapter,
        );
        loaded.err().unwrap().to_string()
    };
    let whole = start(&plain, 1);
    let renamed = |layer: usize, part: &str| {
        let module = Module {
            layer,
            part: part.to_owned(),
        };
        let change = whole.modules.values().next().unwrap().clone();
        Adapter {
            modules: BTreeMap::from([(module, change)]),
            ..whole.clone()
        }
    };
    assert!(
        refused(&renamed(9, "self_attn.q_proj"))
            .contains("layers.9.self_attn.q_proj: the model has 3")
    );
    let message = refused(&renamed(0, "self_attn.qkv_proj"));
    assert!(
        message.contains("layer 0 has self_attn.q_proj, self_attn.k_proj"),
        "{message}"
    );
    assert!(refused(&renamed(0, "mlp.down_proj")).contains("A has"));
    let mut broken = whole.clone();
    broken.modules.values_mut().next().unwrap().b[3] = f32::NAN;
    assert!(refused(&broken).contains("B has a NaN"));
    let gguf = folder("gguf/llama-q4_k_m.gguf");
    let config = sims_model::Config::open(&gguf).unwrap();
    let adapter = initial_adapter(&config, &["q_proj".to_owned()], 2, 4.0, 1).unwrap();
    let devices = [Device::Cpu];
    let loaded = Decoder::load_adapted(&gguf, &devices, Dtype::F32, Kernels::Fastest, &adapter);
    let message = loaded.err().unwrap().to_string();
    assert!(
        message.contains("give the model in safetensors"),
        "{message}"
    );
    let targets = ["gate".to_owned()];
    let error = initial_adapter(plain.config(), &targets, 4, 8.0, 1).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("block 0 has q_proj, k_proj, v_proj"),
        "{error}"
    );
    let fast = Decoder::load(&folder(name), &[Device::Cpu], Dtype::F32, Kernels::Fastest).unwrap();
    let error = AdaptedOdds::new(&fast).err().unwrap().to_string();
    assert!(error.contains("candle's kernels"), "{error}");
}
