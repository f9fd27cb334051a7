//! The fine-tuning stage as a program, on a model with random weights and a planted class of tokens.

use sims_artifact::tables::{MetricRow, PairRow, PromptRow, pair_id};
use sims_artifact::{ModelManifest, read_table, write_table};
use sims_steering::AdapterFile;
use sims_testkit::random_model::{
    self, PlantedClass, RandomModel, prompts, refused, succeeded, summary,
};
use std::fs;
use std::path::PathBuf;
use std::process::Output;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sims-dpo");
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

    /// Writes the tables and returns the arguments; what a test sets takes the place of a default.
    fn arguments(&self, out: &str, pairs: &[PairRow], arguments: &[&str]) -> Vec<String> {
        let pairs_path = self.out(&format!("{out}.pairs.parquet"));
        write_table(&pairs_path, pairs).unwrap();
        let quick = [
            "--learning-rate",
            "0.01",
            "--warmup-steps",
            "2",
            "--epochs",
            "3",
        ];
        let defaults = quick
            .chunks(2)
            .filter(|default| !arguments.contains(&default[0]))
            .flatten();
        let mut all: Vec<String> = defaults.map(|&text| text.to_owned()).collect();
        for (flag, path) in [
            ("--pairs", pairs_path),
            ("--prompts", self.out("prompts.parquet")),
        ] {
            all.extend([flag.to_owned(), path.to_str().unwrap().to_owned()]);
        }
        all.extend(arguments.iter().map(|&text| text.to_owned()));
        all
    }

    fn run(&self, out: &str, pairs: &[PairRow], arguments: &[&str]) -> Output {
        let all = self.arguments(out, pairs, arguments);
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        random_model::run(PROGRAM, &self.model, &self.out(out), &all)
    }

    fn refuses(&self, out: &str, pairs: &[PairRow], arguments: &[&str], parts: &[&str]) {
        let message = refused(&self.run(out, pairs, arguments), &self.out(out));
        for part in parts {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
    }

    fn adapter(&self, out: &str) -> AdapterFile {
        let digest = ModelManifest::of_dir(&self.model).unwrap().digest;
        AdapterFile::load(&self.out(out).join("adapter.safetensors"), &digest).unwrap()
    }

    fn figure(&self, out: &str, metric: &str) -> MetricRow {
        let rows: Vec<MetricRow> = read_table(&self.out(out).join("training.parquet")).unwrap();
        let row = rows.into_iter().find(|row| row.metric == metric);
        row.unwrap_or_else(|| panic!("{metric} is missing"))
    }

    fn bytes(&self, out: &str) -> [Vec<u8>; 2] {
        ["adapter.safetensors", "training.parquet"]
            .map(|name| fs::read(self.out(out).join(name)).unwrap())
    }
}

#[test]
fn a_preference_is_learnt_and_reported() {
    let bench = Bench::new();
    succeeded(&bench.run("tuned", &bench.pairs(), &["--rank", "4", "--alpha", "8"]));
    let file = bench.adapter("tuned");
    let modules: Vec<String> = file
        .adapter
        .modules
        .keys()
        .map(ToString::to_string)
        .collect();
    let expected = [0, 1, 2]
        .map(|layer| ["q_proj", "v_proj"].map(|name| format!("layers.{layer}.self_attn.{name}")));
    assert_eq!(modules, expected.concat());
    assert_eq!((file.adapter.rank, file.adapter.scale()), (4, 2.0));
    assert_eq!((file.fit.fit_prompts, file.fit.held_out_prompts), (38, 10));
    assert_eq!((file.fit.epochs, file.fit.pairs), (3, 48));

    let loss = |epoch: usize| {
        bench
            .figure("tuned", &format!("held_out_loss_epoch_{epoch}"))
            .value
    };
    assert!(loss(1) < std::f64::consts::LN_2);
    let best = bench.figure("tuned", "best_epoch").value as usize;
    assert_eq!(best, file.fit.best_epoch);
    assert_eq!(bench.figure("tuned", "held_out_loss").value, loss(best));
    assert!((1..=3).all(|epoch| loss(best) <= loss(epoch)));
    let accuracy = bench.figure("tuned", "held_out_accuracy");
    assert!(
        accuracy.value > 0.9 && accuracy.ci_low.is_some(),
        "{accuracy:?}"
    );
    assert_eq!(accuracy.n, 10);
    let counts = summary(&bench.out("tuned"))["counts"].clone();
    // A of q and v: 4 by 32 each; B: 32 and 16 by 4; three blocks.
    assert_eq!(
        counts["trained_parameters"],
        3.0 * (2.0 * 128.0 + 128.0 + 64.0)
    );
}

#[test]
fn results_depend_neither_on_threads_nor_on_the_run() {
    let bench = Bench::new();
    for (out, threads) in [("one", "1"), ("three", "3")] {
        succeeded(&bench.run(out, &bench.pairs(), &["--threads", threads]));
    }
    assert_eq!(bench.bytes("one"), bench.bytes("three"));
    succeeded(&bench.run("seed", &bench.pairs(), &["--seed", "1"]));
    assert_ne!(bench.bytes("one")[0], bench.bytes("seed")[0]);
    // Stopped on the way, a training leaves nothing.
    let many = ["--epochs", "400", "--patience", "400"];
    let arguments = bench.arguments("stopped", &bench.pairs(), &many);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    random_model::interrupted(PROGRAM, &bench.model, &bench.out("stopped"), &arguments);
}

#[test]
fn what_cannot_be_learnt_from_is_refused() {
    let bench = Bench::new();
    let pairs = bench.pairs();
    bench.refuses("few", &pairs[..30], &[], &["24 prompts to fit", "32"]);
    let mut same = pairs.clone();
    for pair in &mut same {
        pair.rejected_token_ids = pair.chosen_token_ids.clone();
    }
    bench.refuses("same", &same, &[], &["none of the 48 pairs"]);
    let mut strange = pairs.clone();
    strange[3].chosen_token_ids[0] = 9999;
    let id = strange[3].pair_id.clone();
    bench.refuses("strange", &strange, &[], &[&id, "9999"]);
    let wild = ["--learning-rate", "1e38", "--warmup-steps", "0"];
    let output = bench.run("wild", &pairs, &wild);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("diverged in epoch 1"), "{message}");
}

#[test]
fn parameters_are_checked() {
    let bench = Bench::new();
    let pairs = bench.pairs();
    for (name, value, parts) in [
        ("--beta", "0", &["beta is 0", "positive"][..]),
        ("--rank", "0", &["rank is 0"][..]),
        ("--alpha", "NaN", &["alpha is NaN"][..]),
        ("--held-out", "1", &["held-out is 1", "between 0 and 1"][..]),
        (
            "--max-gradient-norm",
            "-1",
            &["max-gradient-norm is -1"][..],
        ),
        (
            "--targets",
            "q_proj,router",
            &["router", "q_proj, k_proj, v_proj, o_proj"][..],
        ),
    ] {
        bench.refuses(&name[2..], &pairs, &[name, value], parts);
    }
}
