//! Action results and blobs in an object store, shared between machines.
//!
//! ```text
//! cas/ab/abcd….zst       blobs, as zstd files, named by the digest of what they hold
//! actions/ab/abcd….json  action documents
//! ac/ab/abcd….json       action results, as the local store writes them
//! chunks/ab/abcd…/KEY    empty: that result is a piece of the work with this digest
//! ```
//!
//! An upload puts the blobs first, then the document, and the result last, so that a result is
//! never there without what it names. Nothing that is there is written again, with one exception:
//! what turned out to be damaged is replaced. A download goes to a scratch folder of the local
//! store, is decompressed under the size that the result names, and enters the store only with
//! the digest that was asked for.
//!
//! [`Remote`] is blocking from outside; inside it works on a runtime of its own. [`Uploads`] is a
//! queue of what is to be uploaded, with threads that do it. Nothing here reads the environment
//! or prints.

mod bucket;
mod chunks;
mod download;
mod error;
mod location;
mod remote;
mod upload;
mod uploads;

pub use error::RemoteError;
pub use remote::{Remote, Settings};
pub use upload::Put;
pub use uploads::{Progress, UploadReport, Uploads};
