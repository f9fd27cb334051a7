//! Digests of the files and models that come from outside the store.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sims_artifact::tables::{table_schemas, tensors_schemas};
use sims_artifact::{ArtifactError, Digest, ModelManifest, TensorFile, schema_id_of};

use crate::PipelineError;
use crate::pipeline::FileRef;
use crate::plan::MODEL;
use crate::stamped_cache::{FileStamp, StampedCache};
use crate::yaml::Diagnostic;

/// An input from outside, as it was when it was hashed.
#[derive(Debug, Clone)]
pub(crate) struct ExternalInput {
    /// The file or folder, absolute.
    pub(crate) path: PathBuf,
    /// The digest of the file, or of the model's manifest.
    pub(crate) digest: Digest,
    stamps: Vec<(PathBuf, FileStamp)>,
}

impl ExternalInput {
    /// Returns a file of the input that looks different from when it was hashed.
    pub(crate) fn changed_file(&self) -> Option<&Path> {
        self.stamps
            .iter()
            .find(|(path, stamp)| FileStamp::of(path).ok() != Some(*stamp))
            .map(|(path, _)| path.as_path())
    }
}

/// What is remembered of a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct KnownFile {
    digest: Digest,
    /// The schema id that the file carries.
    schema: Option<String>,
}

/// Hashes inputs, each once as long as it looks the same.
pub(crate) struct InputDigests {
    cache: StampedCache<KnownFile>,
    /// Answers of this process: one look at each input in a run.
    seen: BTreeMap<(PathBuf, String), ExternalInput>,
}

impl InputDigests {
    /// Remembers in the file `cache`.
    pub(crate) fn new(cache: PathBuf) -> Self {
        Self {
            cache: StampedCache::open(cache),
            seen: BTreeMap::new(),
        }
    }

    /// Returns the digest of an input, which must be a whole artifact of `schema`.
    pub(crate) fn get(
        &mut self,
        file: &FileRef,
        schema: &str,
    ) -> Result<ExternalInput, PipelineError> {
        let name = (file.path.clone(), schema.to_owned());
        if let Some(input) = self.seen.get(&name) {
            return Ok(input.clone());
        }
        let at_fault = |error: ArtifactError| {
            PipelineError::from(Diagnostic::new(&file.at, error.to_string()))
        };
        let input = if schema == MODEL {
            self.model(&file.path).map_err(at_fault)?
        } else {
            let (known, stamp) = self.file(&file.path, schema).map_err(at_fault)?;
            if let Some(found) = known.schema.filter(|found| found != schema) {
                let path = file.path.display();
                return Err(Diagnostic::new(
                    &file.at,
                    format!("{path} holds {found}, but {schema} is needed here"),
                )
                .into());
            }
            ExternalInput {
                path: file.path.clone(),
                digest: known.digest,
                stamps: vec![(file.path.clone(), stamp)],
            }
        };
        self.seen.insert(name, input.clone());
        Ok(input)
    }

    /// Writes what was learnt.
    pub(crate) fn save(&mut self) {
        self.cache.save();
    }

    fn model(&mut self, model: &Path) -> Result<ExternalInput, ArtifactError> {
        let mut files = BTreeMap::new();
        let mut stamps = Vec::new();
        for (name, path) in ModelManifest::paths(model)? {
            let (known, stamp) = self.file(&path, "")?;
            files.insert(name, known.digest);
            stamps.push((path, stamp));
        }
        Ok(ExternalInput {
            path: model.to_owned(),
            digest: ModelManifest::of_files(files).digest,
            stamps,
        })
    }

    fn file(&mut self, path: &Path, schema: &str) -> Result<(KnownFile, FileStamp), ArtifactError> {
        let look =
            |path: &Path| FileStamp::of(path).map_err(|e| ArtifactError::io("read", path, e));
        let kind = Kind::of(schema);
        let name = format!("{kind:?} {}", path.display());
        loop {
            let stamp = look(path)?;
            if let Some(known) = self.cache.get(&name, stamp) {
                return Ok((known, stamp));
            }
            let known = KnownFile {
                schema: carried_schema(path, kind)?,
                digest: Digest::of_file(path)?,
            };
            if look(path)? == stamp {
                self.cache.put(name, stamp, known.clone());
                return Ok((known, stamp));
            }
        }
    }
}

/// How a file is checked.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Table,
    Tensors,
    Other,
}

impl Kind {
    fn of(schema: &str) -> Self {
        if table_schemas().iter().any(|known| known.id == schema) {
            Self::Table
        } else if tensors_schemas().iter().any(|known| known.id == schema) {
            Self::Tensors
        } else {
            Self::Other
        }
    }
}

/// Reads as much of a file as shows that it is whole, and returns the schema id that it carries.
fn carried_schema(path: &Path, kind: Kind) -> Result<Option<String>, ArtifactError> {
    match kind {
        Kind::Table => schema_id_of(path),
        Kind::Tensors => TensorFile::open(path).map(|_| None),
        Kind::Other => Ok(None),
    }
}

/// Checks that the file at `path` is a whole artifact of `schema`; the error says what it is.
///
/// A table that carries no schema id was made by another tool and is taken at its word.
pub(crate) fn check_artifact(path: &Path, schema: &str) -> Result<(), String> {
    match carried_schema(path, Kind::of(schema)) {
        Ok(Some(found)) if found != schema => {
            Err(format!("it holds {found}, but {schema} was declared"))
        }
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}
