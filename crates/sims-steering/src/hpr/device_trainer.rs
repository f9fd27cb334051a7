//! Training on a device: candle differentiates the loss and its optimiser takes the steps.

use super::{Batch, HprFigures, HprOptions, Parameters, Targets, Trainer, figures_of};
use crate::FitError;
use crate::angle_net::{AngleNet, Linear};
use candle_core::{DType, Device, Tensor, Var};
use candle_nn::ops::sigmoid;
use candle_nn::optim::{AdamW, Optimizer, ParamsAdamW};
use sims_model::ModelError;
use std::f64::consts::PI;

/// The parameters, their optimiser and the states of both halves, on a device.
pub(super) struct DeviceTrainer {
    train: DeviceBatch,
    held_out: DeviceBatch,
    /// `[hidden, 1]`.
    normal: Var,
    train_normal: bool,
    /// By linear layer: weights `[outputs, inputs]` and bias `[outputs]`.
    layers: Vec<(Var, Var)>,
    optimiser: AdamW,
    clip: f64,
}

/// A half's states, f32 on the device, and its targets.
struct DeviceBatch {
    /// `[2·pairs, hidden]`.
    rows: Tensor,
    targets: Targets,
}

impl DeviceTrainer {
    /// Copies both halves and the parameters to the device: `8·pairs·hidden` bytes, and four times the parameters.
    pub(super) fn new(
        train: &Batch,
        held_out: &Batch,
        parameters: Parameters,
        options: &HprOptions,
        device: &Device,
    ) -> Result<Self, FitError> {
        let copy = |batch: &Batch| -> Result<DeviceBatch, ModelError> {
            let shape = (batch.rows.len() / batch.hidden, batch.hidden);
            let angles = batch.targets.angles.clone();
            Ok(DeviceBatch {
                rows: Tensor::from_slice(&batch.rows, shape, device)?,
                targets: Targets { angles },
            })
        };
        let variable = |values: &[f32], shape: &[usize]| -> Result<Var, ModelError> {
            Ok(Var::from_tensor(&Tensor::from_slice(
                values, shape, device,
            )?)?)
        };
        let normal = variable(&parameters.normal, &[parameters.normal.len(), 1])?;
        let layers: Vec<(Var, Var)> = parameters
            .net
            .layers
            .iter()
            .map(|layer| {
                let weight = variable(&layer.weight, &[layer.outputs(), layer.inputs()])?;
                Ok((weight, variable(&layer.bias, &[layer.outputs()])?))
            })
            .collect::<Result<_, ModelError>>()?;
        let mut trained: Vec<Var> = layers
            .iter()
            .flat_map(|(weight, bias)| [weight.clone(), bias.clone()])
            .collect();
        if parameters.train_normal {
            trained.push(normal.clone());
        }
        let settings = ParamsAdamW {
            weight_decay: 0.0,
            ..ParamsAdamW::default()
        };
        Ok(Self {
            train: copy(train)?,
            held_out: copy(held_out)?,
            normal,
            train_normal: parameters.train_normal,
            layers,
            optimiser: AdamW::new(trained, settings).map_err(ModelError::from)?,
            clip: options.clip,
        })
    }

    /// Returns the angle of each row in radians, `[rows]`.
    fn angles(&self, rows: &Tensor) -> Result<Tensor, ModelError> {
        let mut values = rows.clone();
        for (index, (weight, bias)) in self.layers.iter().enumerate() {
            values = values.matmul(&weight.t()?)?.broadcast_add(bias)?;
            if index + 1 < self.layers.len() {
                values = values.gelu_erf()?;
            }
        }
        Ok((sigmoid(&values.squeeze(1)?)? * PI)?)
    }

    /// Returns the mean loss of pairs of the fit half.
    fn loss(&self, pairs: &[usize]) -> Result<Tensor, ModelError> {
        let DeviceBatch { rows, targets } = &self.train;
        let both = || {
            pairs
                .iter()
                .copied()
                .chain(pairs.iter().map(|pair| targets.pairs() + pair))
        };
        let index: Vec<u32> = both().map(|row| row as u32).collect();
        let count = index.len();
        let rows = rows.index_select(&Tensor::from_vec(index, count, rows.device())?, 0)?;
        let (labels, angles): (Vec<f32>, Vec<f32>) = both()
            .map(|row| targets.of(row))
            .map(|(label, angle)| (label as f32, angle as f32))
            .unzip();
        let angles = Tensor::from_vec(angles, count, rows.device())?;
        let error = (self.angles(&rows)? - angles)?.sqr()?.mean_all()?;
        if !self.train_normal {
            return Ok(error);
        }
        // −1 for chosen states, 1 for rejected ones: the loss is log(1 + exp(sign·product)).
        let signs: Vec<f32> = labels.iter().map(|label| 1.0 - 2.0 * label).collect();
        let signs = Tensor::from_vec(signs, count, rows.device())?;
        let signed = (rows.matmul(&self.normal)?.squeeze(1)? * signs)?;
        let rest = (signed.abs()?.neg()?.exp()? + 1.0)?.log()?;
        let cross_entropy = (signed.relu()? + rest)?.mean_all()?;
        Ok((error + cross_entropy)?)
    }

    fn try_step(&mut self, pairs: &[usize], learning_rate: f64) -> Result<(), ModelError> {
        let mut gradients = self.loss(pairs)?.backward()?;
        let normal = self.train_normal.then_some(&self.normal);
        let layers = self.layers.iter().flat_map(|(weight, bias)| [weight, bias]);
        let variables: Vec<&Var> = layers.chain(normal).collect();
        let mut squares = Tensor::zeros((), DType::F32, self.normal.device())?;
        for variable in &variables {
            if let Some(gradient) = gradients.get(variable) {
                squares = (squares + gradient.sqr()?.sum_all()?)?;
            }
        }
        // The factor stays on the device, so that no step waits for the host.
        let factor = ((squares.sqrt()? + 1e-6)?.recip()? * self.clip)?.minimum(1.0)?;
        for variable in &variables {
            if let Some(gradient) = gradients.remove(variable) {
                gradients.insert(variable, gradient.broadcast_mul(&factor)?);
            }
        }
        self.optimiser.set_learning_rate(learning_rate);
        Ok(self.optimiser.step(&gradients)?)
    }

    fn try_held_out(&self, mean_angle: f64) -> Result<HprFigures, ModelError> {
        let DeviceBatch { rows, targets } = &self.held_out;
        let host = |values: Tensor| -> Result<Vec<f64>, ModelError> {
            Ok(values.to_dtype(DType::F64)?.to_vec1()?)
        };
        let angles = host(self.angles(rows)?)?;
        let products = host(rows.matmul(&self.normal)?.squeeze(1)?)?;
        let is_probe = self.train_normal;
        Ok(figures_of(
            targets, &angles, &products, is_probe, mean_angle,
        ))
    }

    fn try_parameters(&self) -> Result<Parameters, ModelError> {
        let host =
            |values: &Var| -> Result<Vec<f32>, ModelError> { Ok(values.flatten_all()?.to_vec1()?) };
        let layers = self.layers.iter().map(|(weight, bias)| {
            Ok(Linear {
                weight: host(weight)?,
                bias: host(bias)?,
            })
        });
        Ok(Parameters {
            normal: host(&self.normal)?,
            train_normal: self.train_normal,
            net: AngleNet {
                layers: layers.collect::<Result<_, ModelError>>()?,
            },
        })
    }
}

impl Trainer for DeviceTrainer {
    fn step(&mut self, pairs: &[usize], learning_rate: f64) -> Result<(), FitError> {
        Ok(self.try_step(pairs, learning_rate)?)
    }

    fn held_out(&self, mean_angle: f64) -> Result<HprFigures, FitError> {
        Ok(self.try_held_out(mean_angle)?)
    }

    fn parameters(&self) -> Result<Parameters, FitError> {
        Ok(self.try_parameters()?)
    }
}
