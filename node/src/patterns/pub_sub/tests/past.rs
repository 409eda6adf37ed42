//! What is told to a subscriber of what was published before it came, between real nodes.

use std::time::Duration;

use weft_protocol::{
    Subject,
    patterns::pub_sub::{
        DIRECT, Frame, Line, SHARDS,
        repair::{PastFrame, RepairReply},
    },
};

use super::{
    super::{
        order,
        past::{self, PAST_MESSAGES_MAX, Recollection},
        window::ReplayWindow,
        *,
    },
    direct::{begin, handle, mesh, next, publish, until_direct},
};
use crate::testing::{PATIENCE, address, eventually, member, mesh_config, peers, start};

fn subject(text: &str) -> Subject {
    text.parse().unwrap()
}

async fn recall(handle: &PubSubHandle, pattern: &str, past: Past) -> Vec<u32> {
    let mut subscription = handle.subscribe_with(pattern.parse().unwrap(), past).await;
    let mut numbers = Vec::new();
    while let Some(Delivery::Message(received)) = subscription.try_next() {
        numbers.push(u32::from_be_bytes(received.data().try_into().unwrap()));
    }
    numbers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_joins_late_learns_what_gossip_brought_before() {
    let nodes = mesh(2).await;
    let publisher = handle(&nodes[0]);
    for n in 0..300 {
        publish(
            &publisher,
            &subject(["orders.eu", "orders.us", "bills.eu"][n as usize % 3]),
            n,
        )
        .await;
    }
    eventually("the second node has it all", || handle(&nodes[1]).received() == 300).await;
    // It meets only the second node at first, which published none of them.
    let late = start(
        crate::node::Node::builder().pattern(PubSub),
        9,
        mesh_config("n0", vec![address(&nodes[1])], "tcp"),
        None,
    )
    .await;
    member(&late).await;
    peers(&late, 1).await;
    let reader = handle(&late);
    let all: Vec<u32> = (0..300).filter(|n| n % 3 < 2).collect();
    assert_eq!(recall(&reader, "orders.*", Past::Within(PAST_MAX)).await, all);
    assert_eq!(recall(&reader, "orders.*", Past::Last(5)).await, all[195..]);
    let mut last = recall(&reader, ">", Past::LastOfEach).await;
    last.sort_unstable();
    assert_eq!(last, [297, 298, 299]);
    assert_eq!(recall(&reader, "orders.us", Past::LastOfEach).await, [298]);
    assert_eq!(recall(&reader, "nothing.>", Past::LastOfEach).await, [0; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_and_after_meet_without_a_seam() {
    let nodes = mesh(3).await;
    let (publisher, orders) = (handle(&nodes[0]), subject("orders.eu"));
    let (done, all_out) = tokio::sync::oneshot::channel();
    nodes[0].tasks().spawn("publishing", {
        let (publisher, orders) = (publisher.clone(), orders.clone());
        async move {
            for n in 0..3000 {
                publish(&publisher, &orders, n).await;
                if n % 50 == 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            let _ = done.send(());
        }
    });
    // At the publisher itself and at another node, in the middle of it.
    eventually("some are out", || handle(&nodes[2]).received() > 500).await;
    for reader in [&publisher, &handle(&nodes[2])] {
        let telling = reader.subscribe_with("orders.>".parse().unwrap(), Past::Within(PAST_MAX));
        let mut told = tokio::time::timeout(PATIENCE, telling)
            .await
            .expect("what was before is told in time");
        for n in 0..1500 {
            assert_eq!(next(&mut told).await, n);
        }
    }
    tokio::time::timeout(PATIENCE, all_out)
        .await
        .expect("the publisher comes to an end")
        .unwrap();
    let mut told = handle(&nodes[1])
        .subscribe_with("orders.>".parse().unwrap(), Past::Last(PAST_MESSAGES_MAX))
        .await;
    for n in 0..3000 {
        assert_eq!(next(&mut told).await, n);
    }
    publish(&publisher, &orders, 3000).await;
    assert_eq!(next(&mut told).await, 3000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_went_to_others_alone_its_publisher_tells() {
    let nodes = mesh(3).await;
    let (publisher, orders) = (handle(&nodes[0]), subject("orders.eu"));
    let mut wanted = handle(&nodes[1]).subscribe("orders.>".parse().unwrap(), None);
    let first = until_direct(&publisher, &orders).await;
    for n in first..first + 100 {
        publish(&publisher, &orders, n).await;
    }
    for n in begin(&mut wanted, first).await + 1..first + 100 {
        assert_eq!(next(&mut wanted).await, n);
    }
    let last_ten: Vec<u32> = (first + 90..first + 100).collect();
    // The third node is connected to the publisher.
    assert_eq!(recall(&handle(&nodes[2]), "orders.*", Past::Last(10)).await, last_ten);
    let all: Vec<u32> = (0..first + 100).collect();
    assert_eq!(
        recall(&handle(&nodes[2]), "orders.*", Past::Within(PAST_MAX)).await,
        all
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_wants_less_is_told_all_that_was_before() {
    let nodes = mesh(1).await;
    let (publisher, ticks) = (handle(&nodes[0]), subject("ticks.a"));
    for n in 0..5 {
        publish(&publisher, &ticks, n).await;
    }
    let wanted = publisher
        .subscribe_with("ticks.>".parse().unwrap(), Past::Last(5))
        .await;
    let mut wanted = wanted.at_most_every(Duration::from_secs(3600));
    for n in 5..8 {
        publish(&publisher, &ticks, n).await;
    }
    publish(&publisher, &subject("ticks.b"), 8).await;
    for n in [0, 1, 2, 3, 4, 5, 8] {
        assert_eq!(next(&mut wanted).await, n);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_signed_is_not_believed() {
    let nodes = mesh(3).await;
    let (publisher, orders) = (handle(&nodes[0]), subject("orders.eu"));
    for n in 0..10 {
        publish(&publisher, &orders, n).await;
    }
    eventually("the second node has it all", || handle(&nodes[1]).received() == 10).await;
    let [alpha, beta, gamma] = [0, 1, 2].map(|n: usize| nodes[n].mesh().local_peer());
    let pattern: weft_protocol::Pattern = "orders.>".parse().unwrap();
    let RepairReply::Past { frames, more: false } = past::answer(&handle(&nodes[1]).hub, &pattern, 0, None) else {
        panic!("another answer");
    };
    let reader = handle(&nodes[2]).hub;
    let told = |peer, frame: PastFrame| past::read(&reader, peer, &pattern, frame).map(|(_, messages)| messages.len());
    let all: usize = frames.iter().map(|frame| told(beta, frame.clone()).unwrap()).sum();
    assert_eq!(all, 10, "from a member that published none of them");
    let tamper = |how: fn(&mut PastFrame)| {
        let mut frame = frames[0].clone();
        how(&mut frame);
        told(beta, frame)
    };
    assert_eq!(tamper(|_| {}), told(beta, frames[0].clone()));
    for how in [
        (|f| *f.original.data.last_mut().unwrap() ^= 1) as fn(&mut PastFrame),
        |f| f.original.signature[0] ^= 1,
        |f| f.original.signature.clear(),
        |f| f.original.gossip_seq += 1,
        |f| f.line.epoch += 1,
        |f| f.line.shard = (f.line.shard + 1) % SHARDS,
        // Handed over as direct, by one that did not publish it.
        |f| {
            f.line.shard += DIRECT;
            f.original.signature.clear();
        },
    ] {
        assert_eq!(tamper(how), None);
    }
    // In another's name.
    let mut foreign = frames[0].clone();
    foreign.line = Line::new(&gamma, foreign.line.epoch, foreign.line.shard).unwrap();
    assert_eq!((told(beta, foreign.clone()), told(alpha, foreign)), (None, None));
}

#[tokio::test(start_paused = true)]
async fn what_comes_again_is_left_out_and_what_comes_too_late_is_named() {
    let (line, peer) = super::a_line();
    let window = ReplayWindow::default();
    let received = |sequence: u64| {
        let mut one = super::run("a", &[b"x"]);
        one.attributes.to_mut().time_ms = Some(1000 + sequence);
        let kept = super::kept(&line, &peer, sequence, vec![one]);
        let stretches = received::stretches(Frame::read(&kept.data).unwrap(), &kept.data);
        let stretch = stretches.into_iter().next().unwrap();
        let run = received::Run::new(window.source(&kept, None), stretch, sequence);
        run.get(0).unwrap()
    };
    let of = |sequences: &[u64]| -> Vec<Received> { sequences.iter().map(|s| received(*s)).collect() };
    let mut recent = Recollection::of(of(&[3, 5, 4]), Past::Within(Duration::from_millis(6)), 1010, 77);
    let told: Vec<_> = std::iter::from_fn(|| recent.next()).collect();
    assert_eq!(told.len(), 2, "made 5 and 6 ms before now");
    let mut past = Recollection::of(of(&[3, 5, 4, 7]), Past::Last(2), 1000, 77);
    let told: Vec<(u64, u64)> = std::iter::from_fn(|| past.next())
        .map(|delivery| match delivery {
            Delivery::Message(received) => (received.sequence(), received.number()),
            loss => panic!("{loss:?}"),
        })
        .collect();
    assert_eq!(told, [(5, 77), (7, 77)], "with the number after which it began");
    for (sequence, expected) in [
        (3, None),
        (4, None),
        (5, None),
        (6, Some(true)),
        (7, None),
        (8, Some(false)),
    ] {
        let passed = past.pass(Delivery::Message(received(sequence)));
        let is_gap =
            passed.map(|d| matches!(d, Delivery::Gap { first, last, .. } if (first, last) == (sequence, sequence)));
        assert_eq!(is_gap, expected, "{sequence}");
    }
    let other: Line = super::a_line().0;
    assert_ne!(other, line);
    assert!(matches!(past.pass(Delivery::Dropped(1)), Some(Delivery::Dropped(1))));
    assert!(!past.is_over());
    tokio::time::advance(order::PATIENCE * 4).await;
    assert!(past.is_over());
}
