//! The steering file: tensors by layer and operator, and one metadata key with canonical JSON.
//!
//! Tensors are `layer.{i}.{k}.vector`, `layer.{i}.{k}.normal`, `layer.{i}.{k}.angle.{m}.weight` and
//! `….bias`: operator `k` of layer `i`. The same steering always gives the same bytes.

use crate::SteeringError;
use crate::angle_net::{AngleNet, Linear};
use crate::fit_summary::FitSummary;
use crate::householder::{AngleRule, Householder};
use crate::operator::{Additive, Edit, Operator};
use crate::real::all_finite;
use crate::steering::{Compose, Steering};
use serde::{Deserialize, Serialize};
use sims_artifact::{ArtifactError, Digest, TensorData, TensorFile, write_tensors};
use std::collections::BTreeMap;
use std::path::Path;

/// The format this program writes, and the only one it reads.
const FORMAT: u64 = 1;

/// The metadata of a steering file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: u64,
    operator: String,
    compose: Compose,
    layers: Vec<usize>,
    strength: f64,
    model: Digest,
    hidden_size: usize,
    num_hidden_layers: usize,
    edits: Vec<EditHeader>,
    fit: Option<FitSummary>,
}

/// The numbers of one edit; its tensors lie under `layer.{layer}.{index}.`.
#[derive(Serialize, Deserialize)]
struct EditHeader {
    layer: usize,
    index: usize,
    strength: f64,
    preserve_norm: bool,
    #[serde(flatten)]
    kind: KindHeader,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum KindHeader {
    Additive,
    Householder {
        edge: f64,
        kappa: Option<f64>,
        max_angle: Option<f64>,
        angle: AngleHeader,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "rule", rename_all = "kebab-case")]
enum AngleHeader {
    Net {
        depth: usize,
        input_scale: f64,
        scale: f64,
    },
    Fixed {
        angle: f64,
    },
    Remaining {
        target: f64,
        scale: f64,
    },
}

impl Steering {
    /// Writes the steering to a safetensors file, atomically; equal steerings give equal bytes.
    ///
    /// # Errors
    /// [`SteeringError::Artifact`] if writing fails.
    pub fn save(&self, path: &Path) -> Result<(), SteeringError> {
        let mut tensors = BTreeMap::new();
        let mut edits = Vec::new();
        for (&layer, list) in &self.layers {
            for (index, edit) in list.iter().enumerate() {
                let prefix = format!("layer.{layer}.{index}");
                edits.push(EditHeader {
                    layer,
                    index,
                    strength: edit.strength,
                    preserve_norm: edit.preserve_norm,
                    kind: write_operator(&prefix, &edit.operator, &mut tensors),
                });
            }
        }
        let header = Header {
            format: FORMAT,
            operator: self.operator.clone(),
            compose: self.compose,
            layers: self.layers(),
            strength: self.strength,
            model: self.model,
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            edits,
            fit: self.fit.clone(),
        };
        let metadata = serde_json::to_value(header)
            .map_err(|error| invalid(path, format!("its metadata cannot be written: {error}")))?;
        Ok(write_tensors(path, &tensors, &metadata)?)
    }

    /// Reads a steering from a safetensors file.
    ///
    /// Whether it belongs to the model at hand is for [`Steering::check_model`] to say.
    ///
    /// # Errors
    /// [`SteeringError::Artifact`] if the file cannot be read, [`SteeringError::Format`] for another
    /// version, [`SteeringError::Invalid`] for tensors that are missing, of another shape or not finite,
    /// and for layers that the model does not have.
    pub fn load(path: &Path) -> Result<Self, SteeringError> {
        let file = TensorFile::open(path)?;
        let metadata = file.metadata();
        let format = metadata.get("format").and_then(serde_json::Value::as_u64);
        match format {
            Some(FORMAT) => {}
            Some(found) => {
                return Err(SteeringError::Format {
                    path: path.to_owned(),
                    found,
                    supported: FORMAT,
                });
            }
            None => return Err(invalid(path, "its metadata names no steering format")),
        }
        let header: Header = serde_json::from_value(metadata.clone())
            .map_err(|error| invalid(path, format!("its metadata: {error}")))?;
        let mut steering =
            Self::identity(header.model, header.hidden_size, header.num_hidden_layers);
        for edit in header.edits {
            let prefix = format!("layer.{}.{}", edit.layer, edit.index);
            if edit.index != steering.edits(edit.layer).len() {
                return Err(invalid(path, format!("{prefix} is out of order")));
            }
            let operator = read_operator(&file, path, &prefix, edit.kind)?;
            steering
                .push(
                    edit.layer,
                    Edit {
                        operator,
                        strength: edit.strength,
                        preserve_norm: edit.preserve_norm,
                    },
                )
                .map_err(|error| invalid(path, format!("{prefix}: {error}")))?;
        }
        if steering.layers() != header.layers {
            return Err(invalid(
                path,
                format!(
                    "it names layers {:?} but edits {:?}",
                    header.layers,
                    steering.layers()
                ),
            ));
        }
        if !header.strength.is_finite() {
            return Err(invalid(
                path,
                format!("its strength is {}", header.strength),
            ));
        }
        steering.strength = header.strength;
        steering.operator = header.operator;
        steering.compose = header.compose;
        steering.fit = header.fit;
        Ok(steering)
    }
}

fn write_operator(
    prefix: &str,
    operator: &Operator,
    tensors: &mut BTreeMap<String, TensorData>,
) -> KindHeader {
    match operator {
        Operator::Additive(additive) => {
            let vector = TensorData::vector(additive.vector().to_vec());
            tensors.insert(format!("{prefix}.vector"), vector);
            KindHeader::Additive
        }
        Operator::Householder(householder) => {
            let normal = TensorData::vector(householder.normal().to_vec());
            tensors.insert(format!("{prefix}.normal"), normal);
            let angle = match householder.angle() {
                AngleRule::Net {
                    net,
                    input_scale,
                    scale,
                } => {
                    for (index, layer) in net.layers.iter().enumerate() {
                        let name = format!("{prefix}.angle.{index}");
                        tensors.insert(
                            format!("{name}.weight"),
                            TensorData::matrix(
                                layer.outputs(),
                                layer.inputs(),
                                layer.weight.clone(),
                            ),
                        );
                        tensors.insert(
                            format!("{name}.bias"),
                            TensorData::vector(layer.bias.clone()),
                        );
                    }
                    AngleHeader::Net {
                        depth: net.layers.len(),
                        input_scale: *input_scale,
                        scale: *scale,
                    }
                }
                AngleRule::Fixed { angle } => AngleHeader::Fixed { angle: *angle },
                AngleRule::Remaining { target, scale } => AngleHeader::Remaining {
                    target: *target,
                    scale: *scale,
                },
            };
            KindHeader::Householder {
                edge: householder.edge(),
                kappa: householder.kappa(),
                max_angle: householder.max_angle(),
                angle,
            }
        }
    }
}

fn read_operator(
    file: &TensorFile,
    path: &Path,
    prefix: &str,
    kind: KindHeader,
) -> Result<Operator, SteeringError> {
    match kind {
        KindHeader::Additive => {
            let vector = read_vector(file, path, &format!("{prefix}.vector"))?;
            Ok(Operator::Additive(Additive::new(vector)?))
        }
        KindHeader::Householder {
            edge,
            kappa,
            max_angle,
            angle,
        } => {
            let normal = read_vector(file, path, &format!("{prefix}.normal"))?;
            let rule = match angle {
                AngleHeader::Net {
                    depth,
                    input_scale,
                    scale,
                } => AngleRule::Net {
                    net: read_net(file, path, prefix, depth)?,
                    input_scale,
                    scale,
                },
                AngleHeader::Fixed { angle } => AngleRule::Fixed { angle },
                AngleHeader::Remaining { target, scale } => AngleRule::Remaining { target, scale },
            };
            Householder::new(normal, edge, rule, kappa, max_angle)
                .map(Operator::Householder)
                .map_err(|error| invalid(path, format!("{prefix}: {error}")))
        }
    }
}

fn read_net(
    file: &TensorFile,
    path: &Path,
    prefix: &str,
    depth: usize,
) -> Result<AngleNet, SteeringError> {
    let mut layers: Vec<Linear> = Vec::new();
    for index in 0..depth {
        let name = format!("{prefix}.angle.{index}");
        let bias = read_vector(file, path, &format!("{name}.bias"))?;
        let weight = read_finite(file, path, &format!("{name}.weight"))?;
        let inputs = layers.last().map(Linear::outputs);
        match weight.shape[..] {
            [outputs, width] if outputs == bias.len() && inputs.is_none_or(|n| n == width) => {
                layers.push(Linear {
                    weight: weight.values,
                    bias,
                });
            }
            _ => {
                let message = format!("{name}.weight has the shape {:?}", weight.shape);
                return Err(invalid(path, message));
            }
        }
    }
    if layers.last().map(Linear::outputs) != Some(1) {
        return Err(invalid(
            path,
            format!("{prefix}.angle does not end in one output"),
        ));
    }
    Ok(AngleNet { layers })
}

fn read_vector(file: &TensorFile, path: &Path, name: &str) -> Result<Vec<f32>, SteeringError> {
    let tensor = read_finite(file, path, name)?;
    match tensor.shape[..] {
        [_] => Ok(tensor.values),
        _ => Err(invalid(
            path,
            format!("{name} has the shape {:?}, not [hidden]", tensor.shape),
        )),
    }
}

fn read_finite(file: &TensorFile, path: &Path, name: &str) -> Result<TensorData, SteeringError> {
    let tensor = file.read(name).map_err(|error| match error {
        ArtifactError::MissingTensor { .. } => invalid(path, format!("tensor {name} is missing")),
        other => other.into(),
    })?;
    if !all_finite(&tensor.values) {
        return Err(invalid(
            path,
            format!("tensor {name} has a NaN or infinite value"),
        ));
    }
    Ok(tensor)
}

fn invalid(path: &Path, message: impl Into<String>) -> SteeringError {
    SteeringError::Invalid {
        path: path.to_owned(),
        message: message.into(),
    }
}

#[cfg(test)]
mod tests {
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
        for (layer, operator) in [(2, faithful), (4, fixed), (4, remaining)] {
            let mut edit = Edit::new(Operator::Householder(operator));
            edit.strength = 1.0 / 3.0;
            edit.preserve_norm = layer == 4;
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
        assert!(text.contains("layer 4 is out of range"), "{text}");
        let text = refused(|metadata, _| metadata["edits"][0]["kind"] = "pca".into());
        assert!(text.contains("pca"), "{text}");
    }
}
