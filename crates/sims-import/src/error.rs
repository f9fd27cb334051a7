//! What can be wrong with files of prompts.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use sims_artifact::ArtifactError;

/// Where a record stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<PathBuf>,
    /// What is counted: `line`, `record` or `row`.
    pub unit: &'static str,
    /// Its number, from 1.
    pub number: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} {}", self.file.display(), self.unit, self.number)
    }
}

/// Why prompts could not be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The operating system refused, or a table could not be written.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// Neither the name nor the first bytes say what the file is.
    #[error("{path}: unknown format; give --format jsonl, json, csv, tsv or parquet")]
    UnknownFormat {
        /// The file.
        path: PathBuf,
    },
    /// The file is packed.
    #[error("{path} is compressed ({kind}); unpack it first, with `{command}`")]
    Compressed {
        /// The file.
        path: PathBuf,
        /// By what.
        kind: &'static str,
        /// What unpacks it.
        command: &'static str,
    },
    /// The file is text in an encoding other than UTF-8.
    #[error("{path} is encoded as {encoding}; convert it with `iconv -f {encoding} -t UTF-8`")]
    Encoding {
        /// The file.
        path: PathBuf,
        /// The encoding.
        encoding: &'static str,
    },
    /// Some bytes are no UTF-8.
    #[error(
        "{place}: byte {offset} is 0x{byte:02X}, which is not UTF-8; convert the file, for example with \
         `iconv -f WINDOWS-1252 -t UTF-8`"
    )]
    NotUtf8 {
        /// The line.
        place: Place,
        /// Which byte of the line (CSV: of the field), from 1.
        offset: usize,
        /// The byte.
        byte: u8,
    },
    /// A record cannot be parsed.
    #[error("{place}: {message}")]
    Malformed {
        /// The record.
        place: Place,
        /// What is wrong and what would be right.
        message: String,
    },
    /// The file as a whole cannot be read.
    #[error("{path} cannot be read as {format}: {message}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// As what.
        format: &'static str,
        /// What the reader says.
        message: String,
    },
    /// The file has no records.
    #[error("{path} has no records")]
    NoRecords {
        /// The file.
        path: PathBuf,
    },
    /// No column looks like prompts.
    #[error(
        "{path}: no column is known to hold prompts (looked for {looked_for}); name one with \
         --prompt-column or --messages-column; the columns are {columns}"
    )]
    NoPromptColumn {
        /// The file.
        path: PathBuf,
        /// The names that are known.
        looked_for: String,
        /// The columns there are.
        columns: String,
    },
    /// A named column is absent.
    #[error("{path} has no column `{column}`; its columns are {columns}")]
    NoColumn {
        /// The file.
        path: PathBuf,
        /// The column asked for.
        column: String,
        /// The columns there are.
        columns: String,
    },
    /// A column has another type than its use needs.
    #[error("{path}: column `{column}` is {found}, not {expected}; {way_out}")]
    WrongType {
        /// The file.
        path: PathBuf,
        /// The column.
        column: String,
        /// Its type.
        found: String,
        /// The type needed.
        expected: &'static str,
        /// What to do.
        way_out: String,
    },
    /// A prompt has no text.
    #[error(
        "{place}: column `{column}` has no prompt: it is absent, null or blank; mend the record, or give \
         --skip-empty to leave such records out"
    )]
    EmptyPrompt {
        /// The record.
        place: Place,
        /// The column.
        column: String,
    },
    /// A `--split` cannot be understood.
    #[error(
        "--split {split}: {message}; write NAME=COUNT, NAME=SHARE or NAME=rest, such as \
         `--split dev=500 --split train=rest`"
    )]
    BadSplit {
        /// What was given.
        split: String,
        /// What is wrong with it.
        message: String,
    },
    /// The splits ask for more prompts than are left.
    #[error(
        "the splits take {asked} prompts, but {left} are left after cleaning; ask for fewer, or for shares \
         such as `train=0.9`"
    )]
    TooFewLeft {
        /// Sum of the counts.
        asked: u64,
        /// Prompts there are.
        left: u64,
    },
    /// Two limits exclude each other.
    #[error(
        "no prompt is at least {min} and at most {max} words long; give --min-words below --max-words"
    )]
    BadLimits {
        /// The lower limit.
        min: usize,
        /// The upper limit.
        max: usize,
    },
    /// A table would replace one of the files that are read.
    #[error("{path} is read, and would be replaced; give another folder as --out")]
    ReplacesInput {
        /// The file.
        path: PathBuf,
    },
    /// The file is no longer what it was when it was examined.
    #[error("{path} changed while it was read; run the command again when nothing writes to it")]
    Changed {
        /// The file.
        path: PathBuf,
    },
}

impl ImportError {
    /// Whether the input or the command is at fault, rather than the machine.
    #[must_use]
    pub fn is_bad_input(&self) -> bool {
        match self {
            Self::Artifact(ArtifactError::Io { source, .. }) => {
                source.kind() == std::io::ErrorKind::NotFound
            }
            Self::Artifact(ArtifactError::Encode { .. }) => false,
            _ => true,
        }
    }
}
