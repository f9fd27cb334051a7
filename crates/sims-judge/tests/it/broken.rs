//! Tables that are cut short or of another kind, and models that are damaged.

use std::fs;
use std::path::Path;

use sims_artifact::tables::{PromptRow, ScoreRow};
use sims_artifact::write_table;
use sims_testkit::random_model::{self, RandomModel, refused};

use super::Bench;

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
    /// Writes responses to judge.
    fn write_responses(&self) {
        let responses = self.responses(3, 4);
        write_table(&self.path("responses.parquet"), &responses).unwrap();
    }

    /// Asserts that the files as they are get refused in these words, and that nothing is left.
    fn refuses(&self, expected: &[&str]) {
        let [prompts, responses] = ["prompts.parquet", "responses.parquet"].map(|f| self.path(f));
        let arguments = [
            "--prompts",
            prompts.to_str().unwrap(),
            "--responses",
            responses.to_str().unwrap(),
        ];
        let (program, out) = (env!("CARGO_BIN_EXE_sims-judge"), self.path("bad"));
        let output = random_model::run(program, &self.model, &out, &arguments);
        let message = refused(&output, &out);
        for part in expected {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
        assert_eq!(fs::read_dir(&out).unwrap().count(), 0, "{message}");
    }
}

#[test]
fn tables_that_cannot_be_read_are_refused_by_name() {
    let bench = Bench::new(&RandomModel::default());
    bench.write_responses();
    for file in ["prompts.parquet", "responses.parquet"] {
        let path = bench.path(file);
        let whole = fs::read(&path).unwrap();
        cut(&path);
        bench.refuses(&[&format!("{file} is not a readable Parquet file")]);
        replace(&path);
        bench.refuses(&[&format!("{file} holds `scores@1`, but")]);
        fs::write(&path, whole).unwrap();
    }
}

#[test]
fn prompts_must_be_there_and_each_of_them_once() {
    let bench = Bench::new(&RandomModel::default());
    bench.write_responses();
    let path = bench.path("prompts.parquet");
    write_table::<PromptRow>(&path, &[]).unwrap();
    bench.refuses(&["prompts.parquet has no rows"]);
    let twice = [&bench.prompts[..], &bench.prompts[1..2]].concat();
    write_table(&path, &twice).unwrap();
    let id = &bench.prompts[1].prompt_id;
    bench.refuses(&[&format!("holds prompt {id} more than once")]);
}

#[test]
fn a_damaged_model_is_refused_by_the_name_of_its_file() {
    let bench = Bench::new(&RandomModel {
        broken_weight: Some(f32::NAN),
        ..RandomModel::default()
    });
    bench.write_responses();
    bench.refuses(&["model.safetensors", "model.layers.1.mlp.up_proj.weight"]);

    let bench = Bench::new(&RandomModel::default());
    bench.write_responses();
    let path = bench.model.join("tokenizer.json");
    let text = fs::read_to_string(&path).unwrap();
    // The tokenizer of a model with one more word.
    fs::write(&path, text.replace("\"w9\":", "\"more\":64,\"w9\":")).unwrap();
    bench.refuses(&["tokenizer.json", "65", "64"]);
    fs::write(&path, text).unwrap();
    cut(&bench.model.join("model.safetensors"));
    bench.refuses(&["model.safetensors"]);
}
