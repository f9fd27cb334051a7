//! Conditions: fitted to prompt states, and what is refused.

use crate::planted::{Bench, HIDDEN, LAYERS, Planted};
use serde_json::json;
use sims_artifact::tables::StateIndexRow;
use sims_artifact::{Digest, TensorData, write_table, write_tensors};
use sims_stats::random::Stream;
use std::collections::BTreeMap;

/// Prompt states to write: what they are called, where they lie, and what they say of themselves.
struct Prompts<'a> {
    name: &'a str,
    /// Prefix of the prompts' ids.
    ids: &'a str,
    count: usize,
    /// Added to the first component at layer 1; a third of it at layer 2.
    offset: f32,
    positions: &'a str,
    model: Digest,
    layers: &'a [usize],
}

impl<'a> Prompts<'a> {
    fn new(bench: &Bench, name: &'a str, offset: f32) -> Self {
        Self {
            name,
            ids: name,
            count: 60,
            offset,
            positions: "prompt",
            model: bench.model(),
            layers: &[1, 2],
        }
    }

    fn write(&self, bench: &Bench) {
        let mut tensors = BTreeMap::new();
        for &layer in self.layers {
            let mut stream = Stream::new(layer as u64, self.name.len() as u64);
            let mut values: Vec<f32> = (0..self.count * HIDDEN)
                .map(|_| 2.0 * stream.next_f64() as f32)
                .collect();
            let offset = self.offset / if layer == 1 { 1.0 } else { 3.0 };
            values.iter_mut().step_by(HIDDEN).for_each(|x| *x += offset);
            for class in ["positive", "negative"] {
                let tensor = TensorData::matrix(self.count, HIDDEN, values.clone());
                tensors.insert(format!("layer.{layer}.{class}"), tensor);
            }
        }
        let metadata = json!({
            "format": 1, "model": self.model, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
            "layers": self.layers, "positions": self.positions, "dtype": "f32", "steering": null,
        });
        let path = bench.out(&format!("{}.safetensors", self.name));
        write_tensors(&path, &tensors, &metadata).unwrap();
        let index: Vec<StateIndexRow> = (0..self.count)
            .map(|row| StateIndexRow {
                row: row as u32,
                pair_id: format!("{}-{row}", self.ids),
                prompt_id: format!("{}-{row}", self.ids),
                position: 3,
                token_id: 5,
                rejected_position: 3,
                rejected_token_id: 5,
            })
            .collect();
        write_table(&bench.out(&format!("{}.parquet", self.name)), &index).unwrap();
    }
}

/// The arguments that name both kinds of prompts.
fn condition(bench: &Bench) -> Vec<String> {
    let mut arguments = Vec::new();
    for name in ["inside", "outside"] {
        let path = |kind: &str| {
            bench
                .out(&format!("{name}.{kind}"))
                .to_str()
                .unwrap()
                .to_owned()
        };
        arguments.extend([format!("--{name}"), path("safetensors")]);
        arguments.extend([format!("--{name}-index"), path("parquet")]);
    }
    arguments
}

fn with<'a>(condition: &'a [String], more: &[&'a str]) -> Vec<&'a str> {
    condition
        .iter()
        .map(String::as_str)
        .chain(more.iter().copied())
        .collect()
}

#[test]
fn every_operator_is_done_on_prompts_inside_alone() {
    let bench = Bench::new(&Planted::default());
    Prompts::new(&bench, "inside", 3.0).write(&bench);
    Prompts::new(&bench, "outside", 0.0).write(&bench);
    let condition = condition(&bench);
    for operator in [
        "mean-difference",
        "random",
        "hpr-target",
        "pca",
        "probe",
        "act",
    ] {
        bench.succeeds("plain", &["--operator", operator]);
        bench.succeeds("out", &with(&condition, &["--operator", operator]));
        let steering = bench.steering("out");
        let [edit] = steering.edits(2) else {
            panic!("layer 2 has other edits than one")
        };
        let [block] = edit.condition.as_ref().unwrap().blocks() else {
            panic!("the condition has other blocks than one")
        };
        // Layer 1 tells the prompts apart better than layer 2.
        assert_eq!(block.layer(), 1);
        let mut state = vec![1.0f64; HIDDEN];
        assert!(!block.holds(&state));
        state[0] = 4.0;
        assert!(block.holds(&state));
        assert_eq!(edit.operator, bench.steering("plain").edits(2)[0].operator);
    }
    let f1 = |layer: u32, split: &str| {
        let rows = bench.report("out");
        let row = rows.iter().find(|row| {
            (row.layer, row.metric.as_str(), row.split.as_str()) == (layer, "condition-f1", split)
        });
        row.map(|row| (row.value, row.selected, row.n)).unwrap()
    };
    assert_eq!(f1(1, "held-out"), (1.0, true, 60));
    assert!(f1(2, "held-out").0 < 1.0 && !f1(2, "held-out").1);
    assert!(f1(1, "train").0 > 0.98);

    // The condition can read no layer above the lowest that is steered.
    let layers = with(&condition, &["--layers", "1,2"]);
    bench.succeeds("low", &layers);
    assert!(bench.steering("low").edits(1)[0].condition.is_some());
}

#[test]
fn conditions_that_make_no_sense_are_refused() {
    let bench = Bench::new(&Planted::default());
    let inside = || Prompts::new(&bench, "inside", 3.0);
    let outside = || Prompts::new(&bench, "outside", 0.0);
    let condition = condition(&bench);
    let refused = |inside: Prompts<'_>, outside: Prompts<'_>, more: &[&str], expected: &str| {
        inside.write(&bench);
        outside.write(&bench);
        let message = bench.refuses(&with(&condition, more));
        assert!(
            message.contains(expected),
            "{expected} is not in: {message}"
        );
    };
    let reask = Prompts {
        positions: "reask",
        ..outside()
    };
    refused(
        inside(),
        reask,
        &[],
        "outside holds the states of positions reask",
    );
    let stranger = Prompts {
        model: Digest::of_bytes(b"other"),
        ..inside()
    };
    refused(
        stranger,
        outside(),
        &[],
        "the condition's states come from model",
    );
    let same = Prompts {
        ids: "inside",
        ..outside()
    };
    refused(inside(), same, &[], "prompt inside-0 is inside and outside");
    let few = Prompts {
        count: 10,
        ..outside()
    };
    refused(inside(), few, &[], "are too few (at least 8 and 8)");
    let alike = Prompts {
        offset: 0.0,
        ..inside()
    };
    refused(
        alike,
        outside(),
        &["--condition-f1", "0.9"],
        "below condition-f1 (0.9)",
    );
    refused(
        inside(),
        outside(),
        &["--condition-f1", "2"],
        "condition-f1 is 2",
    );
    let high = Prompts {
        layers: &[2],
        ..inside()
    };
    refused(
        high,
        outside(),
        &["--layers", "1"],
        "reads layer 1, the lowest that is steered",
    );
    let half = &condition[..4];
    let message = bench.refuses(&with(half, &[]));
    assert!(
        message.contains("these are missing: outside, outside-index"),
        "{message}"
    );
}
