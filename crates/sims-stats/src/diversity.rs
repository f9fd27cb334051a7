//! How varied token sequences are.

use std::collections::HashSet;

/// Returns distinct n-grams divided by all n-grams over all sequences together (Li et al. 2016).
///
/// N-grams never cross from one sequence into the next. Comparable only between sets with about
/// the same number of tokens: the figure falls as text grows. `None` if there is no n-gram at all.
#[must_use]
pub fn distinct_n<S: AsRef<[u32]>>(sequences: &[S], n: usize) -> Option<f64> {
    if n == 0 {
        return None;
    }
    let mut seen = HashSet::new();
    let mut total = 0usize;
    for sequence in sequences {
        for gram in sequence.as_ref().windows(n) {
            total += 1;
            seen.insert(gram);
        }
    }
    (total > 0).then(|| seen.len() as f64 / total as f64)
}

/// Returns the share of a sequence's n-grams that repeat an earlier one; 0 if it has none.
///
/// rep-n of Welleck et al. 2020 (with n = 4: rep-4).
#[must_use]
pub fn repetition(tokens: &[u32], n: usize) -> f64 {
    distinct_n(&[tokens], n).map_or(0.0, |distinct| 1.0 - distinct)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinct_two_by_hand() {
        // (1 2) (2 1) (1 2) and (1 2): two distinct of four.
        assert_eq!(distinct_n(&[vec![1, 2, 1, 2], vec![1, 2]], 2), Some(0.5));
        assert_eq!(distinct_n(&[vec![1], vec![]], 2), None);
        assert_eq!(distinct_n(&[vec![1]], 0), None);
    }

    #[test]
    fn grams_do_not_cross_sequences() {
        assert_eq!(distinct_n(&[[1, 2], [1, 2]], 2), Some(0.5));
        assert_eq!(distinct_n(&[[1, 2, 1, 2]], 2), Some(2.0 / 3.0));
    }

    #[test]
    fn repetition_of_plain_and_looping_text() {
        let plain: Vec<u32> = (0..60).collect();
        assert_eq!(repetition(&plain, 4), 0.0);
        let looping: Vec<u32> = (0..60).map(|i| i % 2).collect();
        // 57 four-grams, two distinct.
        assert!((repetition(&looping, 4) - 55.0 / 57.0).abs() < 1e-12);
        assert_eq!(repetition(&[1, 1], 4), 0.0);
    }
}
