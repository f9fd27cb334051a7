//! The exponential function on sixteen lanes.

use super::lanes::{Lanes, ROUNDING_SHIFT};

/// Returns `e^x` to within 2 units in the last place, NaN for NaN.
///
/// Below -87.33 the result stays at the smallest normal number, above 88.37 at the value there.
/// The reduction and the polynomial are those of `expf` in Moshier's Cephes library, single precision.
#[expect(
    clippy::excessive_precision,
    reason = "the constants are written as Cephes writes them"
)]
#[inline(always)]
pub fn exp<L: Lanes>(lanes: L, x: L::V) -> L::V {
    const LN_2_HIGH: f32 = 0.693_359_375;
    const LN_2_LOW: f32 = -2.121_944_40e-4;
    const POLYNOMIAL: [f32; 6] = [
        1.987_569_150_0e-4,
        1.398_199_950_7e-3,
        8.333_451_907_3e-3,
        4.166_579_589_4e-2,
        1.666_666_545_9e-1,
        5.000_000_120_1e-1,
    ];
    // A bound comes first, so that NaN passes through.
    let x = lanes.max(lanes.splat(-87.336_54), x);
    let x = lanes.min(lanes.splat(88.376_26), x);
    let shifted = lanes.mul_add(
        x,
        lanes.splat(std::f32::consts::LOG2_E),
        lanes.splat(ROUNDING_SHIFT),
    );
    let n = lanes.sub(shifted, lanes.splat(ROUNDING_SHIFT));
    let r = lanes.mul_add(n, lanes.splat(-LN_2_HIGH), x);
    let r = lanes.mul_add(n, lanes.splat(-LN_2_LOW), r);
    let mut p = lanes.splat(POLYNOMIAL[0]);
    for &coefficient in &POLYNOMIAL[1..] {
        p = lanes.mul_add(p, r, lanes.splat(coefficient));
    }
    let tail = lanes.mul_add(p, lanes.mul(r, r), r);
    lanes.mul(
        lanes.add(tail, lanes.splat(1.0)),
        lanes.exp2_of_shifted(shifted),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::InstructionSet;
    use crate::ops::lanes::{Kernel, LANES};

    struct ExpOf([f32; LANES]);

    impl Kernel for ExpOf {
        type Output = [f32; LANES];

        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) -> [f32; LANES] {
            let mut out = [0.0; LANES];
            lanes.store(exp(lanes, lanes.load(&self.0)), &mut out);
            out
        }
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let set = InstructionSet::detect();
        let mut worst = 0f64;
        for block in 0..200_000 {
            let x: [f32; LANES] = std::array::from_fn(|lane| {
                -87.3 + (block * LANES + lane) as f32 * (175.6 / 3_200_000.0)
            });
            for (x, found) in x.into_iter().zip(set.run(ExpOf(x))) {
                let exact = f64::from(x).exp();
                let ulp = f64::from((exact as f32).next_up()) - f64::from(exact as f32);
                worst = worst.max((f64::from(found) - exact).abs() / ulp);
            }
        }
        assert!(worst < 2.0, "{worst} units in the last place");
    }

    #[test]
    fn exp_is_exact_at_zero_bounded_below_and_passes_nan_through() {
        let mut x = [0.0; LANES];
        (x[1], x[2], x[3]) = (f32::NAN, -1e30, f32::NEG_INFINITY);
        let found = InstructionSet::detect().run(ExpOf(x));
        assert_eq!(found[0], 1.0);
        assert!(found[1].is_nan());
        assert!(found[2] > 0.0 && found[2] < 1.3e-38 && found[3] == found[2]);
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let x = std::array::from_fn(|lane| (lane as f32 - 9.3) * 7.77);
        let expected = InstructionSet::detect().run(ExpOf(x));
        for set in InstructionSet::available() {
            assert_eq!(set.run(ExpOf(x)), expected, "{}", set.name());
        }
    }
}
