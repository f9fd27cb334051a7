//! Prompts from other projects' files: read, cleaned, cut into splits, written as `prompts@1`.
//!
//! [`Import`] reads its files twice. The first pass keeps a few numbers a record: its id, a hash of its normal
//! form, whether it overlaps with a test set ([`overlap`]). Then every record's fate is known, and the second
//! pass writes it where it belongs. Memory thus holds no texts but those being read and written.
//!
//! - Files: [`reader`] opens them, [`columns`] chooses what is read, [`record`] says what the cells mean.
//! - Which prompts are kept, and where: [`overlap`], [`splits`], [`import`].

pub mod columns;
mod delimited;
mod error;
pub mod format;
pub mod import;
mod json;
pub mod overlap;
mod parquet_file;
mod progress;
pub mod reader;
pub mod record;
pub mod splits;
mod words;

pub use columns::{ColumnFlags, Mapping};
pub use error::{ImportError, Place};
pub use format::Format;
pub use import::{Import, Limits, Summary};
pub use overlap::TestSets;
pub use progress::Progress;
pub use reader::PromptFile;
pub use record::Record;
pub use splits::Splits;
