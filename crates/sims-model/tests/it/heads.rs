//! The hook between attention and its output projection.

use std::collections::BTreeMap;

use serde::Deserialize;
use sims_model::capture::{CaptureRequest, states_at};
use sims_model::decoder::Kernels;
use sims_model::score::ScoreLimits;
use sims_model::{Batch, Decoder, Device, Dtype, Hook, KvCache, Result, Segment, Site, Tensor};
use std::ops::ControlFlow;

use crate::fixtures::Fixture;

const LAYER: usize = 1;
const EDIT_FROM: usize = 6;

#[derive(Deserialize)]
struct Case {
    prompt: Vec<u32>,
    head_dim: usize,
    last_inputs: Vec<f32>,
    last_logits: Vec<f32>,
}

fn cases() -> BTreeMap<String, Case> {
    let text = include_str!("../../../sims-steering/tests/reference/heads.json");
    serde_json::from_str(text).unwrap()
}

/// Adds `0.1 * sin(1 + j)` to the heads' outputs of the rows that may be edited.
#[derive(Default)]
struct PushHeads {
    calls: Vec<usize>,
}

impl Hook for PushHeads {
    fn wants(&self, _layer: usize) -> bool {
        false
    }

    fn on_block(&mut self, _: usize, _: &[Segment], _: &Tensor) -> Result<Option<Tensor>> {
        panic!("no block is wanted");
    }

    fn wants_heads(&self, layer: usize) -> bool {
        layer == LAYER
    }

    fn on_heads(
        &mut self,
        layer: usize,
        segments: &[Segment],
        heads: &Tensor,
    ) -> Result<Option<Tensor>> {
        self.calls.push(layer);
        let mut rows: Vec<Vec<f32>> = heads.to_vec2()?;
        for segment in segments {
            for row in &mut rows[segment.edit_rows()] {
                for (j, x) in row.iter_mut().enumerate() {
                    *x += 0.1 * (1.0 + j as f32).sin();
                }
            }
        }
        Ok(Some(Tensor::new(rows, heads.device())?))
    }
}

fn batch(prompts: &[&[u32]]) -> Batch {
    let mut batch = Batch::default();
    for prompt in prompts {
        let start = batch.tokens.len();
        batch.push(prompt, Vec::new(), start, EDIT_FROM);
    }
    batch
}

fn logits(decoder: &Decoder, prompts: &[&[u32]], hook: &mut PushHeads) -> Vec<Vec<f32>> {
    let batch = batch(prompts);
    let mut cache = KvCache::new(decoder, batch.tokens.len());
    let hidden = decoder.forward(&batch, &mut cache, Some(hook)).unwrap();
    decoder.logits(&hidden).unwrap().to_vec2().unwrap()
}

fn close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(
            (found - expected).abs() < 1e-4,
            "{what}, {i}: {found}, not {expected}"
        );
    }
}

#[test]
fn edited_heads_match_transformers_with_a_forward_pre_hook() {
    for (name, case) in cases() {
        let fixture = Fixture::open(&name);
        for kernels in [Kernels::Fastest, Kernels::Candle] {
            let what = format!("{name}, {kernels:?}");
            let decoder = fixture.decoder(Dtype::F32, kernels);
            assert_eq!(decoder.config().head_dim, case.head_dim, "{what}");
            let mut hook = PushHeads::default();
            let found = logits(&decoder, &[&case.prompt], &mut hook);
            close(found.last().unwrap(), &case.last_logits, &what);
            assert_eq!(hook.calls, [LAYER]);

            let request = CaptureRequest {
                tokens: case.prompt.clone(),
                positions: vec![case.prompt.len() - 1],
                edit_from: usize::MAX,
            };
            let limits = ScoreLimits::default();
            let mut states = Vec::new();
            states_at(
                Site::Heads,
                &decoder,
                &[request],
                &[LAYER],
                &limits,
                None,
                &mut |found| {
                    states.extend(found.layers.concat());
                    ControlFlow::Continue(())
                },
            )
            .unwrap();
            close(&states, &case.last_inputs, &what);
        }
    }
}

/// On the CPU's kernels the bits are those of each sequence by itself, on any number of threads.
#[test]
fn edited_heads_depend_neither_on_the_batch_nor_on_threads() {
    let case = &cases()["llama-gqa-untied"];
    let fixture = Fixture::open("llama-gqa-untied");
    let decoder = Decoder::load(
        &fixture.directory,
        &[Device::Cpu],
        Dtype::F32,
        Kernels::Fastest,
    )
    .unwrap();
    let long: Vec<u32> = (0..70).map(|i| (5 + 3 * i) % 151).collect();
    let prompts: [&[u32]; 3] = [&long, &case.prompt, &long[..20]];
    let alone: Vec<Vec<f32>> = prompts
        .iter()
        .flat_map(|prompt| logits(&decoder, &[prompt], &mut PushHeads::default()))
        .collect();
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let together = pool
            .build()
            .unwrap()
            .install(|| logits(&decoder, &prompts, &mut PushHeads::default()));
        assert_eq!(together, alone, "{threads} threads");
    }
}
