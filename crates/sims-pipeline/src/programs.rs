//! Finding stage programs and asking them what they do.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sims_artifact::Digest;
use sims_stage::Description;

use crate::pipeline::find_file;
use crate::stamped_cache::{FileStamp, StampedCache};
use crate::yaml::{Diagnostic, Location};

/// What the program of a known stage begins with: stage `sample` is `sims-sample`.
pub const PREFIX: &str = "sims-";

/// Where programs are looked for.
#[derive(Debug, Clone, Default)]
pub struct ProgramSearch {
    /// The folder of the runner itself, looked at first.
    pub beside: Option<PathBuf>,
    /// The folders of `PATH`.
    pub path: Vec<PathBuf>,
}

impl ProgramSearch {
    /// Returns the executable called `name`, if there is one.
    pub fn find(&self, name: &str) -> Option<PathBuf> {
        self.beside
            .iter()
            .chain(&self.path)
            .map(|folder| folder.join(name))
            .find(|path| is_executable(path))
    }

    /// Returns the `PATH` of stages: programs beside the runner are found first, as the runner finds them.
    pub(crate) fn path_of_stages(&self) -> Option<OsString> {
        // A folder whose name cannot be in a `PATH` leaves it as it is.
        std::env::join_paths(self.beside.iter().chain(&self.path)).ok()
    }

    /// Lists the names of executables that begin with [`PREFIX`], without it.
    pub fn known_stages(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .beside
            .iter()
            .chain(&self.path)
            .filter_map(|folder| std::fs::read_dir(folder).ok())
            .flat_map(|entries| entries.flatten())
            .filter(|entry| is_executable(&entry.path()))
            .filter_map(|entry| Some(entry.file_name().to_str()?.strip_prefix(PREFIX)?.to_owned()))
            .collect();
        names.sort();
        names.dedup();
        names
    }
}

fn is_executable(path: &Path) -> bool {
    path.metadata()
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

/// A stage program and what it says about itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Program {
    /// The executable, absolute.
    pub path: PathBuf,
    /// What `describe` printed.
    pub description: Description,
    /// The digest of the program when it is a script.
    ///
    /// A script is edited more often than its `behaviour` is raised, so its text is part of
    /// what is computed; a compiled program's bytes change with every build and are not.
    pub script: Option<Digest>,
}

/// Finds programs and remembers their descriptions.
pub(crate) struct Programs<'a> {
    search: &'a ProgramSearch,
    device: &'a str,
    current: &'a Path,
    cache: StampedCache<Program>,
    found: HashMap<PathBuf, Arc<Program>>,
}

impl<'a> Programs<'a> {
    /// Looks in `search`, and remembers in the file `cache`; `device` is where stages will run.
    pub(crate) fn new(
        search: &'a ProgramSearch,
        device: &'a str,
        current: &'a Path,
        cache: PathBuf,
    ) -> Self {
        Self {
            search,
            device,
            current,
            cache: StampedCache::open(cache),
            found: HashMap::new(),
        }
    }

    /// Returns the program that `uses` means: a path (anything with a `/`), the stage `sims-NAME`
    /// or an executable of that name, beside the runner or on `PATH`.
    pub(crate) fn get(&mut self, uses: &str, at: &Location) -> Result<Arc<Program>, Diagnostic> {
        let path = self.locate(uses, at)?;
        if let Some(program) = self.found.get(&path) {
            return Ok(program.clone());
        }
        let problem = |message: String| Diagnostic::new(at, format!("`{uses}` {message}"));
        let stamp = FileStamp::of(&path).map_err(|e| problem(format!("cannot be read: {e}")))?;
        let name = format!("{} on {}", path.display(), self.device);
        // A script may say what other programs say, which change without it: it is asked every time.
        let known = self.cache.get(&name, stamp);
        let program = match known.filter(|program| program.script.is_none()) {
            Some(program) => program,
            None => {
                let program = ask(&path, self.device, self.search).map_err(problem)?;
                if program.script.is_none() {
                    self.cache.put(name, stamp, program.clone());
                }
                program
            }
        };
        let program = Arc::new(program);
        self.found.insert(path, program.clone());
        Ok(program)
    }

    /// Writes what was learnt.
    pub(crate) fn save(&mut self) {
        self.cache.save();
    }

    fn locate(&self, uses: &str, at: &Location) -> Result<PathBuf, Diagnostic> {
        if uses.contains('/') {
            let path = find_file(uses, at, self.current)?;
            return if is_executable(&path) {
                Ok(path)
            } else {
                Err(
                    Diagnostic::new(at, format!("{uses} is not an executable file"))
                        .help(format!("make it one: chmod +x {uses}")),
                )
            };
        }
        let stage = format!("{PREFIX}{uses}");
        self.search
            .find(&stage)
            .or_else(|| self.search.find(uses))
            .ok_or_else(|| {
                let known = self.search.known_stages();
                Diagnostic::new(
                    at,
                    format!("no stage `{uses}`: neither `{stage}` nor `{uses}` is beside `sims` or on PATH"),
                )
                .suggest(uses, known.iter().map(String::as_str))
            })
    }
}

/// Runs `PROGRAM describe`; the error completes a sentence that begins with the program.
fn ask(path: &Path, device: &str, search: &ProgramSearch) -> Result<Program, String> {
    let description = describe(path, &[], search)?;
    // Only stages whose bytes depend on the device have to know the option.
    let description = if description.numerics.is_empty() || device == "auto" {
        description
    } else {
        describe(path, &["--device", device], search)?
    };
    if description.outputs.is_empty() {
        return Err("is not a stage that can be used: it describes no outputs".to_owned());
    }
    Ok(Program {
        path: path.to_owned(),
        description,
        script: script_digest(path).map_err(|e| format!("cannot be read: {e}"))?,
    })
}

fn describe(path: &Path, options: &[&str], search: &ProgramSearch) -> Result<Description, String> {
    let output = Command::new(path)
        .arg("describe")
        .envs(search.path_of_stages().map(|path| ("PATH", path)))
        .args(options)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("cannot be run: {e}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        let last = stderr
            .trim()
            .lines()
            .last()
            .unwrap_or("no message")
            .to_owned();
        return Err(format!(
            "is not a stage: `describe` failed ({}): {last}",
            output.status
        ));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|e| format!("is not a stage: `describe` did not print a description: {e}"))
}

/// Returns the digest of a script, which begins with `#!`; `None` for a compiled program.
fn script_digest(path: &Path) -> std::io::Result<Option<Digest>> {
    let mut start = [0; 2];
    let mut file = std::fs::File::open(path)?;
    if file.read(&mut start)? < 2 || &start != b"#!" {
        return Ok(None);
    }
    Ok(Some(Digest::of_bytes(&std::fs::read(path)?)))
}
