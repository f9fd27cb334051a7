//! A selection that covers the prompts: k-centre greedy.
//!
//! Gonzalez's algorithm (1985, `10.1016/0304-3975(85)90224-5`) takes whatever lies farthest from all that
//! was taken. Prompts are compared by their words and pairs of neighbouring words, weighted by rarity
//! (tf-idf) at unit length, so that no model is needed; two prompts without a common word are at distance 1.

use std::collections::BTreeMap;

use sims_artifact::tables::PromptRow;
use sims_stats::random::key_of;

/// The words of a prompt as a sparse unit vector.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PromptVector(BTreeMap<u64, f64>);

impl PromptVector {
    /// Returns 1 less the cosine of two vectors; 1 where one is empty.
    #[must_use]
    pub fn distance(&self, other: &Self) -> f64 {
        let dot: f64 = self
            .0
            .iter()
            .filter_map(|(word, left)| Some(left * other.0.get(word)?))
            .sum();
        1.0 - dot
    }
}

/// Returns the vector of every prompt, weighted by how rare its words are among them.
#[must_use]
pub fn vectors(prompts: &[&PromptRow]) -> Vec<PromptVector> {
    let counts: Vec<BTreeMap<u64, f64>> = prompts.iter().map(|prompt| counts(prompt)).collect();
    let mut containing: BTreeMap<u64, f64> = BTreeMap::new();
    for word in counts.iter().flat_map(BTreeMap::keys) {
        *containing.entry(*word).or_default() += 1.0;
    }
    let total = prompts.len() as f64;
    counts
        .into_iter()
        .map(|mut counts| {
            for (word, count) in &mut counts {
                *count *= 1.0 + (total / containing[word]).ln();
            }
            let length = counts
                .values()
                .map(|value| value * value)
                .sum::<f64>()
                .sqrt();
            if length > 0.0 {
                counts.values_mut().for_each(|value| *value /= length);
            }
            PromptVector(counts)
        })
        .collect()
}

fn counts(prompt: &PromptRow) -> BTreeMap<u64, f64> {
    let mut counts = BTreeMap::new();
    for message in &prompt.messages {
        let words: Vec<String> = message
            .content
            .split(|character: char| !character.is_alphanumeric())
            .filter(|word| !word.is_empty())
            .map(str::to_lowercase)
            .collect();
        let pairs = words.windows(2).map(|pair| pair.join(" "));
        for gram in words.iter().cloned().chain(pairs) {
            *counts.entry(key_of(&gram)).or_default() += 1.0;
        }
    }
    counts
}

/// Returns at most `wanted` indices of `vectors`: the first, then whatever is farthest from those taken.
///
/// `allowed(taken, index)` may refuse an index, given those taken so far; of two equally far the earlier
/// index goes first.
pub fn k_centre(
    vectors: &[&PromptVector],
    wanted: usize,
    mut allowed: impl FnMut(&[usize], usize) -> bool,
) -> Vec<usize> {
    let mut nearest = vec![f64::INFINITY; vectors.len()];
    let mut taken: Vec<usize> = Vec::new();
    while taken.len() < wanted {
        let farthest = (0..vectors.len())
            .filter(|index| !taken.contains(index) && allowed(&taken, *index))
            .max_by(|&l, &r| nearest[l].total_cmp(&nearest[r]).then(r.cmp(&l)));
        let Some(next) = farthest else { break };
        for (index, nearest) in nearest.iter_mut().enumerate() {
            *nearest = nearest.min(vectors[index].distance(vectors[next]));
        }
        taken.push(next);
    }
    taken
}

#[cfg(test)]
mod tests {
    use sims_artifact::tables::Message;

    use super::*;

    fn prompts(texts: &[&str]) -> Vec<PromptRow> {
        let prompt = |text: &&str| PromptRow::new(vec![Message::user(*text)], "train", "test");
        texts.iter().map(prompt).collect()
    }

    fn order(texts: &[&str], wanted: usize) -> Vec<usize> {
        let rows = prompts(texts);
        let vectors = vectors(&rows.iter().collect::<Vec<_>>());
        k_centre(&vectors.iter().collect::<Vec<_>>(), wanted, |_, _| true)
    }

    #[test]
    fn near_copies_come_last() {
        let texts = [
            "write a poem about the sea",
            "write a poem about the sea now",
            "add 3 and 4",
            "add 3 and 5",
            "who was Ada Lovelace",
        ];
        let three = order(&texts, 3);
        assert_eq!(three[0], 0);
        assert!(three.contains(&4) && !three.contains(&1), "{three:?}");
        assert_eq!(order(&texts, 10).len(), 5);
    }

    #[test]
    fn distances_are_those_of_unit_vectors() {
        let rows = prompts(&["Red fox", "red  fox!", "blue whale", "...", "red whale"]);
        let vectors = vectors(&rows.iter().collect::<Vec<_>>());
        assert!(vectors[0].distance(&vectors[1]).abs() < 1e-12);
        assert_eq!(vectors[0].distance(&vectors[2]), 1.0);
        assert_eq!(vectors[3].distance(&vectors[3]), 1.0);
        let half = vectors[0].distance(&vectors[4]);
        assert!(half > 0.3 && half < 1.0, "{half}");
    }

    #[test]
    fn what_is_not_allowed_is_left_out() {
        let rows = prompts(&["a b", "c d", "e f", "g h"]);
        let vectors = vectors(&rows.iter().collect::<Vec<_>>());
        let refs: Vec<&PromptVector> = vectors.iter().collect();
        let even = k_centre(&refs, 4, |_, index| index % 2 == 0);
        assert_eq!(even, [0, 2]);
    }
}
