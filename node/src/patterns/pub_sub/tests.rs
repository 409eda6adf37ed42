mod direct;
mod hops;
mod past;
mod quality;
mod retained;

use std::borrow::Cow;

use weft_protocol::{
    PeerId,
    limits::PUBLISH_BODY_BYTES_MAX,
    patterns::pub_sub::{Attributes, Frame, Line, Run},
};

use super::{
    cache::{Facts, Kept},
    handle::Delivery,
    window::{REPLAY_MESSAGES_MAX, ReplayWindow},
    *,
};
use crate::{
    node::Node,
    testing::{PATIENCE, address, member, mesh_config, peers, start},
    trust::MeshKind,
};

fn run<'a>(subject: &str, data: &[&'a [u8]]) -> Run<'a> {
    Run {
        attributes: Cow::Owned(Attributes::new(subject.parse().unwrap())),
        data: data.to_vec(),
    }
}

/// A frame whose first publication has this number, as it is kept.
fn kept(line: &Line, from: &PeerId, first_seq: u64, runs: Vec<Run<'_>>) -> Arc<Kept> {
    let frame = Frame {
        epoch: line.epoch,
        shard: line.shard,
        first_seq,
        before_ms: 0,
        runs,
    };
    Arc::new(Kept::new(*line, &Facts::of(&frame), Arc::new(frame.to_bytes().into())).handed_by(from))
}

fn a_line() -> (Line, PeerId) {
    let peer = libp2p::identity::Keypair::generate_ed25519().public().to_peer_id();
    let subject: weft_protocol::Subject = "a".parse().unwrap();
    (Line::new(&peer, 5, subject.shard(SHARDS)).unwrap(), peer)
}

fn after(window: &ReplayWindow, number: u64, pattern: &str) -> (Vec<Received>, u64) {
    let (runs, lost) = window.after(number, &pattern.parse().unwrap(), None);
    (runs.iter().flat_map(|run| run.messages()).collect(), lost)
}

#[test]
fn the_replay_window_is_bounded_and_says_what_is_gone() {
    let ((line, peer), mut window) = (a_line(), ReplayWindow::default());
    for n in 0..REPLAY_MESSAGES_MAX as u64 + 10 {
        let subject = if n % 2 == 0 { "a.x" } else { "a.y" };
        let kept = kept(&line, &peer, n + 1, vec![run(subject, &[&n.to_be_bytes()])]);
        assert_eq!(window.note(&kept, 0, 1), n + 1);
    }
    let (all, lost) = after(&window, 0, "a.x");
    assert_eq!((all.len(), lost), (REPLAY_MESSAGES_MAX / 2, 10));
    let (recent, lost) = after(&window, REPLAY_MESSAGES_MAX as u64 + 6, ">");
    assert_eq!((recent.len(), lost), (4, 0));
    let (none, lost) = after(&window, u64::MAX, ">");
    assert_eq!((none.len(), lost), (0, 0));
    let before = window.held_bytes();
    let large = vec![0; PUBLISH_BODY_BYTES_MAX];
    let slow: Vec<_> = (1..=20)
        .map(|seq| window.source(&kept(&line, &peer, seq, vec![run("a", &[&large])]), None))
        .collect();
    assert!(
        window.held_bytes() >= before + 20 * PUBLISH_BODY_BYTES_MAX,
        "also what only a subscriber holds"
    );
    drop((slow, all, recent));
    assert!(window.held_bytes() <= 8 << 20);
    for n in 0..20 {
        window.note(&kept(&line, &peer, n + 1, vec![run("a", &[&large])]), 0, 1);
    }
    assert!(window.held_bytes() <= 8 << 20);
    let (large, lost) = after(&window, 0, "a");
    assert_eq!((large.len(), lost), (8, REPLAY_MESSAGES_MAX as u64 + 10 + 12));
}

#[test]
fn what_is_read_again_is_what_was_received() {
    let ((line, peer), (_, from), mut window) = (a_line(), a_line(), ReplayWindow::default());
    let runs = vec![
        run("a.0", &[b"a.0"]),
        run("a.1", &[b"a.1"]),
        run("a.2", &[b"a.2", b"a.2+"]),
        run("a.4", &[b"a.4"]),
    ];
    let (many, one) = (
        kept(&line, &from, 7, runs),
        kept(&line, &from, 12, vec![run("a.5", &[b"a.5"])]),
    );
    // The second and the last of the frame were not for this node.
    for (kept, index, count) in [(&many, 0, 1), (&many, 2, 2), (&one, 0, 1)] {
        window.note(kept, index, count);
    }
    let told = |number: u64, pattern: &str| -> Vec<(u64, u64, String)> {
        let (messages, lost) = after(&window, number, pattern);
        assert_eq!(lost, 0);
        let each = messages.iter().map(|m| {
            assert_eq!((m.publisher(), m.from()), (peer, from));
            assert_eq!(m.source(), format!("mesh:///{peer}"));
            assert_eq!(
                m.id(),
                weft_protocol::patterns::pub_sub::message_id(&line, m.sequence())
            );
            let text = String::from_utf8(m.data().to_vec()).unwrap();
            assert_eq!(m.subject().as_str(), text.trim_end_matches('+'));
            (m.number(), m.sequence(), text)
        });
        each.collect()
    };
    let all = [(1, 7, "a.0"), (2, 9, "a.2"), (3, 10, "a.2+"), (4, 12, "a.5")].map(|(n, s, d)| (n, s, d.to_owned()));
    for after in 0..4 {
        assert_eq!(told(after as u64, ">"), all[after..], "after {after}");
    }
    assert_eq!(told(0, "a.2"), all[1..3]);
    assert_eq!(told(2, "a.2"), all[2..3]);
    assert_eq!(told(3, "a.2"), []);
    assert_eq!(told(1, "a.*"), all[1..]);
}

/// What is said of each of many subjects takes memory of its own.
#[test]
fn what_subscribers_hold_is_counted_by_run() {
    let ((line, peer), window) = (a_line(), ReplayWindow::default());
    let subjects: Vec<String> = (0..1000).map(|n| format!("a.{n}")).collect();
    let kept = kept(&line, &peer, 1, subjects.iter().map(|s| run(s, &[b"x"])).collect());
    let stretches = received::stretches(Frame::read(&kept.data).unwrap(), &kept.data);
    let source = window.source(&kept, None);
    let runs: Vec<_> = stretches
        .into_iter()
        .map(|s| received::Run::new(Arc::clone(&source), s, 1))
        .collect();
    assert!(window.held_bytes() >= kept.data.len() + 1000 * 512);
    let last = runs.last().unwrap().get(0);
    drop((source, runs));
    assert!(
        (kept.data.len()..kept.data.len() + 2000).contains(&window.held_bytes()),
        "the frame and one run"
    );
    drop(last);
    assert_eq!(window.held_bytes(), 0);
}

#[test]
fn a_frame_leaves_the_window_message_by_message() {
    let ((line, peer), mut window) = (a_line(), ReplayWindow::default());
    let frame = kept(&line, &peer, 1, vec![run("a", &[&b"x"[..]; 1000])]);
    let all = REPLAY_MESSAGES_MAX as u64 + 500;
    for first in (0..all).step_by(250) {
        let count = (all - first).min(250) as u32;
        assert_eq!(window.note(&frame, (first % 1000) as u32, count), first + 1);
    }
    let (left, lost) = after(&window, 0, "a");
    assert_eq!((left.len(), lost), (REPLAY_MESSAGES_MAX, 500));
    assert_eq!((left[0].number(), left[0].sequence()), (501, 501));
    let last = left.last().unwrap();
    assert_eq!((last.number(), last.sequence()), (all, all % 1000));
}

/// What waits for a subscriber.
#[tokio::test]
async fn a_queue_tells_what_was_lost_in_its_place() {
    let (line, peer) = a_line();
    let window = ReplayWindow::default();
    let frame = kept(&line, &peer, 1, vec![run("a", &[&b"x"[..]; 100])]);
    let stretches = received::stretches(Frame::read(&frame.data).unwrap(), &frame.data);
    let source = window.source(&frame, None);
    let messages = received::Run::new(source, stretches.into_iter().next().unwrap(), 1);
    let (sink, mut reader) = queue::queue(10);
    // One at a time or many at once: as many as there is room for.
    assert_eq!(sink.put_run(&messages, 0, 1, usize::MAX), 1);
    assert_eq!(sink.put_run(&messages, 1, 4, usize::MAX), 3);
    assert_eq!(sink.put_run(&messages, 4, 20, usize::MAX), 6);
    assert_eq!((sink.room(), sink.is_empty()), (0, false));
    assert!(!sink.put(Delivery::Dropped(7), 7));
    let told = async |reader: &mut queue::Reader| match reader.next().await.unwrap() {
        Delivery::Message(received) => received.sequence() as i64,
        Delivery::Dropped(lost) => -(lost as i64),
        gap => panic!("{gap:?}"),
    };
    for seq in 1..=3 {
        assert_eq!(told(&mut reader).await, seq);
    }
    // There is room again: the loss comes first.
    assert_eq!(sink.put_run(&messages, 30, 32, usize::MAX), 2);
    for seq in (4..=10).chain([-17, 31, 32]) {
        assert_eq!(told(&mut reader).await, seq);
    }
    // What is lost at the end is told as well, also to one that waits.
    let loses = async {
        tokio::task::yield_now().await;
        sink.put_run(&messages, 0, 3, 0)
    };
    assert_eq!(tokio::join!(told(&mut reader), loses), (-3, 0));
    sink.wait_for_room(10).await;
    assert_eq!(sink.put_run(&messages, 0, 10, usize::MAX), 10);
    let mut waits = std::pin::pin!(sink.wait_for_room(1));
    assert!(futures::poll!(&mut waits).is_pending());
    sink.close();
    for seq in 1..=10 {
        assert_eq!(told(&mut reader).await, seq);
    }
    waits.await;
    assert!(reader.next().await.is_none());
    let (sink, reader) = queue::queue(1);
    drop(reader);
    assert!(sink.is_closed() && sink.put_run(&messages, 0, 1, usize::MAX) == 0);
    sink.wait_for_room(1).await;
}

async fn next(subscription: &mut Subscription) -> Delivery {
    tokio::time::timeout(PATIENCE, subscription.next())
        .await
        .unwrap()
        .unwrap()
}

fn data(delivery: &Delivery) -> &[u8] {
    match delivery {
        Delivery::Message(received) => received.data(),
        loss => panic!("{loss:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_cross_the_mesh_in_order_to_whom_they_match() {
    let a = start(
        Node::builder().pattern(PubSub),
        1,
        mesh_config("a", vec![], "tcp"),
        Some(MeshKind::Open),
    )
    .await;
    let b = start(
        Node::builder().pattern(PubSub),
        2,
        mesh_config("b", vec![address(&a)], "tcp"),
        None,
    )
    .await;
    member(&b).await;
    peers(&a, 1).await;
    let (publisher, subscriber) = (a.handle::<PubSub>().unwrap(), b.handle::<PubSub>().unwrap());
    let mut orders = subscriber.subscribe("orders.>".parse().unwrap(), None);
    let mut local = publisher.subscribe("*.eu".parse().unwrap(), None);
    // Gossip topics are joined with the first heartbeats.
    let ready = async {
        let mut probe = subscriber.subscribe("probe".parse().unwrap(), None);
        loop {
            publisher
                .publish(&"probe".parse().unwrap(), vec![], PublishOptions::default())
                .await
                .unwrap();
            let wait = tokio::time::timeout(std::time::Duration::from_millis(200), probe.next());
            if wait.await.is_ok() && a.mesh().peers().len() == 1 {
                let sent = publisher
                    .publish(&"orders.ready".parse().unwrap(), vec![], PublishOptions::default())
                    .await;
                if sent.unwrap().peers == 1 {
                    return;
                }
            }
        }
    };
    tokio::time::timeout(PATIENCE, ready).await.unwrap();
    for n in 0..100u8 {
        publisher
            .publish(&"orders.eu".parse().unwrap(), vec![n], PublishOptions::default())
            .await
            .unwrap();
        publisher
            .publish(&"invoices.us".parse().unwrap(), vec![n], PublishOptions::default())
            .await
            .unwrap();
    }
    let mut got = Vec::new();
    while got.len() < 100 {
        let delivery = next(&mut orders).await;
        if let [n] = data(&delivery) {
            got.push(*n);
        }
    }
    assert_eq!(got, (0..100).collect::<Vec<u8>>());
    for n in 0..100u8 {
        assert_eq!(data(&next(&mut local).await), [n]);
    }
    drop((a, b));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_subscriber_loses_its_own_and_is_told_how_many() {
    let a = start(
        Node::builder().pattern(PubSub),
        1,
        mesh_config("a", vec![], "tcp"),
        Some(MeshKind::Open),
    )
    .await;
    let handle = a.handle::<PubSub>().unwrap();
    let mut slow = handle.subscribe("x".parse().unwrap(), None);
    let mut quick = handle.subscribe("x".parse().unwrap(), None);
    let room = subscribers::SUBSCRIBER_QUEUE_MAX as u32;
    for n in 0..room + 476 {
        handle
            .publish(
                &"x".parse().unwrap(),
                n.to_be_bytes().to_vec(),
                PublishOptions::default(),
            )
            .await
            .unwrap();
        assert_eq!(data(&next(&mut quick).await), n.to_be_bytes());
    }
    for n in 0..room {
        assert_eq!(data(&next(&mut slow).await), n.to_be_bytes());
    }
    // Also if nothing comes after it.
    assert!(matches!(next(&mut slow).await, Delivery::Dropped(476)));
    handle
        .publish(&"x".parse().unwrap(), vec![1], PublishOptions::default())
        .await
        .unwrap();
    assert_eq!(data(&next(&mut slow).await), [1]);
    // Coming back with a cursor gives what was missed.
    let Delivery::Message(last) = next(&mut quick).await else {
        panic!("the last one")
    };
    handle
        .publish(&"x".parse().unwrap(), vec![2], PublishOptions::default())
        .await
        .unwrap();
    let mut back = handle.subscribe("x".parse().unwrap(), Some(&handle.cursor(&last)));
    assert_eq!(data(&next(&mut back).await), [2]);
    let mut from_before = handle.subscribe("x".parse().unwrap(), Some("0-7"));
    assert!(
        matches!(next(&mut from_before).await, Delivery::Dropped(_)),
        "what an earlier run had cannot be known"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_published_before_anybody_was_connected_arrives_once_and_in_order() {
    let b = start(
        Node::builder().pattern(PubSub),
        2,
        mesh_config("b", vec![], "tcp"),
        None,
    )
    .await;
    let mut orders = b
        .handle::<PubSub>()
        .unwrap()
        .subscribe("orders.>".parse().unwrap(), None);
    let a = start(
        Node::builder().pattern(PubSub),
        1,
        mesh_config("a", vec![], "tcp"),
        Some(MeshKind::Open),
    )
    .await;
    let publisher = a.handle::<PubSub>().unwrap();
    let subject = "orders.eu".parse().unwrap();
    for n in 0..50u8 {
        let receipt = publisher.publish(&subject, vec![n], PublishOptions::default()).await;
        let receipt = receipt.unwrap();
        assert_eq!((receipt.sequence, receipt.peers), (u64::from(n) + 1, 0));
    }
    b.mesh().add_bootstrap(vec![address(&a)]).await.unwrap();
    member(&b).await;
    for n in 0..50u8 {
        let Delivery::Message(received) = next(&mut orders).await else {
            panic!("a loss at {n}");
        };
        assert_eq!((received.data(), received.sequence()), (&[n][..], u64::from(n) + 1));
    }
    drop((a, b));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_share_frames_and_keep_their_order() {
    let a = start(
        Node::builder().pattern(PubSub),
        1,
        mesh_config("a", vec![], "tcp"),
        Some(MeshKind::Open),
    )
    .await;
    let handle = a.handle::<PubSub>().unwrap();
    let mut all = handle.subscribe("x.>".parse().unwrap(), None);
    let mut queued = Vec::new();
    for n in 0..1000u32 {
        let subject = format!("x.{n}").parse().unwrap();
        let options = PublishOptions::default();
        queued.push(
            handle
                .enqueue(&subject, n.to_be_bytes().to_vec(), options)
                .await
                .unwrap(),
        );
    }
    let mut ids = std::collections::BTreeSet::new();
    for (queued, n) in queued.into_iter().zip(1u64..) {
        let receipt = queued.receipt().await.unwrap();
        assert_eq!(receipt.sequence, n);
        ids.insert(receipt.id);
    }
    assert_eq!(ids.len(), 1000);
    for n in 0..1000u32 {
        assert_eq!(data(&next(&mut all).await), n.to_be_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_knows_who_wants_what() {
    let a = start(
        Node::builder().pattern(PubSub),
        1,
        mesh_config("a", vec![], "tcp"),
        Some(MeshKind::Open),
    )
    .await;
    let b = start(
        Node::builder().pattern(PubSub),
        2,
        mesh_config("b", vec![address(&a)], "tcp"),
        None,
    )
    .await;
    member(&b).await;
    let (near, far) = (a.handle::<PubSub>().unwrap(), b.handle::<PubSub>().unwrap());
    let (wanted, other) = ("orders.eu".parse().unwrap(), "invoices.eu".parse().unwrap());
    assert!(near.interested(&wanted).is_empty());
    let until = async |expected: Vec<PeerId>| {
        let mut records = a.trust().watch_records();
        let known = async {
            while near.interested(&wanted) != expected {
                records.changed().await.unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, known).await.unwrap();
    };
    let subscription = far.subscribe("orders.>".parse().unwrap(), None);
    until(vec![far.local_peer()]).await;
    assert!(near.interested(&other).is_empty());
    let own = near.subscribe("*.eu".parse().unwrap(), None);
    assert_eq!(near.interested(&wanted), [far.local_peer(), near.local_peer()]);
    assert_eq!(near.interested(&other), [near.local_peer()]);
    drop(own);
    drop(subscription);
    until(vec![]).await;
    drop((a, b));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_expired_is_handed_to_nobody() {
    let a = start(
        Node::builder().pattern(PubSub),
        1,
        mesh_config("a", vec![], "tcp"),
        Some(MeshKind::Open),
    )
    .await;
    let (handle, subject) = (a.handle::<PubSub>().unwrap(), "prices.gold".parse().unwrap());
    let mut wanted = handle.subscribe("prices.>".parse().unwrap(), None);
    let within = |expires_in: Option<std::time::Duration>| PublishOptions {
        expires_in,
        ..PublishOptions::default()
    };
    let at = |time: &str| PublishOptions {
        extensions: vec![("expirytime".to_owned(), time.to_owned())],
        ..PublishOptions::default()
    };
    let hour = std::time::Duration::from_secs(3600);
    for (n, options) in [
        (1, within(None)),
        (2, within(Some(std::time::Duration::ZERO))),
        (3, within(Some(hour))),
        (4, at("2020-01-01T00:00:00Z")),
        (5, at("2200-01-01T00:00:00+02:00")),
        (6, within(Some(std::time::Duration::MAX))),
    ] {
        handle.publish(&subject, vec![n], options).await.unwrap();
    }
    let wrong = handle.publish(&subject, vec![7], at("tomorrow")).await;
    assert!(
        matches!(&wrong, Err(PublishError::Invalid(why)) if why.contains("tomorrow")),
        "{wrong:?}"
    );
    for n in [1, 3, 5, 6] {
        let delivery = next(&mut wanted).await;
        assert_eq!(data(&delivery), [n]);
        if n == 3 {
            let Delivery::Message(received) = delivery else {
                panic!()
            };
            let expires = received.attributes().extension("expirytime").unwrap();
            assert!(expires.ends_with('Z') && expires.len() == 24, "{expires}");
        }
    }
    // Nor to who comes later.
    let mut late = handle.subscribe_with("prices.>".parse().unwrap(), Past::Last(10)).await;
    for n in [1, 3, 5, 6] {
        assert_eq!(data(&next(&mut late).await), [n]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_ends_with_its_node() {
    let a = start(
        Node::builder().pattern(PubSub),
        1,
        mesh_config("a", vec![], "tcp"),
        Some(MeshKind::Open),
    )
    .await;
    let handle = a.handle::<PubSub>().unwrap();
    let mut wanted = handle.subscribe("a".parse().unwrap(), None);
    handle
        .publish(&"a".parse().unwrap(), vec![1], PublishOptions::default())
        .await
        .unwrap();
    a.stop().await;
    assert_eq!(data(&next(&mut wanted).await), [1], "what waits is read");
    assert!(tokio::time::timeout(PATIENCE, wanted.next()).await.unwrap().is_none());
    let mut late = handle.subscribe("a".parse().unwrap(), None);
    assert!(tokio::time::timeout(PATIENCE, late.next()).await.unwrap().is_none());
}
