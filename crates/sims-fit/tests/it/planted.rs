//! States with a planted direction between the classes, as extraction writes them.

use serde_json::{Value, json};
use sims_artifact::tables::{FitReportRow, StateIndexRow};
use sims_artifact::{Digest, TensorData, read_table, write_table, write_tensors};
use sims_stats::random::Stream;
use sims_steering::Steering;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// Width of the states.
pub(crate) const HIDDEN: usize = 24;
/// Blocks of the model that the states are said to come from.
pub(crate) const LAYERS: usize = 4;
/// Rows a pair.
const ROWS: usize = 2;

/// What the states are like.
pub(crate) struct Planted {
    /// Prompts, with one pair each.
    pub(crate) prompts: usize,
    /// Length of the difference between the classes at layer 2; half of it at layer 1.
    pub(crate) gap: f64,
    /// Standard deviation of every component within a class.
    pub(crate) noise: f64,
    /// A layer and a row whose chosen state is NaN.
    pub(crate) broken: Option<(usize, usize)>,
}

impl Default for Planted {
    fn default() -> Self {
        Self {
            prompts: 120,
            gap: 4.0,
            noise: 0.4,
            broken: None,
        }
    }
}

/// A folder with states, their index, and runs of the stage.
pub(crate) struct Bench {
    folder: TempDir,
    tensors: BTreeMap<String, TensorData>,
    index: Vec<StateIndexRow>,
}

impl Bench {
    pub(crate) fn new(planted: &Planted) -> Self {
        let bench = Self {
            folder: tempfile::tempdir().unwrap(),
            tensors: tensors(planted),
            index: index(planted.prompts),
        };
        bench.read_from_base();
        bench.shorten_index(bench.index.len());
        bench
    }

    /// Makes every component of both classes' states at a layer `value`.
    pub(crate) fn level(&mut self, layer: usize, value: f32) {
        for class in ["positive", "negative"] {
            if let Some(tensor) = self.tensors.get_mut(&format!("layer.{layer}.{class}")) {
                tensor.values.fill(value);
            }
        }
        self.read_from_base();
    }

    /// Says that the states were read from the base model.
    pub(crate) fn read_from_base(&self) {
        self.write_states(Value::Null);
    }

    /// Says that the states were read under a steering.
    pub(crate) fn read_under(&self, steering: &Path) {
        self.write_states(json!(Digest::of_file(steering).unwrap()));
    }

    /// Writes the first `rows` rows of the index.
    pub(crate) fn shorten_index(&self, rows: usize) {
        write_table(&self.out("index.parquet"), &self.index[..rows]).unwrap();
    }

    /// Says that the states are what four heads put out.
    pub(crate) fn read_from_heads(&self) {
        self.read_from_heads_of(HIDDEN);
    }

    /// As those of a model whose residual stream has another width than all its heads together.
    pub(crate) fn read_from_heads_of(&self, hidden_size: usize) {
        let heads = json!({"num_attention_heads": 4, "head_dim": HIDDEN / 4});
        self.write(Value::Null, hidden_size, Some(heads));
    }

    fn write_states(&self, steering: Value) {
        self.write(steering, HIDDEN, None);
    }

    fn write(&self, steering: Value, hidden_size: usize, heads: Option<Value>) {
        let mut metadata = json!({
            "format": 1, "model": self.model(), "hidden_size": hidden_size, "num_hidden_layers": LAYERS,
            "layers": [1, 2], "positions": "response", "dtype": "f32", "steering": steering,
        });
        if let Some(heads) = heads {
            metadata["heads"] = heads;
        }
        write_tensors(&self.out("states.safetensors"), &self.tensors, &metadata).unwrap();
    }

    pub(crate) fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn model(&self) -> Digest {
        Digest::of_bytes(b"planted model")
    }

    /// The planted direction, a unit vector.
    pub(crate) fn direction(&self) -> Vec<f64> {
        direction()
    }

    /// The chosen and the rejected states of a layer.
    pub(crate) fn states(&self, layer: usize) -> (Vec<Vec<f32>>, Vec<Vec<f32>>) {
        let rows = |class: &str| {
            let values = &self.tensors[&format!("layer.{layer}.{class}")].values;
            values.chunks(HIDDEN).map(<[f32]>::to_vec).collect()
        };
        (rows("positive"), rows("negative"))
    }

    fn run(&self, out: &str, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_sims-fit"))
            .arg("--states")
            .arg(self.out("states.safetensors"))
            .arg("--index")
            .arg(self.out("index.parquet"))
            .arg("--out")
            .arg(self.out(out))
            .args(arguments)
            .output()
            .unwrap()
    }

    /// Runs the stage, which must succeed, and returns its warnings.
    pub(crate) fn succeeds(&self, out: &str, arguments: &[&str]) -> Vec<String> {
        let output = self.run(out, arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {message}");
        let summary = std::fs::read_to_string(self.out(out).join("summary.json")).unwrap();
        let summary: Value = serde_json::from_str(&summary).unwrap();
        let warnings = summary["warnings"].as_array().cloned().unwrap_or_default();
        warnings
            .iter()
            .map(|text| text.as_str().unwrap().to_owned())
            .collect()
    }

    /// Runs the stage, which must refuse its input, and returns its message.
    pub(crate) fn refuses(&self, arguments: &[&str]) -> String {
        let output = self.run("bad", arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(!self.out("bad").join("steering.safetensors").exists());
        message
    }

    pub(crate) fn steering(&self, out: &str) -> Steering {
        Steering::load(&self.out(out).join("steering.safetensors")).unwrap()
    }

    pub(crate) fn report(&self, out: &str) -> Vec<FitReportRow> {
        read_table(&self.out(out).join("fit-report.parquet")).unwrap()
    }
}

fn normal(stream: &mut Stream) -> f64 {
    let radius = (-2.0 * (1.0 - stream.next_f64()).ln()).sqrt();
    radius * (std::f64::consts::TAU * stream.next_f64()).cos()
}

fn direction() -> Vec<f64> {
    let mut stream = Stream::new(1, 1);
    let draw: Vec<f64> = (0..HIDDEN).map(|_| normal(&mut stream)).collect();
    let length = draw.iter().map(|x| x * x).sum::<f64>().sqrt();
    draw.iter().map(|x| x / length).collect()
}

fn tensors(planted: &Planted) -> BTreeMap<String, TensorData> {
    let direction = direction();
    let mut tensors = BTreeMap::new();
    for (layer, gap) in [(1, planted.gap / 2.0), (2, planted.gap)] {
        let mut stream = Stream::new(2, layer);
        // What all states share: norms are about 10, as if the class were a small part of the state.
        let offset: Vec<f64> = (0..HIDDEN).map(|_| 2.0 * normal(&mut stream)).collect();
        for (class, sign) in [("positive", 0.5), ("negative", -0.5)] {
            let mut values = Vec::new();
            for _ in 0..planted.prompts * ROWS {
                values.extend(offset.iter().zip(&direction).map(|(o, d)| {
                    (o + sign * gap * d + planted.noise * normal(&mut stream)) as f32
                }));
            }
            if let (Some((broken, row)), "positive") = (planted.broken, class)
                && broken == layer as usize
            {
                values[row * HIDDEN + 3] = f32::NAN;
            }
            let tensor = TensorData::matrix(planted.prompts * ROWS, HIDDEN, values);
            tensors.insert(format!("layer.{layer}.{class}"), tensor);
        }
    }
    tensors
}

fn index(prompts: usize) -> Vec<StateIndexRow> {
    (0..prompts * ROWS)
        .map(|row| StateIndexRow {
            row: row as u32,
            pair_id: format!("pair-{}", row / ROWS),
            prompt_id: format!("prompt-{}", row / ROWS),
            position: (row % ROWS) as u32,
            token_id: 5,
            rejected_position: (row % ROWS) as u32,
            rejected_token_id: 6,
        })
        .collect()
}
