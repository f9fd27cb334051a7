//! The hook that applies a steering to the residual stream during a forward pass.

use crate::SteeringError;
use crate::device::OnDevice;
use crate::gate::Gate;
use crate::heads::shift_rows;
use crate::operator::{Edit, EditCounts, Operator};
use crate::real::norm;
use crate::steering::Steering;
use candle_core::{CpuStorage, Device, Storage, Tensor, WithDType};
use rayon::prelude::*;
use sims_model::gpu::Launcher;
use sims_model::{Hook, ModelError, Segment};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Applies a steering; made by [`Steering::hook`].
///
/// Edits the rows of each segment from its `edit_from` position on and leaves the bits of all others.
/// Rows are edited in `f32`, each by itself and in a fixed order, and cast back to the model's dtype, so
/// that the result does not depend on the batch. On a CUDA device they are edited there, unless the hook
/// [measures](Self::measuring). At strength 0 the hook wants no layer.
///
/// Conditions are decided for each sequence when its prompt is computed, from the positions before `edit_from`, and
/// kept: one hook serves a sequence from its prompt to its end. Where none holds, a row keeps its bits.
#[derive(Debug, Clone)]
pub struct SteeringHook {
    layers: BTreeMap<usize, Vec<ReadyEdit>>,
    /// What is added to the heads, strength included.
    heads: BTreeMap<usize, Vec<f32>>,
    gate: Gate,
    hidden_size: usize,
    applications: u64,
    counts: EditCounts,
    sizes: Option<EditSizes>,
    on_device: OnDevice,
}

/// How large the edits were, over all rows offered to the steering; those of heads against the heads' outputs.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EditSizes {
    /// Rows measured.
    pub rows: u64,
    /// Sum of `‖a′ − a‖/‖a‖`; divide by `rows` for the mean.
    pub relative_shift_sum: f64,
    /// Largest `‖a′‖/‖a‖`.
    pub largest_norm_ratio: f64,
    /// Smallest `‖a′‖/‖a‖`.
    pub smallest_norm_ratio: f64,
    /// Whether every edited row is finite.
    pub non_finite_rows: u64,
}

impl SteeringHook {
    pub(crate) fn new(steering: &Steering) -> Self {
        let mut gate = Gate::default();
        let mut layers = BTreeMap::new();
        for (&layer, edits) in &steering.layers {
            let active: Vec<ReadyEdit> = edits
                .iter()
                .map(|edit| ready(edit, steering.strength()))
                .filter(|edit| edit.strength != 0.0)
                .map(|edit| ReadyEdit {
                    gate: edit.condition.as_ref().map(|condition| gate.add(condition)),
                    edit,
                })
                .collect();
            if !active.is_empty() {
                layers.insert(layer, active);
            }
        }
        let strength = steering.strength();
        let heads = steering
            .heads
            .iter()
            .filter(|(_, shift)| strength != 0.0 && !shift.is_zero())
            .map(|(&layer, shift)| {
                let scaled = shift.vector().iter();
                let scaled = scaled.map(|&x| (strength * f64::from(x)) as f32);
                (layer, scaled.collect())
            })
            .collect();
        Self {
            layers,
            heads,
            gate,
            hidden_size: steering.hidden_size(),
            applications: 0,
            counts: EditCounts::default(),
            sizes: None,
            on_device: OnDevice::default(),
        }
    }

    /// Edits by the kernels for CUDA devices, started by `launcher`, on any device; for tests of them.
    #[must_use]
    pub fn on_device(mut self, launcher: Arc<dyn Launcher>) -> Self {
        self.on_device = OnDevice::with_launcher(launcher);
        self
    }

    /// Also measures how large the edits are; costs a copy of the edited rows.
    #[must_use]
    pub fn measuring(mut self) -> Self {
        self.sizes = Some(EditSizes {
            smallest_norm_ratio: f64::INFINITY,
            ..EditSizes::default()
        });
        self
    }

    /// Returns how often the hook was called on a layer that it steers.
    pub fn applications(&self) -> u64 {
        self.applications
    }

    /// Returns how many rows were offered, edited and capped; waits for the device that edits them.
    ///
    /// # Panics
    /// If that device stopped working.
    pub fn counts(&self) -> EditCounts {
        let on_device = self.on_device.counts();
        let (edited, capped) = on_device.expect("the device that counted can be asked");
        EditCounts {
            rows: self.counts.rows,
            edited: self.counts.edited + edited,
            capped: self.counts.capped + capped,
        }
    }

    /// Returns how large the edits were, if the hook is [`measuring`](Self::measuring).
    pub fn sizes(&self) -> Option<EditSizes> {
        self.sizes
    }

    /// Returns whether the hook wants no layer, because the steering changes nothing.
    pub fn is_identity(&self) -> bool {
        self.layers.is_empty() && self.heads.is_empty()
    }

    /// Checks, after a run, that the hook was called: one that is installed and idle is an error.
    ///
    /// # Errors
    /// [`SteeringError::NeverApplied`] if the steering has layers to edit and none was offered.
    pub fn check_applied(&self) -> Result<(), SteeringError> {
        if self.applications == 0 && !self.is_identity() {
            return Err(SteeringError::NeverApplied {
                layers: self
                    .layers
                    .keys()
                    .chain(self.heads.keys())
                    .copied()
                    .collect(),
            });
        }
        Ok(())
    }

    /// Edits `ranges` of rows in a `[rows, hidden]` buffer of another dtype than f32.
    ///
    /// A value that an edit leaves alone keeps its bits: f32 holds every bf16 and f16.
    fn edit_cast<T: WithDType>(
        &mut self,
        layer: usize,
        data: &[T],
        ranges: &[EditedRange],
    ) -> Vec<T> {
        let mut edited = data.to_vec();
        for range in ranges {
            let span = range.rows.start * self.hidden_size..range.rows.end * self.hidden_size;
            let target = &mut edited[span];
            let mut rows: Vec<f32> = target.iter().map(|x| x.to_f64() as f32).collect();
            self.edit_rows(layer, &mut rows, range);
            for (target, &value) in target.iter_mut().zip(&rows) {
                *target = T::from_f64(f64::from(value));
            }
        }
        edited
    }

    /// Edits `ranges` of rows in a `[rows, hidden]` buffer of f32.
    fn edit_f32(&mut self, layer: usize, data: &[f32], ranges: &[EditedRange]) -> Vec<f32> {
        let mut edited = data.to_vec();
        for range in ranges {
            let span = range.rows.start * self.hidden_size..range.rows.end * self.hidden_size;
            self.edit_rows(layer, &mut edited[span], range);
        }
        edited
    }

    /// Edits the rows of a range, and counts and measures them unless they ran before.
    fn edit_rows(&mut self, layer: usize, rows: &mut [f32], range: &EditedRange) {
        let counts = range.counts;
        let before = (counts && self.sizes.is_some()).then(|| rows.to_vec());
        let edits = self.layers.get(&layer).map_or(&[][..], Vec::as_slice);
        let edits: Vec<&Edit> = edits
            .iter()
            .filter(|edit| edit.applies_to(range))
            .map(|ready| &ready.edit)
            .collect();
        let apply = |rows: &mut [f32]| {
            let mut counts = EditCounts::default();
            edits
                .iter()
                .for_each(|edit| edit.apply(rows, 1.0, &mut counts));
            counts
        };
        // Every row is edited by itself, so that threads can share out what takes longer than to start them.
        let is_long = |edit: &Edit| !matches!(edit.operator, Operator::Additive(_));
        let share = (rows.len() / self.hidden_size).div_ceil(rayon::current_num_threads());
        let found = if edits.iter().any(|&edit| is_long(edit)) && share >= LEAST_ROWS {
            rows.par_chunks_mut(share * self.hidden_size)
                .map(apply)
                .reduce(EditCounts::default, EditCounts::add)
        } else {
            apply(rows)
        };
        if counts {
            self.counts = self.counts.add(found);
        }
        if let (Some(sizes), Some(before)) = (&mut self.sizes, before) {
            measure(sizes, &before, rows, self.hidden_size);
        }
    }

    fn edit_tensor(
        &mut self,
        layer: usize,
        hidden: &Tensor,
        ranges: &[EditedRange],
    ) -> Result<Tensor, candle_core::Error> {
        let shape = hidden.shape().clone();
        // From a device without kernels the rows travel.
        let host = hidden.to_device(&Device::Cpu)?.contiguous()?;
        let edited = {
            let (storage, layout) = host.storage_and_layout();
            let span = layout.start_offset()..layout.start_offset() + shape.elem_count();
            let Storage::Cpu(storage) = &*storage else {
                candle_core::bail!("a tensor on the CPU is stored elsewhere");
            };
            match storage {
                CpuStorage::F32(data) => Tensor::from_vec(
                    self.edit_f32(layer, &data[span], ranges),
                    shape,
                    &Device::Cpu,
                )?,
                CpuStorage::BF16(data) => Tensor::from_vec(
                    self.edit_cast(layer, &data[span], ranges),
                    shape,
                    &Device::Cpu,
                )?,
                CpuStorage::F16(data) => Tensor::from_vec(
                    self.edit_cast(layer, &data[span], ranges),
                    shape,
                    &Device::Cpu,
                )?,
                CpuStorage::F64(data) => Tensor::from_vec(
                    self.edit_cast(layer, &data[span], ranges),
                    shape,
                    &Device::Cpu,
                )?,
                _ => candle_core::bail!("hidden states of dtype {:?}", host.dtype()),
            }
        };
        edited.to_device(hidden.device())
    }
}

impl Hook for SteeringHook {
    fn wants(&self, layer: usize) -> bool {
        self.layers.contains_key(&layer) || self.gate.reads(layer)
    }

    fn on_block(
        &mut self,
        layer: usize,
        segments: &[Segment],
        hidden: &Tensor,
    ) -> Result<Option<Tensor>, ModelError> {
        let width = hidden.dims().last().copied().unwrap_or(0);
        if width != self.hidden_size {
            let error = SteeringError::HiddenSize {
                expected: self.hidden_size,
                found: width,
            };
            return Err(ModelError::Hook {
                layer,
                message: error.to_string(),
            });
        }
        if self.gate.reads(layer) {
            self.gate.read(layer, segments, hidden)?;
        }
        if !self.layers.contains_key(&layer) {
            return Ok(None);
        }
        self.applications += 1;
        let ranges = self.edited_ranges(layer, segments)?;
        if ranges.is_empty() {
            return Ok(None);
        }
        if self.sizes.is_none()
            && let Some(edited) = self.on_device.apply(&self.layers, layer, hidden, &ranges)?
        {
            for range in ranges.iter().filter(|range| range.counts) {
                let edits = self.layers[&layer].iter();
                let edits = edits.filter(|edit| edit.applies_to(range)).count();
                self.counts.rows += (range.rows.len() * edits) as u64;
            }
            return Ok(Some(edited));
        }
        Ok(Some(self.edit_tensor(layer, hidden, &ranges)?))
    }

    fn wants_heads(&self, layer: usize) -> bool {
        self.heads.contains_key(&layer)
    }

    fn on_heads(
        &mut self,
        layer: usize,
        segments: &[Segment],
        heads: &Tensor,
    ) -> Result<Option<Tensor>, ModelError> {
        let Some(shift) = self.heads.get(&layer) else {
            return Ok(None);
        };
        self.applications += 1;
        let width = heads.dims().last().copied().unwrap_or(0);
        if width != shift.len() {
            let message = format!(
                "the steering shifts heads of {} numbers together, but the model's have {width}",
                shift.len()
            );
            return Err(ModelError::Hook { layer, message });
        }
        let (counts, sizes) = (&mut self.counts, &mut self.sizes);
        let mut edited = |before: &[f32], after: &[f32], is_repeated: bool| {
            if is_repeated {
                return;
            }
            counts.rows += 1;
            counts.edited += 1;
            if let Some(sizes) = sizes {
                measure(sizes, before, after, width);
            }
        };
        Ok(Some(shift_rows(shift, segments, heads, &mut edited)?))
    }
}

/// Fewer rows than this are not worth a second thread.
const LEAST_ROWS: usize = 8;

/// Multiplies the steering's strength into an edit, so that a vector is ready to be added.
fn ready(edit: &Edit, strength: f64) -> Edit {
    let strength = strength * edit.strength;
    match &edit.operator {
        Operator::Additive(additive) if strength != 0.0 => Edit {
            operator: Operator::Additive(additive.scaled(strength)),
            strength: 1.0,
            ..edit.clone()
        },
        _ => Edit {
            strength,
            ..edit.clone()
        },
    }
}

/// An edit with the steering's strength in it, and the number of its condition.
#[derive(Debug, Clone)]
pub(crate) struct ReadyEdit {
    pub(crate) edit: Edit,
    pub(crate) gate: Option<usize>,
}

impl ReadyEdit {
    pub(crate) fn applies_to(&self, range: &EditedRange) -> bool {
        self.gate.is_none_or(|gate| range.holds[gate])
    }
}

/// Neighbouring rows to edit.
#[derive(Clone, PartialEq)]
pub(crate) struct EditedRange {
    pub(crate) rows: Range<usize>,
    /// Whether they are counted: rows that ran before were.
    pub(crate) counts: bool,
    /// By condition, whether it holds; empty at a layer where nothing asks.
    pub(crate) holds: Vec<bool>,
}

impl SteeringHook {
    /// Returns the rows that are edited at a layer, neighbouring ranges joined: a decode step is mostly one range.
    fn edited_ranges(
        &self,
        layer: usize,
        segments: &[Segment],
    ) -> Result<Vec<EditedRange>, ModelError> {
        let edits = &self.layers[&layer];
        let asks = edits.iter().any(|edit| edit.gate.is_some());
        let mut ranges: Vec<EditedRange> = Vec::new();
        for segment in segments {
            let rows = segment.edit_rows();
            if rows.is_empty() {
                continue;
            }
            let range = EditedRange {
                rows,
                counts: !segment.is_repeated,
                holds: match asks {
                    true => self.gate.holds(layer, segment)?,
                    false => Vec::new(),
                },
            };
            if !edits.iter().any(|edit| edit.applies_to(&range)) {
                continue;
            }
            match ranges.last_mut() {
                Some(last)
                    if last.rows.end == range.rows.start
                        && last.counts == range.counts
                        && last.holds == range.holds =>
                {
                    last.rows.end = range.rows.end;
                }
                _ => ranges.push(range),
            }
        }
        Ok(ranges)
    }
}

fn measure(sizes: &mut EditSizes, before: &[f32], after: &[f32], hidden: usize) {
    for (old, new) in before.chunks_exact(hidden).zip(after.chunks_exact(hidden)) {
        let (old_norm, new_norm) = (norm(old), norm(new));
        sizes.rows += 1;
        if !new_norm.is_finite() {
            sizes.non_finite_rows += 1;
        } else if old_norm > 0.0 {
            let difference: f64 = old
                .iter()
                .zip(new)
                .map(|(a, b)| f64::from(b - a).powi(2))
                .sum::<f64>()
                .sqrt();
            sizes.relative_shift_sum += difference / old_norm;
            sizes.largest_norm_ratio = sizes.largest_norm_ratio.max(new_norm / old_norm);
            sizes.smallest_norm_ratio = sizes.smallest_norm_ratio.min(new_norm / old_norm);
        }
    }
}

#[cfg(test)]
#[path = "hook_tests.rs"]
mod tests;
