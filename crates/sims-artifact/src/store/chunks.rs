//! Chunks: finished pieces of the work of an action, found by what all its pieces have in common.
//!
//! A chunk is an action of its own, with a result; what its document would say is in there. What
//! it is a piece of, the *base*, is a digest: of the action's document without what differs from
//! piece to piece. Under `chunks/` lies an empty file for each piece, named by its key, in a folder
//! named by its base. Such an entry is a hint: one that is lost costs a piece computed again, and
//! one whose result is gone says nothing.

use std::fs::File;
use std::path::PathBuf;

use super::{ActionKey, ActionResult, Chunk, Store, StoreError, create_folder, list};
use crate::{ArtifactError, Digest};

impl Store {
    /// Publishes the result of a piece of some work. Its blobs must be stored already.
    ///
    /// # Errors
    /// If a blob is missing or a file cannot be written.
    pub fn publish_chunk(&self, result: &ActionResult) -> Result<(), StoreError> {
        self.hold_result(result)?;
        self.write_result(result)?;
        let Some(Chunk { base, .. }) = &result.chunk else {
            return Ok(());
        };
        let folder = self.chunk_folder(base);
        create_folder(&folder)?;
        let path = folder.join(result.key.to_string());
        match File::create_new(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
            Err(e) => Err(ArtifactError::io("create", &path, e).into()),
            Ok(_) => Ok(()),
        }
    }

    /// Returns the finished pieces of the work `base` that are known, in ascending order.
    ///
    /// # Errors
    /// If their folder cannot be read.
    pub fn chunks(&self, base: &Digest) -> Result<Vec<ActionKey>, StoreError> {
        let mut keys: Vec<ActionKey> = list(&self.chunk_folder(base))?
            .iter()
            .filter_map(|path| path.file_name()?.to_str()?.parse::<Digest>().ok())
            .map(ActionKey::from)
            .collect();
        keys.sort_unstable();
        Ok(keys)
    }

    /// Removes the entries of chunks whose results are gone.
    pub(super) fn forget_lost_chunks(&self) -> Result<(), StoreError> {
        for prefix in list(&self.root.join("chunks"))? {
            for base in list(&prefix)? {
                for entry in list(&base)? {
                    let name = entry.file_name().unwrap_or_default().to_string_lossy();
                    if name.parse::<Digest>().is_ok()
                        && !self.fan_out("ac", &name, ".json").exists()
                    {
                        let _another_was_faster = std::fs::remove_file(&entry);
                    }
                }
                // Fails while entries are left in it.
                let _left = std::fs::remove_dir(&base);
            }
        }
        Ok(())
    }

    fn chunk_folder(&self, base: &Digest) -> PathBuf {
        self.fan_out("chunks", &base.to_string(), "")
    }
}
