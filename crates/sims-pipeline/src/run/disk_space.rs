//! Whether a disk is full.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A file system with less space than this has none: not even a small file fits.
const NOTHING_LEFT: u64 = 64 * 1024;

/// Tells whether the file system of `path` has no space left.
pub(super) fn is_used_up(path: &Path) -> bool {
    free_bytes(path).is_some_and(|bytes| bytes < NOTHING_LEFT)
}

fn free_bytes(path: &Path) -> Option<u64> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: all-zero bytes are a valid `statvfs`, which is plain numbers.
    let mut status: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` is a string that ends with a zero, and `status` is ours to write to.
    let result = unsafe { libc::statvfs(path.as_ptr(), &raw mut status) };
    (result == 0).then_some(status.f_bavail.saturating_mul(status.f_frsize))
}
