//! Damaged, deleted and forged files in the store.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::toy::{LOOP, STAGES, Toy};

/// Changes a byte and puts the modification time back.
fn flip(path: &Path) {
    let modified = path.metadata().unwrap().modified().unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    let last = bytes.len() - 2;
    bytes[last] ^= 1;
    std::fs::write(path, bytes).unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(modified).unwrap();
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

/// Damages a finished run, and checks that fsck sees it and the next run mends it.
fn damaged_by(damage: impl Fn(&Toy), executed: u64) {
    let toy = Toy::new(LOOP);
    toy.run();
    let views = toy.views("toy");
    damage(&toy);
    let (code, report) = toy.fsck();
    assert_eq!(code, 1, "{report}");
    assert_eq!(report["bad"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(toy.run(), (executed, STAGES - executed, 0));
    assert_eq!(toy.views("toy"), views, "the same bytes again");
    let (code, report) = toy.fsck();
    assert_eq!(code, 0, "{report}");
}

#[test]
fn a_flipped_byte_is_quarantined_and_computed_again() {
    damaged_by(
        |toy| {
            flip(&toy.blob("round-2/ranking.parquet"));
            assert_eq!(files(&toy.path().join(".sims/quarantine")).len(), 0);
        },
        1,
    );
}

#[test]
fn a_truncated_blob_is_computed_again() {
    let truncate = |toy: &Toy| {
        let path = toy.blob("round-1/numbers.parquet");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_len(5)
            .unwrap();
    };
    damaged_by(truncate, 1);
}

#[test]
fn a_deleted_blob_is_computed_again() {
    damaged_by(
        |toy| std::fs::remove_file(toy.blob("once/base-test/numbers.parquet")).unwrap(),
        1,
    );
}

#[test]
fn a_damaged_action_result_is_computed_again() {
    let damage = |toy: &Toy| {
        let results = files(&toy.path().join(".sims/ac"));
        std::fs::write(&results[0], "{\"format\":1,\"check\":").unwrap();
    };
    damaged_by(damage, 1);
}

#[test]
fn a_damaged_or_deleted_summary_is_computed_again() {
    damaged_by(|toy| flip(&toy.blob("round-1/summaries/rank.json")), 1);
    damaged_by(
        |toy| std::fs::remove_file(toy.blob("round-1/summaries/rank.json")).unwrap(),
        1,
    );
}

#[test]
fn a_damaged_action_document_is_written_again() {
    let damage = |toy: &Toy| {
        let documents = files(&toy.path().join(".sims/actions"));
        std::fs::write(&documents[0], "{}").unwrap();
    };
    damaged_by(damage, 0);
}

#[test]
fn the_quarantine_keeps_the_bad_bytes_and_a_warning_names_them() {
    let toy = Toy::new(LOOP);
    toy.run();
    flip(&toy.blob("round-2/ranking.parquet"));
    let (code, text) = toy.text(&["run", "p.yaml"]);
    assert_eq!(code, 0);
    assert!(
        text.contains("warning: round-2/rank: output `ranking`: blob"),
        "{text}"
    );
    assert!(
        text.contains("is damaged; it was moved to .sims/quarantine/"),
        "{text}"
    );
    assert_eq!(files(&toy.path().join(".sims/quarantine")).len(), 1);
}

#[test]
fn a_stage_that_is_not_reproducible_is_told_on() {
    let toy = Toy::new(LOOP);
    toy.run();
    std::fs::remove_file(toy.blob("round-3/ranking.parquet")).unwrap();
    let output = toy
        .sims(&["run", "p.yaml"])
        .env("TOY_RANK", "cut")
        .output()
        .unwrap();
    let text = toy.nameless(&output);
    assert!(
        text.contains("round-3/rank: `ranking` came out with other bytes than before"),
        "{text}"
    );
}

#[test]
fn caches_can_be_deleted_at_any_time() {
    let toy = Toy::new(LOOP);
    toy.run();
    std::fs::remove_dir_all(toy.path().join(".sims/cache")).unwrap();
    assert_eq!(toy.run(), (0, STAGES, 0));
    for file in files(&toy.path().join(".sims/cache")) {
        std::fs::write(file, "nonsense").unwrap();
    }
    assert_eq!(toy.run(), (0, STAGES, 0));
    std::fs::remove_dir_all(toy.path().join("runs")).unwrap();
    assert_eq!(toy.run(), (0, STAGES, 0));
    assert!(toy.path().join("runs/toy/round-3/numbers.parquet").exists());
}

#[test]
fn a_lost_store_is_made_again() {
    let toy = Toy::new(LOOP);
    toy.run();
    let views = toy.views("toy");
    std::fs::remove_dir_all(toy.path().join(".sims")).unwrap();
    assert_eq!(toy.run(), (STAGES, 0, 0));
    assert_eq!(toy.views("toy"), views);
}
