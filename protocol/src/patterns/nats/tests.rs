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
        more: false,
    };
    assert!(list(NATS_INTERESTS_MAX).to_checked_bytes().is_ok());
    assert!(list(NATS_INTERESTS_MAX + 1).to_checked_bytes().is_err());
}
