//! An object store in memory that misbehaves when told to.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload,
    ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult,
    Result,
};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Bodies come with one bit changed in the middle.
    WrongBytes,
    /// Bodies come without their second half.
    Cut,
    /// Every request fails.
    Broken,
    /// Every request is refused.
    Denied,
    /// Writing is refused.
    WritingDenied,
    /// No request is ever answered.
    Silent,
    /// Bodies begin and never end.
    Stalling,
    /// There are no conditional writes.
    Unconditional,
}

#[derive(Debug)]
pub(crate) struct Faulty {
    inner: InMemory,
    fault: Mutex<Fault>,
    /// Only for objects whose place contains this.
    place: Mutex<&'static str>,
    requests: AtomicUsize,
}

impl Faulty {
    pub(crate) fn new() -> Self {
        Self {
            inner: InMemory::new(),
            fault: Mutex::new(Fault::None),
            place: Mutex::new(""),
            requests: AtomicUsize::new(0),
        }
    }

    /// From now on, this goes wrong with objects whose place contains `place`.
    pub(crate) fn set(&self, fault: Fault, place: &'static str) {
        *self.fault.lock().unwrap() = fault;
        *self.place.lock().unwrap() = place;
    }

    /// Returns how many requests there were.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    async fn fault(&self, place: &Path, is_write: bool) -> Result<Fault> {
        self.requests.fetch_add(1, Ordering::SeqCst);
        let fault = match place.as_ref().contains(*self.place.lock().unwrap()) {
            true => *self.fault.lock().unwrap(),
            false => Fault::None,
        };
        match fault {
            Fault::Silent => futures::future::pending().await,
            Fault::Broken => Err(Error::Generic {
                store: "test",
                source: "Server returned non-2xx status code: 500 Internal Server Error: <Key>secret</Key>"
                    .into(),
            }),
            Fault::Denied => Err(denied(place)),
            Fault::WritingDenied if is_write => Err(denied(place)),
            other => Ok(other),
        }
    }
}

fn denied(place: &Path) -> Error {
    Error::PermissionDenied {
        path: place.to_string(),
        source: "403".into(),
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("test://bucket")
    }
}

// Written out what the macro of `async_trait` makes, which would be a dependency.
impl ObjectStore for Faulty {
    fn put_opts<'a, 'b, 'c>(
        &'a self,
        location: &'b Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> BoxFuture<'c, Result<PutResult>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(async move {
            let fault = self.fault(location, true).await?;
            if fault == Fault::Unconditional && options.mode == PutMode::Create {
                return Err(Error::NotImplemented {
                    operation: "create".into(),
                    implementer: "test".into(),
                });
            }
            self.inner.put_opts(location, payload, options).await
        })
    }

    fn put_multipart_opts<'a, 'b, 'c>(
        &'a self,
        location: &'b Path,
        options: PutMultipartOptions,
    ) -> BoxFuture<'c, Result<Box<dyn MultipartUpload>>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(async move {
            self.fault(location, true).await?;
            self.inner.put_multipart_opts(location, options).await
        })
    }

    fn get_opts<'a, 'b, 'c>(
        &'a self,
        location: &'b Path,
        options: GetOptions,
    ) -> BoxFuture<'c, Result<GetResult>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        Box::pin(async move {
            let fault = self.fault(location, false).await?;
            let is_head = options.head;
            let mut found = self.inner.get_opts(location, options).await?;
            if is_head || !matches!(fault, Fault::WrongBytes | Fault::Cut | Fault::Stalling) {
                return Ok(found);
            }
            let (meta, range) = (found.meta.clone(), found.range.clone());
            let attributes = std::mem::take(&mut found.attributes);
            let mut bytes = found.bytes().await?.to_vec();
            let middle = bytes.len() / 2;
            match fault {
                Fault::WrongBytes => bytes[middle] ^= 1,
                _ => bytes.truncate(middle),
            }
            let begin = futures::stream::once(async move { Ok(bytes.into()) });
            let stream = match fault {
                Fault::Stalling => begin.chain(futures::stream::pending()).boxed(),
                _ => begin.boxed(),
            };
            Ok(GetResult {
                payload: GetResultPayload::Stream(stream),
                meta,
                range,
                attributes,
            })
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_delimiter<'a, 'b, 'c>(
        &'a self,
        prefix: Option<&'b Path>,
    ) -> BoxFuture<'c, Result<ListResult>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        self.inner.list_with_delimiter(prefix)
    }

    fn copy_opts<'a, 'b, 'd, 'c>(
        &'a self,
        from: &'b Path,
        to: &'d Path,
        options: CopyOptions,
    ) -> BoxFuture<'c, Result<()>>
    where
        'a: 'c,
        'b: 'c,
        'd: 'c,
        Self: 'c,
    {
        self.inner.copy_opts(from, to, options)
    }
}
