//! Small files of the store, written whole or not at all.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{StoreError, create_folder};
use crate::ArtifactError;
use crate::atomic_file::sync_folder;

/// Writes `bytes` to `path`: first in `scratch`, flushed, then renamed, and the folder flushed.
pub(super) fn write_file(scratch: &Path, path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    let folder = path.parent().expect("files of a store lie in its folder");
    create_folder(folder)?;
    let mut file = tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o644))
        .tempfile_in(scratch)
        .map_err(|e| ArtifactError::io("create a file in", scratch, e))?;
    file.write_all(bytes)
        .and_then(|()| file.as_file().sync_all())
        .map_err(|e| ArtifactError::io("write", path, e))?;
    file.persist(path)
        .map_err(|e| ArtifactError::io("publish", path, e.error))?;
    Ok(sync_folder(folder)?)
}

/// Reads `path` whole, or returns `None` when it is absent.
pub(super) fn read_if_present(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(ArtifactError::io("read", path, e).into()),
    }
}
