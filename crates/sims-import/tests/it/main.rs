//! The `sims-import` binary on files of every format.

mod cleaning;
mod formats;
mod refusals;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sims_artifact::tables::{DroppedPromptRow, PromptRow};
use sims_artifact::{Table, read_table};
use tempfile::TempDir;

/// A folder with files to import; tables go to `out` inside.
struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file.
    fn with(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.path(name), content).unwrap();
        self
    }

    /// Runs `sims-import prompts … --out out` in the folder.
    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_sims-import"))
            .arg("prompts")
            .args(arguments)
            .args(["--out", "out"])
            .current_dir(self.0.path())
            .output()
            .unwrap()
    }

    /// Runs it with success, and returns what it says on stderr and stdout.
    #[track_caller]
    fn import(&self, arguments: &[&str]) -> (String, String) {
        let output = self.run(arguments);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{}", text(&output.stderr));
        (text(&output.stderr), text(&output.stdout))
    }

    /// Asserts that it is refused as bad input, and returns the message.
    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{message}");
        assert!(!self.path("out/train.parquet").exists());
        message
    }

    fn table<T: Table>(&self, name: &str) -> Vec<T> {
        read_table(&self.path("out").join(format!("{name}.parquet"))).unwrap()
    }

    fn prompts(&self, split: &str) -> Vec<PromptRow> {
        self.table(split)
    }

    /// The last turn of every prompt of a split.
    fn texts(&self, split: &str) -> Vec<String> {
        let rows = self.prompts(split).into_iter();
        rows.map(|row| row.messages.last().unwrap().content.clone())
            .collect()
    }

    fn dropped(&self) -> Vec<DroppedPromptRow> {
        self.table("dropped")
    }
}

/// The bytes of a table.
fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}
