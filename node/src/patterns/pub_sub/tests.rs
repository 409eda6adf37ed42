use weft_protocol::{Message, PeerId, patterns::pub_sub::Publication};

use super::{
    core::{Freshness, REPLAY_MESSAGES_MAX, ReplayGuard, ReplayWindow},
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
        publisher_seq: 1,
        boot: 1,
        capability: Vec::new(),
    }
}

#[test]
fn each_message_is_new_once() {
    let mut guard = ReplayGuard::default();
    let (a, b) = (PeerId::random(), PeerId::random());
    for sequence in [1, 2, 5, 4, 3] {
        assert_eq!(guard.judge(a, 10, sequence), Freshness::Fresh, "{sequence}");
        assert_eq!(guard.judge(a, 10, sequence), Freshness::Stale, "{sequence}");
    }
    assert_eq!(guard.judge(b, 10, 1), Freshness::Fresh, "another publisher");
    assert_eq!(guard.judge(a, 10, 5000), Freshness::Fresh);
    assert_eq!(guard.judge(a, 10, 3000), Freshness::Stale, "older than the window");
    assert_eq!(guard.judge(a, 10, 4999), Freshness::Fresh, "late, within the window");
    assert_eq!(guard.judge(a, 11, 1), Freshness::Fresh, "it has restarted");
    assert_eq!(guard.judge(a, 10, 5001), Freshness::OldBoot);
}

#[test]
fn the_replay_window_is_bounded_and_says_what_is_gone() {
    let mut window = ReplayWindow::default();
    let peer = PeerId::random();
    for n in 0..REPLAY_MESSAGES_MAX + 10 {
        window.push(peer, peer, publication(if n % 2 == 0 { "a.x" } else { "b.x" }, &[]));
    }
    let (all, lost) = window.after(0, &"a.*".parse().unwrap());
    assert_eq!((all.len(), lost), (REPLAY_MESSAGES_MAX / 2, 10));
    let (recent, lost) = window.after(REPLAY_MESSAGES_MAX as u64 + 6, &">".parse().unwrap());
    assert_eq!((recent.len(), lost), (4, 0));
    let (none, lost) = window.after(u64::MAX, &">".parse().unwrap());
    assert_eq!((none.len(), lost), (0, 0));
    let slow: Vec<_> = (0..20)
        .map(|_| window.push(peer, peer, publication("c", &vec![0; 1 << 20])))
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
        Delivery::Dropped(n) => panic!("{n} were dropped"),
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
    for n in 0..1500u32 {
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
    for n in 0..1024u32 {
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
