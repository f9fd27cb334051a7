//! AlpacaEval against the published numbers of real models.

use std::path::Path;

use serde_json::Value;
use sims_score::alpaca::length_control::grid;
use sims_score::alpaca::preference::preference;
use sims_score::alpaca::{
    Annotations, DIFFICULTY_FILE, Difficulties, GAMED_FILE, Gamed, LengthControl, WinRate,
    fold_of_rows,
};
use sims_score::records::Records;

use crate::{cases, close, index, json, number, numbers, scored, text};

/// Runs `check` on each model's verdicts and its entry of the index.
fn each_model(check: impl Fn(&Path, &Annotations, &Value)) {
    let Some(folder) = cases("alpaca") else {
        return;
    };
    for model in index(&folder)["models"].as_array().expect("models") {
        let annotations = Annotations::read(&folder.join(text(model, "file"))).expect("a table");
        check(&folder, &annotations, model);
    }
}

fn reference(folder: &Path) -> (Difficulties, Gamed) {
    (
        Difficulties::read(&folder.join(DIFFICULTY_FILE)).expect("the official file"),
        Gamed::read(&folder.join(GAMED_FILE)).expect("the official file"),
    )
}

#[test]
fn plain_figures_are_the_published_ones() {
    each_model(|_, annotations, model| {
        let (found, official) = (WinRate::of(annotations), &model["official"]);
        close(found.win_rate, number(official, "win_rate"), 1e-6);
        close(
            found.standard_error,
            number(official, "standard_error"),
            1e-6,
        );
        close(
            found.discrete_win_rate,
            number(official, "discrete_win_rate"),
            1e-6,
        );
        let counts = [found.n_wins, found.n_wins_base, found.n_draws, found.n];
        let names = ["n_wins", "n_wins_base", "n_draws", "n_total"];
        for (count, name) in counts.into_iter().zip(names) {
            assert_eq!(count as f64, number(official, name), "{name}");
        }
        assert_eq!(found.avg_length as f64, number(official, "avg_length"));
    });
}

#[test]
fn the_fit_at_a_given_c_is_the_exact_optimum() {
    each_model(|folder, annotations, model| {
        let (difficulties, gamed) = reference(folder);
        let derived = &model["derived"];
        let c = number(derived, "cv_selected_C");
        let found = LengthControl::fit(annotations, &difficulties, &gamed, Some(c)).expect("a fit");
        let exact = &derived["exact_optimum_at_this_C"];
        close(
            found.win_rate,
            number(exact, "length_controlled_winrate"),
            1e-6,
        );
        close(
            found.standard_error,
            number(exact, "lc_standard_error"),
            1e-6,
        );
        let weights = [
            found.weights.tanh_std_delta_len,
            found.weights.instruction_difficulty,
            found.weights.not_gamed_baseline,
        ];
        for (weight, expected) in weights.into_iter().zip(numbers(&exact["weights"])) {
            close(weight, expected, 1e-6);
        }
        let official = number(&model["official"], "length_controlled_winrate");
        close(found.win_rate, official, 0.02);
    });
}

#[test]
fn cross_validation_chooses_the_official_c() {
    each_model(|folder, annotations, model| {
        let (difficulties, gamed) = reference(folder);
        let found = LengthControl::fit(annotations, &difficulties, &gamed, None).expect("a fit");
        let own = &model["derived"]["exact_solver_with_own_cv"]["scalar_quicksort"];
        let c = found.regularization.expect("the model is not the baseline");
        close(c / number(own, "C"), 1.0, 1e-12);
        assert!(grid().contains(&c));
        for (score, expected) in found
            .validation
            .iter()
            .zip(numbers(&own["mean_test_scores"]))
        {
            close(*score, expected, 1e-9);
        }
        close(
            found.win_rate,
            number(own, "length_controlled_winrate"),
            1e-6,
        );
        let official = number(&model["official"], "length_controlled_winrate");
        close(found.win_rate, official, 0.15);
    });
}

#[test]
fn folds_are_those_of_the_official_sort() {
    let Some(folder) = cases("alpaca") else {
        return;
    };
    let orders = json(&std::fs::read_to_string(folder.join("fold_orders.json")).expect("a file"));
    for (n, orders) in orders.as_object().expect("orders by number of rows") {
        let folds = fold_of_rows(n.parse().expect("a number"), 5);
        let digits: String = folds.iter().map(|fold| fold.to_string()).collect();
        assert_eq!(digits, text(orders, "scalar_quicksort"), "{n} rows");
    }
}

#[test]
fn log_probabilities_give_the_published_preferences() {
    each_model(|folder, _, model| {
        let Some(file) = model["logprobs_file"].as_str() else {
            return;
        };
        let records = Records::read(&folder.join(file)).expect("a table");
        for record in records.iter() {
            let top: Vec<(String, f64)> =
                serde_json::from_str(record.text("top_logprobs").expect("a text")).expect("JSON");
            let tokens = top
                .iter()
                .map(|(token, logprob)| (token.as_str(), *logprob));
            let switched = record.count("switched").expect("a bit") == 1;
            let found = preference(tokens, switched).expect("the judge named one");
            let published = record.finite("preference").expect("a number");
            close(found, published, 1e-9);
        }
    });
}

#[test]
fn the_command_finds_the_official_files_beside_the_annotations() {
    each_model(|folder, _, model| {
        let path = folder.join(text(model, "file"));
        let (found, _) = scored(&["alpaca", "--annotations", path.to_str().unwrap(), "--json"]);
        let official = &model["official"];
        close(
            number(&found, "win_rate"),
            number(official, "win_rate"),
            1e-6,
        );
        close(
            number(&found, "length_controlled_win_rate"),
            number(official, "length_controlled_winrate"),
            0.15,
        );
        assert_eq!(found["n"], official["n_total"]);
        assert_eq!(found["avg_length"], official["avg_length"]);
    });
}
