//! What goes directly to the members that want it, queue groups, and reports, between real nodes.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use weft_protocol::{
    Pattern, PeerId, Subject, limits,
    patterns::pub_sub::{Attributes, Frame, Run},
};

use super::super::*;
use crate::{
    node::{Node, NodeOptions},
    testing::{PATIENCE, TestPlatform, address, eventually, key, member, mesh_config, peers},
    trust::{FoundOptions, MeshKind},
};

/// Nodes that are members of one mesh and connected with the first. They have one calendar.
pub(super) async fn mesh(count: u8) -> Vec<Node> {
    let platform = TestPlatform::new();
    let mut nodes: Vec<Node> = Vec::new();
    for n in 0..count {
        let bootstrap = nodes.first().map(address).into_iter().collect();
        let mesh = mesh_config(&format!("n{n}"), bootstrap, "tcp");
        let name = mesh.name.clone();
        let options = NodeOptions::new(key(n + 1), format!("/store-{n}"), mesh);
        let node = Node::builder()
            .pattern(PubSub)
            .start(platform.clone(), options)
            .await
            .unwrap();
        if n == 0 {
            let kind = MeshKind::Open;
            node.trust().found(&key(99), FoundOptions { kind, name }).await.unwrap();
        }
        let mut state = node.mesh().watch_state();
        tokio::time::timeout(PATIENCE, state.wait_for(|s| s.listening))
            .await
            .unwrap()
            .unwrap();
        member(&node).await;
        nodes.push(node);
    }
    peers(&nodes[0], usize::from(count) - 1).await;
    nodes
}

pub(super) fn handle(node: &Node) -> PubSubHandle {
    node.handle::<PubSub>().unwrap()
}

pub(super) async fn publish(handle: &PubSubHandle, subject: &Subject, n: u32) -> Receipt {
    let sent = handle.publish(subject, n.to_be_bytes().to_vec(), PublishOptions::default());
    sent.await.unwrap()
}

/// Publishes until this node hands what it says on a subject to the members that want it. The number of the next message.
pub(super) async fn until_direct(handle: &PubSubHandle, subject: &Subject) -> u32 {
    for n in 0..1000 {
        let receipt = publish(handle, subject, n).await;
        if receipt.is_direct {
            return n + 1;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("it never went directly: {:?}", handle.direct_members());
}

pub(super) async fn next(subscription: &mut Subscription) -> u32 {
    let delivery = tokio::time::timeout(PATIENCE, subscription.next())
        .await
        .unwrap()
        .unwrap();
    let Delivery::Message(received) = delivery else {
        panic!("{delivery:?}")
    };
    u32::from_be_bytes(received.data().try_into().unwrap())
}

/// The first message, which may not be the very first one: that was perhaps made before the reader's time.
pub(super) async fn begin(subscription: &mut Subscription, first: u32) -> u32 {
    let n = next(subscription).await;
    assert!(n <= first, "{n} came before {first}");
    n
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_few_want_goes_to_them_alone_and_in_order_whichever_way_it_goes() {
    let nodes = mesh(3).await;
    let (publisher, subject) = (handle(&nodes[0]), "orders.eu".parse().unwrap());
    let mut wanted = handle(&nodes[1]).subscribe("orders.>".parse().unwrap(), None);
    let mut local = publisher.subscribe("orders.>".parse().unwrap(), None);
    let first = until_direct(&publisher, &subject).await;
    for n in first..first + 3000 {
        if n % 3 == 0 {
            publish(&publisher, &subject, n).await;
        } else {
            publisher
                .enqueue(&subject, n.to_be_bytes().to_vec(), PublishOptions::default())
                .await
                .unwrap();
        }
    }
    for n in 0..first + 3000 {
        assert_eq!(next(&mut local).await, n);
    }
    for n in begin(&mut wanted, first).await + 1..first + 3000 {
        assert_eq!(next(&mut wanted).await, n);
    }
    let members: Vec<PeerId> = publisher.direct_members().iter().map(|m| m.peer).collect();
    assert_eq!(members, [nodes[1].mesh().local_peer()]);
    assert!(
        handle(&nodes[2]).received() < u64::from(first),
        "only what went by gossip"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_does_not_read_is_waited_for_and_then_loses_its_own() {
    let nodes = mesh(2).await;
    let (publisher, reader) = (handle(&nodes[0]), handle(&nodes[1]));
    let subject = "orders.eu".parse().unwrap();
    let mut quick = reader.subscribe("orders.eu".parse().unwrap(), None);
    let first = until_direct(&publisher, &subject).await;
    while next(&mut quick).await + 1 < first {}
    let mut slow = reader.subscribe("orders.*".parse().unwrap(), None);
    let count = 2 * subscribers::SUBSCRIBER_QUEUE_MAX as u32;
    let reading = async {
        for n in first..first + count {
            assert_eq!(next(&mut quick).await, n);
        }
    };
    let writing = async {
        for n in first..first + count {
            let data = n.to_be_bytes().to_vec();
            publisher
                .enqueue(&subject, data, PublishOptions::default())
                .await
                .unwrap();
        }
    };
    tokio::join!(reading, writing);
    let (mut got, mut dropped) = (0, 0);
    // It hears of its loss also if nothing comes after it.
    while got + dropped < u64::from(count) {
        let delivery = tokio::time::timeout(PATIENCE, slow.next()).await.unwrap();
        match delivery.unwrap() {
            Delivery::Message(_) => got += 1,
            Delivery::Dropped(count) => dropped += count,
            loss => panic!("{loss:?}"),
        }
    }
    assert!(dropped > 0, "it was waited for without end");
    drop(nodes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_member_of_a_group_gets_each_message_and_a_key_stays_with_it() {
    let nodes = mesh(3).await;
    let publisher = handle(&nodes[0]);
    let pattern = || -> Pattern { "jobs.>".parse().unwrap() };
    let mut plain = handle(&nodes[2]).subscribe(pattern(), None);
    let mut members = Vec::new();
    for node in &nodes {
        for _ in 0..2 {
            members.push(
                handle(node)
                    .subscribe_in_group(pattern(), "workers", Some("customer"))
                    .unwrap(),
            );
        }
    }
    let subject: Subject = "jobs.new".parse().unwrap();
    let group_is_known = || publisher.group_members(&subject, "workers").len() == 3;
    eventually("all members are known", group_is_known).await;
    let first = until_direct(&publisher, &subject).await;
    // What went before everybody was known is not counted.
    while next(&mut plain).await + 1 < first {}
    for member in &mut members {
        while member.try_next().is_some() {}
    }
    for n in first..first + 300 {
        let options = PublishOptions {
            extensions: vec![("customer".to_owned(), format!("c{}", n % 40))],
            ..PublishOptions::default()
        };
        publisher
            .publish(&subject, n.to_be_bytes().to_vec(), options)
            .await
            .unwrap();
    }
    let mut places: BTreeMap<u32, usize> = BTreeMap::new();
    let mut got: Vec<u32> = Vec::new();
    eventually("each is taken by somebody", || {
        for (place, member) in members.iter_mut().enumerate() {
            while let Some(Delivery::Message(received)) = member.try_next() {
                let n = u32::from_be_bytes(received.data().try_into().unwrap());
                assert_eq!(*places.entry(n % 40).or_insert(place), place, "a key moved");
                got.push(n);
            }
        }
        got.len() >= 300
    })
    .await;
    got.sort_unstable();
    assert_eq!(got, (first..first + 300).collect::<Vec<u32>>());
    let used: std::collections::BTreeSet<usize> = places.values().copied().collect();
    assert!(used.len() >= 4, "forty keys are spread over six members: {used:?}");
    assert!(handle(&nodes[1]).subscribe_in_group(pattern(), "", None).is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_begins_to_want_it_gets_what_was_published_before_that_was_known() {
    let nodes = mesh(3).await;
    let (publisher, subject): (_, Subject) = (handle(&nodes[0]), "orders.eu".parse().unwrap());
    let _known = handle(&nodes[1]).subscribe("orders.>".parse().unwrap(), None);
    let first = until_direct(&publisher, &subject).await;
    // It wants it from now on, and nobody knows before its record has been here.
    let mut late = handle(&nodes[2]).subscribe("orders.*".parse().unwrap(), None);
    let mut n = first;
    while publisher.interested(&subject).len() < 2 {
        publish(&publisher, &subject, n).await;
        n += 1;
    }
    publish(&publisher, &subject, n).await;
    let begun = begin(&mut late, n).await;
    assert!(begun <= first, "{begun} of {first}");
    for expected in begun + 1..=n {
        assert_eq!(next(&mut late).await, expected);
    }
}

/// The numbers that a subscription is handed on one subject, and how many it is told that are lost, until one comes.
async fn until(subscription: &mut Subscription, subject: &Subject, last: u32) -> (Vec<u32>, u64) {
    let (mut got, mut lost) = (Vec::new(), 0);
    loop {
        match tokio::time::timeout(PATIENCE, subscription.next())
            .await
            .unwrap()
            .unwrap()
        {
            Delivery::Message(received) if received.subject() == subject => {
                got.push(u32::from_be_bytes(received.data().try_into().unwrap()));
                if got.last() == Some(&last) {
                    return (got, lost);
                }
            }
            Delivery::Message(_) => {}
            Delivery::Gap { first, last, .. } => lost += last - first + 1,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_has_later_ones_of_the_line_gets_what_it_began_to_want_or_hears_that_it_is_lost() {
    let nodes = mesh(3).await;
    let publisher = handle(&nodes[0]);
    let [eu, us]: [Subject; 2] = ["orders.eu", "orders.us"].map(|subject| subject.parse().unwrap());
    let _all = handle(&nodes[1]).subscribe("orders.>".parse().unwrap(), None);
    let mut here = handle(&nodes[2]).subscribe("orders.us".parse().unwrap(), None);
    let both = || publisher.interested(&us).len() == 2;
    eventually("both are known", both).await;
    let first = until_direct(&publisher, &us).await;
    publish(&publisher, &us, first).await;
    until(&mut here, &us, first).await;
    // From now on it wants the others as well. Until its record has been here it gets only what stands behind them.
    let mut late = handle(&nodes[2]).subscribe("orders.eu".parse().unwrap(), None);
    let mut both = handle(&nodes[2]).subscribe("orders.*".parse().unwrap(), None);
    assert_eq!(
        publisher.interested(&eu).len(),
        1,
        "the record was too quick for this test"
    );
    let mut n = 0;
    while n == 0 || publisher.interested(&eu).len() < 2 {
        publish(&publisher, &eu, n).await;
        publish(&publisher, &us, n).await;
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        n += 1;
    }
    publish(&publisher, &eu, n).await;
    let (got, lost) = until(&mut late, &eu, n).await;
    assert_eq!(
        (got, lost),
        ((0..=n).collect(), 0),
        "each once, in order, and nothing is missing"
    );
    // This one had later ones: what came late is out of its order, and it is told so.
    let (got, lost) = until(&mut both, &eu, n).await;
    assert!(got.is_sorted() && lost > 0, "{got:?}, {lost} lost");
    assert_eq!(got.len() as u64 + lost, u64::from(n) + 1);
    let everything = until(&mut here, &us, n - 1).await;
    assert_eq!(everything, ((0..n).collect(), 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_says_who_has_it_and_who_has_not() {
    let mut nodes = mesh(3).await;
    let (publisher, subject): (_, Subject) = (handle(&nodes[0]), "orders.eu".parse().unwrap());
    let nobody = publish(&publisher, &subject, 0).await;
    let report = publisher.report(&subject, &nobody, PATIENCE).await;
    assert_eq!((report.members.len(), report.here), (0, 0));
    let pattern: Pattern = "orders.>".parse().unwrap();
    let mut wanting = [&nodes[1], &nodes[2]].map(|node| handle(node).subscribe(pattern.clone(), None));
    let both = || publisher.interested(&subject).len() == 2;
    eventually("both are known", both).await;
    until_direct(&publisher, &subject).await;
    let receipt = publish(&publisher, &subject, 7).await;
    let report = publisher.report(&subject, &receipt, PATIENCE).await;
    assert_eq!((report.members.len(), report.missing().count()), (2, 0), "{report:?}");
    for subscription in &mut wanting {
        while next(subscription).await != 7 {}
    }
    let gone = nodes.pop().unwrap();
    let gone_peer = gone.mesh().local_peer();
    gone.stop().await;
    let standing = || {
        publisher
            .direct_members()
            .iter()
            .any(|m| m.peer == gone_peer && !m.is_open)
    };
    eventually("its stream is over", standing).await;
    let receipt = publish(&publisher, &subject, 8).await;
    let within = std::time::Duration::from_millis(300);
    let report = publisher.report(&subject, &receipt, within).await;
    let missing: Vec<_> = report.missing().copied().collect();
    assert_eq!(missing, [(gone_peer, Outcome::Unreachable)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_very_many_want_goes_by_gossip_in_the_order_in_which_it_was_said() {
    let nodes = mesh(18).await;
    let (publisher, subject) = (handle(&nodes[0]), "orders.eu".parse().unwrap());
    let pattern: Pattern = "orders.>".parse().unwrap();
    let mut wanted: Vec<_> = nodes[1..]
        .iter()
        .map(|node| handle(node).subscribe(pattern.clone(), None))
        .collect();
    let mut n = 0;
    // While records are on their way it goes to few directly; then these are too many.
    while publisher.interested(&subject).len() < 17 {
        publish(&publisher, &subject, n).await;
        n += 1;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for _ in 0..100 {
        publish(&publisher, &subject, n).await;
        n += 1;
    }
    for (index, wanted) in wanted.iter_mut().enumerate() {
        let mut last = next(wanted).await;
        while last + 1 < n {
            let following = next(wanted).await;
            assert_eq!(following, last + 1, "at node {}", index + 1);
            last = following;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_handed_in_together_is_dealt_out_in_a_group() {
    let nodes = mesh(3).await;
    let publisher = handle(&nodes[0]);
    let pattern = || -> Pattern { "jobs.>".parse().unwrap() };
    let group = |node: &Node, name: &str| handle(node).subscribe_in_group(pattern(), name, None).unwrap();
    let mut members = [group(&nodes[1], "workers"), group(&nodes[2], "workers")];
    // As many groups as a publication has picks for, with the longest names.
    let names = (0..limits::PICKS_MAX - 1).map(|n| format!("{n:0>width$}", width = limits::GROUP_BYTES_MAX));
    let others: Vec<_> = names
        .flat_map(|name| [group(&nodes[1], &name), group(&nodes[2], &name)])
        .collect();
    let subject: Subject = "jobs.new".parse().unwrap();
    let are_known = || {
        let last = format!("{:0>width$}", limits::PICKS_MAX - 2, width = limits::GROUP_BYTES_MAX);
        ["workers", &last]
            .iter()
            .all(|name| publisher.group_members(&subject, name).len() == 2)
    };
    eventually("all members are known", are_known).await;
    let first = until_direct(&publisher, &subject).await;
    let all: Vec<Bytes> = (first..first + 1000).map(|n| n.to_be_bytes().to_vec().into()).collect();
    let queued = publisher
        .enqueue_all(&subject, all, PublishOptions::default())
        .await
        .unwrap();
    assert!(queued.receipt().await.unwrap().is_direct);
    let mut got = [Vec::new(), Vec::new()];
    eventually("each is taken by somebody", || {
        for (member, got) in members.iter_mut().zip(&mut got) {
            while let Some(Delivery::Message(received)) = member.try_next() {
                got.push(u32::from_be_bytes(received.data().try_into().unwrap()));
            }
            got.retain(|n| *n >= first);
        }
        got.iter().map(Vec::len).sum::<usize>() >= 1000
    })
    .await;
    for got in &got {
        assert!(
            got.is_sorted() && (400..=600).contains(&got.len()),
            "{} of 1000",
            got.len()
        );
    }
    let mut both = got.concat();
    both.sort_unstable();
    assert_eq!(both, (first..first + 1000).collect::<Vec<u32>>(), "each once");
    drop(others);
}

/// What gossip lost is fetched by who is asked to have followed so far, before anything else is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_publisher_waits_for_and_gossip_did_not_bring_is_fetched() {
    let nodes = mesh(2).await;
    let (hub, data) = (handle(&nodes[1]).hub, b"lost".as_slice());
    let subject: Subject = "orders.eu".parse().unwrap();
    let shard = subject.shard(SHARDS);
    let mut wanted = handle(&nodes[0]).subscribe("orders.>".parse().unwrap(), None);
    let frame = Frame {
        epoch: hub.epoch,
        shard,
        first_seq: 1,
        before_ms: 0,
        runs: vec![Run {
            attributes: Cow::Owned(Attributes::new(subject)),
            data: vec![data],
        }],
    };
    // As if gossip had taken it.
    hub.went_out(&frame, &frame.to_bytes(), 1);
    repair::await_members(&hub, vec![nodes[0].mesh().local_peer()], shard, 1).await;
    let line = hub.own_line(shard).unwrap();
    assert_eq!(handle(&nodes[0]).hub.followed(&line), Some(1));
    let delivery = tokio::time::timeout(PATIENCE, wanted.next()).await.unwrap();
    assert!(matches!(delivery, Some(Delivery::Message(message)) if message.data() == data));
}
