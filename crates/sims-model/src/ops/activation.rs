//! The gated activations of the MLP, and the bound on scores and logits.

use super::InstructionSet;
use super::exp::exp;
use super::lanes::{Kernel, LANES, Lanes};
use crate::config::Activation;

/// Writes `activation(gate) * up`.
///
/// `gate_up`: `[rows, 2 * n]`, f32, the gates of a row before its ups; `out`: `[rows, n]`.
pub fn gated(
    set: InstructionSet,
    activation: Activation,
    gate_up: &[f32],
    n: usize,
    out: &mut [f32],
) {
    debug_assert_eq!(gate_up.len(), 2 * out.len());
    set.run(Gated {
        activation,
        gate_up,
        n,
        out,
    });
}

/// Bounds each value `x` to `cap * tanh(x / cap)`.
pub fn soft_cap(set: InstructionSet, cap: f32, values: &mut [f32]) {
    set.run(SoftCap { cap, values });
}

struct Gated<'a> {
    activation: Activation,
    gate_up: &'a [f32],
    n: usize,
    out: &'a mut [f32],
}

impl Kernel for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        for (gate_up, out) in self
            .gate_up
            .chunks_exact(2 * self.n)
            .zip(self.out.chunks_exact_mut(self.n))
        {
            let (gates, last_gates) = gate_up[..self.n].as_chunks::<LANES>();
            let (ups, last_ups) = gate_up[self.n..].as_chunks::<LANES>();
            let (out, last_out) = out.as_chunks_mut::<LANES>();
            for ((gate, up), out) in gates.iter().zip(ups).zip(out) {
                let gate = activate(lanes, self.activation, lanes.load(gate));
                lanes.store(lanes.mul(gate, lanes.load(up)), out);
            }
            let gate = lanes.load_part(last_gates, 0.0);
            let gate = activate(lanes, self.activation, gate);
            let rest = lanes.mul(gate, lanes.load_part(last_ups, 0.0));
            lanes.store_part(rest, last_out);
        }
    }
}

/// Returns the activation of each lane. Both are `x / (1 + e^-y)`: of silu `y` is `x`, of the GELU with the tangent
/// approximation, `x / 2 · (1 + tanh(y / 2))`, it is `√(8/π) · (x + 0.044715 x³)`.
#[inline(always)]
fn activate<L: Lanes>(lanes: L, activation: Activation, x: L::V) -> L::V {
    const SQRT_8_OVER_PI: f32 = 1.595_769;
    let y = match activation {
        Activation::Silu => x,
        Activation::GeluTanh => {
            let inner = lanes.mul_add(lanes.mul(x, x), lanes.splat(0.044_715), lanes.splat(1.0));
            lanes.mul(lanes.mul(x, inner), lanes.splat(SQRT_8_OVER_PI))
        }
    };
    let negated = lanes.sub(lanes.splat(0.0), y);
    lanes.div(x, lanes.add(lanes.splat(1.0), exp(lanes, negated)))
}

struct SoftCap<'a> {
    cap: f32,
    values: &'a mut [f32],
}

impl Kernel for SoftCap<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let (blocks, rest) = self.values.as_chunks_mut::<LANES>();
        for block in blocks {
            lanes.store(soft_capped(lanes, self.cap, lanes.load(block)), block);
        }
        let capped = soft_capped(lanes, self.cap, lanes.load_part(rest, 0.0));
        lanes.store_part(capped, rest);
    }
}

/// Returns `cap * tanh(x / cap)` of each lane, with `tanh(y) = 1 - 2 / (1 + e^2y)`.
#[inline(always)]
pub fn soft_capped<L: Lanes>(lanes: L, cap: f32, x: L::V) -> L::V {
    let doubled = lanes.mul(x, lanes.splat(2.0 / cap));
    let one = lanes.splat(1.0);
    let quotient = lanes.div(lanes.splat(2.0), lanes.add(one, exp(lanes, doubled)));
    lanes.mul(lanes.splat(cap), lanes.sub(one, quotient))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(activation: Activation, x: f64) -> f64 {
        match activation {
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::GeluTanh => {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
                0.5 * x * (1.0 + inner.tanh())
            }
        }
    }

    #[test]
    fn activations_match_f64_on_every_instruction_set() {
        let n = 21;
        let gate_up: Vec<f32> = (0..3 * 2 * n)
            .map(|i| ((i * 31) % 67) as f32 * 0.7 - 23.0)
            .collect();
        for activation in [Activation::Silu, Activation::GeluTanh] {
            let mut first = vec![0.0; 3 * n];
            gated(
                InstructionSet::detect(),
                activation,
                &gate_up,
                n,
                &mut first,
            );
            for row in 0..3 {
                for i in 0..n {
                    let gate = exact(activation, f64::from(gate_up[row * 2 * n + i]));
                    let expected = gate * f64::from(gate_up[row * 2 * n + n + i]);
                    let error = (f64::from(first[row * n + i]) - expected).abs();
                    assert!(error <= 1e-6 * expected.abs().max(1e-3));
                }
            }
            for set in InstructionSet::available() {
                let mut other = vec![0.0; 3 * n];
                gated(set, activation, &gate_up, n, &mut other);
                assert_eq!(first, other, "{}", set.name());
            }
        }
    }

    #[test]
    fn soft_cap_is_a_scaled_tangent_on_every_instruction_set() {
        let values: Vec<f32> = (0..37).map(|i| i as f32 * 1.7 - 31.0).collect();
        for set in InstructionSet::available() {
            let mut capped = values.clone();
            soft_cap(set, 5.0, &mut capped);
            for (capped, value) in capped.iter().zip(&values) {
                let expected = 5.0 * (f64::from(*value) / 5.0).tanh();
                assert!((f64::from(*capped) - expected).abs() < 2e-6);
            }
        }
    }
}
