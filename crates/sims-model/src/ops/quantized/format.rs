//! The formats that ggml stores a row of numbers in, and their numbers.

use std::fmt;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::k_quants::{
    BlockQ2K, BlockQ3K, BlockQ4_0, BlockQ4_1, BlockQ4K, BlockQ5_0, BlockQ5_1, BlockQ5K, BlockQ6K,
    BlockQ8_0, GgmlType,
};
use half::{bf16, f16};

/// How ggml stores numbers: in blocks of 1, 32 or 256 along a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockFormat(GgmlDType);

/// Every format that is read, with its number in a GGUF file and its usual name.
const FORMATS: [(u32, GgmlDType, &str); 13] = [
    (0, GgmlDType::F32, "F32"),
    (1, GgmlDType::F16, "F16"),
    (2, GgmlDType::Q4_0, "Q4_0"),
    (3, GgmlDType::Q4_1, "Q4_1"),
    (6, GgmlDType::Q5_0, "Q5_0"),
    (7, GgmlDType::Q5_1, "Q5_1"),
    (8, GgmlDType::Q8_0, "Q8_0"),
    (10, GgmlDType::Q2K, "Q2_K"),
    (11, GgmlDType::Q3K, "Q3_K"),
    (12, GgmlDType::Q4K, "Q4_K"),
    (13, GgmlDType::Q5K, "Q5_K"),
    (14, GgmlDType::Q6K, "Q6_K"),
    (30, GgmlDType::BF16, "BF16"),
];

/// The names of the formats that are not read, for the error that meets one.
const OTHERS: [(u32, &str); 18] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (39, "MXFP4"),
];

impl BlockFormat {
    /// 16-bit floats.
    pub const F16: Self = Self(GgmlDType::F16);

    /// Returns the format that a GGUF file gives this number.
    ///
    /// # Errors
    /// What the number stands for, and what is read instead.
    pub fn of_number(number: u32) -> Result<Self, String> {
        if let Some((_, dtype, _)) = FORMATS.iter().find(|(known, ..)| *known == number) {
            return Ok(Self(*dtype));
        }
        let name = OTHERS.iter().find(|(known, _)| *known == number);
        let name = name.map_or("unknown", |(_, name)| name);
        let read = FORMATS.map(|(.., name)| name).join(", ");
        Err(format!(
            "is stored as type {number} ({name}); {read} are read"
        ))
    }

    /// Returns every format.
    pub fn all() -> impl Iterator<Item = Self> {
        FORMATS.into_iter().map(|(_, dtype, _)| Self(dtype))
    }

    /// Returns the tensor library's name of the format.
    pub fn dtype(self) -> GgmlDType {
        self.0
    }

    /// Returns whether the numbers are stored as floats, each on its own.
    pub fn is_float(self) -> bool {
        self.block_len() == 1
    }

    /// Returns how many numbers a block holds.
    pub fn block_len(self) -> usize {
        self.0.block_size()
    }

    /// Returns how many bytes a block takes.
    pub fn block_bytes(self) -> usize {
        self.0.type_size()
    }

    /// Returns how many bytes `count` numbers take, if they are whole blocks and the bytes can be counted.
    pub fn bytes_of(self, count: usize) -> Option<usize> {
        count
            .is_multiple_of(self.block_len())
            .then(|| (count / self.block_len()).checked_mul(self.block_bytes()))?
    }

    /// Writes the numbers of whole blocks, by the tensor library's own rule for the format.
    ///
    /// # Panics
    /// When the lengths do not fit each other or the blocks are not aligned to [`ALIGNMENT`] or their start
    /// lies not a whole number of blocks behind one that is.
    pub fn unpack(self, blocks: &[u8], out: &mut [f32]) {
        assert_eq!(self.bytes_of(out.len()), Some(blocks.len()));
        match self.0 {
            GgmlDType::F32 => unpack_as::<f32>(blocks, out),
            GgmlDType::F16 => unpack_as::<f16>(blocks, out),
            GgmlDType::BF16 => unpack_as::<bf16>(blocks, out),
            GgmlDType::Q4_0 => unpack_as::<BlockQ4_0>(blocks, out),
            GgmlDType::Q4_1 => unpack_as::<BlockQ4_1>(blocks, out),
            GgmlDType::Q5_0 => unpack_as::<BlockQ5_0>(blocks, out),
            GgmlDType::Q5_1 => unpack_as::<BlockQ5_1>(blocks, out),
            GgmlDType::Q8_0 => unpack_as::<BlockQ8_0>(blocks, out),
            GgmlDType::Q2K => unpack_as::<BlockQ2K>(blocks, out),
            GgmlDType::Q3K => unpack_as::<BlockQ3K>(blocks, out),
            GgmlDType::Q4K => unpack_as::<BlockQ4K>(blocks, out),
            GgmlDType::Q5K => unpack_as::<BlockQ5K>(blocks, out),
            GgmlDType::Q6K => unpack_as::<BlockQ6K>(blocks, out),
            GgmlDType::Q8_1 | GgmlDType::Q8K => {
                unreachable!("made only from a number of FORMATS")
            }
        }
    }

    /// Returns the first number of the first block that holds NaN or an infinity, if one does.
    ///
    /// A quantised number is finite where its block's scales are: f16 times small whole numbers stays in f32.
    pub fn first_not_finite(self, blocks: &[u8]) -> Option<usize> {
        let half_at = |block: &[u8], at: usize| f16::from_le_bytes([block[at], block[at + 1]]);
        let scales: &[usize] = match self.0 {
            GgmlDType::Q4_0 | GgmlDType::Q5_0 | GgmlDType::Q8_0 => &[0],
            GgmlDType::Q4_1 | GgmlDType::Q5_1 | GgmlDType::Q4K | GgmlDType::Q5K => &[0, 2],
            GgmlDType::Q2K => &[80, 82],
            GgmlDType::Q3K => &[108],
            GgmlDType::Q6K => &[208],
            _ => &[],
        };
        let finite = |block: &[u8]| match self.0 {
            GgmlDType::F32 => {
                f32::from_le_bytes([block[0], block[1], block[2], block[3]]).is_finite()
            }
            GgmlDType::F16 => half_at(block, 0).is_finite(),
            GgmlDType::BF16 => bf16::from_le_bytes([block[0], block[1]]).is_finite(),
            _ => scales.iter().all(|&at| half_at(block, at).is_finite()),
        };
        let block = blocks
            .chunks_exact(self.block_bytes())
            .position(|block| !finite(block))?;
        Some(block * self.block_len())
    }
}

impl fmt::Display for BlockFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = FORMATS.iter().find(|(_, dtype, _)| *dtype == self.0);
        f.write_str(name.map_or("?", |(.., name)| name))
    }
}

/// What the start of a tensor's bytes must be a multiple of in memory: every format's fields then are aligned.
pub const ALIGNMENT: usize = align_of::<f32>();

/// Takes the bytes for blocks of `T`, and writes their numbers.
fn unpack_as<T: GgmlType>(blocks: &[u8], out: &mut [f32]) {
    // SAFETY: every bit pattern is a block, as all fields are plain numbers; the cut parts are checked to be empty.
    let (before, blocks, after) = unsafe { blocks.align_to::<T>() };
    assert!(before.is_empty() && after.is_empty());
    T::to_float(blocks, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_ggmls() {
        let sizes: Vec<_> = BlockFormat::all()
            .map(|format| (format.to_string(), format.block_len(), format.block_bytes()))
            .collect();
        let expected = [
            ("F32", 1, 4),
            ("F16", 1, 2),
            ("Q4_0", 32, 18),
            ("Q4_1", 32, 20),
            ("Q5_0", 32, 22),
            ("Q5_1", 32, 24),
            ("Q8_0", 32, 34),
            ("Q2_K", 256, 84),
            ("Q3_K", 256, 110),
            ("Q4_K", 256, 144),
            ("Q5_K", 256, 176),
            ("Q6_K", 256, 210),
            ("BF16", 1, 2),
        ];
        let expected = expected.map(|(name, len, bytes)| (name.to_owned(), len, bytes));
        assert_eq!(sizes, expected);
    }

    #[test]
    fn a_format_that_is_not_read_is_named() {
        let error = BlockFormat::of_number(16).expect_err("refused");
        assert!(error.starts_with("is stored as type 16 (IQ2_XXS); F32, F16"));
        let error = BlockFormat::of_number(999).expect_err("refused");
        assert!(error.starts_with("is stored as type 999 (unknown);"));
    }

    #[test]
    fn scales_that_are_not_finite_are_found() {
        for format in BlockFormat::all() {
            let bytes = format.block_bytes();
            let mut blocks = vec![0; 4 * bytes];
            assert_eq!(format.first_not_finite(&blocks), None, "{format}");
            // All ones is NaN in every float, and so in every scale.
            blocks[2 * bytes..3 * bytes].fill(0xff);
            assert_eq!(
                format.first_not_finite(&blocks),
                Some(2 * format.block_len()),
                "{format}"
            );
            let mut out = vec![0.0; 4 * format.block_len()];
            format.unpack(&blocks, &mut out);
            let found = out.iter().position(|value| !value.is_finite());
            assert_eq!(found, Some(2 * format.block_len()), "{format}");
        }
    }
}
