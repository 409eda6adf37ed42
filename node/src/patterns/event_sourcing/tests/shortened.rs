//! Groups whose logs do not begin with the group any more.

use std::time::Duration;

use weft_protocol::{
    consensus::GroupId,
    patterns::event_sourcing::{
        Producer,
        consumer::{ConsumerOptions, ConsumerReply, ConsumerRequest, Order, Settlement},
    },
};

use super::{
    copies::{Mesh, event_with_id, ids, name, numbered, three},
    *,
};
use crate::{patterns::event_sourcing::transfer, store::Log, testing::PATIENCE};

const SEGMENT_BYTES: u64 = 64 << 10;
const EVENT_BYTES: usize = 4 << 10;

fn large(id: u64) -> Event {
    Event {
        data: vec![id as u8; EVENT_BYTES],
        ..event_with_id(id)
    }
}

pub(super) async fn append_large(mesh: &Mesh, at: usize, to: &Subject, ids: std::ops::Range<u64>) {
    for id in ids {
        let appended = mesh.at(at).append(to, append_of(vec![large(id)])).await.unwrap();
        assert_eq!(appended.last, id + 1);
    }
}

pub(super) async fn group_of(mesh: &Mesh, at: usize, name: &Subject) -> GroupId {
    let info = mesh.at(at).info(name).await.unwrap();
    info.figures.unwrap().copies.unwrap().group
}

pub(super) async fn log_of(mesh: &Mesh, number: usize, group: GroupId) -> Log {
    let node = mesh.places[number].1.as_ref().unwrap();
    node.store().log(&format!("group.{group}")).await.unwrap()
}

pub(super) async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting)
        .await
        .unwrap_or_else(|_| panic!("{what}"));
}

/// Waits until a member's log of the group is short.
pub(super) async fn shortened(mesh: &Mesh, number: usize, group: GroupId) {
    until("the log of a group is not shortened", async || {
        let log = log_of(mesh, number, group).await;
        log.first_seq() > 0 && log.segments().len() <= 3
    })
    .await;
}

/// Waits until a node's copy has this version, and checks it from end to end.
async fn whole(mesh: &Mesh, number: usize, group: GroupId, name: &Subject, version: u64) -> String {
    let streams = Arc::clone(&mesh.at(number).streams);
    until("a copy does not catch up", async || {
        streams
            .copy(group, name)
            .await
            .is_ok_and(|opened| opened.stream.version() >= version)
    })
    .await;
    let opened = streams.copy(group, name).await.unwrap();
    let trust = mesh.places[number].1.as_ref().unwrap().trust().clone();
    let verified = transfer::verify(&trust, &opened.stream).await.unwrap();
    // The name of who says it, the time and the signature are each one's own.
    verified
        .checkpoint
        .lines()
        .skip(1)
        .take(2)
        .collect::<Vec<_>>()
        .join("\n")
}

fn another(than: &[usize], of: usize) -> usize {
    (0..of).find(|number| !than.contains(number)).unwrap()
}

#[tokio::test]
async fn who_was_away_for_long_gets_what_it_lacks() {
    let mut mesh = Mesh::with_segments(3, SEGMENT_BYTES).await;
    let (orders, gone, made) = (name("orders"), name("gone"), name("made"));
    mesh.at(0).create(&orders, three()).await.unwrap();
    mesh.at(0).create(&gone, three()).await.unwrap();
    append_large(&mesh, 0, &orders, 0..10).await;
    append_large(&mesh, 0, &gone, 0..3).await;
    let group = group_of(&mesh, 0, &orders).await;
    let away = another(&[0, mesh.leader(&mesh.at(0), &orders).await], 3);
    whole(&mesh, away, group, &orders, 10).await;
    mesh.stop(away).await;
    append_large(&mesh, 0, &orders, 10..200).await;
    mesh.at(0).delete(&gone).await.unwrap();
    mesh.at(0).create(&made, three()).await.unwrap();
    // One append of several events, so that a page of records ends within it.
    for batch in 0..30 {
        let events = (0..7).map(|at| large(batch * 7 + at)).collect();
        mesh.at(0).append(&made, append_of(events)).await.unwrap();
    }
    let leader = mesh.leader(&mesh.at(0), &orders).await;
    shortened(&mesh, leader, group).await;
    mesh.start(away).await;
    let roots = [
        whole(&mesh, away, group, &orders, 200).await,
        whole(&mesh, away, group, &made, 210).await,
    ];
    assert_eq!(roots[0], whole(&mesh, leader, group, &orders, 200).await);
    assert_eq!(roots[1], whole(&mesh, leader, group, &made, 210).await);
    until("a stream that was deleted stays", async || {
        mesh.at(away).streams.copy(group, &gone).await.is_err()
    })
    .await;
    // It counts again: with it and one of the others the group goes on.
    let stopped = another(&[away, 0], 3);
    mesh.stop(stopped).await;
    let again = mesh.at(away).append(&orders, append_of(vec![large(50)])).await.unwrap();
    assert_eq!((again.last, again.is_duplicate), (51, true));
    append_large(&mesh, away, &orders, 200..260).await;
    assert_eq!(ids(&mesh.at(away), &orders).await, numbered(0..260));
    // And after a restart, when its log begins later, too.
    shortened(&mesh, away, group).await;
    mesh.stop(away).await;
    mesh.start(away).await;
    mesh.start(stopped).await;
    append_large(&mesh, away, &orders, 260..262).await;
    for number in 0..3 {
        whole(&mesh, number, group, &orders, 262).await;
    }
}

#[tokio::test]
async fn a_new_copy_begins_where_the_others_do() {
    let mut mesh = Mesh::with_segments(4, SEGMENT_BYTES).await;
    let jobs = name("jobs");
    let few = StreamOptions {
        retain_records: Some(40),
        ..three()
    };
    mesh.at(0).create(&jobs, few).await.unwrap();
    let numbered_by_till = |sequence: u64| Append {
        producer: Some(Producer {
            id: "till".into(),
            sequence,
        }),
        ..append_of(vec![Event {
            data: vec![7; EVENT_BYTES],
            ..event("k", &["n=1"], "")
        }])
    };
    let options = ConsumerOptions {
        from: From::Position(1),
        query: Query::default(),
        ack_wait_ms: 30_000,
        deliver_max: None,
        backoff_ms: Vec::new(),
        pending_max: 64,
        order: Order::Any,
        is_acked: true,
        idle_ms: None,
        is_upcast: None,
    };
    let add = ConsumerRequest::Add {
        name: "workers".into(),
        options,
    };
    mesh.at(0).consumer(&jobs, add).await.unwrap();
    for sequence in 1..=20 {
        mesh.at(0).append(&jobs, numbered_by_till(sequence)).await.unwrap();
    }
    append_large_behind(&mesh, &jobs, 20, 800).await;
    let next = ConsumerRequest::Next {
        name: "workers".into(),
        count: 5,
        wait_ms: 10_000,
    };
    let ConsumerReply::Handed(handed) = mesh.at(0).consumer(&jobs, next.clone()).await.unwrap() else {
        panic!()
    };
    let settled = handed
        .iter()
        .map(|one| weft_protocol::patterns::event_sourcing::consumer::Handed {
            position: one.record.position,
            delivery: one.delivery,
        });
    let settle = ConsumerRequest::Settle {
        name: "workers".into(),
        handed: settled.collect(),
        settlement: Settlement::Dead { reason: "no".into() },
    };
    mesh.at(0).consumer(&jobs, settle).await.unwrap();
    let group = group_of(&mesh, 0, &jobs).await;
    let outside = (0..4).find(|number| !mesh.has_copy(*number, &jobs)).unwrap();
    for number in (0..4).filter(|number| *number != outside) {
        let streams = Arc::clone(&mesh.at(number).streams);
        shortened(&mesh, number, group).await;
        let stream = streams.copy(group, &jobs).await.unwrap().stream;
        until("the index is not written", async || {
            stream.write_block().await.is_ok_and(|more| !more)
        })
        .await;
        stream.retain().await.unwrap();
        assert!(stream.log.first_seq() > 500, "{}", stream.log.first_seq());
    }
    let leader = mesh.leader(&mesh.at(outside), &jobs).await;
    let leaving = another(&[leader, outside], 4);
    mesh.at(leader)
        .replace_copy(&jobs, &mesh.peer(leaving), Some(&mesh.peer(outside)))
        .await
        .unwrap();
    until("the copy is not given away", async || {
        mesh.has_copy(outside, &jobs) && !mesh.has_copy(leaving, &jobs)
    })
    .await;
    let root = whole(&mesh, outside, group, &jobs, 820).await;
    assert_eq!(root, whole(&mesh, leader, group, &jobs, 820).await);
    let stream = mesh.at(outside).streams.copy(group, &jobs).await.unwrap().stream;
    assert!(stream.log.first_seq() > 500, "{}", stream.log.first_seq());
    // What it decides now is decided upon records that it never had.
    let other = another(&[leader, outside, leaving], 4);
    mesh.stop(leader).await;
    let again = mesh.at(outside).append(&jobs, numbered_by_till(20)).await.unwrap();
    assert!(again.is_duplicate);
    let again = mesh.at(outside).append(&jobs, append_of(vec![large(3)])).await.unwrap();
    assert_eq!((again.last, again.is_duplicate), (24, true));
    let gap = mesh.at(outside).append(&jobs, numbered_by_till(22)).await.unwrap_err();
    assert!(gap.to_string().contains("21"), "{gap}");
    mesh.at(outside).append(&jobs, numbered_by_till(21)).await.unwrap();
    for number in [outside, other] {
        whole(&mesh, number, group, &jobs, 821).await;
    }
    let ConsumerReply::Handed(next) = mesh.at(outside).consumer(&jobs, next).await.unwrap() else {
        panic!()
    };
    assert!(next[0].record.position > handed.last().unwrap().record.position);
    let dead = ConsumerRequest::DeadLetters {
        name: "workers".into(),
        after: 0,
        count: 10,
    };
    let ConsumerReply::Dead(dead) = mesh.at(outside).consumer(&jobs, dead).await.unwrap() else {
        panic!()
    };
    assert_eq!(dead.len(), 5);
}

/// Events with the ids 0 to `count`, behind `before` others.
async fn append_large_behind(mesh: &Mesh, to: &Subject, before: u64, count: u64) {
    for first in (0..count).step_by(4) {
        let events = (first..first + 4).map(large).collect();
        let appended = mesh.at(0).append(to, append_of(events)).await.unwrap();
        assert_eq!(appended.first, before + first + 1);
    }
}

#[tokio::test]
async fn entries_of_a_stream_are_made_the_same() {
    use crate::patterns::event_sourcing::shelf::Kind;
    let place = Place::new();
    let store = place.store().await.unwrap();
    let shelf = Shelf::new(store.keyspace("event_sourcing"));
    let pair = |key: u64, value: &str| (key.to_be_bytes().to_vec(), value.as_bytes().to_vec());
    let all = async |number| {
        let (mut all, mut after) = (Vec::new(), None::<Vec<u8>>);
        loop {
            let (page, is_all) = shelf.pairs(number, Kind::Ids, after.as_deref(), 64).await.unwrap();
            after = page.last().map(|(last, _)| last.clone()).or(after);
            all.extend(page);
            if is_all {
                return all;
            }
        }
    };
    let theirs: Vec<_> = (0..2500).map(|key| pair(key * 2, "theirs")).collect();
    shelf.mirror(1, Kind::Ids, None, theirs.clone(), true).await.unwrap();
    assert_eq!(all(1).await, theirs);
    // What is here is partly of another time, and of another stream.
    let ours: Vec<_> = (0..4000).map(|key| pair(key * 3, "ours")).collect();
    for number in [2, 3] {
        shelf.mirror(number, Kind::Ids, None, ours.clone(), true).await.unwrap();
    }
    let mut after = None::<Vec<u8>>;
    loop {
        let (page, is_all) = shelf.pairs(1, Kind::Ids, after.as_deref(), 10_000).await.unwrap();
        let last = page.last().map(|(last, _)| last.clone());
        shelf
            .mirror(2, Kind::Ids, after.as_deref(), page, is_all)
            .await
            .unwrap();
        after = last.or(after);
        if is_all {
            break;
        }
    }
    assert_eq!(all(2).await, theirs);
    assert_eq!(all(3).await, ours);
    shelf.mirror(2, Kind::Ids, None, Vec::new(), true).await.unwrap();
    assert!(all(2).await.is_empty());
}
