//! Train and held-out halves by prompt.

use std::collections::BTreeSet;

use crate::random::{Stream, key_of};

/// Marks which rows are held out, so that no group is on both sides.
///
/// `groups`: one group (prompt id) a row. About `share` of the groups are held out, at least one
/// and at most all but one when there are two groups or more. Which ones depends on the ids and
/// the seed only: not on the order of the rows, nor on how many rows a group has.
#[must_use]
pub fn held_out_by_group<S: AsRef<str>>(groups: &[S], share: f64, seed: u64) -> Vec<bool> {
    let distinct: BTreeSet<&str> = groups.iter().map(AsRef::as_ref).collect();
    let mut order: Vec<(u64, &str)> = distinct
        .into_iter()
        .map(|group| (Stream::new(seed, key_of(group)).next_u64(), group))
        .collect();
    order.sort_unstable();
    let wanted = (share.clamp(0.0, 1.0) * order.len() as f64).round() as usize;
    let held_out = match order.len() {
        0 | 1 => 0,
        n => wanted.clamp(1, n - 1),
    };
    let held_out: BTreeSet<&str> = order[..held_out].iter().map(|&(_, group)| group).collect();
    groups
        .iter()
        .map(|group| held_out.contains(group.as_ref()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(n: usize) -> Vec<String> {
        (0..n).map(|row| format!("prompt-{}", row / 3)).collect()
    }

    #[test]
    fn no_prompt_is_in_both_halves() {
        let groups = rows(300);
        let held_out = held_out_by_group(&groups, 0.2, 7);
        for (row, group) in groups.iter().enumerate() {
            assert_eq!(held_out[row], held_out[row / 3 * 3], "{group}");
        }
        assert_eq!(held_out.iter().filter(|&&held| held).count(), 60);
    }

    #[test]
    fn order_of_the_rows_does_not_matter() {
        let groups = rows(90);
        let backwards: Vec<String> = groups.iter().rev().cloned().collect();
        let mut mirrored = held_out_by_group(&backwards, 0.3, 1);
        mirrored.reverse();
        assert_eq!(held_out_by_group(&groups, 0.3, 1), mirrored);
    }

    #[test]
    fn both_halves_exist_whenever_they_can() {
        assert_eq!(held_out_by_group(&["a"], 0.5, 0), [false]);
        for share in [0.0, 1.0] {
            let held_out = held_out_by_group(&["a", "b"], share, 0);
            assert_eq!(held_out.iter().filter(|&&held| held).count(), 1);
        }
        assert!(held_out_by_group::<&str>(&[], 0.2, 0).is_empty());
    }

    #[test]
    fn another_seed_holds_out_others() {
        let groups = rows(300);
        assert_ne!(
            held_out_by_group(&groups, 0.2, 1),
            held_out_by_group(&groups, 0.2, 2)
        );
    }
}
