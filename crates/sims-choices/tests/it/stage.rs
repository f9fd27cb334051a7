//! The stage as a program, and the steered model beside the base.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use sims_artifact::tables::{ChoiceScoreRow, ChoicesRow, MetricRow};
use sims_artifact::{Digest, ModelManifest, read_table, write_table};
use sims_choices::ChoicesParams;
use sims_choices::encode::Encoder;
use sims_choices::tasks::read_tasks;
use sims_model::score::{ScoreLimits, ScoreRequest, response_logprobs};
use sims_model::{LanguageModel, LoadOptions};
use sims_steering::{Additive, Condition, ConditionBlock, Edit, Operator, Steering};
use sims_testkit::random_model::{run, succeeded, summary};

use super::{arguments, reference, scored, tasks_file};

const HIDDEN: usize = 32;

/// Saves a steering that adds a fixed vector after block 0, on a condition or without one.
fn steering(folder: &Path, scale: f32, condition: Option<Condition>) -> PathBuf {
    let digest = ModelManifest::of_dir(&reference("model")).unwrap().digest;
    let mut steering = Steering::identity(digest, HIDDEN, 2);
    if scale != 0.0 {
        let vector = (0..HIDDEN).map(|i| scale * (i as f32).sin()).collect();
        let mut edit = Edit::new(Operator::Additive(Additive::new(vector).unwrap()));
        edit.condition = condition.map(Arc::new);
        steering
            .push(usize::from(edit.condition.is_some()), edit)
            .unwrap();
    }
    let path = folder.join(format!("steering-{scale}.safetensors"));
    steering.save(&path).unwrap();
    path
}

fn run_stage(out: &Path, tasks: &Path, steering: Option<&Path>, more: &[&str]) {
    let mut all = vec!["--tasks", tasks.to_str().unwrap()];
    if let Some(path) = steering {
        all.extend(["--steering", path.to_str().unwrap()]);
    }
    all.extend(more);
    let output = run(
        env!("CARGO_BIN_EXE_sims-choices"),
        &reference("model"),
        out,
        &all,
    );
    succeeded(&output);
}

fn scores(out: &Path) -> Vec<ChoiceScoreRow> {
    read_table(&out.join("choices-scores.parquet")).unwrap()
}

#[test]
fn batches_and_threads_change_no_byte_and_share_prefixes() {
    let folder = tempfile::tempdir().unwrap();
    let tasks = tasks_file(folder.path(), |task, _| {
        ["arc", "birds", "mc2", "wino"].contains(&task)
    });
    let steering = steering(folder.path(), 0.5, None);
    let mut files = Vec::new();
    for (batch, threads) in [("0", "2"), ("1", "1")] {
        let out = folder.path().join(batch);
        run_stage(
            &out,
            &tasks,
            Some(&steering),
            &[
                "--batch-size",
                batch,
                "--threads",
                threads,
                "--resamples",
                "200",
                "--mutual-information",
                "true",
            ],
        );
        let counts = &summary(&out)["counts"];
        let computed = counts["tokens_computed"].as_f64().unwrap();
        assert!(
            computed < 0.3 * counts["tokens_without_sharing"].as_f64().unwrap(),
            "{counts}"
        );
        files.push(
            ["choices-scores", "metrics"]
                .map(|name| std::fs::read(out.join(format!("{name}.parquet"))).unwrap()),
        );
    }
    assert!(files[0] == files[1]);

    // The base beside a steering is the base by itself; Parquet rows are the same tasks as JSON lines.
    let rows: Vec<ChoicesRow> = read_tasks(&tasks)
        .unwrap()
        .into_iter()
        .flat_map(|task| task.examples.into_iter().chain(task.questions))
        .collect();
    let parquet = folder.path().join("tasks.parquet");
    write_table(&parquet, &rows).unwrap();
    let alone = folder.path().join("alone");
    run_stage(&alone, &parquet, None, &["--mutual-information", "true"]);
    let (base, steered): (Vec<_>, Vec<_>) = scores(&folder.path().join("0"))
        .into_iter()
        .partition(|row| row.policy == "base");
    assert_eq!(scores(&alone), base);
    assert_eq!(base.len(), steered.len());
    assert!(
        base.iter()
            .zip(&steered)
            .all(|(a, b)| a.loglikelihood != b.loglikelihood)
    );

    let metrics: Vec<MetricRow> = read_table(&folder.path().join("0/metrics.parquet")).unwrap();
    let of = |name: &str| metrics.iter().find(|row| row.metric == name).unwrap();
    let difference = of("mc2/mc2_difference");
    assert_eq!((difference.baseline.as_str(), difference.n), ("base", 3));
    assert!((difference.value - (of("mc2/mc2").value - of("mc2/base_mc2").value)).abs() < 1e-12);
    assert!(
        difference.ci_low.unwrap() <= difference.value
            && difference.value <= difference.ci_high.unwrap()
    );
    let stderr = of("mc2/mc2_stderr").value;
    assert!(
        (of("mc2/mc2").ci_high.unwrap() - of("mc2/mc2").value - 1.959964 * stderr).abs() < 1e-6
    );
    assert_eq!(of("letters/acc").n, 3);

    // McNemar's counts are those of the questions' own figures, which the difference is made of.
    let counts = ["steered_only", "base_only"].map(|name| of(&format!("arc/acc_{name}")).value);
    let arc = of("arc/acc_difference");
    assert!(
        (counts[0] - counts[1] - arc.value * arc.n as f64).abs() < 1e-9,
        "{counts:?}"
    );
    let p = of("arc/acc_mcnemar_p");
    assert_eq!(
        (p.method.as_str(), p.baseline.as_str()),
        ("mcnemar-exact", "base")
    );
    assert!(0.0 < p.value && p.value <= 1.0, "{p:?}");
    assert!(
        !metrics
            .iter()
            .any(|row| row.metric.starts_with("mc2/mc2_mcnemar"))
    );
}

#[test]
fn a_steered_choice_is_what_a_pass_of_its_own_gives() {
    let folder = tempfile::tempdir().unwrap();
    let tasks = tasks_file(folder.path(), |task, _| {
        ["arc", "copa", "long"].contains(&task)
    });
    let path = steering(folder.path(), 0.5, None);
    let mut args = arguments(tasks.clone(), reference("model"), ChoicesParams::default());
    args.steering = Some(path.clone());
    let found = scored(&args);
    let policy = format!("steered-{}", Digest::of_file(&path).unwrap().short(12));
    assert_eq!(found["policy"], *policy);
    let model = LanguageModel::load(&reference("model"), &LoadOptions::default()).unwrap();
    let encoder = Encoder::new(model.tokenizer(), 160);
    let loaded = Steering::load(&path).unwrap();
    let mut compared = 0;
    for task in read_tasks(&tasks).unwrap() {
        for question in &task.questions {
            let own = |detail: &&Value| {
                detail["task"] == *task.name
                    && detail["doc_id"] == *question.doc_id
                    && detail["policy"] == *policy
            };
            let detail = found["details"]
                .as_array()
                .unwrap()
                .iter()
                .find(own)
                .unwrap();
            for (index, choice) in question.choices.iter().enumerate() {
                let pair = encoder
                    .pair(&question.context, &format!(" {choice}"))
                    .unwrap();
                if pair.tokens.len() > 160 {
                    // Here the last token runs too, for which the context has no room.
                    continue;
                }
                let mut hook = loaded.hook();
                let request = ScoreRequest::new(&pair.tokens, pair.start);
                let limits = ScoreLimits::default();
                let (alone, _) = response_logprobs(
                    model.decoder(),
                    &[request],
                    &limits,
                    Some(&mut hook),
                    &mut |_| ControlFlow::Continue(()),
                )
                .unwrap();
                let sum: f64 = alone[0].iter().map(|&logprob| f64::from(logprob)).sum();
                assert_eq!(detail["choices"][index]["loglikelihood"], sum);
                compared += 1;
            }
        }
    }
    assert!(compared > 12);
}

#[test]
fn a_condition_is_decided_for_each_question() {
    let folder = tempfile::tempdir().unwrap();
    let direction = (0..HIDDEN)
        .map(|i| if i % 3 == 0 { 1.0 } else { -0.5 })
        .collect();
    // The threshold lies among the cosines of the questions, so that some are steered and some are not.
    let block = ConditionBlock::new(0, vec![0.0; HIDDEN], direction, 0.1).unwrap();
    let path = steering(
        folder.path(),
        0.5,
        Some(Condition::new(vec![block]).unwrap()),
    );
    let score = |doc: Option<&str>| {
        let tasks = tasks_file(folder.path(), |task, doc_id| {
            ["arc", "mc1", "algebra", "spaces"].contains(&task)
                && doc.is_none_or(|doc| doc == doc_id)
        });
        let mut args = arguments(tasks, reference("model"), ChoicesParams::default());
        args.steering = Some(path.clone());
        scored(&args)["details"].as_array().unwrap().clone()
    };
    let all = score(None);
    let mut changed = 0;
    for pair in all.chunks(2) {
        changed += usize::from(pair[0]["choices"] != pair[1]["choices"]);
    }
    assert!(
        0 < changed && changed < all.len() / 2,
        "{changed} of {}",
        all.len() / 2
    );
    for doc in ["0", "1", "4"] {
        let together: Vec<&Value> = all
            .iter()
            .filter(|detail| detail["doc_id"] == *doc)
            .collect();
        let apart = score(Some(doc));
        assert_eq!(together, apart.iter().collect::<Vec<_>>());
    }
}

#[test]
fn an_idle_steering_is_the_base_and_all_positions_can_be_edited() {
    let folder = tempfile::tempdir().unwrap();
    let tasks = tasks_file(folder.path(), |task, _| ["copa", "mc2"].contains(&task));
    let mut args = arguments(tasks.clone(), reference("model"), ChoicesParams::default());
    args.steering = Some(steering(folder.path(), 0.0, None));
    let found = scored(&args);
    let copa = &found["tasks"]["copa"];
    assert_eq!(copa["acc"], copa["base"]["acc"]);
    assert_eq!(copa["difference"]["acc"]["value"], 0.0);
    assert_eq!(
        copa["mcnemar"]["acc"],
        serde_json::json!({"steered_only": 0, "base_only": 0, "p_value": 1.0})
    );
    assert!(found["tasks"]["mc2"].get("mcnemar").is_none());
    let details = found["details"].as_array().unwrap();
    assert_eq!(details[0]["choices"], details[1]["choices"]);

    let path = steering(folder.path(), 0.5, None);
    let first_of = |edit: &str, is_base: bool| {
        let out = folder.path().join(edit);
        let mut rows = scores(&out).into_iter();
        let first = rows.find(|row| (row.policy == "base") == is_base).unwrap();
        (first.task, first.loglikelihood)
    };
    for edit in ["answer", "all"] {
        let out = folder.path().join(edit);
        run_stage(&out, &tasks, Some(&path), &["--edit", edit]);
    }
    assert_eq!(first_of("answer", true), first_of("all", true));
    assert_ne!(first_of("answer", false), first_of("all", false));
}

#[test]
fn without_json_a_line_a_figure_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let tasks = tasks_file(folder.path(), |task, _| ["copa", "mc2"].contains(&task));
    let mut args = arguments(tasks, reference("model"), ChoicesParams::default());
    (args.json, args.details) = (false, false);
    let idle = steering(folder.path(), 0.0, None);
    let mut out = Vec::new();
    sims_choices::command::run(&args, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let metrics: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().take(2).collect())
        .collect();
    assert_eq!(
        metrics,
        [
            ["mc2", "mc2"],
            ["copa", "acc"],
            ["copa", "acc_norm"],
            ["copa", "acc_bytes"]
        ]
    );

    args.steering = Some(idle);
    let mut out = Vec::new();
    sims_choices::command::run(&args, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let tells = |line: &str| line.contains("right by one alone 0 to 0, McNemar p 1.0000");
    let told: Vec<bool> = text.lines().map(tells).collect();
    assert_eq!(told, [false, true, true, true], "{text}");
}
