use weft_protocol::{Message, PeerId, Wire as _, patterns::pub_sub::Publication};

use super::{
    core::{Origin, REPLAY_MESSAGES_MAX, ReplayWindow},
    handle::Delivery,
    *,
};
use crate::{
    node::Node,
    testing::{PATIENCE, address, member, mesh_config, peers, start},
    trust::MeshKind,
};

fn publication(subject: &str, data: &[u8]) -> Publication {
    let mut message = Message::new("1", "/test", "t");
    message.subject = Some(subject.parse().unwrap());
    message.data = data.to_vec();
    Publication {
        message,
        capability: Vec::new(),
        picks: None,
    }
}

#[test]
fn the_replay_window_is_bounded_and_says_what_is_gone() {
    let mut window = ReplayWindow::default();
    let peer = PeerId::random();
    let origin = Origin {
        publisher: peer,
        from: peer,
        sequence: 1,
    };
    for n in 0..REPLAY_MESSAGES_MAX + 10 {
        window.push(origin, publication(if n % 2 == 0 { "a.x" } else { "b.x" }, &[]));
    }
    let (all, lost) = window.after(0, &"a.*".parse().unwrap());
    assert_eq!((all.len(), lost), (REPLAY_MESSAGES_MAX / 2, 10));
    let (recent, lost) = window.after(REPLAY_MESSAGES_MAX as u64 + 6, &">".parse().unwrap());
    assert_eq!((recent.len(), lost), (4, 0));
    let (none, lost) = window.after(u64::MAX, &">".parse().unwrap());
    assert_eq!((none.len(), lost), (0, 0));
    let slow: Vec<_> = (0..20)
        .map(|_| window.push(origin, publication("c", &vec![0; 1 << 20])))
        .collect();
    assert!(window.held_bytes() >= 20 << 20, "also what only a subscriber holds");
    drop((slow, all, recent));
    assert!(window.held_bytes() <= 8 << 20);
    assert!(window.after(0, &"c".parse().unwrap()).0.len() <= 8);
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
    handle
        .publish(&"x".parse().unwrap(), vec![1], PublishOptions::default())
        .await
        .unwrap();
    assert!(matches!(next(&mut slow).await, Delivery::Dropped(476)));
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
