//! A queue of actions to upload, and the threads that do it.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use sims_artifact::store::{ActionKey, Store, StoreError};

use crate::{Put, Remote, RemoteError};

/// Actions that are uploaded at the same time; the blobs of all share the slots of the remote cache.
const THREADS: usize = 4;
/// How often whoever waits hears how far it is.
const TICK: Duration = Duration::from_millis(50);

/// Bytes that are to be sent, and bytes that were.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    done: AtomicU64,
    total: AtomicU64,
}

impl Tally {
    /// Counts bytes that are to be sent.
    pub(crate) fn expect(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that were sent, before compression.
    pub(crate) fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// How far the uploads are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Actions that are done, whatever became of them.
    pub actions: usize,
    /// Actions in all.
    pub of_actions: usize,
    /// Bytes sent of the actions that were come to, before compression.
    pub bytes: u64,
    /// Bytes in all of the actions that were come to.
    pub of_bytes: u64,
}

/// What became of the uploads.
#[derive(Debug, Default)]
pub struct UploadReport {
    /// Actions that are in the cache since now.
    pub uploaded: usize,
    /// Actions that were there already.
    pub present: usize,
    /// Actions that the store does not have, or not whole.
    pub absent: usize,
    /// Actions that were not come to, because the cache was off or it was asked to stop.
    pub left: usize,
    /// Bytes that were sent, before compression.
    pub bytes: u64,
    /// Why the cache cannot be used, if so.
    pub fault: Option<RemoteError>,
}

/// Uploads in the background.
#[derive(Debug)]
pub struct Uploads {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    remote: Arc<Remote>,
    store: Store,
    tally: Arc<Tally>,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    keys: VecDeque<ActionKey>,
    seen: HashSet<ActionKey>,
    running: usize,
    closed: bool,
    report: UploadReport,
}

impl Uploads {
    /// Starts with an empty queue; `store` is one that nobody else uses in this process.
    pub fn start(remote: Arc<Remote>, store: Store) -> Self {
        let shared = Arc::new(Shared {
            remote,
            store,
            tally: Arc::default(),
            queue: Mutex::default(),
            changed: Condvar::new(),
        });
        let threads = (0..THREADS)
            .map(|_| {
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.work())
            })
            .collect();
        Self { shared, threads }
    }

    /// Puts an action into the queue, once.
    pub fn offer(&self, key: ActionKey) {
        let mut queue = self.shared.queue();
        if queue.seen.insert(key) {
            queue.keys.push_back(key);
            self.shared.changed.notify_all();
        }
    }

    /// Returns why the cache cannot be used, once.
    pub fn fault(&self) -> Option<RemoteError> {
        self.shared.queue().report.fault.take()
    }

    /// Waits until everything is uploaded, the cache is off, or it was asked to stop; `tell` is called meanwhile.
    pub fn finish(self, tell: &dyn Fn(Progress)) -> UploadReport {
        let mut queue = self.shared.queue();
        queue.closed = true;
        self.shared.changed.notify_all();
        while !(queue.keys.is_empty() && queue.running == 0) {
            if self.shared.remote.is_stopped() {
                queue.report.left += queue.keys.len();
                queue.keys.clear();
            }
            let progress = self.shared.progress(&queue);
            drop(queue);
            tell(progress);
            let waited = self.shared.changed.wait_timeout(self.shared.queue(), TICK);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(queue);
        for thread in self.threads {
            // A thread that panicked has said so.
            let _ended = thread.join();
        }
        let mut queue = self.shared.queue();
        let mut report = std::mem::take(&mut queue.report);
        report.bytes = self.shared.tally.done.load(Ordering::Relaxed);
        report
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Counters and keys are usable whatever a panicking thread was doing.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self, queue: &Queue) -> Progress {
        let of_actions = queue.seen.len();
        Progress {
            actions: of_actions - queue.keys.len() - queue.running,
            of_actions,
            bytes: self.tally.done.load(Ordering::Relaxed),
            of_bytes: self.tally.total.load(Ordering::Relaxed),
        }
    }

    fn work(&self) {
        let mut queue = self.queue();
        loop {
            let Some(key) = queue.keys.pop_front() else {
                if queue.closed {
                    return;
                }
                let waited = self.changed.wait(queue);
                queue = waited.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            queue.running += 1;
            drop(queue);
            let put = self.remote.put_counted(&self.store, &key, &self.tally);
            queue = self.queue();
            queue.running -= 1;
            let report = &mut queue.report;
            match put {
                Ok(Put::Uploaded) => report.uploaded += 1,
                Ok(Put::Present) => report.present += 1,
                Ok(Put::Absent) => report.absent += 1,
                Ok(Put::Off) | Err(RemoteError::Stopped) => report.left += 1,
                // Damaged here; fsck and the next run see to it.
                Err(RemoteError::Store(
                    StoreError::MissingBlob(_)
                    | StoreError::DamagedBlob { .. }
                    | StoreError::DamagedRecord { .. },
                )) => report.absent += 1,
                Err(fault) => {
                    report.left += 1;
                    report.fault.get_or_insert(fault);
                }
            }
            self.changed.notify_all();
        }
    }
}
