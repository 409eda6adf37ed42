mod direct;
mod past;

use weft_protocol::{
    Message, PeerId, Wire as _,
    limits::PUBLISH_BODY_BYTES_MAX,
    patterns::pub_sub::{Frame, Line, Publication},
};

use super::{
    cache::Kept,
    core::{Numbered, REPLAY_MESSAGES_MAX, ReplayWindow},
    handle::Delivery,
    *,
};
use crate::{
    node::Node,
    testing::{PATIENCE, address, member, mesh_config, peers, start},
    trust::MeshKind,
};

fn publication(subject: &str, data: &[u8]) -> Publication {
    let mut message = Message::new("", "", "");
    message.subject = Some(subject.parse().unwrap());
    message.data = data.to_vec();
    Publication {
        message,
        capability: Vec::new(),
        picks: None,
    }
}

/// A frame whose first publication has this number, as it is kept.
fn kept(line: &Line, from: &PeerId, first_seq: u64, publications: Vec<Publication>) -> Arc<Kept> {
    let frame = Frame {
        epoch: line.epoch,
        shard: line.shard,
        first_seq,
        before_ms: 0,
        publications,
    };
    Arc::new(Kept::new(*line, &frame, Arc::new(frame.to_bytes().into())).handed_by(from))
}

fn a_line() -> (Line, PeerId) {
    let peer = libp2p::identity::Keypair::generate_ed25519().public().to_peer_id();
    let subject: weft_protocol::Subject = "a".parse().unwrap();
    (Line::new(&peer, 5, subject.shard(SHARDS)).unwrap(), peer)
}

fn after(window: &ReplayWindow, number: u64, pattern: &str) -> (Vec<Arc<Received>>, u64) {
    window.after(number, &pattern.parse().unwrap(), |peer| format!("mesh://m/{peer}"))
}

#[test]
fn the_replay_window_is_bounded_and_says_what_is_gone() {
    let ((line, peer), mut window) = (a_line(), ReplayWindow::default());
    for n in 0..REPLAY_MESSAGES_MAX as u64 + 10 {
        let subject = if n % 2 == 0 { "a.x" } else { "a.y" };
        let kept = kept(&line, &peer, n + 1, vec![publication(subject, &n.to_be_bytes())]);
        assert_eq!(window.note(kept, 0), n + 1);
    }
    let (all, lost) = after(&window, 0, "a.x");
    assert_eq!((all.len(), lost), (REPLAY_MESSAGES_MAX / 2, 10));
    let (recent, lost) = after(&window, REPLAY_MESSAGES_MAX as u64 + 6, ">");
    assert_eq!((recent.len(), lost), (4, 0));
    let (none, lost) = after(&window, u64::MAX, ">");
    assert_eq!((none.len(), lost), (0, 0));
    let before = window.held_bytes();
    let slow: Vec<_> = (1..=20)
        .map(|number| {
            let message = Numbered {
                number,
                sequence: number,
                publication: publication("a", &vec![0; PUBLISH_BODY_BYTES_MAX]),
            };
            window.receive(message, &line, peer, "mesh://m/n")
        })
        .collect();
    assert!(
        window.held_bytes() >= before + 20 * PUBLISH_BODY_BYTES_MAX,
        "also what only a subscriber holds"
    );
    drop((slow, all, recent));
    assert!(window.held_bytes() <= 8 << 20);
    for n in 0..20 {
        let large = vec![publication("a", &vec![0; PUBLISH_BODY_BYTES_MAX])];
        window.note(kept(&line, &peer, n + 1, large), 0);
    }
    assert!(window.held_bytes() <= 8 << 20);
    let (large, lost) = after(&window, 0, "a");
    assert_eq!((large.len(), lost), (8, REPLAY_MESSAGES_MAX as u64 + 10 + 12));
}

#[test]
fn what_is_read_again_is_what_was_received() {
    let ((line, peer), (_, from), mut window) = (a_line(), a_line(), ReplayWindow::default());
    let publications = ["a.0", "a.1", "a.2", "a.3", "a.4"].map(|subject| publication(subject, subject.as_bytes()));
    let (many, one) = (
        kept(&line, &from, 7, publications.to_vec()),
        kept(&line, &from, 12, vec![publication("a.5", b"a.5")]),
    );
    // The second and the last of the frame were not for this node.
    for (kept, index) in [(&many, 0), (&many, 2), (&many, 3), (&one, 0)] {
        window.note(Arc::clone(kept), index);
    }
    let told = |number: u64, pattern: &str| -> Vec<(u64, u64, String)> {
        let (messages, lost) = after(&window, number, pattern);
        assert_eq!(lost, 0);
        let each = messages.iter().map(|m| {
            assert_eq!((m.publisher, m.from), (peer, from));
            let message = &m.publication.message;
            assert_eq!(message.source, format!("mesh://m/{peer}"));
            assert_eq!(
                message.id,
                weft_protocol::patterns::pub_sub::message_id(&line, m.sequence)
            );
            assert_eq!(message.subject.as_ref().unwrap().as_str().as_bytes(), message.data);
            (m.number, m.sequence, String::from_utf8(message.data.clone()).unwrap())
        });
        each.collect()
    };
    let all = [(1, 7, "a.0"), (2, 9, "a.2"), (3, 10, "a.3"), (4, 12, "a.5")].map(|(n, s, d)| (n, s, d.to_owned()));
    for after in 0..4 {
        assert_eq!(told(after as u64, ">"), all[after..], "after {after}");
    }
    assert_eq!(told(0, "a.3"), all[2..3]);
    assert_eq!(told(3, "a.3"), []);
    assert_eq!(told(1, "a.*"), all[1..]);
}

#[test]
fn a_frame_leaves_the_window_message_by_message() {
    let ((line, peer), mut window) = (a_line(), ReplayWindow::default());
    let frame = kept(&line, &peer, 1, vec![publication("a", b"x"); 1000]);
    for n in 0..REPLAY_MESSAGES_MAX as u32 + 500 {
        window.note(Arc::clone(&frame), n % 1000);
    }
    let (left, lost) = after(&window, 0, "a");
    assert_eq!((left.len(), lost), (REPLAY_MESSAGES_MAX, 500));
    assert_eq!((left[0].number, left[0].sequence), (501, 501));
    let last = left.last().unwrap();
    assert_eq!(
        (last.number, last.sequence),
        (
            REPLAY_MESSAGES_MAX as u64 + 500,
            (REPLAY_MESSAGES_MAX as u64 + 500) % 1000
        )
    );
}

async fn next(subscription: &mut Subscription) -> Delivery {
    tokio::time::timeout(PATIENCE, subscription.next())
        .await
        .unwrap()
        .unwrap()
}

fn data(delivery: &Delivery) -> &[u8] {
    match delivery {
        Delivery::Message(received) => &received.publication.message.data,
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
        let message = &received.publication.message;
        assert_eq!((&message.data[..], received.sequence), (&[n][..], u64::from(n) + 1));
        assert!(message.check().is_ok(), "what the frame left out is there: {message:?}");
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
