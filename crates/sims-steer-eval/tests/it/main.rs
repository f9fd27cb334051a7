//! The steer-eval stage as a program, on a model with random weights.

mod adapter;
mod broken;
mod judges;
mod limits;
mod real_text;
mod side_effects;

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Output;

use sims_artifact::tables::{DecisionRow, Message, MetricRow, PromptRow, ResponseRow, ScoreRow};
use sims_artifact::{Digest, ModelManifest, read_table, write_table};
use sims_steering::{Additive, Compose, Edit, FitSummary, Operator, Signal, Steering};
use sims_testkit::random_model::{
    self, HIDDEN, LAYERS, RandomModel, head_row, prompts, refused, succeeded, summary,
};
use tempfile::TempDir;

const PROMPTS: usize = 30;

struct Bench {
    folder: TempDir,
    model: PathBuf,
}

impl Bench {
    fn new(model: &RandomModel) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = model.write(folder.path());
        write_table(&folder.path().join("prompts.parquet"), &prompts(PROMPTS)).unwrap();
        Self { folder, model }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the stage on the steering `candidate`; the random judge's coverage is not asked for.
    fn run(&self, out: &str, candidate: &str, arguments: &[&str]) -> Output {
        let (prompts, steering) = (self.path("prompts.parquet"), self.path(candidate));
        let mut all = vec![
            "--prompts",
            prompts.to_str().unwrap(),
            "--steering",
            steering.to_str().unwrap(),
        ];
        if !arguments.contains(&"--min-coverage") {
            all.extend(["--min-coverage", "0"]);
        }
        all.extend([
            "--max-new-tokens",
            "10",
            "--loop-window",
            "6",
            "--resamples",
            "500",
        ]);
        all.extend(arguments);
        random_model::run(
            env!("CARGO_BIN_EXE_sims-steer-eval"),
            &self.model,
            &self.path(out),
            &all,
        )
    }

    fn decisions(&self, out: &str) -> Vec<DecisionRow> {
        read_table(&self.path(out).join("decision.parquet")).unwrap()
    }

    /// Returns attempt, strength and action of every attempt.
    fn actions(&self, out: &str) -> Vec<(u32, f64, String)> {
        let mut actions: Vec<(u32, f64, String)> = self
            .decisions(out)
            .into_iter()
            .map(|row| (row.attempt, row.strength, row.action))
            .collect();
        actions.dedup();
        actions
    }

    fn metric(&self, out: &str, name: &str) -> MetricRow {
        let rows: Vec<MetricRow> = read_table(&self.path(out).join("metrics.parquet")).unwrap();
        let known: Vec<String> = rows.iter().map(|row| row.metric.clone()).collect();
        rows.into_iter()
            .find(|row| row.metric == name)
            .unwrap_or_else(|| panic!("{name}: {known:?}"))
    }

    fn responses(&self, out: &str) -> Vec<ResponseRow> {
        read_table(&self.path(out).join("responses.parquet")).unwrap()
    }

    fn accepted(&self, out: &str) -> Steering {
        Steering::load(&self.path(out).join("accepted.safetensors")).unwrap()
    }

    fn identity(&self) -> Steering {
        let digest = ModelManifest::of_dir(&self.model).unwrap().digest;
        Steering::identity(digest, HIDDEN, LAYERS)
    }

    /// Saves a steering that adds `scale` times the direction of token `id` after block `layer`.
    fn push(&self, name: &str, layer: usize, id: usize, scale: f32) -> Steering {
        let mut steering = self.identity();
        let vector = head_row(id).iter().map(|x| scale * x).collect();
        let edit = Edit::new(Operator::Additive(Additive::new(vector).unwrap()));
        steering.push(layer, edit).unwrap();
        steering.save(&self.path(name)).unwrap();
        steering
    }
}

/// Lets any gain pass, for candidates of which only safety is asked.
const ANY_GAIN: [&str; 2] = ["--min-win-rate", "0"];

#[test]
fn a_harmless_candidate_is_accepted_as_it_is() {
    let bench = Bench::new(&RandomModel::default());
    bench.push("s.safetensors", 1, 9, 0.01);
    succeeded(&bench.run("out", "s.safetensors", &ANY_GAIN));
    let expected = [
        (1, 1.0, "continue"),
        (2, 0.5, "continue"),
        (3, 0.25, "continue"),
        (4, 1.0, "accept"),
    ];
    let actions = bench.actions("out");
    // Which strength has the best bound is chance here; that it was confirmed and accepted is not.
    assert_eq!(actions.len(), expected.len(), "{actions:?}");
    assert!(
        actions
            .iter()
            .zip(expected)
            .all(|(row, expected)| row.2 == expected.2),
        "{actions:?}"
    );
    let gates: BTreeSet<String> = bench
        .decisions("out")
        .into_iter()
        .map(|row| row.gate)
        .collect();
    let expected = [
        "distinct-2",
        "finite",
        "gain",
        "length",
        "loops",
        "norm",
        "repetition",
        "truncation",
    ];
    assert_eq!(
        gates.iter().map(String::as_str).collect::<Vec<_>>(),
        expected
    );
}

#[test]
fn the_accepted_file_names_the_policy_and_full_strength_keeps_its_bytes() {
    let bench = Bench::new(&RandomModel::default());
    bench.push("s.safetensors", 1, 9, 0.01);
    let only_full = [&ANY_GAIN[..], &["--back-off", "1"]].concat();
    succeeded(&bench.run("out", "s.safetensors", &only_full));
    let accepted = fs::read(bench.path("out").join("accepted.safetensors")).unwrap();
    assert_eq!(accepted, fs::read(bench.path("s.safetensors")).unwrap());

    let policy = format!("steered-{}", Digest::of_bytes(&accepted).short(12));
    let rows = bench.responses("out");
    assert_eq!(rows.len(), 2 * 4 * PROMPTS);
    let policies: BTreeSet<&str> = rows.iter().map(|row| row.policy.as_str()).collect();
    assert_eq!(policies.into_iter().collect::<Vec<_>>(), ["base", &policy]);
    let ids: BTreeSet<&str> = rows.iter().map(|row| row.response_id.as_str()).collect();
    assert_eq!(ids.len(), rows.len());

    let scores: Vec<ScoreRow> = read_table(&bench.path("out").join("scores.parquet")).unwrap();
    let of = |metric: &str| scores.iter().filter(|row| row.metric == metric).count();
    assert_eq!(
        (of("length_tokens"), of("self_judge_win")),
        (2 * 4 * PROMPTS, 4 * PROMPTS)
    );
    // The figures rest on the part that no choice has seen.
    let rate = bench.metric("out", "self_judge_win_rate");
    assert!(rate.n < PROMPTS as u64 && rate.ci_low.unwrap() < rate.value);
    assert_eq!(bench.metric("out", "accepted_strength").value, 1.0);
    assert_eq!(bench.metric("out", "base_against_base_win_rate").n, rate.n);
}

#[test]
fn a_candidate_that_loops_is_rolled_back_to_nothing() {
    let bench = Bench::new(&RandomModel::default());
    bench.push("loops.safetensors", 2, 9, 1000.0);
    succeeded(&bench.run("out", "loops.safetensors", &ANY_GAIN));
    let actions: Vec<String> = bench
        .actions("out")
        .into_iter()
        .map(|(.., action)| action)
        .collect();
    assert_eq!(actions, ["back-off", "back-off", "roll-back"]);
    let loops = bench
        .decisions("out")
        .into_iter()
        .find(|row| row.gate == "loops")
        .unwrap();
    assert!(!loops.passed && loops.value > 0.5, "{loops:?}");
    // The judge is not asked about a candidate that is unsafe.
    assert!(bench.decisions("out").iter().all(|row| row.gate != "gain"));
    assert!(bench.accepted("out").is_identity());
    assert_eq!(bench.metric("out", "accepted_strength").value, 0.0);
    let warnings = summary(&bench.path("out"))["warnings"].to_string();
    assert!(
        warnings.contains("no setting passed the gates"),
        "{warnings}"
    );
}

#[test]
fn a_candidate_that_loops_is_rolled_back_to_the_incumbent() {
    let bench = Bench::new(&RandomModel::default());
    bench.push("loops.safetensors", 2, 9, 1000.0);
    bench.push("incumbent.safetensors", 1, 9, 0.01);
    let incumbent = bench.path("incumbent.safetensors");
    let arguments = [&ANY_GAIN[..], &["--incumbent", incumbent.to_str().unwrap()]].concat();
    succeeded(&bench.run("out", "loops.safetensors", &arguments));
    let accepted = fs::read(bench.path("out").join("accepted.safetensors")).unwrap();
    assert_eq!(accepted, fs::read(&incumbent).unwrap());
    let policies: BTreeSet<String> = bench
        .responses("out")
        .into_iter()
        .map(|row| row.policy)
        .collect();
    let name = format!("steered-{}", Digest::of_bytes(&accepted).short(12));
    assert!(policies.contains(&name), "{policies:?}");
}

#[test]
fn the_largest_safe_strength_is_taken() {
    let bench = Bench::new(&RandomModel::default());
    let candidate = bench.push("s.safetensors", 2, 9, 1000.0);
    let arguments = [&ANY_GAIN[..], &["--back-off", "1,0.5,0.00001"]].concat();
    succeeded(&bench.run("out", "s.safetensors", &arguments));
    let actions = bench.actions("out");
    assert_eq!(actions[0].2, "back-off");
    assert_eq!(actions[1].2, "back-off");
    assert_eq!(actions.last(), Some(&(4, 0.00001, "accept".to_owned())));
    assert_eq!(
        bench.accepted("out"),
        candidate.back_off(None, 0.00001).unwrap()
    );
}

#[test]
fn backing_off_a_stacked_candidate_keeps_the_incumbent() {
    let bench = Bench::new(&RandomModel::default());
    let incumbent = bench.push("incumbent.safetensors", 1, 9, 0.01);
    let addition = bench.push("addition.safetensors", 2, 9, 1000.0);
    let candidate = incumbent.stack(&addition).unwrap();
    candidate.save(&bench.path("s.safetensors")).unwrap();
    let path = bench.path("incumbent.safetensors");
    let arguments = [
        &ANY_GAIN[..],
        &[
            "--back-off",
            "1,0.00001",
            "--incumbent",
            path.to_str().unwrap(),
        ],
        &["--min-win-rate-against-incumbent", "0"],
    ]
    .concat();
    succeeded(&bench.run("out", "s.safetensors", &arguments));
    let accepted = bench.accepted("out");
    assert_eq!(accepted.edits(1), candidate.edits(1));
    assert_eq!(
        accepted,
        candidate.back_off(Some(&incumbent), 0.00001).unwrap()
    );
    let gates: Vec<String> = bench
        .decisions("out")
        .into_iter()
        .map(|row| row.gate)
        .collect();
    assert!(gates.contains(&"no-regress".to_owned()), "{gates:?}");
    let rows: Vec<MetricRow> = read_table(&bench.path("out").join("metrics.parquet")).unwrap();
    assert!(
        rows.iter()
            .any(|row| row.metric == "self_judge_win_rate" && row.baseline == "incumbent")
    );
}

#[test]
fn a_judge_without_preference_accepts_nothing() {
    let bench = Bench::new(&RandomModel {
        head_scale: 0.0,
        ..RandomModel::default()
    });
    bench.push("s.safetensors", 1, 9, 0.01);
    succeeded(&bench.run("out", "s.safetensors", &["--back-off", "1"]));
    let gain = bench
        .decisions("out")
        .into_iter()
        .rfind(|row| row.gate == "gain")
        .unwrap();
    assert_eq!(
        (gain.value, gain.ci_low, gain.ci_high, gain.passed),
        (0.5, Some(0.5), Some(0.5), false)
    );
    assert_eq!(gain.action, "roll-back");
    assert!(bench.accepted("out").is_identity());
}

#[test]
fn a_fit_without_signal_is_not_accepted() {
    let bench = Bench::new(&RandomModel::default());
    let signal = Signal {
        auroc: 0.52,
        ci_low: 0.44,
        ci_high: 0.6,
        shuffled: 0.5,
        beats_shuffled: true,
    };
    let fit = FitSummary {
        round: 1,
        seed: 0,
        positions: "reask".to_owned(),
        labels: "ranked".to_owned(),
        step: 0.25,
        pairs: 100,
        fit_prompts: 80,
        held_out_prompts: 20,
        signal,
        layers: Vec::new(),
    };
    let candidate = bench.push("s.safetensors", 1, 9, 0.01);
    let described = candidate.described("mean-difference", Compose::Replace, fit);
    described.save(&bench.path("s.safetensors")).unwrap();
    succeeded(&bench.run(
        "out",
        "s.safetensors",
        &[&ANY_GAIN[..], &["--back-off", "1"]].concat(),
    ));
    let row = bench
        .decisions("out")
        .into_iter()
        .find(|row| row.gate == "signal")
        .unwrap();
    assert!(!row.passed && row.action == "roll-back", "{row:?}");
}

#[test]
fn without_a_gate_everything_is_measured_and_nothing_refused() {
    let bench = Bench::new(&RandomModel::default());
    bench.push("loops.safetensors", 2, 9, 1000.0);
    succeeded(&bench.run(
        "out",
        "loops.safetensors",
        &["--gate", "none", "--draws", "2"],
    ));
    let decisions = bench.decisions("out");
    assert!(
        decisions
            .iter()
            .all(|row| row.attempt == 1 && row.action == "accept")
    );
    assert!(
        decisions
            .iter()
            .any(|row| row.gate == "loops" && !row.passed)
    );
    assert!(decisions.iter().any(|row| row.gate == "gain"));
    assert_eq!(bench.metric("out", "self_judge_win_rate").n, PROMPTS as u64);
    assert_eq!(
        fs::read(bench.path("out").join("accepted.safetensors")).unwrap(),
        fs::read(bench.path("loops.safetensors")).unwrap()
    );
    // The same base draws as a table give the same figures.
    let table = bench.path("out").join("responses.parquet");
    let given = [
        "--gate",
        "none",
        "--draws",
        "2",
        "--base-responses",
        table.to_str().unwrap(),
    ];
    succeeded(&bench.run("again", "loops.safetensors", &given));
    for file in ["metrics", "scores", "responses", "decision"] {
        let read = |out: &str| fs::read(bench.path(out).join(format!("{file}.parquet"))).unwrap();
        assert_eq!(read("out"), read("again"), "{file}");
    }
    let message = refused(
        &bench.run(
            "more",
            "loops.safetensors",
            &["--draws", "3", "--base-responses", table.to_str().unwrap()],
        ),
        &bench.path("more"),
    );
    assert!(
        message.contains("base-responses has 2 responses with policy `base`"),
        "{message}"
    );
}

#[test]
fn no_steering_at_all_is_the_base_against_itself() {
    let bench = Bench::new(&RandomModel::default());
    bench
        .identity()
        .save(&bench.path("idle.safetensors"))
        .unwrap();
    let texts: Vec<PromptRow> = (0..5)
        .map(|i| {
            PromptRow::new(
                vec![Message::user(format!("w{} ", 9 + i).repeat(30))],
                "neutral",
                "test",
            )
        })
        .collect();
    write_table(&bench.path("neutral.parquet"), &texts).unwrap();
    let neutral = bench.path("neutral.parquet");
    let arguments = ["--gate", "none", "--neutral", neutral.to_str().unwrap()];
    succeeded(&bench.run("out", "idle.safetensors", &arguments));
    assert_eq!(bench.metric("out", "neutral_perplexity_ratio").value, 1.0);
    assert_eq!(bench.metric("out", "neutral_kl_per_token").value, 0.0);
    assert_eq!(bench.metric("out", "edit_mean_shift").value, 0.0);
    // Independent draws: the sides differ, and neither is better but by chance.
    let rows = bench.responses("out");
    let (base, idle) = rows.split_at(rows.len() / 2);
    assert!(
        base.iter()
            .zip(idle)
            .any(|(base, idle)| base.token_ids != idle.token_ids)
    );
    let rate = bench.metric("out", "self_judge_win_rate");
    assert!(
        rate.ci_low.unwrap() < 0.5 && rate.ci_high.unwrap() > 0.5,
        "{rate:?}"
    );

    bench.push("pushed.safetensors", 2, 9, 3.0);
    succeeded(&bench.run("pushed", "pushed.safetensors", &arguments));
    assert!(bench.metric("pushed", "neutral_kl_per_token").value > 0.01);
    assert!(bench.metric("pushed", "edit_mean_shift").value > 0.0);
}

#[test]
fn batch_size_and_threads_change_no_byte() {
    let bench = Bench::new(&RandomModel::default());
    bench.push("s.safetensors", 1, 9, 0.3);
    for (out, batch, threads) in [("a", "1", "1"), ("b", "7", "2")] {
        let arguments = ["--draws", "2", "--batch-size", batch, "--threads", threads];
        succeeded(&bench.run(out, "s.safetensors", &[&ANY_GAIN[..], &arguments].concat()));
    }
    for file in [
        "accepted.safetensors",
        "decision.parquet",
        "metrics.parquet",
        "scores.parquet",
        "responses.parquet",
    ] {
        let read = |out: &str| fs::read(bench.path(out).join(file)).unwrap();
        assert_eq!(read("a"), read("b"), "{file}");
    }
}

#[test]
fn what_cannot_be_evaluated_is_refused() {
    let bench = Bench::new(&RandomModel::default());
    bench.push("s.safetensors", 1, 9, 0.3);
    let refused = |arguments: &[&str]| {
        refused(
            &bench.run("out", "s.safetensors", arguments),
            &bench.path("out"),
        )
    };
    assert!(refused(&["--draws", "0"]).contains("draws is 0"));
    assert!(refused(&["--back-off", ""]).contains("back-off is empty"));
    assert!(refused(&["--back-off", "1,-1"]).contains("the strength -1"));
    assert!(refused(&["--tau", "0"]).contains("tau is 0"));
    assert!(refused(&["--shard-size", "1"]).contains("there is only 1"));
    assert!(refused(&["--split", "eval"]).contains("no prompt has split `eval`"));
    assert!(refused(&["--min-coverage", "1"]).contains("the judge answered no comparison"));

    let texts = [PromptRow::new(vec![Message::user("w9")], "neutral", "test")];
    let neutral = bench.path("neutral.parquet");
    write_table(&neutral, &texts).unwrap();
    let message = refused(&["--neutral", neutral.to_str().unwrap()]);
    assert!(
        message.contains("no neutral text has two tokens or more"),
        "{message}"
    );

    let other = Steering::identity(Digest::of_bytes(b"other"), HIDDEN, LAYERS);
    other.save(&bench.path("s.safetensors")).unwrap();
    assert!(refused(&[]).contains("fitted to the model with digest"));
    fs::write(bench.path("s.safetensors"), b"no steering").unwrap();
    assert!(refused(&[]).contains("s.safetensors"));
}

#[test]
fn an_interrupt_leaves_nothing() {
    let bench = Bench::new(&RandomModel::default());
    bench.push("s.safetensors", 1, 9, 0.3);
    write_table(&bench.path("prompts.parquet"), &prompts(2000)).unwrap();
    let (prompts, steering) = (bench.path("prompts.parquet"), bench.path("s.safetensors"));
    let (prompts, steering) = (prompts.to_str().unwrap(), steering.to_str().unwrap());
    let arguments = [
        "--prompts",
        prompts,
        "--steering",
        steering,
        "--max-new-tokens",
        "200",
    ];
    let program = env!("CARGO_BIN_EXE_sims-steer-eval");
    random_model::interrupted(program, &bench.model, &bench.path("out"), &arguments);
}

#[test]
fn pairrm_measures_as_the_second_judge() {
    let bench = Bench::new(&RandomModel::default());
    bench.push("s.safetensors", 1, 9, 0.01);
    let folder = sims_testkit::repository().join("crates/sims-judge/tests/fixtures/pairrm");
    let second = [
        &ANY_GAIN[..],
        &["--back-off", "1", "--second-judge", "pairrm"],
    ]
    .concat();
    let message = refused(
        &bench.run("none", "s.safetensors", &second),
        &bench.path("none"),
    );
    assert!(message.contains("give --pairrm"), "{message}");
    let given = [&second[..], &["--pairrm", folder.to_str().unwrap()]].concat();
    succeeded(&bench.run("out", "s.safetensors", &given));
    let rows: Vec<MetricRow> = read_table(&bench.path("out").join("metrics.parquet")).unwrap();
    assert!(rows.iter().any(|row| row.metric == "second_judge_win_rate"));
}
