//! The numbers of the common formats' blocks, by loops that compile for the instruction set around them.
//!
//! The operations and their order are the tensor library's, so that the numbers are the same bits; its own
//! functions are compiled for every machine, and take several times as long.

use candle_core::quantized::GgmlDType;
use half::f16;

use super::BlockFormat;

/// Writes the numbers of whole blocks, as [`BlockFormat::unpack`] does.
#[inline(always)]
pub(super) fn unpack(format: BlockFormat, blocks: &[u8], out: &mut [f32]) {
    match format.dtype() {
        GgmlDType::BF16 => {
            for (bytes, out) in blocks.as_chunks::<2>().0.iter().zip(out) {
                *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            }
        }
        GgmlDType::Q4_0 => each(blocks, out, q4_0),
        GgmlDType::Q4_1 => each(blocks, out, q4_1),
        GgmlDType::Q5_0 => each(blocks, out, q5_0),
        GgmlDType::Q5_1 => each(blocks, out, q5_1),
        GgmlDType::Q8_0 => each(blocks, out, q8_0),
        GgmlDType::Q4K => each(blocks, out, q4_k),
        GgmlDType::Q5K => each(blocks, out, q5_k),
        GgmlDType::Q6K => each(blocks, out, q6_k),
        _ => format.unpack(blocks, out),
    }
}

/// Calls `f` with each block of `B` bytes and the room for its `N` numbers.
#[inline(always)]
fn each<const B: usize, const N: usize>(
    blocks: &[u8],
    out: &mut [f32],
    f: impl Fn(&[u8; B], &mut [f32; N]),
) {
    let (blocks, out) = (blocks.as_chunks::<B>().0, out.as_chunks_mut::<N>().0);
    for (block, out) in blocks.iter().zip(out) {
        f(block, out);
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

#[inline(always)]
fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let (d, q) = (scale(block, 0), bytes::<18, 16>(block, 2));
    for i in 0..16 {
        out[i] = (i32::from(q[i] & 15) - 8) as f32 * d;
        out[16 + i] = (i32::from(q[i] >> 4) - 8) as f32 * d;
    }
}

#[inline(always)]
fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m, q) = (scale(block, 0), scale(block, 2), bytes::<20, 16>(block, 4));
    for i in 0..16 {
        out[i] = f32::from(q[i] & 15) * d + m;
        out[16 + i] = f32::from(q[i] >> 4) * d + m;
    }
}

/// Returns the fifth bit of each number, in its place.
#[inline(always)]
fn fifth_bits<const B: usize>(block: &[u8; B], at: usize) -> [i32; 32] {
    let all = u32::from_le_bytes(bytes(block, at));
    let mut bits = [0; 32];
    for (i, bit) in bits.iter_mut().enumerate() {
        *bit = ((all >> i & 1) << 4).cast_signed();
    }
    bits
}

#[inline(always)]
fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let (d, high, q) = (
        scale(block, 0),
        fifth_bits(block, 2),
        bytes::<22, 16>(block, 6),
    );
    for i in 0..16 {
        out[i] = ((i32::from(q[i] & 15) | high[i]) - 16) as f32 * d;
        out[16 + i] = ((i32::from(q[i] >> 4) | high[16 + i]) - 16) as f32 * d;
    }
}

#[inline(always)]
fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (scale(block, 0), scale(block, 2));
    let (high, q) = (fifth_bits(block, 4), bytes::<24, 16>(block, 8));
    for i in 0..16 {
        out[i] = (i32::from(q[i] & 15) | high[i]) as f32 * d + m;
        out[16 + i] = (i32::from(q[i] >> 4) | high[16 + i]) as f32 * d + m;
    }
}

#[inline(always)]
fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let (d, q) = (scale(block, 0), bytes::<34, 32>(block, 2));
    for i in 0..32 {
        out[i] = f32::from(q[i].cast_signed()) * d;
    }
}

/// Returns the 6-bit scale and minimum of the `j`th 32 numbers of a Q4_K or Q5_K block.
#[inline(always)]
fn scale_and_minimum(j: usize, q: &[u8; 12]) -> (f32, f32) {
    let (scale, minimum) = if j < 4 {
        (q[j] & 63, q[j + 4] & 63)
    } else {
        (
            q[j + 4] & 15 | (q[j - 4] >> 6) << 4,
            q[j + 4] >> 4 | (q[j] >> 6) << 4,
        )
    };
    (f32::from(scale), f32::from(minimum))
}

#[inline(always)]
fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, min, scales) = (scale(block, 0), scale(block, 2), bytes(block, 4));
    for j in 0..4 {
        let q = bytes::<144, 32>(block, 16 + 32 * j);
        let (scale_1, minimum_1) = scale_and_minimum(2 * j, &scales);
        let (scale_2, minimum_2) = scale_and_minimum(2 * j + 1, &scales);
        let (d_1, m_1) = (d * scale_1, min * minimum_1);
        let (d_2, m_2) = (d * scale_2, min * minimum_2);
        for i in 0..32 {
            out[64 * j + i] = d_1 * f32::from(q[i] & 15) - m_1;
            out[64 * j + 32 + i] = d_2 * f32::from(q[i] >> 4) - m_2;
        }
    }
}

#[inline(always)]
fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, min, scales) = (scale(block, 0), scale(block, 2), bytes(block, 4));
    let high = bytes::<176, 32>(block, 16);
    for j in 0..4 {
        let q = bytes::<176, 32>(block, 48 + 32 * j);
        let (scale_1, minimum_1) = scale_and_minimum(2 * j, &scales);
        let (scale_2, minimum_2) = scale_and_minimum(2 * j + 1, &scales);
        let (d_1, m_1) = (d * scale_1, min * minimum_1);
        let (d_2, m_2) = (d * scale_2, min * minimum_2);
        for i in 0..32 {
            let (first, second) = (high[i] >> (2 * j) & 1, high[i] >> (2 * j + 1) & 1);
            out[64 * j + i] = d_1 * f32::from(q[i] & 15 | first << 4) - m_1;
            out[64 * j + 32 + i] = d_2 * f32::from(q[i] >> 4 | second << 4) - m_2;
        }
    }
}

#[inline(always)]
fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (d, scales) = (scale(block, 208), bytes::<210, 16>(block, 192));
    for half in 0..2 {
        let low = bytes::<210, 64>(block, 64 * half);
        let high = bytes::<210, 32>(block, 128 + 32 * half);
        for quarter in 0..4 {
            for sixteen in 0..2 {
                let scale = scales[8 * half + 2 * quarter + sixteen].cast_signed();
                let scale = d * f32::from(scale);
                for i in 16 * sixteen..16 * sixteen + 16 {
                    let low = low[quarter % 2 * 32 + i] >> (quarter / 2 * 4) & 15;
                    let high = high[i] >> (2 * quarter) & 3;
                    let q = i32::from(low | high << 4) - 32;
                    out[128 * half + 32 * quarter + i] = scale * q as f32;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::InstructionSet;
    use crate::ops::lanes::{Kernel, Lanes};

    struct Unpack<'a>(BlockFormat, &'a [u8], &'a mut [f32]);

    impl Kernel for Unpack<'_> {
        type Output = ();

        #[inline(always)]
        fn run<L: Lanes>(self, _lanes: L) {
            unpack(self.0, self.1, self.2);
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
