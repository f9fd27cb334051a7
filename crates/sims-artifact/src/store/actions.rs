//! Actions: what was computed (the document), and what came out (the result).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::documents::read_if_present;
use super::{Store, StoreError, list};
use crate::{Digest, canonical_json};

/// The version of the action-result files.
const RESULT_FORMAT: u32 = 1;

/// The identity of an action: the digest of its document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ActionKey(Digest);

impl ActionKey {
    /// Computes the key of an action document: BLAKE3 of its canonical JSON, in a domain of its own.
    pub fn of_document(document: &Value) -> Self {
        Self::of_canonical(canonical_json(document).as_bytes())
    }

    fn of_canonical(bytes: &[u8]) -> Self {
        Self(Digest::derived("sims 2026 action key", bytes))
    }

    /// Returns the first `digits` hexadecimal digits, for people.
    pub fn short(&self, digits: usize) -> String {
        self.0.short(digits)
    }
}

impl From<Digest> for ActionKey {
    fn from(digest: Digest) -> Self {
        Self(digest)
    }
}

impl fmt::Display for ActionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Stored bytes: their name and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blob {
    /// The digest of the bytes.
    pub digest: Digest,
    /// How many there are.
    pub bytes: u64,
}

/// One output of an action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionOutput {
    /// The digest of the bytes.
    pub digest: Digest,
    /// How many there are.
    pub bytes: u64,
    /// The kind of artifact, such as `responses@1`.
    pub schema: String,
    /// The file name that the stage gave it, such as `responses.parquet`.
    pub file: String,
}

/// What an action made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActionResult {
    /// The action.
    pub key: ActionKey,
    /// The outputs by role.
    pub outputs: BTreeMap<String, ActionOutput>,
    /// The stage's `summary.json`, which varies from run to run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub summary: Option<Blob>,
    /// How long the stage ran. Unit: seconds.
    pub seconds: f64,
    /// Why the stage asked that no further round run, if it did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stop: Option<String>,
    /// The actions whose results are pieces of this one.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub chunks: Vec<ActionKey>,
    /// What it is a piece of, if it is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub chunk: Option<Chunk>,
}

/// A piece of the work of an action.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Chunk {
    /// What all pieces of that work have in common.
    pub base: Digest,
    /// What the stage noted beside its rows.
    pub note: Value,
}

impl ActionResult {
    /// Returns every blob that the result names, with the words for it in messages.
    pub fn blobs(&self) -> impl Iterator<Item = (String, Digest)> {
        let outputs = self
            .outputs
            .iter()
            .map(|(role, output)| (format!("output `{role}`"), output.digest));
        let summary = self.summary.iter();
        outputs.chain(summary.map(|blob| ("summary".to_owned(), blob.digest)))
    }

    /// Returns the content of the result's file: JSON with a check over itself.
    pub fn to_record(&self) -> Vec<u8> {
        let value = serde_json::to_value(self).expect("a result is plain data");
        let file = ResultFile {
            format: RESULT_FORMAT,
            check: check_of(&value),
            result: value,
        };
        let mut bytes = serde_json::to_vec(&file).expect("a result is plain data");
        bytes.push(b'\n');
        bytes
    }

    /// Reads the content of a result's file; a result of another action than `key` is refused.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn from_record(key: &ActionKey, bytes: &[u8]) -> Result<Self, String> {
        let file: ResultFile = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        if file.format != RESULT_FORMAT {
            return Err(format!(
                "format {} where {RESULT_FORMAT} is supported",
                file.format
            ));
        }
        if check_of(&file.result) != file.check {
            return Err("its check does not match".to_owned());
        }
        let result: Self = serde_json::from_value(file.result).map_err(|e| e.to_string())?;
        if result.key != *key {
            return Err(format!("it belongs to action {}", result.key));
        }
        Ok(result)
    }
}

/// The content of an action-result file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResultFile {
    format: u32,
    check: Digest,
    result: Value,
}

impl Store {
    /// Returns the result of an action, or `None` when it was never computed.
    ///
    /// The blobs are not looked at: ask [`Store::blob`] for each.
    ///
    /// # Errors
    /// [`StoreError::DamagedRecord`] after moving the file to `quarantine/`: the action has to run again.
    pub fn action_result(&self, key: &ActionKey) -> Result<Option<ActionResult>, StoreError> {
        let path = self.fan_out("ac", &key.to_string(), ".json");
        let Some(bytes) = read_if_present(&path)? else {
            return Ok(None);
        };
        match ActionResult::from_record(key, &bytes) {
            Ok(result) => Ok(Some(result)),
            Err(message) => Err(StoreError::DamagedRecord {
                key: *key,
                message,
                quarantined: self.quarantine(&path)?,
            }),
        }
    }

    /// Returns the keys of all action results, in ascending order; their files are not read.
    ///
    /// # Errors
    /// If a folder cannot be read.
    pub fn action_keys(&self) -> Result<Vec<ActionKey>, StoreError> {
        let mut keys = Vec::new();
        // What is no folder and no key here is for fsck to say.
        let folders = list(&self.root.join("ac"))?.into_iter();
        for folder in folders.filter(|folder| folder.is_dir()) {
            for file in list(&folder)? {
                let name = file.file_stem().unwrap_or_default().to_string_lossy();
                keys.extend(name.parse().ok().map(ActionKey));
            }
        }
        keys.sort_unstable();
        Ok(keys)
    }

    /// Publishes an action: its document, then its result. The blobs must be stored already.
    ///
    /// # Errors
    /// If a blob is missing or a file cannot be written.
    pub fn publish_action(
        &self,
        document: &Value,
        result: &ActionResult,
    ) -> Result<(), StoreError> {
        self.hold_result(result)?;
        self.keep_document(&result.key, document)?;
        self.write_result(result)
    }

    /// Keeps what a result names, all of which has to be there.
    pub(super) fn hold_result(&self, result: &ActionResult) -> Result<(), StoreError> {
        self.hold(&result.key)?;
        for (_, digest) in result.blobs() {
            // Noted before it is looked for, however it got here: see `gc`.
            self.hold_blob(&digest)?;
            self.blob(&digest)?;
        }
        Ok(())
    }

    pub(super) fn write_result(&self, result: &ActionResult) -> Result<(), StoreError> {
        let name = result.key.to_string();
        self.write_file(&self.fan_out("ac", &name, ".json"), &result.to_record())
    }

    /// Writes the document of an action unless the same bytes are there already.
    ///
    /// # Errors
    /// If the file cannot be read, or has to be written and cannot.
    pub fn keep_document(&self, key: &ActionKey, document: &Value) -> Result<(), StoreError> {
        let path = self.fan_out("actions", &key.to_string(), ".json");
        let canonical = canonical_json(document);
        if read_if_present(&path)?.as_deref() == Some(canonical.as_bytes()) {
            return Ok(());
        }
        self.write_file(&path, canonical.as_bytes())
    }

    /// Returns the document of an action, or `None` when it was never published.
    ///
    /// # Errors
    /// [`StoreError::DamagedRecord`] after moving the file to `quarantine/`.
    pub fn action_document(&self, key: &ActionKey) -> Result<Option<Value>, StoreError> {
        let path = self.fan_out("actions", &key.to_string(), ".json");
        let Some(bytes) = read_if_present(&path)? else {
            return Ok(None);
        };
        match parse_document(key, &bytes) {
            Ok(document) => Ok(Some(document)),
            Err(message) => Err(StoreError::DamagedRecord {
                key: *key,
                message,
                quarantined: self.quarantine(&path)?,
            }),
        }
    }
}

fn check_of(result: &Value) -> Digest {
    Digest::derived("sims 2026 action result", canonical_json(result).as_bytes())
}

/// Reads an action document; the error says what is wrong with it.
pub(super) fn parse_document(key: &ActionKey, bytes: &[u8]) -> Result<Value, String> {
    if ActionKey::of_canonical(bytes) != *key {
        return Err("its digest is not its key".to_owned());
    }
    serde_json::from_slice(bytes).map_err(|e| e.to_string())
}
