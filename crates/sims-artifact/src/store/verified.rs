//! Which blobs were verified, and what they looked like then.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{File, Metadata, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::Digest;

/// What a file looked like when it was hashed; a file that still looks so has the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileLook {
    inode: u64,
    bytes: u64,
    changed_secs: i64,
    changed_nanos: i64,
}

impl FileLook {
    /// Reads inode, size and change time.
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            changed_secs: metadata.ctime(),
            changed_nanos: metadata.ctime_nsec(),
        }
    }
}

/// The lines of one cache file: the blobs whose digest begins with the same two digits.
#[derive(Debug, Default)]
struct Shard {
    looks: HashMap<Digest, FileLook>,
    lines: usize,
}

/// A cache of verifications in 256 append-only text files, each read when first needed.
///
/// It is a cache in the strict sense: a lost or torn line costs one more verification, and a
/// folder that cannot be written is ignored.
#[derive(Debug)]
pub(super) struct VerifiedBlobs {
    folder: PathBuf,
    shards: HashMap<u8, Shard>,
}

impl VerifiedBlobs {
    /// Uses the files in `folder`.
    pub(super) fn new(folder: PathBuf) -> Self {
        Self {
            folder,
            shards: HashMap::new(),
        }
    }

    /// Returns what the blob looked like when it was last verified.
    pub(super) fn look(&mut self, digest: &Digest) -> Option<FileLook> {
        self.shard(digest).looks.get(digest).copied()
    }

    /// Remembers that the blob was verified while it looked like `look`.
    pub(super) fn remember(&mut self, digest: &Digest, look: FileLook) {
        let path = self.shard_path(digest);
        let shard = self.shard(digest);
        if shard.looks.insert(*digest, look) == Some(look) {
            return;
        }
        shard.lines += 1;
        if shard.lines > 64 + 2 * shard.looks.len() {
            rewrite(&path, shard);
            return;
        }
        let _cache_only = append(&path, &line(digest, look));
    }

    /// Forgets blobs that are gone; all belong to the same file of the cache.
    pub(super) fn forget(&mut self, digests: &[Digest]) {
        let Some(first) = digests.first() else { return };
        let path = self.shard_path(first);
        let shard = self.shard(first);
        let known = shard.looks.len();
        for digest in digests {
            shard.looks.remove(digest);
        }
        if shard.looks.len() < known {
            rewrite(&path, shard);
        }
    }

    fn shard(&mut self, digest: &Digest) -> &mut Shard {
        let path = self.shard_path(digest);
        self.shards.entry(digest.as_bytes()[0]).or_insert_with(|| {
            let mut shard = Shard::default();
            let text = std::fs::read_to_string(path).unwrap_or_default();
            for line in text.lines() {
                shard.lines += 1;
                if let Some((digest, look)) = parse(line) {
                    shard.looks.insert(digest, look);
                }
            }
            shard
        })
    }

    fn shard_path(&self, digest: &Digest) -> PathBuf {
        self.folder.join(digest.short(2))
    }
}

/// Writes the lines of a cache file anew, one a blob.
fn rewrite(path: &Path, shard: &mut Shard) {
    shard.lines = shard.looks.len();
    let lines = shard.looks.iter();
    let text: String = lines.map(|(digest, look)| line(digest, *look)).collect();
    // A torn rewrite loses verifications, never makes one up.
    let _cache_only = File::create(path).and_then(|mut file| file.write_all(text.as_bytes()));
}

/// One line: digest, inode, size, change time, and a check over them, since lines may be torn.
fn line(digest: &Digest, look: FileLook) -> String {
    let FileLook {
        inode,
        bytes,
        changed_secs,
        changed_nanos,
    } = look;
    let mut line = format!("{digest} {inode} {bytes} {changed_secs} {changed_nanos}");
    let check = Digest::of_bytes(line.as_bytes()).short(8);
    let _infallible = writeln!(line, " {check}");
    line
}

fn parse(text: &str) -> Option<(Digest, FileLook)> {
    let (body, check) = text.rsplit_once(' ')?;
    if Digest::of_bytes(body.as_bytes()).short(8) != check {
        return None;
    }
    let mut words = body.split(' ');
    let digest = words.next()?.parse().ok()?;
    let look = FileLook {
        inode: words.next()?.parse().ok()?,
        bytes: words.next()?.parse().ok()?,
        changed_secs: words.next()?.parse().ok()?,
        changed_nanos: words.next()?.parse().ok()?,
    };
    Some((digest, look))
}

fn append(path: &Path, line: &str) -> std::io::Result<()> {
    let open =
        || -> std::io::Result<File> { OpenOptions::new().append(true).create(true).open(path) };
    let mut file = match open() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            std::fs::create_dir_all(path.parent().unwrap_or(path))?;
            open()?
        }
        other => other?,
    };
    // One write a line: appends of processes do not mix.
    file.write_all(line.as_bytes())
}
