//! The positions `response-centred`.

use super::{Bench, Extracted};
use sims_testkit::random_model::{HIDDEN, succeeded};

#[test]
fn centred_states_are_those_of_the_response_less_the_mean_of_their_token() {
    let bench = Bench::new();
    let pairs = bench.pairs();
    succeeded(&bench.run("raw", &pairs, &["--positions", "response"]));
    succeeded(&bench.run("centred", &pairs, &["--positions", "response-centred"]));
    let (raw, centred) = (bench.extracted("raw"), bench.extracted("centred"));
    assert_eq!(raw.index, centred.index);
    assert_eq!(centred.states.metadata()["positions"], "response-centred");
    for layer in [0, 1] {
        let all: Vec<(u32, Vec<f32>, Vec<f32>)> = (0..raw.index.len())
            .flat_map(|row| {
                let tokens = [raw.index[row].token_id, raw.index[row].rejected_token_id];
                [("positive", tokens[0]), ("negative", tokens[1])].map(|(class, token)| {
                    let of = |from: &Extracted| from.row(layer, class, row);
                    (token, of(&raw), of(&centred))
                })
            })
            .collect();
        let mut repeated = false;
        for (token, state, got) in &all {
            let same: Vec<&Vec<f32>> = all
                .iter()
                .filter(|(t, ..)| t == token)
                .map(|(_, state, _)| state)
                .collect();
            repeated |= same.len() > 1;
            for axis in 0..HIDDEN {
                let mean = same.iter().map(|state| f64::from(state[axis])).sum::<f64>()
                    / same.len() as f64;
                let expected = f64::from(state[axis]) - mean;
                assert!(
                    (f64::from(got[axis]) - expected).abs() < 1e-6,
                    "layer {layer}, token {token}"
                );
            }
        }
        assert!(repeated, "some tokens occur twice");
    }
}
