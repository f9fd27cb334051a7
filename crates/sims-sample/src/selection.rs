//! Which prompts of a table a stage works on: a split, and one of its shards.

use std::collections::BTreeSet;

use sims_artifact::tables::PromptRow;

/// A choice of prompts.
///
/// The table's prompts of one split, in the order of their ids, fall into consecutive shards of equal size,
/// so that two shards never share a prompt and every machine cuts them alike.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// The split to take; empty for every split.
    pub split: String,
    /// Prompts a shard; 0 takes all prompts and makes no shards.
    pub shard_size: usize,
    /// Which shard, from 1.
    pub shard: usize,
}

/// A table of prompts that does not hold what was asked of it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectionError {
    /// There is nothing to work on.
    #[error("the prompts table has no rows")]
    Empty,
    /// Two rows carry one id.
    #[error("prompt {0} occurs more than once in the prompts table")]
    Duplicate(String),
    /// A prompt that nobody can answer.
    #[error("prompt {0} has no messages")]
    NoMessages(String),
    /// No row belongs to the split.
    #[error("no prompt has split `{split}`; the table has {known}")]
    UnknownSplit {
        /// The split asked for.
        split: String,
        /// The splits that are there.
        known: String,
    },
    /// Shards count from 1.
    #[error("shards count from 1, so there is no shard 0")]
    ShardZero,
    /// The table ends before the shard does.
    #[error(
        "shard {shard} of {shard_size} prompts takes rows {first} to {last}, but there are {available} prompts{of_split}"
    )]
    TooFew {
        /// The shard asked for.
        shard: usize,
        /// Its size.
        shard_size: usize,
        /// Its first row, from 1.
        first: usize,
        /// Its last row.
        last: usize,
        /// How many prompts there are.
        available: usize,
        /// Names the split, where one was asked for.
        of_split: String,
    },
}

impl Selection {
    /// Returns the chosen prompts of `rows`, in the order of their ids.
    ///
    /// # Errors
    /// A table that is empty, names a prompt twice, or has too few prompts for the shard.
    pub fn of(&self, rows: Vec<PromptRow>) -> Result<Vec<PromptRow>, SelectionError> {
        check(&rows)?;
        let splits: BTreeSet<String> = rows.iter().map(|row| format!("`{}`", row.split)).collect();
        let mut chosen: Vec<PromptRow> = rows
            .into_iter()
            .filter(|row| self.split.is_empty() || row.split == self.split)
            .collect();
        if chosen.is_empty() {
            let known = splits.into_iter().collect::<Vec<_>>().join(", ");
            return Err(SelectionError::UnknownSplit {
                split: self.split.clone(),
                known,
            });
        }
        chosen.sort_by(|a, b| a.prompt_id.cmp(&b.prompt_id));
        if self.shard_size == 0 {
            return Ok(chosen);
        }
        self.shard_of(chosen)
    }

    fn shard_of(&self, prompts: Vec<PromptRow>) -> Result<Vec<PromptRow>, SelectionError> {
        let before = self.shard.checked_sub(1).ok_or(SelectionError::ShardZero)?;
        let start = before.saturating_mul(self.shard_size);
        let end = start.saturating_add(self.shard_size);
        if end > prompts.len() {
            let of_split = if self.split.is_empty() {
                String::new()
            } else {
                format!(" of split `{}`", self.split)
            };
            return Err(SelectionError::TooFew {
                shard: self.shard,
                shard_size: self.shard_size,
                first: start + 1,
                last: end,
                available: prompts.len(),
                of_split,
            });
        }
        Ok(prompts
            .into_iter()
            .skip(start)
            .take(self.shard_size)
            .collect())
    }
}

fn check(rows: &[PromptRow]) -> Result<(), SelectionError> {
    if rows.is_empty() {
        return Err(SelectionError::Empty);
    }
    let mut seen = BTreeSet::new();
    for row in rows {
        if !seen.insert(&row.prompt_id) {
            return Err(SelectionError::Duplicate(row.prompt_id.clone()));
        }
        if row.messages.is_empty() {
            return Err(SelectionError::NoMessages(row.prompt_id.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sims_artifact::tables::Message;

    use super::*;

    fn prompts(count: usize, split: &str) -> Vec<PromptRow> {
        (0..count)
            .map(|i| PromptRow::new(vec![Message::user(format!("{split} {i}"))], split, "test"))
            .collect()
    }

    fn ids(rows: &[PromptRow]) -> Vec<&str> {
        rows.iter().map(|row| row.prompt_id.as_str()).collect()
    }

    #[test]
    fn shards_are_disjoint_and_cover_the_sorted_table() {
        let all = Selection::default().of(prompts(12, "train")).unwrap();
        assert!(all.is_sorted_by_key(|row| row.prompt_id.clone()));
        let shards: Vec<PromptRow> = (1..=3)
            .flat_map(|shard| {
                let selection = Selection {
                    shard_size: 4,
                    shard,
                    ..Selection::default()
                };
                selection.of(prompts(12, "train")).unwrap()
            })
            .collect();
        assert_eq!(ids(&shards), ids(&all));
    }

    #[test]
    fn a_split_is_cut_without_the_others() {
        let mut rows = prompts(5, "train");
        rows.extend(prompts(7, "eval"));
        let selection = Selection {
            split: "eval".into(),
            ..Selection::default()
        };
        let chosen = selection.of(rows.clone()).unwrap();
        assert_eq!(chosen.len(), 7);
        assert!(chosen.iter().all(|row| row.split == "eval"));
        let error = Selection {
            split: "test".into(),
            ..Selection::default()
        }
        .of(rows)
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "no prompt has split `test`; the table has `eval`, `train`"
        );
    }

    #[test]
    fn a_shard_beyond_the_table_names_the_numbers() {
        let selection = Selection {
            split: "train".into(),
            shard_size: 5,
            shard: 3,
        };
        assert_eq!(
            selection.of(prompts(12, "train")).unwrap_err().to_string(),
            "shard 3 of 5 prompts takes rows 11 to 15, but there are 12 prompts of split `train`"
        );
    }

    #[test]
    fn unusable_tables_are_refused() {
        let all = Selection::default();
        assert_eq!(all.of(vec![]).unwrap_err(), SelectionError::Empty);
        let mut twice = prompts(2, "train");
        twice.push(twice[0].clone());
        assert_eq!(
            all.of(twice.clone()).unwrap_err(),
            SelectionError::Duplicate(twice[0].prompt_id.clone())
        );
        let silent = PromptRow::new(vec![], "train", "test");
        assert_eq!(
            all.of(vec![silent.clone()]).unwrap_err(),
            SelectionError::NoMessages(silent.prompt_id)
        );
        let zero = Selection {
            shard_size: 1,
            shard: 0,
            ..Selection::default()
        };
        assert_eq!(
            zero.of(prompts(2, "train")).unwrap_err(),
            SelectionError::ShardZero
        );
    }
}
