//! What schemas refuse, and what they make of old data.

use serde_json::json;
use weft_protocol::patterns::event_sourcing::Record;

use super::*;

fn schema(id: &str, kind: &str, document: Value) -> Schema {
    Schema {
        id: id.to_owned(),
        types: vec![kind.to_owned()],
        document: document.to_string(),
        upcast: None,
        added_ms: 1,
    }
}

fn after(from: Option<&str>, patch: Value, schema: Schema) -> Schema {
    let (from, patch) = (from.map(ToOwned::to_owned), patch.to_string());
    Schema {
        upcast: Some(Upcast { from, patch }),
        ..schema
    }
}

fn event(id: Option<&str>, data: Value) -> Event {
    Event {
        dataschema: id.map(ToOwned::to_owned),
        ..Event::new("paid", data.to_string())
    }
}

fn versions() -> Vec<Schema> {
    let needs = |what: &str| json!({"type": "object", "required": [what], "properties": {what: {"type": "integer", "minimum": 0}}});
    vec![
        after(
            None,
            json!([{"op": "move", "from": "/t", "path": "/total"}]),
            schema("v1", "paid", needs("total")),
        ),
        after(
            Some("v1"),
            json!([{"op": "move", "from": "/total", "path": "/cents"}]),
            schema("v2", "paid", needs("cents")),
        ),
        after(
            Some("v2"),
            json!([{"op": "add", "path": "/currency", "value": "EUR"}]),
            schema("v3", "paid", json!({"required": ["cents", "currency"]})),
        ),
    ]
}

fn set(all: Vec<Schema>) -> SchemaSet {
    let mut set = SchemaSet::default();
    for schema in all {
        check_definition(&schema).unwrap();
        assert!(set.apply(SchemaChange::Add(schema)).unwrap());
    }
    set
}

#[test]
fn events_are_as_the_schema_says_that_they_name() {
    let schemas = Schemas::new(set(versions()));
    schemas.check(&[event(Some("v1"), json!({"total": 3}))]).unwrap();
    // A type for which there is no schema, and data that are not JSON.
    schemas.check(&[Event::new("other", [0xff])]).unwrap();
    for (wrong, why) in [
        (event(Some("v1"), json!({"total": -3})), "v1 says: /total: -3 is less"),
        (event(Some("v1"), json!({"total": "3"})), "/total"),
        (event(Some("v1"), json!([])), "as a whole"),
        (event(Some("v9"), json!({})), "which the stream does not have"),
        (event(None, json!({"total": 3})), "one of: v1, v2, v3"),
        (
            Event {
                data: vec![0xff],
                ..event(Some("v1"), json!({}))
            },
            "no JSON",
        ),
        (
            Event {
                kind: "other".into(),
                ..event(Some("v1"), json!({"total": 3}))
            },
            "which is for: paid",
        ),
    ] {
        let good = event(Some("v2"), json!({"cents": 1}));
        let refused = schemas.check(&[good, wrong]).unwrap_err();
        let text = refused.to_string();
        assert!(matches!(refused, StreamError::NotAsSchema(_)), "{text}");
        assert!(text.contains(why) && text.starts_with("event 2"), "{text}");
    }
}

fn upcast(schemas: &Schemas, event: Event) -> Event {
    let record = Record {
        recorded_ms: 1,
        author: None,
        producer: None,
        event,
        entry: Some(7),
    };
    let bytes = record.to_bytes().into();
    let kept = schemas.upcast(Kept { position: 3, bytes }).unwrap();
    assert_eq!((kept.position, kept.record().unwrap().entry), (3, Some(7)));
    kept.record().unwrap().event
}

#[test]
fn data_are_brought_along_the_chain_as_far_as_they_fit() {
    let schemas = Schemas::new(set(versions()));
    let newest = json!({"cents": 3, "currency": "EUR"});
    for (id, data) in [
        (None, json!({"t": 3})),
        (Some("v1"), json!({"total": 3})),
        (Some("v2"), json!({"cents": 3})),
    ] {
        let became = upcast(&schemas, event(id, data));
        assert_eq!(became.dataschema.as_deref(), Some("v3"));
        assert_eq!(serde_json::from_slice::<Value>(&became.data).unwrap(), newest);
        let noted: Vec<&str> = became.extensions.iter().map(|(_, value)| value.as_str()).collect();
        assert_eq!(noted, Vec::from_iter(id));
    }
    // What is the newest already, what a patch does not fit, and what would not be as the later schema says: as it was recorded.
    for same in [
        event(Some("v3"), json!({"cents": 3, "currency": "CHF"})),
        event(Some("v1"), json!({"sum": 3})),
        event(Some("v1"), json!({"total": -3})),
        event(None, json!({})),
        Event {
            data: vec![0xff],
            ..event(None, json!({}))
        },
        Event {
            kind: "other".into(),
            ..event(Some("v1"), json!({"total": 3}))
        },
    ] {
        assert_eq!(upcast(&schemas, same.clone()), same);
    }
}

#[test]
fn a_schema_never_changes_and_chains_do_not_branch() {
    let mut all = set(versions());
    let again = Schema {
        added_ms: 2,
        ..versions().remove(0)
    };
    assert!(!all.apply(SchemaChange::Add(again)).unwrap());
    let patch = || json!([]);
    let plain = |id: &str| schema(id, "paid", json!({}));
    for (wrong, why) in [
        (plain("v1"), "says something else"),
        (after(Some("v1"), patch(), plain("v4")), "become those of v2 already"),
        (after(None, patch(), plain("v4")), "become those of v1 already"),
    ] {
        let refused = all.apply(SchemaChange::Add(wrong)).unwrap_err();
        assert!(refused.to_string().contains(why), "{refused}");
    }
    // `b` is made of `a`: `a` cannot be made of `b`.
    let mut circle = set(vec![after(Some("a"), patch(), plain("b"))]);
    let refused = circle.apply(SchemaChange::Add(after(Some("b"), patch(), plain("a"))));
    assert!(refused.unwrap_err().to_string().contains("circle"));
    assert!(matches!(all.check_removal("v1"), Err(StreamError::Conflict(_))));
    assert!(matches!(all.check_removal("v4"), Err(StreamError::NoSchema(_))));
    all.check_removal("v3").unwrap();
    assert!(all.apply(SchemaChange::Remove("v3".into())).unwrap());
    assert!(all.apply(SchemaChange::Remove("v3".into())).is_err());
}

#[test]
fn there_are_so_many_and_no_more() {
    let mut all = set((0..SCHEMAS_MAX)
        .map(|at| schema(&format!("v{at}"), "paid", json!({})))
        .collect());
    let one_more = SchemaChange::Add(schema("more", "paid", json!({})));
    assert!(matches!(all.apply(one_more), Err(StreamError::Busy(_))));
    let mut large = set(vec![schema(
        "a",
        "paid",
        json!({"description": "x".repeat(SCHEMAS_BYTES_MAX / 2)}),
    )]);
    let other = schema("b", "paid", json!({"description": "x".repeat(SCHEMAS_BYTES_MAX / 2)}));
    assert!(matches!(
        large.apply(SchemaChange::Add(other)),
        Err(StreamError::Busy(_))
    ));
}

#[test]
fn what_cannot_be_understood_is_refused_when_it_is_added() {
    let plain = |document: &str| Schema {
        document: document.to_owned(),
        ..schema("v1", "paid", json!({}))
    };
    for wrong in [
        plain("{"),
        plain("[]"),
        plain(r#"{"type": "number of something"}"#),
        // Nothing is fetched, and nothing takes long.
        plain(r#"{"$ref": "https://example.org/order.json"}"#),
        plain(r#"{"$ref": "file:///etc/passwd"}"#),
        plain(r#"{"pattern": "(a)\\1"}"#),
        plain(r#"{"pattern": "((a{1000}){1000}){1000}"}"#),
        plain(&("[".repeat(1000) + &"]".repeat(1000))),
        after(Some("v0"), json!([{"op": "dance"}]), plain("{}")),
        after(Some("v1"), json!([]), plain("{}")),
        Schema {
            id: String::new(),
            ..plain("{}")
        },
        Schema {
            types: vec!["a".into(), "a".into()],
            ..plain("{}")
        },
        Schema {
            types: Vec::new(),
            ..after(None, json!([]), plain("{}"))
        },
    ] {
        let refused = check_definition(&wrong).unwrap_err();
        assert!(matches!(refused, StreamError::Invalid(_)), "{wrong:?}: {refused}");
    }
    // Schemas that refer to themselves come to an end.
    let tree = plain(
        r##"{"properties": {"left": {"$ref": "#"}}, "allOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#"}}}"##,
    );
    check_definition(&tree).unwrap();
    let schemas = Schemas::new(set(vec![tree]));
    schemas
        .check(&[event(Some("v1"), json!({"left": {"left": {}}}))])
        .unwrap();
}

#[test]
fn patches_are_bounded() {
    let copies = |count: usize, patch: Value| vec![patch; count];
    // Each doubles the data, or makes them deeper.
    for (operation, data) in [
        (
            json!({"op": "copy", "from": "/a", "path": "/a/-"}),
            json!({"a": ["x".repeat(1000)]}),
        ),
        (json!({"op": "copy", "from": "", "path": "/a"}), json!({"a": {}})),
    ] {
        let patch: Patch = serde_json::from_value(copies(200, operation).into()).unwrap();
        assert_eq!(patched(&patch, data), None);
    }
    let fits: Patch = serde_json::from_value(json!([{"op": "copy", "from": "/a", "path": "/b"}])).unwrap();
    assert_eq!(patched(&fits, json!({"a": 1})), Some(json!({"a": 1, "b": 1})));
}
