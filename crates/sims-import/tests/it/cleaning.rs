//! Duplicates, overlaps, lengths, splits, and that nothing else decides the bytes.

use serde_json::Value;
use sims_artifact::read_prompts;

use crate::{Folder, bytes};

fn lines(prompts: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let line = |p: &str| serde_json::json!({ "prompt": p }).to_string() + "\n";
    prompts.into_iter().map(|p| line(p.as_ref())).collect()
}

fn numbered(n: usize) -> String {
    lines((0..n).map(|i| format!("question number {i}")))
}

#[test]
fn duplicates_name_the_prompt_that_was_kept() {
    let folder = Folder::new()
        .with(
            "a.jsonl",
            lines(["What is Rust?", "another", "What is Rust?"]),
        )
        .with("b.jsonl", lines(["what is  rust", "3+4?", "3-4?"]));
    let (_, summary) = folder.import(&["a.jsonl", "b.jsonl"]);
    assert_eq!(
        folder.texts("train"),
        ["What is Rust?", "another", "3+4?", "3-4?"]
    );
    let dropped = folder.dropped();
    let first = &folder.prompts("train")[0].prompt_id;
    let found: Vec<_> = dropped
        .iter()
        .map(|row| (row.file.as_str(), row.row, row.reason.as_str()))
        .collect();
    assert_eq!(
        found,
        [
            ("a.jsonl", 3, "exact-duplicate"),
            ("b.jsonl", 1, "normalised-duplicate")
        ]
    );
    assert!(
        dropped
            .iter()
            .all(|row| row.duplicate_of.as_ref() == Some(first))
    );
    assert_eq!(dropped[1].messages[0].content, "what is  rust");
    let counted = format!("{:<30} {:>9}", "dropped: exact-duplicate", 1);
    assert!(summary.contains(&counted), "{summary}");
}

#[test]
fn overlaps_with_test_sets_are_left_out() {
    let long = "the quick brown fox jumps over the lazy dog and then it sleeps for hours";
    let folder = Folder::new()
        .with(
            "test.json",
            r#"[{"instruction": "LONG"}, {"instruction": "Name a sea!"}]"#.replace("LONG", long),
        )
        .with(
            "train.jsonl",
            lines([
                format!("Continue: {}", long.to_uppercase().replace(' ', ", ")),
                "name a sea".to_owned(),
                "name a sea and a lake".to_owned(),
            ]),
        );
    let (_, json) = folder.import(&["train.jsonl", "--against", "test.json", "--json"]);
    assert_eq!(folder.texts("train"), ["name a sea and a lake"]);
    let places: Vec<_> = folder
        .dropped()
        .into_iter()
        .map(|row| row.overlaps.unwrap())
        .collect();
    assert_eq!(places, ["test.json, record 1", "test.json, record 2"]);
    let summary: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(summary["overlaps"]["test.json"], 2);
    assert_eq!(summary["dropped"]["test-overlap"], 2);
    assert_eq!(summary["kept"]["train"], 1);
    assert_eq!(summary["read"], 3);
}

#[test]
fn lengths_and_empty_prompts() {
    let folder = Folder::new().with(
        "a.jsonl",
        lines(["", "one", "one two", "one two three", "einszweidrei vier"]),
    );
    folder.import(&[
        "a.jsonl",
        "--skip-empty",
        "--min-words",
        "2",
        "--max-words",
        "2",
        "--max-chars",
        "10",
    ]);
    assert_eq!(folder.texts("train"), ["one two"]);
    let reasons: Vec<_> = folder.dropped().into_iter().map(|row| row.reason).collect();
    assert_eq!(reasons, ["empty", "too-short", "too-long", "too-long"]);
}

#[test]
fn splits_are_disjoint_and_the_rest_is_counted() {
    let folder = Folder::new().with("a.jsonl", numbered(5000));
    let (_, summary) = folder.import(&["a.jsonl", "--split", "train=4000", "--split", "dev=300"]);
    let (train, dev) = (folder.prompts("train"), folder.prompts("dev"));
    assert_eq!((train.len(), dev.len()), (4000, 300));
    assert!(
        dev.iter()
            .all(|row| row.split == "dev" && !train.contains(row))
    );
    let counted = format!("{:<30} {:>9}", "dropped: no-split", 700);
    assert!(summary.contains(&counted), "{summary}");
    assert_eq!(folder.dropped().len(), 700);
    // What stages read prompts with accepts the tables.
    read_prompts(&folder.path("out/train.parquet")).unwrap();
}

#[test]
fn a_split_depends_on_ids_and_the_seed_only() {
    let forwards = numbered(3000);
    let backwards: String = forwards
        .lines()
        .rev()
        .map(|line| format!("{line}\n"))
        .collect();
    let dev = |content: &str, seed| {
        let folder = Folder::new().with("a.jsonl", content);
        folder.import(&[
            "a.jsonl",
            "--split",
            "dev=0.1",
            "--split",
            "train=rest",
            "--seed",
            seed,
        ]);
        let mut texts = folder.texts("dev");
        texts.sort();
        texts
    };
    let first = dev(&forwards, "1");
    assert!(first.len().abs_diff(300) < 66, "{}", first.len());
    assert_eq!(dev(&backwards, "1"), first);
    assert_ne!(dev(&forwards, "2"), first);
    let half: String = forwards
        .lines()
        .take(1500)
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(dev(&half, "1").iter().all(|text| first.contains(text)));
}

#[test]
fn the_bytes_do_not_depend_on_threads() {
    let folder = Folder::new().with("a.jsonl", numbered(5000) + &numbered(100));
    let mut seen = Vec::new();
    for threads in ["1", "3"] {
        let status = std::process::Command::new(env!("CARGO_BIN_EXE_sims-import"))
            .args(["prompts", "a.jsonl", "--out", "out", "--split", "train=0.5"])
            .env("RAYON_NUM_THREADS", threads)
            .current_dir(folder.path(""))
            .status();
        assert!(status.unwrap().success());
        seen.push(
            ["train", "dropped"].map(|name| bytes(&folder.path(&format!("out/{name}.parquet")))),
        );
    }
    assert!(seen[0] == seen[1]);
}

#[test]
fn help_shows_examples() {
    let folder = Folder::new();
    let (_, help) = folder.import(&["--help"]);
    assert!(
        help.contains("sims import prompts ultrafeedback.parquet --out prompts"),
        "{help}"
    );
}
