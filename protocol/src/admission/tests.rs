use super::*;
use crate::revocation::tests::notice;
use crate::testing::*;

#[test]
fn a_request_has_a_proper_name_and_agent() {
    let ask = |name: &str, agent: &str| {
        let request = AdmissionRequest::Ask {
            mesh: Some(mesh()),
            name: name.to_owned(),
            agent: agent.to_owned(),
        };
        AdmissionRequest::from_bytes(&request.to_bytes()).map(|read| assert_eq!(read, request))
    };
    assert_eq!(ask("kitchen", "weft/0.1.0 (linux)"), Ok(()));
    assert!(
        ask("Kitchen", "weft")
            .unwrap_err()
            .to_string()
            .starts_with("name is invalid")
    );
    assert!(
        ask("kitchen", "weft\u{1b}[2J")
            .unwrap_err()
            .to_string()
            .starts_with("agent is invalid")
    );
    assert!(
        ask("kitchen", &"w".repeat(129))
            .unwrap_err()
            .to_string()
            .starts_with("agent is too large")
    );
}

#[test]
fn the_secret_of_a_ticket_is_not_logged() {
    let secret = crate::TicketSecret::from_bytes([0xab; 16]);
    let shown = format!("{secret:?} {:?}", secret.key());
    assert_eq!(shown, "TicketSecret(…) TicketKey(…)");
}

#[test]
fn a_reply_with_notices_is_bounded() {
    let with = |count: usize| AdmissionReply::Revocations {
        notices: vec![notice(); count],
        more: true,
    };
    assert!(with(50).to_checked_bytes().is_ok());
    let error = with(100).to_checked_bytes().unwrap_err();
    assert!(
        matches!(
            error,
            DecodeError::TooLarge {
                what: "admission reply",
                ..
            }
        ),
        "{error:?}"
    );
    let error = with(513).to_checked_bytes().unwrap_err();
    assert!(
        matches!(
            error,
            DecodeError::TooLarge {
                what: "revocation notices",
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn every_refusal_has_a_word_and_keeps_its_code() {
    use AdmissionRefusal::*;
    let all = [
        WrongMesh, NotMember, Revoked, Expired, BadTicket, UsedTicket, NotIssuer, Busy, Malformed, ClockSkew, Version,
    ];
    for (code, refusal) in all.into_iter().enumerate() {
        assert_eq!(crate::codec::encode(&refusal), [code as u8]);
        assert_eq!(
            serde_json::to_string(&refusal).unwrap(),
            format!("\"{}\"", refusal.as_str())
        );
    }
}
