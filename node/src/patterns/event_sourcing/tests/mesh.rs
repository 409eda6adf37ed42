//! Streams of nodes that use each other's.

use weft_protocol::{
    PublicKey,
    patterns::event_sourcing::{
        Keep,
        consumer::{ConsumerOptions, ConsumerReply, ConsumerRequest, Handed, Order, Settlement},
    },
};

use super::*;
use crate::{
    error::{ErrorKind, Kind as _},
    node::Node,
    patterns::{
        body::BodyReader,
        event_sourcing::{EventSourcing, EventSourcingHandle, Read},
    },
    testing::{address, member, mesh_config, peers, start},
    trust::MeshKind,
};

async fn node(seed: u8, bootstrap: Option<&Node>) -> Node {
    let others = bootstrap.map(address).into_iter().collect();
    let found = bootstrap.is_none().then_some(MeshKind::Open);
    let builder = Node::builder().pattern(EventSourcing);
    let mesh = mesh_config(&format!("node-{seed}"), others, "tcp");
    let node = start(builder, seed, mesh, found).await;
    member(&node).await;
    node
}

pub(super) async fn two() -> (Node, Node, EventSourcingHandle, EventSourcingHandle) {
    let a = node(1, None).await;
    let b = node(2, Some(&a)).await;
    peers(&b, 1).await;
    let handle = |node: &Node| node.handle::<EventSourcing>().unwrap();
    let (of_a, of_b) = (handle(&a), handle(&b));
    (a, b, of_a, of_b)
}

fn name(text: &str) -> Subject {
    text.parse().unwrap()
}

pub(super) fn consumer_options(order: Order) -> ConsumerOptions {
    ConsumerOptions {
        from: From::Position(1),
        query: Query::default(),
        ack_wait_ms: 30_000,
        deliver_max: None,
        backoff_ms: Vec::new(),
        pending_max: 64,
        order,
        is_acked: true,
        idle_ms: None,
        is_upcast: None,
    }
}

pub(super) async fn create_seen(at: &EventSourcingHandle, by: &EventSourcingHandle, stream: &Subject) {
    at.create(stream, StreamOptions::default()).await.unwrap();
    let mut is_seen = false;
    for _ in 0..500 {
        is_seen = by.info(stream).await.is_ok();
        if is_seen {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(is_seen);
}

#[tokio::test]
async fn a_stream_is_used_from_every_node() {
    let (a, b, of_a, of_b) = two().await;
    let orders = name("orders");
    create_seen(&of_a, &of_b, &orders).await;
    let taken = of_b.create(&orders, StreamOptions::default()).await.unwrap_err();
    assert!(matches!(taken, StreamError::Exists { .. }), "{taken}");
    // It is used before it is announced, and listed when it is.
    let announced = async {
        while of_b.list().await.len() != 1 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::testing::PATIENCE, announced).await.unwrap();
    let request = ReadRequest {
        from: From::Position(1),
        query: Query::default(),
        follow: true,
        limit: None,
        is_upcast: None,
    };
    let mut following = of_b.read(&orders, request.clone()).await.unwrap();
    for n in 0..600_u32 {
        let by = if n % 2 == 0 { &of_a } else { &of_b };
        let appended = by
            .append(&orders, append_of(vec![event("k", &["t=1"], n.to_string())]))
            .await
            .unwrap();
        assert_eq!(appended.last, u64::from(n) + 1);
    }
    let mut read = Vec::new();
    while read.len() < 600 {
        if let Some(Read::Records(records)) = following.next().await.unwrap() {
            read.extend(records);
        }
    }
    let author = PublicKey::from_peer_id(&b.trust().local_peer());
    for (n, recorded) in read.iter().enumerate() {
        assert_eq!(recorded.position, n as u64 + 1);
        assert_eq!(recorded.record.event.data, n.to_string().into_bytes());
        assert_eq!(recorded.record.author, author.filter(|_| n % 2 == 1));
    }
    // The largest there is.
    let large = event(
        "k",
        &[],
        vec![7; weft_protocol::patterns::event_sourcing::EVENT_DATA_BYTES_MAX],
    );
    let appended = of_b.append(&orders, append_of(vec![large.clone()])).await.unwrap();
    let proof = of_b.prove(&orders, appended.last).await.unwrap();
    assert_eq!(proof.verify().unwrap().record.event, large);
    for position in [1, 255, 256, 257, 600] {
        of_b.prove(&orders, position).await.unwrap();
    }
    let missing = of_b.prove(&orders, 602).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
    assert_eq!(of_b.verify(&orders).await.unwrap().records, 601);
    of_a.append(&orders, append_of(vec![event("k", &[], "x")]))
        .await
        .unwrap();
    assert_eq!(of_b.verify(&orders).await.unwrap().records, 602);
    let wrong = Append {
        expect: Some(7),
        ..append_of(vec![event("k", &[], "x")])
    };
    assert_eq!(
        of_b.append(&orders, wrong).await.unwrap_err().kind(),
        ErrorKind::Conflict
    );
    let kept = of_b.delete(&orders).await.unwrap_err();
    assert!(kept.to_string().contains("deleted there"), "{kept}");
    of_a.delete(&orders).await.unwrap();
    let gone = loop {
        match following.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it does not just end"),
            Err(error) => break error,
        }
    };
    assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone}");
    b.stop().await;
    a.stop().await;
}

#[tokio::test]
async fn a_stream_is_found_before_it_is_announced() {
    let (a, b, of_a, of_b) = two().await;
    for n in 0..20 {
        let stream = name(&format!("s{n}"));
        of_a.create(&stream, StreamOptions::default()).await.unwrap();
        of_b.append(&stream, append_of(vec![event("k", &[], "x")]))
            .await
            .unwrap();
    }
    assert!(matches!(of_b.info(&name("none")).await, Err(StreamError::NoStream(_))));
    b.stop().await;
    a.stop().await;
}

#[tokio::test]
async fn workers_of_other_nodes_share_a_consumer_in_the_order_of_keys() {
    let (a, b, of_a, of_b) = two().await;
    let jobs = name("jobs");
    create_seen(&of_a, &of_b, &jobs).await;
    let options = consumer_options(Order::Key);
    let add = ConsumerRequest::Add {
        name: "workers".into(),
        options,
    };
    of_b.consumer(&jobs, add).await.unwrap();
    let both = Arc::new(tokio::sync::Barrier::new(2));
    let work = |of: EventSourcingHandle| {
        let (jobs, both) = (jobs.clone(), Arc::clone(&both));
        async move {
            let mut done: Vec<(u64, Option<String>)> = Vec::new();
            loop {
                let next = ConsumerRequest::Next {
                    name: "workers".into(),
                    count: 5,
                    wait_ms: if done.is_empty() { 20_000 } else { 700 },
                };
                let ConsumerReply::Handed(handed) = of.consumer(&jobs, next).await.unwrap() else {
                    panic!()
                };
                if handed.is_empty() {
                    return done;
                }
                if done.is_empty() {
                    // Each has some before either settles any: there are more keys than one takes.
                    both.wait().await;
                }
                for one in &handed {
                    let record = weft_protocol::Wire::from_bytes(&one.record.record);
                    let record: weft_protocol::patterns::event_sourcing::Record = record.unwrap();
                    done.push((one.record.position, record.event.subject));
                }
                let settle = ConsumerRequest::Settle {
                    name: "workers".into(),
                    handed: handed
                        .iter()
                        .map(|one| weft_protocol::patterns::event_sourcing::consumer::Handed {
                            position: one.record.position,
                            delivery: one.delivery,
                        })
                        .collect(),
                    settlement: weft_protocol::patterns::event_sourcing::consumer::Settlement::Done,
                };
                of.consumer(&jobs, settle).await.unwrap();
            }
        }
    };
    let feed = async {
        for n in 0..120_u32 {
            let job = Event {
                subject: Some(format!("customer-{}", n % 7)),
                ..event("job", &[], "x")
            };
            of_a.append(&jobs, append_of(vec![job])).await.unwrap();
        }
    };
    let (first, second, ()) = tokio::join!(work(of_a.clone()), work(of_b.clone()), feed);
    assert!(!first.is_empty() && !second.is_empty(), "both had something to do");
    let mut all: Vec<u64> = first.iter().chain(&second).map(|(position, _)| *position).collect();
    all.sort_unstable();
    assert_eq!(all, (1..=120).collect::<Vec<_>>());
    for done in [first, second] {
        for key in 0..7 {
            let of_key = done
                .iter()
                .filter(|(_, subject)| *subject == Some(format!("customer-{key}")));
            assert!(of_key.map(|(position, _)| *position).is_sorted());
        }
    }
    b.stop().await;
    a.stop().await;
}

#[tokio::test]
async fn large_records_are_handed_out_one_at_a_time() {
    let (a, b, of_a, of_b) = two().await;
    let jobs = name("jobs");
    create_seen(&of_a, &of_b, &jobs).await;
    let large = weft_protocol::patterns::event_sourcing::EVENT_DATA_BYTES_MAX;
    for bytes in [100, large, large, 100] {
        of_a.append(&jobs, append_of(vec![event("k", &[], vec![7; bytes])]))
            .await
            .unwrap();
    }
    let add = ConsumerRequest::Add {
        name: "c".into(),
        options: consumer_options(Order::Any),
    };
    of_b.consumer(&jobs, add).await.unwrap();
    let mut handed = Vec::new();
    while handed.len() < 4 {
        let next = ConsumerRequest::Next {
            name: "c".into(),
            count: 10,
            wait_ms: 5000,
        };
        let ConsumerReply::Handed(list) = of_b.consumer(&jobs, next).await.unwrap() else {
            panic!()
        };
        assert!(!list.is_empty(), "{handed:?}");
        handed.extend(list.iter().map(|one| (one.record.position, one.delivery)));
    }
    handed.sort_unstable();
    assert_eq!(handed, [(1, 1), (2, 1), (3, 1), (4, 1)]);
    b.stop().await;
    a.stop().await;
}

async fn exported(of: &EventSourcingHandle, stream: &Subject) -> String {
    let body = of.export(stream).await.unwrap();
    String::from_utf8(body.collect(10 << 20).await.unwrap()).unwrap()
}

#[tokio::test]
async fn an_export_comes_in_whole_or_not_at_all() {
    let (a, b, of_a, of_b) = two().await;
    let orders = name("orders");
    create_seen(&of_a, &of_b, &orders).await;
    for n in 0..40 {
        of_a.append(&orders, append_of(vec![event("k", &[], format!("{n}"))]))
            .await
            .unwrap();
    }
    let text = exported(&of_a, &orders).await;
    let copy = name("copy");
    let imported = of_b.import(&copy, BodyReader::of(text.clone())).await.unwrap();
    assert_eq!((imported.records, imported.owner), (40, a.trust().local_peer()));
    assert_eq!(of_b.verify(&copy).await.unwrap().records, 40);
    of_b.append(&copy, append_of(vec![event("k", &[], "more")]))
        .await
        .unwrap();
    // With any line changed, left out, twice or in another place, it is none.
    let lines: Vec<&str> = text.lines().collect();
    let other = name("other");
    for at in 0..lines.len() {
        let mut variants = vec![];
        let mut without = lines.clone();
        without.remove(at);
        variants.push(without);
        let mut twice = lines.clone();
        twice.insert(at, lines[at]);
        variants.push(twice);
        let mut swapped = lines.clone();
        swapped.swap(at, (at + 1) % lines.len());
        variants.push(swapped);
        let mut changed = lines.clone();
        let mut bytes = lines[at].as_bytes().to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] = if bytes[middle] == b'A' { b'B' } else { b'A' };
        let line = String::from_utf8(bytes).unwrap();
        changed[at] = &line;
        variants.push(changed);
        for variant in variants {
            let text = variant.join("\n") + "\n";
            let refused = of_b.import(&other, BodyReader::of(text)).await;
            assert!(refused.is_err(), "line {at}");
        }
    }
    let cut = BodyReader::of(text[..text.len() / 2].to_owned());
    of_b.import(&other, cut).await.unwrap_err();
    assert!(matches!(of_b.info(&other).await, Err(StreamError::NoStream(_))));
    // And its name is free.
    of_b.import(&other, BodyReader::of(text)).await.unwrap();
    b.stop().await;
    a.stop().await;
}

#[tokio::test]
async fn a_name_that_was_deleted_is_free_and_begins_anew() {
    let a = node(1, None).await;
    let handle = a.handle::<EventSourcing>().unwrap();
    let orders = name("orders");
    for round in 0..3 {
        handle.create(&orders, StreamOptions::default()).await.unwrap();
        for n in 0..300 {
            let with_id = Event {
                id: Some(format!("{n}")),
                ..event("k", &[], format!("{round}"))
            };
            let appended = handle.append(&orders, append_of(vec![with_id])).await.unwrap();
            assert_eq!((appended.last, appended.is_duplicate), (n + 1, false));
        }
        handle.delete(&orders).await.unwrap();
        assert!(handle.info(&orders).await.is_err());
    }
    assert!(handle.list().await.is_empty());
    a.stop().await;
}

#[tokio::test]
async fn more_streams_than_are_open_at_once_are_all_there() {
    let (a, b, of_a, of_b) = two().await;
    for n in 0..1100 {
        of_a.create(&name(&format!("s.{n}")), StreamOptions::default())
            .await
            .unwrap();
    }
    for n in (0..1100).step_by(7) {
        of_a.append(&name(&format!("s.{n}")), append_of(vec![event("k", &[], "x")]))
            .await
            .unwrap();
    }
    // Not all of them have room in the node's record; the others are asked for.
    let last = name("s.1099");
    create_seen(&of_a, &of_b, &name("zz")).await;
    of_b.append(&last, append_of(vec![event("k", &[], "x")])).await.unwrap();
    assert_eq!(
        of_a.info(&last).await.unwrap().figures.unwrap().version,
        2 - u64::from(1099 % 7 != 0)
    );
    b.stop().await;
    a.stop().await;
}

#[tokio::test]
async fn records_go_when_every_consumer_has_settled_them() {
    let a = node(21, None).await;
    let streams = a.handle::<EventSourcing>().unwrap();
    let jobs = name("jobs");
    let queue = StreamOptions {
        keep: Some(Keep::Queue),
        ..StreamOptions::default()
    };
    streams.create(&jobs, queue).await.unwrap();
    for n in 0..20_u32 {
        streams
            .append(&jobs, append_of(vec![event("k", &[], n.to_string())]))
            .await
            .unwrap();
    }
    let retain = async |first: u64| {
        let opened = streams.streams.get(&jobs).await.unwrap();
        opened.stream.retain().await.unwrap();
        assert_eq!(streams.info(&jobs).await.unwrap().figures.unwrap().first, first);
    };
    // While nobody works them off all of them stay.
    retain(1).await;
    let ask = async |request: ConsumerRequest| streams.consumer(&jobs, request).await.unwrap();
    for consumer in ["one", "two"] {
        let define = ConsumerRequest::Add {
            name: consumer.to_owned(),
            options: consumer_options(Order::Any),
        };
        ask(define).await;
    }
    let next = |consumer: &str, count: u32| ConsumerRequest::Next {
        name: consumer.to_owned(),
        count,
        wait_ms: 0,
    };
    let settle = async |consumer: &str, count: u32, settlement: Settlement| {
        let ConsumerReply::Handed(handed) = ask(next(consumer, count)).await else {
            panic!("something else")
        };
        assert_eq!(handed.len(), count as usize);
        for one in handed {
            let settle = ConsumerRequest::Settle {
                name: consumer.to_owned(),
                handed: vec![Handed {
                    position: one.record.position,
                    delivery: one.delivery,
                }],
                settlement: settlement.clone(),
            };
            ask(settle).await;
        }
    };
    settle("one", 12, Settlement::Done).await;
    retain(1).await;
    settle("two", 5, Settlement::Done).await;
    retain(6).await;
    // A dead letter may be handed out again.
    settle(
        "two",
        1,
        Settlement::Dead {
            reason: "no".to_owned(),
        },
    )
    .await;
    settle("two", 6, Settlement::Done).await;
    retain(6).await;
    ask(ConsumerRequest::Remove("two".to_owned())).await;
    retain(13).await;
    ask(ConsumerRequest::Remove("one".to_owned())).await;
    retain(13).await;
    let interest = StreamOptions {
        keep: Some(Keep::Interest),
        ..StreamOptions::default()
    };
    streams.update(&jobs, interest).await.unwrap();
    retain(21).await;
    streams
        .append(&jobs, append_of(vec![event("k", &[], "x")]))
        .await
        .unwrap();
    a.stop().await;
}
