//! From the remote cache into the local store.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use futures::StreamExt;
use serde_json::Value;
use sims_artifact::Digest;
use sims_artifact::store::{ActionKey, ActionResult, Blob, Store, StoreError};
use tokio::task::JoinSet;

use crate::bucket::Bucket;
use crate::error::Fault;
use crate::{Remote, RemoteError};

impl Remote {
    /// Brings an action into the store: its blobs, then its document, which is given, and its result.
    ///
    /// Returns `None` when the cache does not have it, or was found to be unusable before. `tell` hears how many
    /// bytes of how many have arrived, while it waits.
    ///
    /// # Errors
    /// [`RemoteError::Unusable`], and the cache is then not asked again; [`RemoteError::Damaged`] when the result or
    /// a blob is not what it should be: nothing of that has entered the store as this action.
    pub fn fetch(
        &self,
        store: &Store,
        key: &ActionKey,
        document: &Value,
        tell: &dyn Fn(u64, u64),
    ) -> Result<Option<ActionResult>, RemoteError> {
        if self.is_off() {
            return Ok(None);
        }
        let fetched = self.fetch_action(store, key, document, tell);
        match &fetched {
            Err(RemoteError::Damaged { .. }) => self.suspect(key),
            Err(RemoteError::Unusable { .. }) => self.turn_off(),
            _ => {}
        }
        fetched
    }

    fn fetch_action(
        &self,
        store: &Store,
        key: &ActionKey,
        document: &Value,
        tell: &dyn Fn(u64, u64),
    ) -> Result<Option<ActionResult>, RemoteError> {
        let bucket = self.bucket();
        let place = bucket.place("ac", &key.to_string(), ".json");
        let Some(record) = self.block(bucket.read(&place), &|| {})? else {
            return Ok(None);
        };
        let result = ActionResult::from_record(key, &record).and_then(|result| {
            agree(&result, document)?;
            Ok(result)
        });
        let result = result.map_err(|message| self.damaged(format!("{place}: {message}")))?;
        self.fetch_blobs(store, &result, tell)?;
        store.publish_action(document, &result)?;
        Ok(Some(result))
    }

    /// Brings into the store what it does not have of a result's blobs.
    pub(crate) fn fetch_blobs(
        &self,
        store: &Store,
        result: &ActionResult,
        tell: &dyn Fn(u64, u64),
    ) -> Result<(), RemoteError> {
        let bucket = self.bucket();
        store.hold(&result.key)?;
        let absent = absent(store, result)?;
        if !absent.is_empty() {
            let scratch = store.scratch()?;
            let arrived = Arc::new(AtomicU64::new(0));
            let total = absent.values().map(|blob| blob.bytes).sum();
            let path_of = |blob: &Blob| scratch.path().join(blob.digest.to_string());
            self.block(
                download_all(
                    bucket,
                    absent.values().map(|blob| (*blob, path_of(blob))),
                    &arrived,
                ),
                &|| tell(arrived.load(Ordering::Relaxed), total),
            )?;
            for blob in absent.values() {
                match store.add_expected(&path_of(blob), blob) {
                    Err(error @ StoreError::OtherBytes { .. }) => {
                        return Err(self.damaged(error.to_string()));
                    }
                    other => other?,
                }
            }
        }
        Ok(())
    }
}

/// Checks that a result has the outputs that its document names; what is wrong is returned.
fn agree(result: &ActionResult, document: &Value) -> Result<(), String> {
    plain_names(result)?;
    let Some(described) = document["outputs"].as_object() else {
        return Ok(());
    };
    let same = described.len() == result.outputs.len()
        && described.iter().all(|(role, schema)| {
            let output = result.outputs.get(role);
            output.is_some_and(|output| schema == &output.schema)
        });
    match same {
        true => Ok(()),
        false => Err("it has other outputs than the stage describes".to_owned()),
    }
}

/// Refuses outputs whose names would lead elsewhere.
pub(crate) fn plain_names(result: &ActionResult) -> Result<(), String> {
    let is_plain = |file: &str| Path::new(file).file_name().is_some_and(|name| name == file);
    let mut outputs = result.outputs.values();
    match outputs.find(|output| !is_plain(&output.file)) {
        Some(output) => Err(format!("`{}` is no name of a file", output.file)),
        None => Ok(()),
    }
}

/// Returns what the store does not have of a result's blobs, each once.
fn absent(store: &Store, result: &ActionResult) -> Result<BTreeMap<Digest, Blob>, StoreError> {
    let mut absent = BTreeMap::new();
    for blob in blobs(result) {
        match store.blob(&blob.digest) {
            Ok(_) => {}
            Err(StoreError::MissingBlob(_) | StoreError::DamagedBlob { .. }) => {
                absent.insert(blob.digest, blob);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(absent)
}

/// Returns every blob that a result names, with its size.
pub(crate) fn blobs(result: &ActionResult) -> impl Iterator<Item = Blob> {
    let outputs = result.outputs.values().map(|output| Blob {
        digest: output.digest,
        bytes: output.bytes,
    });
    outputs.chain(result.summary)
}

async fn download_all(
    bucket: &Bucket,
    wanted: impl Iterator<Item = (Blob, PathBuf)>,
    arrived: &Arc<AtomicU64>,
) -> Result<(), Fault> {
    // Dropped, it stops what is still on its way.
    let mut tasks = JoinSet::new();
    for (blob, path) in wanted {
        tasks.spawn(download(bucket.clone(), blob, path, Arc::clone(arrived)));
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("a transfer does not panic")?;
    }
    Ok(())
}

/// Writes a blob to `path`, decompressed; its size is checked, its digest is not.
async fn download(
    bucket: Bucket,
    blob: Blob,
    path: PathBuf,
    arrived: Arc<AtomicU64>,
) -> Result<(), Fault> {
    let _slot = bucket.slot().await;
    let place = bucket.place("cas", &blob.digest.to_string(), ".zst");
    let started = Instant::now();
    let Some(found) = bucket.get(&place).await? else {
        return Err(Fault::Damaged(format!("{place} is not there")));
    };
    let file = File::create(&path).map_err(|e| Fault::local("create", &path, e))?;
    let capped = Capped {
        file,
        left: blob.bytes,
        arrived,
    };
    let fault = |error: io::Error| match error.raw_os_error() {
        Some(_) => Fault::local("write", &path, error),
        None => Fault::Damaged(format!("{place}: {error}")),
    };
    let mut decoder = zstd::stream::write::Decoder::new(capped).map_err(fault)?;
    let mut body = found.into_stream();
    while let Some(bytes) = bucket
        .within(0, async { body.next().await.transpose() })
        .await?
    {
        decoder.write_all(&bytes).map_err(fault)?;
        let limit = bucket.time_for(blob.bytes);
        if started.elapsed() > limit {
            return Err(Fault::Slow(limit));
        }
    }
    decoder.flush().map_err(fault)?;
    match decoder.into_inner().left {
        0 => Ok(()),
        left => Err(Fault::Damaged(format!("{place} is {left} bytes short"))),
    }
}

/// A file that takes so many bytes and no more.
struct Capped {
    file: File,
    left: u64,
    arrived: Arc<AtomicU64>,
}

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() as u64 > self.left {
            return Err(io::Error::other("it is longer than its action says"));
        }
        let written = self.file.write(bytes)?;
        self.left -= written as u64;
        self.arrived.fetch_add(written as u64, Ordering::Relaxed);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
