use super::*;

fn deliver(subject: &str, group: Option<&str>) -> NatsItem {
    NatsItem::Deliver {
        subject: Subject::reserved(subject).unwrap(),
        reply: None,
        group: group.map(Into::into),
        headers: Vec::new(),
        payload: b"hi".to_vec(),
    }
}

fn reply(payload_len: usize) -> NatsItem {
    NatsItem::Reply {
        id: [7; REPLY_ID_BYTES],
        headers: Vec::new(),
        payload: vec![0; payload_len],
    }
}

#[test]
fn items_are_about_one_thing_and_within_their_limits() {
    let refused = |items: Vec<NatsItem>| NatsItems(items).to_checked_bytes().is_err();
    assert!(!refused(vec![deliver("a", Some("q")), deliver("a", None)]));
    assert!(!refused(vec![reply(1), reply(DIRECT_BODY_BYTES_MAX)]));
    assert!(refused(Vec::new()));
    assert!(refused(vec![deliver("a", None), deliver("b", None)]));
    assert!(refused(vec![deliver("a", None), reply(1)]));
    assert!(refused(vec![reply(DIRECT_BODY_BYTES_MAX + 1)]));
    assert!(refused(vec![reply(0); NATS_ITEMS_MAX + 1]));
    for group in ["", "a b", "a\n", &"q".repeat(NAME_BYTES_MAX + 1)] {
        assert!(refused(vec![deliver("a", Some(group))]), "{group:?}");
    }
}

#[test]
fn a_reserved_subject_travels_between_doors() {
    let items = NatsItems(vec![deliver("$SRV.PING", None)]);
    assert_eq!(NatsItems::from_bytes(&items.to_bytes()).unwrap(), items);
    assert_eq!(items.0[0].resource(), "$SRV.PING");
}

#[test]
fn interests_have_a_bound() {
    let interest = NatsInterest {
        pattern: "a.>".parse().unwrap(),
        group: None,
    };
    let list = |len| NatsInterests {
        list: vec![interest.clone(); len],
        ..NatsInterests::default()
    };
    assert!(list(NATS_INTERESTS_MAX).to_checked_bytes().is_ok());
    assert!(list(NATS_INTERESTS_MAX + 1).to_checked_bytes().is_err());
}

#[test]
fn the_address_of_a_door_is_a_host_and_a_port() {
    let at = |address: &str| NatsInterests {
        address: Some(address.into()),
        ..NatsInterests::default()
    };
    for right in ["10.0.0.7:4222", "[2001:db8::7]:4222", "door-1.example:1"] {
        assert!(at(right).to_checked_bytes().is_ok(), "{right}");
    }
    let long = format!("{}:4222", "a".repeat(300));
    for wrong in [
        "",
        "host",
        ":4222",
        "host:0",
        "host:65536",
        "user@host:4222",
        "::1:4222",
        "[::1:4222",
        "a b:1",
        "h\r\n:1",
        &long,
    ] {
        assert!(at(wrong).to_checked_bytes().is_err(), "{wrong}");
    }
}
