//! The rotary position embedding: wavelengths, their scaling, and a table of cosines and sines.

use std::sync::OnceLock;

use crate::Config;

/// What is done to the rotary embedding's wavelengths.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Nothing.
    Default,
    /// All wavelengths are stretched alike.
    Linear {
        /// The stretch.
        factor: f64,
    },
    /// Long wavelengths are stretched, short ones kept, those between interpolated, as Llama 3.1 does.
    Llama3 {
        /// The stretch of the long wavelengths.
        factor: f64,
        /// Wavelengths above the original context divided by this are stretched in full.
        low_freq_factor: f64,
        /// Wavelengths below the original context divided by this are kept.
        high_freq_factor: f64,
        /// The context before stretching, in tokens.
        original_max_position_embeddings: usize,
    },
}

/// Positions in one block of the table.
const BLOCK: usize = 256;

/// Cosines and sines of the rotation angles, computed in blocks of positions when first asked for.
pub struct RopeTable {
    inverse_frequencies: Vec<f32>,
    blocks: Vec<OnceLock<Box<[f32]>>>,
}

impl RopeTable {
    /// Makes an empty table for the positions of `config`.
    pub fn new(config: &Config) -> Self {
        let blocks = config.max_position_embeddings.div_ceil(BLOCK);
        Self {
            inverse_frequencies: inverse_frequencies(config),
            blocks: std::iter::repeat_with(OnceLock::new).take(blocks).collect(),
        }
    }

    /// Returns the cosines and the sines of `position`, `[head_dim / 2]` each.
    ///
    /// # Panics
    /// When `position` is not below `max_position_embeddings`, which [`Decoder`](crate::Decoder) checks.
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let half = self.inverse_frequencies.len();
        let block = self.blocks[position / BLOCK].get_or_init(|| self.block(position / BLOCK));
        block[position % BLOCK * 2 * half..][..2 * half].split_at(half)
    }

    /// Computes one block, `[BLOCK, 2, head_dim / 2]`.
    ///
    /// The angle is rounded to f32 before the cosine is taken, as transformers does: at position 100 000
    /// an exact angle would differ from theirs by more than the tolerance of a logit.
    fn block(&self, index: usize) -> Box<[f32]> {
        let mut values = Vec::with_capacity(BLOCK * 2 * self.inverse_frequencies.len());
        for position in index * BLOCK..(index + 1) * BLOCK {
            let angles = self
                .inverse_frequencies
                .iter()
                .map(|frequency| f64::from(position as f32 * frequency));
            values.extend(angles.clone().map(|angle| angle.cos() as f32));
            values.extend(angles.map(|angle| angle.sin() as f32));
        }
        values.into_boxed_slice()
    }
}

/// Returns the angle a position turns each pair of dimensions by, `[head_dim / 2]`, in radians.
fn inverse_frequencies(config: &Config) -> Vec<f32> {
    let dims = (0..config.head_dim).step_by(2);
    let exponents = dims.map(|dim| dim as f64 / config.head_dim as f64);
    exponents
        .map(|exponent| {
            config
                .rope_scaling
                .apply(1.0 / config.rope_theta.powf(exponent)) as f32
        })
        .collect()
}

impl RopeScaling {
    /// Returns the scaled inverse frequency; the formulas are those of transformers' `modeling_rope_utils.py`, 5.23.
    fn apply(&self, frequency: f64) -> f64 {
        match *self {
            Self::Default => frequency,
            Self::Linear { factor } => frequency / factor,
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let wavelengths_in_context = original_max_position_embeddings as f64 * frequency
                    / (2.0 * std::f64::consts::PI);
                // 0 for the long wavelengths, 1 for the short ones.
                let kept = (wavelengths_in_context - low_freq_factor)
                    / (high_freq_factor - low_freq_factor);
                let kept = kept.clamp(0.0, 1.0);
                (1.0 - kept) * frequency / factor + kept * frequency
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA3: RopeScaling = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };

    #[test]
    fn llama3_keeps_short_wavelengths_and_stretches_long_ones() {
        assert_eq!(LLAMA3.apply(1.0), 1.0);
        assert_eq!(LLAMA3.apply(1e-6), 1e-6 / 8.0);
        // Two wavelengths in the context: a third of the way from stretched to kept.
        let frequency = 2.0 * 2.0 * std::f64::consts::PI / 8192.0;
        let expected = frequency * (2.0 / 3.0 / 8.0 + 1.0 / 3.0);
        assert!((LLAMA3.apply(frequency) - expected).abs() < 1e-12);
    }

    #[test]
    fn linear_stretches_all_wavelengths() {
        assert_eq!(RopeScaling::Linear { factor: 4.0 }.apply(0.5), 0.125);
    }
}
