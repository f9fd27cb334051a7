//! Counter-based randomness: a stream is a pure function of its key.
//!
//! Nothing here is global or sequential across items, so the i-th document is the same
//! whoever asks for it and in whatever order.

/// A small random stream (SplitMix64), addressed by `(seed, stream, index)`.
#[derive(Debug, Clone)]
pub struct Random {
    state: u64,
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

// The finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl Random {
    /// Opens the stream of `index` within the named `stream` of `seed`.
    pub fn new(seed: u64, stream: u64, index: u64) -> Self {
        let mut state = mix(seed.wrapping_add(GOLDEN));
        state = mix(state ^ mix(stream.wrapping_add(GOLDEN.wrapping_mul(3))));
        state = mix(state ^ mix(index.wrapping_add(GOLDEN.wrapping_mul(5))));
        Self { state }
    }

    /// Returns 64 uniform bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// Returns a uniform number in `0..n`; `n` must not be 0.
    pub fn below(&mut self, n: usize) -> usize {
        debug_assert!(n > 0, "a choice among nothing");
        // Multiply-shift: the bias is below n / 2^64.
        ((u128::from(self.bits()) * n as u128) >> 64) as usize
    }

    /// Returns a uniform number in `low..=high`.
    pub fn between(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    /// Returns a uniform number in [0, 1).
    pub fn uniform(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Returns true with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.uniform() < p
    }

    /// Returns a standard normal number (Box–Muller, one of the pair).
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// Returns one element of `items`, which must not be empty.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }

    /// Returns an index of `weights` with probability in proportion to its weight.
    pub fn weighted(&mut self, weights: &[f64]) -> usize {
        let mut left = self.uniform() * weights.iter().sum::<f64>();
        for (i, w) in weights.iter().enumerate() {
            left -= w;
            if left < 0.0 {
                return i;
            }
        }
        weights.len() - 1
    }

    /// Puts `items` in random order (Fisher–Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// Returns `n` distinct elements of `items` in random order; all of them if there are fewer.
    pub fn distinct<T: Clone>(&mut self, items: &[T], n: usize) -> Vec<T> {
        let mut all = items.to_vec();
        let n = n.min(all.len());
        for i in 0..n {
            let j = self.between(i, all.len() - 1);
            all.swap(i, j);
        }
        all.truncate(n);
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_functions_of_their_key() {
        let mut a = Random::new(1, 2, 3);
        let mut b = Random::new(1, 2, 3);
        let mut c = Random::new(1, 3, 2);
        assert_eq!(a.bits(), b.bits());
        assert_ne!(a.bits(), c.bits());
    }

    #[test]
    fn normal_has_mean_zero_and_variance_one() {
        let mut random = Random::new(7, 0, 0);
        let n = 100_000;
        let xs: Vec<f64> = (0..n).map(|_| random.normal()).collect();
        let mean = xs.iter().sum::<f64>() / n as f64;
        let variance = xs.iter().map(|x| x * x).sum::<f64>() / n as f64;
        assert!(mean.abs() < 0.02, "{mean}");
        assert!((variance - 1.0).abs() < 0.03, "{variance}");
    }

    #[test]
    fn distinct_never_repeats() {
        let mut random = Random::new(7, 0, 1);
        for _ in 0..100 {
            let mut drawn = random.distinct(&[1, 2, 3, 4, 5], 4);
            drawn.sort_unstable();
            drawn.dedup();
            assert_eq!(drawn.len(), 4);
        }
        assert_eq!(random.distinct(&[1, 2], 9).len(), 2);
    }
}
