//! The identity of a model: a digest over the files that decide what it computes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::{ArtifactError, Digest, canonical_json};

/// Files besides the weights that change what a model says.
const SIDE_FILES: [&str; 9] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "judge_template.json",
    "model.safetensors.index.json",
];

/// What a model's one GGUF file goes by, whatever it is called.
const GGUF: &str = "model.gguf";

/// The files of a model folder that matter, each with its digest, and one digest over all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelManifest {
    /// The model's identity: the digest of the canonical JSON of `files`, or that of the one GGUF file.
    pub digest: Digest,
    /// Content digests by file name.
    pub files: BTreeMap<String, Digest>,
}

impl ModelManifest {
    /// Lists the files of a model that matter, by their names, without reading them: those in a folder, or one file.
    ///
    /// # Errors
    /// If the folder cannot be read, or has no `config.json` or no `*.safetensors`.
    pub fn paths(model: &Path) -> Result<BTreeMap<String, PathBuf>, ArtifactError> {
        if model.is_file() {
            return Ok(BTreeMap::from([(GGUF.to_owned(), model.to_owned())]));
        }
        let names = Self::file_names(model)?.into_iter();
        Ok(names
            .map(|name| {
                let path = model.join(&name);
                (name, path)
            })
            .collect())
    }

    fn file_names(folder: &Path) -> Result<Vec<String>, ArtifactError> {
        let entries =
            std::fs::read_dir(folder).map_err(|e| ArtifactError::io("open", folder, e))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| ArtifactError::io("list", folder, e))?;
            if let Ok(name) = entry.file_name().into_string()
                && (SIDE_FILES.contains(&name.as_str()) || name.ends_with(".safetensors"))
            {
                names.push(name);
            }
        }
        names.sort();
        let missing = |message: &str| ArtifactError::NotAModel {
            path: folder.to_owned(),
            message: message.to_owned(),
        };
        if !names.iter().any(|name| name == "config.json") {
            return Err(missing("it has no config.json"));
        }
        if !names.iter().any(|name| name.ends_with(".safetensors")) {
            return Err(missing("it has no *.safetensors weights"));
        }
        Ok(names)
    }

    /// Reads the files that matter in a model's folder, or its one GGUF file, and computes the manifest.
    ///
    /// # Errors
    /// As [`ModelManifest::paths`], or if a file cannot be read.
    pub fn of_dir(model: &Path) -> Result<Self, ArtifactError> {
        let mut files = BTreeMap::new();
        for (name, path) in Self::paths(model)? {
            files.insert(name, Digest::of_file(&path)?);
        }
        Ok(Self::of_files(files))
    }

    /// Computes the manifest from file digests that are already known.
    pub fn of_files(files: BTreeMap<String, Digest>) -> Self {
        if let Some(&digest) = files.get(GGUF).filter(|_| files.len() == 1) {
            return Self { digest, files };
        }
        let document = canonical_json(&json!(files));
        let digest = Digest::derived("sims 2026 model manifest", document.as_bytes());
        Self { digest, files }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_file_is_known_by_its_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some-name.gguf");
        std::fs::write(&path, "GGUF").unwrap();
        let manifest = ModelManifest::of_dir(&path).unwrap();
        assert_eq!(manifest.digest, Digest::of_file(&path).unwrap());
        let moved = folder.path().join("another.gguf");
        std::fs::rename(&path, &moved).unwrap();
        assert_eq!(ModelManifest::of_dir(&moved).unwrap(), manifest);
        assert!(ModelManifest::of_dir(&path).is_err());
    }

    #[test]
    fn only_files_that_matter_count() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        assert!(ModelManifest::of_dir(folder.path()).is_err());
        write("config.json", "{}");
        write("model.safetensors", "x");
        let first = ModelManifest::of_dir(folder.path()).unwrap();
        write("README.md", "hello");
        assert_eq!(ModelManifest::of_dir(folder.path()).unwrap(), first);
        write("model.safetensors", "y");
        assert_ne!(
            ModelManifest::of_dir(folder.path()).unwrap().digest,
            first.digest
        );
    }
}
