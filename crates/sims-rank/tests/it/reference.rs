//! Every method against numpy and scipy: `reference.json` comes from `reference.py`.

use serde_json::Value;
use sims_rank::{ComparisonMatrix, RankMethod, Scorer};

const METHODS: [RankMethod; 7] = [
    RankMethod::MeanWin,
    RankMethod::MeanLogit,
    RankMethod::BradleyTerry,
    RankMethod::Copeland,
    RankMethod::LeastSquares,
    RankMethod::MeanWinCompleted,
    RankMethod::WinprobSppo,
];

fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

fn matrix(case: &Value) -> ComparisonMatrix {
    let mut matrix = ComparisonMatrix::new(number(&case["size"]) as usize);
    for entry in case["logits"].as_array().expect("an array") {
        let [i, j] = [&entry[0], &entry[1]].map(|index| number(index) as usize);
        matrix.set(i, j, number(&entry[2]));
    }
    matrix
}

#[test]
fn scores_and_errors_are_those_of_numpy_and_scipy() {
    let reference: Value =
        serde_json::from_str(include_str!("reference.json")).expect("reference.json is JSON");
    for (index, case) in reference["cases"]
        .as_array()
        .expect("cases")
        .iter()
        .enumerate()
    {
        for method in METHODS {
            let scorer = Scorer {
                method,
                tau: number(&case["tau"]),
                ridge: number(&case["ridge"]),
            };
            let got = scorer.scores(&matrix(case)).expect("connected");
            let expected = &case["methods"][method.to_string().as_str()];
            // BFGS with numerical gradients stops at about 1e-6.
            let tolerance = match method {
                RankMethod::BradleyTerry => 1e-5,
                _ => 1e-9,
            };
            for (item, score) in got.iter().enumerate() {
                let score = score.expect("all met");
                let what = format!("case {index}, {method}, response {item}: {score:?}");
                let gap = score.value - number(&expected["scores"][item]);
                assert!(gap.abs() < tolerance, "{what}");
                match (score.standard_error, expected["errors"][item].as_f64()) {
                    (Some(got), Some(expected)) => {
                        assert!((got - expected).abs() < tolerance, "{what}, not {expected}");
                    }
                    (None, None) => {}
                    (_, expected) => panic!("{what}, not {expected:?}"),
                }
            }
        }
    }
}
