//! BLEU between token sequences, and how alike the responses to one prompt are by it.

use std::collections::HashMap;

/// Longest n-gram that counts.
const ORDER: usize = 4;
/// What stands for a count of no match (Chen and Cherry 2014, smoothing 1).
const EPSILON: f64 = 0.1;

/// Returns BLEU-4 of a sequence against several references, for one sentence (Papineni and others 2002).
///
/// `BP · exp(1/N · Σ_{n=1..N} ln p_n)`: `p_n` is the share of the sequence's n-grams that some reference has, each counted
/// at most as often as in the reference that has it most; without a match the count is 0.1 (Chen and Cherry 2014,
/// smoothing 1), and without a common token the result is 0. `N` is 4, or the sequence's length where that is less, so
/// that a short sequence can reach 1. `BP = exp(1 − r/c)` where the sequence's length c is below r, the reference length
/// closest to it (of two, the shorter), else 1. An empty sequence has 1 if a reference is empty, else 0; without
/// references it is 0.
#[must_use]
pub fn bleu<S: AsRef<[u32]>>(sequence: &[u32], references: &[S]) -> f64 {
    if sequence.is_empty() {
        let is_empty = |reference: &S| reference.as_ref().is_empty();
        return f64::from(u8::from(references.iter().any(is_empty)));
    }
    let order = sequence.len().min(ORDER);
    let mut sum = 0.0;
    for n in 1..=order {
        let (matches, total) = (matches(sequence, references, n), sequence.len() + 1 - n);
        if n == 1 && matches == 0 {
            return 0.0;
        }
        let matches = if matches == 0 {
            EPSILON
        } else {
            matches as f64
        };
        sum += (matches / total as f64).ln();
    }
    brevity_penalty(sequence.len(), references) * (sum / order as f64).exp()
}

/// Returns self-BLEU of the responses to one prompt: BLEU-4 of each against all others (Zhu and others 2018, Texygen).
///
/// One value a response, in their order; their mean is the prompt's. Higher is less varied. `None` for fewer than two.
#[must_use]
pub fn self_bleu<S: AsRef<[u32]>>(responses: &[S]) -> Option<Vec<f64>> {
    if responses.len() < 2 {
        return None;
    }
    let of = |own: usize| {
        let others: Vec<&[u32]> = (0..responses.len())
            .filter(|&other| other != own)
            .map(|other| responses[other].as_ref())
            .collect();
        bleu(responses[own].as_ref(), &others)
    };
    Some((0..responses.len()).map(of).collect())
}

/// Counts the n-grams that the references have too.
fn matches<S: AsRef<[u32]>>(sequence: &[u32], references: &[S], n: usize) -> u64 {
    let mut most: HashMap<&[u32], u64> = HashMap::new();
    for reference in references {
        for (gram, count) in counts(reference.as_ref(), n) {
            let most = most.entry(gram).or_default();
            *most = count.max(*most);
        }
    }
    counts(sequence, n)
        .into_iter()
        .map(|(gram, count)| count.min(most.get(gram).copied().unwrap_or(0)))
        .sum()
}

fn counts(sequence: &[u32], n: usize) -> HashMap<&[u32], u64> {
    let mut counts = HashMap::new();
    for gram in sequence.windows(n) {
        *counts.entry(gram).or_default() += 1;
    }
    counts
}

fn brevity_penalty<S: AsRef<[u32]>>(length: usize, references: &[S]) -> f64 {
    let lengths = references.iter().map(|reference| reference.as_ref().len());
    let closest = lengths.min_by_key(|&other| (other.abs_diff(length), other));
    match closest {
        Some(closest) if closest > length => (1.0 - closest as f64 / length as f64).exp(),
        _ => 1.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // Three of four tokens, two of three pairs, one of two triples, no quadruple; as long as the reference.
        let expected = (0.75 * 2.0 / 3.0 * 0.5 * 0.1_f64).powf(0.25);
        assert!((bleu(&[1, 2, 3, 9], &[[1, 2, 3, 4]]) - expected).abs() < 1e-15);
        // All of the shorter is in the longer, which is twice as long.
        let half = bleu(&[1, 2, 3, 4], &[[1, 2, 3, 4, 5, 6, 7, 8]]);
        assert!((half - (-1.0_f64).exp()).abs() < 1e-15);
        // A token counts as often as one reference has it, and the closest length decides.
        let clipped = bleu(&[1, 1, 1], &[vec![1, 1], vec![1, 2, 3]]);
        assert!((clipped - (2.0 / 3.0 * 0.5 * 0.1_f64).cbrt()).abs() < 1e-15);
    }

    #[test]
    fn alike_is_one_and_unlike_is_none() {
        let responses = [vec![7, 8], vec![7, 8]];
        assert_eq!(self_bleu(&responses), Some(vec![1.0, 1.0]));
        assert_eq!(self_bleu(&[[1, 2], [3, 4]]), Some(vec![0.0, 0.0]));
        assert_eq!(self_bleu(&[[1, 2]]), None);
        let empty: [&[u32]; 3] = [&[], &[], &[1]];
        assert_eq!(self_bleu(&empty), Some(vec![1.0, 1.0, 0.0]));
        assert_eq!(bleu(&[1], &[] as &[&[u32]]), 0.0);
    }

    #[test]
    fn the_order_of_references_does_not_matter_and_more_of_them_never_lower_the_matches() {
        let (a, b, c) = (
            vec![1, 2, 3, 4, 5],
            vec![1, 2, 9, 9, 5],
            vec![3, 4, 5, 1, 2],
        );
        assert_eq!(bleu(&a, &[&b, &c]), bleu(&a, &[&c, &b]));
        // All are of one length, so nothing but matches can differ.
        assert!(bleu(&a, &[&b, &c]) >= bleu(&a, &[&b]).max(bleu(&a, &[&c])));
    }
}
