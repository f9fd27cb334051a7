//! Answers on disk, one file each, named by the digest of what was asked.

use std::fs;
use std::path::{Path, PathBuf};

use sims_artifact::Digest;
use sims_artifact::atomic_file::write_atomically;

use super::answer::Answered;
use crate::JudgeError;

/// A folder of answers.
pub(super) struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// Opens the folder, which is made when absent.
    pub(super) fn open(folder: &Path) -> Result<Self, JudgeError> {
        fs::create_dir_all(folder).map_err(|error| {
            JudgeError::Setting(format!(
                "the folder {} for answers cannot be made: {error}; name another in SIMS_JUDGE_CACHE",
                folder.display()
            ))
        })?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// Returns a kept answer; none where there is none or the file is damaged, and it is asked again.
    pub(super) fn get(&self, key: &Digest) -> Option<Answered> {
        let text = fs::read_to_string(self.path(key)).ok()?;
        let answer: Answered = serde_json::from_str(&text).ok()?;
        answer.is_sound().then_some(answer)
    }

    /// Keeps an answer.
    pub(super) fn put(&self, key: &Digest, answer: &Answered) -> Result<(), JudgeError> {
        let text = serde_json::to_string(answer).map_err(|error| {
            JudgeError::Setting(format!("an answer cannot be written: {error}"))
        })?;
        Ok(write_atomically(&self.path(key), text.as_bytes())?)
    }

    /// Two digits of the digest make a folder, so that none gets too full.
    fn path(&self, key: &Digest) -> PathBuf {
        let name = key.to_string();
        self.folder
            .join(key.short(2))
            .join(name.replace(':', "-") + ".json")
    }
}
