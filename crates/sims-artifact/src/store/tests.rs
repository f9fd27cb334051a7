//! What the store promises, and what happens to it when files are damaged or writers die.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::Digest;

const CHECK: FsckOptions = FsckOptions {
    threads: 2,
    repair: false,
};

pub(super) fn store() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    (folder, store)
}

pub(super) fn add(store: &Store, bytes: &[u8]) -> Blob {
    let scratch = store.scratch().unwrap();
    let path = scratch.path().join("file");
    File::create(&path).unwrap().write_all(bytes).unwrap();
    store.add_file(&path).unwrap()
}

pub(super) fn publish(store: &Store, document: &Value, bytes: &[u8]) -> ActionResult {
    let blob = add(store, bytes);
    let output = ActionOutput {
        digest: blob.digest,
        bytes: blob.bytes,
        schema: "responses@1".to_owned(),
        file: "responses.parquet".to_owned(),
    };
    let result = ActionResult {
        key: ActionKey::of_document(document),
        outputs: BTreeMap::from([("responses".to_owned(), output)]),
        summary: None,
        seconds: 1.5,
        stop: None,
        chunks: Vec::new(),
        chunk: None,
    };
    store.publish_action(document, &result).unwrap();
    result
}

/// Changes one byte in place, as a failing disk would, and puts the modification time back.
fn flip_byte(path: &Path) {
    let modified = path.metadata().unwrap().modified().unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let byte = std::fs::read(path).unwrap()[3];
    let mut file = OpenOptions::new().write(true).open(path).unwrap();
    file.seek(SeekFrom::Start(3)).unwrap();
    file.write_all(&[byte ^ 1]).unwrap();
    file.set_modified(modified).unwrap();
}

pub(super) fn fsck(store: &Store) -> FsckReport {
    store.fsck(CHECK, &|_, _| {}).unwrap()
}

#[test]
fn a_blob_comes_back_under_the_digest_of_its_bytes() {
    let (_folder, store) = store();
    let blob = add(&store, b"some bytes");
    assert_eq!(blob.digest, Digest::of_bytes(b"some bytes"));
    assert_eq!(blob.bytes, 10);
    let path = store.blob(&blob.digest).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"some bytes");
    assert_eq!(
        path.metadata().unwrap().permissions().mode() & 0o222,
        0,
        "read-only"
    );
    assert_eq!(add(&store, b"some bytes"), blob);
    assert_eq!(fsck(&store).blobs, 1);
}

#[test]
fn a_flipped_byte_is_noticed_although_size_and_modification_time_are_the_same() {
    let (_folder, store) = store();
    let blob = add(&store, b"some bytes");
    let path = store.blob(&blob.digest).unwrap();
    flip_byte(&path);
    let error = store.blob(&blob.digest).unwrap_err();
    let StoreError::DamagedBlob { quarantined, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(std::fs::read(quarantined).unwrap(), b"somd bytes");
    assert!(matches!(
        store.blob(&blob.digest),
        Err(StoreError::MissingBlob(_))
    ));
    assert_eq!(add(&store, b"some bytes"), blob, "made again");
    assert!(store.blob(&blob.digest).is_ok());
}

#[test]
fn adding_over_a_damaged_blob_mends_it() {
    let (_folder, store) = store();
    let blob = add(&store, b"some bytes");
    flip_byte(&store.blob_path(&blob.digest));
    assert_eq!(add(&store, b"some bytes"), blob);
    assert_eq!(
        std::fs::read(store.blob(&blob.digest).unwrap()).unwrap(),
        b"some bytes"
    );
}

#[test]
fn a_second_process_verifies_by_looks_only() {
    let (folder, first) = store();
    let blob = add(&first, b"some bytes");
    let second = Store::open(&folder.path().join("store")).unwrap();
    assert!(
        second.lock_verified().look(&blob.digest).is_some(),
        "remembered on disk"
    );
    // A torn line is no verification.
    let shard = second
        .cache_folder()
        .join("verified")
        .join(blob.digest.short(2));
    let text = std::fs::read_to_string(&shard).unwrap();
    std::fs::write(&shard, &text[..text.len() - 4]).unwrap();
    let third = Store::open(&folder.path().join("store")).unwrap();
    assert_eq!(third.lock_verified().look(&blob.digest), None);
    assert!(third.blob(&blob.digest).is_ok(), "hashed again");
}

#[test]
fn an_action_result_comes_back_under_its_key() {
    let (_folder, store) = store();
    let document = json!({"stage": "sample", "params": {"samples": 4}});
    let key = ActionKey::of_document(&document);
    assert_eq!(store.action_result(&key).unwrap(), None);
    let result = publish(&store, &document, b"rows");
    assert_eq!(store.action_result(&key).unwrap(), Some(result));
    assert_eq!(store.action_document(&key).unwrap(), Some(document));
    assert!(fsck(&store).bad.is_empty());
}

#[test]
fn a_result_is_not_published_before_its_blobs() {
    let (_folder, store) = store();
    let document = json!({"stage": "sample"});
    let mut result = publish(&store, &document, b"rows");
    result.outputs.get_mut("responses").unwrap().digest = Digest::of_bytes(b"never stored");
    assert!(matches!(
        store.publish_action(&document, &result),
        Err(StoreError::MissingBlob(_))
    ));
}

#[test]
fn a_damaged_result_is_moved_aside_and_not_believed() {
    let (_folder, store) = store();
    let document = json!({"stage": "sample"});
    let key = publish(&store, &document, b"rows").key;
    let path = store.fan_out("ac", &key.to_string(), ".json");
    for damage in ["{\"format\":1,", "{}", "not json"] {
        std::fs::write(&path, damage).unwrap();
        assert!(matches!(
            store.action_result(&key),
            Err(StoreError::DamagedRecord { .. })
        ));
        assert_eq!(store.action_result(&key).unwrap(), None);
    }
    publish(&store, &document, b"rows");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"seconds\":1.5", "\"seconds\":2.5")).unwrap();
    assert!(store.action_result(&key).is_err(), "edited by hand");
}

#[test]
fn fsck_names_everything_that_is_wrong_and_repairs_it() {
    let (_folder, store) = store();
    let damaged = publish(&store, &json!({"stage": "a"}), b"first rows");
    let missing = publish(&store, &json!({"stage": "b"}), b"second rows");
    let record = publish(&store, &json!({"stage": "c"}), b"third rows");
    flip_byte(&store.blob_path(&damaged.outputs["responses"].digest));
    std::fs::remove_file(store.blob_path(&missing.outputs["responses"].digest)).unwrap();
    std::fs::write(
        store.fan_out("actions", &record.key.to_string(), ".json"),
        "{}",
    )
    .unwrap();
    std::fs::write(store.root().join("cas/notes.txt"), "hello").unwrap();

    let report = fsck(&store);
    let kinds: Vec<ProblemKind> = report.bad.iter().map(|problem| problem.kind).collect();
    assert_eq!(
        kinds,
        [
            ProblemKind::DamagedBlob,
            ProblemKind::MissingBlob,
            ProblemKind::DamagedRecord,
            ProblemKind::StrayFile
        ]
    );
    let repair = FsckOptions {
        repair: true,
        ..CHECK
    };
    store.fsck(repair, &|_, _| {}).unwrap();
    // The result of `a` names a blob that is now in quarantine: a second pass finds that.
    store.fsck(repair, &|_, _| {}).unwrap();
    assert!(fsck(&store).bad.is_empty());
    assert!(store.action_result(&missing.key).unwrap().is_none());
}

#[test]
fn a_lease_is_held_by_one_and_free_after() {
    let (folder, first) = store();
    let second = Store::open(&folder.path().join("store")).unwrap();
    let key = ActionKey::of_document(&json!({}));
    assert!(!first.is_leased(&key));
    let lease = first.try_lease(&key).unwrap().expect("free");
    assert!(second.try_lease(&key).unwrap().is_none());
    assert!(second.is_leased(&key));
    drop(lease);
    assert!(second.try_lease(&key).unwrap().is_some());
}

#[test]
fn many_threads_with_leases_never_compute_at_once() {
    let (folder, _store) = store();
    let root = folder.path().join("store");
    let key = ActionKey::of_document(&json!({}));
    let holders = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let store = Store::open(&root).unwrap();
                for _ in 0..50 {
                    let lease = loop {
                        if let Some(lease) = store.try_lease(&key).unwrap() {
                            break lease;
                        }
                        std::thread::yield_now();
                    };
                    assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0);
                    holders.fetch_sub(1, Ordering::SeqCst);
                    drop(lease);
                }
            });
        }
    });
}

#[test]
fn debris_of_the_dead_is_removed_and_the_living_are_left_alone() {
    let (folder, store) = store();
    let alive = store.scratch().unwrap();
    let dead = store.root().join("tmp/scratch-4000000-0");
    std::fs::create_dir(&dead).unwrap();
    std::fs::write(dead.join("half.parquet"), "PAR1").unwrap();
    let other = Store::open(&folder.path().join("store")).unwrap();
    let scratch = other.scratch().unwrap();
    assert!(!dead.exists());
    assert!(alive.path().is_dir());
    assert_ne!(alive.path(), scratch.path());
    let (alive, path) = (alive.path().to_owned(), alive);
    drop(path);
    assert!(!alive.exists());
}

#[test]
fn a_store_of_another_version_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("format"), "sims-store 9\n").unwrap();
    let message = Store::open(folder.path()).unwrap_err().to_string();
    assert!(
        message.ends_with("says `sims-store 9`, but this program reads `sims-store 1`: choose another folder with --store"),
        "{message}"
    );
}

#[test]
fn folders_and_dangling_links_are_not_stored() {
    let (_folder, store) = store();
    let scratch = store.scratch().unwrap();
    assert!(matches!(
        store.add_file(scratch.path()),
        Err(StoreError::NotAFile(_))
    ));
    let link = scratch.path().join("link");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    assert!(store.add_file(&link).is_err());
}

#[test]
fn a_linked_file_is_copied_since_others_can_write_to_it() {
    let (folder, store) = store();
    let outside = folder.path().join("outside");
    std::fs::write(&outside, "shared bytes").unwrap();
    let scratch = store.scratch().unwrap();
    for name in ["hard", "soft"] {
        let link = scratch.path().join(name);
        if name == "hard" {
            std::fs::hard_link(&outside, &link).unwrap();
        } else {
            std::os::unix::fs::symlink(&outside, &link).unwrap();
        }
        let blob = store.add_file(&link).unwrap();
        std::fs::write(&outside, "other bytes!").unwrap();
        assert!(store.blob(&blob.digest).is_ok());
        std::fs::write(&outside, "shared bytes").unwrap();
    }
}

#[test]
fn a_file_enters_under_a_known_digest_or_not_at_all() {
    let (_folder, store) = store();
    let blob = Blob {
        digest: Digest::of_bytes(b"some bytes"),
        bytes: 10,
    };
    let scratch = store.scratch().unwrap();
    let path = scratch.path().join("file");
    for wrong in [&b"some bytez"[..], b"some", b"some bytes and more", b""] {
        std::fs::write(&path, wrong).unwrap();
        let error = store.add_expected(&path, &blob).unwrap_err();
        assert!(
            matches!(error, StoreError::OtherBytes { expected, .. } if expected == blob.digest)
        );
        assert_eq!(fsck(&store).blobs, 0);
    }
    std::fs::write(&path, b"some bytes").unwrap();
    store.add_expected(&path, &blob).unwrap();
    assert!(store.blob(&blob.digest).is_ok());
}

#[test]
fn a_record_is_read_back_and_no_other_in_its_place() {
    let (_folder, store) = store();
    let result = publish(&store, &json!({"stage": "sample"}), b"bytes");
    let record = result.to_record();
    let path = store.fan_out("ac", &result.key.to_string(), ".json");
    assert_eq!(record, std::fs::read(path).unwrap());
    assert_eq!(
        ActionResult::from_record(&result.key, &record),
        Ok(result.clone())
    );
    let other = ActionKey::of_document(&json!({"stage": "rank"}));
    assert!(ActionResult::from_record(&other, &record).is_err());
    for place in 0..record.len() - 1 {
        let mut damaged = record.clone();
        damaged[place] ^= 1;
        let read = ActionResult::from_record(&result.key, &damaged);
        assert!(read.is_err(), "byte {place} is not checked");
    }
}
