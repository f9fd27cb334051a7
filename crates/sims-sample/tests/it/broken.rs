//! Files that are cut short, of another kind, or of another model.

use std::fs;
use std::path::Path;

use sims_artifact::tables::ScoreRow;
use sims_artifact::write_table;
use sims_testkit::random_model::{RandomModel, prompts, refused};

use super::{Bench, steering};

/// Keeps the first half of a file.
fn cut(path: &Path) {
    let bytes = fs::read(path).unwrap();
    fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

/// Asserts that a run is refused in these words and leaves nothing.
fn refuses(bench: &Bench, arguments: &[&str], expected: &[&str]) {
    let out = bench.out("bad");
    let message = refused(&bench.run("bad", arguments), &out);
    for part in expected {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
    assert_eq!(fs::read_dir(&out).unwrap().count(), 0, "{message}");
}

#[test]
fn tables_and_steerings_that_cannot_be_read_are_refused_by_name() {
    let bench = Bench::new(&RandomModel::default(), &prompts(200));
    let path = bench.steering("s.safetensors", 1.0);
    cut(Path::new(&path));
    let expected = [
        "s.safetensors",
        "is not a readable safetensors file (cut short or damaged?)",
    ];
    refuses(&bench, &["--steering", &path], &expected);
    // Weights are safetensors, too, and no steering.
    let weights = bench.model.join("model.safetensors");
    let weights = weights.to_str().unwrap();
    let expected = ["model.safetensors", "is not a valid steering file"];
    refuses(&bench, &["--steering", weights], &expected);

    cut(&bench.prompts);
    let expected = ["prompts.parquet is not a readable Parquet file"];
    refuses(&bench, &[], &expected);
    write_table::<ScoreRow>(&bench.prompts, &[]).unwrap();
    let expected = ["prompts.parquet holds `scores@1`, but `prompts@1` is needed"];
    refuses(&bench, &[], &expected);

    let twice = [prompts(2), prompts(1)].concat();
    write_table(&bench.prompts, &twice).unwrap();
    let expected = [twice[0].prompt_id.as_str(), "occurs more than once"];
    refuses(&bench, &[], &expected);
}

#[test]
fn a_damaged_model_is_refused_by_the_name_of_its_file() {
    let bench = Bench::new(&RandomModel::default(), &prompts(2));
    cut(&bench.model.join("model.safetensors"));
    refuses(&bench, &[], &["model.safetensors"]);

    let bench = Bench::new(&RandomModel::default(), &prompts(2));
    let path = bench.model.join("tokenizer.json");
    let text = fs::read_to_string(&path).unwrap();
    // The tokenizer of a model with one more word.
    fs::write(&path, text.replace("\"w9\":", "\"more\":64,\"w9\":")).unwrap();
    refuses(&bench, &[], &["tokenizer.json", "65", "64"]);
}

#[test]
fn an_earlier_run_does_not_make_a_refused_one_look_complete() {
    let bench = Bench::new(&RandomModel::default(), &prompts(2));
    super::succeeded(&bench.run("bad", &["--samples", "1"]));
    assert_eq!(bench.responses("bad").len(), 2);
    let path = bench.out("s.safetensors");
    steering(&bench.model, 1.0).save(&path).unwrap();
    cut(&path);
    refuses(
        &bench,
        &["--steering", path.to_str().unwrap()],
        &["s.safetensors"],
    );
}

#[test]
fn one_sample_a_prompt_is_the_first_of_several() {
    let bench = Bench::new(&RandomModel::default(), &prompts(5));
    super::succeeded(&bench.run("one", &["--samples", "1"]));
    super::succeeded(&bench.run("two", &["--samples", "2"]));
    let first: Vec<_> = bench
        .responses("two")
        .into_iter()
        .filter(|row| row.sample_index == 0)
        .collect();
    assert_eq!(bench.responses("one"), first);
}
