//! Arena-Hard against published numbers and runs of the upstream functions.

use std::path::Path;

use serde_json::Value;
use sims_score::arena::Version;
use sims_score::arena::battles::{self, Battles, Settings};
use sims_score::arena::position::Position;
use sims_score::arena::score::Score;
use sims_score::arena::style::{Control, StyleControl};
use sims_score::arena::style_counts::StyleCounts;
use sims_score::arena::verdict::label;

use crate::{cases, close, index, json, number, numbers, text};

const BASELINE: &str = "gpt-4-0314";

fn read(path: &Path, version: Version) -> Vec<Battles> {
    let settings = Settings {
        version,
        baseline: BASELINE.to_owned(),
        category: None,
    };
    battles::read(&[path.to_owned()], &settings).expect("a file of judgments")
}

/// Runs `check` on each model's battles and its entry of the index.
fn each_model(check: impl Fn(&Path, &[Battles], &Value)) {
    let Some(folder) = cases("arena-hard") else {
        return;
    };
    for model in index(&folder)["models"].as_array().expect("models") {
        assert_eq!(text(model, "baseline"), BASELINE);
        let battles = read(&folder.join(text(model, "file")), Version::V01);
        assert_eq!(battles[0].model, text(model, "model"));
        check(&folder, &battles, model);
    }
}

#[test]
fn scores_and_intervals_are_the_published_ones() {
    each_model(|_, battles, model| {
        let found = Score::of(&battles[0], Version::V01, 10_000).expect("a score");
        close(found.score, number(model, "exact_score"), 1e-9);
        let counts = [found.n_rows, found.n_wins, found.n_ties, found.n_losses];
        for (count, name) in counts.into_iter().zip(["rows", "wins", "ties", "losses"]) {
            assert_eq!(count as f64, number(model, name), "{name}");
        }
        assert_eq!(found.n_questions as f64, number(model, "questions"));
        let large = &model["large_bootstrap"];
        close(found.ci_low, number(&large["percentiles"], "2.5"), 0.15);
        close(found.ci_high, number(&large["percentiles"], "97.5"), 0.15);
        let published = model["published"].as_array().expect("a list");
        for published in published {
            close(found.score, number(published, "score"), 0.01);
            // Theirs come from 100 resamples of a table of many models.
            let noise = number(large, "standard_error");
            close(found.ci_low, number(published, "q025"), noise);
            close(found.ci_high, number(published, "q975"), noise);
        }
        // Rows of one question stand or fall together.
        assert!(found.question_ci_high - found.question_ci_low > found.ci_high - found.ci_low);
    });
}

#[test]
fn v20_reports_the_mean_of_means_and_a_narrower_interval() {
    each_model(|_, battles, model| {
        let found = Score::of(&battles[0], Version::V20, 10_000).expect("a score");
        close(found.score, number(model, "exact_score"), 0.05);
        assert_ne!(found.score, number(model, "exact_score"));
        let percentiles = &model["large_bootstrap"]["percentiles"];
        close(found.ci_low, number(percentiles, "5"), 0.15);
        close(found.ci_high, number(percentiles, "95"), 0.15);
    });
}

#[test]
fn style_control_gives_what_the_upstream_functions_give() {
    each_model(|folder, battles, model| {
        let Some(expected) = model.get("style_control") else {
            return;
        };
        let counts = StyleCounts::read(&[folder.join(text(expected, "file"))]).expect("counts");
        for (name, controls) in [
            ("style", &[Control::Length, Control::Markdown][..]),
            ("length", &[Control::Length][..]),
            ("markdown", &[Control::Markdown][..]),
        ] {
            let expected = &expected[name];
            let found = StyleControl::fit(battles, BASELINE, &counts, controls, Version::V01, 1000)
                .expect("a fit");
            // Scikit-learn's L-BFGS stops at a gradient of 1e-4. With its Newton solver at 1e-12 it gives
            // 22.504331160195 for all of style, which is what comes out here.
            close(found.scores[0].score, number(expected, "score"), 5e-3);
            for ((_, found), expected) in found
                .coefficients
                .iter()
                .zip(numbers(&expected["coefficients"]))
            {
                close(*found, expected, 1e-3);
            }
            // Theirs come from 100 resamples: their ends have a standard error of 0.3.
            close(found.scores[0].ci_low, number(expected, "q025"), 0.9);
            close(found.scores[0].ci_high, number(expected, "q975"), 0.9);
        }
    });
}

#[test]
fn verdicts_are_counted_and_compared_over_both_orders() {
    let Some(folder) = cases("arena-hard") else {
        return;
    };
    for case in index(&folder)["verdicts"].as_array().expect("a list") {
        let battles = read(&folder.join(text(case, "file")), Version::V01);
        let found = Score::of(&battles[0], Version::V01, 100).expect("a score");
        close(found.score, number(case, "v01_score"), 1e-9);
        let counts = &case["v01_counts"];
        assert_eq!(found.n_rows as f64, number(case, "v01_rows"));
        assert_eq!(found.n_wins as f64, number(counts, "model_b"));
        assert_eq!(found.n_ties as f64, number(counts, "tie"));
        assert_eq!(found.n_losses as f64, number(counts, "model_a"));
        assert_eq!(battles[0].games.len() as f64, number(case, "questions"));
        let position = Position::of(&battles[0].games)
            .expect("counts")
            .expect("games");
        let expected = &case["position"];
        let pairs = number(expected, "pairs_with_two_valid_labels");
        assert_eq!(position.questions as f64, pairs);
        assert_eq!(
            position.agree_on_sign as f64,
            number(expected, "agree_on_sign")
        );
        assert_eq!(
            position.agree_on_label as f64,
            number(expected, "agree_on_label")
        );
    }
}

#[test]
fn labels_are_read_from_the_end_of_real_judgments() {
    let Some(folder) = cases("arena-hard") else {
        return;
    };
    let mut read = 0;
    for case in index(&folder)["verdicts"].as_array().expect("a list") {
        let lines = std::fs::read_to_string(folder.join(text(case, "file"))).expect("a file");
        for game in lines.lines().flat_map(|line| {
            let games = json(line)["games"].as_array().expect("games").clone();
            games.into_iter()
        }) {
            let brackets = game["brackets"].as_array().expect("brackets");
            let tail = text(&game, "tail");
            // The tail is cut; it must hold all labels to say what the whole judgment says.
            let whole = brackets
                .iter()
                .all(|b| tail.contains(&format!("[[{}]]", b.as_str().unwrap())));
            if brackets.len() == 1 && whole {
                assert_eq!(label(tail, Version::V01).as_deref(), game["score"].as_str());
                read += 1;
            }
        }
    }
    assert!(read > 300, "{read}");
}
