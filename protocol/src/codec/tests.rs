use proptest::prelude::*;

use super::*;
use crate::admission::{AdmissionReply, AdmissionRequest};
use crate::control::{ControlReply, ControlRequest};
use crate::limits::NESTING_MAX;
use crate::patterns::pub_sub::{
    Frame,
    repair::{RepairReply, RepairRequest},
};
use crate::patterns::request_response::{CallMessage, CallResponse, QuestionReply, ServiceList, StreamFrame};
use crate::*;

fn refused(bytes: &[u8], with: &str) {
    let error = scan::scan(bytes).unwrap_err();
    assert!(error.contains(with), "{bytes:02x?}: {error:?} does not say {with:?}");
}

#[test]
fn only_deterministic_cbor_passes() {
    for good in [
        &[0x00][..],
        &[0x18, 24],
        &[0x19, 1, 0],
        &[0x41, 7],
        &[0x61, b'a'],
        &[0x82, 0x20, 0xf6],
        &[0xf5],
    ] {
        assert_eq!(scan::scan(good), Ok(()), "{good:02x?}");
    }
    refused(&[], "the end is missing");
    refused(&[0x18, 23], "shortest form");
    refused(&[0x19, 0, 255], "shortest form");
    refused(&[0x1a, 0, 0, 255, 255], "shortest form");
    refused(&[0x1b, 0, 0, 0, 0, 255, 255, 255, 255], "shortest form");
    refused(&[0x58, 3, 1, 2, 3], "shortest form");
    refused(&[0x9f, 0xff], "indefinite");
    refused(&[0x5f, 0xff], "indefinite");
    refused(&[0xa0], "kind 5");
    refused(&[0xc0, 0x00], "kind 6");
    refused(&[0xf9, 0, 0], "float");
    refused(&[0xf7], "kind 7");
    refused(&[0xff], "indefinite");
    refused(&[0x1c], "indefinite");
    refused(&[0x00, 0x00], "left over");
    refused(&[0x42, 1], "where 1 are left");
    refused(&[0x82, 0x00], "where 1 bytes are left");
    refused(
        &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        "where 0 bytes are left",
    );
    refused(
        &[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
        "where 1 are left",
    );
}

#[test]
fn nesting_is_bounded() {
    let mut deepest = vec![0x81; NESTING_MAX];
    deepest.push(0x00);
    assert_eq!(scan::scan(&deepest), Ok(()));
    deepest.insert(0, 0x81);
    refused(&deepest, "nested deeper");
    refused(&vec![0x81; 1_000_000], "nested deeper");
}

#[test]
fn a_message_over_its_limit_is_not_looked_at() {
    let error = Hello::from_bytes(&vec![0xff; limits::HELLO_BYTES_MAX + 1]).unwrap_err();
    assert_eq!(
        error,
        DecodeError::TooLarge {
            what: "hello",
            limit: limits::HELLO_BYTES_MAX,
            got: 4097
        }
    );
}

#[test]
fn a_list_over_its_limit_names_what_it_is_in() {
    let key = crate::testing::public(1);
    let have = vec![(key, 1); limits::HAVE_MAX + 1];
    let bytes = encode(&ControlRequest::PullRecords { have });
    let error = ControlRequest::from_bytes(&bytes).unwrap_err().to_string();
    assert!(
        error.contains("control request") && error.contains("5001 entries, the limit is 5000"),
        "{error}"
    );
}

#[test]
fn a_field_keeps_its_own_error() {
    let mut ticket = crate::ticket::tests::ticket();
    ticket.addresses = vec![format!("/dns/{}/tcp/1", "a".repeat(300)).parse().unwrap()];
    let error = decode::<Ticket>(&encode(&ticket), 4096, "ticket").unwrap_err();
    assert!(
        matches!(
            error,
            DecodeError::TooLarge {
                what: "address",
                limit: 256,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn frames_round_trip_and_are_bounded() {
    for length in [0usize, 1, 127, 128, 300, 16_383, 16_384] {
        let framed = frame::encode(&vec![7; length]);
        for end in 0..=frame::PREFIX_BYTES_MAX.min(framed.len()) {
            match frame::decode_prefix(&framed[..end], length).unwrap() {
                Some((body, prefix)) => assert_eq!((body, prefix + body), (length, framed.len())),
                None => assert!(end < framed.len() - length),
            }
        }
        if length > 0 {
            let error = frame::decode_prefix(&framed, length - 1).unwrap_err();
            assert_eq!(
                error,
                DecodeError::TooLarge {
                    what: "frame",
                    limit: length - 1,
                    got: length
                }
            );
        }
    }
    assert!(
        frame::decode_prefix(&[0x80, 0x00], 10).is_err(),
        "a longer form of zero"
    );
    assert!(frame::decode_prefix(&[0xff; 9], 10).is_err(), "a prefix without end");
    assert_eq!(frame::decode_prefix(&[0xff; 4], 10), Ok(None));
}

/// Reads `bytes` as everything there is; what is accepted must survive being written and read again.
fn read_as_everything(bytes: &[u8]) {
    fn read<T: Wire + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
        if let Ok(value) = T::from_bytes(bytes) {
            let again = value.to_checked_bytes().expect("what was accepted can be sent");
            assert_eq!(T::from_bytes(&again).as_ref(), Ok(&value));
        }
    }
    read::<Hello>(bytes);
    read::<HelloReply>(bytes);
    read::<Message>(bytes);
    read::<Ticket>(bytes);
    read::<Certificate>(bytes);
    read::<Chain>(bytes);
    read::<Capability>(bytes);
    read::<CapabilityToken>(bytes);
    read::<Revocation>(bytes);
    read::<RevocationNotice>(bytes);
    read::<NodeRecord>(bytes);
    read::<AdmissionRequest>(bytes);
    read::<AdmissionReply>(bytes);
    read::<ControlRequest>(bytes);
    read::<ControlReply>(bytes);
    read::<CallMessage>(bytes);
    read::<CallResponse>(bytes);
    read::<QuestionReply>(bytes);
    read::<StreamFrame>(bytes);
    read::<crate::direct::DirectRequest>(bytes);
    read::<crate::direct::DirectReply>(bytes);
    read::<ServiceList>(bytes);
    if let Ok(frame) = Frame::read(bytes) {
        let again = frame.to_checked_bytes().expect("what was accepted can be sent");
        assert_eq!(Frame::read(&again).as_ref(), Ok(&frame));
    }
    read::<RepairRequest>(bytes);
    read::<crate::patterns::pub_sub::interest::Interest>(bytes);
    read::<crate::patterns::pub_sub::direct::DirectItem>(bytes);
    read::<crate::patterns::pub_sub::direct::DirectTaken>(bytes);
    read::<RepairReply>(bytes);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        read_as_everything(&bytes);
    }

    /// Closer to the real thing than noise: every sample with a few bytes changed, cut or repeated.
    #[test]
    fn damaged_messages_never_panic(
        sample in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let samples = crate::fixtures::samples();
        let mut bytes = samples[sample.index(samples.len())].bytes.clone();
        for (at, to) in changes {
            let at = at.index(bytes.len());
            bytes[at] = to;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        read_as_everything(&bytes);
    }

    #[test]
    fn any_frame_prefix_is_total(bytes in prop::collection::vec(prop_oneof![0u8..3, 0x80u8..0x83], 1..8), limit in 0usize..70_000) {
        if let Ok(Some((length, prefix))) = frame::decode_prefix(&bytes, limit) {
            prop_assert!(length <= limit);
            prop_assert_eq!(&frame::encode(&vec![0; length])[..prefix], &bytes[..prefix], "one length, one prefix");
        }
    }
}
