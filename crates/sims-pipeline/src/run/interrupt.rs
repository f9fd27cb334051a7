//! Stopping a run: the request, and the processes that have to hear of it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A request to stop, shared between a signal handler and a run.
///
/// The first [`Interrupt::raise`] asks every running stage to stop (SIGTERM to its process
/// group); a second one, or a grace period, kills them.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    raised: AtomicU32,
    /// Process groups of running stages. A group leaves before its leader is reaped, under this
    /// lock, so that a signal never reaches a stranger who got the same number.
    groups: Mutex<BTreeSet<i32>>,
}

impl Interrupt {
    /// Makes a request that was not raised yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks running stages to stop; the second time, kills them.
    pub fn raise(&self) {
        let before = self.inner.raised.fetch_add(1, Ordering::SeqCst);
        let signal = if before == 0 {
            libc::SIGTERM
        } else {
            libc::SIGKILL
        };
        for group in self.groups().iter() {
            signal_group(*group, signal);
        }
    }

    /// Tells whether the run was asked to stop.
    pub fn is_raised(&self) -> bool {
        self.inner.raised.load(Ordering::SeqCst) > 0
    }

    /// Sleeps, but not longer than until the request; `false` when it came.
    pub(super) fn sleep(&self, duration: Duration) -> bool {
        let until = Instant::now() + duration;
        while !self.is_raised() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            std::thread::sleep(left.min(Duration::from_millis(20)));
        }
        false
    }

    /// Adds a process group; one that comes after the request is asked to stop at once.
    pub(super) fn add_group(&self, group: i32) {
        self.groups().insert(group);
        if self.is_raised() {
            signal_group(group, libc::SIGTERM);
        }
    }

    /// Asks one group to stop.
    pub(super) fn stop_group(&self, group: i32) {
        if self.groups().contains(&group) {
            signal_group(group, libc::SIGTERM);
        }
    }

    /// Kills a group that did not stop in time.
    pub(super) fn kill_group(&self, group: i32) {
        if self.groups().contains(&group) {
            signal_group(group, libc::SIGKILL);
        }
    }

    /// Runs `reap`, and forgets the group when it returns something.
    pub(super) fn reap<T>(&self, group: i32, reap: impl FnOnce() -> Option<T>) -> Option<T> {
        let mut groups = self.groups();
        let reaped = reap();
        if reaped.is_some() {
            groups.remove(&group);
        }
        reaped
    }

    fn groups(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        // A set of numbers is whole whatever a panicking thread was doing.
        self.inner
            .groups
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn signal_group(group: i32, signal: i32) {
    // SAFETY: `kill` takes plain numbers and touches no memory of ours. The group is that of a
    // child that was not reaped yet, so its number cannot mean another process.
    let _gone_already = unsafe { libc::kill(-group, signal) };
}
