//! Steering files: exact round trips, and what is refused.

use super::*;
use crate::fit_summary::{LayerFit, Signal};
use crate::random::{NormalDraw, stream};

fn sample() -> Steering {
    let mut file = stream(21, "file");
    let mut draw =
        |count: usize| -> Vec<f32> { (0..count).map(|_| file.normal() as f32).collect() };
    let (vector, normals) = (draw(8), [draw(8), draw(8), draw(8)]);
    let net = AngleNet::random(8, 3, &mut stream(21, "net"));
    let [first, second, third] = normals;
    let faithful = Householder::faithful(first, net, 0.3).unwrap();
    let fixed = AngleRule::Fixed { angle: 0.1 };
    let fixed = Householder::new(second, -0.25, fixed, None, Some(0.35)).unwrap();
    let remaining = AngleRule::Remaining {
        target: 0.7,
        scale: 0.3,
    };
    let remaining = Householder::new(third, 0.7, remaining, Some(2.0), None).unwrap();
    let mut steering = Steering::identity(Digest::of_bytes(b"model"), 8, 6);
    steering
        .push(
            2,
            Edit::new(Operator::Additive(Additive::new(vector).unwrap())),
        )
        .unwrap();
    let four = [0.5, -2.0, 0.1, 3.0].map(|x: f32| vec![x; 8]);
    let [shift, low, high, scale] = four;
    let transport = AffineTransport::new(scale, shift, low, high).unwrap();
    steering
        .push(3, Edit::new(Operator::AffineTransport(transport)))
        .unwrap();
    let block = |layer, direction: f32| {
        ConditionBlock::new(layer, vec![0.5; 8], vec![direction; 8], -0.25).unwrap()
    };
    let condition = Condition::new(vec![block(1, 1.0), block(2, -1.0)]).unwrap();
    let condition = Arc::new(condition);
    for (layer, operator) in [(2, faithful), (4, fixed), (4, remaining)] {
        let mut edit = Edit::new(Operator::Householder(operator));
        edit.strength = 1.0 / 3.0;
        edit.preserve_norm = layer == 4;
        edit.condition = (layer == 4).then(|| condition.clone());
        steering.push(layer, edit).unwrap();
    }
    let fit = FitSummary {
        round: 2,
        seed: 17,
        positions: "reask".into(),
        labels: "ranked".into(),
        step: 0.1,
        pairs: 500,
        fit_prompts: 400,
        held_out_prompts: 100,
        signal: Signal {
            auroc: 0.9,
            ci_low: 0.85,
            ci_high: 0.94,
            shuffled: 0.5,
            beats_shuffled: true,
        },
        layers: vec![LayerFit {
            layer: 4,
            state_norm: 11.1,
            difference_norm: 4.4,
            shift: None,
            class_gap: Some(0.43),
            cap_factor: 1.0,
        }],
    };
    steering
        .scaled(0.7)
        .unwrap()
        .described("hpr-target", Compose::Stack, fit)
}

/// T21: a steering comes back bit for bit, and is written to the same bytes again.
#[test]
fn round_trip_is_exact() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (
        folder.path().join("a.safetensors"),
        folder.path().join("b.safetensors"),
    );
    let steering = sample();
    steering.save(&first).unwrap();
    let loaded = Steering::load(&first).unwrap();
    assert_eq!(loaded, steering);
    loaded.save(&second).unwrap();
    assert_eq!(
        std::fs::read(first).unwrap(),
        std::fs::read(second).unwrap()
    );
}

/// T21: the file of another model is refused, and both digests are named.
#[test]
fn another_model_is_refused() {
    let steering = sample();
    let other = Digest::of_bytes(b"another model");
    assert!(steering.check_model(steering.model()).is_ok());
    let text = steering.check_model(&other).unwrap_err().to_string();
    assert!(text.contains(&other.to_string()) && text.contains(&steering.model().to_string()));
}

#[test]
fn identity_round_trips() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("identity.safetensors");
    let identity = Steering::identity(Digest::of_bytes(b"model"), 128, 6);
    identity.save(&path).unwrap();
    let loaded = Steering::load(&path).unwrap();
    assert_eq!(loaded, identity);
    assert!(loaded.is_identity());
}

fn refused(
    change: impl FnOnce(&mut serde_json::Value, &mut BTreeMap<String, TensorData>),
) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.safetensors");
    sample().save(&path).unwrap();
    let file = TensorFile::open(&path).unwrap();
    let mut metadata = file.metadata().clone();
    let mut tensors: BTreeMap<String, TensorData> = file
        .names()
        .into_iter()
        .map(|name| (name.clone(), file.read(&name).unwrap()))
        .collect();
    change(&mut metadata, &mut tensors);
    write_tensors(&path, &tensors, &metadata).unwrap();
    Steering::load(&path).unwrap_err().to_string()
}

#[test]
fn bad_files_are_refused_with_the_reason() {
    let text = refused(|metadata, _| metadata["format"] = 9.into());
    assert!(
        text.contains("format 9") && text.contains("format 1"),
        "{text}"
    );
    let text = refused(|_, tensors| {
        tensors.get_mut("layer.2.0.vector").unwrap().values[3] = f32::NAN;
    });
    assert!(text.contains("layer.2.0.vector has a NaN"), "{text}");
    let text = refused(|_, tensors| {
        tensors.remove("layer.2.1.angle.1.weight");
    });
    assert!(
        text.contains("layer.2.1.angle.1.weight is missing"),
        "{text}"
    );
    let text = refused(|_, tensors| {
        tensors.insert("layer.4.0.normal".into(), TensorData::vector(vec![1.0; 7]));
    });
    assert!(text.contains("hidden size 8, but 7"), "{text}");
    let text = refused(|metadata, _| metadata["num_hidden_layers"] = 3.into());
    assert!(text.contains("layer 3 is out of range"), "{text}");
    let text = refused(|metadata, _| metadata["edits"][0]["kind"] = "pca".into());
    assert!(text.contains("pca"), "{text}");
    let text = refused(|_, tensors| {
        tensors.get_mut("layer.3.0.scale").unwrap().values[2] = -1.0;
    });
    assert!(
        text.contains("layer.3.0: a scale of the transport is -1"),
        "{text}"
    );
    let text = refused(|metadata, _| metadata["conditions"] = serde_json::json!([]));
    assert!(text.contains("layer.4.0: no condition 0"), "{text}");
    let text = refused(|metadata, _| metadata["conditions"][0][1]["threshold"] = 1.5.into());
    assert!(
        text.contains("condition.0: the condition's threshold"),
        "{text}"
    );
    let text = refused(|metadata, _| metadata["conditions"][0][1]["layer"] = 5.into());
    assert!(text.contains("reads layer 5, above layer 4"), "{text}");
    let text = refused(|_, tensors| {
        tensors.remove("condition.0.1.center");
    });
    assert!(text.contains("condition.0.1.center is missing"), "{text}");
}
