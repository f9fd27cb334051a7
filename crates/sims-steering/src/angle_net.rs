//! The network of HPR that predicts by which angle a hidden state should turn.
//!
//! Linear layers that halve the width, GELU between them, one output: `γ(a) = π·sigmoid(φ(a))`
//! (Pham and Nguyen 2024, arXiv 2409.10053; `VinAIResearch/HPR:householder.py`). Forward and backward are
//! products in `f32`: each row is computed alone and in a fixed order, so that results depend neither
//! on the batch nor on the number of threads.

use crate::dense;
use rayon::prelude::*;
use sims_model::Dtype;
use sims_model::ops::InstructionSet;
use sims_model::ops::linear::{PackedLinear, Spread, Write};
use sims_model::weights::Projection;
use sims_stats::random::Stream;
use std::f32::consts::FRAC_1_SQRT_2;
use std::f64::consts::PI;
use std::fmt;
use std::sync::Arc;

/// Multiply-adds from which a prediction is worth spreading over threads.
const PARALLEL_WORK: usize = 1 << 20;
/// Activations that a thread takes at a time.
const ACTIVATIONS: usize = 1 << 13;

/// One linear layer: `y = W·x + b`.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// Weights, `[outputs, inputs]`, row-major.
    pub weight: Vec<f32>,
    /// Bias, `[outputs]`.
    pub bias: Vec<f32>,
}

impl Linear {
    /// Returns the number of outputs.
    pub fn outputs(&self) -> usize {
        self.bias.len()
    }

    /// Returns the number of inputs.
    pub fn inputs(&self) -> usize {
        self.weight.len() / self.bias.len().max(1)
    }
}

/// The angle network: `Linear`, GELU, …, `Linear` to one number.
#[derive(Debug, Clone, PartialEq)]
pub struct AngleNet {
    /// The linear layers, first to last; the last has one output.
    pub layers: Vec<Linear>,
}

/// What the forward pass keeps for the backward pass: per layer its input and its output before GELU.
pub(crate) struct Trace {
    inputs: Vec<Vec<f32>>,
    outputs: Vec<Vec<f32>>,
}

impl AngleNet {
    /// Draws a network as PyTorch does: weights and biases uniform in `±1/√inputs`.
    ///
    /// `depth` counts the linear layers; widths are `hidden, hidden/2, hidden/4, …, 1`, at least 1.
    pub fn random(hidden: usize, depth: usize, stream: &mut Stream) -> Self {
        let widths: Vec<usize> = (0..depth)
            .map(|layer| (hidden >> layer).max(1))
            .chain([1])
            .collect();
        let layers = widths
            .windows(2)
            .map(|pair| {
                let bound = 1.0 / (pair[0] as f64).sqrt();
                let mut draw = |count: usize| -> Vec<f32> {
                    (0..count)
                        .map(|_| ((2.0 * stream.next_f64() - 1.0) * bound) as f32)
                        .collect()
                };
                Linear {
                    weight: draw(pair[0] * pair[1]),
                    bias: draw(pair[1]),
                }
            })
            .collect();
        Self { layers }
    }

    /// Lets the network start at the constant `angle` (radians) instead of near π/2.
    ///
    /// The last bias becomes `logit(angle/π)` and the last weights shrink to a tenth.
    pub fn start_at(&mut self, angle: f64) {
        let share = (angle / PI).clamp(1e-4, 1.0 - 1e-4);
        if let Some(last) = self.layers.last_mut() {
            last.bias[0] = (share / (1.0 - share)).ln() as f32;
            last.weight.iter_mut().for_each(|weight| *weight *= 0.1);
        }
    }

    /// Returns the width of the rows the network reads.
    pub fn hidden_size(&self) -> usize {
        self.layers.first().map_or(0, Linear::inputs)
    }

    /// Predicts the angle of each row in radians, `[rows]` in `(0, π)`.
    ///
    /// `rows`: `[rows, hidden]`, already scaled as in training.
    pub fn angles(&self, rows: &[f32]) -> Vec<f64> {
        self.forward(rows, None)
            .iter()
            .map(|&logit| PI * sigmoid(f64::from(logit)))
            .collect()
    }

    /// Computes the angles and keeps what [`AngleNet::backward`] needs.
    pub(crate) fn traced_angles(&self, rows: &[f32]) -> (Vec<f64>, Trace) {
        let mut trace = Trace {
            inputs: Vec::new(),
            outputs: Vec::new(),
        };
        let logits = self.forward(rows, Some(&mut trace));
        (
            logits
                .iter()
                .map(|&logit| PI * sigmoid(f64::from(logit)))
                .collect(),
            trace,
        )
    }

    fn forward(&self, rows: &[f32], mut trace: Option<&mut Trace>) -> Vec<f32> {
        let mut values = rows.to_vec();
        for (index, layer) in self.layers.iter().enumerate() {
            let output = dense::forward(&layer.weight, &layer.bias, &values);
            let last = index + 1 == self.layers.len();
            let mut next = output.clone();
            if !last {
                next.par_chunks_mut(ACTIVATIONS)
                    .for_each(|values| values.iter_mut().for_each(|x| *x = gelu(*x)));
            }
            if let Some(trace) = trace.as_deref_mut() {
                trace.inputs.push(values);
                trace.outputs.push(output);
            }
            values = next;
        }
        values
    }

    /// Makes `gradient`, a network of the same shape, that of the parameters.
    ///
    /// `angle_gradient`: `[rows]`, the derivative of the loss by each predicted angle.
    pub(crate) fn backward(
        &self,
        trace: &Trace,
        angles: &[f64],
        angle_gradient: &[f64],
        gradient: &mut Self,
    ) {
        // γ = π·σ(φ), so dγ/dφ = γ·(1 − γ/π).
        let mut upstream: Vec<f32> = angles
            .iter()
            .zip(angle_gradient)
            .map(|(&angle, &slope)| (slope * angle * (1.0 - angle / PI)) as f32)
            .collect();
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let target = &mut gradient.layers[index];
            let input = &trace.inputs[index];
            dense::weight_slopes(&upstream, input, &mut target.weight, &mut target.bias);
            if index == 0 {
                break;
            }
            let mut downstream = dense::input_slopes(&upstream, &layer.weight, layer.outputs());
            let before = trace.outputs[index - 1].par_chunks(ACTIVATIONS);
            downstream
                .par_chunks_mut(ACTIVATIONS)
                .zip(before)
                .for_each(|(slopes, before)| {
                    for (slope, &x) in slopes.iter_mut().zip(before) {
                        *slope *= gelu_slope(x);
                    }
                });
            upstream = downstream;
        }
    }

    /// Returns a network of the same shape whose parameters are all 0.
    pub(crate) fn zeros_like(&self) -> Self {
        let layers = self
            .layers
            .iter()
            .map(|layer| Linear {
                weight: vec![0.0; layer.weight.len()],
                bias: vec![0.0; layer.bias.len()],
            })
            .collect();
        Self { layers }
    }

    /// Iterates over the parameter groups: weight and bias of each layer in turn.
    pub(crate) fn groups_mut(&mut self) -> impl Iterator<Item = &mut Vec<f32>> {
        self.layers
            .iter_mut()
            .flat_map(|layer| [&mut layer.weight, &mut layer.bias])
    }
}

/// An [`AngleNet`] with its weights packed for the CPU's kernels, for prediction alone.
#[derive(Clone)]
pub(crate) struct Predictor {
    layers: Arc<Vec<PackedLinear>>,
    set: InstructionSet,
}

impl Predictor {
    /// Packs a network.
    pub(crate) fn new(net: &AngleNet) -> Self {
        let pack = |layer: &Linear| {
            let projection = Projection {
                out_features: layer.outputs(),
                in_features: layer.inputs(),
                weight: layer.weight.clone(),
                bias: Some(layer.bias.clone()),
            };
            PackedLinear::pack(projection, Dtype::F32)
        };
        Self {
            layers: Arc::new(net.layers.iter().map(pack).collect()),
            set: InstructionSet::detect(),
        }
    }

    /// Predicts the angle of each row in radians, as [`AngleNet::angles`] does up to rounding.
    ///
    /// `rows`: `[rows, hidden]`, already scaled as in training. A row's angle is the same bits in any batch.
    pub(crate) fn angles(&self, rows: Vec<f32>) -> Vec<f64> {
        let mut values = rows;
        for (index, layer) in self.layers.iter().enumerate() {
            let rows = values.len() / layer.in_features();
            let mut output = vec![0.0f32; rows * layer.out_features()];
            let spread = if output.len() * layer.in_features() >= PARALLEL_WORK {
                Spread::AllThreads
            } else {
                Spread::OneThread
            };
            layer.forward(self.set, &values, &mut output, Write::Store, spread);
            if index + 1 < self.layers.len() {
                output.iter_mut().for_each(|x| *x = gelu(*x));
            }
            values = output;
        }
        values
            .iter()
            .map(|&logit| PI * sigmoid(f64::from(logit)))
            .collect()
    }
}

impl fmt::Debug for Predictor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Predictor")
            .field("layers", &self.layers.len())
            .finish()
    }
}

impl PartialEq for Predictor {
    /// A predictor follows from its network, which is compared beside it.
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

/// Logistic function, stable for large arguments of either sign.
pub(crate) fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

/// GELU by the error function, `x·Φ(x)`, as PyTorch's default.
fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2))
}

/// Derivative of [`gelu`]: `Φ(x) + x·φ(x)`.
fn gelu_slope(x: f32) -> f32 {
    let density = (-0.5 * f64::from(x * x)).exp() / (2.0 * PI).sqrt();
    0.5 * (1.0 + erf(x * FRAC_1_SQRT_2)) + x * density as f32
}

/// The error function to about 3e-7: the rational approximation of Eigen's `generic_fast_erf_float`.
///
/// Plain arithmetic, so that a row of activations is computed a vector at a time; the C library's `erf` took
/// more time than the network's products.
fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let square = x * x;
    let polynomial = |coefficients: &[f32]| {
        coefficients
            .iter()
            .fold(0.0, |sum, &coefficient| sum * square + coefficient)
    };
    let numerator = polynomial(&[
        -2.726_142_3e-10,
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ]);
    let denominator = polynomial(&[
        -1.456_607_2e-5,
        -2.133_740_6e-4,
        -1.682_827e-3,
        -7.373_329_2e-3,
        -1.426_473_9e-2,
    ]);
    x * numerator / denominator
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{NormalDraw, stream};

    fn rows(count: usize, hidden: usize) -> Vec<f32> {
        let mut stream = stream(4, "rows");
        (0..count * hidden)
            .map(|_| stream.normal() as f32)
            .collect()
    }

    #[test]
    fn widths_halve_to_one_output() {
        let net = AngleNet::random(32, 4, &mut stream(0, "net"));
        let shapes: Vec<_> = net
            .layers
            .iter()
            .map(|l| (l.inputs(), l.outputs()))
            .collect();
        assert_eq!(shapes, [(32, 16), (16, 8), (8, 4), (4, 1)]);
    }

    #[test]
    fn rows_do_not_depend_on_their_batch() {
        let net = AngleNet::random(33, 3, &mut stream(1, "net"));
        let data = rows(5, 33);
        let together = net.angles(&data);
        for row in 0..5 {
            assert_eq!(net.angles(&data[row * 33..(row + 1) * 33]), [together[row]]);
        }
    }

    #[test]
    fn packed_weights_predict_the_same() {
        let net = AngleNet::random(96, 4, &mut stream(5, "net"));
        let predictor = Predictor::new(&net);
        let data = rows(7, 96);
        let together = predictor.angles(data.clone());
        for (row, (packed, plain)) in together.iter().zip(net.angles(&data)).enumerate() {
            assert!((packed - plain).abs() < 1e-6, "{packed} {plain}");
            let alone = predictor.angles(data[row * 96..(row + 1) * 96].to_vec());
            assert_eq!(alone, [*packed]);
        }
    }

    #[test]
    fn error_function_is_accurate() {
        for step in -6000..=6000 {
            let x = step as f32 / 1000.0;
            let exact = candle_core::cpu::erf::erf_f64(f64::from(x));
            assert!((f64::from(erf(x)) - exact).abs() < 4e-7, "erf({x})");
        }
    }

    #[test]
    fn start_angle_is_met() {
        let mut net = AngleNet::random(32, 4, &mut stream(2, "net"));
        net.start_at(0.3);
        for angle in net.angles(&rows(20, 32)) {
            assert!((angle - 0.3).abs() < 0.1, "{angle}");
        }
    }

    /// The backward pass against central differences of the sum of all angles.
    #[test]
    fn gradient_matches_finite_differences() {
        let mut net = AngleNet::random(8, 3, &mut stream(3, "net"));
        let data = rows(4, 8);
        let (angles, trace) = net.traced_angles(&data);
        let mut gradient = net.zeros_like();
        net.backward(&trace, &angles, &[1.0; 4], &mut gradient);
        let step = 1e-2f32;
        for layer in 0..3 {
            for index in 0..net.layers[layer].weight.len() {
                let start = net.layers[layer].weight[index];
                let mut total = |value: f32| {
                    net.layers[layer].weight[index] = value;
                    net.angles(&data).iter().sum::<f64>()
                };
                let slope = (total(start + step) - total(start - step)) / f64::from(2.0 * step);
                total(start);
                let ours = f64::from(gradient.layers[layer].weight[index]);
                assert!(
                    (slope - ours).abs() < 2e-3 * (1.0 + ours.abs()),
                    "{slope} {ours}"
                );
            }
        }
    }
}
