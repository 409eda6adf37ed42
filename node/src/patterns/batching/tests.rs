//! Decisions one by one, and queues of real nodes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use weft_protocol::{
    Subject,
    patterns::event_sourcing::{Append, Event, From, ReadRequest},
};

use super::{
    core::{Batcher, Closed, Limits, Why},
    work::{Outcome, Settled, Work},
    *,
};
use crate::{
    node::{Node, NodeOptions},
    patterns::{
        event_sourcing::{EventSourcingHandle, Read, StreamOptions},
        request_response::{IncomingCall, ServiceOptions},
    },
    testing::{TestPlatform, eventually, key, member, mesh_config},
    trust::{FoundOptions, MeshKind},
};

const LIMITS: Limits = Limits {
    count_max: 3,
    bytes_max: 100,
    age_max: Duration::from_secs(10),
    keys_max: 2,
    is_adaptive: false,
};

fn push(batcher: &mut Batcher<u32>, key: &str, item: u32, bytes: usize, now: Instant) -> Vec<(String, Vec<u32>, Why)> {
    let mut closed = Vec::new();
    batcher.push(key, item, bytes, now, &mut closed);
    told(closed)
}

fn told(closed: Vec<Closed<u32>>) -> Vec<(String, Vec<u32>, Why)> {
    closed.into_iter().map(|c| (c.key, c.items, c.why)).collect()
}

fn batch(key: &str, items: &[u32], why: Why) -> (String, Vec<u32>, Why) {
    (key.to_owned(), items.to_vec(), why)
}

#[test]
fn a_batch_closes_by_count_bytes_age_and_keys() {
    let (mut batcher, now) = (Batcher::new(LIMITS), Instant::now());
    for (item, closed) in [(1, vec![]), (2, vec![]), (3, vec![batch("a", &[1, 2, 3], Why::Count)])] {
        assert_eq!(push(&mut batcher, "a", item, 1, now), closed);
    }
    assert_eq!(push(&mut batcher, "a", 4, 60, now), []);
    assert_eq!(push(&mut batcher, "a", 5, 60, now), [batch("a", &[4], Why::Bytes)]);
    // The next one fills it exactly; one that is larger than a batch is one of its own.
    assert_eq!(push(&mut batcher, "a", 6, 40, now), [batch("a", &[5, 6], Why::Bytes)]);
    assert_eq!(push(&mut batcher, "a", 7, 1000, now), [batch("a", &[7], Why::Bytes)]);
    assert!(batcher.is_empty() && batcher.next_due().is_none());
    let second = Duration::from_secs(1);
    assert_eq!(push(&mut batcher, "a", 8, 1, now), []);
    assert_eq!(push(&mut batcher, "b", 9, 1, now + second), []);
    // A third key closes the batch that is due first.
    assert_eq!(
        push(&mut batcher, "c", 10, 1, now + second * 2),
        [batch("a", &[8], Why::Keys)]
    );
    assert_eq!(batcher.len(), 2);
    let mut closed = Vec::new();
    batcher.due(now + second * 10, &mut closed);
    assert!(closed.is_empty());
    assert_eq!(batcher.next_due(), Some(now + second * 11));
    batcher.due(now + second * 11, &mut closed);
    assert_eq!(told(std::mem::take(&mut closed)), [batch("b", &[9], Why::Age)]);
    batcher.flush(&mut closed);
    assert_eq!(told(closed), [batch("c", &[10], Why::Flush)]);
}

#[test]
fn an_adaptive_batch_waits_only_for_what_can_be_expected() {
    let limits = Limits {
        is_adaptive: true,
        count_max: 10,
        ..LIMITS
    };
    let (mut batcher, mut now, mut closed) = (Batcher::new(limits), Instant::now(), Vec::new());
    // One a minute: from the second on, none waits.
    for n in 0..20 {
        push(&mut batcher, "slow", n, 1, now);
        let wait = batcher.next_due().unwrap() - now;
        assert_eq!(wait.is_zero(), n > 0, "{n}: {wait:?}");
        batcher.flush(&mut closed);
        now += Duration::from_secs(60);
    }
    // A hundred a second: a batch waits as long as it takes to fill it, and is full before.
    closed.clear();
    for n in 0..200 {
        batcher.push("quick", n, 1, now, &mut closed);
        now += Duration::from_millis(10);
        batcher.due(now, &mut closed);
    }
    let full = closed.iter().filter(|batch| batch.why == Why::Count).count();
    assert!(full >= 15, "{full} of {}", closed.len());
    // Many keys that come once do not pile up.
    for n in 0..100 {
        batcher.push(&format!("once-{n}"), n, 1, now, &mut closed);
    }
    assert!(batcher.len() <= 2);
}

/// Hands everything over to a destination that fails each batch in which there is poison. How often it was asked, what arrived in which
/// order, and what is dead.
fn hand_over(poison: &BTreeSet<u32>, batches: Vec<(&str, Vec<u32>)>, window: usize) -> (usize, Vec<u32>, Vec<u32>) {
    let (mut work, mut now) = (Work::new(window, 3), Instant::now());
    for (key, items) in batches {
        let why = Why::Count;
        let key = key.to_owned();
        work.add(Closed { key, items, why });
    }
    let (mut asked, mut arrived, mut dead) = (0, Vec::new(), Vec::new());
    while work.batches() > 0 {
        let mut jobs = Vec::new();
        while let Some(job) = work.next(now) {
            jobs.push(job);
        }
        assert!(work.under_way() <= window);
        if jobs.is_empty() {
            now = work.next_due().expect("somebody pauses").max(now);
        }
        for job in jobs {
            asked += 1;
            let outcome = match job.items.iter().find(|item| poison.contains(item)) {
                Some(item) => Outcome::Failed(format!("{item} is poison")),
                None => Outcome::Delivered,
            };
            let settled: Settled<u32> = work.done(job, outcome, Duration::from_millis(1), now);
            arrived.extend(settled.delivered);
            for (item, reason) in settled.dead {
                assert_eq!(reason, format!("{item} is poison"));
                dead.push(item);
            }
        }
    }
    dead.sort_unstable();
    (asked, arrived, dead)
}

#[test]
fn poison_is_found_by_halving_and_takes_nobody_with_it() {
    let all: Vec<u32> = (0..100).collect();
    for seed in 0..200u32 {
        // A different handful of poisoned ones each time, among them none, all and neighbours.
        let count = seed % 7;
        let poison: BTreeSet<u32> = (0..count).map(|n| (seed * 31 + n * n * (seed % 13)) % 100).collect();
        let (asked, arrived, dead) = hand_over(&poison, vec![("k", all.clone())], 4);
        let good: Vec<u32> = all.iter().copied().filter(|n| !poison.contains(n)).collect();
        assert_eq!(arrived, good, "in their order");
        assert_eq!(dead, poison.iter().copied().collect::<Vec<_>>());
        // Each costs the way down, and two more tries.
        assert!(asked <= 1 + poison.len() * (2 * 7 + 2), "{asked} for {}", poison.len());
    }
    let (_, arrived, dead) = hand_over(&all.iter().copied().collect(), vec![("", all.clone())], 1);
    assert_eq!((arrived.len(), dead), (0, all));
}

#[test]
fn a_key_keeps_its_order_and_others_do_not_wait_for_it() {
    let poison = BTreeSet::from([12]);
    let batches = vec![
        ("a", vec![11, 12, 13, 14]),
        ("a", vec![15, 16]),
        ("b", vec![21, 22]),
        ("", vec![1, 2]),
        ("", vec![3]),
    ];
    let (_, arrived, dead) = hand_over(&poison, batches, 8);
    let of = |tens: u32| -> Vec<u32> { arrived.iter().copied().filter(|n| n / 10 == tens).collect() };
    assert_eq!(
        (of(1), of(2), of(0).len(), dead),
        (vec![11, 13, 14, 15, 16], vec![21, 22], 3, vec![12])
    );
    let place = |n: u32| arrived.iter().position(|m| *m == n).unwrap();
    assert!(place(22) < place(13) && place(3) < place(13), "{arrived:?}");
}

#[test]
fn what_is_away_is_waited_for_and_what_it_names_is_tried_alone() {
    let (mut work, mut now) = (Work::new(16, 2), Instant::now());
    let key = "k".to_owned();
    work.add(Closed {
        key,
        items: vec![1, 2, 3, 4],
        why: Why::Age,
    });
    let mut pauses = Vec::new();
    for _ in 0..20 {
        let job = work.next(now).unwrap();
        assert_eq!((job.items.len(), job.attempt()), (4, 0), "as it was");
        let away = Outcome::Later(None, "away".to_owned());
        assert_eq!(work.done(job, away, Duration::ZERO, now), Settled::default());
        assert!(work.next(now).is_none());
        pauses.push(work.next_due().unwrap() - now);
        now = work.next_due().unwrap();
    }
    assert!(pauses.is_sorted() && pauses[0] < pauses[3] && pauses[19] == Duration::from_secs(30));
    let job = work.next(now).unwrap();
    let two = vec![(1, "no".to_owned()), (3, "no".to_owned())];
    let settled = work.done(job, Outcome::Partly(two), Duration::from_millis(1), now);
    assert_eq!((settled.delivered, settled.dead), (vec![1, 3], vec![]));
    now = work.next_due().unwrap();
    let job = work.next(now).unwrap();
    assert_eq!((job.items.clone(), job.attempt()), (vec![2], 1));
    let settled = work.done(job, Outcome::Failed("no".to_owned()), Duration::ZERO, now);
    assert_eq!(settled.dead, [(2, "no".to_owned())]);
    now = work.next_due().unwrap_or(now);
    let job = work.next(now).unwrap();
    assert_eq!(work.done(job, Outcome::Delivered, Duration::ZERO, now).delivered, [4]);
    assert_eq!((work.batches(), work.next_due()), (0, None));
}

#[test]
fn more_is_under_way_while_it_is_quick_and_less_when_it_is_slow() {
    let (mut work, now) = (Work::new(16, 1), Instant::now());
    for n in 0..2000u32 {
        work.add(Closed {
            key: String::new(),
            items: vec![n],
            why: Why::Count,
        });
    }
    let mut round = |took_ms: u64, rounds: usize| {
        for _ in 0..rounds {
            let job = work.next(now).unwrap();
            work.done(job, Outcome::Delivered, Duration::from_millis(took_ms), now);
        }
        work.window()
    };
    assert_eq!(round(5, 300), 16);
    assert!(round(500, 80) <= 2);
    assert_eq!(round(5, 400), 16);
}

async fn node(platform: &Arc<TestPlatform>) -> Node {
    let mesh = mesh_config("alone", vec![], "tcp");
    let name = mesh.name.clone();
    let options = NodeOptions::new(key(1), "/store", mesh);
    let builder = Node::builder()
        .pattern(RequestResponse)
        .pattern(PubSub)
        .pattern(EventSourcing)
        .pattern(Batching);
    let node = builder.start(platform.clone(), options).await.unwrap();
    if node.trust().mesh().is_none() {
        let kind = MeshKind::Open;
        node.trust().found(&key(99), FoundOptions { kind, name }).await.unwrap();
    }
    member(&node).await;
    node
}

fn to_sink() -> QueueOptions {
    QueueOptions {
        count_max: 10,
        age_ms_max: 50,
        attempts: 2,
        ..QueueOptions::new(Destination::Service {
            name: "sink".to_owned(),
            version: None,
            endpoint: None,
        })
    }
}

fn record(key: &str, data: impl Into<Vec<u8>>) -> Record {
    Record {
        key: key.to_owned(),
        content_type: None,
        time_ms: 0,
        salt: None,
        data: data.into(),
    }
}

/// A service that keeps what it is handed, by key, and fails whatever `judge` has a reason against.
async fn sink(
    node: &Node,
    judge: fn(&str) -> Option<&'static str>,
) -> Arc<std::sync::Mutex<BTreeMap<String, Vec<String>>>> {
    let calls = node.handle::<RequestResponse>().unwrap();
    let mut serving = calls.serve(ServiceOptions::new("sink", "1.0.0")).await.unwrap();
    let taken = Arc::new(std::sync::Mutex::new(BTreeMap::<String, Vec<String>>::new()));
    let into = Arc::clone(&taken);
    node.tasks().spawn("sink", async move {
        while let Some(call) = serving.next().await {
            let call: IncomingCall = call;
            let header = |name: &str| call.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
            let (key, count) = (header("batch-key").unwrap_or_default(), header("batch-count").unwrap());
            let body = String::from_utf8(call.body.clone()).unwrap();
            let lines: Vec<String> = body.lines().map(str::to_owned).collect();
            assert_eq!(lines.len().to_string(), count);
            if let Some(reason) = lines.iter().find_map(|line| judge(line)) {
                call.fail(500, reason);
                continue;
            }
            into.lock().unwrap().entry(key).or_default().extend(lines);
            call.answer(Vec::new(), Vec::new());
        }
    });
    taken
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_arrive_in_batches_in_the_order_of_their_keys_and_poison_is_kept() {
    let node = node(&TestPlatform::new()).await;
    let batches = node.handle::<Batching>().unwrap();
    let taken = sink(&node, |line| line.ends_with("-13").then_some("unlucky")).await;
    assert!(batches.define("mails", to_sink()).await.unwrap());
    let mut dead_letters = node
        .handle::<PubSub>()
        .unwrap()
        .subscribe("dead.*".parse().unwrap(), None);
    for n in 0..200 {
        let key = ["a", "b"][n % 2];
        assert_eq!(
            batches
                .put("mails", vec![record(key, format!("{key}-{}", n / 2))])
                .await
                .unwrap(),
            1
        );
    }
    let info = || batches.info("mails").unwrap().standing;
    eventually("all are settled", || info().records == 0).await;
    let of = |key: &str| -> Vec<String> { taken.lock().unwrap()[key].clone() };
    for key in ["a", "b"] {
        let all: Vec<String> = (0..100).filter(|n| *n != 13).map(|n| format!("{key}-{n}")).collect();
        assert_eq!(of(key), all);
    }
    assert_eq!((info().delivered, info().dead, info().bytes), (198, 2, 0));
    let dead = batches.dead("mails", None, 10).await.unwrap();
    let mut which: Vec<_> = dead.iter().map(|(_, dead)| dead.record.data.clone()).collect();
    which.sort_unstable();
    assert_eq!(which, [b"a-13".to_vec(), b"b-13".to_vec()]);
    assert!(dead.iter().all(|(_, dead)| dead.reason.contains("unlucky")), "{dead:?}");
    let Some(crate::patterns::pub_sub::Delivery::Message(letter)) = dead_letters.next().await else {
        panic!("no dead letter");
    };
    let reason = letter.attributes().extension("batchreason").unwrap();
    assert!(letter.data().ends_with(b"-13") && reason.contains("unlucky"));
    // They may be tried again, and let go.
    assert_eq!(batches.retry("mails").await.unwrap(), 2);
    eventually("they are dead again", || info().dead == 2 && info().records == 0).await;
    assert!(matches!(
        batches.remove("mails", false).await,
        Err(BatchError::Conflict(_))
    ));
    assert_eq!(batches.purge("mails").await.unwrap(), 2);
    batches.remove("mails", false).await.unwrap();
    assert!(matches!(batches.info("mails"), Err(BatchError::NoQueue(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_delays_what_is_done_with_a_record_and_no_more() {
    let platform = TestPlatform::new();
    let node = node(&platform).await;
    let batches = node.handle::<Batching>().unwrap();
    let taken = sink(&node, |line| (line == "13").then_some("unlucky")).await;
    let options = QueueOptions {
        age_ms_max: 86_400_000,
        ..to_sink()
    };
    batches.define("mails", options).await.unwrap();
    for data in ["12", "13", "14"] {
        batches.put("mails", vec![record("", data)]).await.unwrap();
    }
    platform.disk.set_capacity(Some(0));
    batches.flush("mails").await.unwrap();
    let info = || batches.info("mails").unwrap().standing;
    eventually("the disk is in the way", || {
        info()
            .trouble
            .is_some_and(|trouble| trouble.contains("cannot be moved"))
    })
    .await;
    let mut all = taken.lock().unwrap()[""].clone();
    all.sort_unstable();
    assert_eq!(
        (all, info().dead, info().records),
        (vec!["12".into(), "14".into()], 0, 1)
    );
    platform.disk.set_capacity(None);
    eventually("it is done", || (info().dead, info().records) == (1, 0)).await;
    // Those that arrived are removed as well: nothing is left for the next start to hand over again.
    eventually("it is said", || info().trouble.is_none()).await;
    node.stop().await;
    let again = self::node(&platform).await;
    let info = again.handle::<Batching>().unwrap().info("mails").unwrap().standing;
    assert_eq!((info.dead, info.records), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_waits_for_its_destination_through_a_restart() {
    let platform = TestPlatform::new();
    let before = node(&platform).await;
    let batches = before.handle::<Batching>().unwrap();
    let options = QueueOptions {
        records_max: 500,
        ..to_sink()
    };
    batches.define("mails", options.clone()).await.unwrap();
    let records: Vec<Record> = (0..500).map(|n| record("", format!("{n}"))).collect();
    assert_eq!(batches.put("mails", records).await.unwrap(), 500);
    assert!(matches!(
        batches.put("mails", vec![record("", "more")]).await,
        Err(BatchError::Full {
            records: 500,
            dead: 0,
            ..
        })
    ));
    eventually("it says what it waits for", || {
        let trouble = batches.info("mails").unwrap().standing.trouble;
        trouble.is_some_and(|why| why.contains("no member offers the service sink"))
    })
    .await;
    before.stop().await;
    drop((before, batches));
    let after = node(&platform).await;
    let batches = after.handle::<Batching>().unwrap();
    let info = batches.info("mails").unwrap();
    assert_eq!((info.standing.records, &info.options), (500, &options));
    let taken = sink(&after, |_| None).await;
    eventually("all have arrived", || {
        batches.info("mails").unwrap().standing.records == 0
    })
    .await;
    let mut all: Vec<usize> = taken.lock().unwrap()[""]
        .iter()
        .map(|line| line.parse().unwrap())
        .collect();
    all.sort_unstable();
    assert_eq!(all, (0..500).collect::<Vec<_>>());
    // Defined anew, it goes on with what it holds, in the form for which that was put in.
    let slow = QueueOptions {
        age_ms_max: 3_600_000,
        ..to_sink()
    };
    assert!(!batches.define("mails", slow).await.unwrap());
    batches
        .put("mails", vec![record("", "last"), record("", "but one")])
        .await
        .unwrap();
    let events = QueueOptions {
        form: Form::Events,
        ..to_sink()
    };
    assert!(matches!(
        batches.define("mails", events).await,
        Err(BatchError::Conflict(_))
    ));
    assert!(!batches.define("mails", to_sink()).await.unwrap());
    eventually("they have arrived", || taken.lock().unwrap()[""].len() == 502).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_a_message_where_that_is_wanted() {
    let node = node(&TestPlatform::new()).await;
    let batches = node.handle::<Batching>().unwrap();
    let mut wanted = node
        .handle::<PubSub>()
        .unwrap()
        .subscribe("warehouse.>".parse().unwrap(), None);
    let options = QueueOptions {
        form: Form::Events,
        age_ms_max: 3_600_000,
        ..QueueOptions::new(Destination::Subject {
            name: "warehouse.clicks".parse().unwrap(),
        })
    };
    batches.define("clicks", options).await.unwrap();
    let mut json = record("k", r#"{"id":1}"#);
    json.content_type = Some("application/json".to_owned());
    batches
        .put("clicks", vec![json, record("k", vec![0xff, b'\n'])])
        .await
        .unwrap();
    batches.flush("clicks").await.unwrap();
    let Some(crate::patterns::pub_sub::Delivery::Message(received)) = wanted.next().await else {
        panic!("no message");
    };
    assert_eq!(
        received.attributes().datacontenttype.as_deref(),
        Some("application/cloudevents-batch+json")
    );
    let events: serde_json::Value = serde_json::from_slice(received.data()).unwrap();
    assert_eq!(events[0]["data"]["id"], 1);
    assert_eq!(events[0]["partitionkey"], "k");
    assert_eq!(events[1]["data_base64"], "/wo=");
    assert_ne!(events[0]["id"], events[1]["id"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_compressed_batch_says_so() {
    let node = node(&TestPlatform::new()).await;
    let batches = node.handle::<Batching>().unwrap();
    let mut wanted = node
        .handle::<PubSub>()
        .unwrap()
        .subscribe("lake.>".parse().unwrap(), None);
    let options = QueueOptions {
        compress: Compression::Gzip,
        age_ms_max: 3_600_000,
        ..QueueOptions::new(Destination::Subject {
            name: "lake.logs".parse().unwrap(),
        })
    };
    batches.define("logs", options).await.unwrap();
    let lines: Vec<Record> = (0..50).map(|_| record("", "GET /index.html 200")).collect();
    batches.put("logs", lines).await.unwrap();
    batches.flush("logs").await.unwrap();
    let Some(crate::patterns::pub_sub::Delivery::Message(received)) = wanted.next().await else {
        panic!("no message");
    };
    assert_eq!(received.attributes().extension("contentencoding"), Some("gzip"));
    let mut text = String::new();
    let mut decoder = flate2::read::GzDecoder::new(received.data());
    std::io::Read::read_to_string(&mut decoder, &mut text).unwrap();
    assert_eq!(text, "GET /index.html 200\n".repeat(50));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_definitions_and_records_are_refused_whole() {
    let node = node(&TestPlatform::new()).await;
    let batches = node.handle::<Batching>().unwrap();
    for name in ["", "a/b", "ü", &"x".repeat(65)] {
        assert!(
            matches!(batches.define(name, to_sink()).await, Err(BatchError::Invalid(_))),
            "{name}"
        );
    }
    for options in [
        QueueOptions {
            count_max: 0,
            ..to_sink()
        },
        QueueOptions {
            bytes_max: BATCH_BYTES_MAX + 1,
            ..to_sink()
        },
        QueueOptions {
            attempts: 0,
            ..to_sink()
        },
        QueueOptions {
            keys_max: usize::MAX,
            ..to_sink()
        },
    ] {
        assert!(matches!(
            batches.define("q", options).await,
            Err(BatchError::Invalid(_))
        ));
    }
    assert!(batches.queues().is_empty());
    batches.define("q", to_sink()).await.unwrap();
    for bad in [
        record("", "two\nlines"),
        record(&"k".repeat(257), ""),
        record("", vec![0; RECORD_BYTES_MAX + 1]),
    ] {
        let put = batches.put("q", vec![record("", "good"), bad]).await;
        assert!(matches!(put, Err(BatchError::Invalid(_))));
    }
    let many = vec![record("", ""); PUT_RECORDS_MAX + 1];
    assert!(matches!(batches.put("q", many).await, Err(BatchError::Invalid(_))));
    assert_eq!(batches.info("q").unwrap().standing.records, 0);
    for n in 1..QUEUES_MAX {
        batches.define(&format!("q-{n}"), to_sink()).await.unwrap();
    }
    assert!(matches!(
        batches.define("one-more", to_sink()).await,
        Err(BatchError::Conflict(_))
    ));
}

/// The data of a stream's events, in their order.
async fn data(streams: &EventSourcingHandle, stream: &Subject) -> Vec<String> {
    let request = ReadRequest::from(From::Position(1));
    let (mut reading, mut found) = (streams.read(stream, request).await.unwrap(), Vec::new());
    while let Some(read) = reading.next().await.unwrap() {
        let Read::Records(records) = read else { continue };
        let text = |data: &[u8]| String::from_utf8(data.to_vec()).unwrap();
        found.extend(records.iter().map(|one| text(&one.record.event.data)));
    }
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stream_has_already_is_known_again_among_new_records() {
    let platform = TestPlatform::new();
    let alone = node(&platform).await;
    let (queues, streams) = (
        alone.handle::<Batching>().unwrap(),
        alone.handle::<EventSourcing>().unwrap(),
    );
    let to = |stream: &str| QueueOptions {
        count_max: 10,
        age_ms_max: 20,
        ..QueueOptions::new(Destination::Stream {
            name: stream.parse().unwrap(),
            kind: Some("placed".to_owned()),
            dataschema: None,
        })
    };
    queues.define("placed", to("nowhere")).await.unwrap();
    let numbers: Vec<String> = (0..10).map(|n| n.to_string()).collect();
    let records = numbers.iter().map(|n| record("k", n.as_str())).collect();
    queues.put("placed", records).await.unwrap();
    let orders: Subject = "orders".parse().unwrap();
    streams.create(&orders, StreamOptions::default()).await.unwrap();
    // As if these had been appended by a process that was killed before it heard of it.
    let queue = queues.queue("placed").unwrap();
    let source = delivery::source("placed", &alone.mesh().local_peer().to_string());
    for seqs in [1..=3, 4..=4] {
        let mut append = Append::default();
        for seq in seqs {
            let record = queue.shelf.record(seq).await.unwrap().unwrap();
            let like = Event::new("placed", "");
            append.events.push(delivery::appended(&source, &like, (seq, record)));
        }
        streams.append(&orders, append).await.unwrap();
    }
    drop(queue);
    queues.define("placed", to("orders")).await.unwrap();
    let is_empty = |queues: &BatchingHandle| queues.info("placed").unwrap().standing.records == 0;
    eventually("all have arrived", || is_empty(&queues)).await;
    assert_eq!(data(&streams, &orders).await, numbers, "each once, in order");
    assert_eq!(queues.info("placed").unwrap().standing.dead, 0);
    // Numbers of an emptied queue begin anew with the next start, and the calendar stands: it is another record all the same.
    alone.stop().await;
    let again = node(&platform).await;
    let (queues, streams) = (
        again.handle::<Batching>().unwrap(),
        again.handle::<EventSourcing>().unwrap(),
    );
    queues.put("placed", vec![record("k", "0")]).await.unwrap();
    eventually("it has arrived", || is_empty(&queues)).await;
    assert_eq!(data(&streams, &orders).await.len(), 11);
    again.stop().await;
}
