//! How fast and how much may be asked.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::JudgeError;

/// Characters that surely make a token, for a guess before the server counts.
const CHARACTERS_A_TOKEN: usize = 4;

/// Spreads requests evenly, so that no minute has more than its share.
pub(super) struct Pace {
    interval: Duration,
    /// When the next request may start, from the beginning of the run.
    free: Mutex<Duration>,
}

impl Pace {
    /// Allows this many requests a minute; 0 for any number.
    pub(super) fn new(requests_per_minute: u32) -> Self {
        Self {
            interval: Duration::from_secs(60)
                .checked_div(requests_per_minute)
                .unwrap_or_default(),
            free: Mutex::default(),
        }
    }

    /// Takes the next turn and returns how long it is until then; `now` counts from the beginning.
    pub(super) fn turn(&self, now: Duration) -> Duration {
        let mut free = self.free.lock().unwrap_or_else(|error| error.into_inner());
        let start = now.max(*free);
        *free = start + self.interval;
        start - now
    }
}

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
    fn turns_are_an_interval_apart_and_none_is_saved_up() {
        let pace = Pace::new(30);
        let seconds = Duration::from_secs;
        assert_eq!(pace.turn(seconds(0)), seconds(0));
        assert_eq!(pace.turn(seconds(0)), seconds(2));
        assert_eq!(pace.turn(seconds(1)), seconds(3));
        assert_eq!(pace.turn(seconds(60)), seconds(0));
        assert_eq!(pace.turn(seconds(60)), seconds(2));
        let free = Pace::new(0);
        assert_eq!(
            (free.turn(seconds(0)), free.turn(seconds(0))),
            (seconds(0), seconds(0))
        );
    }

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
