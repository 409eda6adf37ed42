//! Schedules of nodes, over streams of theirs and of others.

use std::time::Duration;

use serde_json::json;
use weft_protocol::patterns::event_sourcing::{Event, From, ReadRequest};

use super::*;
use crate::{
    error::{ErrorKind, Kind as _},
    node::Node,
    patterns::event_sourcing::{EventSourcing, EventSourcingHandle, Read, Recorded, StreamOptions},
    testing::{PATIENCE, TestPlatform, member, mesh_config, start_on},
    trust::MeshKind,
};

async fn node(seed: u8) -> (std::sync::Arc<TestPlatform>, Node) {
    let platform = TestPlatform::going_on();
    let node = start(&platform, seed, true).await;
    (platform, node)
}

async fn start(platform: &std::sync::Arc<TestPlatform>, seed: u8, is_new: bool) -> Node {
    let builder = Node::builder().pattern(EventSourcing).pattern(Schedules);
    let config = mesh_config(&format!("node-{seed}"), Vec::new(), "tcp");
    let found = is_new.then_some(MeshKind::Open);
    let node = start_on(std::sync::Arc::clone(platform), builder, seed, config, found).await;
    member(&node).await;
    node
}

fn handles(node: &Node) -> (EventSourcingHandle, SchedulesHandle) {
    (
        node.handle::<EventSourcing>().unwrap(),
        node.handle::<Schedules>().unwrap(),
    )
}

fn options(when: When) -> ScheduleOptions {
    ScheduleOptions {
        stream: "orders".parse().unwrap(),
        when,
        event: Event::new("due", "x"),
    }
}

async fn recorded(streams: &EventSourcingHandle) -> Vec<Recorded> {
    let request = ReadRequest::from(From::Position(1));
    let (mut reading, mut all) = (
        streams.read(&"orders".parse().unwrap(), request).await.unwrap(),
        Vec::new(),
    );
    while let Some(read) = reading.next().await.unwrap() {
        if let Read::Records(records) = read {
            all.extend(records);
        }
    }
    all
}

async fn wait_recorded(streams: &EventSourcingHandle, count: usize) -> Vec<Recorded> {
    let wait = async {
        loop {
            let all = recorded(streams).await;
            if all.len() >= count {
                return all;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap()
}

#[tokio::test]
async fn what_is_due_is_appended_once_and_not_before() {
    let (platform, node_1) = node(1).await;
    let (streams, schedules) = handles(&node_1);
    let now_ms = schedules.now_ms();
    // Due before there is a stream: it waits for it.
    let name = schedules
        .define_nameless(options(When::Once(now_ms + 100)))
        .await
        .unwrap();
    assert!(
        schedules
            .define("later", options(When::Once(now_ms + 3_600_000)))
            .await
            .unwrap()
    );
    assert!(
        !schedules
            .define("later", options(When::Once(now_ms + 3_600_000)))
            .await
            .unwrap()
    );
    let other = schedules.define("later", options(When::Once(now_ms + 7_200_000))).await;
    assert!(matches!(other, Err(ScheduleError::Exists(_))));
    let trouble = async {
        while schedules.info(&name).await.unwrap().trouble.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, trouble).await.unwrap();
    streams
        .create(&"orders".parse().unwrap(), StreamOptions::default())
        .await
        .unwrap();
    let all = wait_recorded(&streams, 1).await;
    assert_eq!((all.len(), all[0].record.event.time_ms), (1, Some(now_ms + 100)));
    let gone = async {
        while schedules.info(&name).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.unwrap();
    // What waits outlives the node, and its time may come while it is away.
    node_1.stop().await;
    platform.clock.advance(Duration::from_secs(3600));
    let node_1 = start(&platform, 1, false).await;
    let (streams, schedules) = handles(&node_1);
    let all = wait_recorded(&streams, 2).await;
    assert_eq!((all.len(), all[1].record.event.time_ms), (2, Some(now_ms + 3_600_000)));
    assert!(all[1].record.event.id.as_ref().unwrap().starts_with("later@"));
    assert_eq!(schedules.page(None).await.unwrap().len(), 0);
    node_1.stop().await;
}

#[tokio::test]
async fn again_and_again_and_after_a_long_while_once() {
    let (platform, node_2) = node(2).await;
    let (streams, schedules) = handles(&node_2);
    streams
        .create(&"orders".parse().unwrap(), StreamOptions::default())
        .await
        .unwrap();
    schedules.define("tick", options(When::Every(60_000))).await.unwrap();
    let due_ms = schedules.info("tick").await.unwrap().due_ms.unwrap();
    node_2.stop().await;
    platform.clock.advance(Duration::from_secs(60 * 10));
    let node_2 = start(&platform, 2, false).await;
    let (streams, schedules) = handles(&node_2);
    let all = wait_recorded(&streams, 1).await;
    let left_out = (all[0].record.event.time_ms.unwrap() - due_ms) / 60_000;
    assert!(left_out >= 8, "{left_out}");
    let noted = async {
        loop {
            let one = schedules.info("tick").await.unwrap();
            if one.done == 1 {
                return one;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let one = tokio::time::timeout(PATIENCE, noted).await.unwrap();
    assert_eq!((one.left_out, one.failed), (left_out, 0));
    assert_eq!(one.due_ms, Some(due_ms + (left_out + 1) * 60_000));
    assert_eq!(
        all[0].record.event.extensions,
        [("schedule".to_owned(), "tick".to_owned())]
    );
    schedules.remove("tick").await.unwrap();
    assert_eq!(schedules.remove("tick").await.unwrap_err().kind(), ErrorKind::NotFound);
    node_2.stop().await;
}

#[tokio::test]
async fn what_can_never_be_appended_is_said() {
    let (_, node_3) = node(3).await;
    let (streams, schedules) = handles(&node_3);
    streams
        .create(&"orders".parse().unwrap(), StreamOptions::default())
        .await
        .unwrap();
    let taken = |data: &str| Event {
        id: Some("a".to_owned()),
        ..Event::new("due", data)
    };
    let first = ScheduleOptions {
        event: taken("1"),
        ..options(When::Once(1))
    };
    schedules.define("first", first).await.unwrap();
    wait_recorded(&streams, 1).await;
    let second = ScheduleOptions {
        event: taken("2"),
        ..options(When::Once(1))
    };
    schedules.define("second", second).await.unwrap();
    let failed = async {
        loop {
            let one = schedules.info("second").await.unwrap();
            if one.failed == 1 {
                return one;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let one = tokio::time::timeout(PATIENCE, failed).await.unwrap();
    assert_eq!(one.due_ms, None);
    assert!(one.trouble.unwrap().contains("another event with the id"));
    assert_eq!(recorded(&streams).await.len(), 1);
    for wrong in [
        options(When::Every(1)),
        options(When::Cron("soon".to_owned())),
        options(When::Cron("0 0 30 2 *".to_owned())),
        ScheduleOptions {
            event: taken("3"),
            ..options(When::Every(5000))
        },
        ScheduleOptions {
            event: Event::new("", json!({}).to_string()),
            ..options(When::Once(1))
        },
    ] {
        let error = schedules.define("wrong", wrong.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{wrong:?}: {error}");
    }
    assert_eq!(
        schedules
            .define("a/b", options(When::Once(1)))
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Invalid
    );
    node_3.stop().await;
}
