//! Disjoint splits that depend on the prompts' ids and the seed only.

use sims_stats::random::{Stream, key_of};

use crate::ImportError;

/// How much of the prompts a split takes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Size {
    /// So many prompts.
    Count(u64),
    /// This share of the prompts.
    Share(f64),
    /// What the others leave.
    Rest,
}

/// Which splits there are, and how large.
#[derive(Debug, Clone, PartialEq)]
pub struct Splits {
    names: Vec<String>,
    sizes: Vec<Size>,
}

impl Splits {
    /// Reads `NAME=SIZE` texts; none are one split `train` of everything.
    ///
    /// A size is a count (`500`), a share (`0.1`) or `rest`. Counts and shares cannot be mixed.
    ///
    /// # Errors
    /// A text that is not of this form, a name twice or unfit for a file, shares beyond 1, a second `rest`.
    pub fn parse(texts: &[String]) -> Result<Self, ImportError> {
        let mut splits = Self {
            names: Vec::new(),
            sizes: Vec::new(),
        };
        for text in texts {
            splits.add(text).map_err(|message| ImportError::BadSplit {
                split: text.clone(),
                message,
            })?;
        }
        if texts.is_empty() {
            splits.names.push("train".to_owned());
            splits.sizes.push(Size::Rest);
        }
        Ok(splits)
    }

    fn add(&mut self, text: &str) -> Result<(), String> {
        let (name, size) = text.split_once('=').ok_or("has no `=`")?;
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(fits) {
            return Err("a name is made of letters, digits, `-` and `_`".to_owned());
        }
        if name == "dropped" {
            return Err("`dropped` is the table of what is left out".to_owned());
        }
        if self.names.iter().any(|known| known == name) {
            return Err(format!("there is a split `{name}` already"));
        }
        let size = if size == "rest" {
            Size::Rest
        } else if let Ok(count) = size.parse() {
            Size::Count(count)
        } else {
            match size.parse() {
                Ok(share) if share > 0.0 && share <= 1.0 => Size::Share(share),
                Ok(_) => return Err("a share is above 0 and at most 1".to_owned()),
                Err(_) => return Err(format!("`{size}` is no size")),
            }
        };
        if size == Size::Count(0) {
            return Err("a split of no prompts is none".to_owned());
        }
        self.names.push(name.to_owned());
        self.sizes.push(size);
        if self
            .sizes
            .iter()
            .filter(|&&size| size == Size::Rest)
            .count()
            > 1
        {
            return Err("only one split can take the rest".to_owned());
        }
        let is_count = |size: &Size| matches!(size, Size::Count(_));
        let is_share = |size: &Size| matches!(size, Size::Share(_));
        if self.sizes.iter().any(is_count) && self.sizes.iter().any(is_share) {
            return Err("counts and shares cannot be mixed".to_owned());
        }
        // Shares such as ten times 0.1 add up to 1 but for rounding.
        if self.shares() > 1.0 + 1e-9 {
            return Err("the shares add up to more than 1".to_owned());
        }
        Ok(())
    }

    /// Returns the splits' names in the order given.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    fn shares(&self) -> f64 {
        let shares = self.sizes.iter().map(|size| match size {
            Size::Share(share) => *share,
            _ => 0.0,
        });
        shares.sum()
    }

    fn counts(&self) -> u64 {
        let counts = self.sizes.iter().map(|size| match size {
            Size::Count(count) => *count,
            _ => 0,
        });
        counts.sum()
    }

    fn rest(&self) -> Option<u32> {
        let rest = self.sizes.iter().position(|&size| size == Size::Rest);
        rest.map(|index| index as u32)
    }

    /// Returns the split of each prompt, by its id; `None` for those that no split takes.
    ///
    /// Each id with the seed gives a random number. Shares are ranges of that number, so that a prompt's
    /// split never depends on which others there are. Counts take the prompts in the order of their numbers.
    ///
    /// # Errors
    /// If the counts take more prompts than there are.
    pub fn assign(&self, ids: &[u128], seed: u64) -> Result<Vec<Option<u32>>, ImportError> {
        let keys = ids.iter().map(|id| {
            let key = key_of(&format!("{id:032x}"));
            Stream::new(seed, key).next_u64()
        });
        if self.sizes.iter().any(|size| matches!(size, Size::Share(_))) {
            return Ok(keys.map(|key| self.by_share(key)).collect());
        }
        let asked = self.counts();
        if asked > ids.len() as u64 {
            return Err(ImportError::TooFewLeft {
                asked,
                left: ids.len() as u64,
            });
        }
        let mut order: Vec<(u64, u128, usize)> = keys
            .zip(ids)
            .enumerate()
            .map(|(index, (key, &id))| (key, id, index))
            .collect();
        order.sort_unstable();
        let mut assigned = vec![self.rest(); ids.len()];
        let mut order = order.into_iter();
        for (split, size) in self.sizes.iter().enumerate() {
            if let Size::Count(count) = size {
                for (.., index) in order.by_ref().take(*count as usize) {
                    assigned[index] = Some(split as u32);
                }
            }
        }
        Ok(assigned)
    }

    fn by_share(&self, key: u64) -> Option<u32> {
        // 53 bits, as many as a double holds.
        let number = (key >> 11) as f64 / (1u64 << 53) as f64;
        let mut end = 0.0;
        for (split, size) in self.sizes.iter().enumerate() {
            if let Size::Share(share) = size {
                end += share;
                // The last end may miss 1 by rounding.
                if number < end || end > 1.0 - 1e-9 {
                    return Some(split as u32);
                }
            }
        }
        self.rest()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn splits(texts: &[&str]) -> Result<Splits, String> {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        Splits::parse(&texts).map_err(|error| error.to_string())
    }

    fn ids(n: u64) -> Vec<u128> {
        (0..n)
            .map(|i| u128::from(i) * 0x1234_5678_9ABC_DEF1_2345)
            .collect()
    }

    fn sizes(assigned: &[Option<u32>], split: Option<u32>) -> usize {
        assigned.iter().filter(|&&other| other == split).count()
    }

    #[test]
    fn counts_are_met_and_the_rest_is_left() {
        let plan = splits(&["dev=50", "test=20"]).unwrap();
        let assigned = plan.assign(&ids(1000), 3).unwrap();
        assert_eq!(sizes(&assigned, Some(0)), 50);
        assert_eq!(sizes(&assigned, Some(1)), 20);
        assert_eq!(sizes(&assigned, None), 930);
        let plan = splits(&["train=rest", "dev=50"]).unwrap();
        let assigned = plan.assign(&ids(1000), 3).unwrap();
        assert_eq!(sizes(&assigned, Some(0)), 950);
        assert_eq!(sizes(&assigned, Some(1)), 50);
    }

    #[test]
    fn order_does_not_matter_and_the_seed_does() {
        for texts in [["a=300", "b=rest"], ["a=0.3", "b=0.3"]] {
            let plan = splits(&texts).unwrap();
            let forwards = ids(1000);
            let backwards: Vec<u128> = forwards.iter().rev().copied().collect();
            let mut mirrored = plan.assign(&backwards, 1).unwrap();
            mirrored.reverse();
            assert_eq!(plan.assign(&forwards, 1).unwrap(), mirrored);
            assert_ne!(plan.assign(&forwards, 2).unwrap(), mirrored);
        }
    }

    #[test]
    fn shares_do_not_depend_on_other_prompts() {
        let plan = splits(&["train=0.8", "dev=0.1"]).unwrap();
        let all = plan.assign(&ids(10_000), 5).unwrap();
        let some = plan.assign(&ids(100), 5).unwrap();
        assert_eq!(all[..100], some);
        // Binomial: standard deviations of 40 and 30.
        assert!(sizes(&all, Some(0)).abs_diff(8000) < 160);
        assert!(sizes(&all, Some(1)).abs_diff(1000) < 120);
        let tenths: Vec<String> = (0..10).map(|i| format!("s{i}=0.1")).collect();
        let plan = Splits::parse(&tenths).unwrap();
        assert_eq!(sizes(&plan.assign(&ids(10_000), 5).unwrap(), None), 0);
    }

    #[test]
    fn without_splits_all_is_train() {
        let plan = splits(&[]).unwrap();
        assert_eq!(plan.names(), ["train"]);
        assert_eq!(sizes(&plan.assign(&ids(9), 0).unwrap(), Some(0)), 9);
    }

    #[test]
    fn what_is_no_split_is_refused() {
        let message = |texts: &[&str]| splits(texts).unwrap_err();
        assert!(message(&["train"]).contains("has no `=`"));
        assert!(message(&["a/b=1"]).contains("a name is made of"));
        assert!(message(&["dropped=1"]).contains("left out"));
        assert!(message(&["a=1", "a=2"]).contains("already"));
        assert!(message(&["a=1.5"]).contains("at most 1"));
        assert!(message(&["a=nan"]).contains("at most 1"));
        assert!(message(&["a=-3"]).contains("at most 1"));
        assert!(message(&["a=some"]).contains("`some` is no size"));
        assert!(message(&["a=0"]).contains("no prompts"));
        assert!(message(&["a=rest", "b=rest"]).contains("only one"));
        assert!(message(&["a=5", "b=0.5"]).contains("mixed"));
        assert!(message(&["a=0.6", "b=0.5"]).contains("more than 1"));
        let error = splits(&["a=5"]).unwrap().assign(&ids(4), 0).unwrap_err();
        assert!(
            error.to_string().contains("take 5 prompts, but 4 are left"),
            "{error}"
        );
    }
}
