//! The numbers of the common formats' blocks, sixteen at a time.
//!
//! The operations and their order are the tensor library's, so that the numbers are the same bits; its own
//! functions are compiled for every machine, and take several times as long.

use candle_core::quantized::GgmlDType;
use half::f16;

use super::BlockFormat;
use crate::ops::lanes::{LANES, Lanes};

/// Writes the numbers of whole blocks, as [`BlockFormat::unpack`] does.
#[inline(always)]
pub(super) fn unpack<L: Lanes>(lanes: L, format: BlockFormat, blocks: &[u8], out: &mut [f32]) {
    match format.dtype() {
        GgmlDType::BF16 => {
            for (bytes, out) in blocks.as_chunks::<2>().0.iter().zip(out) {
                *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            }
        }
        GgmlDType::Q8_0 => q8_0(lanes, blocks, out),
        GgmlDType::Q4_0 => short::<L, 18>(lanes, blocks, out, None, None),
        GgmlDType::Q4_1 => short::<L, 20>(lanes, blocks, out, Some(2), None),
        GgmlDType::Q5_0 => short::<L, 22>(lanes, blocks, out, None, Some(2)),
        GgmlDType::Q5_1 => short::<L, 24>(lanes, blocks, out, Some(2), Some(4)),
        GgmlDType::Q4K => q4_k_or_q5_k::<L, 144>(lanes, blocks, out, None),
        GgmlDType::Q5K => q4_k_or_q5_k::<L, 176>(lanes, blocks, out, Some(16)),
        GgmlDType::Q6K => q6_k(lanes, blocks, out),
        _ => format.unpack(blocks, out),
    }
}

/// Returns the scale at byte `at`.
#[inline(always)]
fn scale<const B: usize>(block: &[u8; B], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Returns `N` bytes from byte `at` on.
#[inline(always)]
fn bytes<const B: usize, const N: usize>(block: &[u8; B], at: usize) -> [u8; N] {
    let mut taken = [0; N];
    taken.copy_from_slice(&block[at..at + N]);
    taken
}

/// Returns sixteen bytes from byte `at` on, as one number: what is done to it is done to all.
#[inline(always)]
fn sixteen<const B: usize>(block: &[u8; B], at: usize) -> u128 {
    u128::from_le_bytes(bytes(block, at))
}

/// Returns bits `shift..` of each of sixteen bytes, as far as `mask` has them.
#[inline(always)]
fn bits(sixteen: u128, shift: usize, mask: u8) -> u128 {
    sixteen >> shift & u128::from_le_bytes([mask; 16])
}

/// Unpacks Q4_0, Q4_1, Q5_0 or Q5_1: a scale, a minimum or else the middle of the range, perhaps the fifth bits of 32
/// numbers, and their lower four.
#[inline(always)]
fn short<L: Lanes, const B: usize>(
    lanes: L,
    blocks: &[u8],
    out: &mut [f32],
    minimum_at: Option<usize>,
    fifths_at: Option<usize>,
) {
    let blocks = blocks.as_chunks::<B>().0;
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<32>().0) {
        let d = lanes.splat(scale(block, 0));
        let low = sixteen(block, B - 16);
        let fifths = fifths_at.map_or(0, |at| u32::from_le_bytes(bytes(block, at)));
        for (half, out) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let mut q = bits(low, 4 * half, 15).to_le_bytes();
            if fifths_at.is_some() {
                for (i, q) in q.iter_mut().enumerate() {
                    *q |= ((fifths >> (16 * half + i)) as u8 & 1) << 4;
                }
            }
            let q = lanes.load_u8(&q);
            let values = match minimum_at {
                Some(at) => lanes.add(lanes.mul(q, d), lanes.splat(scale(block, at))),
                None => {
                    let middle = if fifths_at.is_some() { 16.0 } else { 8.0 };
                    lanes.mul(lanes.sub(q, lanes.splat(middle)), d)
                }
            };
            lanes.store(values, out);
        }
    }
}

/// Unpacks Q8_0: a scale and 32 signed bytes.
#[inline(always)]
fn q8_0<L: Lanes>(lanes: L, blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.as_chunks::<34>().0;
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<32>().0) {
        let d = lanes.splat(scale(block, 0));
        for (half, out) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            // With the sign turned over a byte is 128 more than it stands for.
            let q = sixteen(block, 2 + 16 * half) ^ u128::from_le_bytes([128; 16]);
            let q = lanes.sub(lanes.load_u8(&q.to_le_bytes()), lanes.splat(128.0));
            lanes.store(lanes.mul(q, d), out);
        }
    }
}

/// Returns the 6-bit scales and minima of the eight 32 numbers of a Q4_K or Q5_K block.
#[inline(always)]
fn scales_and_minima(q: &[u8; 12]) -> ([f32; 8], [f32; 8]) {
    let (mut scales, mut minima) = ([0.0; 8], [0.0; 8]);
    for j in 0..4 {
        scales[j] = f32::from(q[j] & 63);
        minima[j] = f32::from(q[j + 4] & 63);
        scales[j + 4] = f32::from(q[j + 8] & 15 | (q[j] >> 6) << 4);
        minima[j + 4] = f32::from(q[j + 8] >> 4 | (q[j + 4] >> 6) << 4);
    }
    (scales, minima)
}

/// Unpacks Q4_K or Q5_K: a scale and a minimum of all, those of each 32, perhaps fifth bits, and the lower four.
#[inline(always)]
fn q4_k_or_q5_k<L: Lanes, const B: usize>(
    lanes: L,
    blocks: &[u8],
    out: &mut [f32],
    fifths_at: Option<usize>,
) {
    let blocks = blocks.as_chunks::<B>().0;
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<256>().0) {
        let (d, min) = (scale(block, 0), scale(block, 2));
        let (scales, minima) = scales_and_minima(&bytes(block, 4));
        for (sixteenth, out) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            // Each 32 bytes hold the lower four bits of 32 numbers, and then those of the next 32.
            let (thirty_second, half) = (sixteenth / 2, sixteenth % 2);
            let low = sixteen(block, B - 128 + thirty_second / 2 * 32 + half * 16);
            let mut q = bits(low, 4 * (thirty_second % 2), 15);
            if let Some(at) = fifths_at {
                q |= bits(sixteen(block, at + half * 16), thirty_second, 1) << 4;
            }
            let q = lanes.load_u8(&q.to_le_bytes());
            let d = lanes.splat(d * scales[thirty_second]);
            let m = lanes.splat(min * minima[thirty_second]);
            lanes.store(lanes.sub(lanes.mul(d, q), m), out);
        }
    }
}

/// Unpacks Q6_K: the lower four bits, the upper two, the scales of each 16 numbers, and that of all.
#[inline(always)]
fn q6_k<L: Lanes>(lanes: L, blocks: &[u8], out: &mut [f32]) {
    let blocks = blocks.as_chunks::<210>().0;
    for (block, out) in blocks.iter().zip(out.as_chunks_mut::<256>().0) {
        let d = scale(block, 208);
        for (sixteenth, out) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            // Each half has its bits in 64 and 32 bytes; its quarters take turns in them.
            let (half, quarter, within) = (sixteenth / 8, sixteenth % 8 / 2, sixteenth % 2);
            let low = sixteen(block, 64 * half + quarter % 2 * 32 + within * 16);
            let high = sixteen(block, 128 + 32 * half + within * 16);
            let q = bits(low, quarter / 2 * 4, 15) | bits(high, 2 * quarter, 3) << 4;
            let q = lanes.sub(lanes.load_u8(&q.to_le_bytes()), lanes.splat(32.0));
            let scale = f32::from(block[192 + sixteenth].cast_signed());
            lanes.store(lanes.mul(lanes.splat(d * scale), q), out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::InstructionSet;
    use crate::ops::lanes::Kernel;

    struct Unpack<'a>(BlockFormat, &'a [u8], &'a mut [f32]);

    impl Kernel for Unpack<'_> {
        type Output = ();

        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) {
            unpack(lanes, self.0, self.1, self.2);
        }
    }

    #[test]
    fn numbers_are_the_librarys_bit_by_bit() {
        let mut state = 1u32;
        for format in BlockFormat::all() {
            let blocks = 400;
            let mut bytes = vec![0u8; blocks * format.block_bytes()];
            bytes.iter_mut().for_each(|byte| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *byte = (state >> 24) as u8;
            });
            let mut expected = vec![0.0; blocks * format.block_len()];
            format.unpack(&bytes, &mut expected);
            for set in InstructionSet::available() {
                let mut found = vec![0.0; expected.len()];
                set.run(Unpack(format, &bytes, &mut found));
                for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
                    let same = found.to_bits() == expected.to_bits()
                        || found.is_nan() && expected.is_nan();
                    assert!(
                        same,
                        "{format}, {}, {i}: {found}, not {expected}",
                        set.name()
                    );
                }
            }
        }
    }
}
