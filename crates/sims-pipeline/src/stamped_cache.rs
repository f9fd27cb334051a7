//! Answers about files, remembered as long as the file looks the same.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sims_artifact::atomic_file::write_atomically;

/// The version of the cache files; another one is ignored.
const FORMAT: u32 = 1;

/// What a file looked like: inode, size, modification and change time.
///
/// The change time is there because the modification time can be set to anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileStamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileStamp {
    /// Reads the stamp of the file at `path`, following links.
    pub(crate) fn of(path: &Path) -> std::io::Result<Self> {
        path.metadata().map(|metadata| Self::from(&metadata))
    }
}

impl From<&Metadata> for FileStamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A JSON file of answers by name, each valid while a file has the same stamp.
///
/// It can be deleted at any time; one that cannot be read counts as empty, and one that cannot
/// be written costs the next run the same work again.
#[derive(Debug)]
pub(crate) struct StampedCache<T> {
    path: PathBuf,
    entries: BTreeMap<String, Entry<T>>,
    changed: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry<T> {
    stamp: FileStamp,
    answer: T,
}

#[derive(Serialize, Deserialize)]
struct CacheFile<E> {
    format: u32,
    entries: E,
}

impl<T: Clone + Serialize + DeserializeOwned> StampedCache<T> {
    /// Reads the cache at `path`.
    pub(crate) fn open(path: PathBuf) -> Self {
        let entries = std::fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice::<CacheFile<_>>(&bytes).ok())
            .filter(|file| file.format == FORMAT)
            .map(|file| file.entries)
            .unwrap_or_default();
        Self {
            path,
            entries,
            changed: false,
        }
    }

    /// Returns the answer remembered under `name`, if the file still looks like `stamp`.
    pub(crate) fn get(&self, name: &str, stamp: FileStamp) -> Option<T> {
        self.entries
            .get(name)
            .filter(|entry| entry.stamp == stamp)
            .map(|entry| entry.answer.clone())
    }

    /// Remembers an answer.
    pub(crate) fn put(&mut self, name: String, stamp: FileStamp, answer: T) {
        self.entries.insert(name, Entry { stamp, answer });
        self.changed = true;
    }

    /// Writes the cache when there is something to remember.
    pub(crate) fn save(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let file = CacheFile {
            format: FORMAT,
            entries: &self.entries,
        };
        if let Ok(text) = serde_json::to_vec(&file) {
            let _cache_only = write_atomically(&self.path, &text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_holds_while_the_file_looks_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("f");
        std::fs::write(&file, "one").unwrap();
        let stamp = FileStamp::of(&file).unwrap();
        let path = folder.path().join("cache/c.json");
        let mut cache: StampedCache<u32> = StampedCache::open(path.clone());
        assert_eq!(cache.get("f", stamp), None);
        cache.put("f".into(), stamp, 7);
        cache.save();
        let again: StampedCache<u32> = StampedCache::open(path.clone());
        assert_eq!(again.get("f", stamp), Some(7));
        std::fs::write(&file, "two!").unwrap();
        assert_eq!(again.get("f", FileStamp::of(&file).unwrap()), None);
        std::fs::write(&path, "{\"format\":9}").unwrap();
        assert_eq!(StampedCache::<u32>::open(path).get("f", stamp), None);
    }
}
