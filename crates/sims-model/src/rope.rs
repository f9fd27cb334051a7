//! The rotary position embedding: wavelengths, their scaling, and a table of cosines and sines.

use std::sync::OnceLock;

/// One rotary position embedding.
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// The base of the wavelengths.
    pub theta: f64,
    /// How many of a head's dimensions, from the first on, are turned; even.
    pub rotary_dim: usize,
    /// What is done to the wavelengths.
    pub scaling: RopeScaling,
}

/// What is done to the rotary embedding's wavelengths.
#[derive(Debug, Clone, PartialEq)]
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
    /// As YaRN does (arXiv 2309.00071): a ramp over the dimensions, and larger cosines and sines.
    Yarn {
        /// The stretch of the long wavelengths.
        factor: f64,
        /// Dimensions that turn more often than this in the original context are kept.
        beta_fast: f64,
        /// Dimensions that turn less often than this are stretched in full.
        beta_slow: f64,
        /// Whether the ramp's ends are moved outwards to whole dimensions.
        truncate: bool,
        /// What cosines and sines are multiplied by.
        attention_factor: f64,
        /// The context before stretching, in tokens.
        original_max_position_embeddings: usize,
    },
    /// As LongRoPE does (arXiv 2402.13753), within the original context.
    ///
    /// Beyond it the checkpoint has other factors, which transformers applies to a whole forward pass once any
    /// sequence of it is that long. Here a result does not depend on the batch, so longer sequences are refused.
    LongRope {
        /// The stretch of each wavelength, `[rotary_dim / 2]`.
        short_factor: Vec<f64>,
        /// What cosines and sines are multiplied by.
        attention_factor: f64,
        /// The context that the factors are for, in tokens.
        original_max_position_embeddings: usize,
    },
}

/// Positions in one block of the table.
const BLOCK: usize = 256;

/// Cosines and sines of the rotation angles, computed in blocks of positions when first asked for.
pub struct RopeTable {
    inverse_frequencies: Vec<f32>,
    attention_factor: f32,
    blocks: Vec<OnceLock<Box<[f32]>>>,
}

impl RopeTable {
    /// Makes an empty table for `positions` positions.
    pub fn new(rope: &RopeConfig, positions: usize) -> Self {
        let blocks = positions.div_ceil(BLOCK);
        Self {
            inverse_frequencies: rope.inverse_frequencies(),
            attention_factor: rope.scaling.attention_factor() as f32,
            blocks: std::iter::repeat_with(OnceLock::new).take(blocks).collect(),
        }
    }

    /// Returns the cosines and the sines of `position`, `[rotary_dim / 2]` each.
    ///
    /// # Panics
    /// When `position` is not below `max_position_embeddings`, which [`Decoder`](crate::Decoder) checks.
    pub fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let half = self.inverse_frequencies.len();
        let block = self.blocks[position / BLOCK].get_or_init(|| self.block(position / BLOCK));
        block[position % BLOCK * 2 * half..][..2 * half].split_at(half)
    }

    /// Computes one block, `[BLOCK, 2, rotary_dim / 2]`.
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
            let scaled = |value: f64| value as f32 * self.attention_factor;
            values.extend(angles.clone().map(|angle| scaled(angle.cos())));
            values.extend(angles.map(|angle| scaled(angle.sin())));
        }
        values.into_boxed_slice()
    }
}

impl RopeConfig {
    /// Returns the angle a position turns each pair of dimensions by, `[rotary_dim / 2]`, in radians.
    fn inverse_frequencies(&self) -> Vec<f32> {
        let pairs = self.rotary_dim / 2;
        (0..pairs)
            .map(|pair| {
                let exponent = 2.0 * pair as f64 / self.rotary_dim as f64;
                self.scale(1.0 / self.theta.powf(exponent), pair) as f32
            })
            .collect()
    }

    /// Returns the scaled inverse frequency of a pair; the formulas are those of transformers' `modeling_rope_utils.py`, 5.23.
    fn scale(&self, frequency: f64, pair: usize) -> f64 {
        match self.scaling {
            RopeScaling::Default => frequency,
            RopeScaling::Linear { factor } => frequency / factor,
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let wavelengths_in_context =
                    original_max_position_embeddings as f64 * frequency / TURN;
                // 0 for the long wavelengths, 1 for the short ones.
                let kept = (wavelengths_in_context - low_freq_factor)
                    / (high_freq_factor - low_freq_factor);
                let kept = kept.clamp(0.0, 1.0);
                (1.0 - kept) * frequency / factor + kept * frequency
            }
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                truncate,
                original_max_position_embeddings,
                ..
            } => {
                // The pair that turns so often in the original context.
                let pair_of = |turns: f64| {
                    let context = original_max_position_embeddings as f64;
                    self.rotary_dim as f64 * (context / (turns * TURN)).ln()
                        / (2.0 * self.theta.ln())
                };
                let (mut low, mut high) = (pair_of(beta_fast), pair_of(beta_slow));
                if truncate {
                    (low, high) = (low.floor(), high.ceil());
                }
                (low, high) = (low.max(0.0), high.min(self.rotary_dim as f64 - 1.0));
                if low == high {
                    high += 0.001;
                }
                let stretched = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                stretched * frequency / factor + (1.0 - stretched) * frequency
            }
            RopeScaling::LongRope {
                ref short_factor, ..
            } => frequency / short_factor[pair],
        }
    }
}

/// A full turn, in radians.
const TURN: f64 = 2.0 * std::f64::consts::PI;

impl RopeScaling {
    /// Returns what cosines and sines are multiplied by.
    fn attention_factor(&self) -> f64 {
        match self {
            Self::Default | Self::Linear { .. } | Self::Llama3 { .. } => 1.0,
            Self::Yarn {
                attention_factor, ..
            }
            | Self::LongRope {
                attention_factor, ..
            } => *attention_factor,
        }
    }

    /// Returns the longest sequence, given the `max_position_embeddings` of the config.
    pub(crate) fn context(&self, max_position_embeddings: usize) -> usize {
        match *self {
            // Checkpoints that are stretched by hand keep the old limit beside the factor.
            Self::Yarn {
                factor,
                original_max_position_embeddings,
                ..
            } => max_position_embeddings
                .max((factor * original_max_position_embeddings as f64) as usize),
            Self::LongRope {
                original_max_position_embeddings,
                ..
            } => max_position_embeddings.min(original_max_position_embeddings),
            _ => max_position_embeddings,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaled(scaling: RopeScaling, frequency: f64) -> f64 {
        let rope = RopeConfig {
            theta: 1e4,
            rotary_dim: 8,
            scaling,
        };
        rope.scale(frequency, 0)
    }

    #[test]
    fn llama3_keeps_short_wavelengths_and_stretches_long_ones() {
        let llama3 = |frequency| {
            let scaling = RopeScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_position_embeddings: 8192,
            };
            scaled(scaling, frequency)
        };
        assert_eq!(llama3(1.0), 1.0);
        assert_eq!(llama3(1e-6), 1e-6 / 8.0);
        // Two wavelengths in the context: a third of the way from stretched to kept.
        let frequency = 2.0 * TURN / 8192.0;
        let expected = frequency * (2.0 / 3.0 / 8.0 + 1.0 / 3.0);
        assert!((llama3(frequency) - expected).abs() < 1e-12);
    }

    #[test]
    fn linear_stretches_all_wavelengths() {
        assert_eq!(scaled(RopeScaling::Linear { factor: 4.0 }, 0.5), 0.125);
    }
}
