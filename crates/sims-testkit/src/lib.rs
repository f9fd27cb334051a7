//! Harnesses that tests share: the built programs, workspaces to run them in, and small models.
//!
//! Only tests depend on this crate; a failure here is a failed test, so it panics.

pub mod emulator;
pub mod faults;
pub mod random_model;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// Makes Ctrl-C reach the programs that this process starts.
///
/// A shell starts background jobs with SIGINT ignored, programs inherit that, and `sims` respects
/// it; a test that sends SIGINT must not depend on how the tests were started.
pub fn accept_interrupts() {
    // SAFETY: this installs no handler, it restores the system's default action.
    #[expect(
        unsafe_code,
        reason = "the standard library does not set signal actions"
    )]
    unsafe {
        libc::signal(libc::SIGINT, libc::SIG_DFL);
    }
}

/// Returns the root of the repository.
pub fn repository() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize()
        .expect("this crate lies two folders below the root")
}

/// Returns the built program `name`, which lies beside the running test's folder.
///
/// # Panics
/// If it was not built: `make build` does, and `make test` calls it.
pub fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let folder = test
        .ancestors()
        .nth(2)
        .expect("tests lie in target/PROFILE/deps");
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is not there: run `make build` first",
        path.display()
    );
    path
}

/// Returns `../shared/NAME` beside the repository, or none with a notice where it is absent.
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = repository().parent()?.join("shared").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: ../shared/{name} is not here");
    None
}

/// A temporary folder with pipelines, runs and a store of its own, and the repository's data.
pub struct Workspace {
    folder: TempDir,
}

impl Workspace {
    /// Makes an empty workspace that sees the repository's `data` and `pipelines` folders.
    ///
    /// # Panics
    /// If the folder cannot be made.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("temporary folders can be made");
        std::fs::create_dir(folder.path().join("pipelines")).expect("the folder is empty");
        std::os::unix::fs::symlink(repository().join("data"), folder.path().join("data"))
            .expect("the folder is empty");
        Self { folder }
    }

    /// Returns the folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes the pipeline `pipelines/NAME.yaml` and returns its path.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn pipeline(&self, name: &str, yaml: &str) -> PathBuf {
        let path = self.path().join("pipelines").join(format!("{name}.yaml"));
        std::fs::write(&path, yaml).expect("the workspace is writable");
        path
    }

    /// Returns the command `sims ARGUMENTS` in this workspace, with this workspace's store.
    pub fn sims(&self, arguments: &[&str]) -> Command {
        accept_interrupts();
        let mut command = Command::new(program("sims"));
        command
            .args(arguments)
            .current_dir(self.path())
            .env("SIMS_STORE", self.path().join(".sims"))
            .env("NO_COLOR", "1");
        command
    }

    /// Runs `sims ARGUMENTS --json`, which must succeed, and returns what it printed.
    ///
    /// # Panics
    /// If the command fails or prints no JSON; the message holds its output.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self
            .sims(arguments)
            .arg("--json")
            .output()
            .expect("sims can be started");
        assert!(
            output.status.success(),
            "sims {arguments:?} failed:\n{}",
            text_of(&output)
        );
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
            panic!(
                "sims {arguments:?} --json printed no JSON ({e}):\n{}",
                text_of(&output)
            )
        })
    }
}

impl Default for Workspace {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns all that a program printed, for messages of failed tests.
pub fn text_of(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}
