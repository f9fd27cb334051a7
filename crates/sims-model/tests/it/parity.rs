//! Against transformers: logits, every block's output, greedy tokens, on every kind of checkpoint.

use sims_model::decoder::Kernels;
use sims_model::{Batch, Config, Decoder, Device, Dtype, KvCache};

use crate::fixtures::{
    CaptureAll, Fixture, NAMES, PROMPTS, Rows, assert_close, batch_of, logits, run,
};
use crate::random_model::Push;

/// What f32 sums in another order may move a logit by; logits and states are of size 5 to 20.
const F32_TOLERANCE: f32 = 1e-4;

/// The fast form and the plain one.
const BOTH: [Kernels; 2] = [Kernels::Fastest, Kernels::Candle];

#[test]
fn logits_and_every_block_match_transformers() {
    for name in NAMES {
        let fixture = Fixture::open(name);
        for kernels in BOTH {
            let decoder = fixture.decoder(Dtype::F32, kernels);
            for (i, prompt) in fixture.prompts().into_iter().enumerate() {
                let what = format!("{name}, prompt {i}, {kernels:?}");
                let mut capture = CaptureAll::default();
                let found = logits(&decoder, &[prompt], Some(&mut capture));
                assert_close(
                    &found,
                    &fixture.rows(&format!("logits.{i}")).unwrap(),
                    F32_TOLERANCE,
                    &what,
                );
                let blocks = capture.blocks.concat();
                assert_close(
                    &blocks,
                    &fixture.rows(&format!("blocks.{i}")).unwrap(),
                    F32_TOLERANCE,
                    &what,
                );
            }
        }
    }
}

#[test]
fn a_ragged_batch_matches_transformers_with_padding() {
    for name in NAMES {
        let fixture = Fixture::open(name);
        let padded = fixture.rows("last_logits_padded").unwrap();
        let prompts = fixture.prompts();
        for kernels in BOTH {
            let found = logits(&fixture.decoder(Dtype::F32, kernels), &prompts, None);
            let last: Vec<_> = batch_of(&prompts)
                .segments
                .iter()
                .map(|segment| found[segment.rows.end - 1].clone())
                .collect();
            assert_close(
                &last,
                &padded,
                F32_TOLERANCE,
                &format!("{name}, {kernels:?}"),
            );
        }
    }
}

/// Padding after a batch's last row is left out as any other.
#[test]
fn a_batch_whose_last_sequence_is_the_shorter_one_has_no_padding() {
    for name in NAMES {
        let fixture = Fixture::open(name);
        let prompts = fixture.prompts();
        let pair = [prompts[2].clone(), prompts[2][..15].to_vec()];
        for kernels in BOTH {
            let decoder = fixture.decoder(Dtype::F32, kernels);
            let expected = fixture.rows("logits.2").unwrap();
            let expected = [&expected[..], &expected[..15]].concat();
            let found = logits(&decoder, &pair, None);
            let what = format!("{name}, {kernels:?}");
            assert_close(&found, &expected, F32_TOLERANCE, &what);
        }
    }
}

#[test]
fn steered_logits_match_transformers_with_a_forward_hook() {
    for name in NAMES {
        let fixture = Fixture::open(name);
        for kernels in BOTH {
            let decoder = fixture.decoder(Dtype::F32, kernels);
            for (i, prompt) in fixture.prompts().into_iter().enumerate() {
                let mut push = Push { layer: 1, by: 0.5 };
                let found = logits(&decoder, &[prompt], Some(&mut push));
                let expected = fixture.rows(&format!("steered.{i}")).unwrap();
                let what = format!("{name}, prompt {i}, {kernels:?}");
                assert_close(&found, &expected, F32_TOLERANCE, &what);
            }
        }
    }
}

#[test]
fn layers_on_several_devices_give_what_one_device_gives() {
    for name in NAMES {
        let fixture = Fixture::open(name);
        let expected = logits(
            &fixture.decoder(Dtype::F32, Kernels::Candle),
            &fixture.prompts(),
            None,
        );
        for devices in [2, 3] {
            // The CPU stands in for each device: weights, cache and plan are split as they are over CUDA devices.
            let devices = vec![Device::Cpu; devices];
            let decoder =
                Decoder::load(&fixture.directory, &devices, Dtype::F32, Kernels::Fastest).unwrap();
            let found = logits(&decoder, &fixture.prompts(), None);
            assert_eq!(found, expected, "{name}, {} devices", devices.len());
        }
    }
}

#[test]
fn greedy_tokens_match_transformers_up_to_near_ties() {
    const NEAR_TIE: f32 = 1e-4;
    for name in NAMES {
        let fixture = Fixture::open(name);
        for kernels in BOTH {
            let found = greedy(&fixture, kernels);
            for (i, found) in found.into_iter().enumerate() {
                let expected = fixture.tokens(&format!("greedy.{i}"));
                let gaps = &fixture.rows(&format!("greedy_gaps.{i}")).unwrap()[0];
                let compared = gaps
                    .iter()
                    .position(|&gap| gap < NEAR_TIE)
                    .unwrap_or(expected.len());
                assert_eq!(
                    found[..compared],
                    expected[..compared],
                    "{name}, prompt {i}, {kernels:?}"
                );
            }
        }
    }
}

/// Continues all prompts together, one token a step; each sequence's slots lie one after another.
fn greedy(fixture: &Fixture, kernels: Kernels) -> Vec<Vec<u32>> {
    let decoder = fixture.decoder(Dtype::F32, kernels);
    let prompts = fixture.prompts();
    let steps = fixture.tokens("greedy.0").len();
    let room = prompts.iter().map(Vec::len).max().unwrap() + steps;
    let mut cache = KvCache::new(&decoder, PROMPTS * room);
    let mut batch = Batch::default();
    for (i, prompt) in prompts.iter().enumerate() {
        batch.push(prompt, vec![], i * room, usize::MAX);
    }
    let mut generated = vec![Vec::new(); PROMPTS];
    for _ in 0..steps {
        let rows = run(&decoder, &batch, &mut cache, None);
        let mut next = Batch::default();
        for (i, segment) in batch.segments.iter().enumerate() {
            let logits = &rows[segment.rows.end - 1];
            let best = (0..logits.len())
                .max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
                .unwrap() as u32;
            generated[i].push(best);
            let written = i * room..segment.slots.end;
            next.push(&[best], vec![written.clone()], written.end, usize::MAX);
        }
        batch = next;
    }
    generated
}

/// Candle's operations on the CPU multiply rounded weights in f32.
#[test]
fn plain_bf16_is_f32_arithmetic_on_rounded_weights() {
    for name in NAMES {
        let fixture = Fixture::open(name);
        assert_close(
            &logits(
                &fixture.decoder(Dtype::Bf16, Kernels::Candle),
                &fixture.prompts(),
                None,
            ),
            &rounded_weights_logits(&fixture),
            F32_TOLERANCE,
            name,
        );
    }
}

/// The CPU's kernels round the inputs of linear layers too.
///
/// The bound against transformers on the rounded weights is 2 %, and half as much again against f32, where the
/// rounding of the weights comes on top. Gemma 3, normalised after each half of a block, is given as much: transformers'
/// own bf16 is 4 % away there. Where a row's choice of experts is on the verge, rounding may change it, and the row with
/// it: of models with experts three rows of four are held to the bound.
#[test]
fn bf16_moves_logits_by_two_percent() {
    for name in NAMES {
        let fixture = Fixture::open(name);
        let prompts = fixture.prompts();
        let found = logits(
            &fixture.decoder(Dtype::Bf16, Kernels::Fastest),
            &prompts,
            None,
        );
        let exact = logits(
            &fixture.decoder(Dtype::F32, Kernels::Fastest),
            &prompts,
            None,
        );
        for (reference, expected) in [
            ("rounded weights", rounded_weights_logits(&fixture)),
            ("f32", exact),
        ] {
            let relative = if Config::open(&fixture.directory).unwrap().experts.is_some() {
                let rows = found.iter().zip(&expected);
                let mut rows: Vec<_> = rows.map(|(a, b)| relative_distance(a, b)).collect();
                rows.sort_by(f32::total_cmp);
                rows[rows.len() * 3 / 4]
            } else {
                relative_distance(&found.concat(), &expected.concat())
            };
            let bound = if name.starts_with("gemma3") || reference == "f32" {
                3e-2
            } else {
                2e-2
            };
            assert!(relative < bound, "{name}, {reference}: {relative}");
        }
    }
}

/// What transformers makes of the prompts in f32, with weights rounded to bf16.
fn rounded_weights_logits(fixture: &Fixture) -> Rows {
    (0..PROMPTS)
        .flat_map(|i| {
            // Checkpoints stored in bf16 have only the one reference.
            let rounded = fixture.rows(&format!("logits_bf16.{i}"));
            rounded
                .or_else(|| fixture.rows(&format!("logits.{i}")))
                .unwrap()
        })
        .collect()
}

/// The norm of the difference over that of `expected`.
fn relative_distance(found: &[f32], expected: &[f32]) -> f32 {
    let norm = |values: &mut dyn Iterator<Item = f32>| {
        values.map(|value| value * value).sum::<f32>().sqrt()
    };
    let difference = norm(&mut found.iter().zip(expected).map(|(a, b)| a - b));
    difference / norm(&mut expected.iter().copied())
}
