//! What the store promises on every disk, as checks that panic with what they found.
//!
//! The same suite runs on the operating system's disk, on the one in memory, and in the simulator on its own.

use super::{Batch, Keyspace, Log, Store, StoreError, StoreOptions, leaf_hash, node_hash};
use crate::platform::disk::Disk;
use bytes::Bytes;
use std::path::Path;
use std::sync::Arc;

/// Runs the whole suite below `root`.
///
/// # Panics
///
/// When the store breaks a promise on this disk.
pub async fn run(disk: Arc<dyn Disk>, root: &Path) {
    let place = |name: &str| Place {
        disk: Arc::clone(&disk),
        dir: root.join(name),
    };
    values_outlive_a_restart(place("values")).await;
    scans_are_ordered_and_paged(place("scans")).await;
    batches_are_applied_whole_or_not_at_all(place("batches")).await;
    keyspaces_are_apart(place("keyspaces")).await;
    nothing_is_lost_between_many_writers(place("writers")).await;
    records_outlive_a_restart(place("records")).await;
    reads_keep_to_their_limits(place("limits")).await;
    an_append_begins_where_it_was_to_or_not_at_all(place("at")).await;
    a_log_can_be_shortened_at_both_ends(place("shortened")).await;
    the_root_is_that_of_all_records_ever(place("root")).await;
    a_log_can_begin_where_another_does(place("beginning")).await;
    logs_are_listed_and_removed(place("removal")).await;
    a_directory_has_one_user(place("users")).await;
    another_owner_is_refused(place("owner")).await;
    bad_arguments_are_refused(place("arguments")).await;
    a_closed_store_says_so(place("closed")).await;
    a_dropped_commit_is_applied_whole(place("dropped")).await;
    a_sound_store_passes_its_own_check(place("check")).await;
}

/// Options that make segments small and let a test disk be full.
pub fn options() -> StoreOptions {
    StoreOptions {
        segment_bytes: 4096,
        reserve_bytes: 0,
        cache_bytes: 1 << 20,
        ahead_bytes: 2048,
        ..StoreOptions::default()
    }
}

struct Place {
    disk: Arc<dyn Disk>,
    dir: std::path::PathBuf,
}

impl Place {
    async fn open(&self) -> Store {
        Store::open(Arc::clone(&self.disk), &self.dir, options())
            .await
            .expect("the store opens")
    }

    async fn reopen(&self, store: Store) -> Store {
        store.close().await.expect("the store closes");
        self.open().await
    }
}

fn record(number: u64) -> Bytes {
    Bytes::from(format!("record {number}, {}", "x".repeat((number % 97) as usize)))
}

async fn append(log: &Log, numbers: std::ops::Range<u64>) {
    for number in numbers {
        assert_eq!(log.append(vec![record(number)]).await.expect("appends"), number);
    }
}

async fn expect_records(log: &Log, numbers: std::ops::Range<u64>) {
    let mut seq = numbers.start;
    while seq < numbers.end {
        let page = log.read(seq, 7, 1 << 20).await.expect("reads");
        assert!(!page.is_empty(), "record {seq} is missing");
        for found in page {
            assert_eq!((found.seq, &found.data), (seq, &record(seq)));
            seq += 1;
        }
    }
    assert_eq!(seq, numbers.end);
    assert_eq!(log.next_seq(), numbers.end);
    assert_eq!(log.read(numbers.end, 7, 1 << 20).await.expect("reads at the end"), []);
}

async fn get(keyspace: &Keyspace, key: &str) -> Option<String> {
    let value = keyspace.get(key.as_bytes()).await.expect("reads");
    value.map(|value| String::from_utf8(value).expect("values here are text"))
}

async fn values_outlive_a_restart(place: Place) {
    let store = place.open().await;
    let keyspace = store.keyspace("members");
    assert_eq!(get(&keyspace, "a").await, None);
    keyspace.put("a", "1").await.expect("puts");
    keyspace.put("b", "2").await.expect("puts");
    keyspace.put("a", "3").await.expect("overwrites");
    keyspace
        .put("", "")
        .await
        .expect("an empty key and an empty value are allowed");
    keyspace.delete("b").await.expect("deletes");
    keyspace
        .delete("never there")
        .await
        .expect("deleting nothing is no error");
    let check = async |store: &Store| {
        let keyspace = store.keyspace("members");
        assert_eq!(get(&keyspace, "a").await.as_deref(), Some("3"));
        assert_eq!(get(&keyspace, "b").await, None);
        assert_eq!(get(&keyspace, "").await.as_deref(), Some(""));
    };
    check(&store).await;
    let store = place.reopen(store).await;
    check(&store).await;
    store.close().await.expect("closes");
}

async fn scans_are_ordered_and_paged(place: Place) {
    let store = place.open().await;
    let keyspace = store.keyspace("scans");
    let mut batch = Batch::new();
    for key in ["b", "a/2", "a/10", "a/", "a", "a/1", "a0", "\u{7f}"] {
        batch = batch.put(key, key);
    }
    keyspace.commit(batch).await.expect("commits");
    let mut found: Vec<Vec<u8>> = Vec::new();
    loop {
        let after = found.last().cloned();
        let page = keyspace.scan_prefix(b"a/", after.as_deref(), 2).await.expect("scans");
        if page.is_empty() {
            break;
        }
        assert!(page.len() <= 2);
        found.extend(page.into_iter().map(|(key, _)| key));
    }
    assert_eq!(found, [&b"a/"[..], b"a/1", b"a/10", b"a/2"]);
    assert_eq!(keyspace.scan_prefix(b"", None, 100).await.expect("scans").len(), 8);
    assert_eq!(
        keyspace.scan_prefix(b"a/", Some(b"0"), 100).await.expect("scans").len(),
        4,
        "before the prefix"
    );
    assert_eq!(keyspace.scan_prefix(b"c", None, 100).await.expect("scans"), []);
    assert_eq!(
        store
            .keyspace("empty")
            .scan_prefix(b"", None, 100)
            .await
            .expect("scans"),
        []
    );
    store.close().await.expect("closes");
}

async fn batches_are_applied_whole_or_not_at_all(place: Place) {
    let store = place.open().await;
    let keyspace = store.keyspace("batches");
    let absent = || Batch::new().require("x", None).put("x", "1").put("y", "1");
    keyspace.commit(absent()).await.expect("x was absent");
    let refused = keyspace.commit(absent().put("z", "1")).await;
    assert!(
        matches!(&refused, Err(StoreError::Conflict { keyspace: "batches", key }) if key == "x"),
        "{refused:?}"
    );
    assert_eq!(get(&keyspace, "z").await, None, "a refused batch changes nothing");
    let held = Batch::new()
        .require("x", Some(b"1".to_vec()))
        .require("z", None)
        .delete("x")
        .put("y", "2")
        .put("y", "3");
    keyspace.commit(held).await.expect("both preconditions hold");
    assert_eq!(
        (get(&keyspace, "x").await, get(&keyspace, "y").await.as_deref()),
        (None, Some("3"))
    );
    keyspace
        .commit(Batch::new().require("y", Some(b"3".to_vec())))
        .await
        .expect("a question alone");
    let wrong = keyspace.commit(Batch::new().require("y", Some(b"2".to_vec()))).await;
    assert!(matches!(wrong, Err(StoreError::Conflict { .. })), "{wrong:?}");
    keyspace.commit(Batch::new()).await.expect("nothing to do");
    store.close().await.expect("closes");
}

async fn keyspaces_are_apart(place: Place) {
    let store = place.open().await;
    let (one, two) = (store.keyspace("one"), store.keyspace("two"));
    one.put("k", "1").await.expect("puts");
    assert_eq!(get(&two, "k").await, None);
    two.delete("k").await.expect("deletes");
    assert_eq!(get(&one, "k").await.as_deref(), Some("1"));
    store.close().await.expect("closes");
}

async fn nothing_is_lost_between_many_writers(place: Place) {
    const WRITERS: u64 = 8;
    const ROUNDS: u64 = 20;
    let store = place.open().await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let (keyspace, log) = (store.keyspace("counter"), store.log("shared").await.expect("opens"));
        writers.spawn(async move {
            for round in 0..ROUNDS {
                while !increment(&keyspace).await {}
                let pair = vec![Bytes::from(format!("{writer} {round}")), Bytes::from_static(b"second")];
                log.append(pair).await.expect("appends");
            }
        });
    }
    writers.join_all().await;
    assert_eq!(
        get(&store.keyspace("counter"), "n").await,
        Some((WRITERS * ROUNDS).to_string())
    );
    let log = store.log("shared").await.expect("opens");
    let mut records = Vec::new();
    while records.len() < 2 * (WRITERS * ROUNDS) as usize {
        let page = log.read(records.len() as u64, 100, 1 << 20).await.expect("reads");
        assert!(!page.is_empty(), "records are missing");
        records.extend(page);
    }
    for writer in 0..WRITERS {
        let own = |number: &&super::Record| number.data.starts_with(format!("{writer} ").as_bytes());
        let rounds: Vec<_> = records.iter().filter(own).map(|record| record.seq).collect();
        assert_eq!(rounds.len() as u64, ROUNDS);
        assert!(rounds.is_sorted(), "the order of one writer is kept");
        let followed = |seq: &u64| records[*seq as usize + 1].data == "second";
        assert!(
            rounds.iter().all(followed),
            "the records of one append follow each other"
        );
    }
    store.close().await.expect("closes");
}

async fn increment(keyspace: &Keyspace) -> bool {
    let old = keyspace.get(b"n").await.expect("reads");
    let number = old
        .as_ref()
        .map_or(0, |old| String::from_utf8_lossy(old).parse::<u64>().expect("a number"));
    let batch = Batch::new().require("n", old).put("n", (number + 1).to_string());
    match keyspace.commit(batch).await {
        Ok(()) => true,
        Err(StoreError::Conflict { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

async fn records_outlive_a_restart(place: Place) {
    let store = place.open().await;
    let log = store.log("history").await.expect("opens");
    assert_eq!((log.first_seq(), log.next_seq()), (0, 0));
    append(&log, 0..300).await;
    expect_records(&log, 0..300).await;
    let root = log.root().expect("a root");
    let store = place.reopen(store).await;
    let log = store.log("history").await.expect("opens");
    assert_eq!(log.root().expect("a root"), root);
    expect_records(&log, 0..300).await;
    append(&log, 300..310).await;
    assert_eq!(log.append(Vec::new()).await.expect("an empty append"), 310);
    assert_eq!(
        log.append(vec![Bytes::new(), record(311)])
            .await
            .expect("an empty record"),
        310
    );
    drop(log);
    let log = store.log("history").await.expect("opens again in the same process");
    assert_eq!(log.read(310, 1, 1).await.expect("reads")[0].data, Bytes::new());
    assert!(log.damage().is_empty());
    store.close().await.expect("closes");
}

async fn an_append_begins_where_it_was_to_or_not_at_all(place: Place) {
    let store = place.open().await;
    let log = store.log("at").await.expect("opens");
    let grown = log.watch();
    let first = log.append_at(0, vec![record(0), record(1)]).await.expect("is queued");
    // Behind one that is refused, and decided upon it.
    let wrong = log.append_at(7, vec![record(7)]).await.expect("is queued");
    let behind = log.append_at(8, vec![record(8)]).await.expect("is queued");
    let next = log.append_at(2, vec![record(2)]).await.expect("is queued");
    assert_eq!(first.leaves(), [leaf_hash(&record(0)), leaf_hash(&record(1))]);
    assert_eq!(first.durable().await.expect("is there"), 0);
    for refused in [wrong.durable().await, behind.durable().await] {
        assert!(matches!(refused, Err(StoreError::Elsewhere { .. })), "{refused:?}");
    }
    assert_eq!(next.durable().await.expect("is there"), 2);
    assert_eq!(*grown.borrow(), 3);
    expect_records(&log, 0..3).await;
    assert_eq!(log.segments().iter().map(|(first, _)| *first).collect::<Vec<_>>(), [0]);
    store.close().await.expect("closes");
}

async fn reads_keep_to_their_limits(place: Place) {
    let store = place.open().await;
    let log = store.log("limits").await.expect("opens");
    let records: Vec<Bytes> = (0..40).map(|_| Bytes::from(vec![7; 100])).collect();
    log.append(records).await.expect("appends");
    let count = |page: Vec<super::Record>| page.len();
    assert_eq!(count(log.read(0, 0, 1000).await.expect("reads")), 0);
    assert_eq!(count(log.read(0, 5, 1000).await.expect("reads")), 5);
    assert_eq!(count(log.read(0, 100, 250).await.expect("reads")), 2);
    assert_eq!(
        count(log.read(0, 100, 0).await.expect("reads")),
        1,
        "one record is always given"
    );
    assert_eq!(count(log.read(38, 100, 100_000).await.expect("reads")), 2);
    assert_eq!(count(log.read(u64::MAX, 100, 100_000).await.expect("reads")), 0);
    let large = Bytes::from(vec![9; 700_000]);
    log.append(vec![large.clone()])
        .await
        .expect("appends more than a segment holds");
    assert_eq!(log.read(40, 10, 10).await.expect("reads")[0].data, large);
    assert_eq!(
        count(log.read(30, 100, usize::MAX).await.expect("reads over segments")),
        11
    );
    store.close().await.expect("closes");
}

async fn a_log_can_be_shortened_at_both_ends(place: Place) {
    let store = place.open().await;
    let log = store.log("shortened").await.expect("opens");
    append(&log, 0..300).await;
    let first = log.truncate_before(150).await.expect("removes the front");
    assert!(
        first > 0 && first <= 150,
        "whole segments before 150, and some: {first}"
    );
    assert_eq!(log.first_seq(), first);
    let gone = log.read(first - 1, 1, 1).await;
    assert!(
        matches!(gone, Err(StoreError::Truncated { first_seq, .. }) if first_seq == first),
        "{gone:?}"
    );
    assert_eq!(log.truncate_before(0).await.expect("nothing to do"), first);
    expect_records(&log, first..300).await;
    log.truncate_from(400).await.expect("nothing to do");
    log.truncate_from(200).await.expect("removes the end");
    expect_records(&log, first..200).await;
    let store = place.reopen(store).await;
    let log = store.log("shortened").await.expect("opens");
    assert!(log.damage().is_empty(), "{:?}", log.damage());
    expect_records(&log, first..200).await;
    append(&log, 200..260).await;
    expect_records(&log, first..260).await;
    // In the middle of one append: the records before the cut had been acknowledged and stay.
    log.append((260..270).map(record).collect()).await.expect("appends");
    log.truncate_from(265).await.expect("removes the end");
    let store = place.reopen(store).await;
    let log = store.log("shortened").await.expect("opens");
    expect_records(&log, first..265).await;
    append(&log, 265..266).await;
    expect_records(&log, first..266).await;
    let early = log.truncate_from(first - 1).await;
    assert!(matches!(early, Err(StoreError::Truncated { .. })), "{early:?}");
    log.truncate_from(first).await.expect("removes all that is left");
    append(&log, first..first + 3).await;
    expect_records(&log, first..first + 3).await;
    store.close().await.expect("closes");
}

async fn the_root_is_that_of_all_records_ever(place: Place) {
    let store = place.open().await;
    let log = store.log("root").await.expect("opens");
    let leaves: Vec<_> = (0..200).map(|number| leaf_hash(&record(number))).collect();
    append(&log, 0..200).await;
    assert_eq!(log.root_at_next().expect("a root"), (200, root_by_definition(&leaves)));
    log.truncate_before(100).await.expect("removes the front");
    assert_eq!(log.root().expect("a root"), root_by_definition(&leaves));
    log.truncate_from(123).await.expect("removes the end");
    assert_eq!(log.root().expect("a root"), root_by_definition(&leaves[..123]));
    let store = place.reopen(store).await;
    let log = store.log("root").await.expect("opens");
    append(&log, 123..140).await;
    assert_eq!(log.root().expect("a root"), root_by_definition(&leaves[..140]));
    store.close().await.expect("closes");
}

/// The definition in RFC 6962, section 2.1.
fn root_by_definition(leaves: &[super::Hash]) -> super::Hash {
    match leaves {
        [leaf] => *leaf,
        leaves => {
            let split = leaves.len().next_power_of_two() / 2;
            node_hash(
                &root_by_definition(&leaves[..split]),
                &root_by_definition(&leaves[split..]),
            )
        }
    }
}

async fn a_log_can_begin_where_another_does(place: Place) {
    let store = place.open().await;
    let log = store.log("old").await.expect("a log");
    append(&log, 0..200).await;
    let first = log.truncate_before(150).await.expect("shortens");
    assert!(first > 0, "the test's log has one segment only");
    let beginning = log.beginning().await.expect("has a beginning");
    assert_eq!(beginning.count(), first);
    let copy = store.log_from("copy", beginning.clone()).await.expect("a log");
    assert_eq!((copy.first_seq(), copy.next_seq()), (first, first));
    append(&copy, first..first + 20).await;
    drop((log, copy));
    let store = place.reopen(store).await;
    // What is there stays, whatever beginning is asked for.
    let copy = store.log_from("copy", super::Frontier::default()).await.expect("a log");
    append(&copy, first + 20..200).await;
    expect_records(&copy, first..200).await;
    let log = store.log("old").await.expect("a log");
    assert_eq!(copy.root().expect("a root"), log.root().expect("a root"));
    assert_eq!(copy.beginning().await.expect("has a beginning"), beginning);
    let report = store.verify().await.expect("verifies");
    assert!(report.files.iter().all(|file| file.findings.is_empty()), "{report:?}");
    store.close().await.expect("closes");
}

async fn logs_are_listed_and_removed(place: Place) {
    let store = place.open().await;
    for name in ["b", "a.b-c_d", "0"] {
        append(&store.log(name).await.expect("opens"), 0..3).await;
    }
    assert_eq!(store.logs().await.expect("lists"), ["0", "a.b-c_d", "b"]);
    let held = store.log("b").await.expect("opens");
    store.remove_log("b").await.expect("removes");
    assert!(
        held.append(vec![record(3)]).await.is_err(),
        "a removed log takes no records"
    );
    store.remove_log("b").await.expect("removing nothing is no error");
    assert!(matches!(
        store.existing_log("b").await,
        Err(StoreError::NoSuchLog { .. })
    ));
    let store = place.reopen(store).await;
    assert_eq!(store.logs().await.expect("lists"), ["0", "a.b-c_d"]);
    let again = store.log("b").await.expect("made anew");
    append(&again, 0..2).await;
    expect_records(&store.existing_log("0").await.expect("opens"), 0..3).await;
    let stats = store.stats().await.expect("counts");
    assert_eq!((stats.logs, stats.failure), (3, None));
    store.close().await.expect("closes");
}

async fn a_directory_has_one_user(place: Place) {
    let store = place.open().await;
    let second = Store::open(Arc::clone(&place.disk), &place.dir, options()).await;
    assert!(matches!(second, Err(StoreError::InUse { .. })), "{second:?}");
    let store = place.reopen(store).await;
    store.close().await.expect("closes");
}

async fn another_owner_is_refused(place: Place) {
    place.open().await.close().await.expect("closes");
    let other = StoreOptions {
        owner: [7; 32],
        ..options()
    };
    let refused = Store::open(Arc::clone(&place.disk), &place.dir, other).await;
    assert!(matches!(refused, Err(StoreError::WrongOwner { .. })), "{refused:?}");
}

async fn bad_arguments_are_refused(place: Place) {
    let store = place.open().await;
    let long = "n".repeat(super::LOG_NAME_BYTES_MAX + 1);
    for name in ["", ".", "..", "a/b", "A", "a\0", "é", "~a", "-a", "../a", &long] {
        assert!(
            matches!(store.log(name).await, Err(StoreError::Invalid { .. })),
            "{name:?}"
        );
    }
    let keyspace = store.keyspace("limits");
    let long_key = vec![0; super::KEY_BYTES_MAX + 1];
    let refused = [
        keyspace.put(long_key.clone(), "").await,
        keyspace.delete(long_key.clone()).await,
        keyspace.commit(Batch::new().require(long_key.clone(), None)).await,
        keyspace.get(&long_key).await.map(|_| ()),
        keyspace.put("k", vec![0; super::VALUE_BYTES_MAX + 1]).await,
        keyspace
            .commit((0..=super::BATCH_OPERATIONS_MAX).fold(Batch::new(), |batch, _| batch.delete("k")))
            .await,
        keyspace
            .commit((0..3).fold(Batch::new(), |batch, _| batch.put("k", vec![0; 12 << 20])))
            .await,
    ];
    for (index, result) in refused.iter().enumerate() {
        assert!(
            matches!(result, Err(StoreError::Invalid { .. })),
            "case {index}: {result:?}"
        );
    }
    let log = store.log("limits").await.expect("opens");
    let refused = [
        log.append(vec![Bytes::from(vec![0; super::RECORD_BYTES_MAX + 1])])
            .await,
        log.append(vec![Bytes::new(); super::APPEND_RECORDS_MAX + 1]).await,
        log.append(vec![Bytes::from(vec![0; 12 << 20]); 3]).await,
    ];
    for (index, result) in refused.iter().enumerate() {
        assert!(
            matches!(result, Err(StoreError::Invalid { .. })),
            "case {index}: {result:?}"
        );
    }
    assert_eq!(log.next_seq(), 0);
    store.close().await.expect("closes");
}

async fn a_closed_store_says_so(place: Place) {
    let store = place.open().await;
    let (keyspace, log) = (store.keyspace("closed"), store.log("closed").await.expect("opens"));
    store.close().await.expect("closes");
    store.close().await.expect("closing twice is no error");
    let closed = [
        keyspace.put("k", "v").await,
        keyspace.get(b"k").await.map(|_| ()),
        keyspace.scan_prefix(b"", None, 1).await.map(|_| ()),
        log.append(vec![record(0)]).await.map(|_| ()),
        log.read(0, 1, 1).await.map(|_| ()),
        log.truncate_before(0).await.map(|_| ()),
        log.truncate_from(0).await,
        store.log("closed").await.map(|_| ()),
        store.verify().await.map(|_| ()),
        store.stats().await.map(|_| ()),
    ];
    for (index, result) in closed.iter().enumerate() {
        assert!(matches!(result, Err(StoreError::Closed)), "case {index}: {result:?}");
    }
}

async fn a_dropped_commit_is_applied_whole(place: Place) {
    let store = place.open().await;
    let (keyspace, log) = (store.keyspace("dropped"), store.log("dropped").await.expect("opens"));
    let batch = (0..50).fold(Batch::new(), |batch, number: u32| batch.put(number.to_be_bytes(), "v"));
    poll_once(keyspace.commit(batch)).await;
    poll_once(log.append((0..50).map(record).collect())).await;
    // Later work is done after it, so once that is answered the dropped one is settled.
    keyspace.put("later", "").await.expect("puts");
    log.append(vec![record(50)]).await.expect("appends");
    assert_eq!(keyspace.scan_prefix(b"\0", None, 100).await.expect("scans").len(), 50);
    expect_records(&log, 0..51).await;
    store.close().await.expect("closes");
}

/// Polls a future once and drops it.
async fn poll_once<F: Future>(future: F) {
    let mut future = std::pin::pin!(future);
    std::future::poll_fn(|context| {
        let _ = future.as_mut().poll(context);
        std::task::Poll::Ready(())
    })
    .await;
}

async fn a_sound_store_passes_its_own_check(place: Place) {
    let store = place.open().await;
    store.keyspace("check").put("k", "v").await.expect("puts");
    let log = store.log("check").await.expect("opens");
    append(&log, 0..200).await;
    log.truncate_before(50).await.expect("removes the front");
    log.truncate_from(180).await.expect("removes the end");
    let check = async |store: &Store| {
        let report = store.verify().await.expect("reads");
        assert!(report.is_ok(), "{report:?}");
        assert!(report.files.len() > 3, "the state and several segments");
        assert!(report.files.iter().all(|file| file.bytes > 0));
    };
    check(&store).await;
    let store = place.reopen(store).await;
    check(&store).await;
    store.close().await.expect("closes");
}
