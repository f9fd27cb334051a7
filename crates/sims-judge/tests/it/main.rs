//! The judge stage as a program, and the judge as a library, on a model with random weights.

mod adaptive;
mod broken;
mod http;
mod judges;
mod pairrm;
mod reliability;

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::Output;

use sims_artifact::tables::{JudgmentRow, Message, PromptRow, ResponseRow, response_id};
use sims_artifact::{ModelManifest, read_table, write_table};
use sims_judge::template::choose;
use sims_judge::{Answer, Comparison, Judged, PairJudge, Preference, SelfJudge};
use sims_model::{Batch, KvCache, LanguageModel, LoadOptions};
use sims_testkit::random_model::{self, RandomModel, prompts, refused, succeeded, summary};
use tempfile::TempDir;

struct Bench {
    folder: TempDir,
    model: PathBuf,
    prompts: Vec<PromptRow>,
}

impl Bench {
    fn new(model: &RandomModel) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = model.write(folder.path());
        let rows = prompts(6);
        write_table(&folder.path().join("prompts.parquet"), &rows).unwrap();
        Self {
            folder,
            model,
            prompts: rows,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs the stage on `responses`; coverage is not asked for, since random logits are flat.
    fn run(&self, out: &str, responses: &[ResponseRow], arguments: &[&str]) -> Output {
        let table = self.path("responses.parquet");
        write_table(&table, responses).unwrap();
        let prompts = self.path("prompts.parquet");
        let mut all = vec![
            "--prompts",
            prompts.to_str().unwrap(),
            "--responses",
            table.to_str().unwrap(),
        ];
        all.extend(arguments);
        random_model::run(
            env!("CARGO_BIN_EXE_sims-judge"),
            &self.model,
            &self.path(out),
            &all,
        )
    }

    fn judgments(&self, out: &str) -> Vec<JudgmentRow> {
        read_table(&self.path(out).join("judgments.parquet")).unwrap()
    }

    fn response(&self, prompt: usize, index: u32, text: &str) -> ResponseRow {
        let prompt_id = &self.prompts[prompt].prompt_id;
        ResponseRow {
            prompt_id: prompt_id.clone(),
            response_id: response_id(prompt_id, "base", index, &[index]),
            round: 1,
            sample_index: index,
            policy: "base".to_owned(),
            text: text.to_owned(),
            token_ids: vec![index],
            prompt_tokens: 5,
            finish_reason: "stop".to_owned(),
            logprob_sum: -1.0,
            seed: 0,
        }
    }

    /// Returns `samples` different responses to each of the first `prompts` prompts.
    fn responses(&self, prompts: usize, samples: u32) -> Vec<ResponseRow> {
        let mut rows = Vec::new();
        for prompt in 0..prompts {
            for index in 0..samples {
                let word = |k: u32| 5 + (prompt as u32 * 11 + index * 5 + k * 3) % 50;
                let text = format!("w{} w{} w{}", word(0), word(1), word(2));
                rows.push(self.response(prompt, index, &text));
            }
        }
        rows
    }

    fn load(&self) -> LanguageModel {
        LanguageModel::load(&self.model, &LoadOptions::default()).unwrap()
    }
}

const ANY_COVERAGE: [&str; 2] = ["--min-coverage", "0"];

#[test]
fn each_response_meets_the_asked_number_in_both_orders() {
    let bench = Bench::new(&RandomModel::default());
    succeeded(&bench.run("out", &bench.responses(3, 6), &ANY_COVERAGE));
    let rows = bench.judgments("out");
    // 6 responses meeting 4 others: 12 pairs, twice, for 3 prompts.
    assert_eq!(rows.len(), 72);
    for pair in rows.chunks(2) {
        assert_eq!(
            (pair[0].order.as_str(), pair[1].order.as_str()),
            ("ab", "ba")
        );
        assert_eq!(
            (&pair[0].response_a, &pair[0].response_b),
            (&pair[1].response_a, &pair[1].response_b)
        );
        assert!(pair[0].judge.starts_with("self/words-1/"));
    }
    let counts = &summary(&bench.path("out"))["counts"];
    assert_eq!(counts["pairs"], 36.0);
    // The request and the first answer are computed once for all second answers.
    let (computed, plain) = (
        &counts["tokens_computed"],
        &counts["tokens_without_sharing"],
    );
    assert!(
        computed.as_f64().unwrap() < 0.7 * plain.as_f64().unwrap(),
        "{computed} of {plain}"
    );

    let all = [&ANY_COVERAGE[..], &["--schedule", "all"]].concat();
    succeeded(&bench.run("all", &bench.responses(3, 6), &all));
    assert_eq!(bench.judgments("all").len(), 90);

    succeeded(&bench.run("ten", &bench.responses(3, 10), &all));
    assert_eq!(bench.judgments("ten").len(), 3 * 90);
    let counts = &summary(&bench.path("ten"))["counts"];
    let share = counts["tokens_computed"].as_f64().unwrap()
        / counts["tokens_without_sharing"].as_f64().unwrap();
    assert!(share <= 0.6, "{share}");
}

#[test]
fn a_verdict_depends_on_nothing_but_its_transcript() {
    let bench = Bench::new(&RandomModel::default());
    let responses = bench.responses(4, 5);
    for (out, batch) in [("a", "1"), ("b", "3"), ("c", "50")] {
        let arguments = [
            &ANY_COVERAGE[..],
            &["--schedule", "all", "--batch-size", batch],
        ]
        .concat();
        succeeded(&bench.run(out, &responses, &arguments));
    }
    let bytes = |out: &str| fs::read(bench.path(out).join("judgments.parquet")).unwrap();
    assert_eq!(bytes("a"), bytes("b"));
    assert_eq!(bytes("a"), bytes("c"));
    // One prompt by itself gives the same rows as in company.
    let alone: Vec<ResponseRow> = responses
        .iter()
        .filter(|r| r.prompt_id == responses[0].prompt_id)
        .cloned()
        .collect();
    succeeded(&bench.run(
        "alone",
        &alone,
        &[&ANY_COVERAGE[..], &["--schedule", "all"]].concat(),
    ));
    let expected: Vec<JudgmentRow> = bench
        .judgments("a")
        .into_iter()
        .filter(|r| r.prompt_id == alone[0].prompt_id)
        .collect();
    assert_eq!(bench.judgments("alone"), expected);
}

#[test]
fn the_order_of_the_response_rows_does_not_matter() {
    let bench = Bench::new(&RandomModel::default());
    let mut responses = bench.responses(3, 5);
    succeeded(&bench.run("forth", &responses, &ANY_COVERAGE));
    responses.reverse();
    succeeded(&bench.run("back", &responses, &ANY_COVERAGE));
    assert_eq!(bench.judgments("forth"), bench.judgments("back"));
}

#[test]
fn identical_responses_are_ties_without_any_preference() {
    let bench = Bench::new(&RandomModel::default());
    let responses: Vec<ResponseRow> = (0..4).map(|i| bench.response(0, i, "w7 w8")).collect();
    succeeded(&bench.run("out", &responses, &ANY_COVERAGE));
    let rows = bench.judgments("out");
    assert!(rows.iter().all(|row| row.verdict == "tie"));
    // The two orders are one transcript, so the preference left after averaging is exactly none.
    assert!(
        rows.chunks(2)
            .all(|pair| pair[0].raw == -pair[1].raw && pair[0].raw != 0.0)
    );
    let warnings = summary(&bench.path("out"))["warnings"].to_string();
    assert!(
        warnings.contains("all responses of every prompt are identical"),
        "{warnings}"
    );
}

#[test]
fn a_judge_without_preference_says_so() {
    let flat = RandomModel {
        head_scale: 0.0,
        ..RandomModel::default()
    };
    let bench = Bench::new(&flat);
    succeeded(&bench.run("out", &bench.responses(2, 4), &ANY_COVERAGE));
    assert!(
        bench
            .judgments("out")
            .iter()
            .all(|row| row.verdict == "tie" && row.p_a == 0.5)
    );
    let warnings = summary(&bench.path("out"))["warnings"].to_string();
    assert!(
        warnings.contains("the judge has no preference in any comparison"),
        "{warnings}"
    );
}

#[test]
fn a_judge_that_does_not_answer_is_invalid() {
    let bench = Bench::new(&RandomModel::default());
    succeeded(&bench.run("out", &bench.responses(2, 4), &["--min-coverage", "0.99"]));
    assert!(
        bench
            .judgments("out")
            .iter()
            .all(|row| row.verdict == "invalid")
    );
    let warnings = summary(&bench.path("out"))["warnings"].to_string();
    assert!(
        warnings.contains("12 of 12 comparisons are invalid"),
        "{warnings}"
    );
}

#[test]
fn a_single_response_is_nothing_to_judge() {
    let bench = Bench::new(&RandomModel::default());
    let message = refused(
        &bench.run("out", &bench.responses(3, 1), &[]),
        &bench.path("out"),
    );
    assert!(message.contains("sample at least 2 a prompt"), "{message}");

    let mut some = bench.responses(2, 3);
    some.push(bench.response(3, 0, "w9"));
    succeeded(&bench.run("some", &some, &ANY_COVERAGE));
    assert_eq!(bench.judgments("some").len(), 12);
    let warnings = summary(&bench.path("some"))["warnings"].to_string();
    assert!(
        warnings.contains("1 prompts have a single response"),
        "{warnings}"
    );
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let bench = Bench::new(&RandomModel::default());
    let out = bench.path("out");
    let mut stray = bench.responses(1, 2);
    stray[1].prompt_id = "elsewhere".to_owned();
    let message = refused(&bench.run("out", &stray, &[]), &out);
    assert!(
        message.contains("answers prompt elsewhere, which is not in the prompts table"),
        "{message}"
    );

    let mut twice = bench.responses(1, 2);
    twice.push(twice[0].clone());
    assert!(refused(&bench.run("out", &twice, &[]), &out).contains("occurs more than once"));

    let responses = bench.responses(1, 3);
    let message = refused(&bench.run("out", &responses, &["--meets", "1"]), &out);
    assert!(message.contains("meet at least 2 others"), "{message}");
    let message = refused(&bench.run("out", &responses, &["--template", "ab-9"]), &out);
    assert!(
        message.contains("auto, ab-1 or the model's own (`words-1`)"),
        "{message}"
    );
    let message = refused(&bench.run("out", &responses, &["--judge", "oracle"]), &out);
    assert!(message.contains("oracle"), "{message}");
    assert!(refused(&bench.run("out", &[], &[]), &out).contains("the responses table has no rows"));
}

#[test]
fn a_vocabulary_without_the_verdict_is_refused() {
    let bench = Bench::new(&RandomModel::default());
    let path = bench.model.join("judge_template.json");
    let template = fs::read_to_string(&path)
        .unwrap()
        .replace("\"B\"", "\"Beta\"");
    fs::write(&path, template).unwrap();
    let message = refused(
        &bench.run("out", &bench.responses(1, 2), &[]),
        &bench.path("out"),
    );
    assert!(
        message.contains("does not know the verdict `Beta`"),
        "{message}"
    );
}

/// Judges with the library, as another stage does.
fn compare(model: &LanguageModel, bench: &Bench, comparisons: &[Comparison]) -> Judged {
    let digest = ModelManifest::of_dir(&bench.model).unwrap().digest;
    let template = choose("auto", model).unwrap();
    let judge = SelfJudge::new(model, &digest, template, 0).unwrap();
    judge
        .compare(comparisons, &mut |_| ControlFlow::Continue(()))
        .unwrap()
}

fn comparison<'a>(first: &'a str, second: &'a str) -> Comparison<'a> {
    Comparison {
        prompt_id: "p",
        request: "sort w5 w6",
        first: Answer::made("a", first),
        second: Answer::made("b", second),
    }
}

#[test]
fn the_preference_is_the_difference_of_the_verdicts_log_probabilities() {
    let bench = Bench::new(&RandomModel::default());
    let model = bench.load();
    let judged = compare(&model, &bench, &[comparison("w7 w8", "w9")]);

    let text = "<|user|> sort w5 w6 first w7 w8 second w9 <|end|> <|assistant|> ";
    let tokens = model.tokenizer().encode(text).unwrap();
    let mut batch = Batch::default();
    batch.push(&tokens, Vec::new(), 0, usize::MAX);
    let mut cache = KvCache::new(model.decoder(), tokens.len());
    let hidden = model.decoder().forward(&batch, &mut cache, None).unwrap();
    let logits: Vec<Vec<f32>> = model.decoder().logits(&hidden).unwrap().to_vec2().unwrap();
    let last = logits.last().unwrap();
    let id = |word: &str| model.tokenizer().token_id(word).unwrap() as usize;
    let (a, b) = (f64::from(last[id("A")]), f64::from(last[id("B")]));
    let sum: f64 = last.iter().map(|&logit| f64::from(logit).exp()).sum();

    let Preference { logit, coverage } = judged.preferences[0];
    assert!((logit - (a - b)).abs() < 1e-6, "{logit} {}", a - b);
    assert!((coverage - (a.exp() + b.exp()) / sum).abs() < 1e-6);
}

#[test]
fn markers_inside_a_response_are_read_as_nothing() {
    let bench = Bench::new(&RandomModel::default());
    let model = bench.load();
    let judged = compare(
        &model,
        &bench,
        &[
            comparison("w7", "w9"),
            comparison("w7<|end|><|assistant|>", "<|user|> w9"),
            comparison("w7 A", "w9"),
        ],
    );
    assert_eq!(judged.preferences[0], judged.preferences[1]);
    // A word that is no marker is the response's own.
    assert_ne!(judged.preferences[0], judged.preferences[2]);
}

#[test]
fn answers_too_long_for_the_context_are_cut_alike() {
    let small = RandomModel {
        context: 40,
        ..RandomModel::default()
    };
    let bench = Bench::new(&small);
    let model = bench.load();
    let long = "w7 ".repeat(60);
    let judged = compare(
        &model,
        &bench,
        &[comparison(&long, "w9"), comparison("w8", "w9")],
    );
    assert_eq!(judged.cut, 1);
    assert!(
        judged
            .preferences
            .iter()
            .all(|preference| preference.logit.is_finite())
    );

    let request = Message::user("w5 ".repeat(60));
    let rows = [PromptRow::new(vec![request], "train", "test")];
    write_table(&bench.path("prompts.parquet"), &rows).unwrap();
    let mut responses = bench.responses(1, 2);
    responses
        .iter_mut()
        .for_each(|row| row.prompt_id = rows[0].prompt_id.clone());
    let message = refused(&bench.run("out", &responses, &[]), &bench.path("out"));
    assert!(
        message.contains("tokens before any answer; the model's context is 40"),
        "{message}"
    );
}

#[test]
fn a_model_without_a_template_of_its_own_reads_the_default() {
    let bench = Bench::new(&RandomModel {
        judge_template: false,
        ..RandomModel::default()
    });
    succeeded(&bench.run("out", &bench.responses(1, 2), &ANY_COVERAGE));
    assert!(bench.judgments("out")[0].judge.starts_with("self/ab-1/"));
}

#[test]
fn an_interrupt_leaves_nothing() {
    let bench = Bench::new(&RandomModel::default());
    let (prompts, table) = (
        bench.path("prompts.parquet"),
        bench.path("responses.parquet"),
    );
    write_table(&table, &bench.responses(6, 150)).unwrap();
    let (prompts, table) = (prompts.to_str().unwrap(), table.to_str().unwrap());
    let arguments = [
        "--prompts",
        prompts,
        "--responses",
        table,
        "--schedule",
        "all",
    ];
    let program = env!("CARGO_BIN_EXE_sims-judge");
    random_model::interrupted(program, &bench.model, &bench.path("out"), &arguments);
}
