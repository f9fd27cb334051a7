//! The identity of a model: a digest over the files that decide what it computes.

use std::collections::BTreeMap;
use std::path::Path;

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

/// The files of a model folder that matter, each with its digest, and one digest over all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelManifest {
    /// The model's identity: the digest of the canonical JSON of `files`.
    pub digest: Digest,
    /// Content digests by file name.
    pub files: BTreeMap<String, Digest>,
}

impl ModelManifest {
    /// Lists the names of the files in `folder` that matter, sorted, without reading them.
    ///
    /// # Errors
    /// If the folder cannot be read, or has no `config.json` or no `*.safetensors`.
    pub fn file_names(folder: &Path) -> Result<Vec<String>, ArtifactError> {
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

    /// Reads the files that matter in `folder` and computes the manifest.
    ///
    /// # Errors
    /// As [`ModelManifest::file_names`], or if a file cannot be read.
    pub fn of_dir(folder: &Path) -> Result<Self, ArtifactError> {
        let mut files = BTreeMap::new();
        for name in Self::file_names(folder)? {
            let digest = Digest::of_file(&folder.join(&name))?;
            files.insert(name, digest);
        }
        Ok(Self::of_files(files))
    }

    /// Computes the manifest from file digests that are already known.
    pub fn of_files(files: BTreeMap<String, Digest>) -> Self {
        let document = canonical_json(&json!(files));
        let digest = Digest::derived("sims 2026 model manifest", document.as_bytes());
        Self { digest, files }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
