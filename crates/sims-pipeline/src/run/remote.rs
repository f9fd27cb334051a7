//! The remote cache of a run: asked before a stage runs, and told of what was computed.
//!
//! What it is, and how it is reached, is for others to say: the runner knows [`RemoteCache`] only.
//! Nothing that goes wrong with it stops a run.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::fmt;
use std::sync::Mutex;

use serde_json::Value;
use sims_artifact::Digest;
use sims_artifact::store::{ActionKey, Store};

use super::{Event, RunOptions};
use crate::PipelineError;
use crate::action::{Action, Lookup, claim};

/// Actions that are asked for at the same time.
const AT_A_TIME: usize = 8;

/// Results that other machines share.
pub trait RemoteCache: fmt::Debug + Send + Sync {
    /// Brings an action into the store if the cache has it; `true` when it did.
    ///
    /// Whatever goes wrong is told as a warning, and counts as not there.
    fn fetch(
        &self,
        store: &Store,
        key: &ActionKey,
        document: &Value,
        tell: &(dyn Fn(Notice) + Sync),
    ) -> bool;

    /// Brings into the store the pieces of the work `base` that the cache has; for the rest as [`fetch`](Self::fetch).
    fn fetch_chunks(&self, store: &Store, base: &Digest, tell: &(dyn Fn(Notice) + Sync));

    /// Takes note of an action that was published in the store; returns at once.
    fn offer(&self, key: &ActionKey, tell: &(dyn Fn(Notice) + Sync));
}

/// Something that a remote cache has to say.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// So many bytes of so many have arrived.
    Arrived {
        /// Bytes that are here.
        bytes: u64,
        /// Bytes in all.
        of: u64,
        /// How long the rest will take, where that can be said. Unit: seconds.
        seconds_left: Option<f64>,
    },
    /// The user should know something.
    Warning(String),
}

/// Asks the remote cache of a run, each action once before it is put to work.
pub(super) struct ReadThrough<'a> {
    store: &'a Store,
    options: &'a RunOptions,
    hear: &'a (dyn Fn(Event) + Sync),
    asked: HashSet<ActionKey>,
}

impl<'a> ReadThrough<'a> {
    pub(super) fn new(
        store: &'a Store,
        options: &'a RunOptions,
        hear: &'a (dyn Fn(Event) + Sync),
    ) -> Self {
        Self {
            store,
            options,
            hear,
            asked: HashSet::new(),
        }
    }

    /// Fetches what it can of the queue, and puts that back among the pending; `true` when there was something.
    pub(super) fn fetch(
        &mut self,
        queue: &mut BTreeMap<usize, Action>,
        pending: &mut VecDeque<usize>,
    ) -> bool {
        if self.options.remote.is_none() {
            return false;
        }
        let fresh = queue
            .values()
            .filter(|action| self.asked.insert(action.key));
        let wanted = Mutex::new(fresh.collect::<Vec<_>>().into_iter());
        let found = Mutex::new(Vec::new());
        let (wanted, found) = (&wanted, &found);
        let next = || lock(wanted).next();
        let ask = || {
            while let Some(action) = next() {
                if fetch(self.store, self.options, action, self.hear) {
                    lock(found).push(action.index);
                }
            }
        };
        std::thread::scope(|scope| {
            let count = lock(wanted).len().min(AT_A_TIME);
            for _ in 0..count {
                scope.spawn(ask);
            }
        });
        let mut found = std::mem::take(&mut *lock(found));
        // In front, in the plan's order: what needs them stands behind.
        found.sort_unstable();
        for index in found.iter().rev() {
            queue.remove(index);
            pending.push_front(*index);
        }
        !found.is_empty()
    }
}

/// Brings an action into the store if a remote cache has it.
pub(super) fn fetch(
    store: &Store,
    options: &RunOptions,
    action: &Action,
    hear: &(dyn Fn(Event) + Sync),
) -> bool {
    let Some(remote) = &options.remote else {
        return false;
    };
    let tell = |notice| hear(event(action.index, notice));
    remote.fetch(store, &action.key, &action.document, &tell)
}

/// Asks for an action in the store, in its trash, and in the remote cache if there is one.
pub(super) fn claim_anywhere(
    store: &Store,
    options: &RunOptions,
    action: &Action,
    hear: &(dyn Fn(Event) + Sync),
) -> Result<Lookup, PipelineError> {
    match claim(store, &action.key)? {
        hit @ Lookup::Hit(_) => Ok(hit),
        lookup => match fetch(store, options, action, hear) {
            true => claim(store, &action.key),
            false => Ok(lookup),
        },
    }
}

/// Brings the pieces of the work `base`, of an instance, into the store, as far as a remote cache has them.
pub(super) fn fetch_chunks(
    store: &Store,
    options: &RunOptions,
    index: usize,
    base: &Digest,
    hear: &(dyn Fn(Event) + Sync),
) {
    if let Some(remote) = &options.remote {
        remote.fetch_chunks(store, base, &|notice| hear(event(index, notice)));
    }
}

/// Tells the remote cache, if there is one, that an action was published.
pub(super) fn offer(options: &RunOptions, action: &Action, hear: &(dyn Fn(Event) + Sync)) {
    offer_key(options, action.index, &action.key, hear);
}

/// Tells the remote cache, if there is one, that an action of an instance was published, or a piece of one.
pub(super) fn offer_key(
    options: &RunOptions,
    index: usize,
    key: &ActionKey,
    hear: &(dyn Fn(Event) + Sync),
) {
    if let Some(remote) = &options.remote {
        remote.offer(key, &|notice| hear(event(index, notice)));
    }
}

fn event(index: usize, notice: Notice) -> Event {
    match notice {
        Notice::Arrived {
            bytes,
            of,
            seconds_left,
        } => Event::Progress {
            index,
            label: match seconds_left {
                Some(seconds) => format!("fetching ({seconds:.0} s left), kB"),
                None => "fetching, kB".to_owned(),
            },
            done: bytes / 1000,
            total: of.div_ceil(1000),
        },
        Notice::Warning(message) => Event::Warning { index, message },
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Lists are whole whatever a panicking thread was doing.
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
