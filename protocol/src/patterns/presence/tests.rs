use super::*;
use crate::limits::{ANNOUNCEMENT_BYTES_MAX, PRESENCES_MAX, WILL_BYTES_MAX};

fn presence(number: u64, will_bytes: Option<usize>) -> Presence {
    Presence {
        subject: "sensors.7".parse().unwrap(),
        number,
        since_ms: 1,
        will: will_bytes.map(|bytes| Will {
            subject: "alarms.7".parse().unwrap(),
            datacontenttype: None,
            data: vec![7; bytes],
        }),
    }
}

#[test]
fn presences_are_bounded_and_in_order() {
    let all = |list| Presences {
        epoch: 1,
        list,
        gone: Vec::new(),
    };
    let many = |count: usize| all((0..count as u64).map(|number| presence(number, None)).collect());
    assert!(many(PRESENCES_MAX).to_checked_bytes().is_ok());
    assert!(many(PRESENCES_MAX + 1).to_checked_bytes().is_err());
    assert!(all(vec![presence(1, Some(WILL_BYTES_MAX))]).to_checked_bytes().is_ok());
    assert!(
        all(vec![presence(1, Some(WILL_BYTES_MAX + 1))])
            .to_checked_bytes()
            .is_err()
    );
    let heavy = all((0..8).map(|number| presence(number, Some(WILL_BYTES_MAX))).collect());
    assert!(heavy.to_bytes().len() > ANNOUNCEMENT_BYTES_MAX && heavy.to_checked_bytes().is_err());
    assert!(
        all(vec![presence(2, None), presence(1, None)])
            .to_checked_bytes()
            .is_err()
    );
    assert!(
        all(vec![presence(1, None), presence(1, None)])
            .to_checked_bytes()
            .is_err()
    );
    let late = Presences {
        epoch: EPOCH_MAX,
        ..Presences::default()
    };
    assert!(late.to_checked_bytes().is_err());
    let mut odd = presence(1, Some(1));
    odd.will.as_mut().unwrap().datacontenttype = Some("text/\u{7}".into());
    assert!(all(vec![odd]).to_checked_bytes().is_err());
}
