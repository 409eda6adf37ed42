use super::*;

pub(crate) fn hello() -> Hello {
    Hello {
        deadline_ms: Some(2500),
        traceparent: Some(String::from("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")),
        tracestate: Some(String::from("congo=t61rcWkgMzE")),
        capability: vec![crate::capability::tests::token().to_bytes()],
        ..Hello::new("request_response", Verb::Call, "stock.count")
    }
}

fn refused(change: impl FnOnce(&mut Hello)) -> String {
    let mut hello = hello();
    change(&mut hello);
    Hello::from_bytes(&hello.to_bytes()).unwrap_err().to_string()
}

#[test]
fn a_hello_says_what_a_stream_is_for() {
    let read = Hello::from_bytes(&hello().to_bytes()).unwrap();
    assert_eq!(read, hello());
    assert_eq!(read.subject().unwrap().as_str(), "stock.count");
    assert!(read.trace_parent().unwrap().is_sampled());
    assert_eq!(read.capability_tokens().unwrap(), [crate::capability::tests::token()]);
}

#[test]
fn another_version_is_named_as_such() {
    let mut later = hello();
    later.version = 2;
    let version = DecodeError::Version {
        what: "hello",
        supported: 1,
        got: 2,
    };
    assert_eq!(Hello::from_bytes(&later.to_bytes()), Err(version.clone()));
    assert_eq!(later.to_checked_bytes(), Err(version.clone()));
    let different = crate::codec::encode(&(2u16, vec![1u8, 2, 3]));
    assert_eq!(Hello::from_bytes(&different), Err(version));
}

#[test]
fn every_field_has_a_limit() {
    assert!(refused(|h| h.pattern = String::from("Batch")).starts_with("pattern id is invalid"));
    assert!(refused(|h| h.pattern = String::new()).starts_with("pattern id is invalid"));
    assert!(refused(|h| h.pattern = "a".repeat(65)).starts_with("pattern id is too large"));
    assert!(refused(|h| h.resource = String::from("a..b")).starts_with("subject is invalid"));
    assert!(refused(|h| h.resource = "a".repeat(257)).starts_with("subject is too large"));
    assert!(refused(|h| h.tracestate = Some("a".repeat(513))).starts_with("tracestate is too large"));
    assert!(refused(|h| h.tracestate = Some(String::from("a\n"))).starts_with("tracestate is invalid"));
    assert!(refused(|h| h.traceparent = Some("a".repeat(257))).starts_with("traceparent is too large"));
    assert!(refused(|h| h.capability = vec![vec![]; 5]).contains("5 entries, the limit is 4"));
    assert!(refused(|h| h.capability = vec![vec![0; 3073]]).starts_with("capability token is too large"));
    assert!(refused(|h| h.capability = vec![vec![0; 1500]; 3]).starts_with("hello is too large"));
}

#[test]
fn a_bad_trace_does_not_fail_the_call() {
    let mut hello = hello();
    hello.traceparent = Some(String::from("nonsense"));
    assert_eq!(Hello::from_bytes(&hello.to_bytes()).unwrap().trace_parent(), None);
}

#[test]
fn the_largest_token_fits_into_a_hello() {
    let mut hello = hello();
    hello.pattern = "a".repeat(64);
    hello.resource = "a".repeat(200);
    hello.capability = vec![vec![0; CAPABILITY_TOKEN_BYTES_MAX]];
    assert_eq!(Hello::from_bytes(&hello.to_bytes()), Ok(hello));
}

#[test]
fn a_refusal_can_always_be_sent() {
    for detail in ["", "no", &"ä".repeat(1000), "two\nlines \u{1b}[31m"] {
        let reply = HelloReply::refused(Refusal::Denied, detail);
        assert_eq!(HelloReply::from_bytes(&reply.to_checked_bytes().unwrap()), Ok(reply));
    }
    let long = HelloReply::Refused {
        reason: Refusal::Busy,
        detail: "a".repeat(257),
    };
    assert!(HelloReply::from_bytes(&long.to_bytes()).is_err());
}
