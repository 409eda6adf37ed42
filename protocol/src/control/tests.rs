use super::*;
use crate::limits::MARKS_MAX;
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
fn the_most_marks_fit() {
    let key = public(3);
    let have = Have::new([7; 16], vec![(key, u64::MAX); MARKS_MAX + 1]);
    let request = ControlRequest::PullLacking { have };
    let bytes = request.to_checked_bytes().unwrap();
    assert_eq!(ControlRequest::from_bytes(&bytes), Ok(request));
}

#[test]
fn what_is_known_covers_what_is_as_old_and_nothing_else() {
    let keys: Vec<_> = (1..=50).map(public).collect();
    let have = Have::new([7; 16], keys[..40].iter().map(|key| (*key, 1_000)));
    for (number, key) in keys.iter().enumerate() {
        assert_eq!(have.covers(key, 1_000), number < 40);
        assert_eq!(have.covers(key, 1), number < 40);
        assert!(!have.covers(key, 1_001));
    }
    assert!(!Have::new([7; 16], []).covers(&keys[0], 0));
    // What does not fit is as late as anything can be.
    let have = Have::new([7; 16], [(keys[0], u64::MAX)]);
    assert!(have.covers(&keys[0], 1 << 48) && !have.covers(&keys[1], 1));
}

#[test]
fn marks_that_are_cut_off_or_out_of_order_are_malformed() {
    let ask = |marks: &[u8]| {
        let have = (
            minicbor::bytes::ByteArray::from([7; 16]),
            <&minicbor::bytes::ByteSlice>::from(marks),
        );
        ControlRequest::from_bytes(&crate::codec::encode(&(10u8, [have]))).map(|_| ())
    };
    let (first, second) = ([1; 12], [2; 12]);
    assert_eq!(ask(&[]), Ok(()));
    assert_eq!(ask(&[first, second].concat()), Ok(()));
    for wrong in [[second, first].concat(), first[..11].to_vec()] {
        let error = ask(&wrong).unwrap_err().to_string();
        assert!(error.contains("cut off or not in order"), "{error}");
    }
    let error = ask(&[first; MARKS_MAX + 1].concat()).unwrap_err().to_string();
    assert!(error.contains("known records is too large: 20001"), "{error}");
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
