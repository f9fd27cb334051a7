//! What kind of file it is: by its name, or else by its first bytes.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sims_artifact::ArtifactError;

use crate::ImportError;

/// A kind of file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// One JSON object a line
    Jsonl,
    /// One JSON array of objects
    Json,
    /// Comma-separated values with a header
    Csv,
    /// Tab-separated values with a header
    Tsv,
    /// Parquet
    Parquet,
}

/// First bytes of packed files, their name and what unpacks them.
const PACKED: [(&[u8], &str, &str); 4] = [
    (b"\x1F\x8B", "gzip", "gunzip"),
    (b"\x28\xB5\x2F\xFD", "zstd", "unzstd"),
    (b"PK\x03\x04", "zip", "unzip"),
    (b"BZh", "bzip2", "bunzip2"),
];

impl Format {
    /// Returns the format of the file at `path`.
    ///
    /// # Errors
    /// If the file cannot be opened, is packed, is UTF-16 or UTF-32, or does not look like any format.
    pub fn of(path: &Path) -> Result<Self, ImportError> {
        let head = head(path)?;
        if let Some(&(_, kind, command)) = PACKED.iter().find(|(magic, ..)| head.starts_with(magic))
        {
            return Err(ImportError::Compressed {
                path: path.to_owned(),
                kind,
                command,
            });
        }
        if head.starts_with(b"PAR1") {
            return Ok(Self::Parquet);
        }
        refuse_other_encodings(path, &head)?;
        let extension = path.extension().and_then(|e| e.to_str());
        let text = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&head);
        let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
        match (extension.map(str::to_ascii_lowercase).as_deref(), first) {
            (Some("parquet" | "pq"), _) => Ok(Self::Parquet),
            (Some("csv"), _) => Ok(Self::Csv),
            (Some("tsv"), _) => Ok(Self::Tsv),
            (Some("jsonl" | "ndjson"), _) => Ok(Self::Jsonl),
            // Some projects name JSON lines `.json`.
            (_, Some(b'[')) => Ok(Self::Json),
            (_, Some(b'{')) => Ok(Self::Jsonl),
            (Some("json"), None) => Ok(Self::Json),
            _ => Err(ImportError::UnknownFormat {
                path: path.to_owned(),
            }),
        }
    }
}

/// What some editors put before UTF-8.
pub(crate) const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

fn head(path: &Path) -> Result<Vec<u8>, ImportError> {
    let file = File::open(path).map_err(|e| ArtifactError::io("open", path, e))?;
    let mut head = Vec::new();
    file.take(4096)
        .read_to_end(&mut head)
        .map_err(|e| ArtifactError::io("read", path, e))?;
    Ok(head)
}

fn refuse_other_encodings(path: &Path, head: &[u8]) -> Result<(), ImportError> {
    let encoding = match head {
        [0xFF, 0xFE, 0, 0, ..] | [0, 0, 0xFE, 0xFF, ..] => "UTF-32",
        [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] => "UTF-16",
        // Text without a mark, of which every other byte is zero.
        [0, b'!'..=b'~', ..] => "UTF-16BE",
        [b'!'..=b'~', 0, ..] => "UTF-16LE",
        _ => return Ok(()),
    };
    Err(ImportError::Encoding {
        path: path.to_owned(),
        encoding,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, bytes: &[u8]) -> Result<Format, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        Format::of(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn names_and_first_bytes_decide() {
        assert_eq!(of("a.jsonl", b"{}"), Ok(Format::Jsonl));
        assert_eq!(of("a.json", b" \n[{}]"), Ok(Format::Json));
        assert_eq!(of("a.json", b"\xEF\xBB\xBF{}\n{}"), Ok(Format::Jsonl));
        assert_eq!(of("a.CSV", b"prompt\nx"), Ok(Format::Csv));
        assert_eq!(of("a.tsv", b"prompt\nx"), Ok(Format::Tsv));
        assert_eq!(of("a", b"PAR1..."), Ok(Format::Parquet));
        assert_eq!(of("a", b"[1]"), Ok(Format::Json));
    }

    #[test]
    fn what_cannot_be_read_is_named_with_a_way_out() {
        let message = |name, bytes: &[u8]| of(name, bytes).unwrap_err();
        assert!(message("a.txt", b"hello").contains("unknown format; give --format"));
        assert!(message("a.jsonl.gz", b"\x1F\x8B\x08").contains("compressed (gzip)"));
        assert!(message("a.csv", b"\xFF\xFEp\0").contains("iconv -f UTF-16 -t UTF-8"));
        assert!(message("a.jsonl", b"{\0\"\0").contains("UTF-16LE"));
        assert!(Format::of(Path::new("absent.jsonl")).is_err());
    }
}
