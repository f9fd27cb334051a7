//! The CUDA kernels, run on the CPU by an emulation of blocks and threads, against plain arithmetic.

use std::ops::ControlFlow;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use sims_model::config::Activation;
use sims_model::decoder::Kernels;
use sims_model::generate::{BatchLimits, Request, generate};
use sims_model::gpu::{Attention, BlockKernels, Launcher, MaskedScores, RowPlan, SamplingKernel};
use sims_model::rng::SampleKey;
use sims_model::sampler::{Sampler, SamplingParams, SeenTokens};
use sims_model::softmax::LogitsError;
use sims_model::{Batch, Decoder, Device, Dtype, KvCache, Segment};
use sims_testkit::emulator::{CompileOnly, Emulator};

use crate::fixtures::{CaptureAll, Fixture, NAMES, assert_close, logits, run};

/// As for the other forms of the decoder.
const F32_TOLERANCE: f32 = 1e-4;

const TYPES: [DType; 2] = [DType::F32, DType::BF16];

/// Both orders of the threads; none on a machine without a compiler.
fn emulators() -> Vec<Arc<dyn Launcher>> {
    [false, true]
        .into_iter()
        .filter_map(|descending| Some(Arc::new(Emulator::new(descending)?) as Arc<dyn Launcher>))
        .collect()
}

/// Numbers between -1 and 1 as `dtype` holds them, and the tensor of them.
fn random(name: &str, shape: &[usize], scale: f32, dtype: DType) -> (Vec<f32>, Tensor) {
    let key = SampleKey::new(1, 0, name, 0);
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count)
        .map(|i| scale * (2.0 * key.uniform(i as u64) as f32 - 1.0))
        .collect();
    let tensor = Tensor::from_vec(values, shape, &Device::Cpu)
        .and_then(|tensor| tensor.to_dtype(dtype))
        .unwrap();
    (flat(&tensor), tensor)
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.to_dtype(DType::F32).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// What a result of `dtype` may differ by from exact arithmetic.
fn tolerance(dtype: DType) -> (f64, f64) {
    if dtype == DType::F32 {
        (2e-6, 2e-6)
    } else {
        (1e-3, 1.0 / 128.0)
    }
}

#[track_caller]
fn assert_near(found: &[f32], expected: &[f64], dtype: DType, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let (absolute, relative) = tolerance(dtype);
    for (i, (&found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(found) - expected).abs();
        assert!(
            error <= absolute + relative * expected.abs(),
            "{what}, element {i}: {found}, not {expected}"
        );
    }
}

struct Shape {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    window: Option<usize>,
    soft_cap: Option<f64>,
}

/// Single-row segments whose contexts are several runs of slots, in no order, of very different lengths.
fn segments(contexts: &[&[std::ops::Range<usize>]], slots: usize) -> Vec<Segment> {
    let segment = |(row, context): (usize, &&[std::ops::Range<usize>])| Segment {
        rows: row..row + 1,
        position: context.iter().map(ExactSizeIterator::len).sum(),
        context: context.to_vec(),
        slots: slots - 1 - row..slots - row,
        edit_from: 0,
        is_repeated: false,
    };
    contexts.iter().enumerate().map(segment).collect()
}

/// Attention in f64, `[segments, heads * head_dim]`.
fn attend(
    shape: &Shape,
    segments: &[Segment],
    q: &[f32],
    keys: &[f32],
    values: &[f32],
) -> Vec<f64> {
    let (heads, head_dim) = (shape.heads, shape.head_dim);
    let kv_size = shape.kv_heads * head_dim;
    let mut out = Vec::new();
    for segment in segments {
        let ranges = segment.context.iter().chain([&segment.slots]);
        let mut slots: Vec<usize> = ranges.flat_map(Clone::clone).collect();
        if let Some(window) = shape.window {
            slots.drain(..slots.len().saturating_sub(window));
        }
        for head in 0..heads {
            let start = segment.rows.start * heads * head_dim + head * head_dim;
            let query = &q[start..start + head_dim];
            let kv_head = head / (heads / shape.kv_heads);
            let row = |cache: &[f32], slot: usize| -> Vec<f64> {
                let start = slot * kv_size + kv_head * head_dim;
                cache[start..start + head_dim]
                    .iter()
                    .map(|&x| f64::from(x))
                    .collect()
            };
            let scores: Vec<f64> = slots
                .iter()
                .map(|&slot| {
                    let key = row(keys, slot);
                    let product: f64 = query.iter().zip(&key).map(|(&a, b)| f64::from(a) * b).sum();
                    let score = product / (head_dim as f64).sqrt();
                    shape
                        .soft_cap
                        .map_or(score, |cap| cap * (score / cap).tanh())
                })
                .collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            let mut sum = vec![0.0; head_dim];
            for (weight, &slot) in weights.iter().zip(&slots) {
                for (sum, value) in sum.iter_mut().zip(row(values, slot)) {
                    *sum += weight / total * value;
                }
            }
            out.extend(sum);
        }
    }
    out
}

#[test]
#[expect(clippy::single_range_in_vec_init, reason = "a context of one range")]
fn rows_attend_their_slots() {
    let shape = |heads, kv_heads, head_dim, window, soft_cap| Shape {
        heads,
        kv_heads,
        head_dim,
        window,
        soft_cap,
    };
    let shapes = [
        shape(8, 2, 128, None, None),
        shape(14, 2, 64, Some(150), None),
        shape(2, 1, 256, None, Some(3.0)),
        shape(6, 2, 80, Some(3), Some(3.0)),
        shape(3, 3, 8, None, None),
        shape(4, 2, 12, Some(1), None),
    ];
    let slots = 700;
    let segments = segments(
        &[
            &[],
            &[5..6],
            &[400..500, 0..27],
            &[400..500, 0..28],
            &[
                10..20,
                300..301,
                21..22,
                100..240,
                500..600,
                240..300,
                600..650,
            ],
        ],
        slots,
    );
    for launcher in emulators() {
        for (number, shape) in shapes.iter().enumerate() {
            let (heads, kv_heads, head_dim) = (shape.heads, shape.kv_heads, shape.head_dim);
            for dtype in TYPES {
                let what = format!("shape {number}, {dtype:?}");
                let (q, q_tensor) = random("q", &[segments.len(), heads * head_dim], 4.0, dtype);
                let cache = [slots, kv_heads * head_dim];
                let (keys, keys_tensor) = random("keys", &cache, 2.0, dtype);
                let (values, values_tensor) = random("values", &cache, 1.0, dtype);
                let expected = attend(shape, &segments, &q, &keys, &values);
                let scale = 1.0 / (head_dim as f64).sqrt();
                let attention =
                    Attention::new(launcher.clone(), (heads, kv_heads, head_dim), scale, dtype);
                let run = |segments: &[Segment]| {
                    let plan = RowPlan::new(segments, &Device::Cpu).unwrap();
                    let cache = (&keys_tensor, &values_tensor);
                    let out =
                        attention.attend(&plan, &q_tensor, cache, shape.window, shape.soft_cap);
                    flat(&out.unwrap())
                };
                let together = run(&segments);
                assert_near(&together, &expected, dtype, &what);
                // A row's bits do not depend on the rows beside it.
                for (i, segment) in segments.iter().enumerate() {
                    let width = heads * head_dim;
                    let alone = run(std::slice::from_ref(segment));
                    assert_eq!(
                        alone,
                        together[i * width..(i + 1) * width],
                        "{what}, row {i}"
                    );
                }
            }
        }
    }
}

#[test]
fn norms_are_those_of_their_rows() {
    for launcher in emulators() {
        for dtype in TYPES {
            for width in [24, 300, 1024] {
                let kernels = BlockKernels::new(launcher.clone(), dtype);
                let (x, x_tensor) = random("x", &[3, width], 2.0, dtype);
                let (delta, delta_tensor) = random("delta", &[3, width], 0.5, dtype);
                let (weight, weight_tensor) = random("weight", &[width], 1.0, DType::F32);
                let norm = |rows: &[f32]| -> Vec<f64> {
                    let normed = rows.chunks(width).flat_map(|row| {
                        let squares: f64 = row.iter().map(|&x| f64::from(x).powi(2)).sum();
                        let scale = 1.0 / (squares / width as f64 + 1e-5).sqrt();
                        let pairs = row.iter().zip(&weight);
                        pairs
                            .map(|(&x, &w)| f64::from(x) * scale * f64::from(w))
                            .collect::<Vec<_>>()
                    });
                    normed.collect()
                };
                let alone = kernels.rms_norm(&x_tensor, &weight_tensor, 1e-5).unwrap();
                assert_near(&flat(&alone), &norm(&x), dtype, "norm");
                let (sum, normed) = kernels
                    .add_rms_norm(&x_tensor, &delta_tensor, &weight_tensor, 1e-5)
                    .unwrap();
                let sum = flat(&sum);
                let exact: Vec<f64> = x
                    .iter()
                    .zip(&delta)
                    .map(|(&a, &b)| f64::from(a) + f64::from(b))
                    .collect();
                assert_near(&sum, &exact, dtype, "sum");
                assert_near(&flat(&normed), &norm(&sum), dtype, "norm of the sum");
            }
        }
    }
}

#[test]
fn queries_and_keys_turn_and_go_to_their_slots() {
    let (heads, kv_heads, head_dim, rows, slots) = (3, 1, 12, 4, 9);
    for launcher in emulators() {
        for dtype in TYPES {
            // All of a head turns, or the first four of its dimensions.
            for pairs in [6, 2] {
                let kernels = BlockKernels::new(launcher.clone(), dtype);
                let width = (heads + 2 * kv_heads) * head_dim;
                let (qkv, qkv_tensor) = random("qkv", &[rows, width], 1.0, dtype);
                let (turns, turns_tensor) = random("turns", &[rows, 2, pairs], 1.0, DType::F32);
                let slot_of = [7, 0, 8, 3];
                let slots_tensor = Tensor::new(&slot_of.map(|s| s as u32), &Device::Cpu).unwrap();
                let (old_keys, keys) = random("keys", &[slots, kv_heads * head_dim], 1.0, dtype);
                let (old_values, values) =
                    random("values", &[slots, kv_heads * head_dim], 1.0, dtype);
                let cache = (&keys, &values);
                let q = kernels
                    .rotate_and_store(
                        &qkv_tensor,
                        Some(&turns_tensor),
                        &slots_tensor,
                        cache,
                        (heads, kv_heads, head_dim),
                    )
                    .unwrap();
                let turned = |row: usize, head: usize| -> Vec<f64> {
                    let start = row * width + head * head_dim;
                    let x: Vec<f64> = qkv[start..start + head_dim]
                        .iter()
                        .map(|&x| f64::from(x))
                        .collect();
                    let turn = |i: usize| f64::from(turns[row * 2 * pairs + i]);
                    (0..head_dim)
                        .map(|i| match i {
                            i if i < pairs => x[i] * turn(i) - x[i + pairs] * turn(pairs + i),
                            i if i < 2 * pairs => x[i] * turn(i - pairs) + x[i - pairs] * turn(i),
                            _ => x[i],
                        })
                        .collect()
                };
                let queries: Vec<f64> = (0..rows)
                    .flat_map(|row| {
                        (0..heads)
                            .flat_map(move |head| turned(row, head))
                            .collect::<Vec<_>>()
                    })
                    .collect();
                assert_near(&flat(&q), &queries, dtype, "queries");
                let mut new_keys: Vec<f64> = old_keys.iter().map(|&x| f64::from(x)).collect();
                let mut new_values = old_values.clone();
                for (row, &slot) in slot_of.iter().enumerate() {
                    let span = slot * head_dim..(slot + 1) * head_dim;
                    new_keys[span.clone()].copy_from_slice(&turned(row, heads));
                    let start = row * width + (heads + kv_heads) * head_dim;
                    new_values[span].copy_from_slice(&qkv[start..start + head_dim]);
                }
                assert_near(&flat(&keys), &new_keys, dtype, "keys");
                assert_eq!(flat(&values), new_values);
            }
        }
    }
}

type Function = fn(f64) -> f64;

#[test]
fn gates_open_by_their_activation() {
    for launcher in emulators() {
        for dtype in TYPES {
            let kernels = BlockKernels::new(launcher.clone(), dtype);
            let (rows, width) = (5, 77);
            let (gate_up, tensor) = random("gate_up", &[rows, 2 * width], 6.0, dtype);
            let cases: [(Activation, Function); 2] = [
                (Activation::Silu, |x| x / (1.0 + (-x).exp())),
                (Activation::GeluTanh, |x| {
                    let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
                    0.5 * x * (1.0 + inner.tanh())
                }),
            ];
            for (activation, function) in cases {
                let expected: Vec<f64> = gate_up
                    .chunks(2 * width)
                    .flat_map(|row| {
                        let pairs = row[..width].iter().zip(&row[width..]);
                        pairs
                            .map(|(&gate, &up)| function(f64::from(gate)) * f64::from(up))
                            .collect::<Vec<_>>()
                    })
                    .collect();
                let out = kernels.gated_activation(&tensor, activation).unwrap();
                assert_near(&flat(&out), &expected, dtype, &format!("{activation:?}"));
            }
        }
    }
}

#[test]
fn scores_become_weights_under_the_mask() {
    // A segment of two rows after 290 positions beside one of four rows after 3.
    let (lengths, heads, queries, positions) = ([(290_usize, 2_usize), (3, 4)], 2, 4, 292);
    let numbers: Vec<u32> = lengths
        .iter()
        .flat_map(|&(p, r)| [p as u32, r as u32])
        .collect();
    let segments = Tensor::from_vec(numbers, (2, 2), &Device::Cpu).unwrap();
    for launcher in emulators() {
        for dtype in TYPES {
            for (window, soft_cap) in [(None, None), (Some(5), Some(2.0)), (Some(1), None)] {
                let kernels = BlockKernels::new(launcher.clone(), dtype);
                let (scores, tensor) =
                    random("scores", &[2, heads, queries, positions], 20.0, dtype);
                let how = MaskedScores {
                    segments: &segments,
                    scale: 0.3,
                    window,
                    soft_cap,
                };
                kernels.masked_softmax(&tensor, &how).unwrap();
                let mut expected = Vec::new();
                for (index, line) in scores.chunks(positions).enumerate() {
                    let (position, rows) = lengths[index / (heads * queries)];
                    let end = position + (index % queries).min(rows - 1) + 1;
                    let start = window.map_or(0, |window| end.saturating_sub(window));
                    let score = |i: usize| {
                        let x = f64::from(line[i]) * 0.3;
                        soft_cap.map_or(x, |cap: f64| cap * (x / cap).tanh())
                    };
                    let total: f64 = (start..end).map(|i| score(i).exp()).sum();
                    expected.extend((0..positions).map(|i| {
                        if (start..end).contains(&i) {
                            score(i).exp() / total
                        } else {
                            0.0
                        }
                    }));
                }
                assert_near(&flat(&tensor), &expected, dtype, "weights");
            }
        }
    }
}

/// The whole forward pass with the kernels, against transformers: logits, every block, prefill and decode.
#[test]
fn decoders_match_transformers() {
    for (order, launcher) in emulators().into_iter().enumerate() {
        // The second order of the threads is for what the tests of single kernels do not see.
        for name in NAMES.into_iter().step_by(1 + 4 * order) {
            let fixture = Fixture::open(name);
            let decoder = Decoder::load_emulated(&fixture.directory, &launcher).unwrap();
            for (i, prompt) in fixture.prompts().into_iter().enumerate() {
                let what = format!("{name}, prompt {i}");
                let mut capture = CaptureAll::default();
                let expected = fixture.rows(&format!("logits.{i}")).unwrap();
                let found = logits(&decoder, std::slice::from_ref(&prompt), Some(&mut capture));
                assert_close(&found, &expected, F32_TOLERANCE, &what);
                let blocks = fixture.rows(&format!("blocks.{i}")).unwrap();
                assert_close(&capture.blocks.concat(), &blocks, F32_TOLERANCE, &what);
                if i == 0 {
                    let stepwise = one_by_one(&decoder, &prompt);
                    assert_close(&stepwise, &expected, F32_TOLERANCE, &what);
                }
            }
        }
    }
}

/// Sampling with the kernels gives the host's responses.
#[test]
fn responses_are_those_of_the_host() {
    let fixture = Fixture::open("llama-gqa-untied");
    let plain = fixture.decoder(Dtype::F32, Kernels::Candle);
    let requests: Vec<Request> = fixture
        .prompts()
        .into_iter()
        .enumerate()
        .map(|(i, prompt)| Request {
            prompt,
            samples: (0..3)
                .map(|sample| SampleKey::new(2, 1, &i.to_string(), sample))
                .collect(),
        })
        .collect();
    let base = SamplingParams {
        max_new_tokens: 12,
        stop_tokens: vec![3, 5, 8],
        ..SamplingParams::default()
    };
    let ways = [
        SamplingParams {
            temperature: 0.0,
            ..base.clone()
        },
        SamplingParams {
            top_p: 0.8,
            top_k: 20,
            ..base.clone()
        },
        // The host's business.
        SamplingParams {
            repetition_penalty: 1.3,
            ..base
        },
    ];
    for launcher in emulators() {
        let emulated = Decoder::load_emulated(&fixture.directory, &launcher).unwrap();
        for params in &ways {
            let responses = |decoder: &Decoder| {
                let limits = BatchLimits {
                    max_sequences: 7,
                    ..BatchLimits::default()
                };
                let on = &mut |_| ControlFlow::Continue(());
                let all = generate(decoder, &requests, params, &limits, None, on).unwrap();
                all.concat()
            };
            for (found, expected) in responses(&emulated).iter().zip(responses(&plain)) {
                assert_eq!(found.token_ids, expected.token_ids);
                assert_eq!(found.finish_reason, expected.finish_reason);
                assert!((found.logprob_sum - expected.logprob_sum).abs() < 1e-3);
            }
        }
    }
}

/// Logits of a sequence's rows from batches of one row of it each, beside rows of another segment.
fn one_by_one(decoder: &Decoder, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut cache = KvCache::new(decoder, 3 * tokens.len());
    let mut rows = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        let mut batch = Batch::default();
        let context = if i == 0 {
            vec![]
        } else {
            vec![0..i / 2, i / 2..i]
        };
        if i > 0 {
            batch.push(&tokens[..i], vec![], tokens.len(), usize::MAX);
        }
        batch.push(&[*token], context, i, usize::MAX);
        rows.push(run(decoder, &batch, &mut cache, None).pop().unwrap());
    }
    rows
}

/// Rows of logits of several kinds: spread, concentrated, tied, and with tokens that cannot be chosen.
fn logit_rows(vocab: usize) -> Vec<Vec<f32>> {
    let (spread, _) = random("spread", &[vocab], 8.0, DType::F32);
    let (close, _) = random("close", &[vocab], 1e-3, DType::F32);
    let peak = (0..vocab).map(|i| if i == vocab / 3 { 30.0 } else { close[i] });
    let tied = (0..vocab).map(|i| (i % 4) as f32 - 2.0);
    let signs = (0..vocab).map(|i| if i % 2 == 0 { 0.0 } else { -0.0 });
    let masked = (0..vocab).map(|i| {
        if i % 3 == 1 {
            f32::NEG_INFINITY
        } else {
            spread[i]
        }
    });
    let rows = vec![
        peak.collect(),
        tied.collect(),
        signs.collect(),
        masked.collect(),
        vec![1.5; vocab],
    ];
    [vec![spread, close], rows].concat()
}

#[test]
fn tokens_are_those_of_the_hosts_sampler() {
    let base = SamplingParams::default();
    let params = [
        SamplingParams::greedy(1, Vec::new()),
        base.clone(),
        SamplingParams {
            temperature: 0.7,
            ..base.clone()
        },
        SamplingParams {
            top_k: 1,
            ..base.clone()
        },
        SamplingParams {
            top_k: 50,
            temperature: 1.3,
            ..base.clone()
        },
        SamplingParams {
            top_p: 0.9,
            ..base.clone()
        },
        SamplingParams {
            top_p: 1e-6,
            ..base.clone()
        },
        SamplingParams {
            top_p: 0.5,
            top_k: 7,
            min_p: 0.02,
            temperature: 0.8,
            ..base.clone()
        },
        SamplingParams {
            min_p: 0.3,
            ..base.clone()
        },
        SamplingParams {
            top_p: 0.999_999,
            ..base
        },
    ];
    let seen = SeenTokens::default();
    for launcher in emulators() {
        let kernel = SamplingKernel::new(launcher);
        for vocab in [1, 31, 1000, 5003] {
            let rows = logit_rows(vocab);
            let logits = Tensor::new(rows.concat(), &Device::Cpu).unwrap();
            let logits = logits.reshape((rows.len(), vocab)).unwrap();
            for (number, params) in params.iter().enumerate() {
                assert!(kernel.takes(params, vocab));
                let mut sampler = Sampler::new(params).unwrap();
                for draw in 0..2 {
                    let uniforms: Vec<f64> = (0..rows.len())
                        .map(|row| SampleKey::new(5, row as u32, "draw", draw).uniform(0))
                        .collect();
                    let choices = kernel.choose(&logits, params, &uniforms).unwrap();
                    for (row, choice) in choices.into_iter().enumerate() {
                        let what =
                            format!("vocab {vocab}, parameters {number}, row {row}, draw {draw}");
                        let found = choice.unwrap();
                        let expected = sampler.choose(&rows[row], &seen, uniforms[row]).unwrap();
                        assert_eq!(found.token, expected.token, "{what}");
                        let error = (found.log_probability - expected.log_probability).abs();
                        assert!(error < 1e-9, "{what}: {error}");
                    }
                }
            }
        }
    }
}

#[test]
fn extreme_draws_stay_in_the_row() {
    for launcher in emulators() {
        let kernel = SamplingKernel::new(launcher);
        let logits = Tensor::zeros((2, 700), DType::F32, &Device::Cpu).unwrap();
        let params = SamplingParams::default();
        let choices = kernel
            .choose(&logits, &params, &[0.0, 1.0 - f64::EPSILON / 2.0])
            .unwrap();
        let tokens: Vec<u32> = choices
            .into_iter()
            .map(|choice| choice.unwrap().token)
            .collect();
        assert_eq!(tokens, [0, 699]);
    }
}

#[test]
fn rows_that_are_no_distribution_are_refused() {
    for launcher in emulators() {
        let kernel = SamplingKernel::new(launcher);
        let mut rows = [[0.0f32; 40], [0.0; 40], [f32::NEG_INFINITY; 40], [0.0; 40]];
        rows[0][33] = f32::NAN;
        rows[0][35] = f32::INFINITY;
        rows[1][39] = f32::INFINITY;
        let logits = Tensor::new(&rows, &Device::Cpu).unwrap();
        for params in [
            SamplingParams::default(),
            SamplingParams::greedy(1, Vec::new()),
        ] {
            let choices = kernel.choose(&logits, &params, &[0.5; 4]).unwrap();
            let errors: Vec<_> = choices.into_iter().map(Result::err).collect();
            assert_eq!(
                errors,
                [
                    Some(LogitsError::NotFinite { token: 33 }),
                    Some(LogitsError::NotFinite { token: 39 }),
                    Some(LogitsError::NothingLeft),
                    None,
                ]
            );
        }
    }
}

/// NVRTC takes the kernels of common models; it needs no GPU. `NVRTC_FOLDER` is where `libnvrtc.so.13` lies.
#[test]
#[ignore = "needs libnvrtc.so.13, a download of 90 MB that CI does without; NVRTC_FOLDER says where it lies"]
fn nvrtc_compiles_the_kernels() {
    let folder = std::env::var_os("NVRTC_FOLDER").expect("NVRTC_FOLDER names a folder");
    for architecture in ["sm_80", "sm_89", "sm_90"] {
        let launcher: Arc<dyn Launcher> = Arc::new(CompileOnly::new(folder.as_ref(), architecture));
        for dtype in TYPES {
            for (heads, kv_heads, head_dim) in [
                (32, 8, 128),
                (28, 4, 128),
                (14, 2, 64),
                (8, 4, 256),
                (32, 32, 96),
                (9, 3, 12),
                (2, 2, 512),
            ] {
                let tensor = |width| Tensor::zeros((2, width), dtype, &Device::Cpu).unwrap();
                let (q, kv) = (tensor(heads * head_dim), tensor(kv_heads * head_dim));
                let sizes = (heads, kv_heads, head_dim);
                let attention = Attention::new(launcher.clone(), sizes, 1.0, dtype);
                let plan = RowPlan::new(&segments(&[&[]], 2), &Device::Cpu).unwrap();
                attention
                    .attend(&plan, &q, (&kv, &kv.copy().unwrap()), None, None)
                    .unwrap();
            }
            let kernels = BlockKernels::new(launcher.clone(), dtype);
            let x = Tensor::zeros((2, 8), dtype, &Device::Cpu).unwrap();
            let weight = Tensor::zeros(8, DType::F32, &Device::Cpu).unwrap();
            let numbers = Tensor::zeros((2, 2), DType::U32, &Device::Cpu).unwrap();
            let how = MaskedScores {
                segments: &numbers,
                scale: 1.0,
                window: None,
                soft_cap: None,
            };
            kernels.add_rms_norm(&x, &x, &weight, 1e-5).unwrap();
            kernels.gated_activation(&x, Activation::Silu).unwrap();
            kernels
                .masked_softmax(&x.reshape((2, 1, 1, 8)).unwrap(), &how)
                .unwrap();
            let cache = (&x.copy().unwrap(), &x.copy().unwrap());
            kernels
                .rotate_and_store(&x, None, &numbers, cache, (2, 1, 2))
                .unwrap();
        }
        let kernel = SamplingKernel::new(launcher);
        let logits = Tensor::zeros((1, 8), DType::F32, &Device::Cpu).unwrap();
        // The line that nothing was written to reads as a token.
        kernel
            .choose(&logits, &SamplingParams::default(), &[0.5])
            .unwrap();
    }
}
