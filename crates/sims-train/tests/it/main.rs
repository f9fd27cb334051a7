//! The train stage as a program, on a model with random weights and a planted class of tokens.

use sims_artifact::tables::{FitReportRow, PairRow, PromptRow, pair_id};
use sims_artifact::{Digest, ModelManifest, read_table, write_table};
use sims_steering::{Additive, AngleRule, Compose, Edit, Householder, Operator, Steering};
use sims_testkit::random_model::{
    self, HIDDEN, LAYERS, PlantedClass, RandomModel, planted_direction, prompts, refused,
    succeeded, summary,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sims-train");
/// The token that ends a turn.
const END: u32 = 1;

struct Bench {
    folder: TempDir,
    model: PathBuf,
    prompts: Vec<PromptRow>,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = RandomModel {
            planted: Some(PlantedClass::default()),
            ..RandomModel::default()
        };
        let model = model.write(folder.path());
        let prompts = prompts(48);
        write_table(&folder.path().join("prompts.parquet"), &prompts).unwrap();
        Self {
            folder,
            model,
            prompts,
        }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// One pair a prompt: chosen responses have tokens of the class, rejected ones have none.
    fn pairs(&self) -> Vec<PairRow> {
        (0..self.prompts.len() as u32)
            .map(|n| {
                let member = |i: u32| 58 + (n + i) % 6;
                let chosen = vec![10 + n % 7, member(0), member(1), END];
                self.pair(n as usize, chosen, vec![10 + n % 7, 20 + n % 9, 30, END])
            })
            .collect()
    }

    fn pair(&self, prompt: usize, chosen: Vec<u32>, rejected: Vec<u32>) -> PairRow {
        let prompt_id = &self.prompts[prompt].prompt_id;
        PairRow {
            pair_id: pair_id(prompt_id, &format!("{chosen:?}"), &format!("{rejected:?}")),
            prompt_id: prompt_id.clone(),
            chosen_id: String::new(),
            rejected_id: String::new(),
            chosen: String::new(),
            rejected: String::new(),
            chosen_token_ids: chosen,
            rejected_token_ids: rejected,
            margin: 1.0,
            z: 0.0,
            weight: 1.0,
            origin_round: 1,
            judge: "test".to_owned(),
        }
    }

    fn run(&self, out: &str, pairs: &[PairRow], arguments: &[&str]) -> Output {
        let pairs_path = self.out(&format!("{out}.pairs.parquet"));
        let prompts_path = self.out("prompts.parquet");
        write_table(&pairs_path, pairs).unwrap();
        let quick = [
            "--learning-rate",
            "0.03",
            "--warmup-steps",
            "5",
            "--epochs",
            "4",
            "--layers",
            "1",
        ];
        // What a test sets takes the place of a default.
        let defaults = quick
            .chunks(2)
            .filter(|default| !arguments.contains(&default[0]))
            .flatten()
            .copied();
        let mut all: Vec<&str> = defaults.collect();
        all.extend([
            "--pairs",
            pairs_path.to_str().unwrap(),
            "--prompts",
            prompts_path.to_str().unwrap(),
        ]);
        all.extend(arguments);
        random_model::run(PROGRAM, &self.model, &self.out(out), &all)
    }

    fn refuses(&self, out: &str, pairs: &[PairRow], arguments: &[&str], parts: &[&str]) {
        let message = refused(&self.run(out, pairs, arguments), &self.out(out));
        for part in parts {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
    }

    fn steering(&self, out: &str) -> Steering {
        Steering::load(&self.out(out).join("steering.safetensors")).unwrap()
    }

    fn report(&self, out: &str) -> Vec<FitReportRow> {
        read_table(&self.out(out).join("fit-report.parquet")).unwrap()
    }

    fn digest(&self) -> Digest {
        ModelManifest::of_dir(&self.model).unwrap().digest
    }

    /// Saves a steering with one edit at layer 2.
    fn incumbent(&self, name: &str, model: Digest, operator: Operator) -> String {
        let mut steering = Steering::identity(model, HIDDEN, LAYERS);
        steering.push(2, Edit::new(operator)).unwrap();
        let path = self.out(name);
        steering.save(&path).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

fn addition(scale: f32) -> Operator {
    let vector = (0..HIDDEN).map(|i| scale * (i as f32).sin()).collect();
    Operator::Additive(Additive::new(vector).unwrap())
}

fn bytes(folder: &Path) -> [Vec<u8>; 2] {
    ["steering.safetensors", "fit-report.parquet"].map(|name| fs::read(folder.join(name)).unwrap())
}

fn value(report: &[FitReportRow], metric: &str, split: &str) -> f64 {
    let row = report
        .iter()
        .find(|row| row.metric == metric && row.split == split);
    row.unwrap_or_else(|| panic!("{metric} {split} is missing"))
        .value
}

#[test]
fn a_preference_is_learnt_and_reported() {
    let bench = Bench::new();
    succeeded(&bench.run("trained", &bench.pairs(), &["--max-shift", "0"]));
    let steering = bench.steering("trained");
    assert_eq!(steering.operator(), "bipo");
    assert_eq!(steering.layers(), [1]);
    assert_eq!(steering.compose(), Compose::Stack);
    assert_eq!(steering.model(), &bench.digest());
    let fit = steering.fit().unwrap();
    assert_eq!((fit.fit_prompts, fit.held_out_prompts), (38, 10));
    assert!(!fit.signal.is_low(), "{:?}", fit.signal);
    // What raises the odds of the class is its direction.
    let vector = steering.additive_shift(1).unwrap();
    let norm = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
    let along: f64 = vector
        .iter()
        .zip(planted_direction())
        .map(|(v, d)| v * f64::from(d))
        .sum();
    assert!(along / norm > 0.5, "{along} of {norm}");

    let report = bench.report("trained");
    assert!(value(&report, "loss", "held-out") < std::f64::consts::LN_2);
    for metric in ["preference-accuracy", "preference-accuracy-negated"] {
        assert!(value(&report, metric, "held-out") > 0.9, "{metric}");
    }
    let relative = value(&report, "relative-norm", "train");
    assert!((relative - norm / fit.layers[0].state_norm).abs() < 1e-6);
    assert_eq!(
        fit.layers[0].shift.unwrap(),
        value(&report, "shift", "train")
    );
}

#[test]
fn results_depend_neither_on_threads_nor_on_the_run() {
    let bench = Bench::new();
    for (out, threads) in [("one", "1"), ("three", "3")] {
        succeeded(&bench.run(out, &bench.pairs(), &["--threads", threads]));
    }
    assert_eq!(bytes(&bench.out("one")), bytes(&bench.out("three")));
    succeeded(&bench.run("seed", &bench.pairs(), &["--seed", "1"]));
    assert_ne!(bytes(&bench.out("one"))[0], bytes(&bench.out("seed"))[0]);
}

#[test]
fn a_vector_is_stacked_on_the_incumbent_within_the_limit() {
    let bench = Bench::new();
    let incumbent = bench.incumbent("incumbent", bench.digest(), addition(0.01));
    let arguments = [
        "--incumbent",
        &incumbent,
        "--layers",
        "1,2",
        "--max-shift",
        "0.1",
    ];
    succeeded(&bench.run("stacked", &bench.pairs(), &arguments));
    let stacked = bench.steering("stacked");
    assert_eq!(stacked.layers(), [1, 2]);
    let report = bench.report("stacked");
    for layer in [1, 2] {
        let rows: Vec<_> = report
            .iter()
            .filter(|row| row.layer == layer)
            .cloned()
            .collect();
        assert!(value(&rows, "cap-factor", "train") < 1.0);
        assert!((value(&rows, "shift", "train") - 0.1).abs() < 1e-5);
    }
    let warnings = summary(&bench.out("stacked"))["warnings"].to_string();
    assert!(
        warnings.contains("layer 2: this round's vector was shortened"),
        "{warnings}"
    );
    // Backing off to nothing leaves the incumbent.
    let incumbent = Steering::load(Path::new(&incumbent)).unwrap();
    let none = stacked.back_off(Some(&incumbent), 0.0).unwrap();
    assert_eq!(none.additive_shift(2), incumbent.additive_shift(2));

    let arguments = ["--incumbent", arguments[1], "--compose", "replace"];
    succeeded(&bench.run("replaced", &bench.pairs(), &arguments));
    succeeded(&bench.run("alone", &bench.pairs(), &["--compose", "replace"]));
    assert_eq!(bytes(&bench.out("replaced")), bytes(&bench.out("alone")));
}

#[test]
fn the_edited_positions_matter() {
    let bench = Bench::new();
    succeeded(&bench.run("all", &bench.pairs(), &[]));
    succeeded(&bench.run("end", &bench.pairs(), &["--edited", "prompt-end"]));
    let shift = |out| bench.steering(out).additive_shift(1);
    assert_ne!(shift("all"), shift("end"));
}

#[test]
fn what_cannot_be_learnt_from_is_refused() {
    let bench = Bench::new();
    let pairs = bench.pairs();
    bench.refuses("few", &pairs[..30], &[], &["24 prompts to fit", "32"]);
    let shuffled = ["--labels", "shuffled", "--epochs", "2"];
    bench.refuses(
        "shuffled",
        &pairs,
        &shuffled,
        &["held-out loss", "learning-rate"],
    );
    let mut same = pairs.clone();
    for pair in &mut same {
        pair.rejected_token_ids = pair.chosen_token_ids.clone();
    }
    bench.refuses("same", &same, &[], &["none of the 48 pairs"]);
    let mut strange = pairs.clone();
    strange[3].chosen_token_ids[0] = 9999;
    let id = strange[3].pair_id.clone();
    bench.refuses("strange", &strange, &[], &[&id, "9999"]);
}

#[test]
fn parameters_and_incumbents_are_checked() {
    let bench = Bench::new();
    let pairs = bench.pairs();
    bench.refuses("beta", &pairs, &["--beta", "0"], &["beta is 0", "positive"]);
    bench.refuses(
        "layer",
        &pairs,
        &["--layers", "3"],
        &["layer 3 is out of range", "3 layers"],
    );
    let other = Digest::of_bytes(b"another model");
    let incumbent = bench.incumbent("other", other, addition(1.0));
    let arguments = ["--incumbent", &incumbent];
    let parts = [&other.to_string()[..], "compose replace"];
    bench.refuses("model", &pairs, &arguments, &parts);
    let rule = AngleRule::Fixed { angle: 0.1 };
    let normal = planted_direction();
    let turn = Householder::new(normal, 0.0, rule, None, None).unwrap();
    let incumbent = bench.incumbent("turn", bench.digest(), Operator::Householder(turn));
    let arguments = ["--incumbent", &incumbent];
    bench.refuses(
        "turned",
        &pairs,
        &arguments,
        &["layer 2", "compose replace"],
    );
}
