//! Work in chunks: nothing finished is computed again, and nobody can tell from the bytes how it was finished.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;
use sims_testkit::{Workspace, text_of};

use crate::artifacts;
use crate::by_hand::{outputs, stages};

/// The stages that work in chunks, and those between them.
const CHUNKED: &str = "
name: small
seed: 17
rounds: 1
model: REPOSITORY/data/tiny
prompts: {train: REPOSITORY/data/toyworld/train.parquet}
round:
  sample: {samples: 4, max-new-tokens: 24, shard-size: PROMPTS}
  judge: {meets: 2, controls: 8, retest: 4}
  rank: {}
  contrast: {min-yield: 0.05}
  extract: {positions: response}
";

fn pipeline(workspace: &Workspace, prompts: usize) -> PathBuf {
    let repository = sims_testkit::repository().display().to_string();
    let text = CHUNKED
        .replace("REPOSITORY", &repository)
        .replace("PROMPTS", &prompts.to_string());
    workspace.pipeline("small", &text)
}

fn run(workspace: &Workspace, pipeline: &Path, more: &[&str]) -> Value {
    let pipeline = pipeline.to_str().expect("temporary paths are text");
    workspace.json(&[&["run", pipeline], more].concat())
}

/// Returns a count of a stage's summary.
fn counted(workspace: &Workspace, stage: &str, name: &str) -> f64 {
    let path = format!("runs/small/round-1/summaries/{stage}.json");
    let text = std::fs::read(workspace.path().join(path)).expect("the stage has a summary");
    let summary: Value = serde_json::from_slice(&text).expect("it is JSON");
    summary["counts"][name].as_f64().unwrap_or(0.0)
}

#[test]
fn ten_more_prompts_cost_ten_prompts() {
    let workspace = Workspace::new();
    run(
        &workspace,
        &pipeline(&workspace, 30),
        &["--chunk-size", "7"],
    );
    let tokens = |stage| counted(&workspace, stage, "tokens_computed");
    let before = (counted(&workspace, "sample", "new_tokens"), tokens("judge"));
    run(&workspace, &pipeline(&workspace, 40), &[]);
    assert_eq!(counted(&workspace, "sample", "units_reused"), 30.0);
    // Thirty prompts' pairs, and the four that are asked twice; controls are drawn among all answers.
    assert!(counted(&workspace, "judge", "units_reused") >= 34.0);
    assert!(counted(&workspace, "extract", "units_reused") > 0.0);
    // What known chunks cost counts as what it cost.
    assert!(counted(&workspace, "sample", "new_tokens") > before.0);
    assert!(tokens("judge") > before.1);
    let fresh = Workspace::new();
    run(&fresh, &pipeline(&fresh, 40), &["--chunk-size", "0"]);
    assert_eq!(counted(&fresh, "sample", "units_reused"), 0.0);
    assert_eq!(artifacts(&workspace), artifacts(&fresh));
    let total = counted(&fresh, "sample", "new_tokens");
    let summed = counted(&workspace, "sample", "new_tokens");
    assert!((summed - total).abs() < 1e-6, "{summed} {total}");
    // Fewer prompts need nothing new.
    run(&fresh, &pipeline(&fresh, 20), &[]);
    assert_eq!(counted(&fresh, "sample", "units_reused"), 20.0);
}

#[test]
fn a_killed_run_goes_on_after_the_last_finished_chunk() {
    let undisturbed = Workspace::new();
    run(&undisturbed, &pipeline(&undisturbed, 30), &[]);
    let workspace = Workspace::new();
    let path = pipeline(&workspace, 30);
    let path = path.to_str().expect("temporary paths are text");
    let mut reused = 0.0;
    for wanted in [2, 5, 11] {
        let mut child = workspace
            .sims(&["run", path, "--chunk-size", "3"])
            .process_group(0)
            .stderr(Stdio::null())
            .spawn()
            .expect("sims can be started");
        let patience = Instant::now();
        while chunks_in(&workspace) < wanted && patience.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Not the group: stages must not outlive a runner that is killed.
        child.kill().expect("the runner is there");
        child.wait().expect("it ended");
        assert!(chunks_in(&workspace) >= wanted, "it was killed in time");
        reused = wanted as f64;
    }
    run(&workspace, Path::new(path), &["--chunk-size", "3"]);
    let known: f64 = ["sample", "judge", "extract"]
        .iter()
        .map(|stage| counted(&workspace, stage, "units_reused"))
        .sum();
    assert!(known >= reused, "{known}");
    assert_eq!(artifacts(&workspace), artifacts(&undisturbed));
}

/// Counts the chunks that were noted in a store.
fn chunks_in(workspace: &Workspace) -> usize {
    let entries = |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries(workspace.path().join(".sims/chunks"))
        .flat_map(|prefix| entries(prefix.path()))
        .flat_map(|base| entries(base.path()))
        .count()
}

/// Numbers that look random and are the same in every run of the test.
struct Schedule(u64);

impl Schedule {
    fn below(&mut self, bound: usize) -> usize {
        // An LCG with Knuth's constants; its upper bits are good enough to shuffle with.
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn one_of<'a>(&mut self, values: &[&'a str]) -> &'a str {
        values[self.below(values.len())]
    }
}

/// Parts in any order, some never come to, some twice, with chunks and batches of any size, on any number of threads.
#[test]
fn no_schedule_shows_in_the_bytes() {
    let workspace = Workspace::new();
    let path = pipeline(&workspace, 23);
    let order = ["sample", "judge", "rank", "contrast", "extract"];
    for stage in stages(&workspace, &path, &order) {
        let whole = workspace.path().join(&stage.out);
        let output = stage.command(&workspace, &whole, 2).output();
        let output = output.expect("the stage starts");
        assert!(output.status.success(), "{}", text_of(&output));
        let expected = outputs(&whole);
        if ["sims-rank", "sims-contrast"].contains(&stage.program.as_str()) {
            continue;
        }
        for seed in 0..6 {
            let mut schedule = Schedule(seed);
            let name = format!("{}-{seed}", stage.program);
            let chunks = workspace.path().join(format!("chunks-{name}"));
            let out = workspace.path().join(&name);
            let count = 1 + schedule.below(4);
            let mut processes: Vec<Option<usize>> = (0..schedule.below(6))
                .map(|_| Some(1 + schedule.below(count)))
                .collect();
            processes.push(None);
            let mut told = Vec::new();
            for part in processes {
                let (size, batch, threads) = (
                    schedule.one_of(&["0", "1", "4", "9"]),
                    schedule.one_of(&["0", "1", "5"]),
                    1 + schedule.below(3),
                );
                let mut command = stage.command(&workspace, &out, threads);
                command.arg("--chunks").arg(&chunks);
                command.args(["--chunk-size", size, "--batch-size", batch]);
                told.push(format!(
                    "part {part:?} of {count}, {size}, {batch}, {threads}"
                ));
                match part.filter(|_| count > 1) {
                    Some(part) => command.args(["--part", &format!("{part}/{count}")]),
                    None => &mut command,
                };
                let output = command.output().expect("the stage starts");
                assert!(output.status.success(), "{told:?}: {}", text_of(&output));
                assert!(
                    part.is_none() || count == 1 || outputs(&out).is_empty(),
                    "{told:?}: a part leaves only chunks"
                );
                // What one process finished, another knows.
                if schedule.below(2) == 0 {
                    for note in std::fs::read_dir(chunks.join("new"))
                        .into_iter()
                        .flatten()
                        .flatten()
                    {
                        let known = chunks.join("known");
                        std::fs::create_dir_all(&known).expect("it can be made");
                        std::fs::rename(note.path(), known.join(note.file_name()))
                            .expect("it moves");
                    }
                }
            }
            assert_eq!(outputs(&out), expected, "{name}: {told:?}");
        }
    }
}
