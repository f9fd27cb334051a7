//! Files that are cut short or of another kind, damaged models, pairs without contrast, and an interrupt.

use std::fs;
use std::path::Path;

use sims_artifact::tables::{PairRow, PromptRow, ScoreRow};
use sims_artifact::write_table;
use sims_testkit::random_model::{self, RandomModel, refused, succeeded, summary};

use super::{Bench, END};

/// Keeps the first half of a file.
fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

/// Puts a table of another kind in a file's place.
fn replace(path: &Path) {
    write_table::<ScoreRow>(path, &[]).unwrap();
}

impl Bench {
    fn write_pairs(&self, pairs: &[PairRow]) {
        write_table(&self.out("pairs.parquet"), pairs).unwrap();
    }

    /// Asserts that the files as they are get refused in these words, and that nothing is left.
    fn refuses(&self, more: &[&str], expected: &[&str]) {
        let [pairs, prompts] = ["pairs.parquet", "prompts.parquet"].map(|f| self.out(f));
        let files = [
            "--pairs",
            pairs.to_str().unwrap(),
            "--prompts",
            prompts.to_str().unwrap(),
        ];
        let (program, out) = (env!("CARGO_BIN_EXE_sims-extract"), self.out("bad"));
        let arguments = [&files[..], more].concat();
        let output = random_model::run(program, &self.model, &out, &arguments);
        let message = refused(&output, &out);
        for part in expected {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
        assert_eq!(fs::read_dir(&out).unwrap().count(), 0, "{message}");
    }
}

#[test]
fn files_that_cannot_be_read_are_refused_by_name() {
    let bench = Bench::new();
    bench.write_pairs(&bench.pairs());
    for file in ["pairs.parquet", "prompts.parquet"] {
        let path = bench.out(file);
        let whole = fs::read(&path).unwrap();
        cut(&path);
        bench.refuses(&[], &[&format!("{file} is not a readable Parquet file")]);
        replace(&path);
        bench.refuses(&[], &[&format!("{file} holds `scores@1`, but")]);
        fs::write(&path, whole).unwrap();
    }
    let (steering, _) = bench.steering("s.safetensors", bench.digest());
    cut(Path::new(&steering));
    let expected = ["s.safetensors is not a readable safetensors file"];
    bench.refuses(&["--steering", &steering], &expected);
    let weights = bench.model.join("model.safetensors");
    let expected = ["model.safetensors is not a valid steering file"];
    bench.refuses(&["--steering", weights.to_str().unwrap()], &expected);
}

#[test]
fn prompts_must_be_there_and_each_of_them_once() {
    let bench = Bench::new();
    bench.write_pairs(&bench.pairs());
    let path = bench.out("prompts.parquet");
    write_table::<PromptRow>(&path, &[]).unwrap();
    bench.refuses(&[], &["prompts.parquet has no rows"]);
    let twice = [&bench.prompts[..], &bench.prompts[..1]].concat();
    write_table(&path, &twice).unwrap();
    let id = &bench.prompts[0].prompt_id;
    bench.refuses(&[], &[&format!("holds prompt {id} more than once")]);
}

#[test]
fn a_damaged_model_is_refused_by_the_name_of_its_file() {
    let bench = Bench::with(&RandomModel {
        broken_weight: Some(f32::NAN),
        ..RandomModel::default()
    });
    bench.write_pairs(&bench.pairs());
    let expected = ["model.safetensors", "model.layers.1.mlp.up_proj.weight"];
    bench.refuses(&[], &expected);

    let bench = Bench::new();
    bench.write_pairs(&bench.pairs());
    let path = bench.model.join("tokenizer.json");
    let text = fs::read_to_string(&path).unwrap();
    // The tokenizer of a model with one more word.
    fs::write(&path, text.replace("\"w9\":", "\"more\":64,\"w9\":")).unwrap();
    bench.refuses(&[], &["tokenizer.json", "65", "64"]);
    fs::write(&path, text).unwrap();
    cut(&bench.model.join("model.safetensors"));
    bench.refuses(&[], &["model.safetensors"]);
}

#[test]
fn pairs_of_identical_responses_are_counted_and_alone_refused() {
    let bench = Bench::new();
    let same = |number: usize| bench.pair(number, vec![10, 11, END], vec![10, 11, END]);
    for positions in ["end", "reask"] {
        let arguments = ["--positions", positions];
        bench.write_pairs(&[same(0), same(1)]);
        bench.refuses(
            &arguments,
            &["responses of all 2 pairs are identical", "no contrast"],
        );
        let mut pairs = bench.pairs();
        pairs[2] = same(2);
        succeeded(&bench.run("some", &pairs, &arguments));
        let summary = summary(&bench.out("some"));
        assert_eq!(summary["counts"]["identical_pairs"], 1.0);
        let warnings = summary["warnings"].to_string();
        assert!(
            warnings.contains("1 of 6 pairs have two identical responses"),
            "{warnings}"
        );
        let states = bench.extracted("some");
        assert_eq!(states.row(1, "positive", 2), states.row(1, "negative", 2));
    }
}

#[test]
fn an_interrupt_leaves_nothing() {
    let bench = Bench::new();
    let pair = |number: u32| {
        let of = |class: u32| (0..30).map(|i| 5 + (number + i * class) % 50).collect();
        bench.pair(number as usize % 6, of(1), of(2))
    };
    bench.write_pairs(&(0..6000).map(pair).collect::<Vec<_>>());
    let [pairs, prompts] = ["pairs.parquet", "prompts.parquet"].map(|f| bench.out(f));
    let arguments = [
        "--pairs",
        pairs.to_str().unwrap(),
        "--prompts",
        prompts.to_str().unwrap(),
    ];
    let program = env!("CARGO_BIN_EXE_sims-extract");
    random_model::interrupted(program, &bench.model, &bench.out("out"), &arguments);
}
