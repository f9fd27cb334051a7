//! Training on the host: gradients written out, over products in a fixed order.

use super::{Batch, HprFigures, HprOptions, Parameters, Targets, Trainer, figures_of};
use crate::FitError;
use crate::adamw::{AdamW, squares};
use crate::angle_net::sigmoid;
use crate::real::dot;

/// The parameters, their optimiser and the states of both halves.
pub(super) struct HostTrainer {
    train: Batch,
    held_out: Batch,
    parameters: Parameters,
    gradient: Parameters,
    optimiser: AdamW,
    clip: f64,
}

impl HostTrainer {
    pub(super) fn new(
        train: Batch,
        held_out: Batch,
        mut parameters: Parameters,
        options: &HprOptions,
    ) -> Self {
        Self {
            optimiser: AdamW::new(parameters.groups_mut().map(|group| group.len())),
            gradient: parameters.zeros_like(),
            clip: options.clip,
            train,
            held_out,
            parameters,
        }
    }
}

impl Trainer for HostTrainer {
    fn step(&mut self, pairs: &[usize], learning_rate: f64) -> Result<(), FitError> {
        let batch = self.train.select(pairs);
        self.parameters.gradient(&batch, &mut self.gradient);
        let factor = self.gradient.clip_factor(self.clip);
        let parameters = self.parameters.groups_mut();
        let parameters = parameters.zip(self.gradient.groups_mut());
        self.optimiser.step(parameters, learning_rate, factor);
        Ok(())
    }

    fn held_out(&self, mean_angle: f64) -> Result<HprFigures, FitError> {
        let (batch, parameters) = (&self.held_out, &self.parameters);
        let angles = parameters.net.angles(&batch.rows);
        let states = batch.rows.chunks_exact(batch.hidden);
        let products: Vec<f64> = states.map(|state| dot(&parameters.normal, state)).collect();
        let is_probe = parameters.train_normal;
        Ok(figures_of(
            &batch.targets,
            &angles,
            &products,
            is_probe,
            mean_angle,
        ))
    }

    fn parameters(&self) -> Result<Parameters, FitError> {
        Ok(self.parameters.clone())
    }
}

impl Batch {
    fn select(&self, pairs: &[usize]) -> Self {
        let row = |index: usize| &self.rows[index * self.hidden..(index + 1) * self.hidden];
        let chosen = pairs.iter().flat_map(|&pair| row(pair));
        let rejected = pairs
            .iter()
            .flat_map(|&pair| row(self.targets.pairs() + pair));
        Self {
            hidden: self.hidden,
            rows: chosen.chain(rejected).copied().collect(),
            targets: Targets {
                angles: pairs
                    .iter()
                    .map(|&pair| self.targets.angles[pair])
                    .collect(),
            },
        }
    }
}

impl Parameters {
    /// Returns parameters of the same shape that are all 0.
    fn zeros_like(&self) -> Self {
        Self {
            normal: vec![0.0; self.normal.len()],
            train_normal: self.train_normal,
            net: self.net.zeros_like(),
        }
    }

    /// Makes `gradient` that of the mean loss over the batch's states.
    fn gradient(&self, batch: &Batch, gradient: &mut Self) {
        let (angles, trace) = self.net.traced_angles(&batch.rows);
        let count = angles.len() as f64;
        gradient.normal.fill(0.0);
        let mut angle_gradient = Vec::with_capacity(angles.len());
        for (row, state) in batch.rows.chunks_exact(batch.hidden).enumerate() {
            let (label, target) = batch.targets.of(row);
            angle_gradient.push(2.0 * (angles[row] - target) / count);
            if self.train_normal {
                let slope = ((sigmoid(dot(&self.normal, state)) - label) / count) as f32;
                for (sum, &x) in gradient.normal.iter_mut().zip(state) {
                    *sum += slope * x;
                }
            }
        }
        self.net
            .backward(&trace, &angles, &angle_gradient, &mut gradient.net);
    }

    fn groups_mut(&mut self) -> impl Iterator<Item = &mut Vec<f32>> {
        let normal = self.train_normal.then_some(&mut self.normal);
        normal.into_iter().chain(self.net.groups_mut())
    }

    /// Returns the factor that shortens a gradient to the given norm over all parameters, if it is below 1.
    fn clip_factor(&mut self, limit: f64) -> f64 {
        let squares: f64 = self.groups_mut().map(|group| squares(group)).sum();
        limit / (squares.sqrt() + 1e-6)
    }
}
