//! Which way messages went, told by real nodes.

use std::time::Duration;

use weft_protocol::{PublicKey, SecretKey, Signed, Subject, patterns::pub_sub::hop::Hop};

use super::{
    super::{past::PAST_MESSAGES_MAX, *},
    direct::{handle, mesh, next, publish, until_direct},
};
use crate::testing::PATIENCE;

const WITHIN: Duration = Duration::from_millis(700);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_that_a_message_comes_by_says_so_with_its_signature() {
    let nodes = mesh(3).await;
    let publisher = handle(&nodes[0]);
    let [alpha, beta, gamma] = [0, 1, 2].map(|n: usize| nodes[n].mesh().local_peer());
    // Nobody wants it: it goes by gossip, to everybody.
    let unwanted: Subject = "news.eu".parse().unwrap();
    let give_up = tokio::time::Instant::now() + PATIENCE;
    // Gossip finds its way to everybody with time; until then somebody gets it late.
    let traced = loop {
        let traced = publisher.trace(&unwanted, vec![1], PublishOptions::default(), (false, WITHIN));
        let traced = traced.await.unwrap();
        if traced.hops.len() == 3 {
            break traced;
        }
        assert!(tokio::time::Instant::now() < give_up, "{traced:?}");
    };
    assert!(!traced.receipt.is_direct);
    let mut told: Vec<_> = traced.hops.iter().map(|hop| (hop.node, hop.subscriptions)).collect();
    told.sort_unstable();
    let mut all = vec![(alpha, 0), (beta, 0), (gamma, 0)];
    all.sort_unstable();
    assert_eq!(told, all);
    for hop in &traced.hops {
        let signed = hop.signed.open().unwrap();
        assert_eq!(
            (hop.signed.signer().peer_id(), signed.from.peer_id()),
            (hop.node, hop.from)
        );
        assert_eq!((signed.seq, &signed.subject), (traced.receipt.sequence, &unwanted));
        assert!(!hop.is_direct && (hop.node == alpha) == (hop.from == alpha && hop.node == hop.from));
    }
    // One wants it: it goes there and nowhere else, and as soon as that one has said so it is over.
    let orders: Subject = "orders.eu".parse().unwrap();
    let mut wanted = handle(&nodes[1]).subscribe("orders.>".parse().unwrap(), None);
    let first = until_direct(&publisher, &orders).await;
    let data = first.to_be_bytes().to_vec();
    let traced = publisher
        .trace(&orders, data, PublishOptions::default(), (false, PATIENCE))
        .await
        .unwrap();
    let mut told: Vec<_> = traced
        .hops
        .iter()
        .map(|hop| (hop.node, hop.from, hop.subscriptions))
        .collect();
    told.sort_unstable_by_key(|(node, ..)| *node != alpha);
    assert_eq!(told, [(alpha, alpha, 0), (beta, alpha, 1)]);
    while next(&mut wanted).await != first {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_only_traced_is_handed_to_nobody() {
    let nodes = mesh(3).await;
    let (publisher, orders) = (handle(&nodes[0]), "orders.eu".parse().unwrap());
    let mut here = publisher.subscribe("orders.>".parse().unwrap(), None);
    let mut there = handle(&nodes[1]).subscribe("orders.>".parse().unwrap(), None);
    let first = until_direct(&publisher, &orders).await;
    for n in [first, first + 1] {
        let data = 9999_u32.to_be_bytes().to_vec();
        let traced = publisher
            .trace(&orders, data, PublishOptions::default(), (true, PATIENCE))
            .await
            .unwrap();
        assert_eq!(traced.hops.len(), 2);
        assert!(traced.hops.iter().all(|hop| hop.subscriptions == 1));
        publish(&publisher, &orders, n).await;
    }
    for subscription in [&mut here, &mut there] {
        let mut n = next(subscription).await;
        while n < first + 1 {
            let following = next(subscription).await;
            assert_eq!(following, n + 1, "and nothing is missing");
            n = following;
        }
    }
    // Nor to who comes later, whichever way it went.
    let unwanted: Subject = "news.eu".parse().unwrap();
    publisher
        .trace(&unwanted, vec![1], PublishOptions::default(), (true, WITHIN))
        .await
        .unwrap();
    for node in &nodes {
        for pattern in ["news.>", "orders.>"] {
            let past = Past::Last(PAST_MESSAGES_MAX);
            let mut late = handle(node).subscribe_with(pattern.parse().unwrap(), past).await;
            while let Some(Delivery::Message(received)) = late.try_next() {
                assert_ne!(received.data(), 9999_u32.to_be_bytes());
                assert_ne!(received.subject(), &unwanted);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_speaks_for_another() {
    let nodes = mesh(2).await;
    let hub = handle(&nodes[0]).hub;
    let (alpha, beta) = (nodes[0].mesh().local_peer(), nodes[1].mesh().local_peer());
    let hop = |line: weft_protocol::patterns::pub_sub::Line, key: &SecretKey| {
        let hop = Hop {
            nonce: [7; 16],
            line,
            seq: 1,
            subject: "a".parse().unwrap(),
            from: PublicKey::from_peer_id(&alpha).unwrap(),
            received_at_ms: 1,
            subscriptions: 1,
        };
        Signed::sign(&hop, key).unwrap()
    };
    let mut waiting = hub.hops.wait_for([7; 16]).unwrap();
    let (key, own) = (SecretKey::from_bytes(&[9; 32]), hub.own_line(0).unwrap());
    let other = weft_protocol::patterns::pub_sub::Line::new(&beta, 5, 0).unwrap();
    let asker = key.public().peer_id();
    assert!(!hub.hops.heard(alpha, beta, hop(own, &key)), "signed by another");
    assert!(!hub.hops.heard(alpha, asker, hop(other, &key)), "of another's message");
    assert!(hub.hops.heard(alpha, asker, hop(own, &key)));
    assert!(hub.hops.heard(alpha, asker, hop(own, &key)), "again");
    let told = waiting
        .collect(Some(vec![asker, beta]), tokio::time::Instant::now() + WITHIN)
        .await;
    assert_eq!(told.len(), 1, "each once");
    drop(waiting);
    assert!(hub.hops.heard(alpha, asker, hop(own, &key)), "nobody waits any more");
    let many: Vec<_> = (0..64).map(|n| hub.hops.wait_for([n; 16]).unwrap()).collect();
    assert!(hub.hops.wait_for([64; 16]).is_err(), "no more at once");
    drop(many);
    assert!(hub.hops.wait_for([64; 16]).is_ok());
}
