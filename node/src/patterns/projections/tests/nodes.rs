//! Projections of nodes, over streams of theirs and of others.

use std::time::Duration;

use weft_protocol::patterns::event_sourcing::Append;

use super::*;
use crate::{
    error::{ErrorKind, Kind as _},
    node::Node,
    patterns::{
        event_sourcing::{EventSourcing, EventSourcingHandle, StreamOptions},
        projections::{Change, Moment, ProjectionError, ProjectionOptions, Projections, ProjectionsHandle, State},
    },
    testing::{PATIENCE, address, member, mesh_config, peers, start},
    trust::MeshKind,
};

async fn node(seed: u8, bootstrap: Option<&Node>) -> Node {
    let others = bootstrap.map(address).into_iter().collect();
    let found = bootstrap.is_none().then_some(MeshKind::Open);
    let builder = Node::builder().pattern(EventSourcing).pattern(Projections);
    let node = start(
        builder,
        seed,
        mesh_config(&format!("node-{seed}"), others, "tcp"),
        found,
    )
    .await;
    member(&node).await;
    node
}

fn handles(node: &Node) -> (EventSourcingHandle, ProjectionsHandle) {
    (
        node.handle::<EventSourcing>().unwrap(),
        node.handle::<Projections>().unwrap(),
    )
}

fn options(sql: &str) -> ProjectionOptions {
    ProjectionOptions {
        sql: sql.to_owned(),
        snapshot_every: None,
        snapshots_kept: None,
    }
}

async fn append(streams: &EventSourcingHandle, numbers: std::ops::RangeInclusive<u64>) {
    for chunk in numbers.collect::<Vec<_>>().chunks(50) {
        let append = Append {
            events: chunk.iter().map(|number| event(*number)).collect(),
            ..Append::default()
        };
        streams.append(&"orders".parse().unwrap(), append).await.unwrap();
    }
}

async fn rows_at(projections: &ProjectionsHandle, at: Option<Moment>) -> Vec<Map<String, Value>> {
    let (mut all, mut after) = (Vec::new(), None::<Vec<u8>>);
    loop {
        let page = projections.rows("totals", &[], after.as_deref(), at, 5).await.unwrap();
        all.extend(page.rows);
        match page.next {
            Some(next) => after = Some(next),
            None => return all,
        }
    }
}

fn expected(upto: u64) -> Vec<Map<String, Value>> {
    model(TOTALS, (1..=upto).map(|number| (number, event(number))))
}

#[tokio::test]
async fn a_projection_follows_a_stream_of_another_node() {
    let a = node(1, None).await;
    let b = node(2, Some(&a)).await;
    peers(&b, 1).await;
    let ((of_a, _), (_, projections)) = (handles(&a), handles(&b));
    // It is defined before there is anything to read, and waits.
    assert!(projections.define("totals", options(TOTALS)).await.unwrap());
    assert!(!projections.define("totals", options(TOTALS)).await.unwrap());
    let other = projections
        .define("totals", options("SELECT count(*) FROM orders"))
        .await;
    assert!(matches!(other, Err(ProjectionError::Exists(_))));
    assert_eq!(projections.rows("totals", &[], None, None, 10).await.unwrap().rows, []);
    of_a.create(&"orders".parse().unwrap(), StreamOptions::default())
        .await
        .unwrap();
    append(&of_a, 1..=700).await;
    projections.wait_for("totals", 700, PATIENCE).await.unwrap();
    assert_eq!(rows_at(&projections, None).await, expected(700));
    let one = projections
        .rows("totals", &[json!("c3")], None, None, 10)
        .await
        .unwrap();
    assert_eq!(one.rows.len(), 1);
    assert_eq!(one.rows[0]["customer"], "c3");
    let info = projections.info("totals").await.unwrap();
    assert_eq!((info.state, info.position, info.version), (State::Live, 700, Some(700)));
    assert_eq!((info.groups, info.taken, info.missed, info.misfits), (13, 560, 0, 0));
    // What is not there yet is waited for in vain.
    let late = projections
        .wait_for("totals", 701, Duration::from_millis(50))
        .await
        .unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Timeout, "{late}");
    projections.remove("totals").await.unwrap();
    assert_eq!(
        projections.info("totals").await.unwrap_err().kind(),
        ErrorKind::NotFound
    );
    a.stop().await;
    b.stop().await;
}

#[tokio::test]
async fn the_past_and_what_has_changed_since() {
    let a = node(3, None).await;
    let (streams, projections) = handles(&a);
    let orders = "orders".parse().unwrap();
    streams.create(&orders, StreamOptions::default()).await.unwrap();
    let with_snapshots = ProjectionOptions {
        snapshot_every: Some(100),
        snapshots_kept: Some(2),
        ..options(TOTALS)
    };
    projections.define("totals", with_snapshots).await.unwrap();
    append(&streams, 1..=300).await;
    projections.wait_for("totals", 300, PATIENCE).await.unwrap();
    let by_hand = projections.snapshot("totals").await.unwrap();
    assert_eq!(
        (by_hand.position, by_hand.groups, by_hand.is_asked_for),
        (300, 13, true)
    );
    for upto in [400, 500] {
        append(&streams, upto - 99..=upto).await;
        projections.wait_for("totals", upto, PATIENCE).await.unwrap();
    }
    let snapshots = projections.snapshots("totals").await.unwrap();
    assert!(snapshots.iter().any(|one| one.is_asked_for && one.position == 300));
    assert_eq!(
        snapshots.iter().filter(|one| !one.is_asked_for).count(),
        2,
        "{snapshots:?}"
    );
    for position in [0, 1, 99, 299, 300, 301, 450, 500] {
        let at = Some(Moment::Position(position));
        assert_eq!(rows_at(&projections, at).await, expected(position), "at {position}");
    }
    let beyond = projections
        .rows("totals", &[], None, Some(Moment::Position(501)), 10)
        .await;
    assert!(matches!(beyond, Err(ProjectionError::Forgotten { at: 501, .. })));
    // Before anything was recorded there was nothing; a day later there will be what there is.
    assert_eq!(rows_at(&projections, Some(Moment::Time(1))).await, expected(0));
    assert_eq!(
        rows_at(&projections, Some(Moment::Time(u64::MAX - 1))).await,
        expected(500)
    );
    let (from, to, changes) = projections
        .difference("totals", Moment::Position(290), Moment::Position(293))
        .await
        .unwrap();
    assert_eq!((from, to), (290, 293));
    let before = expected(290);
    let changed: Vec<Change> = expected(293)
        .into_iter()
        .zip(before)
        .filter(|(after, before)| after != before)
        .map(|(after, before)| Change {
            before: Some(before),
            after: Some(after),
        })
        .collect();
    assert_eq!(changes, changed);
    assert_eq!(changes.len(), 3);
    let back = projections
        .difference("totals", Moment::Position(2), Moment::Position(1))
        .await;
    assert!(matches!(back, Err(ProjectionError::Invalid(_))));
    projections.remove_snapshot("totals", 300).await.unwrap();
    let again = projections.remove_snapshot("totals", 300).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::NotFound);
    assert_eq!(rows_at(&projections, Some(Moment::Position(305))).await, expected(305));
    a.stop().await;
}

#[tokio::test]
async fn a_snapshot_tells_of_events_that_are_not_kept_any_more() {
    let a = node(4, None).await;
    let (streams, projections) = handles(&a);
    let orders = "orders".parse().unwrap();
    let few = StreamOptions {
        retain_records: Some(10),
        ..StreamOptions::default()
    };
    streams.create(&orders, StreamOptions::default()).await.unwrap();
    append(&streams, 1..=300).await;
    projections.define("totals", options(TOTALS)).await.unwrap();
    projections.wait_for("totals", 300, PATIENCE).await.unwrap();
    projections.snapshot("totals").await.unwrap();
    append(&streams, 301..=320).await;
    projections.wait_for("totals", 320, PATIENCE).await.unwrap();
    streams.update(&orders, few).await.unwrap();
    let first = async {
        while streams.info(&orders).await.unwrap().figures.unwrap().first < 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, first).await.unwrap();
    assert_eq!(rows_at(&projections, Some(Moment::Position(300))).await, expected(300));
    let gone = projections
        .rows("totals", &[], None, Some(Moment::Position(100)), 10)
        .await
        .unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone}");
    // What is there is still whole.
    assert_eq!(rows_at(&projections, None).await, expected(320));
    a.stop().await;
}

#[tokio::test]
async fn it_is_built_anew_beside_the_old_one() {
    let a = node(5, None).await;
    let (streams, projections) = handles(&a);
    let orders = "orders".parse().unwrap();
    streams.create(&orders, StreamOptions::default()).await.unwrap();
    append(&streams, 1..=400).await;
    let narrow = "SELECT data.customer, count(*) FROM orders GROUP BY substr(data.customer, 1, 1), data.customer";
    projections.define("totals", options(narrow)).await.unwrap();
    projections.wait_for("totals", 400, PATIENCE).await.unwrap();
    projections.snapshot("totals").await.unwrap();
    let wrong = projections
        .rebuild("totals", Some("SELECT".to_owned()))
        .await
        .unwrap_err();
    assert_eq!(wrong.kind(), ErrorKind::Invalid, "{wrong}");
    projections.rebuild("totals", Some(TOTALS.to_owned())).await.unwrap();
    let served = async {
        loop {
            let info = projections.info("totals").await.unwrap();
            // Never less than there was.
            assert_eq!(info.position, 400);
            if info.rebuilding.is_none() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, served).await.unwrap();
    assert_eq!(rows_at(&projections, None).await, expected(400));
    assert_eq!(projections.info("totals").await.unwrap().options.sql, TOTALS);
    assert_eq!(projections.snapshots("totals").await.unwrap(), []);
    append(&streams, 401..=420).await;
    projections.wait_for("totals", 420, PATIENCE).await.unwrap();
    assert_eq!(rows_at(&projections, None).await, expected(420));
    a.stop().await;
}

#[tokio::test]
async fn another_stream_of_the_same_name_is_not_mixed_up() {
    let a = node(6, None).await;
    let (streams, projections) = handles(&a);
    let orders = "orders".parse().unwrap();
    streams.create(&orders, StreamOptions::default()).await.unwrap();
    append(&streams, 1..=50).await;
    projections.define("totals", options(TOTALS)).await.unwrap();
    projections.wait_for("totals", 50, PATIENCE).await.unwrap();
    streams.delete(&orders).await.unwrap();
    let state = |state: State| {
        let projections = projections.clone();
        async move {
            while projections.info("totals").await.unwrap().state != state {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, state(State::Waiting)).await.unwrap();
    // As created in another millisecond.
    tokio::time::sleep(Duration::from_millis(5)).await;
    streams.create(&orders, StreamOptions::default()).await.unwrap();
    append(&streams, 1..=60).await;
    tokio::time::timeout(PATIENCE, state(State::Stopped)).await.unwrap();
    assert_eq!(rows_at(&projections, None).await, expected(50));
    projections.rebuild("totals", None).await.unwrap();
    tokio::time::timeout(PATIENCE, state(State::Live)).await.unwrap();
    projections.wait_for("totals", 60, PATIENCE).await.unwrap();
    assert_eq!(rows_at(&projections, None).await, expected(60));
    a.stop().await;
}
