//! The remote cache as the rest of the program sees it: blocking, and off once it cannot be used.

use std::collections::HashSet;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use object_store::ObjectStore;
use object_store::path::Path;
use sims_artifact::ArtifactError;
use sims_artifact::store::ActionKey;
use tokio::runtime::Runtime;
use tokio::sync::Semaphore;

use crate::RemoteError;
use crate::bucket::Bucket;
use crate::error::{Fault, reason};
use crate::location::Location;

/// How often a transfer looks whether it has to stop, and tells how far it is.
const TICK: Duration = Duration::from_millis(50);

/// How a remote cache is used.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How many blobs are on their way at a time.
    pub transfers: usize,
    /// How long an answer may take, with all its retries; bodies get more, by their size.
    pub timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            transfers: 8,
            timeout: Duration::from_secs(30),
        }
    }
}

/// A remote cache. It can be shared between threads.
///
/// Once it cannot be reached, refuses, or is too slow, it is off: nothing is asked of it any more. When only writing
/// fails, only writing is off.
pub struct Remote {
    /// There until it is dropped.
    runtime: Option<Runtime>,
    bucket: Bucket,
    url: String,
    hint: Option<&'static str>,
    secrets: Vec<String>,
    reads_off: AtomicBool,
    writes_off: AtomicBool,
    /// Actions of which something was damaged or missing: their uploads replace what is there.
    suspects: Mutex<HashSet<ActionKey>>,
    stop: Box<dyn Fn() -> bool + Send + Sync>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Remote {
    /// Opens the remote cache at a URL, or in a folder; nothing is asked of it yet.
    ///
    /// `environment` holds the settings of the service under the names that its own tools use (`AWS_REGION`, …). Once
    /// `stop` returns `true`, transfers end with [`RemoteError::Stopped`].
    ///
    /// # Errors
    /// [`RemoteError::BadUrl`] when the URL is not understood, holds credentials, or lacks a setting.
    pub fn open(
        url: &str,
        environment: &[(String, String)],
        settings: Settings,
        stop: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Result<Self, RemoteError> {
        let location = Location::open(url, environment, settings.timeout)?;
        let mut remote = Self::over(location.objects, location.prefix, settings, stop)?;
        remote.url = location.url;
        remote.hint = location.hint;
        remote.secrets = location.secrets;
        Ok(remote)
    }

    /// Uses an object store that is at hand, below `prefix`.
    ///
    /// # Errors
    /// If threads cannot be started.
    pub fn over(
        objects: Arc<dyn ObjectStore>,
        prefix: Path,
        settings: Settings,
        stop: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Result<Self, RemoteError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(settings.transfers.clamp(1, 4))
            .enable_all()
            .build()
            .map_err(|e| ArtifactError::io("start threads for", "the remote cache", e))?;
        Ok(Self {
            runtime: Some(runtime),
            url: objects.to_string(),
            bucket: Bucket {
                objects,
                prefix,
                slots: Arc::new(Semaphore::new(settings.transfers.max(1))),
                timeout: settings.timeout,
            },
            hint: None,
            secrets: Vec::new(),
            reads_off: AtomicBool::new(false),
            writes_off: AtomicBool::new(false),
            suspects: Mutex::default(),
            stop: Box::new(stop),
        })
    }

    /// Returns the URL, for people; it holds no credentials.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Tells whether nothing is asked of it any more.
    pub fn is_off(&self) -> bool {
        self.reads_off.load(Ordering::Relaxed)
    }

    /// Tells whether nothing is written to it any more.
    pub fn is_write_off(&self) -> bool {
        self.writes_off.load(Ordering::Relaxed)
    }

    /// Tells whether it was asked to stop.
    pub fn is_stopped(&self) -> bool {
        (self.stop)()
    }

    pub(crate) fn turn_off(&self) {
        self.reads_off.store(true, Ordering::Relaxed);
        self.turn_writes_off();
    }

    pub(crate) fn turn_writes_off(&self) {
        self.writes_off.store(true, Ordering::Relaxed);
    }

    pub(crate) fn bucket(&self) -> &Bucket {
        &self.bucket
    }

    /// Notes that what is there of an action is not whole.
    pub(crate) fn suspect(&self, key: &ActionKey) {
        self.suspects().insert(*key);
    }

    /// Returns the actions of which what is there is not whole.
    pub(crate) fn suspects(&self) -> MutexGuard<'_, HashSet<ActionKey>> {
        // A set of keys is whole whatever a panicking thread was doing.
        self.suspects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn damaged(&self, message: String) -> RemoteError {
        RemoteError::Damaged {
            url: self.url.clone(),
            message,
        }
    }

    /// Waits for `work`, but not longer than until it is asked to stop; `tick` is called meanwhile.
    pub(crate) fn block<T>(
        &self,
        work: impl Future<Output = Result<T, Fault>>,
        tick: &dyn Fn(),
    ) -> Result<T, RemoteError> {
        let waiting = async {
            let mut work = std::pin::pin!(work);
            loop {
                if self.is_stopped() {
                    return Err(Fault::Stopped);
                }
                match tokio::time::timeout(TICK, &mut work).await {
                    Ok(done) => return done,
                    Err(_) => tick(),
                }
            }
        };
        let runtime = self.runtime.as_ref().expect("there until it is dropped");
        let done = runtime.block_on(waiting);
        done.map_err(|fault| self.in_words(fault))
    }

    fn in_words(&self, fault: Fault) -> RemoteError {
        let reason = match fault {
            Fault::Service(error) => reason(&error, &self.secrets),
            Fault::Slow(limit) => format!("no answer within {} s", limit.as_secs_f64()),
            Fault::Damaged(message) => return self.damaged(message),
            Fault::Local(error) => return error.into(),
            Fault::Stopped => return RemoteError::Stopped,
        };
        RemoteError::Unusable {
            url: self.url.clone(),
            reason: match self.hint {
                Some(hint) => format!("{reason}; {hint}"),
                None => reason,
            },
        }
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // Without waiting: a name that is being looked up cannot be interrupted.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
