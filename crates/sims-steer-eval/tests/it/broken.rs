//! Files, models and settings that cannot be evaluated with, and a base model that says nothing.

use std::fs;
use std::path::Path;

use sims_artifact::tables::{Message, PromptRow, ResponseRow, ScoreRow, response_id};
use sims_artifact::write_table;

use super::{ANY_GAIN, Bench, PROMPTS, RandomModel, prompts, refused, succeeded};

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
    /// Makes a bench with the harmless candidate `s.safetensors`.
    fn with_candidate(model: &RandomModel) -> Self {
        let bench = Self::new(model);
        bench.push("s.safetensors", 1, 9, 0.01);
        bench
    }

    /// Asserts that a run is refused in these words and leaves nothing.
    fn refuses(&self, arguments: &[&str], expected: &[&str]) {
        let out = self.path("bad");
        let message = refused(&self.run("bad", "s.safetensors", arguments), &out);
        for part in expected {
            assert!(message.contains(part), "{part} is not in: {message}");
        }
        assert_eq!(fs::read_dir(&out).unwrap().count(), 0, "{message}");
    }

    /// Writes four base answers to every prompt and returns the table's path.
    fn base_answers(&self, tokens: impl Fn(usize) -> Vec<u32>) -> String {
        let mut rows = Vec::new();
        for (number, prompt) in prompts(PROMPTS).iter().enumerate() {
            for sample_index in 0..4 {
                let token_ids = tokens(number);
                let text: Vec<String> = token_ids
                    .iter()
                    .filter(|&&id| id != 1)
                    .map(|id| format!("w{id}"))
                    .collect();
                rows.push(ResponseRow {
                    prompt_id: prompt.prompt_id.clone(),
                    response_id: response_id(&prompt.prompt_id, "base", sample_index, &token_ids),
                    round: 1,
                    sample_index,
                    policy: "base".to_owned(),
                    text: text.join(" "),
                    token_ids,
                    prompt_tokens: 7,
                    finish_reason: "stop".to_owned(),
                    logprob_sum: -1.0,
                    seed: 0,
                });
            }
        }
        let path = self.path("base.parquet");
        write_table(&path, &rows).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn neutral_texts(&self, count: usize) -> String {
        let text = |i: usize| {
            let content = format!("w{} ", 9 + i).repeat(30);
            PromptRow::new(vec![Message::user(content)], "neutral", "test")
        };
        let path = self.path("neutral.parquet");
        write_table(&path, &(0..count).map(text).collect::<Vec<_>>()).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[test]
fn files_that_cannot_be_read_are_refused_by_name() {
    let bench = Bench::with_candidate(&RandomModel::default());
    let base = bench.base_answers(|_| vec![9, 10, 1]);
    let neutral = bench.neutral_texts(5);
    let arguments = ["--base-responses", &base, "--neutral", &neutral];
    for file in ["prompts.parquet", "base.parquet", "neutral.parquet"] {
        let path = bench.path(file);
        let whole = fs::read(&path).unwrap();
        cut(&path);
        let expected = format!("{file} is not a readable Parquet file");
        bench.refuses(&arguments, &[&expected]);
        replace(&path);
        bench.refuses(&arguments, &[&format!("{file} holds `scores@1`, but")]);
        fs::write(&path, whole).unwrap();
    }
    bench.push("incumbent.safetensors", 1, 9, 0.01);
    let incumbent = bench.path("incumbent.safetensors");
    cut(&incumbent);
    let arguments = ["--incumbent", incumbent.to_str().unwrap()];
    let expected = ["incumbent.safetensors is not a readable safetensors file"];
    bench.refuses(&arguments, &expected);
    let weights = bench.model.join("model.safetensors");
    let arguments = ["--incumbent", weights.to_str().unwrap()];
    let expected = ["model.safetensors is not a valid steering file"];
    bench.refuses(&arguments, &expected);
}

#[test]
fn a_damaged_model_is_refused_by_the_name_of_its_file() {
    let bench = Bench::with_candidate(&RandomModel {
        broken_weight: Some(f32::NAN),
        ..RandomModel::default()
    });
    let expected = ["model.safetensors", "model.layers.1.mlp.up_proj.weight"];
    bench.refuses(&[], &expected);

    let bench = Bench::with_candidate(&RandomModel::default());
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
fn tables_of_prompts_and_texts_must_have_rows() {
    let bench = Bench::with_candidate(&RandomModel::default());
    let neutral = bench.neutral_texts(0);
    let expected = ["the neutral table has no rows"];
    bench.refuses(&["--neutral", &neutral], &expected);

    let path = bench.path("prompts.parquet");
    write_table::<PromptRow>(&path, &[]).unwrap();
    bench.refuses(&[], &["the prompts table has no rows"]);
    let twice = [prompts(PROMPTS), prompts(1)].concat();
    write_table(&path, &twice).unwrap();
    let expected = [twice[0].prompt_id.as_str(), "occurs more than once"];
    bench.refuses(&[], &expected);
}

#[test]
fn prompts_too_long_for_the_model_or_the_judge_are_refused_by_name() {
    let small = RandomModel {
        context: 40,
        ..RandomModel::default()
    };
    let bench = Bench::new(&small);
    // The judge reads the request twice, the model once.
    let template = bench.model.join("judge_template.json");
    let text = fs::read_to_string(&template).unwrap();
    let text = text.replace("{{ request }}", "{{ request }} {{ request }}");
    fs::write(&template, text).unwrap();
    bench.push("s.safetensors", 1, 9, 0.01);
    for (words, expected) in [
        (40, "that exceeds the model's context of 40"),
        (20, "tokens before any answer; the model's context is 40"),
    ] {
        let mut rows = prompts(PROMPTS);
        let long = PromptRow::new(vec![Message::user("w9 ".repeat(words))], "train", "test");
        let id = long.prompt_id.clone();
        rows.push(long);
        write_table(&bench.path("prompts.parquet"), &rows).unwrap();
        bench.refuses(&["--gate", "none"], &[&id, expected]);
    }
}

#[test]
fn settings_of_the_sampler_are_checked() {
    let bench = Bench::with_candidate(&RandomModel::default());
    for (flag, value) in [
        ("--top-p", "0"),
        ("--temperature", "-1"),
        ("--min-p", "2"),
        ("--repetition-penalty", "0"),
    ] {
        bench.refuses(&[&format!("{flag}={value}")], &[flag.trim_matches('-')]);
    }
}

#[test]
fn a_base_that_says_nothing_is_refused_and_one_that_says_little_is_not() {
    let bench = Bench::with_candidate(&RandomModel::default());
    let silent = bench.base_answers(|_| vec![1]);
    for gate in ["none", "standard"] {
        bench.refuses(
            &["--gate", gate, "--base-responses", &silent],
            &["base model's answers", "are all empty", "`max-new-tokens`"],
        );
    }
    // Answers to every fifth prompt only: many a resample holds none of them.
    let quiet = bench.base_answers(|number| match number % 5 {
        0 => vec![9, 10, 11, 1],
        _ => vec![1],
    });
    let arguments = [&ANY_GAIN[..], &["--base-responses", &quiet]].concat();
    succeeded(&bench.run("quiet", "s.safetensors", &arguments));
    let arguments = ["--gate", "none", "--base-responses", &quiet];
    succeeded(&bench.run("measured", "s.safetensors", &arguments));
    assert!(bench.metric("measured", "length_ratio").value > 1.0);
}
