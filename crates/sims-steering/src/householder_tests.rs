//! T07–T11, T13 and T14 of the test ladder, and the formula against an independent NumPy reference.

use super::*;
use crate::random::{NormalDraw, stream};
use crate::real::angle_between;
use sims_stats::random::Stream;
use std::f64::consts::{FRAC_PI_2, PI};

fn gaussian(stream: &mut Stream, hidden: usize) -> Vec<f64> {
    (0..hidden).map(|_| stream.normal()).collect()
}

fn to_f32(row: &[f64]) -> Vec<f32> {
    row.iter().map(|&x| x as f32).collect()
}

/// The edit as the paper writes it, in `f64`, by way of the mirror image.
fn paper_formula(a: &[f64], w: &[f64], gamma: f64) -> (Vec<f64>, f64) {
    let p = 2.0 * dot(a, w) / dot(w, w);
    let mirrored: Vec<f64> = a.iter().zip(w).map(|(a, w)| a - p * w).collect();
    let gamma2 = angle_between(a, &mirrored);
    let edited = mirrored
        .iter()
        .zip(a)
        .map(|(m, a)| (gamma.sin() * m + (gamma2 - gamma).sin() * a) / gamma2.sin())
        .collect();
    (edited, gamma2)
}

/// T07: the norm is kept, at every angle and arbitrarily close to the plane.
#[test]
fn norm_is_kept() {
    for (hidden, tolerance) in [(16, 1e-6), (512, 1e-6), (4096, 5e-6)] {
        let mut stream = stream(7, "norm");
        let normal = to_f32(&gaussian(&mut stream, hidden));
        for case in 0..1000 {
            let mut row = to_f32(&gaussian(&mut stream, hidden));
            if case % 4 == 0 {
                // Into the plane, up to 1e-7 of the norm.
                let shift =
                    dot(&row, &normal) / dot(&normal, &normal) + 1e-7 * norm(&row) / norm(&normal);
                for (a, w) in row.iter_mut().zip(&normal) {
                    *a -= (shift * f64::from(*w)) as f32;
                }
            }
            let before = norm(&row);
            assert!(rotate(&mut row, &normal, PI * stream.next_f64()));
            let ratio = norm(&row) / before;
            assert!((ratio - 1.0).abs() < tolerance, "{hidden}: ratio {ratio}");
        }
    }
}

/// T08: the row has turned by the asked angle.
#[test]
fn rows_turn_by_the_asked_angle() {
    let mut stream = stream(8, "angle");
    for _ in 0..500 {
        let normal = gaussian(&mut stream, 64);
        let row = gaussian(&mut stream, 64);
        let gamma = 1e-3 + (PI - 2e-3) * stream.next_f64();
        let mut exact = row.clone();
        assert!(rotate(&mut exact, &normal, gamma));
        assert!((angle_between(&row, &exact) - gamma).abs() < 1e-9);
        let (row, normal) = (to_f32(&row), to_f32(&normal));
        let mut single = row.clone();
        assert!(rotate(&mut single, &normal, gamma));
        assert!((angle_between(&row, &single) - gamma).abs() < 1e-5);
    }
}

/// T09: the sound form equals the paper's where the paper's is well conditioned.
#[test]
fn sound_form_equals_the_paper() {
    let mut stream = stream(9, "paper");
    let mut compared = 0;
    while compared < 200 {
        let normal = gaussian(&mut stream, 6);
        let row = gaussian(&mut stream, 6);
        let gamma = PI * stream.next_f64();
        let (expected, gamma2) = paper_formula(&row, &normal, gamma);
        // Above the plane the mirror image lies away from the normal; HPR edits below it only.
        if dot(&row, &normal) > 0.0 || !(0.05..=3.0).contains(&gamma2) {
            continue;
        }
        compared += 1;
        let mut edited = row.clone();
        assert!(rotate(&mut edited, &normal, gamma));
        for (ours, theirs) in edited.iter().zip(&expected) {
            assert!((ours - theirs).abs() < 1e-9, "{ours} against {theirs}");
        }
    }
}

/// T10: the positive side keeps its bits, the plane itself is edited, degenerate rows are left alone.
#[test]
fn only_the_negative_side_is_edited() {
    let operator = Householder::new(
        vec![1.0, 0.0],
        0.0,
        AngleRule::Fixed { angle: 0.5 },
        None,
        None,
    )
    .unwrap();
    let edit = |row: [f32; 2]| {
        let (mut rows, mut counts) = (row, EditCounts::default());
        operator.apply(&mut rows, 1.0, &mut counts);
        (
            rows.map(f32::to_bits) != row.map(f32::to_bits),
            rows,
            counts.edited,
        )
    };
    assert_eq!(edit([1e-30, 3.0]).2, 0);
    let (changed, on_plane, _) = edit([0.0, 2.0]);
    assert!(changed && (on_plane[0] - 2.0 * 0.5f32.sin()).abs() < 1e-6);
    for row in [[-3.0, 0.0], [0.0, 0.0]] {
        let (changed, rows, edited) = edit(row);
        assert!(!changed && edited == 0 && rows.iter().all(|x| x.is_finite()));
    }
}

/// T11: γ₁ = γ₂ is the mirror image, γ₁ = γ₂/2 meets the plane.
#[test]
fn mirror_image_and_plane_are_met() {
    let mut stream = stream(11, "mirror");
    for _ in 0..100 {
        let normal = gaussian(&mut stream, 16);
        let mut row = gaussian(&mut stream, 16);
        if dot(&row, &normal) > 0.0 {
            row.iter_mut().for_each(|x| *x = -*x);
        }
        let p = 2.0 * dot(&row, &normal) / dot(&normal, &normal);
        let mirrored: Vec<f64> = row.iter().zip(&normal).map(|(a, w)| a - p * w).collect();
        let gamma2 = 2.0
            * (dot(&row, &normal).abs() / norm(&row) / norm(&normal))
                .min(1.0)
                .asin();
        let mut edited = row.clone();
        rotate(&mut edited, &normal, gamma2);
        edited
            .iter()
            .zip(&mirrored)
            .for_each(|(a, b)| assert!((a - b).abs() < 1e-6));
        let mut edited = row.clone();
        rotate(&mut edited, &normal, gamma2 / 2.0);
        assert!((dot(&edited, &normal) / norm(&normal)).abs() < 1e-6 * norm(&row));
    }
}

/// T13: the capped form never turns further than either cap.
#[test]
fn caps_hold() {
    let mut stream = stream(13, "caps");
    let normal = to_f32(&gaussian(&mut stream, 32));
    let net = AngleNet::random(32, 3, &mut stream);
    let rule = AngleRule::Net {
        net,
        input_scale: 1.0,
        scale: 1.0,
    };
    for edge in [0.0, 0.4] {
        let operator =
            Householder::new(normal.clone(), edge, rule.clone(), Some(2.0), Some(0.35)).unwrap();
        let mut counts = EditCounts::default();
        for _ in 0..500 {
            let row = to_f32(&gaussian(&mut stream, 32));
            let mut edited = row.clone();
            operator.apply(&mut edited, 1.0, &mut counts);
            let mirror = 2.0 * (edge - elevation(&row, &normal)).max(0.0);
            assert!(angle_between(&row, &edited) <= (2.0 * mirror).min(0.35) + 1e-6);
        }
        assert!(
            counts.capped > 100 && counts.capped <= counts.edited,
            "{counts:?}"
        );
    }
}

/// T14: with strength 1 every edited row lands on the target's cosine.
#[test]
fn target_form_lands_on_the_target() {
    let mut stream = stream(14, "target");
    let normal = to_f32(&gaussian(&mut stream, 48));
    let target_cosine = 0.2f64;
    let target = FRAC_PI_2 - target_cosine.acos();
    for edge in [0.0, target] {
        let rule = AngleRule::Remaining { target, scale: 1.0 };
        let operator = Householder::new(normal.clone(), edge, rule, None, Some(PI)).unwrap();
        let mut counts = EditCounts::default();
        for _ in 0..300 {
            let row = to_f32(&gaussian(&mut stream, 48));
            let mut edited = row.clone();
            operator.apply(&mut edited, 1.0, &mut counts);
            if elevation(&row, &normal) <= edge {
                let cosine = dot(&edited, &normal) / norm(&edited) / norm(&normal);
                assert!((cosine - target_cosine).abs() < 1e-5, "{cosine}");
            } else {
                assert_eq!(row, edited);
            }
        }
        assert!(counts.edited > 100);
    }
}

#[test]
fn degenerate_parameters_are_refused() {
    let fixed = |angle| AngleRule::Fixed { angle };
    assert!(Householder::new(vec![0.0; 4], 0.0, fixed(0.1), None, None).is_err());
    assert!(Householder::new(vec![f32::NAN; 4], 0.0, fixed(0.1), None, None).is_err());
    assert!(Householder::new(vec![1.0; 4], 0.0, fixed(f64::NAN), None, None).is_err());
    let net = AngleNet::random(8, 2, &mut stream(0, "net"));
    assert!(Householder::faithful(vec![1.0; 4], net, 1.0).is_err());
}
