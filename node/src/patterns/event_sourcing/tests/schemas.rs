//! What a stream's schemas refuse and change, on one node, from another, and where several keep the stream.

use weft_protocol::patterns::event_sourcing::{
    consumer::{ConsumerReply, ConsumerRequest, Order},
    schema::{Schema, Upcast},
};

use super::{
    copies::{Mesh, name, three},
    mesh::{consumer_options, create_seen, two},
    shortened::{append_large, group_of, log_of, shortened, until},
    *,
};
use crate::{
    error::{ErrorKind, Kind as _},
    patterns::event_sourcing::{EventSourcingHandle, Read, events::RECORDED_SCHEMA, schemas::SchemaChange},
};

fn paid(schema: &str, data: &str) -> Append {
    append_of(vec![Event {
        dataschema: Some(schema.to_owned()),
        ..event("paid", &[], data)
    }])
}

fn schema(id: &str, needs: &str) -> Schema {
    Schema {
        id: id.to_owned(),
        types: vec!["paid".to_owned()],
        document: format!(r#"{{"required": ["{needs}"]}}"#),
        upcast: None,
        added_ms: 0,
    }
}

fn second() -> Schema {
    Schema {
        upcast: Some(Upcast {
            from: Some("v1".to_owned()),
            patch: r#"[{"op": "move", "from": "/total", "path": "/cents"}]"#.to_owned(),
        }),
        ..schema("v2", "cents")
    }
}

async fn refused(at: &EventSourcingHandle, to: &Subject, append: Append) -> String {
    let error = at.append(to, append).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    error.to_string()
}

/// Data and schema of everything, as it is read so.
async fn all(at: &EventSourcingHandle, of: &Subject, is_upcast: bool) -> Vec<(String, Option<String>)> {
    let request = ReadRequest {
        from: From::Position(1),
        query: Query::default(),
        follow: false,
        limit: None,
        is_upcast: is_upcast.then_some(true),
    };
    let (mut reading, mut all) = (at.read(of, request).await.unwrap(), Vec::new());
    while let Some(read) = reading.next().await.unwrap() {
        let Read::Records(records) = read else { continue };
        all.extend(records.into_iter().map(|recorded| {
            let event = recorded.record.event;
            (String::from_utf8_lossy(&event.data).into_owned(), event.dataschema)
        }));
    }
    all
}

fn of(data: &str, schema: &str) -> (String, Option<String>) {
    (data.to_owned(), Some(schema.to_owned()))
}

#[tokio::test]
async fn a_stream_refuses_what_is_not_as_it_says_whoever_asks() {
    let (_a, _b, of_a, of_b) = two().await;
    let orders = name("orders");
    create_seen(&of_a, &of_b, &orders).await;
    // Before there is a schema everything goes.
    let early = append_of(vec![Event {
        id: Some("early".into()),
        ..event("paid", &[], "no JSON")
    }]);
    of_b.append(&orders, early.clone()).await.unwrap();
    of_a.add_schema(&orders, schema("v1", "total")).await.unwrap();
    let elsewhere = of_b.add_schema(&orders, schema("v3", "total")).await.unwrap_err();
    assert_eq!(elsewhere.kind(), ErrorKind::Conflict, "{elsewhere}");
    for at in [&of_a, &of_b] {
        let found = at.schemas(&orders).await.unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].added_ms > 0);
        assert!(
            refused(at, &orders, paid("v1", r#"{"cents": 3}"#))
                .await
                .contains("total")
        );
        assert!(
            refused(at, &orders, append_of(vec![event("paid", &[], "{}")]))
                .await
                .contains("v1")
        );
        at.append(&orders, paid("v1", r#"{"total": 3}"#)).await.unwrap();
        // What was recorded before is a duplicate, and not wrong now.
        assert!(at.append(&orders, early.clone()).await.unwrap().is_duplicate);
    }
    of_a.add_schema(&orders, second()).await.unwrap();
    of_b.append(&orders, paid("v2", r#"{"cents": 4}"#)).await.unwrap();
    for at in [&of_a, &of_b] {
        let recorded = [
            ("no JSON".to_owned(), None),
            of(r#"{"total": 3}"#, "v1"),
            of(r#"{"total": 3}"#, "v1"),
            of(r#"{"cents": 4}"#, "v2"),
        ];
        assert_eq!(all(at, &orders, false).await, recorded);
        let upcast = [
            ("no JSON".to_owned(), None),
            of(r#"{"cents":3}"#, "v2"),
            of(r#"{"cents":3}"#, "v2"),
            of(r#"{"cents": 4}"#, "v2"),
        ];
        assert_eq!(all(at, &orders, true).await, upcast);
    }
    // A proof is about what was recorded.
    let proof = of_b.prove(&orders, 2).await.unwrap();
    assert_eq!(proof.verify().unwrap().record.event.data, br#"{"total": 3}"#);
    let options = consumer_options(Order::Any);
    let add = ConsumerRequest::Add {
        name: "upcast".into(),
        options: weft_protocol::patterns::event_sourcing::consumer::ConsumerOptions {
            is_upcast: Some(true),
            ..options
        },
    };
    of_b.consumer(&orders, add).await.unwrap();
    let next = ConsumerRequest::Next {
        name: "upcast".into(),
        count: 4,
        wait_ms: 10_000,
    };
    let ConsumerReply::Handed(handed) = of_b.consumer(&orders, next).await.unwrap() else {
        panic!()
    };
    let bytes = handed[1].record.record.clone().into();
    let second = Kept { position: 2, bytes }.record().unwrap().event;
    assert_eq!(second.data, br#"{"cents":3}"#);
    assert_eq!(second.extensions, [(RECORDED_SCHEMA.to_owned(), "v1".to_owned())]);
    // The one that another is made of stays; without both everything goes again.
    let needed = of_a.remove_schema(&orders, "v1").await.unwrap_err();
    assert_eq!(needed.kind(), ErrorKind::Conflict, "{needed}");
    of_a.remove_schema(&orders, "v2").await.unwrap();
    of_a.remove_schema(&orders, "v1").await.unwrap();
    let missing = of_a.remove_schema(&orders, "v1").await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound, "{missing}");
    of_b.append(&orders, append_of(vec![event("paid", &[], "x")]))
        .await
        .unwrap();
}

#[tokio::test]
async fn schemas_are_there_after_a_restart_and_gone_with_their_stream() {
    let place = Place::new();
    let (store, stream) = place.open().await.unwrap();
    let add = |schema: Schema| SchemaChange::Add(schema);
    stream.change_schemas(None, add(schema("v1", "total"))).await.unwrap();
    drop((store, stream));
    let (store, stream) = place.open().await.unwrap();
    let wrong = stream.append(paid("v1", "{}"), HERE).await.unwrap_err();
    assert!(matches!(wrong, StreamError::NotAsSchema(_)), "{wrong}");
    // What an entry of a group's log says is done once, also when the log is gone through again.
    stream.change_schemas(Some(5), add(second())).await.unwrap();
    let known = stream.schemas().await.unwrap().set.clone();
    for entry in [4, 5] {
        let again = stream
            .change_schemas(Some(entry), SchemaChange::Remove("v2".into()))
            .await;
        assert!(matches!(again, Err(StreamError::Conflict(_))));
    }
    assert_eq!(stream.schemas().await.unwrap().set, known);
    let shelf = Shelf::new(store.keyspace("event_sourcing"));
    shelf.delete(&name("orders"), stream.number).await.unwrap();
    shelf.sweep(stream.number).await.unwrap();
    assert_eq!(shelf.schemas(stream.number).await.unwrap().schemas, []);
}

#[tokio::test]
async fn every_copy_has_the_schemas_also_one_that_was_away() {
    let mut mesh = Mesh::with_segments(3, 64 << 10).await;
    let orders = name("orders");
    mesh.at(0).create(&orders, three()).await.unwrap();
    mesh.at(1).add_schema(&orders, schema("v1", "total")).await.unwrap();
    for number in 0..3 {
        assert!(
            refused(&mesh.at(number), &orders, paid("v1", "{}"))
                .await
                .contains("total")
        );
    }
    let group = group_of(&mesh, 0, &orders).await;
    let leader = mesh.leader(&mesh.at(0), &orders).await;
    let away = (0..3).find(|number| *number != leader).unwrap();
    until("a copy does not get the schema", async || {
        let stream = mesh.at(away).streams.copy(group, &orders).await.unwrap().stream;
        stream.schemas().await.unwrap().set.schemas.len() == 1
    })
    .await;
    mesh.stop(away).await;
    mesh.at(leader).add_schema(&orders, second()).await.unwrap();
    append_large(&mesh, leader, &orders, 0..200).await;
    shortened(&mesh, leader, group).await;
    mesh.start(away).await;
    until("a copy does not catch up", async || {
        let opened = mesh.at(away).streams.copy(group, &orders).await;
        opened.is_ok_and(|opened| opened.stream.version() == 200)
    })
    .await;
    // The others agree with what it has when it decides.
    let stream = mesh.at(away).streams.copy(group, &orders).await.unwrap().stream;
    let at_leader = mesh.at(leader).streams.copy(group, &orders).await.unwrap().stream;
    assert_eq!(
        stream.schemas().await.unwrap().set,
        at_leader.schemas().await.unwrap().set
    );
    drop((stream, at_leader));
    assert!(log_of(&mesh, leader, group).await.first_seq() > 0);
    mesh.stop(leader).await;
    let mut good = paid("v1", r#"{"total": 1}"#);
    good.events[0].id = Some("good".into());
    mesh.at(away).append(&orders, good).await.unwrap();
    let wrong = paid("v2", r#"{"total": 1}"#);
    assert!(refused(&mesh.at(away), &orders, wrong).await.contains("cents"));
    let read = all(&mesh.at(away), &orders, true).await;
    assert_eq!(read.last(), Some(&of(r#"{"cents":1}"#, "v2")));
}
