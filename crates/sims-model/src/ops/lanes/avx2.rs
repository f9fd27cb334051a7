//! Sixteen lanes in two AVX2 registers.

use std::arch::x86_64::*;

use super::{Kernel, LANES, Lanes};

/// The proof that the machine has AVX2 and FMA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Avx2(());

impl Avx2 {
    pub(super) fn detect() -> Option<Self> {
        (is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")).then_some(Self(()))
    }

    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx2,fma")]
        fn compiled_for<K: Kernel>(lanes: Avx2, kernel: K) -> K::Output {
            kernel.run(lanes)
        }
        // SAFETY: `self` exists only where `detect` found these features.
        unsafe { compiled_for(self, kernel) }
    }
}

/// Lanes 0 to 7, and 8 to 15.
#[derive(Clone, Copy)]
pub(super) struct Halves(__m256, __m256);

// SAFETY of every block below: a value of `Avx2` exists only where the machine has the features that
// the intrinsics need, and array references point to sixteen readable (or writable) elements.
impl Lanes for Avx2 {
    type V = Halves;

    const SUMS: usize = 6;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        let half = unsafe { _mm256_set1_ps(x) };
        Halves(half, half)
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::V {
        unsafe {
            Halves(
                _mm256_loadu_ps(x.as_ptr()),
                _mm256_loadu_ps(x.as_ptr().add(8)),
            )
        }
    }

    #[inline(always)]
    fn store(self, v: Self::V, out: &mut [f32; LANES]) {
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), v.0);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), v.1);
        }
    }

    #[inline(always)]
    fn load_bf16(self, x: &[u16; LANES]) -> Self::V {
        unsafe {
            let first = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().cast()));
            let second = _mm256_cvtepu16_epi32(_mm_loadu_si128(x.as_ptr().add(8).cast()));
            Halves(
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(first)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(second)),
            )
        }
    }

    #[inline(always)]
    fn load_lower_bf16(self, x: &[u32; LANES]) -> Self::V {
        unsafe {
            let first = _mm256_loadu_si256(x.as_ptr().cast());
            let second = _mm256_loadu_si256(x.as_ptr().add(8).cast());
            Halves(
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(first)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(second)),
            )
        }
    }

    #[inline(always)]
    fn load_upper_bf16(self, x: &[u32; LANES]) -> Self::V {
        unsafe {
            let first = _mm256_loadu_si256(x.as_ptr().cast());
            let second = _mm256_loadu_si256(x.as_ptr().add(8).cast());
            let upper = _mm256_set1_epi32(0xffff_0000_u32.cast_signed());
            Halves(
                _mm256_castsi256_ps(_mm256_and_si256(first, upper)),
                _mm256_castsi256_ps(_mm256_and_si256(second, upper)),
            )
        }
    }

    #[inline(always)]
    fn load_u8(self, x: &[u8; LANES]) -> Self::V {
        unsafe {
            let bytes = _mm_loadu_si128(x.as_ptr().cast());
            Halves(
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128::<8>(bytes))),
            )
        }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { Halves(_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { Halves(_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { Halves(_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { Halves(_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe {
            Halves(
                _mm256_fmadd_ps(a.0, b.0, c.0),
                _mm256_fmadd_ps(a.1, b.1, c.1),
            )
        }
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { Halves(_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { Halves(_mm256_min_ps(a.0, b.0), _mm256_min_ps(a.1, b.1)) }
    }

    #[inline(always)]
    fn prefetch(self, line: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) }
    }

    #[inline(always)]
    fn exp2_of_shifted(self, shifted: Self::V) -> Self::V {
        unsafe {
            let one = _mm256_set1_epi32(1f32.to_bits().cast_signed());
            let first = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted.0));
            let second = _mm256_slli_epi32::<23>(_mm256_castps_si256(shifted.1));
            Halves(
                _mm256_castsi256_ps(_mm256_add_epi32(first, one)),
                _mm256_castsi256_ps(_mm256_add_epi32(second, one)),
            )
        }
    }

    #[inline(always)]
    fn transpose(self, rows: [Self::V; LANES]) -> [Self::V; LANES] {
        let mut columns = rows;
        for half in 0..2 {
            let mut left = [rows[0].0; 8];
            let mut right = left;
            for i in 0..8 {
                left[i] = rows[8 * half + i].0;
                right[i] = rows[8 * half + i].1;
            }
            // SAFETY: as for every block of this implementation.
            let (left, right) = unsafe { (transpose_8(left), transpose_8(right)) };
            for j in 0..8 {
                if half == 0 {
                    columns[j].0 = left[j];
                    columns[8 + j].0 = right[j];
                } else {
                    columns[j].1 = left[j];
                    columns[8 + j].1 = right[j];
                }
            }
        }
        columns
    }
}

/// Exchanges rows and columns of eight by eight.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn transpose_8(rows: [__m256; 8]) -> [__m256; 8] {
    unsafe {
        // Pairs of rows, then quads, each within the two halves of a register.
        let mut pairs = rows;
        for i in (0..8).step_by(2) {
            pairs[i] = _mm256_unpacklo_ps(rows[i], rows[i + 1]);
            pairs[i + 1] = _mm256_unpackhi_ps(rows[i], rows[i + 1]);
        }
        let mut quads = pairs;
        for i in (0..8).step_by(4) {
            for high in 0..2 {
                let a = _mm256_castps_pd(pairs[i + high]);
                let b = _mm256_castps_pd(pairs[i + high + 2]);
                quads[i + 2 * high] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, b));
                quads[i + 2 * high + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, b));
            }
        }
        // Now half h of quads[4 g + c] is column 4 h + c of rows 4 g to 4 g + 3.
        let mut columns = quads;
        for c in 0..4 {
            columns[c] = _mm256_permute2f128_ps::<0x20>(quads[c], quads[4 + c]);
            columns[4 + c] = _mm256_permute2f128_ps::<0x31>(quads[c], quads[4 + c]);
        }
        columns
    }
}
