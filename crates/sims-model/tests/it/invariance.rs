//! What must not change a result: the batch around a row, the slots it is in, threads, instructions, empty hooks.
//!
//! On the CPU's own kernels the results are compared bit by bit.

#![expect(clippy::single_range_in_vec_init, reason = "a context of one range")]

use sims_model::decoder::Kernels;
use sims_model::ops::InstructionSet;
use sims_model::{Batch, Decoder, Dtype, Hook, KvCache, ModelError, Result, Segment, Tensor};

use crate::fixtures::{CaptureAll, Fixture, NAMES, Rows, assert_close, logits, run, wide_decoder};
use crate::random_model;

fn each_alone(decoder: &Decoder, prompts: &[Vec<u32>]) -> Rows {
    prompts
        .iter()
        .flat_map(|prompt| logits(decoder, std::slice::from_ref(prompt), None))
        .collect()
}

/// T32.
#[test]
fn a_ragged_batch_gives_the_bits_of_each_sequence_alone() {
    for name in NAMES {
        let fixture = Fixture::open(name);
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let decoder = fixture.decoder(dtype, Kernels::Fastest);
            let prompts = fixture.prompts();
            assert_eq!(
                logits(&decoder, &prompts, None),
                each_alone(&decoder, &prompts),
                "{name}, {dtype}"
            );
        }
    }
}

#[test]
fn the_plain_form_gives_each_sequence_its_own_logits_in_a_ragged_batch() {
    for name in NAMES {
        let fixture = Fixture::open(name);
        let decoder = fixture.decoder(Dtype::F32, Kernels::Candle);
        let prompts = fixture.prompts();
        let together = logits(&decoder, &prompts, None);
        assert_close(&together, &each_alone(&decoder, &prompts), 1e-4, name);
    }
}

#[test]
fn instruction_sets_and_threads_give_the_same_bits() {
    for name in NAMES {
        let fixture = Fixture::open(name);
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let prompts = fixture.prompts();
            let expected = logits(&fixture.decoder(dtype, Kernels::Fastest), &prompts, None);
            for set in InstructionSet::available() {
                let decoder = fixture.decoder(dtype, Kernels::Cpu(set));
                for threads in [1, 2, 5] {
                    let pool = rayon::ThreadPoolBuilder::new()
                        .num_threads(threads)
                        .build()
                        .unwrap();
                    let found = pool.install(|| logits(&decoder, &prompts, None));
                    assert_eq!(
                        found,
                        expected,
                        "{name}, {dtype}, {}, {threads} threads",
                        set.name()
                    );
                }
            }
        }
    }
}

/// Blocks too large for a thread's cache, so that few rows are divided by outputs and heads.
#[test]
fn dividing_the_outputs_among_threads_gives_the_same_bits() {
    let decoder = wide_decoder();
    let prompts = [
        random_model::tokens(1, 3),
        random_model::tokens(2, 9),
        random_model::tokens(3, 1),
    ];
    let with_threads = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| logits(&decoder, &prompts, None))
    };
    let expected = with_threads(1);
    for threads in [2, 5] {
        assert_eq!(with_threads(threads), expected, "{threads} threads");
    }
    assert_eq!(each_alone(&decoder, &prompts), expected);
}

/// Pieces of 1, 3 and the rest, in slots out of order and across panels of sixteen.
#[test]
fn prefill_in_pieces_gives_the_bits_of_prefill_at_once() {
    for name in NAMES {
        let fixture = Fixture::open(name);
        let decoder = fixture.decoder(Dtype::F32, Kernels::Fastest);
        let prompt = fixture.prompts().pop().unwrap();
        let expected = logits(&decoder, std::slice::from_ref(&prompt), None);
        let mut cache = KvCache::new(&decoder, 100);
        let mut found = Vec::new();
        let mut context = Vec::new();
        for (tokens, slot) in [(&prompt[..1], 77), (&prompt[1..4], 13), (&prompt[4..], 19)] {
            let mut batch = Batch::default();
            batch.push(tokens, context.clone(), slot, usize::MAX);
            found.extend(run(&decoder, &batch, &mut cache, None));
            context.push(slot..slot + tokens.len());
        }
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn decoding_token_by_token_gives_the_bits_of_prefill() {
    for name in NAMES {
        let fixture = Fixture::open(name);
        let decoder = fixture.decoder(Dtype::F32, Kernels::Fastest);
        let prompt = fixture.prompts().pop().unwrap();
        let mut cache = KvCache::new(&decoder, prompt.len());
        let stepped: Rows = (0..prompt.len())
            .flat_map(|i| {
                let mut batch = Batch::default();
                let context = if i == 0 { vec![] } else { vec![0..i] };
                batch.push(&prompt[i..=i], context, i, usize::MAX);
                run(&decoder, &batch, &mut cache, None)
            })
            .collect();
        assert_eq!(stepped, logits(&decoder, &[prompt], None), "{name}");
    }
}

/// A prefix, two continuations of it, and two continuations of the first of these, all in one batch.
#[test]
fn a_tree_of_shared_prefixes_gives_the_logits_of_separate_sequences() {
    for name in NAMES {
        let fixture = Fixture::open(name);
        let [prefix, left, right, leaf, other] = [(1, 11), (2, 5), (3, 20), (4, 1), (5, 7)]
            .map(|(stream, length)| random_model::tokens(stream, length));
        for kernels in [Kernels::Fastest, Kernels::Candle] {
            let decoder = fixture.decoder(Dtype::F32, kernels);
            let mut tree = Batch::default();
            tree.push(&prefix, vec![], 40, usize::MAX);
            let stem = vec![40..51];
            tree.push(&left, stem.clone(), 3, usize::MAX);
            tree.push(&right, stem.clone(), 8, usize::MAX);
            let branch = [stem, vec![3..8]].concat();
            tree.push(&leaf, branch.clone(), 51, usize::MAX);
            tree.push(&other, branch, 28, usize::MAX);
            let mut cache = KvCache::new(&decoder, 60);
            let found = run(&decoder, &tree, &mut cache, None);
            let paths = [
                vec![&prefix],
                vec![&prefix, &left],
                vec![&prefix, &right],
                vec![&prefix, &left, &leaf],
                vec![&prefix, &left, &other],
            ];
            for (segment, path) in tree.segments.iter().zip(paths) {
                let sequence: Vec<u32> = path.into_iter().flatten().copied().collect();
                let alone = logits(&decoder, &[sequence], None);
                let (found, expected) = (&found[segment.rows.clone()], &alone[segment.position..]);
                if kernels == Kernels::Fastest {
                    assert_eq!(found, expected, "{name}");
                } else {
                    assert_close(found, expected, 1e-4, name);
                }
            }
        }
    }
}

#[test]
fn a_hook_that_only_reads_changes_no_bit() {
    for name in NAMES {
        let fixture = Fixture::open(name);
        let decoder = fixture.decoder(Dtype::F32, Kernels::Fastest);
        let prompts = fixture.prompts();
        let read = logits(&decoder, &prompts, Some(&mut CaptureAll::default()));
        assert_eq!(read, logits(&decoder, &prompts, None), "{name}");
    }
}

/// Puts states captured elsewhere in the place of a block's output.
struct Replay {
    layer: usize,
    states: Rows,
}

impl Hook for Replay {
    fn wants(&self, layer: usize) -> bool {
        layer == self.layer
    }

    fn on_block(
        &mut self,
        _layer: usize,
        _segments: &[Segment],
        hidden: &Tensor,
    ) -> Result<Option<Tensor>> {
        Ok(Some(Tensor::new(self.states.clone(), hidden.device())?))
    }
}

/// T30: the blocks after a captured state make the same logits of it, whatever came before.
#[test]
fn later_blocks_reproduce_the_logits_from_a_captured_state() {
    let fixture = Fixture::open("llama-gqa-untied");
    for kernels in [Kernels::Fastest, Kernels::Candle] {
        let decoder = fixture.decoder(Dtype::F32, kernels);
        let prompts = fixture.prompts();
        let mut capture = CaptureAll::default();
        let expected = logits(&decoder, &prompts, Some(&mut capture));
        for (layer, states) in capture.blocks.into_iter().enumerate() {
            let others: Vec<Vec<u32>> =
                prompts.iter().map(|prompt| vec![7; prompt.len()]).collect();
            let mut replay = Replay { layer, states };
            let found = logits(&decoder, &others, Some(&mut replay));
            assert_close(
                &found,
                &expected,
                1e-5,
                &format!("layer {layer}, {kernels:?}"),
            );
        }
    }
}

struct Idle;

impl Hook for Idle {
    fn wants(&self, layer: usize) -> bool {
        layer >= 3
    }

    fn on_block(&mut self, _: usize, _: &[Segment], _: &Tensor) -> Result<Option<Tensor>> {
        unreachable!("it wants no layer")
    }
}

#[test]
fn hooks_that_would_do_nothing_or_return_another_shape_are_refused() {
    let fixture = Fixture::open("llama-mha-tied");
    for kernels in [Kernels::Fastest, Kernels::Candle] {
        let decoder = fixture.decoder(Dtype::F32, kernels);
        let mut batch = Batch::default();
        batch.push(&[1, 2], vec![], 0, 0);
        let mut cache = KvCache::new(&decoder, 2);
        let mut forward =
            |hook: &mut dyn Hook| decoder.forward(&batch, &mut cache, Some(hook)).unwrap_err();
        assert!(matches!(
            forward(&mut Idle),
            ModelError::IdleHook { layers: 3 }
        ));
        let mut short = Replay {
            layer: 1,
            states: vec![vec![0.0; 48]],
        };
        let error = forward(&mut short);
        assert!(
            matches!(error, ModelError::Hook { layer: 1, .. }),
            "{error}"
        );
    }
}

#[test]
fn slots_beyond_the_cache_and_contexts_never_written_are_refused() {
    let fixture = Fixture::open("llama-mha-tied");
    let decoder = fixture.decoder(Dtype::F32, Kernels::Fastest);
    let mut cache = KvCache::new(&decoder, 8);
    let mut refuse = |batch: &Batch| {
        decoder
            .forward(batch, &mut cache, None)
            .unwrap_err()
            .to_string()
    };
    let mut batch = Batch::default();
    batch.push(&[1, 2], vec![], 7, 0);
    assert_eq!(
        refuse(&batch),
        "segment 0: slots 7..9 are not within the cache's 8"
    );
    let mut batch = Batch::default();
    batch.push(&[1], vec![2..4], 5, 0);
    assert_eq!(
        refuse(&batch),
        "segment 0: context slot 2 was never written"
    );
    assert_eq!(
        refuse(&Batch::default()),
        "segment 0: the batch has no tokens"
    );
    let other = Fixture::open("mistral").decoder(Dtype::F32, Kernels::Candle);
    let mut batch = Batch::default();
    batch.push(&[1], vec![], 0, 0);
    decoder.forward(&batch, &mut cache, None).unwrap();
    let error = other
        .forward(&batch, &mut cache, None)
        .unwrap_err()
        .to_string();
    assert_eq!(error, "cache: it was made for another decoder");
}

#[test]
fn a_sequence_as_long_as_the_context_runs_and_one_longer_is_refused() {
    let fixture = Fixture::open("llama-llama3-rope");
    let decoder = fixture.decoder(Dtype::F32, Kernels::Fastest);
    assert_eq!(
        logits(&decoder, &[random_model::tokens(1, 128)], None).len(),
        128
    );
    let mut batch = Batch::default();
    batch.push(&random_model::tokens(1, 129), vec![], 0, 0);
    let error = decoder
        .forward(&batch, &mut KvCache::new(&decoder, 129), None)
        .unwrap_err();
    assert!(matches!(
        error,
        ModelError::TooLong {
            tokens: 129,
            limit: 128
        }
    ));
}
