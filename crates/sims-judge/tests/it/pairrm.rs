//! PairRM with random weights against transformers, and as the stage's judge.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use serde_json::Value;
use sims_judge::{Answer, Comparison, Judged, PairJudge, PairRm};
use sims_model::Device;
use sims_testkit::random_model::{RandomModel, succeeded, summary};
use tempfile::TempDir;

use crate::{Bench, judges::text};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/pairrm")
}

/// One case of the fixture.
#[derive(serde::Deserialize)]
struct Case {
    request: String,
    first: String,
    second: String,
    tokens: usize,
    cut: bool,
    logit: f64,
}

impl Case {
    fn comparison(&self) -> Comparison<'_> {
        Comparison {
            prompt_id: "p",
            request: &self.request,
            first: Answer::made("a", &self.first),
            second: Answer::made("b", &self.second),
        }
    }
}

fn cases() -> Vec<Case> {
    let text = fs::read_to_string(fixture().join("expected.json")).unwrap();
    let mut expected: Value = serde_json::from_str(&text).unwrap();
    serde_json::from_value(expected["cases"].take()).unwrap()
}

fn open(folder: &Path) -> PairRm {
    PairRm::open(folder, &Device::Cpu).unwrap()
}

fn compare(judge: &PairRm, comparisons: &[Comparison<'_>]) -> Judged {
    judge
        .compare(comparisons, &mut |_| ControlFlow::Continue(()))
        .unwrap()
}

/// A copy of the fixture that a test may damage.
fn copy() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(fixture().join(file), folder.path().join(file)).unwrap();
    }
    folder
}

fn replace(folder: &Path, file: &str, from: &str, to: &str) {
    let path = folder.join(file);
    let whole = fs::read_to_string(&path).unwrap();
    assert!(whole.contains(from), "{file} has no {from}");
    fs::write(&path, whole.replace(from, to)).unwrap();
}

/// Rewrites the JSON header of the weights.
fn edit_header(folder: &Path, edit: impl Fn(&str) -> String) {
    let path = folder.join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let (length, rest) = bytes.split_at(8);
    let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
    let header = edit(std::str::from_utf8(&rest[..length]).unwrap());
    let mut edited = (header.len() as u64).to_le_bytes().to_vec();
    edited.extend(header.as_bytes());
    edited.extend(&rest[length..]);
    fs::write(&path, edited).unwrap();
}

#[test]
fn log_odds_are_those_of_transformers() {
    let judge = open(&fixture());
    let cases = cases();
    let comparisons: Vec<Comparison<'_>> = cases.iter().map(Case::comparison).collect();
    let judged = compare(&judge, &comparisons);
    for (case, found) in cases.iter().zip(&judged.preferences) {
        assert!(
            (found.logit - case.logit).abs() < 1e-4,
            "{} tokens: {} {}",
            case.tokens,
            found.logit,
            case.logit
        );
        assert_eq!(found.coverage, 1.0);
    }
    let tokens: usize = cases.iter().map(|case| case.tokens).sum();
    assert_eq!(judged.tokens.computed, tokens);
    assert_eq!(judged.cut, cases.iter().filter(|case| case.cut).count());
    assert_eq!(judged.batch_rows, 2048);
}

#[test]
fn a_comparison_depends_on_nothing_beside_it() {
    let judge = open(&fixture());
    let cases = cases();
    let comparisons: Vec<Comparison<'_>> = cases[..9].iter().map(Case::comparison).collect();
    let together = compare(&judge, &comparisons);
    for (comparison, expected) in comparisons.iter().zip(&together.preferences) {
        let alone = compare(&judge, &[*comparison]);
        assert_eq!(alone.preferences, [*expected]);
    }
}

#[test]
fn markers_inside_a_text_are_read_as_nothing() {
    let judge = open(&fixture());
    let case = |first: &str| {
        let first = Case {
            request: "w1".to_owned(),
            first: first.to_owned(),
            second: "w3".to_owned(),
            tokens: 0,
            cut: false,
            logit: 0.0,
        };
        compare(&judge, &[first.comparison()]).preferences
    };
    assert_eq!(case("w2 <|candidate2|>[SEP] <|source|>w4"), case("w2 w4"));
    assert_ne!(case("w2 w4"), case("w2 w5"));
}

#[test]
fn weights_are_found_under_each_wrappers_names() {
    let expected = compare(&open(&fixture()), &[cases()[3].comparison()]);
    for prefix in ["deberta.", ""] {
        let folder = copy();
        edit_header(folder.path(), |header| {
            header.replace("pretrained_model.", prefix)
        });
        let found = compare(&open(folder.path()), &[cases()[3].comparison()]);
        assert_eq!(found.preferences, expected.preferences, "{prefix}");
    }
}

#[test]
fn the_stage_asks_both_orders_whatever_the_batch_and_threads() {
    let bench = Bench::new(&RandomModel::default());
    let mut responses = bench.responses(3, 4);
    // Long enough for products to be split among threads.
    for row in &mut responses {
        row.text = format!("{} ", row.text).repeat(100);
    }
    let folder = fixture();
    let arguments = ["--judge", "pairrm", "--pairrm", text(&folder)];
    for (out, batch, threads) in [("a", "1", "1"), ("b", "7", "5")] {
        let more = ["--batch-size", batch, "--threads", threads];
        let arguments = [&arguments[..], &more].concat();
        let mut command = bench.command_without_model(out, &responses, &arguments);
        // How many parts candle splits a product into.
        succeeded(&command.env("RAYON_NUM_THREADS", threads).output().unwrap());
    }
    let bytes = |out: &str| fs::read(bench.path(out).join("judgments.parquet")).unwrap();
    assert_eq!(bytes("a"), bytes("b"));

    // Four responses that all meet: 6 pairs, twice, for 3 prompts.
    let rows = bench.judgments("a");
    assert_eq!(rows.len(), 36);
    let judge = open(&folder);
    let text_of = |id: &str| {
        let mut found = responses.iter().filter(|row| row.response_id == id);
        found.next().unwrap().text.as_str()
    };
    for pair in rows.chunks(2) {
        assert_eq!([&pair[0].order, &pair[1].order], ["ab", "ba"]);
        assert!(pair.iter().all(|row| row.judge == judge.id()));
        let prompt = bench.prompts.iter();
        let prompt = prompt.filter(|row| row.prompt_id == pair[0].prompt_id);
        let request = &prompt.map(|row| &row.messages[0].content).next().unwrap();
        let (a, b) = (&pair[0].response_a, &pair[0].response_b);
        let asked = Comparison {
            prompt_id: &pair[0].prompt_id,
            request,
            first: Answer::made(a, text_of(a)),
            second: Answer::made(b, text_of(b)),
        };
        let orders = compare(&judge, &[asked, asked.swapped()]).preferences;
        // `raw` is for `a`, whichever order was asked.
        assert!((pair[0].raw - orders[0].logit).abs() < 1e-12);
        assert!((pair[1].raw + orders[1].logit).abs() < 1e-12);
    }
    // The encoder sees an order: random weights have a position bias.
    assert!(
        rows.chunks(2)
            .any(|pair| (pair[0].raw - pair[1].raw).abs() > 1e-3)
    );
    assert!(judge.id().starts_with("pairrm/"));
    let counts = &summary(&bench.path("a"))["counts"];
    assert!(counts["estimated_flops"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_folder_of_something_else_is_refused_by_what_is_wrong() {
    let refuses = |folder: &Path, expected: &[&str]| {
        let error = PairRm::open(folder, &Device::Cpu).err().unwrap();
        let message = format!("{:#}", anyhow::Error::new(error));
        for part in expected {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
    };
    let edited = |file: &str, from: &str, to: &str, expected: &[&str]| {
        let folder = copy();
        replace(folder.path(), file, from, to);
        refuses(folder.path(), expected);
    };
    let config = "config.json";
    edited(
        config,
        "deberta-v2",
        "llama",
        &["config.json: model_type is \"llama\""],
    );
    edited(
        config,
        "\"share_att_key\": true",
        "\"share_att_key\": false",
        &["share_att_key is false"],
    );
    edited(
        config,
        "\"hidden_size\": 32",
        "\"hidden_size\": 64",
        &[
            "model.safetensors",
            "has shape [16, 32], the config implies [16, 64]",
        ],
    );
    edited(
        config,
        "\"n_tasks\": 2",
        "\"tasks\": 2",
        &["config.json", "n_tasks"],
    );
    edited(
        config,
        "\"cand1_prefix_id\": 196",
        "\"cand1_prefix_id\": 7",
        &["`<|candidate1|>` is token 196, but config.json says 7"],
    );
    edited(
        "tokenizer.json",
        "<|candidate2|>",
        "<|other|>",
        &["tokenizer.json: it has no token `<|candidate2|>`"],
    );

    let folder = copy();
    fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    refuses(folder.path(), &["tokenizer.json is missing"]);

    let folder = copy();
    edit_header(folder.path(), |header| {
        header.replace(
            "layer.1.intermediate.dense.weight",
            "layer.1.elsewhere.weight",
        )
    });
    refuses(
        folder.path(),
        &["1 tensors are missing: pretrained_model.encoder.layer.1.intermediate.dense.weight"],
    );

    let folder = copy();
    let path = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&path, bytes).unwrap();
    refuses(folder.path(), &["model.safetensors: tensor", "NaN"]);

    // A decoder's folder, and none at all, through the stage.
    let bench = Bench::new(&RandomModel::default());
    let arguments = ["--judge", "pairrm", "--pairrm", text(&bench.model)];
    bench.refuses_without_model(&arguments, "model_type is \"llama\"");
    bench.refuses_without_model(&arguments[..2], "give --pairrm");
}
