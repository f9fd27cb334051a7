//! The steering file: tensors by layer and operator, and one metadata key with canonical JSON.
//!
//! Tensors are `layer.{i}.{k}.vector`, `layer.{i}.{k}.normal`, `layer.{i}.{k}.angle.{m}.weight` and
//! `….bias`, and `layer.{i}.{k}.scale`, `….shift`, `….low` and `….high` of a transport: operator `k` of layer `i`;
//! `layer.{i}.heads` is added to its attention heads. Conditions are `condition.{n}.{m}.center` and `….direction`:
//! block `m` of condition `n`. The same steering always gives the same bytes.

use crate::SteeringError;
use crate::affine_transport::AffineTransport;
use crate::angle_net::{AngleNet, Linear};
use crate::condition::{Condition, ConditionBlock};
use crate::fit_summary::FitSummary;
use crate::heads::HeadShift;
use crate::householder::{AngleRule, Householder};
use crate::operator::{Additive, Edit, Operator};
use crate::real::all_finite;
use crate::steering::{Compose, Steering};
use serde::{Deserialize, Serialize};
use sims_artifact::{ArtifactError, Digest, TensorData, TensorFile, write_tensors};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

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
    /// Blocks of each condition; the tensors of block `m` of condition `n` lie under `condition.{n}.{m}.`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    conditions: Vec<Vec<BlockHeader>>,
    /// Layers with shifted heads; the tensors are `layer.{layer}.heads`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    heads: Vec<HeadsHeader>,
    fit: Option<FitSummary>,
}

/// A layer's shift of heads.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadsHeader {
    layer: usize,
    head_dim: usize,
}

/// The numbers of one edit; its tensors lie under `layer.{layer}.{index}.`.
#[derive(Serialize, Deserialize)]
struct EditHeader {
    layer: usize,
    index: usize,
    strength: f64,
    preserve_norm: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    condition: Option<usize>,
    #[serde(flatten)]
    kind: KindHeader,
}

/// The numbers of a condition's block.
#[derive(Serialize, Deserialize)]
struct BlockHeader {
    layer: usize,
    threshold: f64,
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
    AffineTransport,
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
        let mut conditions: Vec<&Arc<Condition>> = Vec::new();
        for (&layer, list) in &self.layers {
            for (index, edit) in list.iter().enumerate() {
                let prefix = format!("layer.{layer}.{index}");
                let number = |condition| {
                    let known = conditions.iter().position(|&known| known == condition);
                    known.unwrap_or_else(|| {
                        conditions.push(condition);
                        conditions.len() - 1
                    })
                };
                edits.push(EditHeader {
                    layer,
                    index,
                    strength: edit.strength,
                    preserve_norm: edit.preserve_norm,
                    condition: edit.condition.as_ref().map(number),
                    kind: write_operator(&prefix, &edit.operator, &mut tensors),
                });
            }
        }
        let mut heads = Vec::new();
        for (&layer, shift) in &self.heads {
            let tensor = TensorData::vector(shift.vector().to_vec());
            tensors.insert(format!("layer.{layer}.heads"), tensor);
            heads.push(HeadsHeader {
                layer,
                head_dim: shift.head_dim(),
            });
        }
        let header = Header {
            heads,
            format: FORMAT,
            operator: self.operator.clone(),
            compose: self.compose,
            layers: self.layers(),
            strength: self.strength,
            model: self.model,
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            edits,
            conditions: write_conditions(&conditions, &mut tensors),
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
        let conditions = read_conditions(&file, path, &header.conditions)?;
        for edit in header.edits {
            let prefix = format!("layer.{}.{}", edit.layer, edit.index);
            if edit.index != steering.edits(edit.layer).len() {
                return Err(invalid(path, format!("{prefix} is out of order")));
            }
            let operator = read_operator(&file, path, &prefix, edit.kind)?;
            let condition = edit.condition.map(|number| {
                let known = conditions.get(number).cloned();
                known.ok_or_else(|| invalid(path, format!("{prefix}: no condition {number}")))
            });
            steering
                .push(
                    edit.layer,
                    Edit {
                        operator,
                        strength: edit.strength,
                        preserve_norm: edit.preserve_norm,
                        condition: condition.transpose()?,
                    },
                )
                .map_err(|error| invalid(path, format!("{prefix}: {error}")))?;
        }
        for HeadsHeader { layer, head_dim } in header.heads {
            let name = format!("layer.{layer}.heads");
            let vector = read_vector(&file, path, &name)?;
            HeadShift::new(head_dim, vector)
                .and_then(|shift| steering.push_heads(layer, shift))
                .map_err(|error| invalid(path, format!("{name}: {error}")))?;
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

fn write_conditions(
    conditions: &[&Arc<Condition>],
    tensors: &mut BTreeMap<String, TensorData>,
) -> Vec<Vec<BlockHeader>> {
    let mut headers = Vec::with_capacity(conditions.len());
    for (number, condition) in conditions.iter().enumerate() {
        let mut blocks = Vec::new();
        for (index, block) in condition.blocks().iter().enumerate() {
            for (name, values) in [("center", block.center()), ("direction", block.direction())] {
                let tensor = TensorData::vector(values.to_vec());
                tensors.insert(format!("condition.{number}.{index}.{name}"), tensor);
            }
            blocks.push(BlockHeader {
                layer: block.layer(),
                threshold: block.threshold(),
            });
        }
        headers.push(blocks);
    }
    headers
}

fn read_conditions(
    file: &TensorFile,
    path: &Path,
    headers: &[Vec<BlockHeader>],
) -> Result<Vec<Arc<Condition>>, SteeringError> {
    let mut conditions = Vec::with_capacity(headers.len());
    for (number, blocks) in headers.iter().enumerate() {
        let prefix = format!("condition.{number}");
        let refused = |error: SteeringError| invalid(path, format!("{prefix}: {error}"));
        let mut read = Vec::with_capacity(blocks.len());
        for (index, header) in blocks.iter().enumerate() {
            let vector = |name| read_vector(file, path, &format!("{prefix}.{index}.{name}"));
            let (center, direction) = (vector("center")?, vector("direction")?);
            let block = ConditionBlock::new(header.layer, center, direction, header.threshold);
            read.push(block.map_err(refused)?);
        }
        conditions.push(Arc::new(Condition::new(read).map_err(refused)?));
    }
    Ok(conditions)
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
        Operator::AffineTransport(transport) => {
            for (name, values) in [
                ("scale", transport.scale()),
                ("shift", transport.shift()),
                ("low", transport.low()),
                ("high", transport.high()),
            ] {
                let tensor = TensorData::vector(values.to_vec());
                tensors.insert(format!("{prefix}.{name}"), tensor);
            }
            KindHeader::AffineTransport
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
        KindHeader::AffineTransport => {
            let vector = |name| read_vector(file, path, &format!("{prefix}.{name}"));
            let (scale, shift) = (vector("scale")?, vector("shift")?);
            AffineTransport::new(scale, shift, vector("low")?, vector("high")?)
                .map(Operator::AffineTransport)
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
#[path = "steering_file_tests.rs"]
mod tests;
