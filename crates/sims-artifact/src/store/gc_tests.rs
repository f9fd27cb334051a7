//! What `gc` moves and leaves, beside writers and when it is cut short.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::tests::{add, fsck, publish, store};
use super::*;

/// Takes everything for old.
fn everything() -> GcOptions {
    GcOptions {
        before: SystemTime::now() + Duration::from_secs(3600),
        empty_trash: false,
        dry_run: false,
    }
}

/// Collects all but `kept` and what it needs.
fn gc(store: &Store, options: GcOptions, kept: &[ActionKey]) -> GcReport {
    let mut mark = |marks: &mut Marks<'_>| kept.iter().try_for_each(|key| marks.keep_result(*key));
    store.gc::<StoreError>(options, &mut mark, &|_| {}).unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in list(folder).unwrap() {
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found.sort();
    found
}

/// Publishes by a store of its own, which is closed afterwards: nothing is held any more.
fn publish_and_close(root: &Path, document: &serde_json::Value, bytes: &[u8]) -> ActionResult {
    publish(&Store::open(root).unwrap(), document, bytes)
}

#[test]
fn what_is_marked_stays_and_the_rest_goes_to_the_trash() {
    let (_folder, store) = store();
    let kept = publish_and_close(store.root(), &json!({"a": 1}), b"kept");
    let shared = publish_and_close(store.root(), &json!({"a": 2}), b"kept");
    let gone = publish_and_close(store.root(), &json!({"a": 3}), b"gone");
    let report = gc(&store, everything(), &[kept.key]);
    assert_eq!(
        (report.kept.files, report.moved.files),
        (3, 5),
        "{report:?}"
    );
    assert_eq!(store.action_keys().unwrap(), [kept.key]);
    assert!(store.blob(&kept.outputs["responses"].digest).is_ok());
    assert!(store.action_document(&shared.key).unwrap().is_none());
    assert!(store.blob(&gone.outputs["responses"].digest).is_err());
    assert!(fsck(&store).bad.is_empty());
    let report = gc(&store, everything(), &[kept.key]);
    assert_eq!((report.moved.files, report.deleted.files), (0, 5));
    assert!(files(&store.root().join("trash")).is_empty());
}

#[test]
fn an_action_comes_back_from_the_trash_whole_or_not_at_all() {
    let (_folder, store) = store();
    let one = publish_and_close(store.root(), &json!({"a": 1}), b"one");
    let two = publish_and_close(store.root(), &json!({"a": 2}), b"two");
    gc(&store, everything(), &[]);
    assert!(store.restore(&one.key).unwrap());
    assert_eq!(store.action_result(&one.key).unwrap(), Some(one.clone()));
    assert!(store.blob(&one.outputs["responses"].digest).is_ok());
    let lost = store.blob_path(&two.outputs["responses"].digest);
    std::fs::remove_file(store.trash_path(&lost)).unwrap();
    assert!(!store.restore(&two.key).unwrap());
    assert!(store.action_result(&two.key).unwrap().is_none());
    assert!(!store.restore(&ActionKey::of_document(&json!({}))).unwrap());
    assert!(fsck(&store).bad.is_empty());
    let report = gc(&store, everything(), &[]);
    assert_eq!(
        report.moved.files, 0,
        "what was restored is held: {report:?}"
    );
}

#[test]
fn a_damaged_file_in_the_trash_is_not_brought_back() {
    let (_folder, store) = store();
    let one = publish_and_close(store.root(), &json!({"a": 1}), b"one");
    gc(&store, everything(), &[]);
    let blob = store.trash_path(&store.blob_path(&one.outputs["responses"].digest));
    std::fs::remove_file(&blob).unwrap();
    std::fs::write(&blob, b"eno").unwrap();
    assert!(!store.restore(&one.key).unwrap());
    assert!(fsck(&store).bad.is_empty());
}

#[test]
fn what_is_young_stays_with_all_that_it_names() {
    let (_folder, store) = store();
    // The blob is old, the result that names it is not.
    add(&Store::open(store.root()).unwrap(), b"bytes");
    add(&Store::open(store.root()).unwrap(), b"old");
    std::thread::sleep(Duration::from_millis(50));
    let options = GcOptions {
        before: SystemTime::now(),
        ..everything()
    };
    std::thread::sleep(Duration::from_millis(50));
    publish_and_close(store.root(), &json!({"a": 1}), b"bytes");
    let report = gc(&store, options, &[]);
    assert_eq!(
        (report.moved.files, report.moved.bytes),
        (1, 3),
        "{report:?}"
    );
    assert!(fsck(&store).bad.is_empty());
}

#[test]
fn what_a_process_relies_on_stays_until_it_ends() {
    let (_folder, store) = store();
    let one = publish_and_close(store.root(), &json!({"a": 1}), b"one");
    let reader = Store::open(store.root()).unwrap();
    reader.hold(&one.key).unwrap();
    let writer = Store::open(store.root()).unwrap();
    let blob = add(&writer, b"no result names it yet");
    let leased = ActionKey::of_document(&json!({"a": 2}));
    let lease = reader.try_lease(&leased).unwrap().unwrap();
    publish(&writer, &json!({"a": 2}), b"two");
    let report = gc(&store, everything(), &[]);
    assert_eq!(report.moved.files, 0, "{report:?}");
    assert!(store.blob(&blob.digest).is_ok());
    drop(lease);
    drop((reader, writer));
    assert_eq!(gc(&store, everything(), &[]).moved.files, 7);
}

#[test]
fn what_was_published_meanwhile_stays_even_when_its_process_ended() {
    let (_folder, store) = store();
    let root = store.root().to_owned();
    add(&Store::open(&root).unwrap(), b"bytes");
    let mut published = None;
    let mut mark = |_: &mut Marks<'_>| {
        // Once, before the first batch: the blob is there already, and nothing else names the action.
        published.get_or_insert_with(|| publish_and_close(&root, &json!({"a": 1}), b"bytes"));
        Ok::<_, StoreError>(())
    };
    store.gc(everything(), &mut mark, &|_| {}).unwrap();
    let published = published.unwrap();
    assert_eq!(
        store.action_result(&published.key).unwrap(),
        Some(published)
    );
    assert!(fsck(&store).bad.is_empty());
    // The list that was left for this is removed by the next writer, and then counts no more.
    add(&Store::open(&root).unwrap(), b"other");
    assert_eq!(gc(&store, everything(), &[]).moved.files, 4);
}

#[test]
fn a_collection_cut_short_leaves_a_sound_store() {
    for stop_after in 1..8 {
        let (_folder, store) = store();
        for number in 0..4 {
            publish_and_close(store.root(), &json!({"a": number}), &[number; 9]);
        }
        let mut calls = 0;
        let mut mark = |_: &mut Marks<'_>| {
            calls += 1;
            match calls > stop_after {
                true => Err(StoreError::NotAFile(PathBuf::new())),
                false => Ok(()),
            }
        };
        assert!(store.gc(everything(), &mut mark, &|_| {}).is_err());
        assert!(fsck(&store).bad.is_empty(), "stopped after {stop_after}");
    }
}

#[test]
fn a_dry_run_says_the_same_and_changes_nothing() {
    let (_folder, store) = store();
    let kept = publish_and_close(store.root(), &json!({"a": 1}), b"kept");
    publish_and_close(store.root(), &json!({"a": 2}), b"gone");
    let before = files(store.root());
    let dry_run = GcOptions {
        dry_run: true,
        empty_trash: true,
        ..everything()
    };
    let foretold = gc(&store, dry_run, &[kept.key]);
    assert_eq!(files(store.root()), before);
    let options = GcOptions {
        empty_trash: true,
        ..everything()
    };
    assert_eq!(gc(&store, options, &[kept.key]), foretold);
    assert!(files(&store.root().join("trash")).is_empty());
}

#[test]
fn runs_are_known_by_their_folders() {
    let (folder, store) = store();
    let runs = ["one", "two"].map(|name| folder.path().join("runs").join(name));
    for run in runs.iter().chain(&runs) {
        store.register_run(run).unwrap();
    }
    assert_eq!(store.registered_runs().unwrap(), runs);
    std::fs::remove_dir(&runs[0]).unwrap();
    let report = gc(&store, everything(), &[]);
    assert_eq!(report.gone_runs, runs[..1]);
    assert_eq!(store.registered_runs().unwrap(), runs[1..]);
}

#[test]
fn a_pin_is_a_named_record() {
    let (_folder, store) = store();
    store.pin("b", b"first").unwrap();
    store.pin("b", b"record").unwrap();
    store.pin("a", b"record").unwrap();
    let pins = store.pins().unwrap();
    let names: Vec<&str> = pins.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(std::fs::read(&pins[1].1).unwrap(), b"record");
    assert!(store.unpin("a").unwrap() && !store.unpin("a").unwrap());
}
