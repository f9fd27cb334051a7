//! Captured hidden states are the block outputs of a plain pass.

use std::ops::ControlFlow;

use sims_model::capture::{CaptureRequest, HiddenStates, hidden_states};
use sims_model::score::ScoreLimits;
use sims_model::{Batch, Decoder, Hook, KvCache, ModelError, Segment, Tensor};

use crate::random_model::{HIDDEN, LAYERS, Push, decoder, tokens};

/// Copies every block's output, after another hook.
struct Record {
    push: Push,
    blocks: Vec<Vec<Vec<f32>>>,
}

impl Hook for Record {
    fn wants(&self, _layer: usize) -> bool {
        true
    }

    fn on_block(
        &mut self,
        layer: usize,
        segments: &[Segment],
        hidden: &Tensor,
    ) -> Result<Option<Tensor>, ModelError> {
        let replacement = if self.push.wants(layer) {
            self.push.on_block(layer, segments, hidden)?
        } else {
            None
        };
        self.blocks
            .push(replacement.as_ref().unwrap_or(hidden).to_vec2()?);
        Ok(replacement)
    }
}

/// Every block's output at every position of one sequence.
fn plain_blocks(decoder: &Decoder, request: &CaptureRequest, push: Push) -> Vec<Vec<Vec<f32>>> {
    let mut batch = Batch::default();
    batch.push(&request.tokens, Vec::new(), 0, request.edit_from);
    let mut cache = KvCache::new(decoder, request.tokens.len());
    let mut record = Record {
        push,
        blocks: Vec::new(),
    };
    decoder
        .forward(&batch, &mut cache, Some(&mut record))
        .unwrap();
    record.blocks
}

/// A prompt, then a chosen and a rejected answer to each; edited from the last prompt token.
fn requests() -> Vec<CaptureRequest> {
    let mut requests = Vec::new();
    for i in 0..9 {
        let prompt = tokens(i, 4 + i as usize);
        for answer in [50 + i, 70 + i] {
            let tokens = [prompt.clone(), tokens(answer, 5 + (answer as usize) % 7)].concat();
            let positions = (prompt.len()..tokens.len()).rev().collect();
            requests.push(CaptureRequest {
                tokens,
                positions,
                edit_from: prompt.len() - 1,
            });
        }
    }
    requests
}

#[test]
fn states_are_the_block_outputs_in_request_order() {
    let decoder = decoder();
    let requests = requests();
    let layers = [2, 0];
    for max_rows in [1, 8, 50, 1000] {
        let mut hook = Push { layer: 0, by: 0.5 };
        let mut captured: Vec<HiddenStates> = Vec::new();
        let count = hidden_states(
            &decoder,
            &requests,
            &layers,
            &ScoreLimits { max_rows },
            Some(&mut hook),
            &mut |states| {
                captured.push(states);
                ControlFlow::Continue(())
            },
        )
        .unwrap();
        assert_eq!(
            captured
                .iter()
                .map(|states| states.request)
                .collect::<Vec<_>>(),
            (0..18).collect::<Vec<_>>()
        );
        assert!(count.computed <= count.total);
        if max_rows == 1000 {
            // Both answers of a pair share the prompt; other sequences may begin alike by chance.
            let prompts: usize = (4..13).sum();
            assert!((prompts..prompts + 10).contains(&(count.total - count.computed)));
        }
        for (request, states) in requests.iter().zip(&captured) {
            let blocks = plain_blocks(&decoder, request, Push { layer: 0, by: 0.5 });
            for (layer, states) in layers.iter().zip(&states.layers) {
                assert_eq!(states.len(), request.positions.len() * HIDDEN);
                for (&position, row) in request.positions.iter().zip(states.chunks(HIDDEN)) {
                    assert_eq!(row, blocks[*layer][position]);
                }
            }
        }
    }
}

#[test]
fn the_sink_can_stop_and_sees_states_early() {
    let decoder = decoder();
    let mut seen = 0;
    let result = hidden_states(
        &decoder,
        &requests(),
        &[1],
        &ScoreLimits { max_rows: 20 },
        None,
        &mut |_| {
            seen += 1;
            if seen == 2 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
    );
    assert!(matches!(result, Err(ModelError::Interrupted)));
}

#[test]
fn bad_requests_are_named() {
    let decoder = decoder();
    let error = |positions: Vec<usize>, layers: &[usize]| {
        let request = CaptureRequest {
            tokens: vec![1, 2],
            positions,
            edit_from: usize::MAX,
        };
        hidden_states(
            &decoder,
            &[request],
            layers,
            &ScoreLimits::default(),
            None,
            &mut |_| ControlFlow::Continue(()),
        )
        .unwrap_err()
        .to_string()
    };
    assert_eq!(
        error(vec![2], &[0]),
        "positions: 2 is beyond the 2 tokens of sequence 0"
    );
    assert_eq!(
        error(vec![1, 1], &[0]),
        "positions: 1 is asked twice of sequence 0"
    );
    assert_eq!(
        error(vec![1], &[LAYERS]),
        "layers: 3 is not one of the model's 3 layers"
    );
    assert_eq!(error(vec![1], &[1, 1]), "layers: 1 is asked twice");
    assert_eq!(error(vec![1], &[]), "layers: none are asked for");
}
