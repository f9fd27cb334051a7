//! A judge's answers on disk, one a line, under a digest of what was asked.
//!
//! A line is appended as its answer arrives, so whatever ends a run loses no answer that was paid for.

use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sims_artifact::ArtifactError;

use crate::ScoreError;

/// What a judge said to one question.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Answer {
    /// The first choice of the response, as the server sent it.
    pub(super) choice: Value,
    /// As the server counts them; 0 where it does not. Unit: tokens.
    pub(super) prompt_tokens: u64,
    /// The same of its answer. Unit: tokens.
    pub(super) completion_tokens: u64,
}

impl Answer {
    /// Reads the body of a response; the error says what it lacks.
    pub(super) fn read(body: &str) -> Result<Self, String> {
        let body: Value =
            serde_json::from_str(body).map_err(|error| format!("the body is no JSON: {error}"))?;
        let usage = |name: &str| body["usage"][name].as_u64().unwrap_or(0);
        let choice = body["choices"].get(0).ok_or("the response has no choice")?;
        Ok(Self {
            choice: choice.clone(),
            prompt_tokens: usage("prompt_tokens"),
            completion_tokens: usage("completion_tokens"),
        })
    }

    /// Returns the likeliest tokens at the first position with their log-probabilities; none where there are none.
    pub(super) fn top_logprobs(&self) -> Option<Vec<(&str, f64)>> {
        let top = self.choice["logprobs"]["content"].get(0)?["top_logprobs"].as_array()?;
        top.iter()
            .map(|entry| Some((entry["token"].as_str()?, entry["logprob"].as_f64()?)))
            .collect()
    }
}

#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    #[serde(flatten)]
    answer: Answer,
}

/// The file of answers, open for more; no other run can have it meanwhile.
#[derive(Debug)]
pub(super) struct KeptAnswers {
    path: PathBuf,
    file: File,
}

impl KeptAnswers {
    /// Opens the file, which is made when absent, and returns the answers in it by the digest of their question.
    ///
    /// A last line that broke off is cut away, so that its question is asked again.
    ///
    /// # Errors
    /// A file that cannot be opened, that another run has, or with a line that is no answer.
    pub(super) fn open(path: &Path) -> Result<(Self, HashMap<String, Answer>), ScoreError> {
        let io = |action: &'static str| move |error| ArtifactError::io(action, path, error);
        let mut options = OpenOptions::new();
        options.create(true).append(true).read(true);
        let mut file = options.open(path).map_err(io("open"))?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => ScoreError::file(
                path,
                "another run is writing its answers here; wait for it, or give another --out",
            ),
            TryLockError::Error(error) => io("lock")(error).into(),
        })?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(io("read"))?;
        let end = bytes.iter().rposition(|byte| *byte == b'\n');
        let whole = end.map_or(0, |end| end + 1);
        let mut answers = HashMap::new();
        for (row, line) in bytes[..whole]
            .split_inclusive(|byte| *byte == b'\n')
            .enumerate()
        {
            let Line { key, answer } =
                serde_json::from_slice(line).map_err(|error| ScoreError::Row {
                    path: path.to_owned(),
                    row,
                    message: format!(
                        "no answer that was kept ({error}); remove the line to ask again"
                    ),
                })?;
            answers.insert(key, answer);
        }
        file.set_len(whole as u64).map_err(io("write"))?;
        let path = path.to_owned();
        Ok((Self { path, file }, answers))
    }

    /// Appends an answer.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub(super) fn keep(&mut self, key: &str, answer: &Answer) -> Result<(), ScoreError> {
        let line = Line {
            key: key.to_owned(),
            answer: answer.clone(),
        };
        let io = |error| ArtifactError::io("write", &self.path, error);
        let line = serde_json::to_string(&line).map_err(|error| io(error.into()))? + "\n";
        // The whole line in one call: a run that is killed leaves a beginning at most.
        Ok(self.file.write_all(line.as_bytes()).map_err(io)?)
    }
}
