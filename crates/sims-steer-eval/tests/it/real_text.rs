//! Refusals and self-BLEU on ten models' answers to 805 real instructions, against `real_text.py`.
//!
//! The table lies beside the repository, `../shared/real-text`; without it the test is skipped with a notice.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::Int32Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sims_stats::bleu::self_bleu;
use sims_steer_eval::constraints::Constraint;
use sims_steer_eval::refusals::is_refusal;

/// Number of the instruction, the model that answered, and its answer; none with a notice.
fn answers() -> Option<Vec<(i32, String, String)>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/real-text/alpaca-responses.parquet");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) => {
            eprintln!("skipped: {}: {error}", path.display());
            return None;
        }
    };
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(ParquetRecordBatchReaderBuilder::build)
        .unwrap();
    let text = |column: &dyn Array, row: usize| match column.as_string_opt::<i64>() {
        Some(large) => large.value(row).to_owned(),
        None => match column.as_string_view_opt() {
            Some(view) => view.value(row).to_owned(),
            None => column.as_string::<i32>().value(row).to_owned(),
        },
    };
    let mut answers = Vec::new();
    for batch in reader {
        let batch = batch.unwrap();
        let column = |name: &str| batch.column_by_name(name).unwrap().clone();
        let (numbers, generators, outputs) = (
            column("instruction_index"),
            column("generator"),
            column("output"),
        );
        let numbers = numbers.as_primitive::<Int32Type>();
        answers.extend((0..batch.num_rows()).map(|row| {
            (
                numbers.value(row),
                text(&generators, row),
                text(&outputs, row),
            )
        }));
    }
    Some(answers)
}

#[test]
fn real_answers_refuse_as_often_as_a_regular_expression_says() {
    let Some(answers) = answers() else {
        return;
    };
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, generator, text) in &answers {
        *counts.entry(generator).or_default() += usize::from(is_refusal(text));
    }
    let expected = [
        ("FuseChat-Gemma-2-9B-Instruct", 2),
        ("OpenHermes-2.5-Mistral-7B", 2),
        ("alpaca-7b", 1),
        ("claude-2", 18),
        ("falcon-7b-instruct", 26),
        ("gemma-2b-it", 5),
        ("phi-2", 3),
        ("pythia-12b-mix-sft", 18),
        ("text_davinci_001", 1),
        ("vicuna-13b-v1.5", 31),
    ];
    assert_eq!(counts.into_iter().collect::<Vec<_>>(), expected);
}

#[test]
fn real_answers_are_as_alike_as_nltk_says() {
    let Some(answers) = answers() else {
        return;
    };
    let mut ids: HashMap<&str, u32> = HashMap::new();
    let mut by_instruction: BTreeMap<i32, Vec<Vec<u32>>> = BTreeMap::new();
    for (number, _, text) in answers.iter().filter(|(number, ..)| number % 16 == 0) {
        let id = |word| {
            let next = ids.len() as u32;
            *ids.entry(word).or_insert(next)
        };
        let words = text.split_whitespace().map(id).collect();
        by_instruction.entry(*number).or_default().push(words);
    }
    let means: Vec<f64> = by_instruction
        .values()
        .map(|answers| {
            let values = self_bleu(answers).unwrap();
            values.iter().sum::<f64>() / values.len() as f64
        })
        .collect();
    let mean = means.iter().sum::<f64>() / means.len() as f64;
    assert_eq!(means.len(), 51);
    assert!((mean - 0.242_116_801_901_730_02).abs() < 1e-9, "{mean}");
    let (least, most) = means
        .iter()
        .fold((1.0_f64, 0.0_f64), |(least, most), mean| {
            (least.min(*mean), most.max(*mean))
        });
    assert!((least - 0.082_102_395_879_572_31).abs() < 1e-9, "{least}");
    assert!((most - 0.594_278_315_017_103_7).abs() < 1e-9, "{most}");
}

/// Every rule answers on every text, and rules that exclude each other never both hold.
#[test]
fn rules_hold_on_real_answers() {
    let Some(answers) = answers() else {
        return;
    };
    let rule = |kind, value| Constraint::new(kind, value).unwrap();
    let (few, many) = (rule("words", "..100"), rule("words", "101.."));
    let (one, more) = (rule("sentences", "..1"), rule("sentences", "2.."));
    let (small, capital) = (rule("lowercase", ""), rule("uppercase", ""));
    let (with, without) = (rule("includes", "the"), rule("excludes", "the"));
    let others = [
        rule("json", ""),
        rule("quoted", ""),
        rule("bullets", "3.."),
        rule("ends-with", "."),
    ];
    let mut kept = [0; 4];
    for (_, _, text) in &answers {
        let is_empty = text.trim().is_empty();
        for (left, right) in [(&few, &many), (&one, &more), (&with, &without)] {
            assert_eq!(left.holds(text) ^ right.holds(text), !is_empty, "{text}");
        }
        assert!(!(small.holds(text) && capital.holds(text)), "{text}");
        for (kept, other) in kept.iter_mut().zip(&others) {
            *kept += usize::from(other.holds(text));
        }
    }
    // Some answers are bare numbers or lists, some quote; most end in a full stop, and none of these is the rule.
    assert!(
        kept.iter().all(|&kept| kept > 0 && kept < answers.len()),
        "{kept:?}"
    );
}
