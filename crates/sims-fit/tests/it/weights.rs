//! Weights of the pairs.

use crate::planted::{Bench, Planted};
use sims_artifact::tables::{PairRow, StateIndexRow};
use sims_artifact::{read_table, write_table};
use std::fs;

/// Writes a pairs table in which the pairs of the states weigh as said, and returns its path.
fn weighted(bench: &Bench, name: &str, weight: impl Fn(usize) -> f64) -> String {
    let index: Vec<StateIndexRow> = read_table(&bench.out("index.parquet")).unwrap();
    let mut pairs: Vec<PairRow> = Vec::new();
    for row in &index {
        if pairs.last().is_some_and(|pair| pair.pair_id == row.pair_id) {
            continue;
        }
        pairs.push(PairRow {
            pair_id: row.pair_id.clone(),
            prompt_id: row.prompt_id.clone(),
            chosen_id: String::new(),
            rejected_id: String::new(),
            chosen: String::new(),
            rejected: String::new(),
            chosen_token_ids: vec![1],
            rejected_token_ids: vec![2],
            margin: 1.0,
            z: 0.0,
            weight: weight(pairs.len()),
            origin_round: 1,
            judge: "test".to_owned(),
        });
    }
    let path = bench.out(name);
    write_table(&path, &pairs).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn equal_weights_change_nothing_and_others_do() {
    let bench = Bench::new(&Planted::default());
    let bytes = |out: &str, arguments: &[&str]| {
        bench.succeeds(out, arguments);
        fs::read(bench.out(out).join("steering.safetensors")).unwrap()
    };
    let plain = bytes("plain", &[]);
    let equal = weighted(&bench, "equal.parquet", |_| 0.25);
    assert_eq!(plain, bytes("equal", &["--pairs", &equal]));
    let odd = weighted(&bench, "odd.parquet", |number| {
        if number % 2 == 1 { 1.0 } else { 0.25 }
    });
    assert_ne!(plain, bytes("odd", &["--pairs", &odd]));
}

#[test]
fn pairs_of_another_round_are_refused() {
    let bench = Bench::new(&Planted::default());
    let path = weighted(&bench, "pairs.parquet", |_| 1.0);
    let mut pairs: Vec<PairRow> = read_table(path.as_ref()).unwrap();
    pairs[0].pair_id = "of another round".to_owned();
    write_table(path.as_ref(), &pairs).unwrap();
    let message = bench.refuses(&["--pairs", &path]);
    assert!(message.contains("no row in the pairs table"), "{message}");
}
