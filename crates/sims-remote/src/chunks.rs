//! Pieces of work in the remote cache: `chunks/ab/BASE/KEY` says which results are pieces of what.

use std::sync::Mutex;

use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use sims_artifact::Digest;
use sims_artifact::store::{ActionKey, ActionResult, Store};

use crate::bucket::Bucket;
use crate::download::plain_names;
use crate::error::Fault;
use crate::{Remote, RemoteError};

/// Chunks that are fetched at the same time; their blobs share the slots of the remote cache.
const AT_A_TIME: usize = 8;

impl Remote {
    /// Brings into the store every piece of the work `base` that the cache has and the store has not; returns how many
    /// those are, and what was wrong with others.
    ///
    /// # Errors
    /// [`RemoteError::Unusable`], and the cache is then not asked again; [`RemoteError::Stopped`].
    pub fn fetch_chunks(
        &self,
        store: &Store,
        base: &Digest,
    ) -> Result<(usize, Vec<RemoteError>), RemoteError> {
        if self.is_off() {
            return Ok((0, Vec::new()));
        }
        let fetched = self.fetch_all(store, base);
        if matches!(fetched, Err(RemoteError::Unusable { .. })) {
            self.turn_off();
        }
        fetched
    }

    fn fetch_all(
        &self,
        store: &Store,
        base: &Digest,
    ) -> Result<(usize, Vec<RemoteError>), RemoteError> {
        let known = store.chunks(base)?;
        let mut keys = self.block(list(self.bucket(), base), &|| {})?;
        keys.retain(|key| known.binary_search(key).is_err());
        let wanted = Mutex::new(keys.into_iter());
        let next = || wanted.lock().expect("no holder panics").next();
        let fetch = || {
            let (mut count, mut damaged) = (0, Vec::new());
            while let Some(key) = next() {
                match self.fetch_chunk(store, base, &key) {
                    Ok(true) => count += 1,
                    Ok(false) => {}
                    Err(error @ RemoteError::Damaged { .. }) => {
                        self.suspect(&key);
                        damaged.push(error);
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok((count, damaged))
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..AT_A_TIME).map(|_| scope.spawn(fetch)).collect();
            let mut all = (0, Vec::new());
            for worker in workers {
                let done = worker.join();
                let (count, damaged) =
                    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                all.0 += count;
                all.1.extend(damaged);
            }
            Ok(all)
        })
    }

    fn fetch_chunk(
        &self,
        store: &Store,
        base: &Digest,
        key: &ActionKey,
    ) -> Result<bool, RemoteError> {
        let bucket = self.bucket();
        let place = bucket.place("ac", &key.to_string(), ".json");
        let Some(record) = self.block(bucket.read(&place), &|| {})? else {
            return Ok(false);
        };
        let result = ActionResult::from_record(key, &record).and_then(|result| {
            plain_names(&result)?;
            match &result.chunk {
                Some(chunk) if chunk.base == *base => Ok(result),
                _ => Err("it is no piece of this work".to_owned()),
            }
        });
        let result = result.map_err(|message| self.damaged(format!("{place}: {message}")))?;
        self.fetch_blobs(store, &result, &|_, _| {})?;
        store.publish_chunk(&result)?;
        Ok(true)
    }
}

/// Returns the place that says of an action that it is a piece of the work `base`.
pub(crate) fn entry(bucket: &Bucket, base: &Digest, key: &ActionKey) -> Path {
    bucket
        .place("chunks", &base.to_string(), "")
        .join(key.to_string())
}

/// Lists the pieces of the work `base`.
async fn list(bucket: &Bucket, base: &Digest) -> Result<Vec<ActionKey>, Fault> {
    let folder = bucket.place("chunks", &base.to_string(), "");
    let entries = bucket.objects.list(Some(&folder));
    let found = bucket.within(0, entries.try_collect::<Vec<_>>()).await;
    let found = match found {
        // In WebDAV and in a folder the place itself is missing.
        Err(Fault::Service(object_store::Error::NotFound { .. })) => Vec::new(),
        other => other?,
    };
    let keys = found.iter().filter_map(|entry| {
        let digest: Digest = entry.location.filename()?.parse().ok()?;
        Some(ActionKey::from(digest))
    });
    Ok(keys.collect())
}
