//! Ten models' answers to 805 real instructions, ranked by published preferences.
//!
//! The table lies beside the repository, `../shared/real-text`; without it the test is skipped with a notice.
//! Nothing there was written for this project: markup, code, lists, many scripts, empty answers, loops.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sims_artifact::tables::{
    DroppedRow, JudgmentRow, Message, PromptRow, ResponseRow, response_id,
};
use sims_artifact::{read_table, write_table};
use sims_rank::{RankMethod, Scorer, rank};
use sims_stats::random::key_of;
use sims_stats::win_rate::logistic;

use super::Files;

/// One published answer.
struct Answer {
    instruction: String,
    number: i32,
    text: String,
    /// Preference over a fixed other answer, 1 for the other to 2 for this one.
    preference: Option<f64>,
}

/// The answers, or `None` with a notice.
fn answers() -> Option<Vec<Answer>> {
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
        .and_then(|builder| builder.build())
        .expect("a Parquet file");
    let mut answers = Vec::new();
    for batch in reader {
        let batch = batch.expect("readable rows");
        let column = |name: &str| batch.column_by_name(name).expect("a column").clone();
        let (numbers, instructions) = (column("instruction_index"), column("instruction"));
        let (outputs, preferences) = (column("output"), column("preference"));
        let text = |column: &arrow_array::ArrayRef, row: usize| match column.as_string_opt::<i64>()
        {
            Some(large) => large.value(row).to_owned(),
            None => match column.as_string_view_opt() {
                Some(view) => view.value(row).to_owned(),
                None => column.as_string::<i32>().value(row).to_owned(),
            },
        };
        let preferences = preferences.as_primitive::<Float64Type>();
        answers.extend((0..batch.num_rows()).map(|row| Answer {
            instruction: text(&instructions, row),
            number: numbers.as_primitive::<Int32Type>().value(row),
            text: text(&outputs, row),
            preference: preferences.is_valid(row).then(|| preferences.value(row)),
        }));
    }
    Some(answers)
}

/// Words, line breaks and marks, each a token named by a hash, and an end token.
fn tokens(text: &str) -> Vec<u32> {
    let mut tokens = Vec::new();
    let mut word = String::new();
    let id = |piece: &str| 10 + (key_of(piece) % 1_000_000_007) as u32;
    for character in text.chars() {
        if character.is_alphanumeric() {
            word.push(character);
            continue;
        }
        if !word.is_empty() {
            tokens.push(id(&std::mem::take(&mut word)));
        }
        if character != ' ' {
            tokens.push(id(&character.to_string()));
        }
    }
    if !word.is_empty() {
        tokens.push(id(&word));
    }
    tokens.push(2);
    tokens
}

/// Prompts, responses and judgments of all pairs: log-odds are differences of the published preferences'.
fn tables(answers: &[Answer]) -> (Vec<PromptRow>, Vec<ResponseRow>, Vec<JudgmentRow>) {
    let mut by_prompt: BTreeMap<i32, Vec<&Answer>> = BTreeMap::new();
    for answer in answers {
        by_prompt.entry(answer.number).or_default().push(answer);
    }
    let (mut prompts, mut responses, mut judgments) = (Vec::new(), Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    for group in by_prompt.values() {
        let prompt = PromptRow::new(
            vec![Message::user(&group[0].instruction)],
            "train",
            "alpaca",
        );
        assert!(seen.insert(prompt.prompt_id.clone()), "instructions differ");
        let mut rated: Vec<(String, f64)> = Vec::new();
        for (index, answer) in (0..).zip(group) {
            let token_ids = tokens(&answer.text);
            let id = response_id(&prompt.prompt_id, "base", index, &token_ids);
            if let Some(preference) = answer.preference {
                let p = (preference - 1.0).clamp(1e-6, 1.0 - 1e-6);
                rated.push((id.clone(), (p / (1.0 - p)).ln()));
            }
            responses.push(ResponseRow {
                prompt_id: prompt.prompt_id.clone(),
                response_id: id,
                round: 1,
                sample_index: index,
                policy: "base".into(),
                text: answer.text.clone(),
                token_ids,
                prompt_tokens: 10,
                finish_reason: "stop".into(),
                logprob_sum: -1.0,
                seed: 0,
            });
        }
        for (i, (a, of_a)) in rated.iter().enumerate() {
            for (b, of_b) in &rated[i + 1..] {
                let raw = of_a - of_b;
                judgments.extend(["ab", "ba"].map(|order| {
                    JudgmentRow {
                        prompt_id: prompt.prompt_id.clone(),
                        response_a: a.clone(),
                        response_b: b.clone(),
                        order: order.into(),
                        judge: "file".into(),
                        p_a: logistic(raw),
                        verdict: match raw.total_cmp(&0.0) {
                            std::cmp::Ordering::Greater => "a",
                            std::cmp::Ordering::Less => "b",
                            std::cmp::Ordering::Equal => "tie",
                        }
                        .into(),
                        raw,
                        coverage: 1.0,
                    }
                }));
            }
        }
        prompts.push(prompt);
    }
    (prompts, responses, judgments)
}

/// Files of the ranked round.
fn ranked_files(answers: &[Answer]) -> Files {
    let (prompts, responses, judgments) = tables(answers);
    assert_eq!((prompts.len(), responses.len()), (805, 8046));
    let scorer = Scorer {
        method: RankMethod::MeanWin,
        tau: 1.0,
        ridge: 0.1,
    };
    let ranked = rank(&responses, &judgments, &scorer, 0, &mut |_| ()).expect("consistent tables");
    assert_eq!(ranked.diagnostics.cycle_rate, 0.0);
    let files = Files {
        folder: tempfile::tempdir().expect("a temporary folder"),
    };
    write_table(&files.path("prompts.parquet"), &prompts).expect("written");
    write_table(&files.path("judgments.parquet"), &judgments).expect("written");
    write_table(&files.path("ranking.parquet"), &ranked.rows).expect("written");
    files.set_responses(&responses);
    files
}

/// How many pairs each filter dropped.
fn reasons(files: &Files, out: &str) -> BTreeMap<String, usize> {
    let dropped: Vec<DroppedRow> =
        read_table(&files.path(&format!("{out}/dropped.parquet"))).expect("a table");
    let mut counts = BTreeMap::new();
    for row in dropped {
        *counts.entry(row.reason).or_default() += 1;
    }
    counts
}

#[test]
fn published_answers_give_pairs_and_every_drop_has_its_reason() {
    let Some(answers) = answers() else { return };
    let files = ranked_files(&answers);

    // Best and worst come from different models, and seldom have comparable lengths.
    let output = files.run("extreme", &[]);
    let message = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{message}");
    let expected = "43 of 805 prompts gave a pair (5.3 %), fewer than `min-yield` asks for (20.0 %). \
                    Dropped: 65 empty, 29 loop, 66 repeat, 8 duplicate, 36 prefix, 649 length, 76 \
                    length-balance. Most went as `length`: raise `length-ratio`";
    assert!(message.contains(expected), "{message}");

    let counts = |out: &str, arguments: &[&str]| {
        let output = files.run(out, arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{message}");
        let pairs = files.pairs(&format!("{out}/pairs.parquet"));
        for pair in &pairs {
            assert!(pair.margin > 0.0 && pair.chosen.trim() != "" && pair.rejected.trim() != "");
        }
        (pairs.len(), reasons(&files, out))
    };
    let named = |counts: &[(&str, usize)]| -> BTreeMap<String, usize> {
        counts
            .iter()
            .map(|&(reason, count)| (reason.to_owned(), count))
            .collect()
    };
    let alone = [
        ("duplicate", 8),
        ("empty", 65),
        ("loop", 29),
        ("repeat", 66),
    ];
    let (pairs, dropped) = counts(
        "any-length",
        &["--length-balance", "off", "--length-ratio", "0"],
    );
    assert_eq!(
        (pairs, dropped),
        (768, named(&[&alone[..], &[("prefix", 36)]].concat()))
    );

    // Going on to the next margin where lengths do not fit keeps nearly every prompt.
    let further = [
        ("length", 4010),
        ("prefix", 192),
        ("similar", 1),
        ("tie", 2),
    ];
    let widest = [&alone[..], &further[..]].concat();
    let (pairs, dropped) = counts("widest", &["--pairs", "widest", "--length-balance", "off"]);
    assert_eq!((pairs, dropped), (801, named(&widest)));
    let (pairs, dropped) = counts("balanced", &["--pairs", "widest"]);
    assert_eq!(
        (pairs, dropped),
        (
            164,
            named(&[&widest[..], &[("length-balance", 637)]].concat())
        )
    );
    let sampling = [
        "--pairs",
        "widest",
        "--strategy",
        "contrast-sampling",
        "--diverse",
        "true",
    ];
    assert_eq!(counts("sampling", &sampling).0, 82);
}
