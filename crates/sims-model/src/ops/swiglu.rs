//! The gated activation of the MLP.

use super::InstructionSet;
use super::exp::exp;
use super::lanes::{Kernel, LANES, Lanes};

/// Writes `silu(gate) * up`, where `silu(x) = x / (1 + e^-x)`.
///
/// `gate_up`: `[rows, 2 * n]`, f32, the gates of a row before its ups; `out`: `[rows, n]`.
pub fn silu_mul(set: InstructionSet, gate_up: &[f32], n: usize, out: &mut [f32]) {
    debug_assert_eq!(gate_up.len(), 2 * out.len());
    set.run(SiluMul { gate_up, n, out });
}

struct SiluMul<'a> {
    gate_up: &'a [f32],
    n: usize,
    out: &'a mut [f32],
}

impl Kernel for SiluMul<'_> {
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
                lanes.store(gated(lanes, lanes.load(gate), lanes.load(up)), out);
            }
            let rest = gated(
                lanes,
                lanes.load_part(last_gates, 0.0),
                lanes.load_part(last_ups, 0.0),
            );
            lanes.store_part(rest, last_out);
        }
    }
}

#[inline(always)]
fn gated<L: Lanes>(lanes: L, gate: L::V, up: L::V) -> L::V {
    let negated = lanes.sub(lanes.splat(0.0), gate);
    let silu = lanes.div(gate, lanes.add(lanes.splat(1.0), exp(lanes, negated)));
    lanes.mul(silu, up)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activation_matches_f64_on_every_instruction_set() {
        let n = 21;
        let gate_up: Vec<f32> = (0..3 * 2 * n)
            .map(|i| ((i * 31) % 67) as f32 * 0.7 - 23.0)
            .collect();
        let mut first = vec![0.0; 3 * n];
        silu_mul(InstructionSet::detect(), &gate_up, n, &mut first);
        for row in 0..3 {
            for i in 0..n {
                let gate = f64::from(gate_up[row * 2 * n + i]);
                let expected =
                    gate / (1.0 + (-gate).exp()) * f64::from(gate_up[row * 2 * n + n + i]);
                assert!((f64::from(first[row * n + i]) - expected).abs() <= 1e-6 * expected.abs());
            }
        }
        for set in InstructionSet::available() {
            let mut other = vec![0.0; 3 * n];
            silu_mul(set, &gate_up, n, &mut other);
            assert_eq!(first, other, "{}", set.name());
        }
    }
}
