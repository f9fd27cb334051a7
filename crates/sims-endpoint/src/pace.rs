//! How fast may be asked.

use std::sync::Mutex;
use std::time::Duration;

/// Spreads requests evenly, so that no minute has more than its share.
#[derive(Debug)]
pub struct Pace {
    interval: Duration,
    /// When the next request may start, from the beginning of the run.
    free: Mutex<Duration>,
}

impl Pace {
    /// Allows this many requests a minute; 0 for any number.
    #[must_use]
    pub fn new(requests_per_minute: u32) -> Self {
        Self {
            interval: Duration::from_secs(60)
                .checked_div(requests_per_minute)
                .unwrap_or_default(),
            free: Mutex::default(),
        }
    }

    /// Takes the next turn and returns how long it is until then; `now` counts from the beginning.
    pub fn turn(&self, now: Duration) -> Duration {
        let mut free = self.free.lock().unwrap_or_else(|error| error.into_inner());
        let start = now.max(*free);
        *free = start + self.interval;
        start - now
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
}
