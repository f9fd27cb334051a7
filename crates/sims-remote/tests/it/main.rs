//! Actions on their way between local stores and a remote cache, and what may happen to them there.

mod faulty;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use serde_json::{Value, json};
use sims_artifact::store::{ActionKey, ActionOutput, ActionResult, FsckOptions, Store};
use sims_remote::{Put, Remote, RemoteError, Settings, Uploads};
use tempfile::TempDir;

use faulty::{Fault, Faulty};

/// A local store that is gone at the end of the test.
struct Local {
    _folder: TempDir,
    store: Store,
}

impl std::ops::Deref for Local {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

fn local() -> Local {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    Local {
        _folder: folder,
        store,
    }
}

fn document(seed: u64) -> Value {
    json!({"stage": "toy", "seed": seed, "outputs": {"numbers": "numbers@1"}})
}

/// Publishes an action with one output.
fn publish(store: &Store, document: &Value, bytes: &[u8]) -> ActionResult {
    let scratch = store.scratch().unwrap();
    let path = scratch.path().join("file");
    std::fs::write(&path, bytes).unwrap();
    let blob = store.add_file(&path).unwrap();
    std::fs::write(&path, b"{\"tokens\": 3}").unwrap();
    let summary = store.add_file(&path).unwrap();
    let output = ActionOutput {
        digest: blob.digest,
        bytes: blob.bytes,
        schema: "numbers@1".to_owned(),
        file: "numbers.parquet".to_owned(),
    };
    let result = ActionResult {
        key: ActionKey::of_document(document),
        outputs: BTreeMap::from([("numbers".to_owned(), output)]),
        summary: Some(summary),
        seconds: 1.5,
        stop: None,
        chunks: Vec::new(),
        chunk: None,
    };
    store.publish_action(document, &result).unwrap();
    result
}

fn remote(objects: &Arc<Faulty>) -> Remote {
    let settings = Settings {
        transfers: 4,
        timeout: Duration::from_millis(300),
    };
    let objects = Arc::clone(objects) as Arc<dyn ObjectStore>;
    Remote::over(objects, Path::from("team/sims"), settings, || false).unwrap()
}

fn fetch(
    remote: &Remote,
    store: &Store,
    document: &Value,
) -> Result<Option<ActionResult>, RemoteError> {
    remote.fetch(
        store,
        &ActionKey::of_document(document),
        document,
        &|_, _| {},
    )
}

fn wait<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.unwrap().block_on(work)
}

/// Returns the places of all objects.
fn places(objects: &Faulty) -> Vec<String> {
    let all = objects.list(None).try_collect::<Vec<_>>();
    let mut places: Vec<String> = wait(all)
        .unwrap()
        .into_iter()
        .map(|object| object.location.to_string())
        .collect();
    places.sort();
    places
}

/// Asserts that nothing of an action is in a store that had nothing.
fn is_empty(store: &Store) -> bool {
    let check = FsckOptions {
        threads: 1,
        repair: false,
    };
    let report = store.fsck(check, &|_, _| {}).unwrap();
    report.blobs == 0 && store.action_keys().unwrap().is_empty()
}

fn damage(result: Result<Option<ActionResult>, RemoteError>) -> String {
    match result {
        Err(error @ RemoteError::Damaged { .. }) => error.to_string(),
        other => panic!("accepted: {other:?}"),
    }
}

fn failure(result: Result<Option<ActionResult>, RemoteError>) -> String {
    match result {
        Err(error @ RemoteError::Unusable { .. }) => error.to_string(),
        other => panic!("no failure: {other:?}"),
    }
}

#[test]
fn an_action_arrives_as_it_was_sent() {
    let (objects, here, there) = (Arc::new(Faulty::new()), local(), local());
    let bytes = b"numbers ".repeat(10_000);
    let result = publish(&here, &document(1), &bytes);
    assert_eq!(
        remote(&objects).put(&here, &result.key).unwrap(),
        Put::Uploaded
    );
    let name = result.key.to_string();
    let digest = result.outputs["numbers"].digest.to_string();
    let places = places(&objects);
    assert_eq!(
        places.len(),
        4,
        "two blobs, a document, a result: {places:?}"
    );
    for expected in [
        format!("team/sims/ac/{}/{name}.json", &name[..2]),
        format!("team/sims/actions/{}/{name}.json", &name[..2]),
        format!("team/sims/cas/{}/{digest}.zst", &digest[..2]),
    ] {
        assert!(
            places.contains(&expected),
            "{expected} is not in {places:?}"
        );
    }
    let blob = places.iter().find(|place| place.contains(&digest)).unwrap();
    let blob = Path::from(blob.as_str());
    assert!(
        wait(objects.head(&blob)).unwrap().size < 1000,
        "it is compressed"
    );

    let remote = remote(&objects);
    assert_eq!(
        fetch(&remote, &there, &document(1)).unwrap(),
        Some(result.clone())
    );
    assert_eq!(
        there.action_result(&result.key).unwrap(),
        Some(result.clone())
    );
    assert_eq!(
        there.action_document(&result.key).unwrap(),
        Some(document(1))
    );
    let path = there.blob(&result.outputs["numbers"].digest).unwrap();
    assert_eq!(std::fs::read(path).unwrap(), bytes);
    assert_eq!(fetch(&remote, &there, &document(2)).unwrap(), None);
    assert_eq!(remote.put(&there, &result.key).unwrap(), Put::Present);
    let unknown = ActionKey::of_document(&document(2));
    assert_eq!(remote.put(&there, &unknown).unwrap(), Put::Absent);
}

#[test]
fn wrong_and_missing_bytes_are_refused_and_replaced_by_those_who_compute_them() {
    for fault in [Fault::WrongBytes, Fault::Cut] {
        for place in ["/cas/", "/ac/"] {
            let (objects, here, there) = (Arc::new(Faulty::new()), local(), local());
            let bytes: Vec<u8> = (0..5000_u32).flat_map(u32::to_le_bytes).collect();
            let result = publish(&here, &document(1), &bytes);
            remote(&objects).put(&here, &result.key).unwrap();
            objects.set(fault, place);
            let remote = remote(&objects);
            let message = damage(fetch(&remote, &there, &document(1)));
            assert!(message.contains("holds wrong data"), "{message}");
            assert!(is_empty(&there), "{fault:?} in {place} left something");
            assert!(!remote.is_off(), "other actions may be whole");

            objects.set(Fault::None, "");
            let before = objects.requests();
            publish(&there, &document(1), &bytes);
            assert_eq!(remote.put(&there, &result.key).unwrap(), Put::Uploaded);
            assert!(
                objects.requests() >= before + 4,
                "everything is written anew"
            );
            assert_eq!(
                fetch(&remote, &local(), &document(1)).unwrap(),
                Some(result)
            );
        }
    }
}

/// Puts bytes where the only output of an action lies.
fn overwrite(objects: &Faulty, part: &str, bytes: Vec<u8>) {
    let place = places(objects)
        .into_iter()
        .find(|place| place.contains(part))
        .unwrap();
    let place = Path::from(place);
    wait(objects.put(&place, bytes.into())).unwrap();
}

#[test]
fn a_body_may_not_become_longer_than_the_result_says() {
    let (objects, here, there) = (Arc::new(Faulty::new()), local(), local());
    let result = publish(&here, &document(1), b"short");
    remote(&objects).put(&here, &result.key).unwrap();
    let bomb = zstd::bulk::compress(&vec![0; 100 << 20], 3).unwrap();
    let digest = result.outputs["numbers"].digest.to_string();
    overwrite(&objects, &digest, bomb);
    let started = Instant::now();
    let message = damage(fetch(&remote(&objects), &there, &document(1)));
    assert!(message.contains("longer than its action says"), "{message}");
    assert!(started.elapsed() < Duration::from_secs(5));
    assert!(is_empty(&there));
}

#[test]
fn a_missing_blob_a_forged_result_and_one_of_another_action_are_refused() {
    let here = local();
    let result = publish(&here, &document(1), b"numbers");
    let other = publish(&here, &document(2), b"other numbers");
    let renamed = |change: &dyn Fn(&mut ActionResult)| {
        let mut changed = result.clone();
        change(&mut changed);
        changed.to_record()
    };
    let role = renamed(&|result| {
        let output = result.outputs.remove("numbers").unwrap();
        result.outputs.insert("letters".to_owned(), output);
    });
    let file = renamed(&|result| {
        result.outputs.get_mut("numbers").unwrap().file = "../../x.parquet".to_owned();
    });
    let absent = renamed(&|result| {
        result.outputs.get_mut("numbers").unwrap().digest = sims_artifact::Digest::of_bytes(b"x");
    });
    for (record, expected) in [
        (other.to_record(), "belongs to action"),
        (role, "other outputs than the stage describes"),
        (file, "no name of a file"),
        (absent, "is not there"),
        (b"{}".to_vec(), "missing field"),
    ] {
        let (objects, there) = (Arc::new(Faulty::new()), local());
        let remote = remote(&objects);
        remote.put(&here, &result.key).unwrap();
        overwrite(&objects, "/ac/", record);
        let message = damage(fetch(&remote, &there, &document(1)));
        assert!(message.contains(expected), "{message}");
        assert!(there.action_keys().unwrap().is_empty());
    }
}

#[test]
fn one_failure_is_enough_and_its_message_holds_no_answer_of_the_server() {
    for (fault, expected) in [
        (
            Fault::Broken,
            "the server answered 500 Internal Server Error",
        ),
        (Fault::Denied, "permission denied (403)"),
        (Fault::Silent, "no answer within 0.3 s"),
        (Fault::Stalling, "no answer within"),
    ] {
        let (objects, here, there) = (Arc::new(Faulty::new()), local(), local());
        let result = publish(&here, &document(1), b"numbers");
        remote(&objects).put(&here, &result.key).unwrap();
        objects.set(fault, "");
        let remote = remote(&objects);
        let message = failure(fetch(&remote, &there, &document(1)));
        assert!(message.contains(expected), "{message}");
        assert!(!message.contains("secret"), "{message}");
        let asked = objects.requests();
        assert_eq!(fetch(&remote, &there, &document(2)).unwrap(), None);
        assert_eq!(remote.put(&here, &result.key).unwrap(), Put::Off);
        assert_eq!(objects.requests(), asked, "it is not asked again");
        assert!(is_empty(&there));
    }
}

#[test]
fn who_may_not_write_still_reads() {
    let (objects, here, there) = (Arc::new(Faulty::new()), local(), local());
    let first = publish(&here, &document(1), b"numbers");
    let second = publish(&here, &document(2), b"more numbers");
    remote(&objects).put(&here, &first.key).unwrap();
    objects.set(Fault::WritingDenied, "");
    let remote = remote(&objects);
    assert!(remote.put(&here, &second.key).is_err());
    assert_eq!(remote.put(&here, &second.key).unwrap(), Put::Off);
    assert_eq!(fetch(&remote, &there, &document(1)).unwrap(), Some(first));
    assert_eq!(fetch(&remote, &there, &document(2)).unwrap(), None);
}

#[test]
fn a_result_is_never_there_without_what_it_names() {
    let here = local();
    let result = publish(&here, &document(1), b"numbers");
    for place in ["/cas/", "/actions/", "/ac/"] {
        let objects = Arc::new(Faulty::new());
        objects.set(Fault::WritingDenied, place);
        assert!(remote(&objects).put(&here, &result.key).is_err());
        let places = places(&objects);
        assert!(
            !places.iter().any(|place| place.contains("/ac/")),
            "{places:?}"
        );
        objects.set(Fault::None, "");
        // The next attempt goes on with what is missing.
        assert_eq!(
            remote(&objects).put(&here, &result.key).unwrap(),
            Put::Uploaded
        );
        assert_eq!(
            fetch(&remote(&objects), &local(), &document(1)).unwrap(),
            Some(result.clone())
        );
    }
}

#[test]
fn many_writers_leave_one_result() {
    for fault in [Fault::None, Fault::Unconditional] {
        let objects = Arc::new(Faulty::new());
        objects.set(fault, "");
        let results: Vec<ActionResult> = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..8_u8)
                .map(|writer| {
                    let objects = &objects;
                    scope.spawn(move || {
                        let here = local();
                        // Half of them got other bytes.
                        let result = publish(&here, &document(1), &[writer % 2; 1000]);
                        let put = remote(objects).put(&here, &result.key).unwrap();
                        assert!(matches!(put, Put::Uploaded | Put::Present));
                        result
                    })
                })
                .collect();
            writers
                .into_iter()
                .map(|writer| writer.join().unwrap())
                .collect()
        });
        let fetched = fetch(&remote(&objects), &local(), &document(1))
            .unwrap()
            .unwrap();
        assert!(results.contains(&fetched));
        let count = |part: &str| {
            places(&objects)
                .iter()
                .filter(|place| place.contains(part))
                .count()
        };
        assert_eq!((count("/ac/"), count("/actions/")), (1, 1));
    }
}

#[test]
fn a_large_blob_travels_in_parts() {
    let (objects, here, there) = (Arc::new(Faulty::new()), local(), local());
    // Bytes that do not compress: parts of 8 MiB.
    let mut state = 1_u64;
    let mut bytes = Vec::with_capacity(20 << 20);
    while bytes.len() < 20 << 20 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        bytes.extend((state >> 24).to_le_bytes());
    }
    let result = publish(&here, &document(1), &bytes);
    remote(&objects).put(&here, &result.key).unwrap();
    let (most, total) = (AtomicU64::new(0), AtomicU64::new(0));
    let tell = |arrived, of| {
        most.fetch_max(arrived, Ordering::Relaxed);
        total.store(of, Ordering::Relaxed);
    };
    let fetched = remote(&objects).fetch(&there, &result.key, &document(1), &tell);
    assert_eq!(fetched.unwrap(), Some(result.clone()));
    let told = total.into_inner();
    assert!(told == 0 || told > 20 << 20, "{told}");
    assert!(most.into_inner() <= told);
    let path = there.blob(&result.outputs["numbers"].digest).unwrap();
    assert!(std::fs::read(path).unwrap() == bytes);
}

#[test]
fn a_transfer_ends_when_it_is_asked_to() {
    let (objects, here) = (Arc::new(Faulty::new()), local());
    let result = publish(&here, &document(1), b"numbers");
    objects.set(Fault::Silent, "");
    let asked = Arc::new(AtomicBool::new(false));
    let settings = Settings {
        transfers: 1,
        timeout: Duration::from_secs(600),
    };
    let stop = Arc::clone(&asked);
    let remote = Remote::over(objects, Path::default(), settings, move || {
        stop.load(Ordering::SeqCst)
    });
    let remote = Arc::new(remote.unwrap());
    let uploads = Uploads::start(Arc::clone(&remote), Store::open(here.root()).unwrap());
    uploads.offer(result.key);
    let report = uploads.finish(&|_| asked.store(true, Ordering::SeqCst));
    assert_eq!((report.uploaded, report.left), (0, 1));
    assert!(report.fault.is_none());
    assert!(!remote.is_off(), "stopping is no fault of the cache");
}

#[test]
fn a_queue_sends_everything_once_or_says_why_not() {
    let (objects, here) = (Arc::new(Faulty::new()), local());
    let keys: Vec<ActionKey> = (0..20)
        .map(|seed| publish(&here, &document(seed), &seed.to_le_bytes()).key)
        .collect();
    let send = || {
        let remote = Arc::new(remote(&objects));
        let uploads = Uploads::start(remote, Store::open(here.root()).unwrap());
        keys.iter().chain(&keys).for_each(|key| uploads.offer(*key));
        uploads.offer(ActionKey::of_document(&document(99)));
        uploads.finish(&|progress| assert!(progress.actions <= progress.of_actions))
    };
    let report = send();
    assert_eq!((report.uploaded, report.present, report.absent), (20, 0, 1));
    let report = send();
    assert_eq!((report.uploaded, report.present, report.absent), (0, 20, 1));
    objects.set(Fault::Broken, "");
    let report = send();
    assert_eq!(report.uploaded + report.present, 0);
    assert!(report.left >= 20 - 4 && report.fault.is_some());
}
