//! Action results and blobs in an object store, shared between machines.
