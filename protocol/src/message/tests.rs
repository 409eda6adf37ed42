use proptest::prelude::*;

use super::*;

pub(crate) fn message() -> Message {
    Message {
        subject: Some("orders.eu.created".parse().unwrap()),
        time_ms: Some(1_800_000_000_000),
        datacontenttype: Some(String::from("application/json")),
        data: br#"{"apples":12}"#.to_vec(),
        extensions: vec![(
            String::from("traceparent"),
            String::from("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        )],
        ..Message::new("a-1", "/node-3/orders", "com.example.order.created")
    }
}

fn refused(change: impl FnOnce(&mut Message)) -> String {
    let mut message = message();
    change(&mut message);
    let error = message.to_checked_bytes().unwrap_err();
    assert!(
        Message::from_bytes(&message.to_bytes()).is_err(),
        "the receiver refuses it too: {error}"
    );
    error.to_string()
}

#[test]
fn a_message_carries_its_trace() {
    let mut message = message();
    assert!(message.trace_parent().is_some());
    message.set_extension("traceparent", "nonsense");
    message.set_extension("priority", "7");
    assert_eq!(
        (message.trace_parent(), message.extension("priority")),
        (None, Some("7"))
    );
    assert_eq!(message.extensions.len(), 2);
    assert_eq!(Message::from_bytes(&message.to_bytes()), Ok(message));
}

#[test]
fn attributes_keep_to_the_specification() {
    assert!(refused(|m| m.id = String::new()).starts_with("message id is invalid"));
    assert!(refused(|m| m.source = String::new()).starts_with("message source is invalid"));
    assert!(refused(|m| m.kind = String::from("a\u{7}")).starts_with("message type is invalid"));
    assert!(refused(|m| m.kind = "a".repeat(513)).starts_with("message type is too large"));
    assert!(refused(|m| m.datacontenttype = Some("a".repeat(513))).starts_with("datacontenttype is too large"));
    for bad in ["", "Up", "a-b", "time", "data", "specversion", "abcdefghijklmnopqrstu"] {
        assert!(
            refused(|m| m.set_extension(bad, "v")).starts_with("extension name is"),
            "{bad:?}"
        );
    }
    assert!(refused(|m| m.extensions = vec![(String::from("a"), String::new()); 2]).contains("occurs twice"));
    refused(|m| m.extensions = (0..33).map(|n| (format!("e{n}"), String::new())).collect());
    let heavy = (0..20).map(|n| (format!("e{n}"), "v".repeat(500))).collect();
    assert!(refused(|m| m.extensions = heavy).starts_with("message attributes is too large"));
    assert!(refused(|m| m.data = vec![0; DIRECT_BODY_BYTES_MAX + 1]).starts_with("message data is too large"));
}

#[test]
fn the_largest_message_is_sent_and_read() {
    let mut message = message();
    message.data = vec![0x55; DIRECT_BODY_BYTES_MAX];
    message.extensions = (0..16).map(|n| (format!("e{n}"), "v".repeat(480))).collect();
    assert_eq!(Message::from_bytes(&message.to_checked_bytes().unwrap()), Ok(message));
}

proptest! {
    #[test]
    fn any_valid_message_round_trips(
        id in "[!-~]{1,40}", source in "[!-~]{1,40}", kind in "\\PC{1,20}",
        time_ms in any::<Option<u64>>(), content in any::<Option<bool>>(),
        data in prop::collection::vec(any::<u8>(), 0..200),
        extensions in prop::collection::btree_map("x[a-z0-9]{1,10}", "[^\\pC]{0,30}", 0..5),
    ) {
        let message = Message {
            time_ms,
            datacontenttype: content.map(|_| String::from("text/plain")),
            data,
            extensions: extensions.into_iter().collect(),
            ..Message::new(id, source, kind)
        };
        prop_assert_eq!(Message::from_bytes(&message.to_checked_bytes().unwrap()), Ok(message));
    }
}
