//! BLEU and self-BLEU as NLTK computes them.

use serde_json::Value;
use sims_stats::bleu::self_bleu;

use crate::{close, numbers};

#[test]
fn self_bleu_matches_nltk() {
    let cases: Value = serde_json::from_str(include_str!("bleu.json")).expect("bleu.json is JSON");
    let cases = cases.as_array().expect("an array of cases");
    assert_eq!(cases.len(), 27);
    for case in cases {
        let responses: Vec<Vec<u32>> =
            serde_json::from_value(case["responses"].clone()).expect("lists of tokens");
        let found = self_bleu(&responses).expect("two or more");
        for (found, expected) in found.into_iter().zip(numbers(&case["self_bleu"])) {
            close(found, expected, 1e-12);
        }
    }
}
