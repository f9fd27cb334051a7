//! How much may be spent.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};

use crate::JudgeError;

/// Characters that surely make a token, for a guess before the server counts.
const CHARACTERS_A_TOKEN: usize = 4;

/// What a run may spend, in tokens.
pub(super) struct Budget {
    /// 0 for no limit.
    limit: u64,
    spent: Mutex<Spent>,
}

#[derive(Default)]
struct Spent {
    /// By answers that arrived.
    tokens: u64,
    /// By requests under way, as guessed.
    reserved: u64,
}

impl Budget {
    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            spent: Mutex::default(),
        }
    }

    /// Sets tokens aside for a request and its answer.
    ///
    /// # Errors
    /// [`JudgeError::Budget`] when not enough are left.
    pub(super) fn reserve(&self, request: &str, answer: u32) -> Result<u64, JudgeError> {
        let guess = (request.chars().count() / CHARACTERS_A_TOKEN) as u64 + u64::from(answer);
        let mut spent = self.lock();
        if self.limit > 0 && spent.tokens + spent.reserved + guess > self.limit {
            return Err(JudgeError::Budget {
                spent: spent.tokens,
                budget: self.limit,
                answered: 0,
                asked: 0,
                cache: PathBuf::new(),
            });
        }
        spent.reserved += guess;
        Ok(guess)
    }

    /// Replaces what was set aside by what was spent.
    pub(super) fn settle(&self, reserved: u64, tokens: u64) {
        let mut spent = self.lock();
        spent.reserved -= reserved;
        spent.tokens += tokens;
    }

    fn lock(&self) -> MutexGuard<'_, Spent> {
        self.spent.lock().unwrap_or_else(|error| error.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_counts_what_is_under_way() {
        let budget = Budget::new(30);
        let request = "x".repeat(40);
        let reserved = budget.reserve(&request, 5).expect("15 of 30");
        assert_eq!(reserved, 15);
        budget.reserve(&request, 5).expect("30 of 30");
        assert!(budget.reserve(&request, 5).is_err());
        budget.settle(reserved, 0);
        budget.reserve(&request, 5).expect("one came back");
        let unlimited = Budget::new(0);
        unlimited
            .reserve(&"x".repeat(1 << 20), 5)
            .expect("no limit");
    }
}
