//! Rounding to pairs of bf16, the inputs of [`Lanes::mul_add_pairs`](super::lanes::Lanes).
//!
//! Numbers below `SMALLEST` become zero, so that no instruction set meets a denormal number: a bf16 of
//! that size or more is a multiple of 2^-63, a product of two such numbers of 2^-126, and so is every sum of
//! these, before and after it is rounded. A sum that is not zero is then at least 2^-126, which is normal.

use std::cell::Cell;

use super::InstructionSet;
use super::lanes::{Kernel, Lanes};

/// The smallest size of a number that is not zero, 2^-56 (1.4e-17).
const SMALLEST: f32 = f32::from_bits((127 - 56) << 23);

/// Returns the bf16 nearest to `x`, of two the even one; zero for a number smaller than `SMALLEST`.
#[inline(always)]
pub fn round(x: f32) -> u16 {
    let bits = x.to_bits();
    let nearest = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
    // A NaN keeps its sign, and stays one.
    let nearest = if x.is_nan() {
        (bits >> 16) as u16 | 0x40
    } else {
        nearest
    };
    if x.abs() < SMALLEST { 0 } else { nearest }
}

/// Returns a pair of bf16 as one number: `first` in the lower half.
#[inline(always)]
pub fn pair(first: f32, second: f32) -> u32 {
    u32::from(round(first)) | u32::from(round(second)) << 16
}

/// Calls `f` with the rows of `x`, `n` numbers each, as pairs; the last of an odd row has a zero beside it.
pub fn with_pairs<R>(set: InstructionSet, x: &[f32], n: usize, f: impl FnOnce(&[u32]) -> R) -> R {
    thread_local! {
        /// The room of the thread's last call. Taken while in use: `f` may start work that calls this again.
        static PAIRS: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
    }
    let mut pairs = PAIRS.take();
    let len = x.len() / n * n.div_ceil(2);
    if pairs.len() < len {
        pairs.resize(len, 0);
    }
    set.run(RoundRows {
        x,
        n,
        out: &mut pairs[..len],
    });
    let result = f(&pairs[..len]);
    PAIRS.set(pairs);
    result
}

struct RoundRows<'a> {
    /// `[rows, n]`.
    x: &'a [f32],
    n: usize,
    /// `[rows, n / 2]`, rounded up.
    out: &'a mut [u32],
}

impl Kernel for RoundRows<'_> {
    type Output = ();

    /// Plain loops, which the compiler turns into the instructions at hand.
    #[inline(always)]
    fn run<L: Lanes>(self, _lanes: L) {
        let rows = self.x.chunks_exact(self.n);
        for (x, out) in rows.zip(self.out.chunks_exact_mut(self.n.div_ceil(2))) {
            let (pairs, rest) = x.as_chunks::<2>();
            for (x, out) in pairs.iter().zip(&mut *out) {
                *out = pair(x[0], x[1]);
            }
            if let ([x], Some(out)) = (rest, out.last_mut()) {
                *out = pair(*x, 0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::super::lanes::LANES;
    use super::*;
    use crate::generate::SampleKey;

    /// Reproducible random bits.
    fn bits(stream: u32, count: usize) -> Vec<u32> {
        let key = SampleKey::new(3, 0, "bits", stream);
        let uniform = |i: usize| key.uniform(i as u64);
        (0..count)
            .map(|i| (uniform(i) * 2f64.powi(32)) as u32)
            .collect()
    }

    #[test]
    fn rounds_as_the_half_crate_does_above_the_smallest() {
        let special = [
            0.0,
            -0.0,
            1.0,
            f32::MAX,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            SMALLEST,
        ];
        let random = bits(0, 100_000).into_iter().map(f32::from_bits);
        for x in random.chain(special) {
            let expected = if x.abs() < SMALLEST {
                0
            } else {
                bf16::from_f32(x).to_bits()
            };
            assert_eq!(round(x), expected, "{x:e}");
        }
    }

    #[test]
    fn rows_of_odd_length_end_in_a_zero() {
        let x = [1.0, 2.0, 3.0, -4.0, 5.0, 1e-30];
        for set in InstructionSet::available() {
            let found = with_pairs(set, &x, 3, <[u32]>::to_vec);
            let expected = [
                pair(1.0, 2.0),
                pair(3.0, 0.0),
                pair(-4.0, 5.0),
                pair(1e-30, 0.0),
            ];
            assert_eq!(found, expected);
            assert_eq!(found[3], 0);
        }
    }

    /// Sums of products of pairs: 6 rows, 2 vectors of outputs, `steps` long.
    struct Products<'a> {
        x: &'a [u32],
        weights: &'a [u32],
    }

    impl Kernel for Products<'_> {
        type Output = Vec<u32>;

        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) -> Vec<u32> {
            let mut sums = [[lanes.splat(0.0); 2]; 6];
            let weights = self.weights.as_chunks::<LANES>().0.as_chunks::<2>().0;
            for (x, weights) in self.x.as_chunks::<6>().0.iter().zip(weights) {
                lanes.mul_add_pairs(*x, weights.each_ref(), &mut sums);
            }
            let mut found = Vec::new();
            for sum in sums.as_flattened() {
                let mut out = [0.0; LANES];
                lanes.store(*sum, &mut out);
                found.extend(out.map(f32::to_bits));
            }
            found
        }
    }

    /// Pairs of any finite numbers, denormal ones among them, with every exponent alike or a few near 2^`exponent`.
    fn random_pairs(stream: u32, count: usize, exponent: Option<u32>) -> Vec<u32> {
        let number = |bits: u32| {
            let bits = match exponent {
                Some(exponent) => bits & 0x807f_ffff | (exponent + bits % 8) << 23,
                // No product or sum of these overflows: infinities of either sign would make a NaN.
                None => (bits % 0x5800_0000) | (bits & 0x8000_0000),
            };
            f32::from_bits(if bits % 16 == 0 {
                bits & 0x807f_0000
            } else {
                bits
            })
        };
        let all = bits(stream, 2 * count);
        all.as_chunks()
            .0
            .iter()
            .map(|[a, b]| pair(number(*a), number(*b)))
            .collect()
    }

    #[test]
    fn products_of_pairs_have_the_same_bits_on_every_instruction_set() {
        let sets = InstructionSet::available();
        let portable = sets.last().expect("plain Rust");
        // Denormal to flushed, flushed and just not, around one, and everything at once.
        for (case, exponent) in [Some(0), Some(64), Some(68), Some(71), Some(124), None]
            .into_iter()
            .enumerate()
        {
            for (run, steps) in [1, 2, 3, 50, 1000].into_iter().enumerate() {
                let stream = (case * 10 + run) as u32 * 2;
                let x = random_pairs(stream, steps * 6, exponent);
                let weights = random_pairs(stream + 1, steps * 2 * LANES, exponent);
                let products = || Products {
                    x: &x,
                    weights: &weights,
                };
                let expected = portable.run(products());
                for set in &sets {
                    let name = set.name();
                    assert_eq!(
                        set.run(products()),
                        expected,
                        "{name}, exponent {exponent:?}, {steps} steps"
                    );
                }
            }
        }
    }

    #[test]
    fn the_second_of_a_pair_is_added_first() {
        let (x, weights) = ([pair(1.0, 1.0); 6], [pair(1.0, 2f32.powi(-24)); 2 * LANES]);
        let more = [pair(-1.0, 0.0); 2 * LANES];
        for set in InstructionSet::available() {
            // 2^-24 + 1 - 1 is 0 in this order, and 2^-24 had the 1 - 1 come together.
            let sums = set.run(Products {
                x: &[x, x].concat(),
                weights: &[weights, more].concat(),
            });
            assert!(sums.iter().all(|&sum| sum == 0), "{}", set.name());
            let sums = set.run(Products {
                x: &[x, x].concat(),
                weights: &[more, weights].concat(),
            });
            assert!(
                sums.iter()
                    .all(|&sum| f32::from_bits(sum) == 2f32.powi(-24)),
                "{}",
                set.name()
            );
        }
    }
}
