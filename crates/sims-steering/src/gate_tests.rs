//! Gates against means computed alone: whole prompts, pieces of them, shared beginnings, slots used again.

use crate::condition::{Condition, ConditionBlock};
use crate::operator::{Additive, Edit};
use crate::random::{NormalDraw, stream};
use crate::{Operator, Steering, SteeringHook};
use candle_core::{DType, Device, Tensor};
use sims_artifact::Digest;
use sims_model::{Batch, Hook};
use sims_testkit::emulator::Emulator;
use std::sync::Arc;

const HIDDEN: usize = 8;

/// Adds a vector at layer 2 where the mean prompt state at layer 1 points along the first component, or at layer 2
/// along the second.
fn steering() -> Steering {
    let unit = |i: usize| (0..HIDDEN).map(|j| f32::from(u8::from(i == j))).collect();
    let block =
        |layer| ConditionBlock::new(layer, vec![0.0; HIDDEN], unit(layer - 1), 0.5).unwrap();
    let condition = Condition::new(vec![block(1), block(2)]).unwrap();
    let mut steering = Steering::identity(Digest::of_bytes(b"model"), HIDDEN, 4);
    let vector = Additive::new(vec![1.0; HIDDEN]).unwrap();
    steering
        .push(2, Edit::new(Operator::Additive(vector)))
        .unwrap();
    steering.conditional(condition).unwrap()
}

/// Rows about a mean of length 2 along a component.
fn prompt(name: &str, component: usize, rows: usize) -> Vec<f32> {
    let mut stream = stream(4, name);
    let mut values: Vec<f32> = (0..rows * HIDDEN)
        .map(|_| 0.3 * stream.normal() as f32)
        .collect();
    values
        .iter_mut()
        .skip(component)
        .step_by(HIDDEN)
        .for_each(|x| *x += 2.0);
    values
}

/// Runs layers 1 and 2 on the same rows; returns what became of them at layer 2.
fn run(hook: &mut SteeringHook, batch: &Batch, rows: &[f32]) -> Vec<f32> {
    let hidden = Tensor::from_slice(rows, (rows.len() / HIDDEN, HIDDEN), &Device::Cpu).unwrap();
    assert!(hook.wants(1) && hook.wants(2) && !hook.wants(0));
    let read = hook.on_block(1, &batch.segments, &hidden).unwrap();
    assert!(read.is_none());
    let edited = hook.on_block(2, &batch.segments, &hidden).unwrap();
    edited
        .unwrap_or(hidden)
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// The rows that changed, each by the whole vector.
fn changed(before: &[f32], after: &[f32]) -> Vec<usize> {
    let pairs = before.chunks_exact(HIDDEN).zip(after.chunks_exact(HIDDEN));
    pairs
        .enumerate()
        .filter(|(_, (a, b))| {
            let moved = a.iter().zip(*b).filter(|(a, b)| **b == **a + 1.0).count();
            let same = a.iter().zip(*b).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same || moved == HIDDEN);
            !same
        })
        .map(|(row, _)| row)
        .collect()
}

const TOKENS: [u32; 16] = [0; 16];

/// T18: sequences of one batch are let through each by its own prompt, by any of the blocks, and stay so.
#[test]
fn sequences_gate_independently() {
    let (met, unmet, other) = (prompt("a", 0, 6), prompt("b", 3, 4), prompt("c", 1, 5));
    let rows = [met, unmet, other].concat();
    let mut batch = Batch::default();
    batch.push(&TOKENS[..6], vec![], 0, 5);
    batch.push(&TOKENS[..4], vec![], 20, 3);
    batch.push(&TOKENS[..5], vec![], 40, 4);
    let mut decode = Batch::default();
    decode.push(&TOKENS[..1], vec![20..24], 24, 3);
    decode.push(&TOKENS[..1], vec![40..45], 45, 4);
    decode.push(&TOKENS[..1], vec![0..6], 6, 5);
    // States of responses do not count, wherever they point.
    let next = [prompt("x", 0, 1), prompt("y", 3, 1), prompt("z", 3, 1)].concat();
    let mut hook = steering().hook();
    assert_eq!(changed(&rows, &run(&mut hook, &batch, &rows)), [5, 14]);
    assert_eq!(changed(&next, &run(&mut hook, &decode, &next)), [1, 2]);
    assert_eq!((hook.counts().rows, hook.counts().edited), (4, 4));
    assert_eq!(hook.applications(), 2);

    // The same on a device.
    let Some(emulator) = Emulator::new(false) else {
        return;
    };
    let mut on_device = steering().hook().on_device(Arc::new(emulator));
    assert_eq!(changed(&rows, &run(&mut on_device, &batch, &rows)), [5, 14]);
    assert_eq!(changed(&next, &run(&mut on_device, &decode, &next)), [1, 2]);
    assert_eq!(on_device.counts(), hook.counts());
}

/// However a prompt is cut into segments, its mean and its verdict are the same; a slot used again is decided anew.
#[test]
fn pieces_and_shared_beginnings_give_the_verdict_of_the_whole() {
    let rows = prompt("a", 0, 7);
    for cut in 1..7 {
        let mut hook = steering().hook();
        // The beginning is shared with a prompt whose other tokens turn it away.
        let mut first = Batch::default();
        first.push(&TOKENS[..cut], vec![], 0, usize::MAX);
        let beginning = &rows[..cut * HIDDEN];
        assert!(changed(beginning, &run(&mut hook, &first, beginning)).is_empty());
        let mut second = Batch::default();
        let turned = prompt("d", 3, 30);
        second.push(&TOKENS[..7 - cut], vec![0..cut], 50, 6);
        second.push(&[0; 30], vec![0..cut], 60, cut + 29);
        let both = [&rows[cut * HIDDEN..], &turned].concat();
        assert_eq!(changed(&both, &run(&mut hook, &second, &both)), [6 - cut]);
    }
    // Both pieces in one batch, the later one first; then the same slots for another prompt.
    let mut hook = steering().hook();
    let mut batch = Batch::default();
    batch.push(&TOKENS[..3], vec![0..4], 4, 6);
    batch.push(&TOKENS[..4], vec![], 0, 6);
    let turned = [&rows[4 * HIDDEN..], &rows[..4 * HIDDEN]].concat();
    assert_eq!(changed(&turned, &run(&mut hook, &batch, &turned)), [2]);
    let unmet = prompt("b", 3, 7);
    assert!(changed(&unmet, &run(&mut hook, &batch, &unmet)).is_empty());
}

#[test]
fn prompts_that_were_not_seen_are_an_error() {
    let mut batch = Batch::default();
    batch.push(&TOKENS[..1], vec![0..4], 4, 3);
    let hidden = Tensor::zeros((1, HIDDEN), DType::F32, &Device::Cpu).unwrap();
    let mut hook = steering().hook();
    let error = hook.on_block(2, &batch.segments, &hidden).unwrap_err();
    assert!(
        error.to_string().contains("first 3 prompt tokens"),
        "{error}"
    );
    // A prompt of one token has nothing to read, and is not steered.
    let mut batch = Batch::default();
    batch.push(&TOKENS[..1], vec![], 0, 0);
    let row = prompt("a", 0, 1);
    assert!(changed(&row, &run(&mut hook, &batch, &row)).is_empty());
}

#[test]
fn conditions_above_an_edit_are_refused() {
    let block =
        |layer| ConditionBlock::new(layer, vec![0.0; HIDDEN], vec![1.0; HIDDEN], 0.0).unwrap();
    let condition = Condition::new(vec![block(1), block(3)]).unwrap();
    let error = steering().conditional(condition).unwrap_err();
    assert!(
        error.to_string().contains("layer 3, above layer 2"),
        "{error}"
    );
}
