//! Bad input: named by file, place and column, with a way out, and no table written.

use std::fs::File;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;

use crate::Folder;

#[track_caller]
fn refuses(name: &str, content: impl AsRef<[u8]>, arguments: &[&str], expected: &[&str]) {
    let folder = Folder::new().with(name, content);
    let message = folder.refused(&[&[name], arguments].concat());
    for part in expected {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
}

#[test]
fn empty_prompts() {
    let text = "{\"prompt\": \"a\"}\n{\"prompt\": \" \"}\n";
    refuses(
        "a.jsonl",
        text,
        &[],
        &[
            "a.jsonl, line 2: column `prompt` has no prompt",
            "--skip-empty",
        ],
    );
    refuses(
        "a.csv",
        "id,prompt\n1,\n",
        &[],
        &["a.csv, line 2: column `prompt`"],
    );
    refuses(
        "a.json",
        "[{\"prompt\": \"a\"}, {}]",
        &[],
        &["a.json, record 2: column `prompt`"],
    );
}

#[test]
fn broken_json() {
    let text = "{\"prompt\": \"a\"}\n{\"prompt\": \"b\"\n";
    refuses(
        "a.jsonl",
        text,
        &[],
        &[
            "a.jsonl, line 2: column ",
            "each line has to be one JSON object",
        ],
    );
    refuses(
        "a.jsonl",
        "{\"prompt\": \"a\"} x\n",
        &[],
        &["line 1", "trailing characters"],
    );
    refuses("a.jsonl", "3\n", &[], &["line 1", "expected a JSON object"]);
    refuses(
        "a.json",
        "[{\"prompt\": \"a\"}, 3]",
        &[],
        &[
            "a.json, record 2: line 1, column ",
            "one JSON array of objects",
        ],
    );
    refuses(
        "a.json",
        "[{\"prompt\": \"a\"}",
        &[],
        &["a.json, record 2", "EOF"],
    );
    refuses(
        "a.json",
        "[{\"prompt\": 3}]",
        &["--prompt-column", "prompt"],
        &["column `prompt` is a number, not text"],
    );
}

#[test]
fn broken_csv() {
    let text = "id,prompt\n1,a\n2,b,c\n";
    refuses(
        "a.csv",
        text,
        &[],
        &[
            "a.csv, line 3: 3 cells where the header has 2",
            "double quotes",
        ],
    );
}

#[test]
fn other_encodings() {
    refuses(
        "a.jsonl",
        b"{\"prompt\": \"a\"}\n{\"prompt\": \"caf\xE9\"}\n",
        &[],
        &[
            "a.jsonl, line 2: byte 16 is 0xE9, which is not UTF-8",
            "iconv -f WINDOWS-1252 -t UTF-8",
        ],
    );
    refuses(
        "a.csv",
        b"prompt\nok\ncaf\xE9\n",
        &[],
        &[
            "a.csv, line 3: cell 1 is not UTF-8 from its byte 4 on",
            "iconv",
        ],
    );
    refuses(
        "a.json",
        b"[{\"prompt\": \"caf\xE9\"}]",
        &[],
        &["a.json, record 1", "UTF-8"],
    );
    refuses(
        "a.jsonl",
        b"\xFF\xFE{\0}\0",
        &[],
        &["a.jsonl is encoded as UTF-16", "iconv -f UTF-16"],
    );
    refuses(
        "a.jsonl.gz",
        b"\x1F\x8B\x08\0",
        &[],
        &["compressed (gzip)", "gunzip"],
    );
}

#[test]
fn columns_of_parquet() {
    let folder = Folder::new();
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None]));
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("prompt", numbers, true),
        ("body", texts, true),
    ]);
    let batch = batch.unwrap();
    let mut writer = ArrowWriter::try_new(
        File::create(folder.path("a.parquet")).unwrap(),
        batch.schema(),
        None,
    )
    .unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let message = folder.refused(&["a.parquet"]);
    let expected = "a.parquet: column `prompt` is Int64, not text; name another one; such are body";
    assert!(message.contains(expected), "{message}");
    let message = folder.refused(&["a.parquet", "--prompt-column", "body"]);
    assert!(
        message.contains("a.parquet, row 2: column `body` has no prompt"),
        "{message}"
    );
    let message = folder.refused(&["a.parquet", "--prompt-column", "text"]);
    assert!(
        message.contains("a.parquet has no column `text`; its columns are prompt, body"),
        "{message}"
    );
    let whole = std::fs::read(folder.path("a.parquet")).unwrap();
    std::fs::write(folder.path("a.parquet"), &whole[..whole.len() / 2]).unwrap();
    let message = folder.refused(&["a.parquet"]);
    assert!(
        message.contains("a.parquet cannot be read as Parquet"),
        "{message}"
    );
}

#[test]
fn files_without_prompts() {
    refuses("a.jsonl", "\n", &[], &["a.jsonl has no records"]);
    refuses("a.json", "[]", &[], &["a.json has no records"]);
    refuses("a.csv", "prompt\n", &[], &["a.csv has no records"]);
    refuses("a.csv", "", &[], &["a.csv has no records"]);
    refuses(
        "a.jsonl",
        "{\"body\": \"x\"}\n",
        &[],
        &["--prompt-column or --messages-column; the columns are body"],
    );
    let message = Folder::new().refused(&["absent.jsonl"]);
    assert!(message.contains("cannot open absent.jsonl"), "{message}");
}

#[test]
fn impossible_wishes() {
    let one = "{\"prompt\": \"a\"}\n";
    refuses(
        "a.jsonl",
        one,
        &["--split", "train=5"],
        &["the splits take 5 prompts, but 1 are left"],
    );
    refuses(
        "a.jsonl",
        one,
        &["--split", "train:5"],
        &["--split train:5: has no `=`", "write NAME=COUNT"],
    );
    refuses(
        "a.jsonl",
        one,
        &["--min-words", "9", "--max-words", "3"],
        &["--min-words below --max-words"],
    );
    let folder = Folder::new().with("train.jsonl", one);
    std::fs::create_dir(folder.path("out")).unwrap();
    folder.import(&["train.jsonl"]);
    let message = folder.run(&["out/train.parquet"]);
    let message = String::from_utf8_lossy(&message.stderr).into_owned();
    assert!(
        message.contains("out/train.parquet is read, and would be replaced"),
        "{message}"
    );
}
