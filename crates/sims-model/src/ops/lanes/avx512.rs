//! Sixteen lanes in one AVX-512 register.

use std::arch::x86_64::*;
use std::mem::transmute;

use super::{Kernel, LANES, Lanes, mul_add_halves};

/// The proof that the machine has AVX-512 F and DQ, AVX2 and FMA, and with `BF16` AVX-512 BF16 too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Avx512<const BF16: bool>(());

impl<const BF16: bool> Avx512<BF16> {
    pub(super) fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && (!BF16
                || (is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512bf16")));
        all.then_some(Self(()))
    }
}

impl Avx512<true> {
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512bf16,avx2,fma")]
        fn compiled_for<K: Kernel>(lanes: Avx512<true>, kernel: K) -> K::Output {
            kernel.run(lanes)
        }
        // SAFETY: `self` exists only where `detect` found these features.
        unsafe { compiled_for(self, kernel) }
    }
}

impl Avx512<false> {
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        #[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
        fn compiled_for<K: Kernel>(lanes: Avx512<false>, kernel: K) -> K::Output {
            kernel.run(lanes)
        }
        // SAFETY: `self` exists only where `detect` found these features.
        unsafe { compiled_for(self, kernel) }
    }
}

// SAFETY of every block below: a value of `Avx512` exists only where the machine has the features that
// the intrinsics need, and array references point to sixteen readable (or writable) elements.
impl<const BF16: bool> Lanes for Avx512<BF16> {
    type V = __m512;

    const SUMS: usize = 24;

    #[inline(always)]
    fn splat(self, x: f32) -> Self::V {
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn load(self, x: &[f32; LANES]) -> Self::V {
        unsafe { _mm512_loadu_ps(x.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, v: Self::V, out: &mut [f32; LANES]) {
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), v) }
    }

    #[inline(always)]
    fn load_bf16(self, x: &[u16; LANES]) -> Self::V {
        unsafe {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }

    #[inline(always)]
    fn load_lower_bf16(self, x: &[u32; LANES]) -> Self::V {
        unsafe {
            let pairs = _mm512_loadu_si512(x.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs))
        }
    }

    #[inline(always)]
    fn load_upper_bf16(self, x: &[u32; LANES]) -> Self::V {
        unsafe {
            let pairs = _mm512_loadu_si512(x.as_ptr().cast());
            let upper = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
            _mm512_castsi512_ps(_mm512_and_si512(pairs, upper))
        }
    }

    #[inline(always)]
    fn mul_add_pairs<const R: usize, const W: usize>(
        self,
        x: [u32; R],
        weights: [&[u32; LANES]; W],
        sums: &mut [[Self::V; W]; R],
    ) {
        if !BF16 {
            return mul_add_halves(self, x, weights, sums);
        }
        unsafe {
            let mut pairs = [_mm512_setzero_si512(); W];
            for w in 0..W {
                pairs[w] = _mm512_loadu_si512(weights[w].as_ptr().cast());
            }
            for r in 0..R {
                let x = _mm512_set1_epi32(x[r].cast_signed());
                for w in 0..W {
                    // Sixteen lanes of two bf16 have no type of their own to be loaded as.
                    let x = transmute::<__m512i, __m512bh>(x);
                    let pair = transmute::<__m512i, __m512bh>(pairs[w]);
                    sums[r][w] = _mm512_dpbf16_ps(sums[r][w], x, pair);
                }
            }
        }
    }

    #[inline(always)]
    fn load_u8(self, x: &[u8; LANES]) -> Self::V {
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(x.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn add(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: Self::V, b: Self::V) -> Self::V {
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn prefetch(self, line: *const u8) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) }
    }

    #[inline(always)]
    fn exp2_of_shifted(self, shifted: Self::V) -> Self::V {
        unsafe {
            let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
            let one = _mm512_set1_epi32(1f32.to_bits().cast_signed());
            _mm512_castsi512_ps(_mm512_add_epi32(exponent, one))
        }
    }

    #[inline(always)]
    fn transpose(self, rows: [Self::V; LANES]) -> [Self::V; LANES] {
        unsafe {
            // Pairs of rows, then quads, each within the four quarters of a register.
            let mut pairs = rows;
            for i in (0..LANES).step_by(2) {
                pairs[i] = _mm512_unpacklo_ps(rows[i], rows[i + 1]);
                pairs[i + 1] = _mm512_unpackhi_ps(rows[i], rows[i + 1]);
            }
            let mut quads = pairs;
            for i in (0..LANES).step_by(4) {
                for high in 0..2 {
                    let a = _mm512_castps_pd(pairs[i + high]);
                    let b = _mm512_castps_pd(pairs[i + high + 2]);
                    quads[i + 2 * high] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
                    quads[i + 2 * high + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
                }
            }
            // Now quarter q of quads[4 g + c] is column 4 q + c of rows 4 g to 4 g + 3: the quarters change places.
            let mut columns = quads;
            for c in 0..4 {
                let [a, b] = [quads[c], quads[4 + c]];
                let [d, e] = [quads[8 + c], quads[12 + c]];
                let low = _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b);
                let high = _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b);
                let low_2 = _mm512_shuffle_f32x4::<0b01_00_01_00>(d, e);
                let high_2 = _mm512_shuffle_f32x4::<0b11_10_11_10>(d, e);
                columns[c] = _mm512_shuffle_f32x4::<0b10_00_10_00>(low, low_2);
                columns[4 + c] = _mm512_shuffle_f32x4::<0b11_01_11_01>(low, low_2);
                columns[8 + c] = _mm512_shuffle_f32x4::<0b10_00_10_00>(high, high_2);
                columns[12 + c] = _mm512_shuffle_f32x4::<0b11_01_11_01>(high, high_2);
            }
            columns
        }
    }
}
