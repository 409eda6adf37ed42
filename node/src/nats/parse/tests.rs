use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits {
    line_bytes_max: 128,
    payload_bytes_max: 64,
};

fn op(text: &[u8]) -> Op<'_> {
    match parse(text, LIMITS) {
        Ok(Parsed::Op(op, len)) if len == text.len() => op,
        other => panic!("{:?}: {other:?}", String::from_utf8_lossy(text)),
    }
}

fn error(text: &[u8]) -> ParseError {
    match parse(text, LIMITS) {
        Err(error) => error,
        other => panic!("{:?}: {other:?}", String::from_utf8_lossy(text)),
    }
}

/// Every operation in its forms.
fn samples() -> Vec<(&'static [u8], Op<'static>)> {
    let plain = |subject, reply, payload| {
        Op::Publish(Publish {
            subject,
            reply,
            headers: b"",
            payload,
        })
    };
    vec![
        (b"PING\r\n", Op::Ping),
        (b"ping\n", Op::Ping),
        (b"PONG\r\n", Op::Pong),
        (b"+OK\r\n", Op::Remark),
        (b"-ERR 'no'\r\n", Op::Remark),
        (b"CONNECT {\"verbose\":false}\r\n", Op::Connect(b"{\"verbose\":false}")),
        (b"PUB a.b 5\r\nhello\r\n", plain(b"a.b", None, b"hello")),
        (b"PUB a 0\r\n\r\n", plain(b"a", None, b"")),
        (b"pub\ta  r\t2\n\r\n\r\n", plain(b"a", Some(b"r"), b"\r\n")),
        (
            b"HPUB a r 12 14\r\nNATS/1.0\r\n\r\nhi\r\n",
            Op::Publish(Publish {
                subject: b"a",
                reply: Some(b"r"),
                headers: b"NATS/1.0\r\n\r\n",
                payload: b"hi",
            }),
        ),
        (
            b"SUB a.* 1\r\n",
            Op::Sub {
                subject: b"a.*",
                queue: None,
                sid: b"1",
            },
        ),
        (
            b"SUB > q 22\r\n",
            Op::Sub {
                subject: b">",
                queue: Some(b"q"),
                sid: b"22",
            },
        ),
        (b"UNSUB 1\r\n", Op::Unsub { sid: b"1", max: None }),
        (
            b"UNSUB 1 7\r\n",
            Op::Unsub {
                sid: b"1",
                max: Some(7),
            },
        ),
        (b"UNSUB 1 0\r\n", Op::Unsub { sid: b"1", max: None }),
    ]
}

#[test]
fn every_operation_is_read() {
    for (text, expected) in samples() {
        assert_eq!(op(text), expected);
    }
}

#[test]
fn what_is_read_does_not_depend_on_how_it_was_cut() {
    for (text, expected) in samples() {
        for cut in 0..text.len() {
            match parse(&text[..cut], LIMITS) {
                Ok(Parsed::Need(len)) => assert!(len > cut && len <= text.len(), "{cut} of {text:?}"),
                other => panic!("{:?}: {other:?}", String::from_utf8_lossy(&text[..cut])),
            }
        }
        let longer = [text, b"PING\r\n"].concat();
        assert_eq!(parse(&longer, LIMITS), Ok(Parsed::Op(expected, text.len())));
    }
}

#[test]
fn nonsense_is_said_to_be_nonsense_at_once() {
    for text in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"G",
        b"\r\n",
        b"\n",
        b"PINGS",
        b"PUBLISH a",
        b"\x16\x03\x01\x02\x00",
        b"INFO {}\r\n",
        b" PING\r\n",
    ] {
        assert_eq!(error(text), ParseError::Unknown, "{text:?}");
    }
    for text in [
        &b"PUB a\r\n"[..],
        b"PUB\r\n",
        b"PUB a b c d e\r\n",
        b"PUB a x\r\n",
        b"PUB a -1\r\n",
        b"PUB a 1234567890\r\n",
        b"PUB a 2\r\nhixx",
        b"PUB a 2\r\nhi\n",
        b"HPUB a 5\r\n",
        b"HPUB a 5 4\r\n",
        b"SUB a\r\n",
        b"SUB a b c d\r\n",
        b"UNSUB\r\n",
        b"UNSUB 1 x\r\n",
    ] {
        assert_eq!(error(text), ParseError::Malformed, "{text:?}");
    }
}

#[test]
fn what_is_announced_too_long_is_not_waited_for() {
    assert_eq!(error(b"PUB a 65\r\n"), ParseError::Payload);
    assert_eq!(error(b"HPUB a 12 65\r\n"), ParseError::Payload);
    let line = [b"SUB ".to_vec(), vec![b'a'; 200]].concat();
    assert_eq!(error(&line), ParseError::Line);
    assert_eq!(error(&[line, b" 1\r\n".to_vec()].concat()), ParseError::Line);
    let longest = [b"SUB ".to_vec(), vec![b'a'; 122], b" 1\r\n".to_vec()].concat();
    assert!(matches!(op(&longest), Op::Sub { .. }));
}

/// The operations at the beginning of `bytes`, each with its end, until something else than an operation comes.
fn all(bytes: &[u8]) -> (Vec<String>, String) {
    let (mut found, mut at) = (Vec::new(), 0);
    loop {
        match parse(&bytes[at..], LIMITS) {
            Ok(Parsed::Op(op, len)) => {
                assert!(len > 0 && len <= bytes.len() - at);
                found.push(format!("{op:?}"));
                at += len;
            }
            Ok(Parsed::Need(len)) => {
                assert!(len > bytes.len() - at);
                return (found, "need".to_owned());
            }
            Err(error) => return (found, format!("{error}")),
        }
    }
}

/// Text that is nearly the protocol.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"PUB ".to_vec()),
        Just(b"HPUB ".to_vec()),
        Just(b"SUB ".to_vec()),
        Just(b"UNSUB ".to_vec()),
        Just(b"PING\r\n".to_vec()),
        Just(b"CONNECT {}\r\n".to_vec()),
        Just(b"\r\n".to_vec()),
        Just(b"\n".to_vec()),
        Just(b" ".to_vec()),
        Just(b"a.b ".to_vec()),
        (0..70u32).prop_map(|n| n.to_string().into_bytes()),
        (0..9u32).prop_map(|n| format!("PUB a {n}\r\n{}\r\n", "x".repeat(n as usize)).into_bytes()),
        proptest::collection::vec(any::<u8>(), 0..6),
    ];
    proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        all(&bytes);
    }

    #[test]
    fn a_stream_reads_the_same_in_pieces(bytes in nearly(), cut in any::<proptest::sample::Index>()) {
        let (whole, end) = all(&bytes);
        let cut = cut.index(bytes.len() + 1);
        let (first, first_end) = all(&bytes[..cut]);
        // What was read of the first piece stands, and an error in it is the error of the whole.
        prop_assert_eq!(&whole[..first.len()], &first[..]);
        if first_end != "need" {
            prop_assert_eq!(first_end, end);
            prop_assert_eq!(first.len(), whole.len());
        }
    }
}
