//! A workspace with small stages, a pipeline over them, and `sims` to run it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

/// A pipeline in the shape of the loop: two things once, four a round, feeding back.
pub(crate) const LOOP: &str = "\
name: toy
seed: 17
rounds: 3
model: model
prompts: {train: train.txt, eval: eval.txt}
once:
  base-test: {uses: ./sample.sh, inputs: {prompts: prompts.eval}, with: {samples: 2}}
round:
  sample: {uses: ./sample.sh, with: {samples: 4}}
  rank: {uses: ./rank.sh}
  fit: {uses: ./fit.sh}
  check: {uses: ./check.sh, inputs: {base: base-test.numbers, steered: sample.numbers}}
";

/// One round of three stages, the last of which works in chunks.
const PIECES: &str = "\
name: toy
seed: 17
rounds: 1
model: model
prompts: {train: train.txt, eval: eval.txt}
round:
  sample: {uses: ./sample.sh, with: {samples: 4}}
  rank: {uses: ./rank.sh}
  pieces: {uses: ./pieces.sh}
";

/// How many stages [`LOOP`] runs.
pub(crate) const STAGES: u64 = 1 + 3 * 4;

/// A temporary folder with stages and data, gone at the end of the test.
pub(crate) struct Toy {
    folder: TempDir,
}

fn input(schema: &str, required: bool) -> Value {
    json!({"schema": schema, "required": required, "many": false})
}

fn parameters(names: &[(&str, Value)]) -> Value {
    let properties: serde_json::Map<String, Value> = names
        .iter()
        .map(|(name, default)| {
            let kind = match default {
                Value::String(_) => "string",
                Value::Number(number) if number.is_f64() => "number",
                _ => "integer",
            };
            (
                (*name).to_owned(),
                json!({"type": kind, "default": default}),
            )
        })
        .collect();
    json!({"type": "object", "properties": properties})
}

impl Toy {
    /// Makes a workspace with the stages of [`LOOP`] and the pipeline `p.yaml`.
    pub(crate) fn new(pipeline: &str) -> Self {
        let toy = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        toy.write("train.txt", "train prompts");
        toy.write("eval.txt", "eval prompts");
        toy.write("model/config.json", "{}");
        toy.write("model/model.safetensors", "weights");
        toy.write("p.yaml", pipeline);
        let sampled = [
            ("samples", json!(10)),
            ("temperature", json!(0.9)),
            ("note", json!("")),
            ("seed", json!(0)),
            ("round", json!(0)),
        ];
        toy.stage(
            "sample",
            &[
                ("prompts", input("text@1", true)),
                ("model", input("model", true)),
                ("steering", input("steering@1", false)),
            ],
            &[("numbers", "numbers@1")],
            &sampled,
        );
        toy.stage(
            "rank",
            &[("numbers", input("numbers@1", true))],
            &[("ranking", "ranks@1")],
            &[("tau", json!(1.0))],
        );
        toy.stage(
            "fit",
            &[
                ("ranking", input("ranks@1", true)),
                ("incumbent", input("steering@1", false)),
            ],
            &[("accepted", "steering@1"), ("notes", "text@1")],
            &[("step", json!(0.5)), ("compose", json!("stack"))],
        );
        toy.stage(
            "check",
            &[
                ("base", input("numbers@1", true)),
                ("steered", input("numbers@1", true)),
            ],
            &[("numbers", "numbers@1")],
            &[],
        );
        toy
    }

    /// Makes a workspace whose pipeline `p.yaml` has a stage that works in chunks.
    pub(crate) fn with_pieces() -> Self {
        let toy = Self::new(PIECES);
        make_executable(&toy.write("pieces.sh", include_str!("pieces.sh")));
        toy
    }

    /// Writes a stage `NAME.sh`.
    pub(crate) fn stage(
        &self,
        name: &str,
        inputs: &[(&str, Value)],
        outputs: &[(&str, &str)],
        params: &[(&str, Value)],
    ) {
        let inputs: serde_json::Map<String, Value> = inputs
            .iter()
            .map(|(role, input)| ((*role).to_owned(), input.clone()))
            .collect();
        let outputs: serde_json::Map<String, Value> = outputs
            .iter()
            .map(|(role, schema)| ((*role).to_owned(), json!({"schema": schema})))
            .collect();
        let description = json!({
            "stage": name, "behaviour": 1, "inputs": inputs, "outputs": outputs,
            "params": parameters(params), "numerics": "",
        });
        let files: Vec<String> = description["outputs"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(role, output)| {
                let is_tensors = output["schema"].as_str().unwrap().starts_with("steering");
                format!(
                    "{role}.{}",
                    if is_tensors { "safetensors" } else { "parquet" }
                )
            })
            .collect();
        let knob = format!("TOY_{}", name.to_uppercase().replace('-', "_"));
        let code = include_str!("toy.sh")
            .replacen("\nDESCRIPTION\n", &format!("\n{description}\n"), 1)
            .replace("TOY_KNOB", &knob)
            .replace("OUTPUTS", &files.join(" "))
            .replace("NAME", name);
        let path = self.write(&format!("{name}.sh"), &code);
        make_executable(&path);
    }

    /// Returns the workspace.
    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file of the workspace.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Returns the command `sims ARGUMENTS` in the workspace.
    pub(crate) fn sims(&self, arguments: &[&str]) -> Command {
        sims_testkit::accept_interrupts();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sims"));
        command
            .args(arguments)
            .current_dir(self.path())
            .env_remove("SIMS_STORE")
            .env("NO_COLOR", "1");
        command
    }

    /// Runs `sims ARGUMENTS` and returns its exit code and all it printed, folders made nameless.
    pub(crate) fn text(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.sims(arguments).output().unwrap();
        (output.status.code().unwrap_or(-1), self.nameless(&output))
    }

    /// Returns all that a program printed, with the workspace's folder left out.
    pub(crate) fn nameless(&self, output: &Output) -> String {
        let text = format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        let folder = self.path().display().to_string();
        text.replace(&format!("{folder}/"), "")
            .replace(&folder, "WORKSPACE")
    }

    /// Runs `sims ARGUMENTS --json`, which must succeed.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let output = self.sims(arguments).arg("--json").output().unwrap();
        assert!(output.status.success(), "{}", self.nameless(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Runs the pipeline and returns how many stages were executed, cached and failed.
    pub(crate) fn run(&self) -> (u64, u64, u64) {
        counts(&self.json(&["run", "p.yaml"]))
    }

    /// Returns the stages that ran since the last call, sorted.
    pub(crate) fn ran(&self) -> Vec<String> {
        let path = self.path().join("ran.log");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let _absent_already = std::fs::remove_file(path);
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// Returns the content of every view of `runs/NAME` that is an artifact, by path.
    pub(crate) fn views(&self, name: &str) -> BTreeMap<String, Vec<u8>> {
        let root = self.path().join("runs").join(name);
        let mut found = BTreeMap::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_symlink() {
                    let name = path.strip_prefix(&root).unwrap().display().to_string();
                    if !name.ends_with(".json") {
                        found.insert(name, std::fs::read(&path).unwrap_or_default());
                    }
                } else if path.is_dir() {
                    folders.push(path);
                }
            }
        }
        found
    }

    /// Returns the store's file behind a view.
    pub(crate) fn blob(&self, view: &str) -> PathBuf {
        self.path()
            .join("runs/toy")
            .join(view)
            .canonicalize()
            .unwrap()
    }

    /// Returns the exit code and report of `sims fsck`.
    pub(crate) fn fsck(&self) -> (i32, Value) {
        let output = self.sims(&["fsck", "--json"]).output().unwrap();
        let report = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code().unwrap_or(-1), report)
    }
}

/// Returns how many stages a run executed, cached and failed.
pub(crate) fn counts(report: &Value) -> (u64, u64, u64) {
    let count = |key: &str| report[key].as_u64().unwrap();
    assert!(report["seconds"].as_f64().unwrap() >= 0.0);
    (count("executed"), count("cached"), count("failed"))
}

/// Makes a file executable.
pub(crate) fn make_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Waits until `path` exists, for at most half a minute.
pub(crate) fn wait_for(path: &Path) {
    let start = std::time::Instant::now();
    while !path.exists() {
        assert!(
            start.elapsed().as_secs() < 30,
            "{} never appeared",
            path.display()
        );
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
