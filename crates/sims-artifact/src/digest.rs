//! BLAKE3 digests: the names of blobs, actions and models.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ArtifactError;

/// From this size on a file is hashed by several threads. Unit: bytes.
const LARGE: u64 = 1 << 20;
/// What several threads hash at a time. Unit: bytes.
const BLOCK: usize = 1 << 20;

/// A BLAKE3 hash of 32 bytes, shown as 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Hashes `bytes`.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// Hashes `bytes` in the domain that `context` names, so that equal bytes of two domains differ.
    pub fn derived(context: &str, bytes: &[u8]) -> Self {
        Self(blake3::derive_key(context, bytes))
    }

    /// Hashes the content of the file at `path`.
    ///
    /// # Errors
    /// If the file cannot be read.
    pub fn of_file(path: &Path) -> Result<Self, ArtifactError> {
        let mut file = File::open(path).map_err(|e| ArtifactError::io("open", path, e))?;
        let read = |e| ArtifactError::io("read", path, e);
        let mut hasher = blake3::Hasher::new();
        let bytes = file.metadata().map_err(read)?.len();
        if bytes < LARGE {
            hasher.update_reader(file).map_err(read)?;
            return Ok(Self(*hasher.finalize().as_bytes()));
        }
        // Read rather than mapped: a file that is cut short meanwhile would end the process.
        let mut block = vec![0; usize::try_from(bytes).unwrap_or(BLOCK).min(BLOCK)];
        loop {
            let mut filled = 0;
            while filled < block.len() {
                match file.read(&mut block[filled..]) {
                    Ok(0) => break,
                    Ok(count) => filled += count,
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(read(e)),
                }
            }
            if filled == 0 {
                return Ok(Self(*hasher.finalize().as_bytes()));
            }
            hasher.update_rayon(&block[..filled]);
        }
    }

    /// Returns the first `digits` hexadecimal digits (at most 64), for people and file names.
    pub fn short(&self, digits: usize) -> String {
        let mut hex = self.to_string();
        hex.truncate(digits);
        hex
    }

    /// Returns the raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short(12))
    }
}

impl FromStr for Digest {
    type Err = ArtifactError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        blake3::Hash::from_hex(text)
            .map(|hash| Self(*hash.as_bytes()))
            .map_err(|_| ArtifactError::BadDigest(text.to_owned()))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = ArtifactError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_input_has_the_published_hash() {
        let digest = Digest::of_bytes(b"");
        assert_eq!(
            digest.to_string(),
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
        );
        assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
        assert!("af13".parse::<Digest>().is_err());
    }

    #[test]
    fn domains_do_not_collide() {
        assert_ne!(Digest::derived("a", b"x"), Digest::derived("b", b"x"));
    }
}
