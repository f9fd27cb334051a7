//! The random numbers of CPython's `random.Random`, seeded by a text.

use sha2::{Digest, Sha512};

const N: usize = 624;
const M: usize = 397;
const UPPER: u32 = 0x8000_0000;
const LOWER: u32 = 0x7FFF_FFFF;

/// MT19937 (Matsumoto and Nishimura 1998).
pub struct MersenneTwister {
    state: [u32; N],
    next: usize,
}

impl MersenneTwister {
    /// Returns what `random.Random(text)` is: seeded by the number that the text and its SHA-512 spell.
    #[must_use]
    pub fn from_text(text: &str) -> Self {
        let mut bytes = text.as_bytes().to_vec();
        bytes.extend_from_slice(&Sha512::digest(text.as_bytes()));
        bytes.reverse();
        let mut key: Vec<u32> = bytes
            .chunks(4)
            .map(|chunk| {
                let mut word = [0; 4];
                word[..chunk.len()].copy_from_slice(chunk);
                u32::from_le_bytes(word)
            })
            .collect();
        while key.len() > 1 && key.last() == Some(&0) {
            key.pop();
        }
        Self::from_key(&key)
    }

    /// Seeds by a key of any length but zero: `init_by_array` of the reference code.
    fn from_key(key: &[u32]) -> Self {
        let mut state = [0_u32; N];
        state[0] = 19_650_218;
        for i in 1..N {
            state[i] = spread(state[i - 1])
                .wrapping_mul(1_812_433_253)
                .wrapping_add(i as u32);
        }
        let mut i = 1;
        for round in 0..N.max(key.len()) {
            let j = round % key.len();
            state[i] = (state[i] ^ spread(state[i - 1]).wrapping_mul(1_664_525))
                .wrapping_add(key[j])
                .wrapping_add(j as u32);
            i = following(&mut state, i);
        }
        for _ in 0..N - 1 {
            state[i] = (state[i] ^ spread(state[i - 1]).wrapping_mul(1_566_083_941))
                .wrapping_sub(i as u32);
            i = following(&mut state, i);
        }
        state[0] = UPPER;
        Self { state, next: N }
    }

    /// Returns the next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == N {
            self.refill();
        }
        let mut bits = self.state[self.next];
        self.next += 1;
        bits ^= bits >> 11;
        bits ^= (bits << 7) & 0x9D2C_5680;
        bits ^= (bits << 15) & 0xEFC6_0000;
        bits ^ (bits >> 18)
    }

    /// Returns the next number of `random()`: uniform on `[0, 1)`, with 53 random bits.
    pub fn next_f64(&mut self) -> f64 {
        let (high, low) = (self.next_u32() >> 5, self.next_u32() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) / 9_007_199_254_740_992.0
    }

    fn refill(&mut self) {
        for i in 0..N {
            let bits = (self.state[i] & UPPER) | (self.state[(i + 1) % N] & LOWER);
            let twist = if bits & 1 == 1 { 0x9908_B0DF } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ (bits >> 1) ^ twist;
        }
        self.next = 0;
    }
}

fn spread(word: u32) -> u32 {
    word ^ (word >> 30)
}

/// Moves on to the next word; after the last comes the second, and the first repeats the last.
fn following(state: &mut [u32; N], i: usize) -> usize {
    if i + 1 < N {
        return i + 1;
    }
    state[0] = state[N - 1];
    1
}
