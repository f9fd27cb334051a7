//! Scores are those of lm-evaluation-harness, question by question (`tests/reference/make.py`).

use serde_json::Value;
use sims_choices::ChoicesParams;

use super::{arguments, reference, scored, tasks_file};

/// Largest difference of a log-likelihood, which the harness sums in f32. Unit: nats.
const TOLERANCE: f64 = 1e-4;

fn number(value: &Value) -> f64 {
    value
        .as_f64()
        .unwrap_or_else(|| panic!("{value} is no number"))
}

fn close(found: &Value, expected: &Value, tolerance: f64, what: &str) {
    let (found, expected) = (number(found), number(expected));
    assert!(
        (found - expected).abs() <= tolerance,
        "{what}: {found} instead of {expected}"
    );
}

/// Runs the command with the settings of a run of the harness.
fn run_like(settings: &Value) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<&str> = settings["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| n.as_str().unwrap())
        .collect();
    let tasks = tasks_file(folder.path(), |task, _| names.contains(&task));
    let model = match settings["model"].as_str() {
        Some("tiny") => sims_testkit::repository().join("data/tiny"),
        _ => reference("model"),
    };
    let params = ChoicesParams {
        shots: settings["shots"].as_u64().unwrap() as u32,
        chat: settings["chat"].as_bool().unwrap(),
        multiturn: settings["multiturn"].as_bool().unwrap(),
        system: settings["system"].as_str().unwrap().to_owned(),
        mutual_information: settings["mutual_information"].as_bool().unwrap(),
        ..ChoicesParams::default()
    };
    scored(&arguments(tasks, model, params))
}

/// Holds one question's scores against the harness's.
fn check_question(found: &Value, expected: &Value, what: &str) {
    let choices = found["choices"].as_array().unwrap();
    let likelihoods = expected["loglikelihood"].as_array().unwrap();
    for (index, choice) in choices.iter().enumerate() {
        let what = format!("{what}, choice {index}");
        close(
            &choice["loglikelihood"],
            &likelihoods[index],
            TOLERANCE,
            &what,
        );
        assert_eq!(choice["is_greedy"], expected["is_greedy"][index], "{what}");
        // Where the harness scored without a context too, those scores come after the others.
        if let Some(unconditional) = likelihoods.get(choices.len() + index) {
            close(&choice["unconditional"], unconditional, TOLERANCE, &what);
        }
    }
    if found["gold"].is_null() {
        close(&found["mc2"], &expected["acc"], TOLERANCE, what);
    } else {
        for metric in ["acc", "acc_norm", "acc_bytes", "acc_mutual_info"] {
            if let Some(expected) = expected.get(metric) {
                assert_eq!(&found[metric], expected, "{what}: {metric}");
            }
        }
    }
}

#[test]
fn scores_are_those_of_the_harness() {
    let text = std::fs::read_to_string(reference("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let (mut questions, mut greedy) = (0, 0);
    for run in expected["runs"].as_array().unwrap() {
        let settings = &run["settings"];
        let found = run_like(settings);
        let details = found["details"].as_array().unwrap();
        for (task, expected) in run["tasks"].as_object().unwrap() {
            let of_task: Vec<&Value> = details.iter().filter(|d| d["task"] == **task).collect();
            let docs = expected["docs"].as_array().unwrap();
            assert_eq!(of_task.len(), docs.len());
            for (question, expected) in of_task.into_iter().zip(docs) {
                let what = format!("{}, {task} {}", settings["name"], expected["doc_id"]);
                assert_eq!(question["doc_id"], expected["doc_id"], "{what}");
                check_question(question, expected, &what);
                questions += 1;
                greedy += expected["is_greedy"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .filter(|g| **g == true)
                    .count();
            }
            let figures = &found["tasks"][task];
            assert_eq!(figures["n"], docs.len());
            for (name, value) in expected.as_object().unwrap() {
                let (own, tolerance) = match (name.as_str(), figures.get("acc")) {
                    ("docs", _) => continue,
                    // A task of labels alone has no accuracy but the mass on its right choices.
                    (_, None) => (name.replace("acc", "mc2"), TOLERANCE),
                    _ => (name.clone(), 1e-12),
                };
                close(&figures[&own], value, tolerance, &format!("{task} {name}"));
            }
        }
        for (group, expected) in run["groups"].as_object().unwrap() {
            for (name, value) in expected.as_object().unwrap() {
                close(
                    &found["groups"][group][name],
                    value,
                    1e-12,
                    &format!("{group} {name}"),
                );
            }
        }
    }
    // What the comparison rests on: a fixture that lost its content would agree with anything.
    assert!(
        questions >= 100 && greedy >= 1,
        "{questions} questions, {greedy} greedy"
    );
    let groups = expected["runs"][0]["groups"]["letters"]
        .as_object()
        .unwrap();
    assert_eq!(groups.len(), 6);
}
