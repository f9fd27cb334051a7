//! Judges other than the model itself, through the stage.

use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Output};

use sims_artifact::tables::{JudgmentRow, RatingRow, ResponseRow};
use sims_artifact::{ModelManifest, write_table};
use sims_judge::rating::RatingJudge;
use sims_judge::{Answer, Comparison, PairJudge};
use sims_model::{Batch, ChatMessage, KvCache, LanguageModel, LoadOptions};
use sims_testkit::random_model::{RandomModel, refused, succeeded, summary};
use sims_testkit::repository;

use crate::{ANY_COVERAGE, Bench};

impl Bench {
    /// Runs the stage without a model.
    fn run_without_model(
        &self,
        out: &str,
        responses: &[ResponseRow],
        arguments: &[&str],
    ) -> Output {
        let mut command = self.command_without_model(out, responses, arguments);
        command.output().unwrap()
    }

    /// Returns the stage's command without a model.
    pub(crate) fn command_without_model(
        &self,
        out: &str,
        responses: &[ResponseRow],
        arguments: &[&str],
    ) -> Command {
        let table = self.path("responses.parquet");
        write_table(&table, responses).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_sims-judge"));
        command
            .arg("--prompts")
            .arg(self.path("prompts.parquet"))
            .arg("--responses")
            .arg(table)
            .arg("--out")
            .arg(self.path(out))
            .args(arguments);
        command
    }

    pub(crate) fn refuses_without_model(&self, arguments: &[&str], expected: &str) {
        let output = self.run_without_model("refused", &self.responses(2, 4), arguments);
        let message = refused(&output, &self.path("refused"));
        assert!(message.contains(expected), "{message}");
    }
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn annotations_give_back_the_judgments_that_they_are() {
    let bench = Bench::new(&RandomModel::default());
    let responses = bench.responses(3, 6);
    succeeded(&bench.run("asked", &responses, &ANY_COVERAGE));
    let asked = bench.judgments("asked");
    let table = bench.path("asked").join("judgments.parquet");
    let arguments = [
        "--judge",
        "file",
        "--annotations",
        text(&table),
        "--min-coverage",
        "0",
    ];
    succeeded(&bench.run_without_model("read", &responses, &arguments));
    let read = bench.judgments("read");
    assert_eq!(read.len(), asked.len());
    for (read, asked) in read.iter().zip(&asked) {
        assert!(read.judge.starts_with("file/pairs/"));
        let judge = asked.judge.clone();
        assert_eq!(
            &JudgmentRow {
                judge,
                ..read.clone()
            },
            asked
        );
    }
    // Nobody can annotate answers that were never sampled.
    assert_eq!(summary(&bench.path("read"))["counts"]["controls"], 0.0);
}

#[test]
fn a_pair_annotated_in_one_order_has_no_position_bias() {
    let bench = Bench::new(&RandomModel::default());
    let responses = bench.responses(2, 4);
    succeeded(&bench.run("asked", &responses, &ANY_COVERAGE));
    let mut rows = bench.judgments("asked");
    rows.retain(|row| row.order == "ab");
    let table = bench.path("one.parquet");
    write_table(&table, &rows).unwrap();
    let arguments = [
        "--judge",
        "file",
        "--annotations",
        text(&table),
        "--min-coverage",
        "0",
    ];
    succeeded(&bench.run_without_model("read", &responses, &arguments));
    let read = bench.judgments("read");
    assert_eq!(read.len(), 2 * rows.len());
    for (orders, row) in read.chunks(2).zip(&rows) {
        assert_eq!((orders[0].raw, orders[1].raw), (row.raw, row.raw));
    }
}

fn rating(response: &ResponseRow, rating: Option<f64>) -> RatingRow {
    RatingRow {
        prompt_id: response.prompt_id.clone(),
        response_id: response.response_id.clone(),
        rating,
    }
}

#[test]
fn ratings_give_log_odds_by_their_scaled_difference() {
    let bench = Bench::new(&RandomModel::default());
    let responses = bench.responses(2, 4);
    let rows: Vec<RatingRow> = responses
        .iter()
        .map(|response| rating(response, Some(f64::from(response.sample_index * 3))))
        .collect();
    let table = bench.path("ratings.parquet");
    write_table(&table, &rows).unwrap();
    let arguments = [
        "--judge",
        "file",
        "--ratings",
        text(&table),
        "--rating-scale",
        "0.5",
    ];
    succeeded(&bench.run_without_model("read", &responses, &arguments));
    let index = |id: &str| {
        let of = |response: &&ResponseRow| response.response_id == id;
        f64::from(responses.iter().find(of).unwrap().sample_index)
    };
    for row in bench.judgments("read") {
        let expected = 1.5 * (index(&row.response_a) - index(&row.response_b));
        assert_eq!(row.raw, expected);
        assert!(row.judge.starts_with("file/ratings/"), "{}", row.judge);
    }
}

#[test]
fn a_pair_without_annotation_fails_by_name_or_is_left_out_and_counted() {
    let bench = Bench::new(&RandomModel::default());
    let responses = bench.responses(2, 4);
    let mut rows: Vec<RatingRow> = responses.iter().map(|r| rating(r, Some(1.0))).collect();
    rows[2].rating = None;
    let table = bench.path("ratings.parquet");
    write_table(&table, &rows).unwrap();
    let arguments = ["--judge", "file", "--ratings", text(&table)];
    let output = bench.run_without_model("failed", &responses, &arguments);
    let message = refused(&output, &bench.path("failed"));
    for part in [
        &responses[2].prompt_id,
        &responses[2].response_id,
        "--missing skip",
    ] {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
    assert!(message.contains("nor of 5 other comparisons"), "{message}");

    let skipping = [&arguments[..], &["--missing", "skip"]].concat();
    succeeded(&bench.run_without_model("skipped", &responses, &skipping));
    let judged = bench.judgments("skipped");
    // One response of four meets three others.
    assert_eq!(judged.len(), 2 * (12 - 3));
    let of = |row: &JudgmentRow, id: &str| row.response_a == id || row.response_b == id;
    assert!(judged.iter().all(|row| !of(row, &responses[2].response_id)));
    assert_eq!(
        summary(&bench.path("skipped"))["counts"]["pairs_not_annotated"],
        3.0
    );

    rows.iter_mut().for_each(|row| row.rating = None);
    write_table(&table, &rows).unwrap();
    bench.refuses_without_model(&skipping, "none of the 12 pairs is annotated");
}

#[test]
fn annotations_that_mean_nothing_are_refused_by_their_row() {
    let bench = Bench::new(&RandomModel::default());
    let responses = bench.responses(2, 4);
    succeeded(&bench.run("asked", &responses, &ANY_COVERAGE));
    let rows = bench.judgments("asked");
    let table = bench.path("pairs.parquet");
    let arguments = ["--judge", "file", "--annotations", text(&table)];
    let spoil = |spoiled: &dyn Fn(&mut Vec<JudgmentRow>), expected: &str| {
        let mut rows = rows.clone();
        spoiled(&mut rows);
        write_table(&table, &rows).unwrap();
        bench.refuses_without_model(&arguments, expected);
    };
    spoil(
        &|rows| rows[3].raw = f64::INFINITY,
        "pairs.parquet, row 3 (from 0): raw is inf",
    );
    spoil(
        &|rows| rows[1].order = "up".to_owned(),
        "the order is `up`; write ab or ba",
    );
    spoil(
        &|rows| rows[5] = rows[4].clone(),
        "a second time; keep one row a pair and order",
    );
    let ratings = bench.path("ratings.parquet");
    let twice = vec![rating(&responses[0], Some(1.0)); 2];
    write_table(&ratings, &twice).unwrap();
    let arguments = ["--judge", "file", "--ratings", text(&ratings)];
    bench.refuses_without_model(&arguments, "has a second rating");
    write_table(&ratings, &[rating(&responses[0], Some(f64::NAN))]).unwrap();
    bench.refuses_without_model(&arguments, "the rating is NaN");
}

#[test]
fn a_noisy_judge_errs_on_the_same_pairs_whatever_the_batch() {
    let bench = Bench::new(&RandomModel::default());
    let responses = bench.responses(4, 6);
    succeeded(&bench.run("oracle", &responses, &ANY_COVERAGE));
    let noisy = ["--judge", "noisy", "--error-rate", "0.3", "--seed", "5"];
    for (out, batch) in [("a", "1"), ("b", "50")] {
        let arguments = [&ANY_COVERAGE[..], &noisy, &["--batch-size", batch]].concat();
        succeeded(&bench.run(out, &responses, &arguments));
    }
    assert_eq!(bench.judgments("a"), bench.judgments("b"));
    // The schedule has a seed of its own, so pairs are matched by name.
    succeeded(&bench.run(
        "oracle",
        &responses,
        &[&ANY_COVERAGE[..], &["--seed", "5"]].concat(),
    ));
    let (mut errors, mut pairs) = (0, 0);
    for (noisy, oracle) in bench
        .judgments("a")
        .chunks(2)
        .zip(bench.judgments("oracle").chunks(2))
    {
        pairs += 1;
        assert!(noisy[0].judge.starts_with("noisy/0.3/5/self/"));
        let mistaken = noisy[0].raw != oracle[0].raw;
        errors += u32::from(mistaken);
        let expected = match mistaken {
            // The judge took one answer for the other.
            true => (-oracle[1].raw, -oracle[0].raw),
            false => (oracle[0].raw, oracle[1].raw),
        };
        assert_eq!((noisy[0].raw, noisy[1].raw), expected);
    }
    assert_eq!(pairs, 48);
    assert!((5..25).contains(&errors), "{errors} of 48");
}

#[test]
fn planted_judges_prefer_what_they_are_told_to() {
    let bench = Bench::new(&RandomModel::default());
    let mut responses = bench.responses(2, 4);
    for response in &mut responses {
        response.token_ids = vec![1; 1 + response.sample_index as usize];
    }
    let longer = ["--judge", "planted-length", "--length-weight", "0.5"];
    succeeded(&bench.run_without_model("longer", &responses, &longer));
    assert!(
        bench
            .judgments("longer")
            .iter()
            .all(|row| row.raw <= -0.5 && row.verdict == "b")
    );
    assert_eq!(summary(&bench.path("longer"))["counts"]["flip_rate"], 0.0);

    succeeded(&bench.run_without_model("first", &responses, &["--judge", "planted-first"]));
    assert_eq!(summary(&bench.path("first"))["counts"]["flip_rate"], 1.0);
    let message = refused(
        &bench.run_without_model(
            "collapsed",
            &responses,
            &["--judge", "planted-first", "--unreliable", "refuse"],
        ),
        &bench.path("collapsed"),
    );
    assert!(message.contains("its flip_rate is 1.000"), "{message}");
}

#[test]
fn a_bias_for_length_is_added_to_any_judge_and_grows_with_the_round() {
    let bench = Bench::new(&RandomModel::default());
    let mut responses = bench.responses(2, 4);
    for response in &mut responses {
        response.token_ids = vec![1; 1 + response.sample_index as usize];
    }
    succeeded(&bench.run("plain", &responses, &ANY_COVERAGE));
    let biased = ["--length-bias", "0.5", "--length-bias-growth", "0.25"];
    for round in [1, 3] {
        responses
            .iter_mut()
            .for_each(|response| response.round = round);
        succeeded(&bench.run("biased", &responses, &[&ANY_COVERAGE[..], &biased].concat()));
        let bias = 0.5 + 0.25 * f64::from(round - 1);
        let index = |id: &str| {
            let of = |response: &&ResponseRow| response.response_id == id;
            f64::from(responses.iter().find(of).unwrap().sample_index)
        };
        for (plain, row) in bench
            .judgments("plain")
            .iter()
            .zip(bench.judgments("biased"))
        {
            let expected = plain.raw + bias * (index(&row.response_a) - index(&row.response_b));
            assert!((row.raw - expected).abs() < 1e-12);
            assert!(
                row.judge.ends_with(&format!("/length-bias/{bias}")),
                "{}",
                row.judge
            );
        }
    }
}

#[test]
fn parameters_that_do_not_go_together_are_refused() {
    let bench = Bench::new(&RandomModel::default());
    for (arguments, expected) in [
        (
            &["--judge", "self"][..],
            "judge `self` asks a model, and none is given; give --model",
        ),
        (&["--judge", "file"], "give one of them"),
        (
            &["--judge", "noisy", "--oracle", "planted-first"],
            "needs error-rate",
        ),
        (
            &["--judge", "noisy", "--oracle", "noisy", "--error-rate", "0"],
            "cannot be `noisy` itself",
        ),
        (
            &[
                "--judge",
                "noisy",
                "--oracle",
                "planted-first",
                "--error-rate",
                "0.7",
            ],
            "error-rate is 0.7",
        ),
        (&["--judge", "planted-length"], "needs length-weight"),
        (
            &["--judge", "ensemble", "--members", "planted-first"],
            "name at least two",
        ),
        (
            &["--judge", "ensemble", "--members", "noisy,planted-first"],
            "`noisy` cannot be a member",
        ),
        (
            &["--judge", "planted-first", "--pooling", "majority"],
            "choose judge `ensemble`",
        ),
        (
            &["--judge", "planted-first", "--error-rate", "0.1"],
            "choose judge `noisy`",
        ),
        (
            &["--judge", "planted-first", "--missing", "skip"],
            "choose judge `file`",
        ),
        (
            &["--judge", "planted-first", "--length-bias", "inf"],
            "length-bias is inf",
        ),
    ] {
        bench.refuses_without_model(arguments, expected);
    }
}

#[test]
fn a_rating_is_the_mean_over_the_digits_of_the_answer_alone() {
    let folder = repository().join("data/tiny");
    let model = LanguageModel::load(&folder, &LoadOptions::default()).unwrap();
    let digest = ModelManifest::of_dir(&folder).unwrap().digest;
    let judge = RatingJudge::new(&model, &digest, 2.0, 0).unwrap();
    let answer = |text| Answer::made("a", text);
    let comparison = |first, second| Comparison {
        prompt_id: "p",
        request: "sort : pear fig",
        first: answer(first),
        second: answer(second),
    };
    let asked = [
        comparison("fig , pear", "pear"),
        comparison("pear", "fig , pear"),
        comparison("pear", "cat"),
        comparison("fig , pear", "cat"),
    ];
    let judged = judge
        .compare(&asked, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    let logit = |index: usize| judged.preferences[index].logit;
    assert_eq!(logit(0), -logit(1));
    assert!((logit(0) + logit(2) - logit(3)).abs() < 1e-12);
    assert!(logit(0) != 0.0 && judged.preferences[0].coverage < 0.5);

    // The same from the logits of a forward pass over the whole transcript.
    let rating = |text: &str| -> f64 {
        let user = format!(
            "Request:\n<<<\nsort : pear fig\n>>>\n\nAnswer:\n<<<\n{text}\n>>>\nRate how well the answer serves the \
             request from 1 (useless) to 9 (excellent). Its length carries no information. Reply with one digit."
        );
        let messages = [ChatMessage::new("user", user)];
        let prompt = model.chat_template().unwrap().render(&messages, true);
        let tokens = model
            .tokenizer()
            .encode(&(prompt.unwrap() + "Rating:"))
            .unwrap();
        let mut batch = Batch::default();
        batch.push(&tokens, Vec::new(), 0, usize::MAX);
        let mut cache = KvCache::new(model.decoder(), tokens.len());
        let hidden = model.decoder().forward(&batch, &mut cache, None).unwrap();
        let logits: Vec<Vec<f32>> = model.decoder().logits(&hidden).unwrap().to_vec2().unwrap();
        let (mut sum, mut total) = (0.0, 0.0);
        for digit in 1..=9 {
            let id = model.tokenizer().token_id(&digit.to_string()).unwrap();
            let weight = f64::from(logits.last().unwrap()[id as usize]).exp();
            sum += f64::from(digit) * weight;
            total += weight;
        }
        sum / total
    };
    let expected = 2.0 * (rating("fig , pear") - rating("pear"));
    assert!(
        (logit(0) - expected).abs() < 1e-5,
        "{} {expected}",
        logit(0)
    );
}

#[test]
fn a_vocabulary_without_digits_cannot_rate() {
    let bench = Bench::new(&RandomModel::default());
    let output = bench.run("out", &bench.responses(1, 3), &["--judge", "rating"]);
    let message = refused(&output, &bench.path("out"));
    assert!(
        message.contains("`1` is no single token of this model"),
        "{message}"
    );
}

#[test]
fn an_ensemble_judges_by_the_mean_and_tells_how_far_its_members_agree() {
    let bench = Bench::new(&RandomModel::default());
    let mut responses = bench.responses(4, 5);
    for response in &mut responses {
        response.token_ids = vec![1; 1 + response.sample_index as usize];
    }
    succeeded(&bench.run("self", &responses, &ANY_COVERAGE));
    let ensemble = [
        "--judge",
        "ensemble",
        "--members",
        "self,planted-length",
        "--member-temperatures",
        "1,2",
        "--length-weight",
        "0.5",
    ];
    let arguments = [&ANY_COVERAGE[..], &ensemble].concat();
    succeeded(&bench.run("both", &responses, &arguments));
    let index = |id: &str| {
        let of = |response: &&ResponseRow| response.response_id == id;
        f64::from(responses.iter().find(of).unwrap().sample_index)
    };
    for (alone, row) in bench.judgments("self").iter().zip(bench.judgments("both")) {
        let longer = index(&row.response_a) - index(&row.response_b);
        assert!((row.raw - (alone.raw + 0.25 * longer) / 2.0).abs() < 1e-12);
        assert!(
            row.judge.starts_with("ensemble/mean(self/words-1/"),
            "{}",
            row.judge
        );
    }
    let figures = bench.reliability("both");
    let row = &figures["members_1_2_agreement"];
    assert!((0.0..1.0).contains(&row.value) && row.n == 4, "{row:?}");
    assert!(figures.contains_key("members_1_2_kappa"));
    // The planted member is all length, the self judge knows nothing of it.
    assert!(figures["length_bias"].value > 0.0);
}

#[test]
fn a_planted_bias_for_length_is_what_the_reliability_says() {
    let bench = Bench::new(&RandomModel::default());
    let mut responses = bench.responses(4, 5);
    for response in &mut responses {
        response.token_ids = vec![1; 1 + response.sample_index as usize];
    }
    let longer = ["--judge", "planted-length", "--length-weight", "0.125"];
    succeeded(&bench.run_without_model("longer", &responses, &longer));
    let figures = bench.reliability("longer");
    assert!((figures["length_bias"].value - 0.125).abs() < 1e-12);
    assert_eq!(figures["transitivity_violations"].value, 0.0);
}
