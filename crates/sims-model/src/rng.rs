//! Counter-based random numbers: each draw is a pure function of what it is for.
//!
//! A sampled token depends on (seed, round, prompt, sample, decode step) and on nothing else: no generator state
//! passes from one sequence to another, so batch size, request order and thread count cannot change a result.
//!
//! The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011); the known
//! answers in the tests are those of Random123 1.14, `tests/kat_vectors`.

use std::fmt;

/// Context string of the key derivation; a change of it changes every sampled token.
const KEY_CONTEXT: &str = "sims sample key v1";

/// Names the random stream of one sampled response.
///
/// Two keys differ whenever any of seed, round, prompt id or sample index differs.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SampleKey(u64);

impl SampleKey {
    /// Derives the key of sample `sample_index` of the prompt `prompt_id` in `round`.
    ///
    /// BLAKE3 key derivation over the little-endian numbers and the prompt id, which comes last so that no two
    /// argument lists encode to the same bytes.
    pub fn new(seed: u64, round: u32, prompt_id: &str, sample_index: u32) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(KEY_CONTEXT);
        hasher.update(&seed.to_le_bytes());
        hasher.update(&round.to_le_bytes());
        hasher.update(&sample_index.to_le_bytes());
        hasher.update(prompt_id.as_bytes());
        let mut key = [0; 8];
        hasher.finalize_xof().fill(&mut key);
        Self(u64::from_le_bytes(key))
    }

    /// The key as a number, as the `seed` column of the responses table stores it.
    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// Returns the uniform number in `[0, 1)` of decode step `step` (0 = the first new token): a multiple of 2⁻⁵³.
    pub fn uniform(self, step: u64) -> f64 {
        let [step_low, step_high] = split(step);
        let [key_low, key_high] = split(self.0);
        let [low, high, ..] = philox4x32_10([step_low, step_high, 0, 0], [key_low, key_high]);
        let bits = (u64::from(high) << 32) | u64::from(low);
        let numerator = (bits >> 11) as f64;
        numerator / (1_u64 << 53) as f64
    }
}

impl fmt::Debug for SampleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SampleKey({:016x})", self.0)
    }
}

/// Low and high half of a 64-bit word.
fn split(word: u64) -> [u32; 2] {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the halves are what is wanted"
    )]
    [word as u32, (word >> 32) as u32]
}

/// Ten rounds of Philox on a 128-bit counter under a 64-bit key.
fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let [low_0, high_0] = split(MULTIPLIERS[0] * u64::from(counter[0]));
        let [low_1, high_1] = split(MULTIPLIERS[1] * u64::from(counter[2]));
        counter = [
            high_1 ^ counter[1] ^ key[0],
            low_1,
            high_0 ^ counter[3] ^ key[1],
            low_0,
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_published_answers() {
        // Random123, tests/kat_vectors, "philox4x32 10".
        assert_eq!(
            philox4x32_10([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            philox4x32_10([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox4x32_10(
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0]
            ),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn streams_are_pinned() {
        // A change here changes every sampled token of every run: raise the sample stage's behaviour number with it.
        let key = SampleKey::new(17, 1, "p", 0);
        assert_eq!(format!("{key:?}"), "SampleKey(d95394fe25035929)");
        assert_eq!(key.uniform(0), 0.988_881_162_997_349_8);
    }

    #[test]
    fn each_part_of_the_key_matters() {
        let base = SampleKey::new(1, 2, "prompt", 3);
        for other in [
            SampleKey::new(2, 2, "prompt", 3),
            SampleKey::new(1, 3, "prompt", 3),
            SampleKey::new(1, 2, "prompu", 3),
            SampleKey::new(1, 2, "prompt", 4),
        ] {
            assert_ne!(base, other);
            assert_ne!(base.uniform(0).to_bits(), other.uniform(0).to_bits());
        }
        assert_ne!(base.uniform(0).to_bits(), base.uniform(1).to_bits());
    }

    #[test]
    fn uniform_numbers_are_uniform() {
        // 64 streams of 1 000 steps in 16 bins: chi-squared with 15 degrees of freedom, 0.999 quantile 37.7.
        let mut bins = [0_u32; 16];
        for sample in 0..64 {
            let key = SampleKey::new(7, 1, "uniformity", sample);
            for step in 0..1000 {
                let uniform = key.uniform(step);
                assert!((0.0..1.0).contains(&uniform));
                bins[(uniform * 16.0) as usize] += 1;
            }
        }
        let expected = 4000.0;
        let chi_squared: f64 = bins
            .iter()
            .map(|&n| (f64::from(n) - expected).powi(2) / expected)
            .sum();
        assert!(chi_squared < 37.7, "{chi_squared}: {bins:?}");
    }
}
