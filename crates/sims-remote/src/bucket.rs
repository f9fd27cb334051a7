//! Single objects of a remote cache: names, limits of time, and small transfers.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use object_store::path::Path;
use object_store::{Error, GetResult, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::Fault;

/// The largest record or document that is read.
const LARGEST_RECORD: u64 = 16 << 20;
/// A transfer that is slower than this counts as stalled. Unit: bytes a second.
const SLOWEST: u64 = 16 << 10;
/// The pauses before an upload that the network dropped is tried again.
const RETRY_DELAYS: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

/// The objects of a remote cache; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) prefix: Path,
    /// How many blobs may be on their way at a time.
    pub(crate) slots: Arc<Semaphore>,
    /// How long an answer may take; bodies get more, by their size.
    pub(crate) timeout: Duration,
}

impl Bucket {
    /// Returns the place of `name` (64 hexadecimal digits) in `folder`: `folder/ab/abcd…`.
    pub(crate) fn place(&self, folder: &str, name: &str, suffix: &str) -> Path {
        let parent = self.prefix.clone().join(folder).join(&name[..2]);
        parent.join(format!("{name}{suffix}"))
    }

    /// Waits for the right to move a blob.
    pub(crate) async fn slot(&self) -> SemaphorePermit<'_> {
        self.slots.acquire().await.expect("it is never closed")
    }

    /// Returns how long moving so many bytes may take.
    pub(crate) fn time_for(&self, bytes: u64) -> Duration {
        self.timeout + Duration::from_secs(bytes / SLOWEST)
    }

    /// Does `work`, which moves `bytes`, unless it takes too long.
    pub(crate) async fn within<T>(
        &self,
        bytes: u64,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, Fault> {
        let limit = self.time_for(bytes);
        match tokio::time::timeout(limit, work).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(Fault::Slow(limit)),
        }
    }

    /// Begins to read an object; `None` when there is none.
    pub(crate) async fn get(&self, place: &Path) -> Result<Option<GetResult>, Fault> {
        match self.within(0, self.objects.get(place)).await {
            Ok(found) => Ok(Some(found)),
            Err(Fault::Service(Error::NotFound { .. })) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Reads a small object whole; `None` when there is none.
    pub(crate) async fn read(&self, place: &Path) -> Result<Option<Vec<u8>>, Fault> {
        let Some(found) = self.get(place).await? else {
            return Ok(None);
        };
        let size = found.meta.size;
        if size > LARGEST_RECORD {
            return Err(Fault::Damaged(format!("{place} has {size} bytes")));
        }
        let bytes = self.within(size, found.bytes()).await?;
        Ok(Some(bytes.to_vec()))
    }

    /// Tells whether an object is there.
    pub(crate) async fn exists(&self, place: &Path) -> Result<bool, Fault> {
        match self.within(0, self.objects.head(place)).await {
            Ok(_) => Ok(true),
            Err(Fault::Service(Error::NotFound { .. })) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Writes an object unless it is there, or in place of what is there.
    pub(crate) async fn write(
        &self,
        place: &Path,
        bytes: Vec<u8>,
        replace: bool,
    ) -> Result<(), Fault> {
        let size = bytes.len() as u64;
        let payload = object_store::PutPayload::from(bytes);
        let put = |mode| {
            let options = PutOptions {
                mode,
                ..PutOptions::default()
            };
            self.objects.put_opts(place, payload.clone(), options)
        };
        let mut mode = match replace {
            true => PutMode::Overwrite,
            false => PutMode::Create,
        };
        let mut delays = RETRY_DELAYS.iter();
        loop {
            match self.within(size, put(mode.clone())).await {
                Ok(_) | Err(Fault::Service(Error::AlreadyExists { .. })) => return Ok(()),
                // Without conditional writes, as in WebDAV. Two writers at the same moment write the same content.
                Err(Fault::Service(Error::NotImplemented { .. })) if mode == PutMode::Create => {
                    if self.exists(place).await? {
                        return Ok(());
                    }
                    mode = PutMode::Overwrite;
                }
                // What the client does not try again by itself: a conditional write whose connection was lost, and
                // in WebDAV a folder that another writer made at the same moment.
                Err(fault @ Fault::Service(Error::Generic { .. })) => match delays.next() {
                    Some(delay) => tokio::time::sleep(*delay).await,
                    None => return Err(fault),
                },
                Err(fault) => return Err(fault),
            }
        }
    }
}
