//! Chunks as the runner sees them: kept when they come, handed out again, and worth no more than their bytes.

use std::path::PathBuf;

use serde_json::json;

use crate::toy::{Toy, counts};

/// Returns what the stage `pieces` did since the last call.
fn made(toy: &Toy) -> Vec<String> {
    let mut lines = toy.ran();
    lines.retain(|line| line.starts_with("made"));
    lines
}

/// Runs with a variable set; returns the exit code and what was said.
fn run_with(toy: &Toy, name: &str, value: &str) -> (i32, String) {
    let output = toy
        .sims(&["run", "p.yaml"])
        .env(name, value)
        .output()
        .unwrap();
    (output.status.code().unwrap_or(-1), toy.nameless(&output))
}

fn files(toy: &Toy, folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![toy.path().join(".sims").join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            match entry.path().is_dir() {
                true => folders.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found
}

#[test]
fn what_a_failed_stage_finished_is_not_done_again() {
    let toy = Toy::with_pieces();
    let (code, text) = run_with(&toy, "PIECES_FAIL", "two");
    assert_eq!(code, 1, "{text}");
    assert_eq!(made(&toy), ["made one"]);
    let (code, text) = run_with(&toy, "PIECES_FAIL", "");
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("round-1/pieces: 1 chunks of its work are finished already"),
        "{text}"
    );
    assert_eq!(made(&toy), ["made two"]);
    let views = toy.views("toy");
    let undisturbed = Toy::with_pieces();
    undisturbed.run();
    assert_eq!(views, undisturbed.views("toy"));
    assert_eq!(toy.run(), (0, 3, 0));
    assert_eq!(made(&toy), Vec::<String>::new());
}

#[test]
fn a_chunk_that_makes_no_sense_is_named() {
    let toy = Toy::with_pieces();
    let (code, text) = run_with(&toy, "PIECES_ROWS", "1, 2");
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains("its chunk one.json is not usable: it has 1 units and the rows of 2"),
        "{text}"
    );
    let (code, text) = run_with(&toy, "PIECES_ROWS", "\"x\"");
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains("its chunk one.json is not usable: invalid type"),
        "{text}"
    );
    assert_eq!(toy.run(), (1, 2, 0));
}

#[test]
fn a_damaged_chunk_is_made_again() {
    let toy = Toy::with_pieces();
    run_with(&toy, "PIECES_FAIL", "two");
    made(&toy);
    let one = files(&toy, "cas")
        .into_iter()
        .find(|path| std::fs::read(path).unwrap() == b"one\n")
        .expect("the first chunk is stored");
    std::fs::remove_file(one).unwrap();
    assert_eq!(toy.fsck().0, 1);
    assert_eq!(toy.run(), (1, 2, 0));
    assert_eq!(made(&toy), ["made one", "made two"]);
    assert_eq!(toy.fsck().0, 0);
}

#[test]
fn chunks_go_with_the_runs_that_they_belong_to() {
    let toy = Toy::with_pieces();
    toy.run();
    made(&toy);
    assert_eq!(files(&toy, "chunks").len(), 2);
    let gc = ["gc", "--older-than", "0s", "--empty-trash"];
    assert_eq!(toy.json(&gc)["moved"]["files"], json!(0));
    assert_eq!(files(&toy, "chunks").len(), 2);
    std::fs::remove_dir_all(toy.path().join("runs")).unwrap();
    toy.json(&[&gc[..], &["--without-runs"]].concat());
    assert_eq!(files(&toy, "chunks").len(), 0);
    assert_eq!(files(&toy, "ac").len(), 0);
    assert_eq!(counts(&toy.json(&["run", "p.yaml"])), (3, 0, 0));
    assert_eq!(made(&toy), ["made one", "made two"]);
}

#[test]
fn a_verification_takes_no_chunks_word_for_it() {
    let toy = Toy::with_pieces();
    toy.run();
    made(&toy);
    let report = toy.json(&["verify", "p.yaml"]);
    assert!(!report.to_string().contains("differs"), "{report}");
    assert_eq!(made(&toy), ["made one", "made two"]);
}

/// What one machine was interrupted at, another goes on with; they share nothing but a remote cache.
#[test]
fn chunks_travel_through_a_remote_cache() {
    let cache = tempfile::tempdir().unwrap();
    let cache = cache.path().to_str().unwrap();
    let first = Toy::with_pieces();
    let run = |toy: &Toy, fail: &str| {
        let mut command = toy.sims(&["run", "p.yaml", "--remote", cache]);
        let output = command.env("PIECES_FAIL", fail).output().unwrap();
        (output.status.code().unwrap_or(-1), toy.nameless(&output))
    };
    let (code, text) = run(&first, "two");
    assert_eq!(code, 1, "{text}");
    let second = Toy::with_pieces();
    let (code, text) = run(&second, "");
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("round-1/pieces: 1 chunks of its work are finished already"),
        "{text}"
    );
    assert_eq!(made(&second), ["made two"]);
    let undisturbed = Toy::with_pieces();
    undisturbed.run();
    assert_eq!(second.views("toy"), undisturbed.views("toy"));
    assert_eq!(second.fsck().0, 0);
    // A damaged one is not believed.
    let third = Toy::with_pieces();
    let mut damaged = 0;
    let mut folders = vec![PathBuf::from(cache).join("cas")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            match entry.path().is_dir() {
                true => folders.push(entry.path()),
                false => {
                    std::fs::write(entry.path(), "wrong").unwrap();
                    damaged += 1;
                }
            }
        }
    }
    assert!(damaged > 3);
    let (code, text) = run(&third, "");
    assert_eq!(code, 0, "{text}");
    assert_eq!(made(&third), ["made one", "made two"]);
    assert_eq!(third.views("toy"), undisturbed.views("toy"));
}
