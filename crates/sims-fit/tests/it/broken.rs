//! Files that are cut short or of another kind, states that do not vary, and an interrupt.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use sims_artifact::tables::ScoreRow;
use sims_artifact::{Digest, write_table};
use sims_steering::{Additive, Edit, Operator, Steering};

use super::{Bench, HIDDEN, LAYERS, Planted, cosine, vector};

/// Keeps the first half of a file.
fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

/// Asserts that the files as they are get refused in these words, and that nothing is left.
fn refuses(bench: &Bench, arguments: &[&str], expected: &[&str]) {
    let message = bench.refuses(arguments);
    for part in expected {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
    let left = fs::read_dir(bench.out("bad")).unwrap();
    assert_eq!(left.count(), 0, "{message}");
}

#[test]
fn states_and_index_that_cannot_be_read_are_refused_by_name() {
    let bench = Bench::new(&Planted::default());
    bench.succeeds("first", &[]);
    let steering = bench.out("first").join("steering.safetensors");

    let index = bench.out("index.parquet");
    let whole = fs::read(&index).unwrap();
    cut(&index);
    let expected = ["index.parquet is not a readable Parquet file"];
    refuses(&bench, &[], &expected);
    write_table::<ScoreRow>(&index, &[]).unwrap();
    let expected = ["index.parquet holds `scores@1`, but `index@1` is needed"];
    refuses(&bench, &[], &expected);
    fs::write(&index, whole).unwrap();

    let states = bench.out("states.safetensors");
    cut(&states);
    let expected = ["states.safetensors is not a readable safetensors file"];
    refuses(&bench, &[], &expected);
    fs::copy(&steering, &states).unwrap();
    let expected = ["states.safetensors is not a file of hidden states"];
    refuses(&bench, &[], &expected);
}

#[test]
fn a_device_that_is_not_there_is_refused() {
    let bench = Bench::new(&Planted::default());
    refuses(&bench, &["--device", "cuda:99"], &["cuda:99"]);
    refuses(&bench, &["--device", "tpu"], &["`tpu`", "cuda:N"]);
}

#[test]
fn an_incumbent_that_cannot_be_built_upon_is_refused() {
    let bench = Bench::new(&Planted::default());
    let path = bench.out("incumbent.safetensors");
    let mut other = Steering::identity(Digest::of_bytes(b"other"), HIDDEN, LAYERS);
    let additive = Additive::new(vec![1.0; HIDDEN]).unwrap();
    other
        .push(1, Edit::new(Operator::Additive(additive)))
        .unwrap();
    other.save(&path).unwrap();
    let arguments = ["--incumbent", path.to_str().unwrap()];
    refuses(
        &bench,
        &arguments,
        &[
            &Digest::of_bytes(b"other").to_string(),
            &bench.model().to_string(),
            "extract the states from that model",
        ],
    );
    cut(&path);
    let expected = ["incumbent.safetensors is not a readable safetensors file"];
    refuses(&bench, &arguments, &expected);
    fs::copy(bench.out("states.safetensors"), &path).unwrap();
    let expected = ["incumbent.safetensors is not a valid steering file"];
    refuses(&bench, &arguments, &expected);
}

#[test]
fn classes_that_are_one_state_each_are_told_apart_by_every_operator() {
    let bench = Bench::new(&Planted {
        noise: 0.0,
        ..Planted::default()
    });
    bench.succeeds("difference", &["--layers", "2"]);
    let direction = bench.direction();
    assert!(cosine(&vector(&bench.steering("difference"), 2), &direction) > 0.999_99);
    let auroc = |out: &str| {
        let mut rows = bench.report(out).into_iter();
        rows.find(|row| row.metric == "auroc" && row.split == "held-out")
            .map(|row| row.value)
    };
    assert_eq!(auroc("difference"), Some(1.0));
    for operator in ["hpr-target", "hpr", "hpr-capped", "pca", "probe", "act"] {
        bench.succeeds(operator, &["--layers", "2", "--operator", operator]);
        assert_eq!(bench.steering(operator).edits(2).len(), 1);
        assert_eq!(auroc(operator), Some(1.0));
    }
}

const OPERATORS: [&str; 7] = [
    "mean-difference",
    "hpr-target",
    "hpr",
    "hpr-capped",
    "pca",
    "probe",
    "act",
];

#[test]
fn a_layer_without_contrast_is_named_with_a_way_out() {
    let mut bench = Bench::new(&Planted::default());
    // One constant layer among good ones, then nothing but zeros.
    bench.level(1, 3.0);
    for operator in OPERATORS {
        let expected = [
            "layer 1: chosen and rejected states are identical",
            "fit other layers by naming them in `layers`",
        ];
        refuses(&bench, &["--operator", operator], &expected);
    }
    bench.succeeds("good", &["--layers", "2"]);
    assert_eq!(bench.steering("good").layers(), [2]);

    bench.level(1, 0.0);
    bench.level(2, 0.0);
    for operator in OPERATORS {
        let expected = ["layer 1: chosen and rejected states are identical"];
        refuses(&bench, &["--operator", operator], &expected);
    }
}

#[test]
fn an_interrupt_leaves_nothing() {
    // Long enough that the fit still runs when the signal comes.
    let bench = Bench::new(&Planted {
        prompts: 4000,
        ..Planted::default()
    });
    let out = bench.out("out");
    let mut child = Command::new(env!("CARGO_BIN_EXE_sims-fit"))
        .arg("--states")
        .arg(bench.out("states.safetensors"))
        .arg("--index")
        .arg(bench.out("index.parquet"))
        .arg("--out")
        .arg(&out)
        .args(["--operator", "hpr-capped", "--progress", "json"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    // The first report comes when the work begins, after the handler is in place.
    let first = lines.next().unwrap().unwrap();
    assert!(first.contains("\"progress\""), "{first}");
    let id = child.id().to_string();
    let kill = Command::new("kill").args(["-INT", &id]).status().unwrap();
    assert!(kill.success());
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{rest:?}");
    assert!(rest.last().unwrap().contains("interrupted"), "{rest:?}");
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0);
}
