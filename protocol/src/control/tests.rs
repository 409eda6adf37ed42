use super::*;
use crate::testing::*;

#[test]
fn pushed_records_are_bounded() {
    let record = forge(&record(3, member(3, &["worker"], &["pub:orders.>"])), 3);
    let push = |count: usize| ControlRequest::PushRecords {
        records: vec![record.clone(); count],
    };
    let read = ControlRequest::from_bytes(&push(100).to_checked_bytes().unwrap()).unwrap();
    assert_eq!(read, push(100));
    let error = push(500).to_checked_bytes().unwrap_err();
    assert!(
        matches!(
            error,
            DecodeError::TooLarge {
                what: "control request",
                ..
            }
        ),
        "{error:?}"
    );
    let error = push(513).to_checked_bytes().unwrap_err();
    assert!(
        matches!(error, DecodeError::TooLarge { what: "records", .. }),
        "{error:?}"
    );
}

#[test]
fn the_most_that_can_be_known_fits() {
    let have = vec![(public(3), u64::MAX); HAVE_MAX];
    let request = ControlRequest::PullRecords { have };
    let bytes = request.to_checked_bytes().unwrap();
    assert_eq!(ControlRequest::from_bytes(&bytes), Ok(request));
}

#[test]
fn known_keys_are_bounded_and_whole() {
    let read = |pair: (&minicbor::bytes::ByteSlice, u64)| {
        ControlRequest::from_bytes(&crate::codec::encode(&(2u8, [[pair]]))).map(|_| ())
    };
    assert_eq!(read((public(3).as_bytes()[..].into(), 1)), Ok(()));
    assert!(read((public(3).as_bytes()[..31].into(), 1)).is_err());
    let bare = crate::codec::encode(&(2u8, [[[1u8]]]));
    assert!(
        ControlRequest::from_bytes(&bare)
            .unwrap_err()
            .to_string()
            .contains("a pair")
    );
}

#[test]
fn an_unknown_question_is_malformed_and_not_a_panic() {
    let bytes = crate::codec::encode(&(6u8, [1u8, 2]));
    let error = ControlRequest::from_bytes(&bytes).unwrap_err();
    assert!(
        matches!(
            error,
            DecodeError::Malformed {
                what: "control request",
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn later_fields_are_ignored() {
    // [1, [after, something new]]
    let bytes = crate::codec::encode(&(1u8, (7u32, "new")));
    assert_eq!(
        ControlRequest::from_bytes(&bytes),
        Ok(ControlRequest::PullRevocations { after: 7 })
    );
}
