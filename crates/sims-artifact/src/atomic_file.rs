//! Files that appear whole or not at all.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::ArtifactError;

/// How the names of files under construction begin.
const PARTIAL: &str = ".partial-";

/// A file under construction; [`AtomicFile::publish`] makes it visible under its name.
///
/// The bytes go to a temporary file in the same folder, are flushed to the disk and renamed, so
/// that a reader, or a machine that lost power, sees the old content or the new, never a part.
pub struct AtomicFile {
    temporary: NamedTempFile,
    path: PathBuf,
}

impl AtomicFile {
    /// Starts a file that will be published at `path`; its folder is made when absent.
    ///
    /// # Errors
    /// If the folder cannot be made or written.
    pub fn create(path: &Path) -> Result<Self, ArtifactError> {
        let folder = folder_of(path);
        std::fs::create_dir_all(folder).map_err(|e| ArtifactError::io("create", folder, e))?;
        let temporary = tempfile::Builder::new()
            .prefix(PARTIAL)
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .tempfile_in(folder)
            .map_err(|e| ArtifactError::io("create a file in", folder, e))?;
        // While it is locked it is nobody else's to remove; where there are no locks, nobody removes it either.
        let _held = temporary.as_file().try_lock();
        Ok(Self {
            temporary,
            path: path.to_owned(),
        })
    }

    /// Returns the open temporary file.
    pub fn file(&mut self) -> &mut File {
        self.temporary.as_file_mut()
    }

    /// Flushes the bytes to the disk and gives the file its name.
    ///
    /// # Errors
    /// If flushing or renaming fails; the temporary file is then removed.
    pub fn publish(self) -> Result<(), ArtifactError> {
        let Self { temporary, path } = self;
        temporary
            .as_file()
            .sync_all()
            .map_err(|e| ArtifactError::io("flush", &path, e))?;
        temporary
            .persist(&path)
            .map_err(|e| ArtifactError::io("publish", &path, e.error))?;
        sync_folder(folder_of(&path))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file().flush()
    }
}

/// Writes `bytes` to `path` atomically.
///
/// # Errors
/// If the folder is not writable or the disk is full.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), ArtifactError> {
    let mut file = AtomicFile::create(path)?;
    file.file()
        .write_all(bytes)
        .map_err(|e| ArtifactError::io("write", path, e))?;
    file.publish()
}

/// Removes the files under construction in `folder` whose writers died; those of writers at work stay.
pub fn remove_abandoned(folder: &Path) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let is_partial = entry.file_name().to_string_lossy().starts_with(PARTIAL);
        if is_partial && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            // Whoever else removes it at the same time does the same.
            let _gone = std::fs::remove_file(entry.path());
        }
    }
}

/// Flushes a folder's entries to the disk, so that a rename in it survives a power cut.
///
/// # Errors
/// If the folder cannot be opened or flushed.
pub fn sync_folder(folder: &Path) -> Result<(), ArtifactError> {
    File::open(folder)
        .and_then(|f| f.sync_all())
        .map_err(|e| ArtifactError::io("flush", folder, e))
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dead_writers_left_is_removed_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let held = AtomicFile::create(&folder.path().join("held")).unwrap();
        std::fs::write(folder.path().join(".partial-dead"), b"half").unwrap();
        std::fs::write(folder.path().join("whole"), b"whole").unwrap();
        remove_abandoned(folder.path());
        let left = || std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left(), 2);
        assert!(!folder.path().join(".partial-dead").exists());
        held.publish().unwrap();
        remove_abandoned(folder.path());
        assert_eq!(left(), 2);
        assert!(folder.path().join("held").exists());
    }

    #[test]
    fn an_unpublished_file_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub/a.txt");
        let mut file = AtomicFile::create(&path).unwrap();
        file.file().write_all(b"half").unwrap();
        drop(file);
        assert_eq!(
            std::fs::read_dir(folder.path().join("sub"))
                .unwrap()
                .count(),
            0
        );
        write_atomically(&path, b"whole").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
    }
}
