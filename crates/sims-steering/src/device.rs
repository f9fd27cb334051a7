//! Edits on the device that the hidden states are on, so that a steered step has no copy to the host.
//!
//! The arithmetic is the host's, in other orders of summation; the angle network's products are candle's.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use sims_model::gpu::{
    Argument, Launch, Launcher, Program, launcher_of, new_output, with_addresses,
};
use sims_model::{ModelError, Result};

use crate::affine_transport::AffineTransport;
use crate::angle_net::AngleNet;
use crate::hook::{EditedRange, ReadyEdit};
use crate::householder::{AngleRule, Householder};
use crate::operator::Operator;

/// Threads of a block, as in the kernels' source.
const THREADS: usize = 256;

/// Most blocks of a kernel that loops over its elements.
const MOST_BLOCKS: usize = 4096;

/// A hook's edits on a device; empty until the hook first meets states on one that has kernels.
#[derive(Default)]
pub(crate) struct OnDevice {
    launcher: Option<Arc<dyn Launcher>>,
    /// One entry a device.
    edits: Vec<Edits>,
    /// Rows edited and capped, as counted by the hook that this one was cloned from.
    carried: (u64, u64),
}

/// The edits as tensors on one device.
struct Edits {
    device: Device,
    launcher: Arc<dyn Launcher>,
    program: Program,
    layers: BTreeMap<usize, Vec<DeviceEdit>>,
    /// `[2]`, i64: rows edited and capped.
    counts: Tensor,
    /// The rows last edited, as they are on the device.
    last_rows: Option<(Vec<EditedRange>, Rows)>,
}

/// Rows to edit.
#[derive(Clone)]
struct Rows {
    /// `[rows]`, u32: their indices.
    indices: Tensor,
    /// `[rows]`, u32: 1 for each that is counted.
    counted: Tensor,
}

/// One edit of a layer.
struct DeviceEdit {
    /// The number of its condition.
    gate: Option<usize>,
    preserve_norm: bool,
    kind: Kind,
}

/// What an edit does; vectors are `[hidden]`, f32.
enum Kind {
    /// Adds a vector.
    Add(Tensor),
    /// Turns toward a normal.
    Turn(Tensor, Turn),
    /// Moves coordinates inside their support: scale, shift, low, high, and the share of the way.
    Transport([Tensor; 4], f64),
}

/// What a turn needs besides the normal.
struct Turn {
    net: Option<Net>,
    /// The arguments of the kernel from `rule` on but for `preserve_norm`, as the kernel's source describes them.
    rule: i32,
    numbers: [f64; 7],
}

/// The angle network: weights `[inputs, outputs]` and biases `[outputs]`, the last bias apart.
struct Net {
    hidden_layers: Vec<(Tensor, Tensor)>,
    last_weight: Tensor,
    last_bias: f32,
    input_scale: f64,
}

impl OnDevice {
    /// Edits with kernels that `launcher` starts, whatever the device.
    pub(crate) fn with_launcher(launcher: Arc<dyn Launcher>) -> Self {
        Self {
            launcher: Some(launcher),
            ..Self::default()
        }
    }

    /// Returns `hidden` with the rows of `ranges` edited; nothing where its device has no kernels.
    ///
    /// `layers` are the hook's edits with the steering's strength in them.
    pub(crate) fn apply(
        &mut self,
        layers: &BTreeMap<usize, Vec<ReadyEdit>>,
        layer: usize,
        hidden: &Tensor,
        ranges: &[EditedRange],
    ) -> Result<Option<Tensor>> {
        let device = hidden.device();
        let known = |edits: &Edits| edits.device.same_device(device);
        let index = match self.edits.iter().position(known) {
            Some(index) => index,
            None => {
                let launcher = match &self.launcher {
                    Some(launcher) => Some(launcher.clone()),
                    None => launcher_of(device)?,
                };
                let Some(launcher) = launcher else {
                    return Ok(None);
                };
                let edits = Edits::new(layers, launcher, device, hidden.dtype())?;
                self.edits.push(edits);
                self.edits.len() - 1
            }
        };
        let edits = &mut self.edits[index];
        // Rows for which the same conditions hold are edited together.
        let mut edited = None;
        let mut left: Vec<EditedRange> = ranges.to_vec();
        while let Some(first) = left.first() {
            let holds = first.holds.clone();
            let (group, rest): (Vec<_>, Vec<_>) =
                left.into_iter().partition(|range| range.holds == holds);
            edited = Some(edits.apply(layer, edited.as_ref().unwrap_or(hidden), &group)?);
            left = rest;
        }
        Ok(edited)
    }

    /// Returns how many rows were edited and capped; waits for the device.
    pub(crate) fn counts(&self) -> Result<(u64, u64)> {
        let (mut edited, mut capped) = self.carried;
        for edits in &self.edits {
            let counts = edits.counts.to_vec1::<i64>()?;
            edited += counts[0] as u64;
            capped += counts[1] as u64;
        }
        Ok((edited, capped))
    }
}

impl Clone for OnDevice {
    /// The clone counts on from here, and makes its own tensors.
    fn clone(&self) -> Self {
        Self {
            launcher: self.launcher.clone(),
            edits: Vec::new(),
            carried: self.counts().unwrap_or(self.carried),
        }
    }
}

impl fmt::Debug for OnDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OnDevice")
            .field("devices", &self.edits.len())
            .finish_non_exhaustive()
    }
}

impl Edits {
    fn new(
        layers: &BTreeMap<usize, Vec<ReadyEdit>>,
        launcher: Arc<dyn Launcher>,
        device: &Device,
        dtype: DType,
    ) -> Result<Self> {
        let definitions = [("BF16", usize::from(dtype == DType::BF16))];
        // Fused operations would change the host's GELU; the sums are in f64 anyway.
        let text = include_str!("device/steering.cu");
        let program = Program::new("steering", text, &definitions, false);
        let layers = layers.iter().map(|(&layer, edits)| {
            let edits = edits.iter().map(|ready| DeviceEdit::new(ready, device));
            Ok((layer, edits.collect::<Result<_>>()?))
        });
        Ok(Self {
            launcher,
            program,
            layers: layers.collect::<Result<_>>()?,
            counts: Tensor::zeros(2, DType::I64, device)?,
            device: device.clone(),
            last_rows: None,
        })
    }

    /// Edits `ranges`, for which the same conditions hold.
    fn apply(&mut self, layer: usize, hidden: &Tensor, ranges: &[EditedRange]) -> Result<Tensor> {
        let (all_rows, width) = hidden.dims2()?;
        let Rows { indices, counted } = self.rows(ranges)?;
        let count = indices.dim(0)?;
        let rows = new_output((count, width), DType::F32, &self.device)?;
        let width_argument = Argument::int(width);
        with_addresses(&[hidden, &indices], &[&rows], &mut |found| {
            let [hidden, indices, rows] = [0, 1, 2].map(|i| Argument::Address(found[i]));
            let arguments = [hidden, indices, rows, width_argument];
            self.start("gather_rows", count, &arguments)
        })?;
        for edit in self.layers.get(&layer).map_or(&[][..], Vec::as_slice) {
            if ranges
                .iter()
                .all(|range| edit.gate.is_none_or(|gate| range.holds[gate]))
            {
                self.edit(edit, &rows, &counted)?;
            }
        }
        let edited = if count == all_rows {
            new_output((all_rows, width), hidden.dtype(), &self.device)?
        } else {
            hidden.copy()?
        };
        with_addresses(&[&rows, &indices], &[&edited], &mut |found| {
            let [rows, indices, edited] = [0, 1, 2].map(|i| Argument::Address(found[i]));
            let arguments = [rows, indices, edited, width_argument];
            self.start("scatter_rows", count, &arguments)
        })?;
        Ok(edited)
    }

    /// Edits `rows`, `[rows, hidden]` in f32, in place.
    fn edit(&self, edit: &DeviceEdit, rows: &Tensor, counted: &Tensor) -> Result<()> {
        let (count, width) = rows.dims2()?;
        let preserve_norm = Argument::Int(i32::from(edit.preserve_norm));
        match &edit.kind {
            Kind::Add(vector) => {
                let reads = [vector, counted];
                with_addresses(&reads, &[rows, &self.counts], &mut |found| {
                    let [vector, counted, rows, counts] =
                        [0, 1, 2, 3].map(|i| Argument::Address(found[i]));
                    let numbers = [Argument::int(width), preserve_norm];
                    let arguments = [&[rows, vector, counted, counts], &numbers[..]].concat();
                    self.start("add_vector", count, &arguments)
                })
            }
            Kind::Turn(normal, turn) => self.turn(normal, turn, rows, counted, preserve_norm),
            Kind::Transport([scale, shift, low, high], share) => {
                let reads = [scale, shift, low, high, counted];
                with_addresses(&reads, &[rows, &self.counts], &mut |found| {
                    let [scale, shift, low, high, counted, rows, counts] =
                        [0, 1, 2, 3, 4, 5, 6].map(|i| Argument::Address(found[i]));
                    let addresses = [rows, scale, shift, low, high, counted, counts];
                    let numbers = [
                        Argument::int(width),
                        preserve_norm,
                        Argument::Double(*share),
                    ];
                    self.start(
                        "transport_rows",
                        count,
                        &[&addresses, &numbers[..]].concat(),
                    )
                })
            }
        }
    }

    /// Turns `rows`, `[rows, hidden]` in f32, in place.
    fn turn(
        &self,
        normal: &Tensor,
        turn: &Turn,
        rows: &Tensor,
        counted: &Tensor,
        preserve_norm: Argument,
    ) -> Result<()> {
        let (count, width) = rows.dims2()?;
        let (logits, bias) = match &turn.net {
            Some(net) => (Some(self.logits(net, rows)?), net.last_bias),
            None => (None, 0.0),
        };
        // A rule without a network is given an address and reads nothing there.
        let reads = [normal, logits.as_ref().unwrap_or(normal), counted];
        with_addresses(&reads, &[rows, &self.counts], &mut |found| {
            let [normal, logits, counted, rows, counts] =
                [0, 1, 2, 3, 4].map(|i| Argument::Address(found[i]));
            let mut arguments = vec![rows, normal, logits, counted, counts];
            arguments.push(Argument::int(width));
            arguments.extend([
                Argument::Int(turn.rule),
                preserve_norm,
                Argument::Float(bias),
            ]);
            arguments.extend(turn.numbers.map(Argument::Double));
            self.start("turn_rows", count, &arguments)
        })
    }

    /// Returns the angle network's outputs before the last bias, `[rows, 1]`.
    fn logits(&self, net: &Net, rows: &Tensor) -> Result<Tensor> {
        let mut values = new_output(rows.shape(), DType::F32, &self.device)?;
        let elements = rows.elem_count();
        with_addresses(&[rows], &[&values], &mut |found| {
            let [x, out] = [0, 1].map(|i| Argument::Address(found[i]));
            let numbers = [
                Argument::Long(elements as i64),
                Argument::Double(net.input_scale),
            ];
            self.start(
                "scale_rows",
                blocks(elements),
                &[[x, out], numbers].concat(),
            )
        })?;
        for (weight, bias) in &net.hidden_layers {
            values = values.matmul(weight)?;
            let (elements, width) = (values.elem_count(), bias.elem_count());
            with_addresses(&[bias], &[&values], &mut |found| {
                let [bias, values] = [0, 1].map(|i| Argument::Address(found[i]));
                let numbers = [Argument::Long(elements as i64), Argument::int(width)];
                self.start(
                    "add_bias_gelu",
                    blocks(elements),
                    &[[values, bias], numbers].concat(),
                )
            })?;
        }
        Ok(values.matmul(&net.last_weight)?)
    }

    /// Returns the rows in `ranges`, which seldom change from one step to the next.
    fn rows(&mut self, ranges: &[EditedRange]) -> Result<Rows> {
        if let Some((last, rows)) = &self.last_rows
            && last == ranges
        {
            return Ok(rows.clone());
        }
        let rows = |number: fn(usize, bool) -> u32| {
            let numbers: Vec<u32> = ranges
                .iter()
                .flat_map(|range| {
                    let counts = range.counts;
                    range.rows.clone().map(move |row| number(row, counts))
                })
                .collect();
            Tensor::new(numbers, &self.device)
        };
        let rows = Rows {
            indices: rows(|row, _| row as u32)?,
            counted: rows(|_, counts| u32::from(counts))?,
        };
        self.last_rows = Some((ranges.to_vec(), rows.clone()));
        Ok(rows)
    }

    fn start(&self, function: &'static str, blocks: usize, arguments: &[Argument]) -> Result<()> {
        let launch = Launch {
            program: &self.program,
            function,
            grid: [blocks, 1, 1],
            threads: THREADS as u32,
            arguments,
        };
        // SAFETY: each caller passes the kernel's parameters in order, over tensors of the sizes that it is told, and
        // memory is given back in the order of launches.
        unsafe { self.launcher.launch(&launch) }
    }
}

/// Returns how many blocks loop over so many elements.
fn blocks(elements: usize) -> usize {
    elements.div_ceil(THREADS).clamp(1, MOST_BLOCKS)
}

impl DeviceEdit {
    fn new(ReadyEdit { edit, gate }: &ReadyEdit, device: &Device) -> Result<Self> {
        let vector = |values: &[f32]| Tensor::new(values, device);
        let kind = match &edit.operator {
            Operator::Additive(additive) => {
                Kind::Add(vector(additive.scaled(edit.strength).vector())?)
            }
            Operator::Householder(householder) => Kind::Turn(
                vector(householder.normal())?,
                Turn::new(householder, edit.strength, device)?,
            ),
            Operator::AffineTransport(transport) => Kind::Transport(
                [
                    vector(transport.scale())?,
                    vector(transport.shift())?,
                    vector(transport.low())?,
                    vector(transport.high())?,
                ],
                AffineTransport::share(edit.strength),
            ),
        };
        Ok(Self {
            gate: *gate,
            preserve_norm: edit.preserve_norm,
            kind,
        })
    }
}

impl Turn {
    fn new(householder: &Householder, strength: f64, device: &Device) -> Result<Self> {
        let (rule, number, target, net) = match householder.angle() {
            AngleRule::Net {
                net,
                input_scale,
                scale,
            } => (0, *scale, 0.0, Some(Net::new(net, *input_scale, device)?)),
            AngleRule::Fixed { angle } => (1, *angle, 0.0, None),
            AngleRule::Remaining { target, scale } => (2, *scale, *target, None),
        };
        Ok(Self {
            net,
            rule,
            numbers: [
                householder.inverse_norm(),
                strength,
                householder.edge(),
                number,
                target,
                householder.kappa().unwrap_or(-1.0),
                householder.max_angle().unwrap_or(f64::INFINITY),
            ],
        })
    }
}

impl Net {
    fn new(net: &AngleNet, input_scale: f64, device: &Device) -> Result<Self> {
        let weight = |layer: &crate::angle_net::Linear| {
            let shape = (layer.outputs(), layer.inputs());
            Tensor::from_slice(&layer.weight, shape, device)?.t()
        };
        let Some((last, hidden)) = net.layers.split_last() else {
            return Err(ModelError::Setting {
                setting: "steering",
                message: "an angle network has no layers".to_owned(),
            });
        };
        let hidden = hidden
            .iter()
            .map(|layer| Ok((weight(layer)?, Tensor::new(&layer.bias[..], device)?)));
        Ok(Self {
            hidden_layers: hidden.collect::<Result<_>>()?,
            last_weight: weight(last)?,
            last_bias: last.bias[0],
            input_scale,
        })
    }
}

#[cfg(test)]
#[path = "device_tests.rs"]
mod tests;
