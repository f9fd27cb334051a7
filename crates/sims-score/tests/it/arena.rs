//! Arena-Hard on synthetic judgments.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use sims_score::arena::battles::{self, Battles, Settings};
use sims_score::arena::markdown::{Elements, count};
use sims_score::arena::style::{Control, StyleControl};
use sims_score::arena::style_counts::StyleCounts;
use sims_score::arena::{Version, position::Position};
use tempfile::TempDir;

use crate::{close, json, number, numbers, scored, text};

fn settings(version: Version) -> Settings {
    Settings {
        version,
        baseline: "base".to_owned(),
        category: None,
    }
}

fn write(folder: &TempDir, name: &str, lines: &[Value]) -> PathBuf {
    let path = folder.path().join(name);
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    fs::write(&path, lines.join("\n")).unwrap();
    path
}

/// A judged question; a label of `null` is no verdict.
fn judged(question: &str, first: Value, second: Value) -> Value {
    json!({"question_id": question, "model": "mine", "judge": "j",
        "games": [{"score": first, "judgment": "…"}, {"score": second, "judgment": "…"}]})
}

fn command(path: &std::path::Path, more: &[&str]) -> Value {
    let mut arguments = vec!["arena-hard", "--judgments", path.to_str().unwrap()];
    arguments.extend(["--baseline", "base", "--resamples", "500", "--json"]);
    arguments.extend(more);
    scored(&arguments).0
}

#[test]
fn strong_verdicts_count_three_rows_and_ties_half() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(
        &folder,
        "mine.jsonl",
        &[
            // The model is B in the first game and A in the second.
            judged("a", json!("B>>A"), json!("A>B")),
            judged("b", json!("A=B"), json!("B>>A")),
            judged("c", json!("A<B"), Value::Null),
        ],
    );
    let found = &command(&path, &["--details"])[0];
    // 3 + 1 won, 1 tie, 3 lost.
    close(number(found, "score"), 100.0 * 4.5 / 8.0, 1e-12);
    assert_eq!(text(found, "model"), "mine");
    assert_eq!(
        [
            "n_rows",
            "n_wins",
            "n_ties",
            "n_losses",
            "n_questions",
            "n_invalid_games"
        ]
        .map(|name| found[name].as_u64().unwrap()),
        [8, 4, 1, 3, 2, 2]
    );
    let position = &found["position"];
    assert_eq!(
        [
            "questions",
            "excluded",
            "agree_on_sign",
            "agree_on_label",
            "decisive_games",
            "won_by_first"
        ]
        .map(|name| position[name].as_u64().unwrap()),
        [2, 1, 1, 0, 3, 1]
    );
    assert_eq!(position["p_value"], 1.0);
    assert!(number(found, "ci_low") < number(found, "score"));
    assert!(number(found, "question_ci_low") <= number(found, "ci_low"));
}

#[test]
fn v20_knows_turned_labels_and_drops_half_judged_questions() {
    let folder = tempfile::tempdir().unwrap();
    let mut rows = [
        judged("a", json!("A<<B"), json!("B<A")),
        judged("b", json!("B=A"), json!("A>B")),
        judged("c", json!("A>B"), Value::Null),
    ];
    for row in &mut rows {
        let row = row.as_object_mut().unwrap();
        let id = row.remove("question_id").unwrap();
        row.insert("uid".to_owned(), id);
        row.insert("category".to_owned(), json!("hard_prompt"));
        row.insert("baseline".to_owned(), json!("base"));
    }
    let path = write(&folder, "mine.jsonl", &rows);
    let read = battles::read(&[path], &settings(Version::V20)).unwrap();
    let rows: Vec<(f64, u32)> = read[0].rows.iter().map(|b| (b.share, b.rows)).collect();
    // "A<<B" in the first game: the model, B, is much better.
    assert_eq!(rows, [(1.0, 3), (1.0, 1), (0.5, 1), (1.0, 1)]);
    assert_eq!(read[0].dropped_questions, 1);
}

#[test]
fn judgments_without_a_label_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let row = json!({"question_id": "a", "model": "mine", "games": [
        {"judgment": "My final verdict is: [[B>A]]."},
        {"judgment": {"answer": "[[A>>B]] … [[A>>B]]"}},
    ]});
    let found = &command(&write(&folder, "mine.jsonl", &[row]), &[])[0];
    assert_eq!(
        (&found["n_wins"], &found["score"]),
        (&json!(4), &json!(100.0))
    );
}

#[test]
fn battles_name_their_models_in_columns_or_by_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.battles.csv");
    fs::write(
        &path,
        "question_id,winner,count\na,model_b,3\nb,tie,1\nb,model_a,1\n",
    )
    .unwrap();
    let read = battles::read(&[path], &settings(Version::V01)).unwrap();
    assert_eq!(read[0].model, "mine");
    let rows: Vec<(f64, u32)> = read[0].rows.iter().map(|b| (b.share, b.rows)).collect();
    assert_eq!(rows, [(1.0, 3), (0.5, 1), (0.0, 1)]);

    let battle = |a: &str, b: &str, winner: &str| json!({"question_id": "a", "model_a": a, "model_b": b, "winner": winner});
    let path = write(
        &folder,
        "all.jsonl",
        &[
            battle("base", "x", "model_b"),
            battle("y", "base", "model_b"),
            battle("y", "base", "tie (bothbad)"),
        ],
    );
    let read = battles::read(&[path], &settings(Version::V01)).unwrap();
    let shares = |model: &Battles| model.rows.iter().map(|b| b.share).collect::<Vec<_>>();
    assert_eq!((read[0].model.as_str(), shares(&read[0])), ("x", vec![1.0]));
    assert_eq!(
        (read[1].model.as_str(), shares(&read[1])),
        ("y", vec![0.0, 0.5])
    );
}

#[test]
fn only_the_category_asked_for_counts() {
    let folder = tempfile::tempdir().unwrap();
    let row = |question: &str, category: &str, baseline: &str, label: &str| {
        let mut row = judged(question, json!(label), json!(label));
        row["category"] = json!(category);
        row["baseline"] = json!(baseline);
        row
    };
    let path = write(
        &folder,
        "mine.jsonl",
        &[
            row("a", "hard_prompt", "base", "A>B"),
            row("b", "creative_writing", "other", "A=B"),
        ],
    );
    let found = &command(&path, &["--version", "v2.0", "--category", "hard_prompt"])[0];
    assert_eq!((&found["n_rows"], &found["n_ties"]), (&json!(2), &json!(0)));
}

#[test]
fn the_result_is_the_same_on_every_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(
        &folder,
        "mine.jsonl",
        &[
            judged("a", json!("B>A"), json!("A=B")),
            judged("b", json!("A>B"), json!("A=B")),
        ],
    );
    assert_eq!(command(&path, &[]), command(&path, &[]));
}

#[test]
fn markdown_is_counted_as_the_official_expressions_count() {
    let fixture = json(include_str!("random_and_markdown.json"));
    for case in fixture["markdown"].as_array().unwrap() {
        let expected = numbers(&case["counts"]);
        let found = count(text(case, "text"));
        let Elements {
            headers,
            list_items,
            bold,
        } = found;
        assert_eq!(
            [headers, list_items, bold].map(f64::from),
            expected[..],
            "{case}"
        );
    }
}

/// The models of the fixture, and its answers' counts in the official form.
fn style_fixture(folder: &TempDir) -> (Value, Vec<Battles>, StyleCounts) {
    let fixture = json(include_str!("style_control.json"));
    let mut battles: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for battle in fixture["battles"].as_array().unwrap() {
        let winner = match battle[2].as_f64().unwrap() {
            1.0 => "model_b",
            0.0 => "model_a",
            _ => "tie",
        };
        let model = battle[0].as_str().unwrap();
        battles.entry(model).or_default().push(json!({
            "question_id": battle[1], "model_a": "base", "model_b": model,
            "winner": winner, "count": battle[3],
        }));
    }
    let rows: Vec<Value> = battles.into_values().flatten().collect();
    let read = battles::read(
        &[write(folder, "battles.jsonl", &rows)],
        &settings(Version::V01),
    );
    let paths: Vec<PathBuf> = fixture["counts"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(model, table)| {
            let rows: Vec<Value> = table
                .as_array()
                .unwrap()
                .iter()
                .enumerate()
                .map(|(question, counts)| {
                    json!({"question_id": format!("q{question}"), "model_id": model, "conv_metadata": {
                        "token_len": counts[0], "header_count": {"h1": counts[1], "h2": 0},
                        "list_count": {"ordered": 0, "unordered": counts[2]}, "bold_count": counts[3],
                    }})
                })
                .collect();
            write(folder, &format!("{model}.answers.jsonl"), &rows)
        })
        .collect();
    (fixture, read.unwrap(), StyleCounts::read(&paths).unwrap())
}

#[test]
fn style_control_of_two_models_is_what_scikit_learn_fits() {
    let folder = tempfile::tempdir().unwrap();
    let (fixture, models, counts) = style_fixture(&folder);
    let controls = [Control::Length, Control::Markdown];
    for (name, version, tolerance) in [
        ("v0.1", Version::V01, 1e-5),
        // The median of resamples, not the fit itself.
        ("v2.0", Version::V20, 2.5),
    ] {
        let expected = &fixture[name];
        let found = StyleControl::fit(&models, "base", &counts, &controls, version, 300).unwrap();
        for (score, expected) in found.scores.iter().zip(numbers(&expected["scores"])) {
            close(score.score, expected, tolerance);
            assert!(score.ci_low < score.score && score.score < score.ci_high);
        }
        for ((_, found), expected) in found.coefficients.iter().zip(numbers(&expected["style"])) {
            close(*found, expected, 1e-6);
        }
    }
}

#[test]
fn a_table_of_pairs_says_what_the_answers_say() {
    let folder = tempfile::tempdir().unwrap();
    let (fixture, models, answers) = style_fixture(&folder);
    let mut table = "question_id,tokens_baseline,headers_baseline,lists_baseline,bold_baseline,\
        tokens_model,headers_model,lists_model,bold_model\n"
        .to_owned();
    for question in 0..40 {
        let of = |model: &str| numbers(&fixture["counts"][model][question]);
        let fields: Vec<String> = of("base")
            .iter()
            .chain(&of("one"))
            .map(f64::to_string)
            .collect();
        table += &format!("q{question},{}\n", fields.join(","));
    }
    let path = folder.path().join("any-name.style.csv");
    fs::write(&path, table).unwrap();
    let pairs = StyleCounts::read(&[path]).unwrap();
    let one = &models[..1];
    let fit = |counts| {
        StyleControl::fit(one, "base", counts, &[Control::Length], Version::V01, 10).unwrap()
    };
    assert_eq!(fit(&pairs), fit(&answers));
}

#[test]
fn position_needs_a_game_with_a_winner() {
    assert_eq!(Position::of(&[]).unwrap(), None);
}
