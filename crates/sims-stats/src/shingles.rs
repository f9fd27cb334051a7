//! Overlap of two token sequences by shingles.

use std::collections::HashSet;

/// Returns the Jaccard index of the two sequences' sets of `width`-token shingles.
///
/// A sequence shorter than `width` is one shingle by itself. 1 for equal sequences, 0 without a
/// common shingle; two empty sequences are equal.
#[must_use]
pub fn jaccard(left: &[u32], right: &[u32], width: usize) -> f64 {
    let left: HashSet<&[u32]> = shingles(left, width).collect();
    let right: HashSet<&[u32]> = shingles(right, width).collect();
    let common = left.intersection(&right).count();
    common as f64 / (left.len() + right.len() - common) as f64
}

/// Returns the `width`-token shingles of a sequence, in order and with repeats.
///
/// A sequence of at most `width` tokens is one shingle by itself.
pub fn shingles(tokens: &[u32], width: usize) -> impl Iterator<Item = &[u32]> {
    tokens.windows(width.clamp(1, tokens.len().max(1))).chain(
        // Windows of nothing are none, where the empty sequence is one shingle.
        tokens.is_empty().then_some(tokens),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jaccard_by_hand() {
        // {12, 23, 34} and {23, 34, 45}: two common of four.
        assert_eq!(jaccard(&[1, 2, 3, 4], &[2, 3, 4, 5], 2), 0.5);
        assert_eq!(jaccard(&[1, 2, 3], &[4, 5, 6], 2), 0.0);
        assert_eq!(jaccard(&[1, 2, 3], &[1, 2, 3], 5), 1.0);
    }

    #[test]
    fn short_sequences_are_whole_shingles() {
        assert_eq!(jaccard(&[1, 2], &[1, 2, 3], 5), 0.0);
        assert_eq!(jaccard(&[], &[], 5), 1.0);
        assert_eq!(jaccard(&[], &[1], 5), 0.0);
        assert_eq!(jaccard(&[1, 2], &[2, 1], 0), 1.0);
    }
}
