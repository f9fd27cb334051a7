//! The shapes in which public data sets come.

use std::fs::File;
use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder, StructBuilder};
use arrow_array::{
    ArrayRef, DictionaryArray, LargeStringArray, RecordBatch, StringArray, types::Int32Type,
};
use arrow_schema::{DataType, Field};
use parquet::arrow::ArrowWriter;
use sims_artifact::tables::{PromptRow, prompt_id};

use crate::Folder;

/// Writes columns as another tool would.
fn parquet(folder: &Folder, name: &str, columns: Vec<(&str, ArrayRef)>) {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let file = File::create(folder.path(name)).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// One chat a row, as a list of structs.
fn chats(rows: &[&[(&str, &str)]]) -> ArrayRef {
    let fields = vec![
        Field::new("content", DataType::Utf8, true),
        Field::new("role", DataType::Utf8, true),
    ];
    let turns = StructBuilder::from_fields(fields, 0);
    let mut lists = ListBuilder::new(turns);
    for row in rows {
        for (role, content) in *row {
            let turn = lists.values();
            let mut text = |column, text| {
                turn.field_builder::<StringBuilder>(column)
                    .unwrap()
                    .append_value(text);
            };
            text(0, content);
            text(1, role);
            turn.append(true);
        }
        lists.append(true);
    }
    Arc::new(lists.finish())
}

fn roles(row: &PromptRow) -> Vec<(&str, &str)> {
    let turns = row.messages.iter();
    turns
        .map(|turn| (turn.role.as_str(), turn.content.as_str()))
        .collect()
}

#[test]
fn ultrafeedback_as_json_lines() {
    let folder = Folder::new().with(
        "uf.jsonl",
        "{\"source\": \"evol\", \"instruction\": \"Name a sea.\", \"completions\": [{\"a\": 1}]}\n\n\
         {\"instruction\": \"Name a lake.\", \"source\": null}\r\n",
    );
    let (notes, summary) = folder.import(&["uf.jsonl"]);
    let expected =
        "uf.jsonl: prompts from `instruction`, sources from `source`; not used: completions";
    assert!(notes.contains(expected), "{notes}");
    assert!(summary.contains("kept: train"), "{summary}");
    let rows = folder.prompts("train");
    assert_eq!(roles(&rows[0]), [("user", "Name a sea.")]);
    assert_eq!(rows[0].prompt_id, prompt_id(&rows[0].messages));
    assert_eq!(
        (rows[0].source.as_str(), rows[0].split.as_str()),
        ("evol", "train")
    );
    assert_eq!(rows[1].source, "uf.jsonl");
    assert!(folder.dropped().is_empty());
}

#[test]
fn ultrafeedback_binarized_as_parquet() {
    let folder = Folder::new();
    let chosen = chats(&[
        &[("user", "Name a sea."), ("assistant", "The Baltic.")],
        &[
            ("user", "a"),
            ("assistant", "b"),
            ("user", "c"),
            ("assistant", "d"),
        ],
    ]);
    let prompt: ArrayRef = Arc::new(LargeStringArray::from(vec!["Name a sea.", "a"]));
    parquet(
        &folder,
        "uf.parquet",
        vec![("prompt", prompt), ("chosen", chosen.clone())],
    );
    folder.import(&["uf.parquet"]);
    assert_eq!(folder.texts("train"), ["Name a sea.", "a"]);

    parquet(&folder, "chosen.parquet", vec![("chosen", chosen)]);
    let (notes, _) = folder.import(&["chosen.parquet"]);
    assert!(notes.contains("chats from `chosen`"), "{notes}");
    let rows = folder.prompts("train");
    assert_eq!(roles(&rows[0]), [("user", "Name a sea.")]);
    assert_eq!(
        roles(&rows[1]),
        [("user", "a"), ("assistant", "b"), ("user", "c")]
    );
}

#[test]
fn categories_of_a_data_frame_are_text() {
    let folder = Folder::new();
    let prompts: ArrayRef = Arc::new(StringArray::from(vec!["one", "two"]));
    let sources: DictionaryArray<Int32Type> = ["x", "y"].into_iter().collect();
    let columns = vec![
        ("prompt", prompts),
        ("dataset", Arc::new(sources) as ArrayRef),
    ];
    parquet(&folder, "frame.parquet", columns);
    folder.import(&["frame.parquet"]);
    assert_eq!(folder.prompts("train")[1].source, "y");
}

#[test]
fn alpaca_eval_as_a_json_array() {
    let folder = Folder::new().with(
        "alpaca_eval.json",
        r#"[{"dataset": "helpful_base", "instruction": "Who was first?", "output": "x", "generator": "g"},
            {"dataset": "koala", "instruction": "Ärger — \"why\"?", "output": "y", "generator": "g"}]"#,
    );
    folder.import(&["alpaca_eval.json"]);
    assert_eq!(
        folder.texts("train"),
        ["Who was first?", "Ärger — \"why\"?"]
    );
    assert_eq!(folder.prompts("train")[1].source, "koala");
}

#[test]
fn arena_hard_as_json_lines() {
    let folder = Folder::new().with(
        "question.jsonl",
        "{\"question_id\": \"q1\", \"category\": \"arena-hard-v0.1\", \"cluster\": \"c\", \
         \"turns\": [{\"content\": \"Sort it.\"}]}\n",
    );
    folder.import(&["question.jsonl"]);
    let row = &folder.prompts("train")[0];
    assert_eq!(roles(row), [("user", "Sort it.")]);
    assert_eq!(row.source, "arena-hard-v0.1");
}

#[test]
fn csv_with_quotes_line_breaks_and_a_byte_order_mark() {
    let folder = Folder::new().with(
        "ask.csv",
        "\u{FEFF}ask,rules,origin\n\"one, \"\"two\"\"\nthree\",be brief,a\nfour,,b\n",
    );
    folder.import(&[
        "ask.csv",
        "--prompt-column",
        "ask",
        "--system-column",
        "rules",
        "--source-column",
        "origin",
    ]);
    let rows = folder.prompts("train");
    let expected = [("system", "be brief"), ("user", "one, \"two\"\nthree")];
    assert_eq!(roles(&rows[0]), expected);
    assert_eq!(roles(&rows[1]), [("user", "four")]);
    assert_eq!(rows[1].source, "b");
}

#[test]
fn chats_in_cells_and_tabs() {
    let folder = Folder::new().with(
        "chats.tsv",
        "messages\n\"[{\"\"role\"\": \"\"user\"\", \"\"content\"\": \"\"hi\"\"}]\"\n",
    );
    folder.import(&["chats.tsv"]);
    assert_eq!(folder.texts("train"), ["hi"]);
}

#[test]
fn a_format_can_be_given() {
    let folder = Folder::new().with("list.txt", "prompt\nhello\n");
    assert!(
        folder
            .refused(&["list.txt"])
            .contains("unknown format; give --format")
    );
    folder.import(&["list.txt", "--format", "csv"]);
    assert_eq!(folder.texts("train"), ["hello"]);
}
