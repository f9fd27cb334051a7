//! The tree's batches against the sequences themselves, on many random sets.

use std::collections::HashMap;

use super::*;
use crate::rng::SampleKey;

fn sequences(tokens: &[Vec<u32>]) -> Vec<Sequence<'_>> {
    tokens
        .iter()
        .map(|tokens| Sequence {
            tokens,
            edit_from: usize::MAX,
        })
        .collect()
}

fn tree<'a>(sequences: &[Sequence<'a>], wanted: &[Wanted], max_rows: usize) -> PrefixTree<'a> {
    PrefixTree::new(sequences.to_vec(), wanted.to_vec(), max_rows, 1000).unwrap()
}

/// Plays the batches on a cache of (token, position, edited-from or none) and checks that every wanted row sees exactly
/// its sequence's prefix.
fn check(sequences: &[Sequence<'_>], wanted: &[Wanted], max_rows: usize) -> usize {
    let tree = tree(sequences, wanted, max_rows);
    let mut cache: Vec<Option<(u32, usize, bool)>> = vec![None; tree.slots()];
    let (mut computed, mut seen) = (0, HashMap::new());
    tree.for_each_batch(&mut |planned| {
        assert!(planned.batch.tokens.len() <= max_rows.max(1));
        computed += planned.batch.tokens.len();
        for segment in &planned.batch.segments {
            for (offset, row) in segment.rows.clone().enumerate() {
                let position = segment.position + offset;
                let edited = position >= segment.edit_from;
                cache[segment.slots.start + offset] =
                    Some((planned.batch.tokens[row], position, edited));
            }
        }
        for &(row, entry) in &planned.wanted {
            let segment = planned
                .batch
                .segments
                .iter()
                .find(|segment| segment.rows.contains(&row))
                .unwrap();
            let own = segment.slots.start..segment.slots.start + row + 1 - segment.rows.start;
            let attended = segment.context.iter().cloned().chain([own]).flatten();
            let sequence = sequences[entry.sequence];
            let expected: Vec<_> = (0..=entry.position)
                .map(|position| {
                    Some((
                        sequence.tokens[position],
                        position,
                        position >= sequence.edit_from,
                    ))
                })
                .collect();
            assert_eq!(
                attended.map(|slot| cache[slot]).collect::<Vec<_>>(),
                expected,
                "{entry:?}"
            );
            *seen.entry((entry.sequence, entry.position)).or_insert(0) += 1;
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(computed, tree.unique_tokens());
    assert_eq!(seen.len(), wanted.len());
    assert!(seen.values().all(|&count| count == 1));
    computed
}

#[test]
fn shared_prefixes_are_computed_once() {
    let tokens = [
        vec![1, 2, 3, 4],
        vec![1, 2, 3, 5, 6],
        vec![1, 2],
        vec![1, 2, 3, 4],
        vec![7],
    ];
    let all: Vec<Wanted> = tokens
        .iter()
        .enumerate()
        .flat_map(|(sequence, tokens)| {
            (0..tokens.len()).map(move |position| Wanted { sequence, position })
        })
        .collect();
    // 1 2 | 3 | 4 and 5 6, and 7.
    for max_rows in [1, 2, 3, 4, 100] {
        assert_eq!(check(&sequences(&tokens), &all, max_rows), 7);
    }
}

#[test]
fn edited_positions_are_shared_only_under_one_mask() {
    let tokens = [1, 2, 3, 4];
    let with_mask = |edit_from| Sequence {
        tokens: &tokens,
        edit_from,
    };
    let unique = |sequences: &[Sequence<'_>]| tree(sequences, &[], 100).unique_tokens();
    assert_eq!(unique(&[with_mask(2), with_mask(2)]), 4);
    assert_eq!(unique(&[with_mask(2), with_mask(3)]), 6);
    assert_eq!(unique(&[with_mask(0), with_mask(3)]), 8);
    assert_eq!(unique(&[with_mask(4), with_mask(usize::MAX)]), 4);
}

#[test]
fn random_sets_are_laid_out_right() {
    for case in 0..200_u32 {
        let random = |n: u64, below: usize| {
            (SampleKey::new(5, 0, "tree", case).uniform(n) * below as f64) as usize
        };
        let mut n = 0;
        let mut next = |below: usize| {
            n += 1;
            random(n, below)
        };
        let count = 1 + next(12);
        let mut tokens: Vec<Vec<u32>> = Vec::new();
        for _ in 0..count {
            let mut sequence = match tokens.len() {
                0 => Vec::new(),
                some => tokens[next(some)].clone(),
            };
            sequence.truncate(next(sequence.len() + 1));
            let longer = 1 + next(9);
            sequence.extend((0..longer).map(|_| next(3) as u32));
            tokens.push(sequence);
        }
        let sequences: Vec<Sequence<'_>> = tokens
            .iter()
            .map(|tokens| Sequence {
                tokens,
                edit_from: [0, 2, 5, usize::MAX][next(4)],
            })
            .collect();
        let mut wanted: Vec<Wanted> = Vec::new();
        for (sequence, tokens) in tokens.iter().enumerate() {
            for position in 0..tokens.len() {
                if next(2) == 0 {
                    wanted.push(Wanted { sequence, position });
                }
            }
        }
        let computed: Vec<usize> = [1, 3, 8, 1000]
            .iter()
            .map(|&max_rows| check(&sequences, &wanted, max_rows))
            .collect();
        assert!(computed.iter().all(|&n| n == computed[0]));
    }
}

#[test]
fn bad_sequences_are_named() {
    let empty = [vec![1], vec![]];
    let error = PrefixTree::new(sequences(&empty), [], 10, 10).unwrap_err();
    assert_eq!(error.to_string(), "sequence 1 is empty");
    let long = [vec![1], vec![2; 11]];
    let error = PrefixTree::new(sequences(&long), [], 10, 10).unwrap_err();
    assert_eq!(
        error.to_string(),
        "sequence 1 of 11 tokens does not fit the model's context of 10"
    );
}
