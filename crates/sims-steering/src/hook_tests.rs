//! The hook against plain rows: which rows it edits, what it leaves, and in which dtype.

use super::*;
use crate::angle_net::AngleNet;
use crate::householder::{AngleRule, Householder};
use crate::operator::Additive;
use crate::random::{NormalDraw, stream};
use candle_core::DType;
use sims_artifact::Digest;
use sims_stats::random::Stream;

const HIDDEN: usize = 24;

fn draw(stream: &mut Stream, count: usize) -> Vec<f32> {
    (0..count).map(|_| stream.normal() as f32).collect()
}

fn steering() -> Steering {
    let mut stream = stream(5, "hook");
    let vector = Additive::new(draw(&mut stream, HIDDEN)).unwrap();
    let net = AngleNet::random(HIDDEN, 3, &mut stream);
    let rule = AngleRule::Net {
        net,
        input_scale: 1.0,
        scale: 0.5,
    };
    let normal = draw(&mut stream, HIDDEN);
    let rotation = Householder::new(normal, 0.1, rule, Some(2.0), Some(0.35)).unwrap();
    let mut steering = Steering::identity(Digest::of_bytes(b"model"), HIDDEN, 4);
    steering
        .push(2, Edit::new(Operator::Additive(vector)))
        .unwrap();
    steering
        .push(2, Edit::new(Operator::Householder(rotation)))
        .unwrap();
    steering
}

fn segment(rows: Range<usize>, position: usize, edit_from: usize) -> Segment {
    let slots = rows.clone();
    Segment {
        rows,
        position,
        context: vec![],
        slots,
        edit_from,
        is_repeated: false,
    }
}

fn run(hook: &mut SteeringHook, data: &[f32], segments: &[Segment], dtype: DType) -> Vec<f32> {
    let hidden = Tensor::from_slice(data, (data.len() / HIDDEN, HIDDEN), &Device::Cpu)
        .and_then(|tensor| tensor.to_dtype(dtype))
        .unwrap();
    let edited = hook
        .on_block(2, segments, &hidden)
        .unwrap()
        .unwrap_or(hidden);
    assert_eq!(edited.dtype(), dtype);
    edited
        .to_dtype(DType::F32)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

#[test]
fn only_positions_in_the_mask_are_edited() {
    let data = draw(&mut stream(6, "rows"), 9 * HIDDEN);
    // Rows 0..4 are positions 0..4 of a prompt edited from its last token on, rows 4..7 a continuation
    // that lies wholly in the mask, rows 7..9 are never edited.
    let segments = [
        segment(0..4, 0, 3),
        segment(4..7, 10, 3),
        segment(7..9, 0, usize::MAX),
    ];
    let mut hook = steering().hook().measuring();
    let edited = run(&mut hook, &data, &segments, DType::F32);
    for row in 0..9 {
        let span = row * HIDDEN..(row + 1) * HIDDEN;
        let mut alone = data[span.clone()].to_vec();
        if (3..7).contains(&row) {
            for edit in steering().edits(2) {
                edit.apply(&mut alone, 1.0, &mut EditCounts::default());
            }
            assert_ne!(edited[span.clone()], data[span.clone()], "row {row}");
        }
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&edited[span]), bits(&alone), "row {row}");
    }
    assert_eq!(hook.applications(), 1);
    // Four rows go through two operators; the vector edits them all, the rotation those below its edge.
    assert_eq!(hook.counts().rows, 8);
    assert!((4..=8).contains(&hook.counts().edited));
    let sizes = hook.sizes().unwrap();
    // Rows that run again are edited as before and not counted.
    let repeated = segments.map(|segment| Segment {
        is_repeated: true,
        ..segment
    });
    assert_eq!(run(&mut hook, &data, &repeated, DType::F32), edited);
    assert_eq!((hook.counts().rows, hook.sizes().unwrap()), (8, sizes));
    assert!(sizes.rows == 4 && sizes.relative_shift_sum > 0.0 && sizes.non_finite_rows == 0);
    assert!(sizes.largest_norm_ratio >= sizes.smallest_norm_ratio);
}

#[test]
fn bf16_rows_outside_the_mask_keep_their_bits() {
    let data = draw(&mut stream(7, "rows"), 3 * HIDDEN);
    let rounded: Vec<f32> = data
        .iter()
        .map(|&x| half::bf16::from_f32(x).to_f32())
        .collect();
    let edited = run(
        &mut steering().hook(),
        &data,
        &[segment(0..3, 0, 2)],
        DType::BF16,
    );
    assert_eq!(edited[..2 * HIDDEN], rounded[..2 * HIDDEN]);
    let mut last = rounded[2 * HIDDEN..].to_vec();
    for edit in steering().edits(2) {
        edit.apply(&mut last, 1.0, &mut EditCounts::default());
    }
    for (ours, exact) in edited[2 * HIDDEN..].iter().zip(&last) {
        assert_eq!(*ours, half::bf16::from_f32(*exact).to_f32());
    }
}

/// T05: at strength 0 the hook wants nothing and returns nothing, in any dtype.
#[test]
fn zero_strength_installs_nothing() {
    let mut hook = steering().scaled(0.0).unwrap().hook();
    assert!(hook.is_identity() && (0..4).all(|layer| !hook.wants(layer)));
    for dtype in [DType::F32, DType::BF16] {
        let hidden = Tensor::zeros((1, HIDDEN), dtype, &Device::Cpu).unwrap();
        assert!(
            hook.on_block(2, &[segment(0..1, 0, 0)], &hidden)
                .unwrap()
                .is_none()
        );
    }
    assert!(hook.check_applied().is_ok());
}

#[test]
fn an_idle_hook_is_an_error() {
    let mut hook = steering().hook();
    assert!(hook.wants(2) && !hook.wants(3));
    assert!(
        hook.check_applied()
            .unwrap_err()
            .to_string()
            .contains("layers [2]")
    );
    let hidden = Tensor::zeros((1, HIDDEN), DType::F32, &Device::Cpu).unwrap();
    // Called, although no row lies in the mask: the hook is not idle, the rows are left alone.
    assert!(
        hook.on_block(2, &[segment(0..1, 0, 5)], &hidden)
            .unwrap()
            .is_none()
    );
    assert!(hook.check_applied().is_ok());
}

#[test]
fn states_of_another_width_are_refused() {
    let hidden = Tensor::zeros((1, HIDDEN + 1), DType::F32, &Device::Cpu).unwrap();
    let error = steering()
        .hook()
        .on_block(2, &[segment(0..1, 0, 0)], &hidden)
        .unwrap_err();
    assert!(
        error.to_string().contains("hidden size 24, but 25"),
        "{error}"
    );
}
