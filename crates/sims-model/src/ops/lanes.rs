//! Sixteen f32 lanes on AVX-512, AVX2 or plain Rust, with equal bits on all three.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;

/// The number of lanes, and so of the partial sums of a reduction.
pub const LANES: usize = 16;

/// Arithmetic on sixteen f32 lanes.
///
/// A value of the implementing type is the proof that the machine has the instructions, so that the
/// methods are safe. All of them are `#[inline(always)]`: they become single instructions only inside a
/// function compiled for the instruction set, which is what [`InstructionSet::run`] provides. For the same
/// reason no code with lanes may be in a closure: the compiler leaves closures as functions of their own,
/// where each instruction becomes a call (a factor of ten was measured).
pub trait Lanes: Copy {
    /// Sixteen lanes.
    type V: Copy;

    /// How many sums of a matrix product, a [`Lanes::V`] each, stay in registers.
    const SUMS: usize;

    /// Returns `x` in every lane.
    fn splat(self, x: f32) -> Self::V;
    /// Returns the lanes of `x`.
    fn load(self, x: &[f32; LANES]) -> Self::V;
    /// Writes the lanes to `out`.
    fn store(self, v: Self::V, out: &mut [f32; LANES]);
    /// Returns bf16 numbers, given by their bits.
    fn load_bf16(self, x: &[u16; LANES]) -> Self::V;
    /// Returns the lower halves of `x`, which are bf16.
    fn load_lower_bf16(self, x: &[u32; LANES]) -> Self::V;
    /// Returns the upper halves of `x`, which are bf16.
    fn load_upper_bf16(self, x: &[u32; LANES]) -> Self::V;
    /// Returns the whole numbers of `x`.
    fn load_u8(self, x: &[u8; LANES]) -> Self::V;
    /// Returns `a + b`.
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns `a - b`.
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns `a * b`.
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns `a / b`.
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns `a * b + c`, rounded once.
    fn mul_add(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Returns the greater of `a` and `b`, `b` where one is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns the smaller of `a` and `b`, `b` where one is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns `2^n` for whole `n` from -126 to 127, given `n` plus [`ROUNDING_SHIFT`].
    fn exp2_of_shifted(self, shifted: Self::V) -> Self::V;

    /// Asks for a line of memory to be brought to the second-level cache, where a machine can be asked; any
    /// address will do.
    #[inline(always)]
    fn prefetch(self, _line: *const u8) {}

    /// Multiplies pairs of bf16: adds to `sums[r][w]` the product of the upper halves of `x[r]` and `weights[w]`,
    /// then that of the lower halves.
    ///
    /// Each addition rounds once, to f32. This is AVX-512's `vdpbf16ps`, but for one thing: that instruction
    /// takes denormal numbers as zero and never returns one. Callers see to it that none occur.
    #[inline(always)]
    fn mul_add_pairs<const R: usize, const W: usize>(
        self,
        x: [u32; R],
        weights: [&[u32; LANES]; W],
        sums: &mut [[Self::V; W]; R],
    ) {
        mul_add_halves(self, x, weights, sums);
    }

    /// Exchanges rows and columns: lane `i` of the returned element `j` is lane `j` of `rows[i]`.
    #[inline(always)]
    fn transpose(self, rows: [Self::V; LANES]) -> [Self::V; LANES] {
        let mut values = [[0.0; LANES]; LANES];
        for i in 0..LANES {
            self.store(rows[i], &mut values[i]);
        }
        let mut columns = rows;
        for j in 0..LANES {
            let mut column = [0.0; LANES];
            for i in 0..LANES {
                column[i] = values[i][j];
            }
            columns[j] = self.load(&column);
        }
        columns
    }

    /// Returns the lanes of a slice of at most sixteen, with `fill` in the others.
    #[inline(always)]
    fn load_part(self, x: &[f32], fill: f32) -> Self::V {
        let mut lanes = [fill; LANES];
        lanes[..x.len()].copy_from_slice(x);
        self.load(&lanes)
    }

    /// Writes the first lanes to a slice of at most sixteen.
    #[inline(always)]
    fn store_part(self, v: Self::V, out: &mut [f32]) {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        out.copy_from_slice(&lanes[..out.len()]);
    }

    /// Returns the sum of the lanes, halves added to halves.
    #[inline(always)]
    fn sum(self, v: Self::V) -> f32 {
        self.fold(v, |a, b| a + b)
    }

    /// Returns the greatest lane.
    #[inline(always)]
    fn greatest(self, v: Self::V) -> f32 {
        self.fold(v, f32::max)
    }

    /// Folds the upper half of the lanes onto the lower one until one is left.
    #[inline(always)]
    fn fold(self, v: Self::V, f: impl Fn(f32, f32) -> f32) -> f32 {
        let mut lanes = [0.0; LANES];
        self.store(v, &mut lanes);
        for width in [8, 4, 2, 1] {
            for lane in 0..width {
                lanes[lane] = f(lanes[lane], lanes[lane + width]);
            }
        }
        lanes[0]
    }
}

/// [`Lanes::mul_add_pairs`] in f32.
#[inline(always)]
fn mul_add_halves<L: Lanes, const R: usize, const W: usize>(
    lanes: L,
    x: [u32; R],
    weights: [&[u32; LANES]; W],
    sums: &mut [[L::V; W]; R],
) {
    let mut halves = [lanes.splat(0.0); W];
    for w in 0..W {
        halves[w] = lanes.load_upper_bf16(weights[w]);
    }
    for r in 0..R {
        let x = lanes.splat(f32::from_bits(x[r] & 0xffff_0000));
        for w in 0..W {
            sums[r][w] = lanes.mul_add(x, halves[w], sums[r][w]);
        }
    }
    for w in 0..W {
        halves[w] = lanes.load_lower_bf16(weights[w]);
    }
    for r in 0..R {
        let x = lanes.splat(f32::from_bits(x[r] << 16));
        for w in 0..W {
            sums[r][w] = lanes.mul_add(x, halves[w], sums[r][w]);
        }
    }
}

/// Adding this to a small f32 rounds it to a whole number, half to even, and leaves that number in the low bits.
pub const ROUNDING_SHIFT: f32 = 12_582_912.0; // 1.5 * 2^23

/// Work that is written over [`Lanes`].
pub trait Kernel {
    /// What the work returns.
    type Output;

    /// Does the work; `#[inline(always)]` in every implementation, as are the functions it calls with lanes.
    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

/// The instructions that kernels are compiled for; a value exists only where the machine has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstructionSet(Choice);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Choice {
    #[cfg(target_arch = "x86_64")]
    Avx512Bf16(avx512::Avx512<true>),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Avx512<false>),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2),
    Portable(portable::Portable),
}

impl InstructionSet {
    /// Returns the widest instructions that the machine has.
    pub fn detect() -> Self {
        Self::available()[0]
    }

    /// Returns all that the machine has, the widest first; plain Rust is always there.
    pub fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            all.extend(avx512::Avx512::<true>::detect().map(Choice::Avx512Bf16));
            all.extend(avx512::Avx512::<false>::detect().map(Choice::Avx512));
            all.extend(avx2::Avx2::detect().map(Choice::Avx2));
        }
        all.push(Choice::Portable(portable::Portable));
        all.into_iter().map(Self).collect()
    }

    /// Returns the usual name of the instructions.
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Choice::Avx512Bf16(_) => "avx512bf16",
            #[cfg(target_arch = "x86_64")]
            Choice::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Choice::Avx2(_) => "avx2",
            Choice::Portable(_) => "portable",
        }
    }

    /// Does the work, compiled for these instructions.
    pub fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Choice::Avx512Bf16(lanes) => lanes.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Choice::Avx512(lanes) => lanes.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Choice::Avx2(lanes) => lanes.run(kernel),
            Choice::Portable(lanes) => kernel.run(lanes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every operation on awkward values, laid one after another.
    struct Everything;

    impl Kernel for Everything {
        type Output = Vec<u32>;

        #[inline(always)]
        fn run<L: Lanes>(self, lanes: L) -> Vec<u32> {
            let numbers: [f32; LANES] = [
                0.0, -0.0, 1.0, -1.5, 3e-39, 1e38, -1e38, 0.1, 7.0, -0.3, 1e-7, 2.5, 3.5, -2.5,
                123.456, 9e9,
            ];
            let shifts: [f32; LANES] =
                std::array::from_fn(|lane| lane as f32 * 17.0 - 126.0 + ROUNDING_SHIFT);
            let pairs: [u32; LANES] =
                std::array::from_fn(|lane| 0x3f80_4000 + lane as u32 * 0x0011_0023);
            let (a, b) = (lanes.load(&numbers), lanes.load_part(&numbers[3..15], 0.7));
            let halves: [u16; LANES] = std::array::from_fn(|lane| 0xbf80 + lane as u16 * 0x0123);
            let (low, high) = (lanes.load_lower_bf16(&pairs), lanes.load_upper_bf16(&pairs));
            let results = [
                lanes.add(a, b),
                lanes.sub(a, b),
                lanes.mul(a, b),
                lanes.div(b, lanes.splat(3.0)),
                lanes.mul_add(a, b, low),
                lanes.load_u8(&std::array::from_fn(|lane| (lane * 17) as u8)),
                lanes.max(a, b),
                lanes.min(a, b),
                low,
                high,
                lanes.load_bf16(&halves),
                lanes.exp2_of_shifted(lanes.load(&shifts)),
            ];
            let mut bits = Vec::new();
            for v in results {
                let mut out = [0.0; LANES];
                lanes.store(v, &mut out);
                bits.extend(out.map(f32::to_bits));
            }
            let rows = std::array::from_fn(|i| results[i % results.len()]);
            for v in lanes.transpose(rows) {
                let mut out = [0.0; LANES];
                lanes.store(v, &mut out);
                bits.extend(out.map(f32::to_bits));
            }
            bits.push(lanes.sum(b).to_bits());
            bits.push(lanes.greatest(a).to_bits());
            bits
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let sets = InstructionSet::available();
        let expected = InstructionSet(Choice::Portable(portable::Portable)).run(Everything);
        for set in sets {
            assert_eq!(set.run(Everything), expected, "{}", set.name());
        }
    }

    #[test]
    fn powers_of_two_are_exact() {
        struct Powers;
        impl Kernel for Powers {
            type Output = [f32; LANES];
            #[inline(always)]
            fn run<L: Lanes>(self, lanes: L) -> [f32; LANES] {
                let exponents: [f32; LANES] = std::array::from_fn(|lane| lane as f32 * 10.0 - 75.0);
                let mut out = [0.0; LANES];
                let shifted = lanes.add(lanes.load(&exponents), lanes.splat(ROUNDING_SHIFT));
                lanes.store(lanes.exp2_of_shifted(shifted), &mut out);
                out
            }
        }
        let expected: [f32; LANES] = std::array::from_fn(|lane| 2f32.powi(lane as i32 * 10 - 75));
        assert_eq!(InstructionSet::detect().run(Powers), expected);
    }
}
