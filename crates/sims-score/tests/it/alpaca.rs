//! AlpacaEval on synthetic verdicts.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, Float64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};
use sims_score::alpaca::{
    Annotations, Difficulties, Gamed, LengthControl, WinRate, fold_of_rows, order::is_switched,
};
use sims_score::mersenne_twister::MersenneTwister;
use tempfile::TempDir;

use crate::{close, json, number, numbers, scored, text};

/// Four verdicts: won, drawn in either notation, lost by 0.1.
fn official() -> Value {
    let row = |instruction: &str, output: &str, preference: Value| {
        json!({
            "instruction": instruction, "output_1": "base", "generator_1": "gpt4_1106_preview",
            "output_2": output, "generator_2": "mine", "preference": preference,
        })
    };
    json!([
        row("a", "äöü", json!(2.0)),
        row("b", "🙂🙂", json!(1.5)),
        row("c", "", json!(0)),
        row("d", "four", json!(1.1)),
        row("e", "not judged", Value::Null),
    ])
}

fn path(folder: &TempDir, name: &str) -> PathBuf {
    folder.path().join(name)
}

fn win_rate(path: &Path) -> WinRate {
    WinRate::of(&Annotations::read(path).expect("a file of annotations"))
}

/// Writes the synthetic verdicts of the fixture, their difficulties and the gamed ones.
fn fixture(folder: &TempDir) -> (Value, Annotations, Difficulties, Gamed) {
    let fixture = json(include_str!("length_control.json"));
    let mut rows = "preference,length_1,length_2\n".to_owned();
    for (preference, lengths) in fixture["preference"]
        .as_array()
        .unwrap()
        .iter()
        .zip(fixture["lengths"].as_array().unwrap())
    {
        let preference = preference.as_f64().map_or(String::new(), |p| p.to_string());
        writeln!(rows, "{preference},{},{}", lengths[0], lengths[1]).unwrap();
    }
    let mut difficulties = "index,instruction_difficulty\n".to_owned();
    for (index, difficulty) in numbers(&fixture["difficulty"]).into_iter().enumerate() {
        writeln!(difficulties, "{index},{difficulty}").unwrap();
    }
    let mut gamed = "preference,std_delta_len,instruction_difficulty\n".to_owned();
    for row in fixture["gamed"].as_array().unwrap() {
        writeln!(gamed, "{},{},{}", row[0], row[1], row[2]).unwrap();
    }
    fs::write(path(folder, "mine.csv"), rows).unwrap();
    fs::write(path(folder, "instruction_difficulty.csv"), difficulties).unwrap();
    fs::write(path(folder, "df_gamed.csv"), gamed).unwrap();
    (
        fixture,
        Annotations::read(&path(folder, "mine.csv")).unwrap(),
        Difficulties::read(&path(folder, "instruction_difficulty.csv")).unwrap(),
        Gamed::read(&path(folder, "df_gamed.csv")).unwrap(),
    )
}

#[test]
fn the_official_file_gives_the_figures_of_its_four_verdicts() {
    let folder = tempfile::tempdir().unwrap();
    let file = path(&folder, "annotations.json");
    fs::write(&file, official().to_string()).unwrap();
    let found = win_rate(&file);
    // Shares 1, ½, ½ and 0.1: mean 0.525, squares 0.4075 in all.
    close(found.win_rate, 52.5, 1e-12);
    close(
        found.standard_error,
        100.0 * (0.4075_f64 / 3.0 / 4.0).sqrt(),
        1e-9,
    );
    assert_eq!((found.n, found.n_dropped), (4, 1));
    assert_eq!((found.n_wins, found.n_draws, found.n_wins_base), (1, 2, 1));
    assert_eq!(found.discrete_win_rate, 50.0);
    // Three letters, two signs, none, four letters and ten: 19 over 805.
    assert_eq!(found.avg_length, 0);
}

#[test]
fn every_kind_of_file_gives_the_same_figures() {
    let folder = tempfile::tempdir().unwrap();
    let rows = official();
    let rows = rows.as_array().unwrap();
    fs::write(path(&folder, "a.json"), official().to_string()).unwrap();
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    fs::write(path(&folder, "a.jsonl"), lines.join("\n\n")).unwrap();
    let mut table = "preference,output_1,output_2\n".to_owned();
    for row in rows {
        let preference = row["preference"]
            .as_f64()
            .map_or(String::new(), |p| p.to_string());
        writeln!(
            table,
            "{preference},{},{}",
            row["output_1"], row["output_2"]
        )
        .unwrap();
    }
    fs::write(path(&folder, "a.csv"), table).unwrap();
    let texts = |key: &str| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(
            rows.iter().map(|row| text(row, key)),
        ))
    };
    let preferences: Float64Array = rows.iter().map(|row| row["preference"].as_f64()).collect();
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("preference", Arc::new(preferences) as ArrayRef, true),
        ("output_1", texts("output_1"), false),
        ("output_2", texts("output_2"), false),
    ])
    .unwrap();
    let file = fs::File::create(path(&folder, "a.parquet")).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let expected = win_rate(&path(&folder, "a.json"));
    for name in ["a.jsonl", "a.csv", "a.parquet"] {
        assert_eq!(win_rate(&path(&folder, name)), expected, "{name}");
    }
}

#[test]
fn length_control_is_the_optimum_that_trying_all_signs_finds() {
    let folder = tempfile::tempdir().unwrap();
    let (fixture, annotations, difficulties, gamed) = fixture(&folder);
    for (expected, c) in [
        (&fixture["given"], Some(number(&fixture["given"], "c"))),
        (&fixture["chosen"], None),
    ] {
        let found = LengthControl::fit(&annotations, &difficulties, &gamed, c).unwrap();
        close(found.win_rate, number(expected, "win_rate"), 1e-8);
        close(
            found.standard_error,
            number(expected, "standard_error"),
            1e-8,
        );
        close(
            found.regularization.unwrap() / number(expected, "c"),
            1.0,
            1e-12,
        );
        let weights = numbers(&expected["weights"]);
        close(found.weights.tanh_std_delta_len, weights[0], 1e-9);
        close(found.weights.instruction_difficulty, weights[1], 1e-9);
        close(found.weights.not_gamed_baseline, weights[2], 1e-9);
        let means = numbers(&fixture["validation"]);
        assert_eq!(
            found.validation.len(),
            if c.is_some() { 0 } else { means.len() }
        );
        for (score, expected) in found.validation.iter().zip(means) {
            close(*score, expected, 1e-9);
        }
    }
}

#[test]
fn folds_are_dealt_in_the_order_of_numpys_sort() {
    let fixture = json(include_str!("length_control.json"));
    for (n, expected) in fixture["folds"].as_object().unwrap() {
        let folds = fold_of_rows(n.parse().unwrap(), 5);
        let digits: String = folds.iter().map(|fold| fold.to_string()).collect();
        assert_eq!(digits, expected.as_str().unwrap(), "{n} rows");
    }
}

#[test]
fn the_baseline_beats_itself_half_the_time() {
    let folder = tempfile::tempdir().unwrap();
    let (_, _, difficulties, gamed) = fixture(&folder);
    let mut rows = official();
    for row in rows.as_array_mut().unwrap() {
        row["generator_2"] = row["generator_1"].clone();
    }
    fs::write(path(&folder, "base.json"), rows.to_string()).unwrap();
    let annotations = Annotations::read(&path(&folder, "base.json")).unwrap();
    let found = LengthControl::fit(&annotations, &difficulties, &gamed, None).unwrap();
    assert_eq!((found.win_rate, found.standard_error), (50.0, 0.0));
}

#[test]
fn numbers_seeded_by_texts_are_cpythons() {
    let fixture = json(include_str!("random_and_markdown.json"));
    for case in fixture["random"].as_array().unwrap() {
        let mut twister = MersenneTwister::from_text(text(case, "seed"));
        let drawn: Vec<f64> = (0..700).map(|_| twister.next_f64()).collect();
        let expected = numbers(&case["numbers"]);
        assert_eq!(
            [drawn[0], drawn[1], drawn[2], drawn[699]],
            expected[..],
            "{case}"
        );
        if let Some(instruction) = text(case, "seed").strip_prefix("is_switched_outputs") {
            let instruction = instruction.strip_suffix('0').unwrap();
            assert_eq!(is_switched(instruction), expected[0] >= 0.5);
        }
    }
}

#[test]
fn without_the_official_files_the_command_says_which_and_how() {
    let folder = tempfile::tempdir().unwrap();
    let file = path(&folder, "annotations.json");
    fs::write(&file, official().to_string()).unwrap();
    let (found, notes) = scored(&["alpaca", "--annotations", file.to_str().unwrap(), "--json"]);
    close(number(&found, "win_rate"), 52.5, 1e-12);
    assert!(found["length_controlled_win_rate"].is_null());
    for expected in [
        "instruction_difficulty.csv is missing",
        "df_gamed.csv is missing",
        "--difficulty FILE",
        "--gamed FILE",
        "tatsu-lab/alpaca_eval",
        "1 of 5 rows have no preference",
        "5 of 805 instructions",
    ] {
        assert!(notes.contains(expected), "{expected}: {notes}");
    }
}

#[test]
fn the_command_takes_the_official_files_from_anywhere() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (fixture, ..) = fixture(&folder);
    let alone = path(&elsewhere, "mine.csv");
    fs::copy(path(&folder, "mine.csv"), &alone).unwrap();
    let given = [
        &alone,
        &path(&folder, "instruction_difficulty.csv"),
        &path(&folder, "df_gamed.csv"),
    ]
    .map(|path| path.to_str().unwrap().to_owned());
    let arguments = [
        "alpaca",
        "--annotations",
        &given[0],
        "--difficulty",
        &given[1],
        "--gamed",
        &given[2],
        "--regularization",
        "0.7",
        "--json",
    ];
    let (found, _) = scored(&arguments);
    let expected = &fixture["given"];
    close(
        number(&found, "length_controlled_win_rate"),
        number(expected, "win_rate"),
        1e-8,
    );
    assert_eq!(found["regularization"], 0.7);
    close(
        number(&found["weights"], "tanh_std_delta_len"),
        numbers(&expected["weights"])[0],
        1e-9,
    );
}
