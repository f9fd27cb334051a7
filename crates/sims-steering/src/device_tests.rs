//! The kernels, run on the CPU by an emulation, against the host's edits.

use super::*;
use crate::operator::{Additive, Edit};
use crate::random::{NormalDraw, stream};
use crate::{Steering, SteeringHook};
use sims_artifact::Digest;
use sims_model::{Hook, Segment};
use sims_testkit::emulator::{CompileOnly, Emulator};
use std::ops::Range;

const HIDDEN: usize = 72;
const ROWS: usize = 9;

fn draw(name: &str, count: usize) -> Vec<f32> {
    let mut stream = stream(8, name);
    (0..count).map(|_| stream.normal() as f32).collect()
}

/// One steering a layer: each operator, each rule, with and without caps and restored norms, and several in a row.
fn steering() -> Steering {
    let vector = || Operator::Additive(Additive::new(draw("vector", HIDDEN)).unwrap());
    let turn = |rule, edge, kappa, max_angle| {
        let normal = draw("normal", HIDDEN);
        Operator::Householder(Householder::new(normal, edge, rule, kappa, max_angle).unwrap())
    };
    let net = || AngleRule::Net {
        net: AngleNet::random(HIDDEN, 4, &mut stream(9, "net")),
        input_scale: 0.7,
        scale: 0.9,
    };
    let fixed = AngleRule::Fixed { angle: 0.4 };
    let remaining = AngleRule::Remaining {
        target: 0.3,
        scale: 0.5,
    };
    let transport = || {
        let [scale, shift, support] = ["scale", "shift", "support"].map(|n| draw(n, HIDDEN));
        let scale = scale.iter().map(|x| x.abs()).collect();
        let low = support.iter().map(|x| x - 1.0).collect();
        let high = support.iter().map(|x| x + 0.5).collect();
        Operator::AffineTransport(AffineTransport::new(scale, shift, low, high).unwrap())
    };
    let layers = [
        vec![(transport(), 0.7, false)],
        vec![(transport(), 2.0, true), (transport(), -1.0, false)],
        vec![(vector(), 0.5, false)],
        vec![(vector(), -1.5, true)],
        vec![(turn(net(), 0.0, None, None), 1.0, false)],
        vec![(turn(net(), 0.1, Some(2.0), Some(0.25)), 1.3, true)],
        vec![(turn(fixed, 2.0, None, None), -0.5, false)],
        vec![
            (vector(), 1.0, false),
            (turn(remaining, 0.3, Some(1.0), None), 1.0, false),
            (vector(), 0.1, true),
        ],
    ];
    let digest = Digest::of_bytes(b"model");
    let mut steering = Steering::identity(digest, HIDDEN, layers.len());
    for (layer, edits) in layers.into_iter().enumerate() {
        for (operator, strength, preserve_norm) in edits {
            let edit = Edit {
                strength,
                preserve_norm,
                ..Edit::new(operator)
            };
            steering.push(layer, edit).unwrap();
        }
    }
    steering
}

fn segment(rows: Range<usize>, edit_from: usize) -> Segment {
    Segment {
        slots: rows.clone(),
        rows,
        position: 0,
        context: vec![],
        edit_from,
        is_repeated: false,
    }
}

fn edited(
    hook: &mut SteeringHook,
    layer: usize,
    segments: &[Segment],
    hidden: &Tensor,
) -> Vec<f32> {
    let edited = hook.on_block(layer, segments, hidden).unwrap().unwrap();
    assert_eq!(edited.dtype(), hidden.dtype());
    let edited = edited.to_dtype(DType::F32).unwrap();
    edited.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn rows_are_edited_as_on_the_host() {
    let steering = steering();
    let decode: Vec<_> = (0..ROWS).map(|row| segment(row..row + 1, 0)).collect();
    let mut mixed = [
        segment(0..4, 2),
        segment(4..5, usize::MAX),
        segment(5..9, 3),
    ];
    mixed[0].is_repeated = true;
    for descending in [false, true] {
        let Some(emulator) = Emulator::new(descending) else {
            return;
        };
        let launcher: Arc<dyn Launcher> = Arc::new(emulator);
        for dtype in [DType::F32, DType::BF16] {
            let mut rows = draw("rows", ROWS * HIDDEN);
            rows[3 * HIDDEN..4 * HIDDEN].fill(0.0);
            let hidden = Tensor::from_vec(rows, (ROWS, HIDDEN), &Device::Cpu)
                .and_then(|tensor| tensor.to_dtype(dtype))
                .unwrap();
            let mut on_host = steering.hook();
            let mut on_device = steering.hook().on_device(launcher.clone());
            for layer in steering.layers() {
                for segments in [&decode[..], &mixed] {
                    let what = format!("layer {layer}, {dtype:?}, {} segments", segments.len());
                    let expected = edited(&mut on_host, layer, segments, &hidden);
                    let found = edited(&mut on_device, layer, segments, &hidden);
                    // An edit's f32 rounding, or the bf16 value beside.
                    let bound = if dtype == DType::F32 {
                        4e-6
                    } else {
                        1.0 / 128.0
                    };
                    for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                        assert!(
                            (found - expected).abs() <= bound * (1.0 + expected.abs()),
                            "{what}, element {i}: {found}, not {expected}"
                        );
                    }
                }
            }
            assert_eq!(on_device.counts(), on_host.counts());
            assert_eq!(on_device.clone().counts(), on_host.counts());
            assert!(on_host.counts().capped > 0);
        }
    }
}

#[test]
fn other_rows_and_the_states_given_stay() {
    let Some(emulator) = Emulator::new(false) else {
        return;
    };
    let mut hook = steering().hook().on_device(Arc::new(emulator));
    let rows = draw("rows", ROWS * HIDDEN);
    let hidden = Tensor::from_vec(rows.clone(), (ROWS, HIDDEN), &Device::Cpu).unwrap();
    let changed = edited(&mut hook, 0, &[segment(0..ROWS, 5)], &hidden);
    assert_eq!(changed[..5 * HIDDEN], rows[..5 * HIDDEN]);
    assert_ne!(
        changed[5 * HIDDEN..6 * HIDDEN],
        rows[5 * HIDDEN..6 * HIDDEN]
    );
    assert_eq!(
        hidden.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
        rows
    );
}

/// NVRTC takes the kernels; it needs no GPU. `NVRTC_FOLDER` is where `libnvrtc.so.13` lies.
#[test]
#[ignore = "needs libnvrtc.so.13, a download of 90 MB that CI does without; NVRTC_FOLDER says where it lies"]
fn nvrtc_compiles_the_kernels() {
    let folder = std::env::var_os("NVRTC_FOLDER").expect("NVRTC_FOLDER names a folder");
    for architecture in ["sm_80", "sm_89", "sm_90"] {
        let launcher = Arc::new(CompileOnly::new(folder.as_ref(), architecture));
        for dtype in [DType::F32, DType::BF16] {
            let mut hook = steering().hook().on_device(launcher.clone());
            let hidden = Tensor::zeros((ROWS, HIDDEN), dtype, &Device::Cpu).unwrap();
            for layer in steering().layers() {
                let segments = [segment(0..ROWS, 0)];
                assert!(hook.on_block(layer, &segments, &hidden).unwrap().is_some());
            }
        }
    }
}
