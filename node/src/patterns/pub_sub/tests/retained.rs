//! Last values that are kept for those who come later, between real nodes.

use weft_protocol::Subject;

use super::{
    super::{retained::Retained, *},
    direct::{handle, mesh},
};
use crate::{
    node::Node,
    testing::{address, eventually, member, mesh_config, peers, start},
};

async fn retain(handle: &PubSubHandle, subject: &str, data: &str) {
    let options = PublishOptions {
        retain: true,
        ..PublishOptions::default()
    };
    let subject: Subject = subject.parse().unwrap();
    handle.publish(&subject, data.to_owned(), options).await.unwrap();
}

/// Waits until what is said on doors goes to a neighbour. The calendar of these nodes stands, so nobody would miss what gossip does not bring.
async fn until_gossip(node: &Node) {
    let (doors, mesh_id): (Subject, _) = ("doors".parse().unwrap(), handle(node).hub.mesh_id().unwrap());
    let shard = topic(&mesh_id, doors.shard(SHARDS));
    while node.mesh().gossip_neighbours(shard.clone()).await.unwrap().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

async fn last(handle: &PubSubHandle, pattern: &str) -> Vec<String> {
    let mut subscription = handle.subscribe_with(pattern.parse().unwrap(), Past::LastOfEach).await;
    let mut told = Vec::new();
    while let Some(Delivery::Message(received)) = subscription.try_next() {
        told.push(format!(
            "{} {}",
            received.subject(),
            String::from_utf8_lossy(received.data())
        ));
    }
    told.sort();
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retained_value_is_told_by_whoever_heard_it_until_it_is_taken_back() {
    let nodes = mesh(2).await;
    let publisher = handle(&nodes[0]);
    // Somebody who wants it directly changes nothing: it is for those who come later, so everybody gets it.
    let mut wanted = handle(&nodes[1]).subscribe("doors.>".parse().unwrap(), None);
    until_gossip(&nodes[0]).await;
    for (subject, data) in [
        ("doors.front", "open"),
        ("doors.back", "shut"),
        ("doors.front", "shut"),
        ("doors.side", "open"),
    ] {
        retain(&publisher, subject, data).await;
    }
    for _ in 0..4 {
        assert!(matches!(wanted.next().await, Some(Delivery::Message(_))));
    }
    let both = ["doors.back shut", "doors.front shut", "doors.side open"];
    assert_eq!(last(&publisher, "doors.*").await, both);
    assert_eq!(last(&handle(&nodes[1]), "doors.*").await, both);
    retain(&publisher, "doors.side", "").await;
    assert!(matches!(wanted.next().await, Some(Delivery::Message(_))));
    assert_eq!(last(&publisher, "doors.*").await, both[..2]);
    // Who comes later and has never met its publisher.
    let late = start(
        Node::builder().pattern(PubSub),
        9,
        mesh_config("n0", vec![address(&nodes[1])], "tcp"),
        None,
    )
    .await;
    member(&late).await;
    peers(&late, 1).await;
    assert_eq!(last(&handle(&late), "doors.>").await, both[..2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retained_values_are_on_the_disk_of_who_published_and_of_who_heard() {
    let nodes = mesh(2).await;
    let publisher = handle(&nodes[0]);
    until_gossip(&nodes[0]).await;
    retain(&publisher, "doors.front", "open").await;
    let other = handle(&nodes[1]);
    let doors = "doors.>".parse().unwrap();
    let retained = |handle: &PubSubHandle| handle.hub.lock().retained.matching(&doors).count();
    eventually("the other has heard it", || retained(&other) == 1).await;
    // The publisher's is there already; the other writes it a moment later.
    other.keeper.write().await.unwrap();
    for handle in [&publisher, &other] {
        begin_anew(handle).await;
        assert_eq!(retained(handle), 1);
    }
    // What takes it back is there as well, and nothing is left to be told.
    retain(&publisher, "doors.front", "").await;
    begin_anew(&publisher).await;
    assert_eq!(last(&publisher, "doors.>").await, [""; 0]);
}

/// As after a restart.
async fn begin_anew(handle: &PubSubHandle) {
    handle.hub.lock().retained = Retained::default();
    handle.keeper.read().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_is_later_than_the_one_before_whatever_calendars_say_and_has_a_frame_of_its_own() {
    let nodes = mesh(1).await;
    let publisher = handle(&nodes[0]);
    // The calendar stands, and they are handed in together.
    let mut queued = Vec::new();
    for n in 0..20 {
        let options = PublishOptions {
            retain: true,
            ..PublishOptions::default()
        };
        let subject: Subject = format!("doors.{}", n % 10).parse().unwrap();
        queued.push(publisher.enqueue(&subject, n.to_string(), options).await.unwrap());
    }
    for queued in queued {
        queued.receipt().await.unwrap();
    }
    let expected: Vec<String> = (0..10).map(|n| format!("doors.{n} {}", n + 10)).collect();
    assert_eq!(last(&publisher, "doors.*").await, expected);
    let frames: std::collections::BTreeSet<u64> = {
        let hub = publisher.hub.lock();
        hub.retained
            .matching(&"doors.*".parse().unwrap())
            .map(|kept| kept.first_seq())
            .collect()
    };
    assert_eq!(frames.len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_refuses_to_retain_more_than_it_may() {
    let nodes = mesh(1).await;
    let publisher = handle(&nodes[0]);
    let large = "x".repeat(900_000);
    for n in 0..4 {
        retain(&publisher, &format!("large.{n}"), &large).await;
    }
    let options = || PublishOptions {
        retain: true,
        ..PublishOptions::default()
    };
    let more: Subject = "large.4".parse().unwrap();
    let refused = publisher.publish(&more, large.clone(), options()).await.unwrap_err();
    assert!(matches!(refused, PublishError::Busy(_)), "{refused}");
    retain(&publisher, "large.0", "").await;
    publisher.publish(&more, large, options()).await.unwrap();
    assert_eq!(last(&publisher, "large.*").await.len(), 4);
}
