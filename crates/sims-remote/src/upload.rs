//! From the local store into the remote cache.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use object_store::path::Path;
use object_store::{ObjectStoreExt, WriteMultipart};
use sims_artifact::canonical_json;
use sims_artifact::store::{ActionKey, Blob, Store};
use tokio::task::JoinSet;

use crate::bucket::Bucket;
use crate::chunks::entry;
use crate::download::blobs;
use crate::error::Fault;
use crate::uploads::Tally;
use crate::{Remote, RemoteError};

/// Blobs from this size on are sent in parts. Unit: bytes.
const LARGE: u64 = 16 << 20;
/// The smallest part, compressed. Unit: bytes.
const PART: u64 = 8 << 20;
/// S3 takes 10,000 parts an object.
const MOST_PARTS: u64 = 9_000;
/// Parts of one blob that are on their way at a time.
const PARTS_AT_A_TIME: usize = 4;
/// How hard to compress: the zstd level.
const LEVEL: i32 = 3;

/// What became of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The action is in the cache since now.
    Uploaded,
    /// It was there already.
    Present,
    /// The store has no result of this action.
    Absent,
    /// The cache takes nothing any more.
    Off,
}

impl Remote {
    /// Puts an action into the cache: its blobs, then its document, and its result last; of a chunk also
    /// what it is a piece of.
    ///
    /// # Errors
    /// [`RemoteError::Unusable`], and nothing is written any more; [`RemoteError::Store`] when the store lacks a blob.
    pub fn put(&self, store: &Store, key: &ActionKey) -> Result<Put, RemoteError> {
        self.put_counted(store, key, &Arc::default())
    }

    pub(crate) fn put_counted(
        &self,
        store: &Store,
        key: &ActionKey,
        tally: &Arc<Tally>,
    ) -> Result<Put, RemoteError> {
        if self.is_write_off() {
            return Ok(Put::Off);
        }
        let put = self.put_action(store, key, tally);
        if matches!(put, Err(RemoteError::Unusable { .. })) {
            self.turn_writes_off();
        }
        put
    }

    fn put_action(
        &self,
        store: &Store,
        key: &ActionKey,
        tally: &Arc<Tally>,
    ) -> Result<Put, RemoteError> {
        let bucket = self.bucket();
        store.hold(key)?;
        let Some(result) = store.action_result(key)? else {
            return Ok(Put::Absent);
        };
        let name = key.to_string();
        let place = bucket.place("ac", &name, ".json");
        let replace = self.suspects().contains(key);
        if !replace && self.block(bucket.exists(&place), &|| {})? {
            return Ok(Put::Present);
        }
        let mut files = BTreeMap::new();
        for blob in blobs(&result) {
            files.insert(blob.digest, (blob, store.blob(&blob.digest)?));
        }
        tally.expect(files.values().map(|(blob, _)| blob.bytes).sum());
        let document = store.action_document(key)?;
        let work = async {
            upload_all(bucket, files.into_values(), replace, tally).await?;
            if let Some(document) = document {
                let place = bucket.place("actions", &name, ".json");
                let text = canonical_json(&document);
                bucket.write(&place, text.into_bytes(), replace).await?;
            }
            bucket.write(&place, result.to_record(), replace).await?;
            if let Some(chunk) = &result.chunk {
                let place = entry(bucket, &chunk.base, key);
                bucket.write(&place, Vec::new(), false).await?;
            }
            Ok(())
        };
        self.block(work, &|| {})?;
        self.suspects().remove(key);
        Ok(Put::Uploaded)
    }
}

async fn upload_all(
    bucket: &Bucket,
    files: impl Iterator<Item = (Blob, PathBuf)>,
    replace: bool,
    tally: &Arc<Tally>,
) -> Result<(), Fault> {
    // Dropped, it stops what is still on its way.
    let mut tasks = JoinSet::new();
    for (blob, path) in files {
        let (bucket, tally) = (bucket.clone(), Arc::clone(tally));
        tasks.spawn(async move { upload(&bucket, blob, path, replace, &tally).await });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("a transfer does not panic")?;
    }
    Ok(())
}

async fn upload(
    bucket: &Bucket,
    blob: Blob,
    path: PathBuf,
    replace: bool,
    tally: &Tally,
) -> Result<(), Fault> {
    let _slot = bucket.slot().await;
    let place = bucket.place("cas", &blob.digest.to_string(), ".zst");
    if !replace && bucket.exists(&place).await? {
        tally.advance(blob.bytes);
        return Ok(());
    }
    if blob.bytes >= LARGE {
        return upload_in_parts(bucket, &place, blob, path, tally).await;
    }
    let compressed = std::fs::read(&path).and_then(|bytes| zstd::bulk::compress(&bytes, LEVEL));
    let compressed = compressed.map_err(|e| Fault::local("read", &path, e))?;
    bucket.write(&place, compressed, replace).await?;
    tally.advance(blob.bytes);
    Ok(())
}

/// Sends a large blob while it is read and compressed. Parts cannot be sent conditionally: whoever sends the same
/// blob at the same time sends the same content.
async fn upload_in_parts(
    bucket: &Bucket,
    place: &Path,
    blob: Blob,
    path: PathBuf,
    tally: &Tally,
) -> Result<(), Fault> {
    let part = PART.max(blob.bytes / MOST_PARTS);
    let upload = bucket
        .within(0, bucket.objects.put_multipart(place))
        .await?;
    let mut parts = WriteMultipart::new_with_chunk_size(upload, part as usize);
    match send(bucket, &mut parts, part, &path, tally).await {
        Ok(()) => {
            let left = part * PARTS_AT_A_TIME as u64;
            bucket.within(left, parts.finish()).await.map(|_| ())
        }
        Err(fault) => {
            // What was sent would take up space; where this fails, a rule of the bucket has to remove it.
            let _best_effort = bucket.within(0, parts.abort()).await;
            Err(fault)
        }
    }
}

async fn send(
    bucket: &Bucket,
    parts: &mut WriteMultipart,
    part: u64,
    path: &std::path::Path,
    tally: &Tally,
) -> Result<(), Fault> {
    let fault = |e| Fault::local("read", path, e);
    let mut file = File::open(path).map_err(fault)?;
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), LEVEL).map_err(fault)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer).map_err(fault)?;
        if read == 0 {
            break;
        }
        encoder.write_all(&buffer[..read]).map_err(fault)?;
        parts.write(&std::mem::take(encoder.get_mut()));
        let in_flight = part * PARTS_AT_A_TIME as u64;
        bucket
            .within(in_flight, parts.wait_for_capacity(PARTS_AT_A_TIME))
            .await?;
        tally.advance(read as u64);
    }
    parts.write(&encoder.finish().map_err(fault)?);
    Ok(())
}
