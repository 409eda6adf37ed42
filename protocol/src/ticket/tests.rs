use proptest::prelude::*;

use super::*;
use crate::testing::*;

pub(crate) fn ticket() -> Ticket {
    Ticket {
        version: TICKET_VERSION,
        mesh: mesh(),
        root: public(ROOT),
        issuer: public(FOUNDER),
        addresses: vec![
            "/ip4/192.0.2.1/udp/4001/quic-v1".parse().unwrap(),
            "/dns/a.example/tcp/4001".parse().unwrap(),
        ],
        secret: TicketSecret::from_bytes([0xab; 16]),
        role: String::from("worker"),
        not_after_ms: NOW_MS + DAY_MS,
    }
}

#[test]
fn a_ticket_survives_being_copied() {
    let text = ticket().to_string();
    assert!(
        text.starts_with("weft1")
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    );
    assert_eq!(Ticket::from_text(&text), Ok(ticket()));
    assert_eq!(text.to_ascii_uppercase().parse(), Ok(ticket()));
    let (left, right) = text.split_at(40);
    assert_eq!(Ticket::from_text(&format!("  {left}\r\n\t{right}\n")), Ok(ticket()));
}

#[test]
fn every_wrong_character_is_detected() {
    let text = ticket().to_string();
    for at in 0..text.len() {
        for other in "abcdefghijklmnopqrstuvwxyz234567"
            .chars()
            .filter(|c| text.as_bytes()[at] != *c as u8)
        {
            let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            assert!(
                Ticket::from_text(&changed).is_err(),
                "character {at} changed to {other}"
            );
        }
        assert!(
            Ticket::from_text(&format!("{}{}", &text[..at], &text[at + 1..])).is_err(),
            "character {at} lost"
        );
        assert!(
            Ticket::from_text(&format!("{}a{}", &text[..at], &text[at..])).is_err(),
            "a character more at {at}"
        );
        if text.as_bytes().get(at) != text.as_bytes().get(at + 1) && at + 1 < text.len() {
            let (a, b) = (&text[at..=at], &text[at + 1..at + 2]);
            let swapped = format!("{}{b}{a}{}", &text[..at], &text[at + 2..]);
            assert!(
                Ticket::from_text(&swapped).is_err(),
                "characters {at} and the next swapped"
            );
        }
    }
}

#[test]
fn a_ticket_is_consistent_and_bounded() {
    let refused = |change: &dyn Fn(&mut Ticket)| {
        let mut ticket = ticket();
        change(&mut ticket);
        Ticket::from_bytes(&ticket.to_bytes()).unwrap_err()
    };
    assert!(
        refused(&|t| t.root = public(9))
            .to_string()
            .contains("does not belong to its root")
    );
    assert!(
        refused(&|t| t.role = String::from("No"))
            .to_string()
            .starts_with("role is invalid")
    );
    assert_eq!(
        refused(&|t| t.version = 2),
        DecodeError::Version {
            what: "ticket",
            supported: 1,
            got: 2
        }
    );
    refused(&|t| t.addresses = vec!["/ip4/192.0.2.1/tcp/1".parse().unwrap(); 17]);
    assert!(Ticket::from_text(&format!("weft1{}", "a".repeat(10_000))).is_err());
    for bad in ["", "weft1", "weft1a", "weftcap1aaaa", "weft1aaaaaaa", "weft10000000"] {
        assert!(Ticket::from_text(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn a_ticket_of_a_later_version_says_so() {
    let later = crate::codec::encode(&(2u16, "something else"));
    let text = crate::text::encode(TEXT_PREFIX, &later);
    assert_eq!(
        Ticket::from_text(&text),
        Err(DecodeError::Version {
            what: "ticket",
            supported: 1,
            got: 2
        })
    );
}

#[test]
fn a_ticket_expires() {
    let end_ms = NOW_MS + DAY_MS;
    assert_eq!(ticket().check_time(end_ms - 1), Ok(()));
    assert_eq!(
        ticket().check_time(end_ms),
        Err(TrustError::Expired {
            not_after_ms: end_ms,
            now_ms: end_ms
        })
    );
}

#[test]
fn the_secret_is_not_shown() {
    let shown = format!("{:?}", ticket());
    assert!(shown.contains("TicketSecret(…)") && !shown.contains("171") && !shown.to_lowercase().contains("abab"));
    assert_ne!(TicketSecret::from_bytes([1; 16]), TicketSecret::from_bytes([2; 16]));
    assert_eq!(ticket().secret.expose(), &[0xab; 16]);
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "(weft1)?[a-z2-7 ]{0,200}") {
        prop_assert!(Ticket::from_text(&text).is_err(), "a checksum of four bytes is not met by chance");
    }

    #[test]
    fn any_bytes_become_text_and_back(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let text = crate::text::encode("x1", &bytes);
        prop_assert_eq!(crate::text::decode("x1", &text, 100, "test"), Ok(bytes));
        prop_assert!(crate::text::decode("y1", &text.replace("x1", "y1"), 100, "test").is_err(), "the prefix is checked too");
    }
}

#[test]
fn a_redemption_is_good_for_one_key_and_one_issuer() {
    let ticket = ticket();
    let redemption = Redemption::new(&ticket, &public(4), "node-4", "weft/1", [6; 16]);
    let key = ticket.secret.key();
    assert!(redemption.is_proven(&key, &public(4)));
    assert_eq!(redemption.invitation, key.invitation());
    assert!(!redemption.is_proven(&key, &public(5)), "somebody else's key");
    assert!(!redemption.is_proven(&TicketSecret::from_bytes([1; 16]).key(), &public(4)));
    for change in [
        |r: &mut Redemption| r.mesh = MeshId::from_bytes([9; 32]),
        |r: &mut Redemption| r.issuer = public(5),
        |r: &mut Redemption| r.nonce[0] ^= 1,
        |r: &mut Redemption| r.proof[31] ^= 1,
    ] {
        let mut changed = redemption.clone();
        change(&mut changed);
        assert!(!changed.is_proven(&key, &public(4)), "{changed:?}");
    }
    let shown = format!("{redemption:?}");
    assert!(!shown.contains("171, 171"), "{shown}");
}
