//! What a stream does, against what it should do.

use std::time::Duration;

use proptest::prelude::*;
use weft_protocol::patterns::event_sourcing::{Ack, Condition, Producer};

use super::*;
use crate::{
    error::{ErrorKind, Kind as _},
    patterns::event_sourcing::{
        consumers::{Consumers, Writing},
        metrics::StreamMetrics,
        prove, transfer,
        tree::BLOCK,
    },
};

#[tokio::test]
async fn what_was_expected_was_so() {
    let (_store, stream) = Place::new().open().await.unwrap();
    let expecting = |version| Append {
        expect: Some(version),
        ..append_of(vec![event("k", &[], "x")])
    };
    assert_eq!(stream.append(expecting(0), HERE).await.unwrap().last, 1);
    let refused = stream.append(expecting(0), HERE).await.unwrap_err();
    assert!(
        matches!(refused, StreamError::WrongVersion { expected: 0, actual: 1 }),
        "{refused}"
    );
    // Of many that expect the same, one is right.
    for version in 1..20 {
        let all = futures::future::join_all((0..8).map(|_| stream.append(expecting(version), HERE))).await;
        assert_eq!(all.iter().filter(|one| one.is_ok()).count(), 1, "{all:?}");
        let others = all.iter().filter_map(|one| one.as_ref().err());
        assert!(others.clone().all(|error| error.kind() == ErrorKind::Conflict));
    }
    assert_eq!(stream.version(), 20);
}

#[tokio::test]
async fn an_event_with_an_id_is_recorded_once_however_late_it_comes_again() {
    let place = Place::new();
    let (store, stream) = place.open().await.unwrap();
    let with_id = |n: u64, data: &str| Event {
        id: Some(format!("event-{n}")),
        ..event("k", &[], data)
    };
    for n in 0..700 {
        append(&stream, vec![with_id(n, "x")]).await.unwrap();
    }
    write_blocks(&stream).await;
    store.close().await.unwrap();
    let (_store, stream) = place.open().await.unwrap();
    for n in [0, 255, 256, 511, 512, 699] {
        let again = append(&stream, vec![with_id(n, "x")]).await.unwrap();
        assert_eq!((again.first, again.is_duplicate), (n + 1, true));
        let other = append(&stream, vec![with_id(n, "y")]).await.unwrap_err();
        assert!(
            matches!(other, StreamError::IdTaken { position, .. } if position == n + 1),
            "{other}"
        );
        assert_eq!(stream.locate(&format!("event-{n}")).await.unwrap(), Some(n + 1));
    }
    assert_eq!(stream.locate("nobody").await.unwrap(), None);
    let both = append(&stream, vec![with_id(3, "x"), with_id(4, "x")]).await.unwrap();
    assert_eq!((both.first, both.last), (4, 5));
    append(&stream, vec![with_id(4, "x"), with_id(3, "x")])
        .await
        .unwrap_err();
    append(&stream, vec![with_id(699, "x"), with_id(700, "x")])
        .await
        .unwrap_err();
    append(&stream, vec![with_id(800, "x"), with_id(800, "x")])
        .await
        .unwrap_err();
    assert_eq!(stream.version(), 700);
}

#[tokio::test]
async fn a_producer_s_numbers_are_remembered_over_restarts() {
    let place = Place::new();
    let (mut store, mut stream) = place.open().await.unwrap();
    let numbered = |sequence, count: usize| Append {
        producer: Some(Producer {
            id: "p".into(),
            sequence,
        }),
        ..append_of(vec![event("k", &[], "x"); count])
    };
    for n in 0..300 {
        assert!(!stream.append(numbered(n * 2, 2), HERE).await.unwrap().is_duplicate);
        if n % 70 == 0 {
            write_blocks(&stream).await;
            store.close().await.unwrap();
            (store, stream) = place.open().await.unwrap();
        }
        let again = stream.append(numbered(n * 2, 2), HERE).await.unwrap();
        assert_eq!(
            (again.first, again.last, again.is_duplicate),
            (n * 2 + 1, n * 2 + 2, true)
        );
    }
    stream.append(numbered(601, 1), HERE).await.unwrap_err();
    assert_eq!(stream.version(), 600);
}

const KINDS: [&str; 3] = ["paid", "sent", "lost"];
const TAGS: [&str; 4] = ["a=1", "a=2", "b=1", "b=2"];

fn some_event() -> impl Strategy<Value = Event> {
    let tags = proptest::sample::subsequence(&TAGS[..], 0..3);
    // One kind is rare, so that blocks are passed over.
    let kind = proptest::prop_oneof![20 => Just(KINDS[0]), 4 => Just(KINDS[1]), 1 => Just(KINDS[2])];
    (kind, tags).prop_map(|(kind, tags)| event(kind, &tags, "x"))
}

fn some_query() -> impl Strategy<Value = Query> {
    let item = (
        proptest::sample::subsequence(&KINDS[..], 0..3),
        proptest::sample::subsequence(&TAGS[..], 0..3),
    );
    proptest::collection::vec(item, 0..3).prop_map(|items| {
        let items: Vec<(&[&str], &[&str])> = items.iter().map(|(types, tags)| (&types[..], &tags[..])).collect();
        query(&items)
    })
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    /// Conditions and reading say what looking at every event says, whether entries of the index are written, and after a restart.
    #[test]
    fn the_index_says_what_the_records_say(
        events in proptest::collection::vec(some_event(), 1..1200),
        queries in proptest::collection::vec((some_query(), 0_u64..1300, 1_u64..50), 1..12),
        written in 0_usize..6,
    ) {
        let events_of = |range: std::ops::Range<usize>| events[range].to_vec();
        run(async {
            let place = Place::new();
            let (store, stream) = place.open().await.unwrap();
            let half = events.len() / 2;
            for (begin, end) in [(0, half), (half, events.len())] {
                for begin in (begin..end).step_by(100) {
                    append(&stream, events_of(begin..end.min(begin + 100))).await.unwrap();
                }
                for _ in 0..written {
                    stream.write_block().await.unwrap();
                }
            }
            let again = if written % 2 == 0 {
                store.close().await.unwrap();
                Some(place.open().await.unwrap())
            } else {
                None
            };
            let stream = again.as_ref().map_or(&stream, |(_, stream)| stream);
            for (query, from, count) in &queries {
                let meant = |(_, event): &(u64, &Event)| query.matches(event);
                let all: Vec<u64> = (1..).zip(&events).filter(meant).map(|(position, _)| position).collect();
                let behind: Vec<u64> = all.iter().copied().filter(|position| position > from).collect();
                let read = read_all(stream, From::Position(from + 1), query.clone(), Some(*count)).await;
                let expected: Vec<u64> = behind.iter().copied().take(*count as usize).collect();
                assert_eq!(positions(&read), expected);
                let last = read_all(stream, From::Last(*count), query.clone(), None).await;
                let expected = &all[all.len().saturating_sub(*count as usize)..];
                assert_eq!(positions(&last), expected);
                let condition = Append {
                    condition: Some(Condition { query: query.clone(), after: *from }),
                    expect: Some(events.len() as u64 + 1),
                    ..append_of(vec![event("k", &[], "x")])
                };
                // The version is looked at first: that it is wrong says that the condition was not asked, so it is asked alone.
                let alone = Append { expect: None, ..condition };
                let outcome = stream.append(alone, HERE).await;
                match behind.first() {
                    Some(first) => match outcome {
                        Err(StreamError::ConditionFailed(position)) => assert_eq!(position, *first),
                        other => panic!("{other:?} where {first} matches"),
                    },
                    None => {
                        outcome.unwrap();
                        return;
                    }
                }
            }
        });
    }
}

#[tokio::test]
async fn who_follows_gets_everything_once_from_the_past_into_the_present() {
    let (_store, stream) = Place::new().open().await.unwrap();
    append(&stream, vec![event("k", &[], "x"); 300]).await.unwrap();
    let request = ReadRequest {
        from: From::Position(100),
        query: Query::default(),
        follow: true,
        limit: None,
        is_upcast: None,
    };
    let mut reader = Reader::new(Arc::clone(&stream), request).await.unwrap();
    let (mut read, mut caught_up) = (Vec::new(), 0);
    let appending = async {
        for _ in 0..50 {
            append(&stream, vec![event("k", &[], "x"); 7]).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let reading = async {
        while read.len() < 551 {
            match reader.next().await.unwrap() {
                Page::Records(records) => read.extend(positions(&records)),
                Page::CaughtUp(_) => caught_up += 1,
                Page::End => panic!("it follows"),
            }
        }
    };
    tokio::join!(appending, reading);
    assert_eq!(read, (100..=650).collect::<Vec<u64>>());
    assert!(caught_up <= 1);
    stream.go();
    append(&stream, vec![event("k", &[], "x")]).await.unwrap_err();
}

#[tokio::test]
async fn times_never_fall_and_are_found() {
    let place = Place::new();
    let (_store, stream) = place.open().await.unwrap();
    let begin_ms = place.platform.clock().now_unix_ms();
    for _ in 0..100 {
        append(&stream, vec![event("k", &[], "x")]).await.unwrap();
        place.platform.clock.advance(Duration::from_secs(1));
    }
    for (ms, first) in [
        (0, 1),
        (begin_ms, 1),
        (begin_ms + 1, 2),
        (begin_ms + 49_999, 51),
        (begin_ms + 99_000, 100),
    ] {
        let read = read_all(&stream, From::Time(ms), Query::default(), Some(1)).await;
        assert_eq!(positions(&read), [first], "{ms}");
    }
    assert!(
        read_all(&stream, From::Time(begin_ms + 99_001), Query::default(), None)
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn what_is_not_to_be_kept_goes_and_what_is_left_is_proved_all_the_same() {
    let place = Place::new();
    let options = StreamOptions {
        retain_records: Some(300),
        ..StreamOptions::default()
    };
    let (store, stream) = place.open_with(options).await.unwrap();
    for _ in 0..20 {
        append(&stream, vec![event("k", &["a=1"], vec![b'x'; 100]); 100])
            .await
            .unwrap();
    }
    let root = stream.hashes(&[(0, 2000)]).await.unwrap();
    // What is not in the index yet is not removed from the disk.
    stream.retain().await.unwrap();
    assert_eq!((stream.first(), stream.log.first_seq()), (1701, 0));
    write_blocks(&stream).await;
    stream.retain().await.unwrap();
    assert!(stream.log.first_seq() > 1000, "{}", stream.log.first_seq());
    let read = read_all(&stream, From::Position(1), query(&[(&[], &["a=1"])]), None).await;
    assert_eq!((read.len(), read[0].position), (300, 1701));
    let platform = &place.platform;
    let trust = crate::testing::trust(7, platform).await;
    let founds = crate::trust::FoundOptions {
        kind: crate::trust::MeshKind::Open,
        name: "keeper".into(),
    };
    trust.found(&crate::testing::key(8), founds).await.unwrap();
    for position in [1701, 1702, 1792, 1793, 2000] {
        prove::prove(&stream, &trust, position).await.unwrap();
    }
    prove::prove(&stream, &trust, 1700).await.unwrap_err();
    let verified = transfer::verify(&trust, &stream).await.unwrap();
    assert_eq!((verified.first, verified.records), (1701, 300));
    assert!(matches!(
        stream.kept(1699).await,
        Err(StreamError::NoRecord { first: 1701, .. })
    ));
    store.close().await.unwrap();
    let (_store, stream) = place.open().await.unwrap();
    append(&stream, vec![event("k", &[], "x")]).await.unwrap();
    assert_eq!(stream.hashes(&[(0, 2000)]).await.unwrap(), root);
    let (size, root) = stream.log.root_at_next().unwrap();
    assert_eq!(stream.hashes(&[(0, size)]).await.unwrap(), [root]);
}

#[tokio::test]
async fn age_and_bytes_decide_too() {
    let place = Place::new();
    let options = StreamOptions {
        retain_ms: Some(60_000),
        retain_bytes: Some(40_000),
        ..StreamOptions::default()
    };
    let (_store, stream) = place.open_with(options).await.unwrap();
    append(&stream, vec![event("k", &[], "old")]).await.unwrap();
    place.platform.clock.advance(Duration::from_secs(61));
    append(&stream, vec![event("k", &[], "new"); 10]).await.unwrap();
    stream.retain().await.unwrap();
    assert_eq!(stream.first(), 2);
    for _ in 0..100 {
        append(&stream, vec![event("k", &[], vec![b'x'; 1000])]).await.unwrap();
    }
    stream.retain().await.unwrap();
    assert!((40..100).contains(&stream.first()), "{}", stream.first());
    assert!(read_all(&stream, From::Position(1), Query::default(), None).await.len() >= 38);
}

#[tokio::test]
async fn an_append_that_waits_for_no_disk_is_there_a_moment_later() {
    let (_store, stream) = Place::new().open().await.unwrap();
    for n in 0..1000_u64 {
        let quick = Append {
            ack: Ack::Memory,
            ..append_of(vec![event("k", &[], "x")])
        };
        assert_eq!(stream.append(quick, HERE).await.unwrap().last, n + 1);
    }
    assert_eq!(append(&stream, vec![event("k", &[], "x")]).await.unwrap().last, 1001);
    assert_eq!(stream.version(), 1001);
}

#[tokio::test]
async fn blocks_that_nobody_writes_hold_appends_back_until_somebody_does() {
    let (_store, stream) = Place::new().open().await.unwrap();
    let lots = (BLOCK * 70) as usize;
    let appending = async {
        for _ in 0..lots / 1000 + 1 {
            append(&stream, vec![event("k", &[], "x"); 1000]).await.unwrap();
        }
    };
    let mut appending = std::pin::pin!(appending);
    let held = tokio::time::timeout(Duration::from_millis(200), &mut appending).await;
    assert!(held.is_err() && stream.version() < lots as u64, "nothing holds it back");
    let writing = async {
        loop {
            write_blocks(&stream).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = &mut appending => {}
        () = writing => {}
    }
    assert!(stream.version() >= lots as u64);
}

mod consumer {
    use weft_protocol::{
        Wire as _,
        patterns::event_sourcing::{
            Record,
            consumer::{ConsumerOptions, ConsumerReply, ConsumerRequest, Delivery, Handed, Order, Settlement},
        },
    };

    use super::*;

    fn options(order: Order) -> ConsumerOptions {
        ConsumerOptions {
            from: From::Position(1),
            query: Query::default(),
            ack_wait_ms: 60_000,
            deliver_max: Some(2),
            backoff_ms: Vec::new(),
            pending_max: 100,
            order,
            is_acked: true,
            idle_ms: None,
            is_upcast: None,
        }
    }

    async fn open(place: &Place, stream: &Arc<Stream>, store: &Store) -> Arc<Consumers> {
        let shelf = Shelf::new(store.keyspace("event_sourcing"));
        let metrics = StreamMetrics::new(&crate::telemetry::metrics::Metrics::new());
        Consumers::open(
            Arc::clone(stream),
            shelf.clone(),
            Writing::Here(shelf),
            place.platform.clock(),
            metrics,
        )
        .await
        .unwrap()
    }

    async fn add(consumers: &Consumers, name: &str, options: ConsumerOptions) -> Result<ConsumerReply, StreamError> {
        let name = name.to_owned();
        consumers.answer(ConsumerRequest::Add { name, options }).await
    }

    async fn next(consumers: &Consumers, name: &str, count: u32) -> Vec<Delivery> {
        let request = ConsumerRequest::Next {
            name: name.to_owned(),
            count,
            wait_ms: 0,
        };
        match consumers.answer(request).await.unwrap() {
            ConsumerReply::Handed(list) => list,
            other => panic!("{other:?}"),
        }
    }

    async fn settle(consumers: &Consumers, name: &str, list: &[Delivery], settlement: Settlement) -> u64 {
        let handed = list.iter().map(|one| Handed {
            position: one.record.position,
            delivery: one.delivery,
        });
        let request = ConsumerRequest::Settle {
            name: name.to_owned(),
            handed: handed.collect(),
            settlement,
        };
        match consumers.answer(request).await.unwrap() {
            ConsumerReply::Done(count) => count,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn what_was_settled_is_not_handed_out_after_a_restart_and_everything_else_is() {
        let place = Place::new();
        let (store, stream) = place.open().await.unwrap();
        let consumers = open(&place, &stream, &store).await;
        append(&stream, vec![event("k", &[], "x"); 50]).await.unwrap();
        add(&consumers, "c", options(Order::Any)).await.unwrap();
        assert_eq!(
            add(&consumers, "c", options(Order::Any)).await.unwrap(),
            ConsumerReply::Done(0)
        );
        add(&consumers, "c", options(Order::Key)).await.unwrap_err();
        let handed = next(&consumers, "c", 30).await;
        assert_eq!(handed.len(), 30);
        let (odd, even): (Vec<_>, Vec<_>) = handed.into_iter().partition(|one| one.record.position % 2 == 1);
        assert_eq!(settle(&consumers, "c", &odd, Settlement::Done).await, 15);
        assert_eq!(settle(&consumers, "c", &odd, Settlement::Done).await, 0);
        drop(consumers);
        store.close().await.unwrap();
        let (store, stream) = place.open().await.unwrap();
        let consumers = open(&place, &stream, &store).await;
        let again = next(&consumers, "c", 100).await;
        let expected: Vec<u64> = even.iter().map(|one| one.record.position).chain(31..=50).collect();
        let found: Vec<u64> = again.iter().map(|one| one.record.position).collect();
        assert_eq!(found, expected);
        assert_eq!(settle(&consumers, "c", &again, Settlement::Done).await, 35);
        let ConsumerReply::List(list) = consumers.answer(ConsumerRequest::List).await.unwrap() else {
            panic!()
        };
        assert_eq!((list[0].settled, list[0].pending, list[0].behind), (50, 0, 0));
    }

    #[tokio::test]
    async fn dead_letters_have_a_reason_and_get_another_life() {
        let place = Place::new();
        let (store, stream) = place.open().await.unwrap();
        let consumers = open(&place, &stream, &store).await;
        append(&stream, vec![event("k", &[], "x"); 3]).await.unwrap();
        add(&consumers, "c", options(Order::Stream)).await.unwrap();
        let again = || Settlement::Again {
            pause_ms: None,
            reason: "no such customer".into(),
        };
        for delivery in [1, 2] {
            let handed = next(&consumers, "c", 1).await;
            assert_eq!((handed[0].record.position, handed[0].delivery), (1, delivery));
            settle(&consumers, "c", &handed, again()).await;
        }
        let letters = || async {
            let request = ConsumerRequest::DeadLetters {
                name: "c".into(),
                after: 0,
                count: 10,
            };
            match consumers.answer(request).await.unwrap() {
                ConsumerReply::Dead(list) => list,
                other => panic!("{other:?}"),
            }
        };
        let dead = letters().await;
        assert_eq!(
            (dead.len(), dead[0].position, &*dead[0].reason),
            (1, 1, "no such customer")
        );
        let rest = next(&consumers, "c", 10).await;
        assert_eq!(rest.len(), 2);
        settle(
            &consumers,
            "c",
            &rest,
            Settlement::Dead {
                reason: "poison".into(),
            },
        )
        .await;
        assert_eq!(letters().await.len(), 3);
        let redrive = |positions: Vec<u64>| ConsumerRequest::Redrive {
            name: "c".into(),
            positions,
        };
        assert_eq!(
            consumers.answer(redrive(vec![3])).await.unwrap(),
            ConsumerReply::Done(1)
        );
        assert_eq!(next(&consumers, "c", 10).await[0].record.position, 3);
        assert_eq!(consumers.answer(redrive(vec![])).await.unwrap(), ConsumerReply::Done(2));
        assert!(letters().await.is_empty());
    }

    #[tokio::test]
    async fn only_what_is_meant_is_handed_out_and_the_rest_passed_over() {
        let place = Place::new();
        let (store, stream) = place.open().await.unwrap();
        let consumers = open(&place, &stream, &store).await;
        for n in 0..3000_u64 {
            let kind = if n % 1000 == 999 { "rare" } else { "k" };
            let events = vec![event(kind, &[], n.to_string())];
            stream
                .append(
                    Append {
                        ack: Ack::Memory,
                        ..append_of(events)
                    },
                    HERE,
                )
                .await
                .unwrap();
        }
        append(&stream, vec![event("k", &[], "end")]).await.unwrap();
        write_blocks(&stream).await;
        let rare = ConsumerOptions {
            query: query(&[(&["rare"], &[])]),
            ..options(Order::Key)
        };
        add(&consumers, "c", rare).await.unwrap();
        let handed = next(&consumers, "c", 10).await;
        let data = |one: &Delivery| Record::from_bytes(&one.record.record).unwrap().event.data;
        let found: Vec<_> = handed.iter().map(|one| (one.record.position, data(one))).collect();
        assert_eq!(
            found,
            [
                (1000, b"999".to_vec()),
                (2000, b"1999".to_vec()),
                (3000, b"2999".to_vec())
            ]
        );
        settle(&consumers, "c", &handed, Settlement::Done).await;
        assert!(next(&consumers, "c", 10).await.is_empty());
        let ConsumerReply::List(list) = consumers.answer(ConsumerRequest::List).await.unwrap() else {
            panic!()
        };
        assert_eq!((list[0].settled, list[0].behind), (3001, 0));
    }

    #[tokio::test]
    async fn without_acknowledgement_a_record_comes_once_also_over_a_restart() {
        let place = Place::new();
        let (store, stream) = place.open().await.unwrap();
        let consumers = open(&place, &stream, &store).await;
        append(&stream, vec![event("k", &[], "x"); 10]).await.unwrap();
        let once = ConsumerOptions {
            is_acked: false,
            ..options(Order::Any)
        };
        add(&consumers, "c", once).await.unwrap();
        assert_eq!(next(&consumers, "c", 4).await.len(), 4);
        drop(consumers);
        store.close().await.unwrap();
        let (store, stream) = place.open().await.unwrap();
        let consumers = open(&place, &stream, &store).await;
        let rest = next(&consumers, "c", 100).await;
        assert_eq!((rest.len(), rest[0].record.position), (6, 5));
    }
}
